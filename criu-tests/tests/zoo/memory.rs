// SPDX-License-Identifier: Apache-2.0
//! Mappings of all kinds.

exhibits![
    shared_anonymous,
    shared_anonymous_of_grandchildren,
    private_with_holes,
    private_of_parent_and_child,
    mapping_that_was_moved,
    mapping_with_unmapped_middle,
    huge_empty_mapping,
    data_segment,
    code_made_at_run_time,
    private_file_with_changes,
    shared_file,
    shared_file_without_a_name,
    private_file_behind_its_end,
    huge_pages_private => |row| row.needs(&[criu_tests::Need::HugePages]),
    huge_pages_shared => |row| row.needs(&[criu_tests::Need::HugePages]),
    functions_of_the_kernel,
    asynchronous_reads,
    asynchronous_reads_that_are_done,
    zero_device,
    what_the_kernel_told_at_the_start,
    mapping_that_changes_all_the_time,
];
