// SPDX-License-Identifier: Apache-2.0
//! A restore that ends with the processes frozen, and nobody behind them: the kernel holds them, so that no process's death can let
//! them run.
//!
//! ```text
//!  criu ── pre-resume ──▶ criu leaves the container's cgroup ─▶ the cgroup is frozen ─▶ answer ─▶ criu detaches and ends
//! ```
//! Until then a [`Guard`] stands by. CRIU does not listen to the answer: where the cgroup does not freeze, the processes are killed before it goes on. Must not know
//! who thaws them.

use std::os::fd::BorrowedFd;

use nix::unistd::Pid;

use super::guard::Guard;
use crate::cgroup::Cgroup;
use crate::engine::NewContainer;
use crate::{Context, Error, ErrorKind, Result, sys};

/// What holding the processes came to.
#[derive(Debug)]
pub(super) struct Hold {
    /// Until they are frozen.
    guard: Option<Guard>,
    came_to: Option<Result<()>>,
}

impl Hold {
    /// Prepares it.
    pub(super) fn prepare(new: &NewContainer) -> Result<Self> {
        Ok(Self { guard: Some(Guard::start(new)?), came_to: None })
    }

    /// CRIU is about to be told, over this connection, that it may let the processes go.
    pub(super) fn guard(&self, connection: BorrowedFd<'_>) -> Result<()> {
        self.guard.as_ref().map_or(Ok(()), |guard| guard.hold(connection))
    }

    /// Freezes the restored processes, which CRIU still holds. `criu` goes on.
    pub(super) fn begin(&mut self, cgroup: &Cgroup, criu: i32) {
        let frozen = cgroup.expel(criu).and_then(|()| cgroup.freeze()).and_then(|()| require_held(criu));
        // CRIU, if it is still among them, goes with them.
        self.came_to = Some(frozen.map_err(|error| error.with_cleanup(cgroup.doom().err())));
        self.guard = None;
    }

    /// Whether they are frozen, and have been since CRIU held them.
    ///
    /// # Errors
    /// They are not, and were killed.
    pub(super) fn end(self) -> Result<()> {
        let never = || Error::new(ErrorKind::CriuFailed, "criu has let the processes go without a word");
        self.came_to.unwrap_or_else(|| Err(never())).context(|| "keep the restored processes frozen")
    }
}

/// Whether CRIU holds the processes still, now that they are frozen: its death lets go of them, and they would have run until then.
fn require_held(criu: i32) -> Result<()> {
    let ended = || Error::new(ErrorKind::CriuFailed, "criu ended before the restored processes were frozen");
    let stat = sys::proc::Stat::of(Pid::from_raw(criu)).map_err(|error| ended().with_source(error))?;
    if stat.ended() { Err(ended()) } else { Ok(()) }
}
