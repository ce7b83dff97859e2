// SPDX-License-Identifier: Apache-2.0
//! Descriptors of kinds that CRIU does not know.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;

use super::{check, new_fd};

/// A ring with this many entries.
pub(in crate::zoo) fn io_uring(entries: u32) -> io::Result<OwnedFd> {
    // `struct io_uring_params`, all zero but for what the kernel fills in.
    let mut parameters = [0u32; 30];
    // SAFETY: the structure has 120 bytes, lives, and may be written to.
    new_fd(unsafe { libc::syscall(libc::SYS_io_uring_setup, entries, parameters.as_mut_ptr()) })
}

/// userfaultfd(2), for faults of programs only, as everybody may have it.
pub(in crate::zoo) fn user_fault_descriptor() -> io::Result<OwnedFd> {
    const UFFD_USER_MODE_ONLY: i32 = 1;
    // SAFETY: plain numbers.
    new_fd(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | UFFD_USER_MODE_ONLY) })
}

/// memfd_secret(2).
pub(in crate::zoo) fn secret_memory() -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    new_fd(unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) })
}

/// perf_event_open(2): the processor time of this process.
pub(in crate::zoo) fn performance_counter() -> io::Result<OwnedFd> {
    // `struct perf_event_attr` of its first version: type 1 (software), size 64, the rest zero (configuration 0).
    let mut attributes = [0_u32; 16];
    (attributes[0], attributes[1]) = (1, 64);
    // SAFETY: the structure has the size that it tells.
    new_fd(unsafe { libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), 0, -1, -1, 8) })
}

/// landlock_create_ruleset(2), of rules about reading files.
pub(in crate::zoo) fn landlock_rules() -> io::Result<OwnedFd> {
    // `struct landlock_ruleset_attr` of its first version.
    let handled = 4_u64;
    // SAFETY: the structure has the size that is told.
    new_fd(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const handled, 8, 0) })
}

/// fsopen(2).
pub(in crate::zoo) fn file_system_context(kind: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: a string that lives, and a plain number.
    new_fd(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1) })
}

/// open_tree(2): a copy of a mount.
pub(in crate::zoo) fn detached_mount(at: &CStr) -> io::Result<OwnedFd> {
    const OPEN_TREE_CLONE: i32 = 1;
    let flags = libc::O_CLOEXEC | OPEN_TREE_CLONE;
    // SAFETY: a string that lives, and plain numbers.
    new_fd(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, at.as_ptr(), flags) })
}

/// A filter that lets everything through and asks about nothing, with its listener.
pub(in crate::zoo) fn seccomp_listener() -> io::Result<OwnedFd> {
    const SET_MODE_FILTER: u32 = 1;
    const NEW_LISTENER: u32 = 1 << 3;
    const ALLOW: u32 = 0x7fff_0000;
    let mut filter = [libc::sock_filter { code: 6, jt: 0, jf: 0, k: ALLOW }];
    let program = libc::sock_fprog { len: 1, filter: filter.as_mut_ptr() };
    // SAFETY: plain numbers; then a program of one instruction, which lives.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        new_fd(libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, NEW_LISTENER, &raw const program))
    }
}

/// timerfd_create(2) on `CLOCK_BOOTTIME_ALARM`.
pub(in crate::zoo) fn alarm_timer() -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    new_fd(unsafe { libc::timerfd_create(libc::CLOCK_BOOTTIME_ALARM, libc::TFD_CLOEXEC) }.into())
}
