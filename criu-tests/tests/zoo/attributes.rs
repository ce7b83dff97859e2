// SPDX-License-Identifier: Apache-2.0
//! What prctl(2) and its relatives set for one process.

use std::fs;

use criu_tests::{Bundle, Host};
use serde_json::{Value, json};

fn may_get_privileges(config: &mut Value) {
    config["process"]["noNewPrivileges"] = json!(false);
}

/// CRIU's own file of options allows deleted files as large as the program.
fn large_deleted_files(host: &Host, bundle: Bundle) -> Bundle {
    let options = host.path("criu.conf");
    fs::write(&options, "ghost-limit 256M\n").expect("write CRIU's options");
    bundle.edit(|config| config["annotations"] = json!({"org.criu.config": options}))
}

exhibits![
    process_name,
    not_dumpable,
    no_new_privileges => |row| row.config(may_get_privileges),
    keep_capabilities,
    secure_bits => |row| row.capabilities(&["CAP_SETPCAP"]),
    execution_umask,
    oom_score,
    resource_limits,
    membarrier,
    executable,
    deleted_executable => |row| row.bundle(large_deleted_files),
    command_line,
    core_dump_filter,
];
