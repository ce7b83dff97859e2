// SPDX-License-Identifier: Apache-2.0
//! What CRIU does not carry, each with the line of CRIU's log that says so. `docs/criu-limits.md` is for people.

limits![
    io_uring "send_fds failed (-22)",
    user_fault_descriptor "anon_inode:[userfaultfd]",
    secret_memory "Unknown shit",
    message_queue "path=/exhibit",
    message_queue_that_is_closed "mqueue isn't empty",
    // Debian allows it to nobody with less than CAP_SYS_ADMIN (`kernel.perf_event_paranoid` is 3).
    performance_counter "anon_inode:[perf_event]" => |row| row.capabilities(&["CAP_SYS_ADMIN"]),
    landlock_rules "anon_inode:[landlock-ruleset]",
    file_system_context "anon_inode:[fscontext]" => |row| row.capabilities(&["CAP_SYS_ADMIN"]),
    detached_mount "Can't lookup mount" => |row| row.capabilities(&["CAP_SYS_ADMIN"]).scratch(),
    seccomp_listener "anon_inode:seccomp notify",
    timerfd_that_wakes_the_machine "Unknown clock type 9" => |row| row.capabilities(&["CAP_WAKE_ALARM"]),
    pipe_of_packets "The packetized mode for pipes is not supported yet",
    unix_connection_that_waits_with_data "Non-empty write queue on an in-flight socket",
    vsock_socket "(family 40",
];

#[test]
fn each_is_documented() {
    let text = include_str!("../../../docs/criu-limits.md");
    let row = |name: &str| {
        let quoted = format!("`{name}`");
        let row = text.lines().find(|line| line.starts_with('|') && line.contains(&quoted));
        row.unwrap_or_else(|| panic!("docs/criu-limits.md has no row of {name}"))
    };
    for (name, said) in SAID.iter().chain(crate::limits_processes::SAID).chain(crate::dead_ends::SAID) {
        assert!(row(name).contains(said), "{said:?} is not in the row of {name}: {}", row(name));
    }
    for (name, _) in crate::losses::FOUND.iter().chain(crate::losses_processes::FOUND) {
        row(name);
    }
}
