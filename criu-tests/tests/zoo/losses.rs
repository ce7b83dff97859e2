// SPDX-License-Identifier: Apache-2.0
//! What CRIU carries, but not all of it, and without a word. `docs/criu-limits.md` is for people.

losses![
    all_memory_locked "a new mapping is locked is false" => |row| row.capabilities(&["CAP_IPC_LOCK"]),
    event_counter_beyond_32_bits "counter is 5",
    event_semaphore "one is 3, must be 1",
    exclusive_terminal "exclusive is 0, must be 1",
    in_a_wait_for_a_futex "Interrupted system call",
    in_nanosleep "whole time: false",
    in_nanosleep_of_boot_time "whole time: false",
    in_poll "Interrupted system call",
    inotify_once "IN_IGNORED",
    inotify_with_unread_events "there is something to read is Some(false)",
    memory_locked_on_fault "kilobytes that are there is 256" => |row| row.capabilities(&["CAP_IPC_LOCK"]),
    merging_for_the_process "merging is on is 0, must be 1",
    messages_within_another_limit "limit is 16384, must be 100",
    notification_of_a_directory "signal is None",
    pending_signal_of_a_stopped_process "SIGUSR2 waits is 0",
    protection_keys "key is 0, must be 1" => |row| row.needs(&[criu_tests::Need::ProtectionKeys]),
    semaphores_to_be_undone "value after the end of who had added is [3], must be [0]",
    shared_segment_that_is_removed "key and mode is (0, 0), must be (0, 512)",
    timerfd_at_a_time_of_day "the timer is off by",
    timerfd_that_expires_meanwhile "the timer has stopped",
    udp_in_a_group "joined is false",
    udp_with_unread_datagrams "Resource temporarily",
    unix_datagrams_that_name_their_sender "sender is None",
    unix_name_of_the_peer "the peer's name is None",
];
