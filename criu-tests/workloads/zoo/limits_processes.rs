// SPDX-License-Identifier: Apache-2.0
//! Processes that CRIU does not carry.

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;

use super::clan::Clan;
use super::{Made, child, made, proc, sys};
use crate::lifecycle::{During as _, expect_eq};

super::exhibits![traced, dead_first_thread, waiting_for_vfork];

/// A process that its parent debugs.
fn traced() -> Made {
    let clan = Clan::new(1)?;
    let pid = clan.fork(0, || ptrace::traceme().during("PTRACE_TRACEME"))?;
    let known = clan.members()?;
    made(move || {
        clan.same(&known)?;
        expect_eq("tracer", proc::status(pid, "TracerPid")?, nix::unistd::getpid().to_string())?;
        kill(pid, Signal::SIGUSR2).during("kill")?;
        waitpid(pid, None).during("waitpid")?;
        ptrace::cont(pid, None).during("PTRACE_CONT")
    })
}

/// The first thread of the process has ended, another goes on.
fn dead_first_thread() -> Made {
    let clan = Clan::new(1)?;
    let pid = crate::sys::fork(|| {
        std::thread::spawn(move || clan.live(0));
        sys::process::exit_thread()
    })
    .during("fork")?;
    child::keep(pid);
    made(move || {
        clan.goes_on()?;
        expect_eq("state of the first thread", proc::stat(pid)?[0].as_str(), "Z")
    })
}

/// A process that waits until its child, which has its memory, ends or starts another program.
fn waiting_for_vfork() -> Made {
    let pid = crate::sys::fork(|| i32::from(sys::process::wait_in_vfork().is_err())).during("fork")?;
    child::keep(pid);
    let children = move || proc::read(pid, &format!("task/{pid}/children"));
    let begun = std::time::Instant::now();
    while children()?.is_empty() && begun.elapsed() < crate::lifecycle::PATIENCE {
        std::thread::yield_now();
    }
    made(move || {
        expect_eq("children", children()?.split_whitespace().count(), 1)?;
        expect_eq("state", proc::stat(pid)?[0].as_str(), "D")
    })
}
