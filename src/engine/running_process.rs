// SPDX-License-Identifier: Apache-2.0
//! A process that was started in a container, in the hands of whoever started it.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};

use super::{Container, ExitCode, InitProcess};
use crate::sys::proc::Stat;
use crate::sys::spawn::Spawned;
use crate::{Context, Error, ErrorKind, Result, sys};

/// A process in a container, a child of this program. Who lets go of it without [`RunningProcess::wait`] leaves it running,
/// and what is left of it stays with this program until that ends, as with [`std::process::Child`].
#[derive(Debug)]
pub struct RunningProcess {
    child: Spawned,
}

impl RunningProcess {
    pub(super) fn new(child: Spawned) -> Self {
        Self { child }
    }

    pub(crate) fn spawned(&self) -> &Spawned {
        &self.child
    }

    /// Its pid on the host.
    pub fn pid(&self) -> i32 {
        self.child.pid.as_raw()
    }

    /// The process itself, to wait for with poll(2): it is readable once the process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    /// Sends it a signal, by the kernel's number.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`] when it has ended; [`ErrorKind::System`] for a number that is none.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let context = || format!("send signal {signal} to process {}", self.child.pid);
        sys::pidfd::send_signal(self.child.pidfd.as_fd(), signal).map_err(|e| match e.raw_os_error() {
            Some(libc::ESRCH) => Error::new(ErrorKind::WrongStatus, context()).with_source(e),
            _ => Error::new(ErrorKind::System, context()).with_source(e),
        })
    }

    /// Waits until it ends: its exit code, or 128 and the signal that ended it. What it has written may still be in the
    /// pipes that it was given.
    ///
    /// # Errors
    /// When somebody else in this program has waited for it, as a handler of `SIGCHLD` may.
    pub fn wait(self) -> Result<ExitCode> {
        wait_for(self.child.pidfd.as_fd()).context(|| format!("wait for process {}", self.child.pid))
    }
}

impl Container {
    /// Waits until the container's first process ends: its exit code, or 128 and the signal that ended it. Only the program
    /// that has created the container can do this, and only once.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`] when it was waited for before; [`ErrorKind::System`] with `ECHILD` when another program
    /// has created the container.
    pub fn wait(&self) -> Result<ExitCode> {
        let context = || format!("wait for the first process of container {}", self.id());
        let gone = || Error::new(ErrorKind::WrongStatus, "it has ended and was waited for");
        let init = self.state().init.ok_or_else(gone).context(context)?;
        let pidfd = sys::pidfd::open(init.pid()).map_err(|e| gone().with_source(e)).context(context)?;
        // The number may be another process's by now, but not between these two looks.
        if !is_there(init) {
            return Err(gone()).context(context);
        }
        wait_for(pidfd.as_fd()).context(context)
    }
}

/// Takes from the kernel what is left of a container's first process, if it has ended and is a child of this program.
pub(super) fn reap(init: InitProcess) {
    if is_there(init) && !init.is_alive() {
        // Another program's child is another program's to reap.
        let _ = waitpid(init.pid(), Some(WaitPidFlag::WNOHANG));
    }
}

/// Whether it runs, or has ended and nobody has waited for it.
fn is_there(init: InitProcess) -> bool {
    Stat::of(init.pid()).is_ok_and(|stat| stat.start_time == init.start_time)
}

fn wait_for(pidfd: BorrowedFd<'_>) -> Result<ExitCode> {
    loop {
        match waitid(Id::PIDFd(pidfd), WaitPidFlag::WEXITED) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e).context(|| "waitid(P_PIDFD)"),
        }
    }
}
