// SPDX-License-Identifier: Apache-2.0
//! What the clone does: has a thread stop, makes two calls in its place, and lets go of it as it was.
//!
//! ```text
//!  seize · interrupt ─▶ it stands on its way out of the kernel ─▶ userfaultfd() in its place ─▶ the descriptor is copied
//!    ─▶ close() in its place ─▶ interrupt: it stands where it stood ─▶ its own registers and signals ─▶ let go
//! ```
//! It stands at the same place twice because there, and nowhere else, the kernel looks whether a call that was interrupted is to be made
//! again. All its signals are blocked between, so that none is handled on registers that are not its own; they wait.
//!
//! Until its registers are changed everything can be given up at each moment. Afterwards nothing is, but that a thread which does not come to
//! the call gets its own registers back: it is seen through, however long that takes. Nothing here allocates, locks or unwinds.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Instant;

use super::failure::{Failure, Step};
use super::ptrace::{Stop, Traced};
use crate::sys::arch::{self, Registers};
use crate::sys::remote_memory;

/// `UFFD_USER_MODE_ONLY`: who has no rights may make one of these, and for writes that are only noted there is no difference.
const USER_MODE_ONLY: i32 = 1;

/// The signals that stop a process. They cannot all be blocked, and stopping does no harm.
const STOPPING: [i32; 4] = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// What is to be done.
pub(super) struct Errand<'a> {
    /// The process of the thread.
    pub(super) pidfd: BorrowedFd<'a>,
    pub(super) thread: i32,
    /// Whether it has filters for its system calls.
    pub(super) filtered: bool,
    /// The address of an instruction that makes a system call.
    pub(super) instruction: u64,
    /// When it must have stopped.
    pub(super) limit: Instant,
}

/// A descriptor in the table that the clone shares with its parent, and for how many nanoseconds the thread stood.
pub(super) struct Brought {
    pub(super) number: i32,
    pub(super) stood: u64,
}

impl Errand<'_> {
    pub(super) fn run(&self) -> Result<Brought, Failure> {
        let traced = Traced::seize(self.thread, self.filtered)?;
        let begin = Instant::now();
        traced.interrupt()?;
        // A signal that was on its way is handled first; the thread stops again before it has done anything for it.
        stand(&traced, Some(self.limit))?;
        if traced.dispatches() {
            return Err(Failure::new(Step::Dispatch, 0));
        }
        self.expect_an_instruction()?;
        let own = traced.registers()?;
        if self.is_in_a_section(&traced, arch::position(&own)) {
            return Err(Failure::new(Step::Section, 0));
        }
        let blocked = traced.blocked()?;
        traced.block(u64::MAX)?;
        let brought = self.bring(&traced, &own);
        let back = stand_again(&traced)
            .and_then(|()| traced.set_registers(&arch::undisturbed(&own)))
            .and_then(|()| traced.block(blocked))
            .and_then(|()| traced.detach());
        let stood = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        match (brought, back) {
            (Ok(number), Ok(())) => Ok(Brought { number, stood }),
            (Ok(number), Err(failure)) => {
                close(number);
                Err(failure)
            }
            (Err(failure), _) => Err(failure),
        }
    }

    fn expect_an_instruction(&self) -> Result<(), Failure> {
        let mut there = [0; arch::CALL.len()];
        let range = self.instruction..self.instruction.saturating_add(arch::CALL.len() as u64);
        let read = remote_memory::read(self.thread, &[range], &mut there);
        let whole = read.is_ok_and(|read| read == there.len());
        if whole && there == arch::CALL { Ok(()) } else { Err(Failure::new(Step::Instruction, 0)) }
    }

    /// Whether it stands in a section that the kernel begins again for whoever was interrupted in it (rseq(2)). The kernel looks where the
    /// thread is when it goes on, which must not be where a call was made in its place. Such a section is a few instructions long.
    fn is_in_a_section(&self, traced: &Traced, position: u64) -> bool {
        let word = |address: u64| -> Option<u64> {
            let mut bytes = [0; 8];
            let range = address..address.checked_add(8)?;
            let read = remote_memory::read(self.thread, std::slice::from_ref(&range), &mut bytes).ok()?;
            (read == bytes.len()).then(|| u64::from_ne_bytes(bytes))
        };
        let area = traced.restartable();
        // `rseq_cs` of `struct rseq`, then `start_ip` and `post_commit_offset` of `struct rseq_cs`.
        let section = || {
            let section = word(area.checked_add(8)?)?;
            if section == 0 {
                return None;
            }
            Some((word(section.checked_add(8)?)?, word(section.checked_add(16)?)?))
        };
        area != 0 && section().is_some_and(|(start, length)| position.wrapping_sub(start) < length)
    }

    /// Makes the descriptor, takes a copy of it and closes it there.
    fn bring(&self, traced: &Traced, own: &Registers) -> Result<i32, Failure> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY;
        let made = self.call(traced, own, libc::SYS_userfaultfd, [u64::from(flags.unsigned_abs()), 0])?;
        // A descriptor's number.
        let there = made as i32;
        // SAFETY: pidfd_getfd takes three integers.
        let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.pidfd.as_raw_fd(), there, 0) };
        let errno = nix::errno::Errno::last_raw();
        let closed = self.call(traced, own, libc::SYS_close, [made, 0]);
        match (i32::try_from(copy), closed) {
            (Ok(number), Ok(_)) if number >= 0 => Ok(number),
            (Ok(number), Err(failure)) => {
                close(number);
                Err(failure)
            }
            _ => Err(Failure::new(Step::Copy, errno)),
        }
    }

    /// Waits until it has come to the beginning of its call. It does not while it is in a frozen cgroup (v2), where it can be stopped and
    /// goes nowhere: then it is given up in time.
    fn reach_call(&self, traced: &Traced) -> Result<(), Failure> {
        match wait_for_call(traced, Some(self.limit)) {
            Err(failure) if failure.step == Step::Stop => {
                traced.interrupt()?;
                match traced.wait(None)? {
                    // It came to it after all.
                    Stop::Call => Ok(()),
                    _ => Err(failure),
                }
            }
            reached => reached,
        }
    }

    /// Makes one call in its place. What it returned, if that is no error.
    fn call(
        &self,
        traced: &Traced,
        own: &Registers,
        number: libc::c_long,
        arguments: [u64; 2],
    ) -> Result<u64, Failure> {
        traced.set_registers(&arch::calling(own, self.instruction, number, arguments))?;
        traced.to_call(0)?;
        self.reach_call(traced)?;
        traced.to_call(0)?;
        wait_for_call(traced, None)?;
        let result = arch::result(&traced.registers()?);
        u64::try_from(result)
            .map_err(|_| Failure::new(Step::Call, i32::try_from(-result).unwrap_or(libc::EIO)))
    }
}

/// Waits until it stands where it was asked to. Signals that come first are given to it.
fn stand(traced: &Traced, limit: Option<Instant>) -> Result<(), Failure> {
    loop {
        match traced.wait(limit)? {
            Stop::Asked => return Ok(()),
            Stop::Call => traced.go_on(0)?,
            Stop::Signal(signal) => traced.go_on(signal)?,
        }
    }
}

/// Has it stand there once more, coming from a call or from a signal that was not given to it.
fn stand_again(traced: &Traced) -> Result<(), Failure> {
    traced.interrupt()?;
    // Where it does not stand it needs not be let go on.
    let _ = traced.go_on(0);
    stand(traced, None)
}

/// Waits until it stands before a call or after it.
fn wait_for_call(traced: &Traced, limit: Option<Instant>) -> Result<(), Failure> {
    loop {
        match traced.wait(limit)? {
            Stop::Call => return Ok(()),
            Stop::Asked => traced.to_call(0)?,
            Stop::Signal(signal) if STOPPING.iter().any(|stopping| *stopping as usize == signal) => {
                traced.to_call(signal)?;
            }
            // Nothing else can come but what the instruction itself brings about.
            Stop::Signal(_) => return Err(Failure::new(Step::Instruction, 0)),
        }
    }
}

fn close(number: i32) {
    // SAFETY: the descriptor was made here, and nobody else knows its number.
    unsafe { libc::close(number) };
}
