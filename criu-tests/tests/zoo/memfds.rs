// SPDX-License-Identifier: Apache-2.0
//! Files that never had a name.

exhibits![
    memfd,
    memfd_sealed,
    memfd_opened_twice,
    memfd_mapped_by_two_processes,
    memfd_that_is_closed,
    memfd_of_huge_pages => |row| row.needs(&[criu_tests::Need::HugePages]),
    memfd_mapped_privately,
    memfd_not_executable,
];
