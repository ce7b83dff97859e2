// SPDX-License-Identifier: Apache-2.0
//! A process that does nothing: it holds what only a process can hold open, a namespace or a cgroup's unit.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

/// The child. It waits until the pipe's other end is closed, which also happens when this process dies. Dropped, it is
/// gone and reaped.
#[derive(Debug)]
pub struct Holder {
    pid: libc::pid_t,
    lifeline: Option<OwnedFd>,
}

impl Holder {
    /// Clones the child with these namespaces. It makes raw system calls only.
    ///
    /// # Errors
    /// That of pipe2(2) or clone3(2).
    pub fn start(namespaces: CloneFlags) -> io::Result<Self> {
        let (reader, lifeline) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        // SAFETY: all-zero bytes are a valid clone_args. Without an exit signal nobody who waits for just any child of
        // this process reaps this one.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        // The flags of namespaces are not negative.
        args.flags = u64::try_from(namespaces.bits()).unwrap_or_default();
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

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.pid
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
    // A descriptor is not negative.
    let reader_number = reader.cast_unsigned();
    // What is open here, locks and ends of pipes, must not stay open because of this process. Before Linux 5.9 it does.
    //
    // SAFETY: close, close_range and read take numbers of this process's own table and a buffer on this stack; _exit
    // does not return. All signals are blocked, so read is not interrupted.
    unsafe {
        libc::close(lifeline);
        if reader_number > 0 {
            libc::syscall(libc::SYS_close_range, 0, reader_number - 1, 0);
        }
        libc::syscall(libc::SYS_close_range, reader_number + 1, u32::MAX, 0);
        libc::read(reader, byte.as_mut_ptr().cast(), 1);
        libc::_exit(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lives_until_it_is_dropped() {
        let holder = Holder::start(CloneFlags::empty()).expect("clone");
        let proc = format!("/proc/{}/fd", holder.pid());
        // Its ends of what is open here go before it waits; nothing else tells when.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while std::fs::read_dir(&proc).expect("it is there").count() != 1 {
            assert!(std::time::Instant::now() < deadline, "it keeps what it was given");
            std::thread::yield_now();
        }
        drop(holder);
        assert!(!std::path::Path::new(&proc).exists());
    }
}
