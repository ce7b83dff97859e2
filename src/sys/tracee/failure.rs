// SPDX-License-Identifier: Apache-2.0
//! What went wrong with another's thread, as two numbers that a clone can leave in shared memory.

use std::io;

/// At which step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    /// Starting who does it.
    Start = 1,
    /// Tracing the thread: the caller may not, or somebody else does.
    Attach,
    /// It does not stop in time.
    Stop,
    /// It has ended.
    Gone,
    /// Its registers or blocked signals.
    Registers,
    /// It is of another architecture than this program.
    Foreign,
    /// It has its system calls handed to itself, and would get this one.
    Dispatch,
    /// It stands in one of its restartable sequences (rseq(2)); not for long.
    Section,
    /// There is no instruction for a system call where one was said to be.
    Instruction,
    /// The call in its place.
    Call,
    /// The copy of its descriptor.
    Copy,
    /// Letting go of it.
    LetGo,
    /// Who was to do it was killed.
    Killed,
}

/// A step, and the error number of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Which step.
    pub step: Step,
    /// The error number; 0 where there is none.
    pub errno: i32,
}

impl Failure {
    pub(super) fn new(step: Step, errno: i32) -> Self {
        Self { step, errno }
    }

    pub(super) fn of(step: Step, error: &io::Error) -> Self {
        Self::new(step, error.raw_os_error().unwrap_or(libc::EIO))
    }

    pub(super) fn decode(step: u32, errno: i32) -> Self {
        let steps = [
            Step::Start,
            Step::Attach,
            Step::Stop,
            Step::Gone,
            Step::Registers,
            Step::Foreign,
            Step::Dispatch,
            Step::Section,
            Step::Instruction,
            Step::Call,
            Step::Copy,
            Step::LetGo,
        ];
        let step = steps.into_iter().find(|known| *known as u32 == step).unwrap_or(Step::Killed);
        Self { step, errno }
    }
}

impl std::error::Error for Failure {}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.step {
            Step::Start => "start a process that traces it",
            Step::Attach => "trace it (PTRACE_SEIZE)",
            Step::Stop => "have it stop",
            Step::Gone => "it has ended",
            Step::Registers => "read and set its registers",
            Step::Foreign => "it is a program of 32 bits",
            Step::Dispatch => "it gets its own system calls handed back (PR_SET_SYSCALL_USER_DISPATCH)",
            Step::Section => "it is in the middle of a restartable sequence (rseq)",
            Step::Instruction => "its vDSO is not where it was",
            Step::Call => "call userfaultfd in its place",
            Step::Copy => "copy its descriptor (pidfd_getfd)",
            Step::LetGo => "let go of it",
            Step::Killed => "the process that traced it was killed",
        };
        f.write_str(what)?;
        if self.errno == 0 { Ok(()) } else { write!(f, ": {}", io::Error::from_raw_os_error(self.errno)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_reads_back() {
        for step in [Step::Start, Step::Attach, Step::Copy, Step::LetGo] {
            assert_eq!(Failure::decode(step as u32, 3), Failure { step, errno: 3 });
        }
        assert_eq!(Failure::decode(0, 0).step, Step::Killed);
    }
}
