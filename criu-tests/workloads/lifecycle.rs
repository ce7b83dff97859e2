// SPDX-License-Identifier: Apache-2.0
//! The life of every workload: tick, check, report; pid 1's duties (reap orphans, stop on SIGTERM).
//!
//! The workload runs as the init of a pid namespace or as an ordinary process, without a difference.

use std::process::ExitCode;
use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use crate::options::Options;
use crate::report::{Fields, Report};
use crate::sys;

/// How long something that must happen may take, on a busy machine, before it counts as lost.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The outcome of a check; the text says what did not match.
pub(crate) type Checked = Result<(), String>;

/// A program that checks itself.
pub(crate) trait Workload {
    /// Checks everything that is held and moves it on by one step.
    fn tick(&mut self, tick: u64) -> Checked;

    /// Adds the workload's own lines to the report.
    fn fields(&self, _fields: &mut Fields) {}

    /// The children that the workload looks after itself; all others are reaped.
    fn children(&self) -> Vec<Pid> {
        Vec::new()
    }

    /// SIGUSR1 came.
    fn poke(&mut self) -> Checked {
        Ok(())
    }

    /// SIGTERM came: ends what was started.
    fn finish(&mut self) -> Checked {
        Ok(())
    }
}

const HANDLED: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGUSR1, libc::SIGCHLD];

/// Runs a workload until SIGTERM: exits 0 if every check passed, 1 if one did not, 2 if it could not start.
pub(crate) fn run<W: Workload>(
    name: &'static str,
    options: &Options,
    make: impl FnOnce(&Options) -> Result<W, String>,
) -> ExitCode {
    let start = || -> Result<_, String> {
        sys::block(&HANDLED).map_err(|e| format!("block signals: {e}"))?;
        let report = Report::new(name, options.status()?).map_err(|e| format!("draw an identity: {e}"))?;
        Ok((report, options.tick()?, make(options)?))
    };
    match start() {
        Ok((report, period, workload)) => live(report, period, workload),
        Err(why) => {
            crate::complain(&format!("{name}: {why}"));
            ExitCode::from(2)
        }
    }
}

fn live(mut report: Report, period: Duration, mut workload: impl Workload) -> ExitCode {
    loop {
        let tick = report.tick();
        report.judge(workload.tick(tick));
        let mut fields = Fields::default();
        workload.fields(&mut fields);
        report.publish(&fields);

        match sys::take(&HANDLED, period) {
            Ok(None) => {}
            Ok(Some(taken)) => match taken.number {
                libc::SIGCHLD => report.judge(reap_orphans(&workload.children())),
                libc::SIGUSR1 => report.judge(workload.poke()),
                _ => {
                    report.judge(workload.finish());
                    return if report.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
                }
            },
            Err(e) => report.judge(Err(format!("sigtimedwait: {e}"))),
        }
    }
}

fn reap_orphans(own: &[Pid]) -> Checked {
    let list = format!("/proc/self/task/{}/children", std::process::id());
    let children = std::fs::read_to_string(&list).map_err(|e| format!("{list}: {e}"))?;
    for pid in children.split_whitespace().filter_map(|p| p.parse().ok()).map(Pid::from_raw) {
        if !own.contains(&pid) {
            waitpid(pid, Some(WaitPidFlag::WNOHANG)).map_err(|e| format!("waitpid({pid}): {e}"))?;
        }
    }
    Ok(())
}

/// Checks that a child has not ended; it stays as it is.
pub(crate) fn expect_alive(pid: Pid) -> Checked {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::Pid(pid), look) {
        Ok(WaitStatus::StillAlive) => Ok(()),
        Ok(ended) => Err(format!("child {pid} ended: {ended:?}")),
        Err(e) => Err(format!("waitid({pid}): {e}")),
    }
}

/// Compares what is there with what must be.
#[expect(clippy::needless_pass_by_value, reason = "read at the call as assert_eq! is, with values")]
pub(crate) fn expect_eq<T: PartialEq + std::fmt::Debug>(what: &str, is: T, must_be: T) -> Checked {
    if is == must_be { Ok(()) } else { Err(format!("{what} is {is:?}, must be {must_be:?}")) }
}

/// Says in which call on what an error came up.
pub(crate) trait During<T> {
    /// The error as the text of a failed check.
    fn during(self, what: &str) -> Result<T, String>;
}

impl<T, E: std::fmt::Display> During<T> for Result<T, E> {
    fn during(self, what: &str) -> Result<T, String> {
        self.map_err(|e| format!("{what}: {e}"))
    }
}
