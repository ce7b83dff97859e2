// SPDX-License-Identifier: Apache-2.0
//! Which pages running processes write to, seen from outside: the first part of moving memory while it is in use.
//!
//! ```text
//!  a new process ──▶ a thread makes a userfaultfd, which we take (stands for some 0.1 ms, once) ─▶ its memory is registered
//!  each round    ──▶ its mappings, read anew ─▶ what is new is registered, and all of it is dirty
//!                                            └▶ of the rest: pages that were written to, and from now on count as clean
//!                └─▶ PageReader: their contents, while the process runs
//! ```
//! A page is taken and then read: what is written between is told by the next round. So once a process stands still, the rounds before and one
//! more have told everything that it has written. What a round does not tell:
//!
//! * pages that are no more there (munmap(2), `MADV_DONTNEED`): who freezes the process sees which ones it has;
//! * what is in shared mappings, which others write to in ways that leave no trace here ([`DirtyProcess::untracked`]): compare contents
//!   ([`MemoryHashes`]) or take them once the process stands still;
//! * what devices write by themselves (`O_DIRECT`, registered buffers of io_uring) to a page that was taken meanwhile;
//! * a process that came to be, or executed another program, while the round was made: it is in the next one, with all its memory.
//!
//! Pages that were never touched are not touched here either: they cost nothing. Dropped, the tracker leaves nothing in the processes; killed, too.
//! CRIU dumps a process that is tracked. Needs Linux 6.7 ([`supported`]). Must not know what a container is, nor where pages go.

mod hashes;
mod maps;
mod read;
mod threads;
mod tracked;

pub use hashes::{Changes, MemoryHashes};
pub use read::{Contents, PageReader, ReadTotals};

use std::ops::Range;
use std::time::Duration;

use crate::sys::{kcmp, memory_tracking};
use crate::{Context, Error, ErrorKind, Result};
use tracked::{Found, Tracked};

/// How long a thread may take to stop.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether this kernel can tell which pages are written to.
///
/// # Errors
/// [`ErrorKind::Unsupported`] with what is missing.
pub fn supported() -> Result<()> {
    let userfaultfd = memory_tracking::userfaultfd().is_ok_and(|found| found.write_protect_async);
    let scan = memory_tracking::can_scan_pages().unwrap_or(false);
    if userfaultfd && scan { Ok(()) } else { Err(tracked::too_old()) }
}

/// Tracks the memory of processes, each memory once.
#[derive(Debug)]
pub struct DirtyTracker {
    patience: Duration,
    tracked: Vec<Tracked>,
}

/// What was found in one round.
#[derive(Debug, Clone, Default)]
pub struct DirtyRound {
    /// The processes, one for each memory, in the order in which they were first seen.
    pub processes: Vec<DirtyProcess>,
}

/// One memory in one round. Ranges are in order, in bytes, and begin and end with a page.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DirtyProcess {
    /// The process whose memory it is.
    pub pid: i32,
    /// Of one that this round has found: how long a thread of it stood still. Whatever is known of an earlier process of this number is
    /// worthless then.
    pub adopted: Option<Duration>,
    /// What was written to since the last round, and what has been mapped anew since then.
    pub dirty: Vec<Range<u64>>,
    /// Mappings whose changes are not seen: shared ones, and those that the process watches itself (userfaultfd(2)).
    pub untracked: Vec<Range<u64>>,
    thread: i32,
}

impl DirtyProcess {
    /// How many bytes are dirty.
    pub fn dirty_bytes(&self) -> u64 {
        self.dirty.iter().map(|range| range.end - range.start).sum()
    }

    /// Reads its pages.
    ///
    /// # Errors
    /// The process is gone, or not the caller's to trace.
    pub fn reader(&self) -> Result<PageReader> {
        PageReader::open(self.pid, self.thread)
    }
}

impl DirtyRound {
    /// How many bytes are dirty in all.
    pub fn dirty_bytes(&self) -> u64 {
        self.processes.iter().map(DirtyProcess::dirty_bytes).sum()
    }
}

impl Default for DirtyTracker {
    fn default() -> Self {
        Self::new(PATIENCE)
    }
}

impl DirtyTracker {
    /// A tracker of nothing yet, which waits so long for a process's thread to stop.
    pub fn new(patience: Duration) -> Self {
        Self { patience, tracked: Vec::new() }
    }

    /// Tells what these processes have written to since the last round, all that they have if there was none. Processes that are not
    /// among them are forgotten, new ones adopted. Nobody is left stopped, whatever happens.
    ///
    /// # Errors
    /// A process cannot be tracked: another program traces it, it does not stop in time, the kernel is too old. When it is not known any
    /// more what was written to, the tracker forgets everything, so that the next round tells all memory.
    pub fn round(&mut self, processes: &[i32]) -> Result<DirtyRound> {
        self.tracked.retain(|tracked| processes.contains(&tracked.process) && tracked.is_there());
        self.forget_who_left(processes);
        for process in processes {
            self.adopt(*process)?;
        }
        self.look()
    }

    /// The last round, once these processes stand still, perhaps held by somebody else's ptrace: as [`DirtyTracker::round`], but nobody is
    /// adopted. Processes that are not told have come since the round before, or have executed another program.
    ///
    /// # Errors
    /// As [`DirtyTracker::round`].
    pub fn last_round(&mut self, processes: &[i32]) -> Result<DirtyRound> {
        self.tracked.retain(|tracked| {
            let same = tracked.is_of_its_process().unwrap_or(false);
            same && processes.contains(&tracked.process)
        });
        self.forget_who_left(processes);
        self.look()
    }

    fn look(&mut self) -> Result<DirtyRound> {
        let mut round = DirtyRound::default();
        let mut lost = None;
        self.tracked.retain_mut(|tracked| match tracked.look() {
            Ok(None) => false,
            Ok(Some(Found { written, untracked })) => {
                let (pid, thread, adopted) = (tracked.process, tracked.thread, tracked.adopted.take());
                round.processes.push(DirtyProcess { pid, adopted, dirty: written, untracked, thread });
                true
            }
            Err(error) => {
                lost.get_or_insert((tracked.process, error));
                false
            }
        });
        match lost {
            None => Ok(round),
            Some((process, error)) => {
                self.tracked.clear();
                Err(error).context(|| format!("tell what process {process} has written to"))
            }
        }
    }

    /// Where a process has pages: its own in private mappings, any in shared ones; `None` when it is not tracked. Nothing changes.
    ///
    /// # Errors
    /// When its mappings or pages cannot be listed.
    pub fn populated(&self, process: i32) -> Result<Option<Vec<Range<u64>>>> {
        let Some(tracked) = self.tracked.iter().find(|tracked| tracked.process == process) else {
            return Ok(None);
        };
        tracked.populated().map(Some).context(|| format!("list the pages of process {process}"))
    }

    /// Forgets each memory that a process had in common with another and has not any more: which of the two has executed another program
    /// is not known.
    fn forget_who_left(&mut self, processes: &[i32]) {
        self.tracked.retain_mut(|tracked| {
            tracked.sharers.retain(|sharer| processes.contains(sharer));
            let own = tracked.process;
            tracked.sharers.iter().all(|sharer| kcmp::same_memory(own, *sharer).unwrap_or(false))
        });
    }

    fn adopt(&mut self, process: i32) -> Result<()> {
        for tracked in &mut self.tracked {
            if tracked.process == process || tracked.sharers.contains(&process) {
                return Ok(());
            }
            match kcmp::same_memory(tracked.process, process) {
                Ok(true) => {
                    tracked.sharers.push(process);
                    return Ok(());
                }
                Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => {
                    let message = "the kernel does not tell which processes have one memory (kcmp)";
                    let error = Error::new(ErrorKind::Unsupported, message).with_source(e);
                    return Err(error.with_hint("use a kernel with CONFIG_KCMP"));
                }
                // One of them has ended.
                _ => {}
            }
        }
        self.tracked.extend(Tracked::adopt(process, self.patience)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
