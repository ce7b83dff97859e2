// SPDX-License-Identifier: Apache-2.0
//! What can be set for mappings.

exhibits![
    protection_of_parts,
    content_that_is_not_accessible,
    stack_that_grows,
    locked_memory => |row| row.capabilities(&["CAP_IPC_LOCK"]),
    not_for_children,
    wiped_for_children,
    not_in_core_dumps,
    huge_pages_if_possible,
    no_huge_pages,
    no_huge_pages_for_the_process,
    pages_that_may_be_merged,
    read_ahead,
    name_of_a_mapping => |row| row.needs(&[criu_tests::Need::MappingNames]),
    guard_pages => |row| row.needs(&[criu_tests::Need::GuardPages]),
];
