// SPDX-License-Identifier: Apache-2.0
//! System V IPC.

exhibits![
    shared_segment,
    shared_segment_of_two_processes,
    shared_segment_of_nobody,
    semaphores,
    messages,
    shared_segment_of_huge_pages => |row| row.needs(&[criu_tests::Need::HugePages]),
];
