// SPDX-License-Identifier: Apache-2.0
//! What CRIU does not carry of a process's attributes, as [`losses`](crate::losses).

losses![
    core_dump_filter "must be \"0000007d\"",
    personality "must be \"260000 2.6.\"",
    zombie_with_high_code "must be Exited(",
    processors "must be \"0\"",
    io_priority "must be \"24576\"",
    timer_slack "must be \"123456\"",
];
