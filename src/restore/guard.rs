// SPDX-License-Identifier: Apache-2.0
//! A process that sees to it that nothing runs of a restore that was to end frozen and whose command was killed in the moment before.
//!
//! ```text
//!              post-restore answered          pre-resume
//! criu ────────────────┬──────────────────────────┬──── waits for the answer ──▶
//! command ── a copy of the connection ─▶ guard    └ killed: the connection stays open, in the guard's hands, and CRIU waits
//!                                          └ ends the processes, CRIU among them, before it gives that up
//! ```
//! CRIU does not listen to the answer to `pre-resume`, and takes the end of its connection for one. Must not know why the processes
//! are to be frozen.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::process::Child;

use crate::cgroup::Cgroup;
use crate::engine::NewContainer;
use crate::sys::{detached, process as own, self_exe, seqpacket};
use crate::{Context, Error, ErrorKind, Result};

/// The variable that tells a program that it is the guard, of the cgroup in its value.
const REQUEST: &str = "_MIGRATE_GUARD";

const HOLD: &[u8] = b"hold";
const HELD: &[u8] = b"held";
const DISMISSED: &[u8] = b"dismissed";

/// The longest message.
const MESSAGE: usize = 16;

/// Becomes the guard of a restore that ends frozen when this process was started as one, and returns otherwise.
///
/// A program that restores with [`RestoreOptions::held`](super::RestoreOptions::held) calls it first in `main`, beside
/// [`init_if_requested`](crate::engine::init_if_requested).
pub fn guard_if_requested() {
    if let Some(cgroup) = std::env::var_os(REQUEST) {
        own::exit_now(i32::from(guard(&cgroup.to_string_lossy()).is_err()));
    }
}

fn guard(cgroup: &str) -> Result<()> {
    let control = detached::take_stdin().context(|| "take the command's socket")?;
    let cgroup: Cgroup = serde_json::from_str(cgroup).context(|| "understand the cgroup")?;
    let mut connection = Vec::new();
    // An error, too, means that the command is not there any more.
    while let Ok(Some(packet)) = seqpacket::receive(control.as_fd(), MESSAGE) {
        if packet.bytes != HOLD {
            return Ok(());
        }
        connection = packet.fds;
        let _ = seqpacket::send(control.as_fd(), HELD);
    }
    if connection.is_empty() { Ok(()) } else { cgroup.doom() }
}

/// The guard, from the command's side.
#[derive(Debug)]
pub(super) struct Guard {
    control: OwnedFd,
    process: Child,
}

impl Guard {
    /// Starts it. It does nothing until it is to hold something.
    pub(super) fn start(new: &NewContainer) -> Result<Self> {
        let starting = || "start the process that guards the restore";
        let (control, its) = seqpacket::pair().context(starting)?;
        let cgroup = serde_json::to_string(new.cgroup()).context(starting)?;
        let program = new.own_program().unwrap_or(self_exe::path());
        let process = detached::start(program, its, (REQUEST, &cgroup)).context(starting)?;
        Ok(Self { control, process })
    }

    /// From now on this process's death is the end of the restored ones.
    pub(super) fn hold(&self, connection: BorrowedFd<'_>) -> Result<()> {
        let holding = || "have the restore guarded";
        seqpacket::send_with(self.control.as_fd(), HOLD, &[connection]).context(holding)?;
        match seqpacket::receive(self.control.as_fd(), MESSAGE).context(holding)? {
            Some(packet) if packet.bytes == HELD => Ok(()),
            _ => Err(Error::new(
                ErrorKind::InvalidInput,
                "this program was started to guard a restore and did not do so",
            )
            .with_hint("call migrate::restore::guard_if_requested() first in main()")),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // One that has died has nothing to be told.
        let _ = seqpacket::send(self.control.as_fd(), DISMISSED);
        let _ = self.process.wait();
    }
}
