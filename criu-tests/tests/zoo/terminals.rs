// SPDX-License-Identifier: Apache-2.0
//! Pseudoterminals whose both ends are in the container.

exhibits![
    terminal_pair,
    several_terminals,
    terminal_that_nobody_has_opened,
    locked_terminal,
    terminal_of_packets,
    terminal_settings,
    controlling_terminal,
    terminal_with_unread_data,
    terminal_of_two_processes,
];
