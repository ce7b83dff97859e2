// SPDX-License-Identifier: Apache-2.0
//! Regular files that have their name, devices, and what belongs to a descriptor.

exhibits![
    append_only,
    read_only,
    direct_io,
    status_flags,
    position_beyond_the_end,
    sparse_file,
    renamed,
    two_names_of_one_file,
    offset_shared_by_dup,
    offset_shared_by_fork,
    descriptor_numbers,
    owner_of_a_descriptor,
    devices,
    file_of_proc,
    file_in_a_bind => |row| row.bound(),
    file_in_a_tmpfs => |row| row.scratch(),
    file_in_shared_memory,
];
