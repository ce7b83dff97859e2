// SPDX-License-Identifier: Apache-2.0
//! What can be said of descriptors by plain numbers.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use nix::unistd::Pid;

use super::{check, new_fd, number};

/// fcntl(2) with an argument that is a number.
pub(in crate::zoo) fn fcntl(fd: &impl AsFd, command: i32, argument: i32) -> io::Result<i32> {
    // SAFETY: the commands that exhibits use take a number here.
    number(check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), command, argument) }.into())?)
}

/// `F_SETOWN_EX` and `F_GETOWN_EX`: kind (0 thread, 1 process, 2 group) and id.
pub(in crate::zoo) fn set_owner(fd: &impl AsFd, kind: i32, id: i32) -> io::Result<()> {
    const F_SETOWN_EX: i32 = 15;
    let owner = [kind, id];
    // SAFETY: `struct f_owner_ex` is these two numbers.
    check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), F_SETOWN_EX, owner.as_ptr()) }.into()).map(drop)
}

/// Who is told of a descriptor's readiness.
pub(in crate::zoo) fn owner(fd: &impl AsFd) -> io::Result<[i32; 2]> {
    const F_GETOWN_EX: i32 = 16;
    let mut owner = [0; 2];
    // SAFETY: as above, and it may be written to.
    check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), F_GETOWN_EX, owner.as_mut_ptr()) }.into())?;
    Ok(owner)
}

/// A descriptor of a process (pidfd_open(2)).
pub(in crate::zoo) fn pidfd(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    new_fd(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })
}

/// Sends a signal through such a descriptor; 0 only looks.
pub(in crate::zoo) fn signal_through(pidfd: &impl AsFd, signal: i32) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: plain numbers and no structure.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd(), signal, none, 0) })
        .map(drop)
}

/// Duplicates a descriptor to this number, which nothing may have.
pub(in crate::zoo) fn numbered(fd: &impl AsFd, wanted: i32, flags: i32) -> io::Result<OwnedFd> {
    let raw = fd.as_fd().as_raw_fd();
    // SAFETY: F_DUPFD takes the lowest free number from `wanted` on, so that no other descriptor is replaced.
    let new = new_fd(unsafe { libc::fcntl(raw, flags, wanted) }.into())?;
    if new.as_raw_fd() == wanted { Ok(new) } else { Err(io::ErrorKind::AlreadyExists.into()) }
}
