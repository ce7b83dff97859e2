// SPDX-License-Identifier: Apache-2.0
//! What CRIU does not carry of a process's attributes, as [`losses`](crate::losses).

losses![
    personality "must be \"260000 2.6.\"",
    zombie_with_high_code "must be Exited(",
];
