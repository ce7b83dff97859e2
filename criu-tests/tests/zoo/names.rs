// SPDX-License-Identifier: Apache-2.0
//! Files and directories that have lost their names, and descriptors that are no more than names.

exhibits![
    unlinked,
    unlinked_and_sparse,
    unlinked_of_two_processes,
    unlinked_with_another_name => |row| row.checkpoint(&["--link-remap"]),
    unlinked_and_replaced,
    file_in_a_removed_directory,
    directory_with_position,
    removed_directory,
    removed_working_directory,
    working_directories,
    changed_root => |row| row.capabilities(&["CAP_SYS_CHROOT"]),
    path_only,
    path_of_a_symlink,
    named_fifo,
    removed_fifo,
    unlinked_in_a_bind => |row| row.bound(),
    unlinked_in_a_tmpfs => |row| row.scratch(),
    shared_memory_without_a_name,
    file_that_never_had_a_name,
    directory_of_a_tmpfs => |row| row.scratch(),
];
