// SPDX-License-Identifier: Apache-2.0
//! Users, groups and capabilities, different from process to process.

use criu_tests::{Bundle, Host};

/// CRIU does not dump a process of another user without `CAP_SYS_RESOURCE`, unless it is in a user namespace.
fn in_user_namespace(_: &Host, bundle: Bundle) -> Bundle {
    bundle.in_user_namespace(100_000, 65_536)
}

exhibits![
    capability_sets,
    ambient_capabilities,
    bounding_set => |row| row.capabilities(&["CAP_SETPCAP", "CAP_CHOWN"]),
    user_and_groups => |row| row.capabilities(&["CAP_SETUID", "CAP_SETGID"]).bundle(in_user_namespace),
    file_system_user => |row| row.capabilities(&["CAP_SETUID"]).bundle(in_user_namespace),
];
