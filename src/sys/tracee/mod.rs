// SPDX-License-Identifier: Apache-2.0
//! A descriptor of another process's memory (userfaultfd(2)), which only that process can make: one of its threads is stopped for a
//! moment and makes it, without noticing.
//!
//! ```text
//!  caller ── clone3 ─▶ a process of its own session: traces, calls, copies, lets go ─▶ the descriptor, in the shared table
//!     └─ waits, to a limit
//! ```
//! It is done by a clone because a tracer must not die between: who would kill the caller does not know it, and no signal to its group or
//! terminal reaches it. When it ends, in whatever way, the kernel lets go of the thread. It makes raw system calls only, since the
//! caller may have any number of threads.

mod errand;
mod failure;
mod ptrace;

pub use failure::{Failure, Step};

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::unistd::Pid;

use crate::sys::{pidfd, proc, spawn};
use errand::{Brought, Errand};

/// How long the clone may take besides the time in which the thread must stop: it has a few calls to make.
const GRACE: Duration = Duration::from_secs(5);

/// The thread that is to make the descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracee {
    /// Its id.
    pub thread: i32,
    /// That of its process.
    pub process: i32,
    /// The address of an instruction that makes a system call, see [`crate::sys::arch::CALL`].
    pub instruction: u64,
}

/// What it has made.
#[derive(Debug)]
pub struct Taken {
    /// The descriptor. It is of the memory of that process, and nothing was done with it yet.
    pub userfaultfd: OwnedFd,
    /// How long the thread did not run.
    pub stood: Duration,
}

/// What the clone leaves: a step of 0 for nothing yet.
#[derive(Default)]
struct Outcome {
    step: AtomicU32,
    errno: AtomicI32,
    number: AtomicI32,
    stood: AtomicU64,
}

const DONE: u32 = u32::MAX;

/// Has a thread make a userfaultfd, and takes it. The thread must have stopped after `limit`.
///
/// A call that it waits in goes on, or is made again; a wait for a length of time that the kernel would end with `EINTR` begins anew. On
/// `Err` it runs on as if nothing had been, and with [`Step::Section`] may be asked again at once; with [`Step::LetGo`] it may not have been let go yet, and will be.
///
/// # Errors
/// The step that failed.
pub fn take_userfaultfd(tracee: Tracee, limit: Duration) -> Result<Taken, Failure> {
    let started = |error: io::Error| Failure::of(Step::Start, &error);
    let process = pidfd::open(Pid::from_raw(tracee.process)).map_err(|e| Failure::of(Step::Gone, &e))?;
    let filtered = proc::is_filtered(tracee.thread).map_err(|e| Failure::of(Step::Gone, &e))?;
    let shared = Shared::new().map_err(started)?;
    let errand = Errand {
        pidfd: process.as_fd(),
        thread: tracee.thread,
        filtered,
        instruction: tracee.instruction,
        limit: Instant::now() + limit,
    };
    let clone = clone(&errand, shared.outcome()).map_err(started)?;
    let ended = pidfd::wait_ended(&clone.1, limit + GRACE).map_err(started)?;
    if !ended {
        // It ends by itself. Nobody knows when, so it is not waited for.
        return Err(Failure::new(Step::LetGo, libc::ETIMEDOUT));
    }
    reap(clone.0);
    let outcome = shared.outcome();
    match outcome.step.load(Ordering::Acquire) {
        DONE => {
            // SAFETY: the clone has made this descriptor in the table that it shared with this process, for us alone.
            let userfaultfd = unsafe { OwnedFd::from_raw_fd(outcome.number.load(Ordering::Relaxed)) };
            let stood = Duration::from_nanos(outcome.stood.load(Ordering::Relaxed));
            Ok(Taken { userfaultfd, stood })
        }
        step => {
            let failure = Failure::decode(step, outcome.errno.load(Ordering::Relaxed));
            // Who is on the way out may not be traced, and cannot be asked for registers; nothing but SIGKILL lets one go that stands.
            let gone = failure.errno == libc::ESRCH || has_ended(tracee.thread);
            Err(if gone { Failure::new(Step::Gone, libc::ESRCH) } else { failure })
        }
    }
}

fn has_ended(thread: i32) -> bool {
    !proc::Stat::of(Pid::from_raw(thread)).is_ok_and(|stat| !stat.ended() && !stat.exiting())
}

/// A page that a clone has in common with its parent.
struct Shared(*mut Outcome);

impl Shared {
    fn new() -> io::Result<Self> {
        let (both, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, where nothing is.
        let at = unsafe { libc::mmap(ptr::null_mut(), size_of::<Outcome>(), both, flags, -1, 0) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self(at.cast())) }
    }

    fn outcome(&self) -> &Outcome {
        // SAFETY: the mapping is aligned to a page, lives as long as `self`, and is zeros, which are valid atomics.
        unsafe { &*self.0 }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this size; nothing borrows from it any more. The clone has its own.
        unsafe { libc::munmap(self.0.cast(), size_of::<Outcome>()) };
    }
}

/// Clones this process for the errand: its pid and a descriptor of it. It has no exit signal, so that nobody who waits for just any child reaps it.
fn clone(errand: &Errand<'_>, outcome: &Outcome) -> io::Result<(i32, OwnedFd)> {
    let mut descriptor = -1;
    // SAFETY: all-zero bytes are a valid clone_args.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    // Both are bits of a positive number.
    args.flags = (libc::CLONE_FILES | libc::CLONE_PIDFD).unsigned_abs().into();
    args.pidfd = (&raw mut descriptor) as u64;
    let mut old = SigSet::empty();
    // A handler of the caller must not run in the child.
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut old))?;
    // SAFETY: the child, on a copy of this memory, goes straight into `work`, which makes raw system calls only and never returns.
    let pid = unsafe { spawn::clone3(&args) };
    if pid == 0 {
        work(errand, outcome);
    }
    let failed = io::Error::last_os_error();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&old), None)?;
    if pid < 0 {
        return Err(failed);
    }
    // SAFETY: the kernel has just made this descriptor, close-on-exec, for us alone.
    Ok((pid as i32, unsafe { OwnedFd::from_raw_fd(descriptor) }))
}

fn work(errand: &Errand<'_>, outcome: &Outcome) -> ! {
    // SAFETY: setsid takes nothing; the action is a valid one, in a table that is a copy. With another the kernel might not tell of stops.
    unsafe {
        libc::setsid();
        let action = MaybeUninit::<libc::sigaction>::zeroed();
        libc::sigaction(libc::SIGCHLD, action.as_ptr(), ptr::null_mut());
    }
    let step = match errand.run() {
        Ok(Brought { number, stood }) => {
            outcome.number.store(number, Ordering::Relaxed);
            outcome.stood.store(stood, Ordering::Relaxed);
            DONE
        }
        Err(failure) => {
            outcome.errno.store(failure.errno, Ordering::Relaxed);
            failure.step as u32
        }
    };
    outcome.step.store(step, Ordering::Release);
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(0) }
}

fn reap(pid: i32) {
    loop {
        // SAFETY: the status may be null; __WALL because the child has no exit signal.
        let waited = unsafe { libc::waitpid(pid, ptr::null_mut(), libc::__WALL) };
        if waited >= 0 || nix::errno::Errno::last() != nix::errno::Errno::EINTR {
            break;
        }
    }
}

#[cfg(test)]
pub(in crate::sys) mod tests;
