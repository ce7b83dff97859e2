// SPDX-License-Identifier: Apache-2.0
//! A user namespace that nobody is in: all that is wanted of it is its mapping, for mount_setattr(2).
//!
//! A namespace lives as long as something refers to it, and only a process can make one. So a child is cloned into a
//! new one, its maps are written, the namespace is opened, and the child ends. The child makes raw system calls only.

#![allow(unsafe_code)]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

/// A range of ids: `size` of them, from `inside` in the namespace and from `outside` in the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first id inside.
    pub inside: u32,
    /// The first id outside.
    pub outside: u32,
    /// How many.
    pub size: u32,
}

/// A user namespace with these maps.
///
/// # Errors
/// That of clone3(2): `ENOSPC` or `EUSERS` over a limit; that of writing the maps: `EINVAL` for ranges that overlap or
/// are too many, `EPERM` without the privilege to map them.
pub fn user_namespace(uids: &[IdRange], gids: &[IdRange]) -> io::Result<OwnedFd> {
    let holder = Holder::start()?;
    let directory = format!("/proc/{}", holder.pid);
    fs::write(format!("{directory}/uid_map"), text(uids))?;
    fs::write(format!("{directory}/gid_map"), text(gids))?;
    File::open(format!("{directory}/ns/user")).map(OwnedFd::from)
}

/// The lines of `/proc/PID/uid_map` (user_namespaces(7)).
fn text(ranges: &[IdRange]) -> String {
    ranges.iter().fold(String::new(), |mut text, IdRange { inside, outside, size }| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{inside} {outside} {size}");
        text
    })
}

/// The child. It waits until the pipe's other end is closed, which also happens when this process dies.
struct Holder {
    pid: libc::pid_t,
    lifeline: Option<OwnedFd>,
}

impl Holder {
    fn start() -> io::Result<Self> {
        let (reader, lifeline) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        // SAFETY: all-zero bytes are a valid clone_args. Without an exit signal nobody who waits for just any child of
        // this process reaps this one.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = libc::CLONE_NEWUSER as u64;
        let mut old = SigSet::empty();
        // A handler of the caller must not run in the child.
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut old))?;
        // SAFETY: the child, on a copy of this memory, goes straight into `wait_for_the_end`, which makes raw system
        // calls only and never returns.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
        if pid == 0 {
            wait_for_the_end(reader.as_raw_fd(), lifeline.as_raw_fd());
        }
        let failed = io::Error::last_os_error();
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&old), None)?;
        if pid < 0 {
            return Err(failed);
        }
        Ok(Self { pid: pid as libc::pid_t, lifeline: Some(lifeline) })
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        loop {
            // SAFETY: the status may be null; __WALL because the child has no exit signal.
            let waited = unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL) };
            if waited >= 0 || Errno::last() != Errno::EINTR {
                break;
            }
        }
    }
}

fn wait_for_the_end(reader: RawFd, lifeline: RawFd) -> ! {
    let mut byte = [0_u8; 1];
    // SAFETY: close and read take a number of this process's own table and a buffer on this stack; _exit does not
    // return. All signals are blocked, so read is not interrupted.
    unsafe {
        libc::close(lifeline);
        libc::read(reader, byte.as_mut_ptr().cast(), 1);
        libc::_exit(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT_ONLY: &[IdRange] = &[IdRange { inside: 0, outside: 100_000, size: 10 }];

    #[test]
    fn maps_are_lines() {
        let ranges =
            [IdRange { inside: 0, outside: 1000, size: 1 }, IdRange { inside: 5, outside: 7, size: 9 }];
        assert_eq!(text(&ranges), "0 1000 1\n5 7 9\n");
    }

    #[test]
    fn a_namespace_outlives_the_child_that_made_it() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let namespace = user_namespace(ROOT_ONLY, ROOT_ONLY).expect("a namespace");
        let name = fs::read_link(super::super::fd::proc_path(std::os::fd::AsFd::as_fd(&namespace)))
            .expect("its name");
        assert!(name.to_string_lossy().starts_with("user:["), "{name:?}");
        assert_ne!(name, fs::read_link("/proc/self/ns/user").expect("ours"));
    }

    #[test]
    fn a_bad_map_is_an_error_and_leaves_no_child() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let twice = [ROOT_ONLY[0], ROOT_ONLY[0]];
        let error = user_namespace(&twice, ROOT_ONLY).expect_err("the ranges overlap");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
