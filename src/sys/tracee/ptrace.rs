// SPDX-License-Identifier: Apache-2.0
//! ptrace(2) of one thread, as raw system calls that neither allocate nor lock: a clone of a program with threads makes them.

use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::failure::{Failure, Step};
use crate::sys::arch::Registers;

// linux/ptrace.h; the C libraries disagree about their type.
const CONTINUE: libc::c_uint = 7;
const DETACH: libc::c_uint = 17;
const CONTINUE_TO_CALL: libc::c_uint = 24;
const SEIZE: libc::c_uint = 0x4206;
const INTERRUPT: libc::c_uint = 0x4207;
const GET_REGISTERS: libc::c_uint = 0x4204;
const SET_REGISTERS: libc::c_uint = 0x4205;
const GET_MASK: libc::c_uint = 0x420a;
const SET_MASK: libc::c_uint = 0x420b;
const GET_RSEQ: libc::c_uint = 0x420f;
const GET_DISPATCH: libc::c_uint = 0x4211;
const GENERAL_REGISTERS: usize = 1;

const MARK_CALLS: usize = 1;
const SUSPEND_SECCOMP: usize = 1 << 21;
const EVENT_STOP: i32 = 128;
const CALL_STOP: i32 = libc::SIGTRAP | 0x80;

/// How a thread has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Because it was asked to, or with its process by a signal.
    Asked,
    /// Before a call or after it.
    Call,
    /// This signal is to be given to it.
    Signal(usize),
}

/// A thread that this process traces. When this process ends, the kernel lets go of it.
pub(super) struct Traced {
    thread: i32,
}

impl Traced {
    /// Begins to trace a thread, which runs on. Its system calls do not pass its filters (seccomp(2)) meanwhile: one may end a
    /// process for a call that it never makes itself. Who may not have that gets a thread without filters only.
    pub(super) fn seize(thread: i32, filtered: bool) -> Result<Self, Failure> {
        let new = Self { thread };
        let seize = |options| new.ask(SEIZE, 0, options, Step::Attach);
        match seize(MARK_CALLS | SUSPEND_SECCOMP) {
            Err(_) if !filtered => seize(MARK_CALLS)?,
            other => other?,
        }
        Ok(new)
    }

    /// Asks it to stop. One that has stopped stops again as soon as it is let go on.
    pub(super) fn interrupt(&self) -> Result<(), Failure> {
        self.ask(INTERRUPT, 0, 0, Step::Stop)
    }

    /// Lets it go on, with this signal or with 0.
    pub(super) fn go_on(&self, signal: usize) -> Result<(), Failure> {
        self.ask(CONTINUE, 0, signal, Step::Stop)
    }

    /// Lets it go on until it comes to a call, or from the call.
    pub(super) fn to_call(&self, signal: usize) -> Result<(), Failure> {
        self.ask(CONTINUE_TO_CALL, 0, signal, Step::Call)
    }

    /// Lets go of it.
    pub(super) fn detach(self) -> Result<(), Failure> {
        self.ask(DETACH, 0, 0, Step::LetGo)
    }

    pub(super) fn registers(&self) -> Result<Registers, Failure> {
        // SAFETY: registers are numbers.
        let mut registers: Registers = unsafe { std::mem::zeroed() };
        let mut vector =
            libc::iovec { iov_base: (&raw mut registers).cast(), iov_len: size_of::<Registers>() };
        self.ask(GET_REGISTERS, GENERAL_REGISTERS, (&raw mut vector) as usize, Step::Registers)?;
        // A program of 32 bits has fewer.
        let whole = vector.iov_len == size_of::<Registers>();
        if whole { Ok(registers) } else { Err(Failure::new(Step::Foreign, 0)) }
    }

    pub(super) fn set_registers(&self, registers: &Registers) -> Result<(), Failure> {
        let start = std::ptr::from_ref(registers).cast_mut();
        let vector = libc::iovec { iov_base: start.cast(), iov_len: size_of::<Registers>() };
        self.ask(SET_REGISTERS, GENERAL_REGISTERS, (&raw const vector) as usize, Step::Registers)
    }

    /// Its blocked signals, one bit each. Of a thread that waits with others for the time of a call: those of afterwards.
    pub(super) fn blocked(&self) -> Result<u64, Failure> {
        let mut mask = 0_u64;
        self.ask(GET_MASK, size_of::<u64>(), (&raw mut mask) as usize, Step::Registers)?;
        Ok(mask)
    }

    pub(super) fn block(&self, mask: u64) -> Result<(), Failure> {
        self.ask(SET_MASK, size_of::<u64>(), (&raw const mask) as usize, Step::Registers)
    }

    /// Whether it has its system calls handed to itself (`PR_SET_SYSCALL_USER_DISPATCH`).
    pub(super) fn dispatches(&self) -> bool {
        let mut settings = [0_u64; 4];
        let size = size_of_val(&settings);
        // A kernel that does not know the request is not asked for more.
        let asked = self.ask(GET_DISPATCH, size, settings.as_mut_ptr() as usize, Step::Registers);
        asked.is_ok() && settings[0] != 0
    }

    /// The address of its `struct rseq`; 0 for none.
    pub(super) fn restartable(&self) -> u64 {
        let mut settings = [0_u64; 3];
        let size = size_of_val(&settings);
        // Before Linux 5.13 nobody can ask.
        let asked = self.ask(GET_RSEQ, size, settings.as_mut_ptr() as usize, Step::Registers);
        if asked.is_ok() { settings[0] } else { 0 }
    }

    /// Waits until it stops; without a limit, as long as that takes.
    pub(super) fn wait(&self, limit: Option<Instant>) -> Result<Stop, Failure> {
        loop {
            let mut status = 0;
            // SAFETY: waitpid writes one integer.
            let waited = unsafe { libc::waitpid(self.thread, &raw mut status, libc::__WALL | libc::WNOHANG) };
            if waited == self.thread {
                return stop(status);
            }
            if waited < 0 && Errno::last() != Errno::EINTR {
                return Err(Failure::new(Step::Gone, Errno::last_raw()));
            }
            let left = limit.map(|limit| limit.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(Failure::new(Step::Stop, libc::ETIMEDOUT));
            }
            wait_for_a_child(left.unwrap_or(Duration::from_secs(60)));
        }
    }

    fn ask(&self, request: libc::c_uint, address: usize, data: usize, step: Step) -> Result<(), Failure> {
        let pointer = std::ptr::without_provenance_mut::<libc::c_void>;
        // SAFETY: what the requests of this file read and write is at `data`, of the size that is told at or by `address`, and
        // lives through the call: the callers see to that.
        let done = unsafe {
            libc::syscall(
                libc::SYS_ptrace,
                libc::c_ulong::from(request),
                self.thread,
                pointer(address),
                data as *mut libc::c_void,
            )
        };
        if done < 0 { Err(Failure::new(step, Errno::last_raw())) } else { Ok(()) }
    }
}

fn stop(status: i32) -> Result<Stop, Failure> {
    if !libc::WIFSTOPPED(status) {
        return Err(Failure::new(Step::Gone, libc::ESRCH));
    }
    let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
    Ok(match (signal, event) {
        (_, EVENT_STOP) => Stop::Asked,
        (CALL_STOP, _) => Stop::Call,
        // A signal's number is not negative.
        _ => Stop::Signal(signal.unsigned_abs() as usize),
    })
}

/// Waits at most so long for a `SIGCHLD`, which is blocked: it tells of each stop.
fn wait_for_a_child(at_most: Duration) {
    let time = libc::timespec {
        tv_sec: at_most.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: at_most.subsec_nanos().into(),
    };
    // SAFETY: an all-zero set is made an empty one before it is used; sigtimedwait reads it and the time, and may be given no place for
    // what it has to tell.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const time);
    }
}
