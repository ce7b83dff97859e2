// SPDX-License-Identifier: Apache-2.0
//! The system calls that exhibits need and nix does not give safely. Nothing else of the zoo has unsafe code.
#![allow(unsafe_code)]

pub(in crate::zoo) mod files;
pub(in crate::zoo) mod futex;
pub(in crate::zoo) mod ipc;
pub(in crate::zoo) mod limits;
pub(in crate::zoo) mod memory;
pub(in crate::zoo) mod net;
pub(in crate::zoo) mod process;
pub(in crate::zoo) mod registers;
pub(in crate::zoo) mod seccomp;
pub(in crate::zoo) mod signals;
pub(in crate::zoo) mod terminals;
pub(in crate::zoo) mod timers;

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

/// The result of a system call that gives a number.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The result of a system call that makes a descriptor. Call it once for each.
fn new_fd(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: by this function's contract the kernel has just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A result that is an `int` of the kernel's.
fn number(result: libc::c_long) -> io::Result<i32> {
    i32::try_from(result).map_err(io::Error::other)
}
