// SPDX-License-Identifier: Apache-2.0
//! Locks and leases, which CRIU dumps when it is told to.

use crate::row::Row;

fn locked(row: Row) -> Row {
    row.flags(&["--file-locks"])
}

exhibits![
    flock_exclusive => locked,
    flock_shared => locked,
    flock_of_two_processes => locked,
    posix_write_lock => locked,
    posix_read_lock => locked,
    posix_locks_of_ranges => locked,
    open_file_write_lock => locked,
    open_file_read_lock => locked,
    lease_to_read => locked,
    lease_to_write => locked,
    lease_that_a_reader_breaks => locked,
    lease_that_a_writer_breaks => locked,
    lease_to_read_that_is_broken => locked,
    waiting_for_a_lock => locked,
    lock_that_a_child_holds => locked,
];
