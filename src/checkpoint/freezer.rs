// SPDX-License-Identifier: Apache-2.0
//! What a freezer means for a dump. CRIU stops tasks by ptrace, which a frozen one does not answer unless CRIU may thaw it.
//!
//! | frozen is | a dump |
//! | --- | --- |
//! | nothing | needs no freezer: ptrace is faster, and the tasks run on whoever dies |
//! | the container, paused | is told of the freezer, and leaves it frozen unless it ends the container |
//! | the same, with a task that a signal has stopped, on v1 | would hang: the freezer is thawed for it, and frozen again |
//! | a cgroup above or beneath | could only time out, and is refused |

use std::cell::Cell;
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::Pid;

use crate::cgroup::Cgroup;
use crate::engine::{Container, Status};
use crate::sys::proc::is_stopped_by_signal;
use crate::{Context, Error, ErrorKind, Result};

/// CRIU seizes many thousands of tasks in this time. A longer silence means that it hangs in one that is stopped.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// The freezer of a container that is about to be dumped.
#[derive(Debug)]
pub(super) struct Freezer {
    cgroup: Cgroup,
    paused: bool,
    thawed: Cell<bool>,
}

impl Freezer {
    /// Judges it, and thaws it where CRIU would hang.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`] when CRIU could not stop a process; the cgroup cannot be read.
    pub(super) fn prepare(container: &Container, status: Status) -> Result<Self> {
        let freezer =
            Self { cgroup: container.cgroup()?, paused: status == Status::Paused, thawed: Cell::new(false) };
        match freezer.require_stoppable() {
            // There is none.
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            other => other?,
        }
        if freezer.paused && freezer.cgroup.freezer_hides_stops() && freezer.has_stopped_process()? {
            freezer.thaw()?;
        }
        Ok(freezer)
    }

    fn require_stoppable(&self) -> Result<()> {
        if self.cgroup.is_frozen_from_above()? {
            let message = "a cgroup above the container's is frozen: criu cannot stop the processes";
            return Err(Error::new(ErrorKind::WrongStatus, message).with_hint("thaw that one first"));
        }
        let Some(beneath) = self.cgroup.frozen_beneath()? else { return Ok(()) };
        let message = format!(
            "the container has frozen its own cgroup {}: criu cannot stop the processes in it",
            beneath.display()
        );
        Err(Error::new(ErrorKind::WrongStatus, message).with_hint("let it thaw that one first"))
    }

    fn has_stopped_process(&self) -> Result<bool> {
        // One that cannot be looked at has ended.
        Ok(self
            .cgroup
            .all_pids()?
            .into_iter()
            .any(|pid| is_stopped_by_signal(Pid::from_raw(pid)).unwrap_or(false)))
    }

    fn thaw(&self) -> Result<()> {
        self.cgroup.thaw().context(|| "thaw the paused container for criu")?;
        self.thawed.set(true);
        Ok(())
    }

    /// What CRIU must be told.
    pub(super) fn for_criu(&self) -> Option<PathBuf> {
        self.is_given().then(|| self.cgroup.freezer_path()).flatten()
    }

    /// Whether CRIU works with a frozen freezer, and can hang in it.
    pub(super) fn is_given(&self) -> bool {
        self.paused && !self.thawed.get()
    }

    /// CRIU hangs: a thawed task answers at once.
    pub(super) fn rouse(&self) {
        if let Err(error) = self.thaw() {
            tracing::warn!(error = error.chain(), "criu makes no progress with the frozen container");
        }
    }
}

/// Sees to it that a container that was paused, and that a checkpoint has left alive, is paused again.
pub(super) fn pause_again(container: &Container) -> Result<()> {
    if container.status()? != Status::Running {
        return Ok(());
    }
    container.cgroup()?.freeze().context(|| "pause the container again")
}
