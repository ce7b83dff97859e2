// SPDX-License-Identifier: Apache-2.0
//! What CRIU dumps and does not restore, each with the line of its log. `docs/criu-limits.md` is for people.

dead_ends![
    address_that_nobody_has "Can't bind inet socket",
    timer_of_a_thread "Can't create posix timer - 0",
];
