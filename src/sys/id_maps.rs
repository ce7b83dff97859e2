// SPDX-License-Identifier: Apache-2.0
//! The id maps of a user namespace that nobody may be in: a child of ours joins it, and its `/proc` entry tells
//! (user_namespaces(7)).

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::fcntl::OFlag;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2};

/// What the kernel says of a user namespace: the texts of `uid_map`, `gid_map` and `setgroups`, with the outer ids as
/// this process sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMaps {
    /// Lines of three numbers: first id inside, first id outside, how many.
    pub uid_map: String,
    /// The same for groups.
    pub gid_map: String,
    /// Whether setgroups(2) is denied in it.
    pub setgroups_denied: bool,
}

impl IdMaps {
    /// Those of the user namespace of a process.
    ///
    /// # Errors
    /// `ENOENT` when the process is gone.
    pub fn of_process(pid: Pid) -> io::Result<Self> {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
        Ok(Self {
            uid_map: read("uid_map")?,
            gid_map: read("gid_map")?,
            setgroups_denied: read("setgroups")?.trim_end() == "deny",
        })
    }

    /// Those of the user namespace behind the descriptor.
    ///
    /// # Errors
    /// That of setns(2): `EPERM` without rights over it, `EINVAL` when it is ours or no user namespace.
    pub fn of_namespace(namespace: BorrowedFd<'_>) -> io::Result<Self> {
        let (said, says) = pipe2(OFlag::O_CLOEXEC)?;
        let (waited_for, ends) = pipe2(OFlag::O_CLOEXEC)?;
        let numbers = [namespace.as_raw_fd(), says.as_raw_fd(), waited_for.as_raw_fd(), ends.as_raw_fd()];
        // SAFETY: all-zero bytes are a valid clone_args.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.exit_signal = libc::SIGCHLD as u64;
        // SAFETY: the child goes straight into `join`, which makes raw calls on numbers and never returns.
        let child = unsafe { super::spawn::clone3(&args) };
        match child {
            0 => join(numbers),
            pid if pid < 0 => return Err(io::Error::last_os_error()),
            _ => {}
        }
        drop(says);
        let pid = Pid::from_raw(child as i32);
        let mut errno = [0; 4];
        let joined = io::Read::read_exact(&mut fs::File::from(said), &mut errno);
        let maps = joined.and_then(|()| match i32::from_le_bytes(errno) {
            0 => Self::of_process(pid),
            errno => Err(io::Error::from_raw_os_error(errno)),
        });
        drop(ends);
        while let Err(nix::errno::Errno::EINTR) = waitpid(pid, None) {}
        maps
    }
}

/// In the child: raw system calls only.
fn join([namespace, says, waited_for, ends]: [RawFd; 4]) -> ! {
    // SAFETY: each call takes integers, or reads or writes the array on this stack.
    unsafe {
        libc::close(ends);
        let failed = libc::setns(namespace, libc::CLONE_NEWUSER) != 0;
        let mut errno = if failed { *libc::__errno_location() } else { 0 }.to_le_bytes();
        libc::write(says, errno.as_ptr().cast(), errno.len());
        // Nobody writes: this ends when the caller has read the maps, or is gone.
        libc::read(waited_for, errno.as_mut_ptr().cast(), 1);
        libc::_exit(0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn our_own_namespace_cannot_be_joined_again() {
        let own = File::open("/proc/self/ns/user").expect("open");
        let error = IdMaps::of_namespace(own.as_fd()).expect_err("the kernel refuses");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        IdMaps::of_process(Pid::this()).expect("our own maps");
    }
}
