// SPDX-License-Identifier: Apache-2.0
//! Descriptors of kinds that CRIU does not know.

use std::io;
use std::os::fd::OwnedFd;

use super::new_fd;

/// A ring with this many entries.
pub(in crate::zoo) fn io_uring(entries: u32) -> io::Result<OwnedFd> {
    // `struct io_uring_params`, all zero but for what the kernel fills in.
    let mut parameters = [0u32; 30];
    // SAFETY: the structure has 120 bytes, lives, and may be written to.
    new_fd(unsafe { libc::syscall(libc::SYS_io_uring_setup, entries, parameters.as_mut_ptr()) })
}
