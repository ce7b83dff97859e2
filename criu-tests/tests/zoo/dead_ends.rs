// SPDX-License-Identifier: Apache-2.0
//! What CRIU dumps and does not restore, each with the line of its log. `docs/criu-limits.md` is for people.

dead_ends![
    address_that_nobody_has "Can't bind inet socket",
    tcp_that_both_have_closed "Can't restore not-sent send queue data" => |row| row.flags(&["--tcp-established"]),
    tcp_that_is_closed_with_bytes_to_send "Can't restore not-sent send queue data" => |row| row.flags(&["--tcp-established"]),
    timer_of_a_thread "Can't create posix timer - 0",
];
