// SPDX-License-Identifier: Apache-2.0
//! Processes that CRIU does not carry, as [`limits`](crate::limits).

limits![
    traced "Unseizable non-zombie",
    dead_first_thread "Zombies with threads are not supported",
    waiting_for_vfork "Timeout reached. Try to interrupt" => |row| row.checkpoint(&["--timeout", "1"]),
    shared_file_system_information "Can't make FS id for" => |row| row.capabilities(&["CAP_SYS_PTRACE"]),
    own_host_name "Can't dump nested uts namespace for" => |row| row.capabilities(&["CAP_SYS_ADMIN"]),
    own_ipc "Can't dump nested ipc namespace for" => |row| row.capabilities(&["CAP_SYS_ADMIN"]),
    own_users "Can't dump nested user namespace for" => |row| row.capabilities(&["CAP_SYS_ADMIN"]),
];
