// SPDX-License-Identifier: Apache-2.0
//! Descriptors that tell of events.

exhibits![
    epoll_level,
    epoll_edge,
    epoll_once,
    epoll_nested,
    epoll_of_a_duplicate,
    event_counter,
    signal_descriptor,
    process_descriptor,
    descriptor_of_a_dead_process,
    inotify_directory,
    inotify_file,
    fanotify_file => |row| row.capabilities(&["CAP_SYS_ADMIN"]),
    fanotify_mount => |row| row.capabilities(&["CAP_SYS_ADMIN"]).scratch(),
    event_counter_of_two_processes,
    epoll_of_two_processes,
];
