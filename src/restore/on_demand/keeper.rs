// SPDX-License-Identifier: Apache-2.0
//! Owns the second process: it has copies of all descriptors of memory and does nothing, until the first one fails or dies. Then the
//! container is ended before the kernel can show its processes zeros where memory has not come.
//!
//! ```text
//! provider ── 'u' + descriptor · 'h': the command is about to be told · 'f' + reason · 'd' ──▶ keeper
//! ```
//! Until 'h' the restore fails by itself, as nobody tells its command that memory is held. A thread of it may wait for a page meanwhile,
//! and CRIU for that thread: so then there is nothing to keep.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::thread;
use std::time::Duration;

use super::provider::Job;
use crate::engine::{Container, OutstandingMemory, StateRoot, Status};
use crate::sys::fd::proc_path;
use crate::sys::{detached, pidfd, process, seqpacket};
use crate::{Context, Error, ErrorKind, Result};

/// How long the container may take to end, or a restore to fail.
const PATIENCE: Duration = Duration::from_secs(120);
const STEP: Duration = Duration::from_millis(20);

/// Bytes of a reason.
const REASON: usize = 4096;

/// The keeper, from the provider's side.
#[derive(Debug)]
pub(super) struct Keeper {
    socket: OwnedFd,
    pub(super) pid: i32,
}

impl AsFd for Keeper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Keeper {
    /// Forks it. It has all descriptors that this process has, but not those by which others see that this one is there. `held`: the command
    /// was told that memory is.
    pub(super) fn start(job: &Job, of_provider: &[BorrowedFd<'_>], held: bool) -> Result<Self> {
        let (socket, its) = seqpacket::pair().context(|| "make a socket pair")?;
        let without = [&[socket.as_fd()], of_provider].concat();
        match detached::fork_without(&without).context(|| "fork a process that keeps descriptors")? {
            Some(pid) => Ok(Self { socket, pid: pid.as_raw() }),
            None => process::exit_now(i32::from(keep(job, &its, held).is_err())),
        }
    }

    /// The command is about to be told that memory is held.
    pub(super) fn hold(&self) {
        // As below.
        let _ = seqpacket::send(self.as_fd(), b"h");
    }

    /// It keeps a copy of this, too.
    pub(super) fn keep(&self, descriptor: BorrowedFd<'_>) {
        // One that has died is seen by the end of its socket.
        let _ = seqpacket::send_with(self.as_fd(), b"u", &[descriptor]);
    }

    /// Nothing is to be kept any more.
    pub(super) fn dismiss(&self) {
        // One that has died has nothing to be told.
        let _ = seqpacket::send(self.as_fd(), b"d");
    }

    /// It ends the container for this reason, and then itself.
    pub(super) fn give_up(&self, reason: &str) {
        let mut message = format!("f{reason}").into_bytes();
        message.truncate(REASON);
        if seqpacket::send(self.as_fd(), &message).is_ok() {
            let _ = seqpacket::receive(self.as_fd(), 1);
        }
    }
}

/// What the keeper does.
fn keep(job: &Job, socket: &OwnedFd, mut held: bool) -> Result<()> {
    let mut kept = Vec::new();
    let reason = loop {
        let Ok(Some(packet)) = seqpacket::receive(socket.as_fd(), REASON) else {
            break "the process that brings it was killed".to_owned();
        };
        match packet.bytes.split_first() {
            Some((b'u', _)) => kept.extend(packet.fds),
            Some((b'h', _)) => held = true,
            Some((b'f', reason)) => break String::from_utf8_lossy(reason).into_owned(),
            _ => return Ok(()),
        }
    };
    if !held {
        return Ok(());
    }
    let dir = proc_path(job.directory.as_fd());
    let failed = Some(reason);
    let record = OutstandingMemory { source: job.source.clone(), providers: Vec::new(), failed };
    // The container is ended, whether this can be said or not.
    let written = record.write(&dir);
    end(job).and(written)
}

/// Ends the container; one that is still being restored, as soon as it is there. One that somebody holds frozen is theirs to end, who read
/// that it is worthless: were it gone, they would think that it had run. The copies of the descriptors are kept until then, for it may be
/// about to be let go.
fn end(job: &Job) -> Result<()> {
    let mut left = PATIENCE;
    while !left.is_zero() {
        let Some(mut container) = find(job)? else { return Ok(()) };
        let mut ended = Ok(());
        match container.status()? {
            Status::Stopped => return Ok(()),
            Status::Paused if !container.ownership()?.is_here() => {}
            other => {
                left = left.saturating_sub(STEP);
                // Its restore fails, or it is about to be there.
                if other != Status::Creating {
                    ended = end_tree(&mut container);
                }
            }
        }
        if left.is_zero() {
            ended?;
        }
        thread::sleep(STEP);
    }
    Err(Error::new(ErrorKind::System, "the container did not end"))
}

fn end_tree(container: &mut Container) -> Result<()> {
    // Another container may get its id and its cgroup only when this is free.
    let lock = container.lock()?;
    let init = container.init();
    container.cgroup()?.doom()?;
    drop(lock);
    match init.map(|init| pidfd::open(init.pid())) {
        Some(Ok(ended)) => pidfd::wait_ended(&ended, PATIENCE).map(drop).context(|| "wait for the container"),
        _ => Ok(()),
    }
}

/// The container itself, not another one that has its id by now.
pub(super) fn find(job: &Job) -> Result<Option<Container>> {
    let root = StateRoot::at(&job.root)?;
    let container = match root.load(&job.id.parse()?) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let identity = |file: File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    let ours = identity(job.directory.try_clone().map(File::from).context(|| "dup")?);
    let its = File::open(container.dir()).and_then(identity);
    Ok((its.ok() == ours.ok()).then_some(container))
}
