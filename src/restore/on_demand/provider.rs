// SPDX-License-Identifier: Apache-2.0
//! Owns the process that brings memory to the container: this program, started again, with one thread.
//!
//! ```text
//! command ──job: listener, directory, origin───▶ provider ◀── descriptors of memory, "finished" ── CRIU
//!         ◀── ready, or an error ───────────────    │ ▲
//!                                   pages, zeros    ▼ │ faults, forks, moves
//!                                              processes
//! ```
//! Before CRIU has finished it only answers. Then it reads all memory once, from the beginning to the end: whatever is missing is
//! filled on the way, and the digests are compared where there are any. Must not know where memory is.

use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use super::keeper::{self, Keeper};
use super::origin::{Kind, Pages};
use super::process::{Process, missing_by_images};
use crate::criu::image::PAGE;
use crate::engine::OutstandingMemory;
use crate::sys::fd::proc_path;
use crate::sys::userfault::Userfault;
use crate::sys::{pidfd, seqpacket};
use crate::{Context, Error, ErrorKind, Result};

/// What CRIU says instead of a pid when all processes are about to run (criu/uffd.c).
const FINISHED: i32 = 0x5253_5446;

/// What the provider is told, besides the descriptors.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Message {
    pub(super) root: PathBuf,
    pub(super) id: String,
    pub(super) source: String,
    pub(super) kind: Kind,
}

/// Whose memory it is.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) root: PathBuf,
    pub(super) id: String,
    pub(super) source: String,
    /// The container's.
    pub(super) directory: OwnedFd,
}

/// What is said to the command: the provider is there; all descriptors of memory are held.
pub(super) const READY: &[u8] = b"ready";
pub(super) const HELD: &[u8] = b"held";

/// Bytes of a message.
pub(super) const MESSAGE: usize = 64 << 10;

/// Pieces of memory that are known at once: what a hostile table could make of a few bytes each must not fill memory.
const PIECES: usize = 1 << 23;

/// How long to wait for who changes its memory, in milliseconds.
const SOON: u8 = 1;

/// Takes the job, and works until all memory is there or nobody needs it.
pub(super) fn run(control: &OwnedFd) -> Result<()> {
    let packet = seqpacket::receive(control.as_fd(), MESSAGE).context(|| "receive a job")?;
    let packet = packet.ok_or_else(|| Error::new(ErrorKind::System, "there is no job"))?;
    let Message { root, id, source, kind } =
        serde_json::from_slice(&packet.bytes).context(|| "understand a job")?;
    let mut fds = packet.fds.into_iter();
    let (Some(listener), Some(directory)) = (fds.next(), fds.next()) else {
        return Err(Error::new(ErrorKind::System, "a job without its descriptors"));
    };
    let of_provider = [listener.as_fd(), control.as_fd()];
    let origin = fds.collect();
    let job = Job { root, id, source, directory };
    let started = Pages::open(kind, origin).and_then(|memory| {
        let keeper = Keeper::start(&job, &of_provider, false)?;
        write_down(&job, &keeper)?;
        Ok((memory, keeper))
    });
    let (memory, keeper) = match started {
        Ok(started) => started,
        Err(error) => {
            let _ = seqpacket::send(control.as_fd(), error.chain().as_bytes());
            return Err(error);
        }
    };
    seqpacket::send(control.as_fd(), READY).context(|| "report")?;
    let Some(criu) = accept(&UnixListener::from(listener), control)? else {
        keeper.dismiss();
        return Ok(());
    };
    let mut provider = Provider {
        control: Some(control),
        job,
        memory,
        keeper,
        criu: Some(criu),
        processes: Vec::new(),
        init: None,
        held: false,
        verified: false,
        stuck: false,
    };
    match provider.work() {
        Ok(()) => {
            let removed = OutstandingMemory::remove(&proc_path(provider.job.directory.as_fd()));
            provider.keeper.dismiss();
            removed
        }
        Err(error) => {
            let reason = error.chain();
            if provider.criu.is_some() {
                let _ = seqpacket::send(control.as_fd(), reason.as_bytes());
            }
            provider.keeper.give_up(&reason);
            Err(error)
        }
    }
}

fn write_down(job: &Job, keeper: &Keeper) -> Result<()> {
    let providers = vec![OutstandingMemory::this_process()?, OutstandingMemory::process(keeper.pid)?];
    let record = OutstandingMemory { source: job.source.clone(), providers, failed: None };
    record.write(&proc_path(job.directory.as_fd()))
}

/// Waits for CRIU; `None` when the command has ended before.
fn accept(listener: &UnixListener, control: &OwnedFd) -> Result<Option<UnixStream>> {
    let mut fds =
        [PollFd::new(listener.as_fd(), PollFlags::POLLIN), PollFd::new(control.as_fd(), PollFlags::POLLIN)];
    wait(&mut fds, PollTimeout::NONE)?;
    if fds[0].any() != Some(true) {
        return Ok(None);
    }
    listener.accept().map(|(criu, _)| Some(criu)).context(|| "accept CRIU's connection")
}

fn wait(fds: &mut [PollFd<'_>], timeout: PollTimeout) -> Result<()> {
    match poll(fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error).context(|| "poll"),
    }
}

struct Provider<'a> {
    /// The command, as long as it may ask.
    control: Option<&'a OwnedFd>,
    job: Job,
    memory: Pages,
    keeper: Keeper,
    /// CRIU's connection, until it has finished.
    criu: Option<UnixStream>,
    processes: Vec<Process>,
    /// The container's first process, once it runs.
    init: Option<OwnedFd>,
    /// Whether the command was told that all descriptors are held.
    held: bool,
    /// Whether all memory has been compared with its digests.
    verified: bool,
    /// Whether the last page could not be put: its process, which may be frozen, changes its memory.
    stuck: bool,
}

/// What there is to read.
struct Seen {
    processes: Vec<bool>,
    criu: bool,
    control: bool,
    keeper: bool,
    ended: bool,
}

impl Provider<'_> {
    fn work(&mut self) -> Result<()> {
        loop {
            let seen = self.look()?;
            if seen.keeper {
                self.replace_keeper()?;
            }
            if seen.criu && self.hear_criu()? == Heard::Gone {
                // The restore has failed, and its processes with it.
                return Ok(());
            }
            // What CRIU has sent before the command asks has been read by then.
            if seen.control && !seen.criu {
                self.hear_command();
            }
            self.read_events(&seen.processes)?;
            self.answer()?;
            if self.criu.is_some() {
                continue;
            }
            self.processes
                .retain(|process| !(process.ended || seen.ended && process.missing.any().is_none()));
            if self.processes.is_empty() || !self.fill()? {
                return Ok(());
            }
        }
    }

    /// Waits for something to do. When CRIU has finished there always is.
    fn look(&self) -> Result<Seen> {
        let timeout = match &self.criu {
            None if self.stuck => PollTimeout::from(SOON),
            None => PollTimeout::ZERO,
            Some(_) if self.processes.iter().any(Process::is_waited_for) => PollTimeout::from(SOON),
            Some(_) => PollTimeout::NONE,
        };
        let of = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![of(self.keeper.as_fd())];
        fds.extend(self.criu.iter().map(|criu| of(criu.as_fd())));
        fds.extend(self.control.iter().map(|control| of(control.as_fd())));
        fds.extend(self.init.iter().map(|init| of(init.as_fd())));
        fds.extend(self.processes.iter().map(|process| of(process.as_fd())));
        wait(&mut fds, timeout)?;
        let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(false));
        let mut next = || ready.next().unwrap_or(false);
        let keeper = next();
        let criu = self.criu.is_some() && next();
        let control = self.control.is_some() && next();
        let ended = self.init.is_some() && next();
        Ok(Seen { keeper, criu, control, ended, processes: ready.collect() })
    }

    /// The other process has died: there must be one.
    fn replace_keeper(&mut self) -> Result<()> {
        let of_provider = self.criu.iter().map(AsFd::as_fd).chain(self.control.map(AsFd::as_fd));
        self.keeper = Keeper::start(&self.job, &of_provider.collect::<Vec<_>>(), self.held)?;
        write_down(&self.job, &self.keeper)
    }

    /// It asks whether all descriptors are held twice. It may be gone, too: from there on CRIU decides.
    fn hear_command(&mut self) {
        let Some(control) = self.control else { return };
        let heard = seqpacket::receive(control.as_fd(), MESSAGE);
        if !matches!(heard, Ok(Some(_))) {
            self.control = None;
            return;
        }
        self.hold();
        if seqpacket::send(control.as_fd(), HELD).is_err() {
            self.control = None;
        }
    }

    /// From here on the container may run.
    fn hold(&mut self) {
        self.keeper.hold();
        self.held = true;
    }

    /// A pid and the descriptor of its memory, a zombie's negative pid, or that it has finished.
    fn hear_criu(&mut self) -> Result<Heard> {
        let Some(criu) = &mut self.criu else { return Ok(Heard::Gone) };
        let mut pid = [0; 4];
        if criu.read_exact(&mut pid).is_err() {
            return Ok(Heard::Gone);
        }
        let pid = i32::from_ne_bytes(pid);
        if pid == FINISHED {
            self.hold();
            (self.criu, self.control) = (None, None);
            let init = keeper::find(&self.job)?.and_then(|container| container.init());
            self.init = init.and_then(|init| pidfd::open(init.pid()).ok());
            return Ok(Heard::Something);
        }
        if pid < 0 {
            return Ok(Heard::Something);
        }
        let (_, fds, _) = seqpacket::receive_into(criu.as_fd(), &mut [0]).context(|| "receive from CRIU")?;
        let fault = fds.into_iter().next();
        let fault = fault.ok_or_else(|| Error::new(ErrorKind::CriuFailed, "CRIU sent no descriptor"))?;
        let missing = missing_by_images(pid, &mut self.memory)?;
        let known: usize = self.processes.iter().map(|process| process.missing.len()).sum();
        if known.saturating_add(missing.len()) > PIECES {
            let message = format!("memory is in more than {PIECES} pieces");
            return Err(Error::new(ErrorKind::InvalidArchive, message));
        }
        self.add(Process::new(Userfault::from(fault), missing));
        Ok(Heard::Something)
    }

    fn add(&mut self, process: Process) {
        // One that has just died is replaced at the next look, by one that has what this process has.
        self.keeper.keep(process.as_fd());
        self.processes.push(process);
    }

    fn read_events(&mut self, ready: &[bool]) -> Result<()> {
        let mut children = Vec::new();
        for (process, _) in self.processes.iter_mut().zip(ready).filter(|(_, ready)| **ready) {
            children.extend(process.read_events().context(|| "read what a process does to its memory")?);
        }
        children.into_iter().for_each(|child| self.add(child));
        Ok(())
    }

    /// Brings what threads wait for, and all that comes with it.
    fn answer(&mut self) -> Result<()> {
        for n in 0..self.processes.len() {
            while let Some((address, file, offset)) = self.processes[n].wanted()? {
                let (start, bytes) = self.memory.around(file, offset)?;
                let at = (offset - start) as usize;
                self.processes[n].fill(file, offset, &bytes[at..at + PAGE as usize])?;
                // Before that, nobody has registered more than what is asked for.
                if self.criu.is_none() {
                    for process in &mut self.processes {
                        process.fill(file, start, bytes)?;
                    }
                }
                if !self.processes[n].has_come(address) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Reads the next part of all memory; at the end, what could not be put when it was read. Tells whether there is more.
    fn fill(&mut self) -> Result<bool> {
        if !self.verified {
            if let Some((file, start, bytes)) = self.memory.verify_next()? {
                let from = (start.next_multiple_of(PAGE) - start) as usize;
                let whole = bytes.get(from..).unwrap_or_default();
                let whole = &whole[..whole.len() - whole.len() % PAGE as usize];
                for process in &mut self.processes {
                    process.fill(file, start + from as u64, whole)?;
                }
                return Ok(true);
            }
            self.verified = true;
        }
        let Some((file, offset)) = self.processes.iter().find_map(|process| process.missing.any()) else {
            return Ok(false);
        };
        let (start, bytes) = self.memory.around(file, offset)?;
        for process in &mut self.processes {
            process.fill(file, start, bytes)?;
        }
        let first = self.processes.iter().find_map(|process| process.missing.any());
        self.stuck = first == Some((file, offset));
        Ok(true)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Something,
    Gone,
}
