// SPDX-License-Identifier: Apache-2.0
//! Owns one process whose memory is being brought: its descriptor, what it misses, and the threads of it that wait.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::missing::{Missing, Piece};
use super::origin::Pages;
use crate::criu::image::{Kept, PAGE, memory, page_table};
use crate::sys::userfault::{Event, Placed, Userfault};
use crate::{Context, Error, ErrorKind, Result};

/// A process.
#[derive(Debug)]
pub(super) struct Process {
    fault: Userfault,
    pub(super) missing: Missing,
    /// Addresses of pages that threads wait for.
    waiting: Vec<u64>,
    pub(super) ended: bool,
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fault.as_fd()
    }
}

/// What it misses by its images: the pages that CRIU leaves to who provides memory.
pub(super) fn missing_by_images(pid: i32, memory_of: &mut Pages) -> Result<Missing> {
    let mut image = |name: String| {
        let bytes = memory_of.image(&name)?;
        bytes.ok_or_else(|| Error::new(ErrorKind::InvalidArchive, format!("there is no image {name}")))
    };
    let table = page_table(&image(format!("pagemap-{pid}.img"))?)?;
    let areas = memory(&image(format!("mm-{pid}.img"))?)?.areas;
    let wiped = areas.iter().filter(|area| area.wiped_on_fork).map(|area| area.start..area.end);
    let mut missing = Missing::new(wiped.collect());
    for run in table.runs.iter().filter(|run| run.on_demand && run.pages > 0) {
        let length = run.pages.saturating_mul(PAGE);
        // Tables are hostile: what is there twice, or beyond all addresses, is not there.
        let (Some(end), Some(_)) = (run.address.checked_add(length), run.offset.checked_add(length)) else {
            continue;
        };
        let pieces = match run.kept {
            Kept::Here => {
                memory_of.require(table.file, run.offset + length)?;
                vec![(run.address, Piece { file: table.file, offset: run.offset, length })]
            }
            Kept::Lazy => memory_of.stored(pid, &(run.address..end))?,
            Kept::InParent | Kept::Zero => continue,
        };
        missing.remove(&(run.address..end));
        pieces.into_iter().for_each(|(address, piece)| missing.insert(address, piece));
    }
    Ok(missing)
}

impl Process {
    pub(super) fn new(fault: Userfault, missing: Missing) -> Self {
        Self { fault, missing, waiting: Vec::new(), ended: false }
    }

    /// Reads what it asks for and has done. Children that it has forked are returned.
    pub(super) fn read_events(&mut self) -> io::Result<Vec<Self>> {
        let mut children = Vec::new();
        for event in self.fault.events()? {
            match event {
                Event::Fault(address) => self.waiting.push(address - address % PAGE),
                Event::Removed(range) => drop(self.missing.remove(&range)),
                Event::Remap { from, to, length } => self.missing.move_to(from, to, length),
                Event::Fork(fault) => children.push(Self::new(fault, self.missing.of_child())),
            }
        }
        Ok(children)
    }

    /// Whether threads wait.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A place in the files of pages that a thread waits for. Threads that wait for pages which are nowhere get zeros.
    pub(super) fn wanted(&mut self) -> Result<Option<(u64, u32, u64)>> {
        let waiting = std::mem::take(&mut self.waiting);
        for (n, address) in waiting.iter().enumerate() {
            if let Some((file, offset)) = self.missing.place_of(*address) {
                self.waiting.extend_from_slice(&waiting[n + 1..]);
                return Ok(Some((*address, file, offset)));
            }
            match self.fault.zero(*address, PAGE).context(|| "put zeros into memory")? {
                Placed::Bytes(_) => {}
                // It came meanwhile, or the thread is to learn that nothing is mapped there.
                Placed::Exists | Placed::NoPlace => self.wake(*address)?,
                Placed::Busy => self.waiting.push(*address),
                Placed::Ended => self.ended = true,
            }
        }
        Ok(None)
    }

    /// Whether a page that was wanted is there. Else its thread goes on waiting, until what the process does has been read.
    pub(super) fn has_come(&mut self, address: u64) -> bool {
        let missing = self.missing.place_of(address).is_some();
        if missing {
            self.waiting.push(address);
        }
        !missing
    }

    fn wake(&self, address: u64) -> Result<()> {
        self.fault.wake(address, PAGE).context(|| "wake a thread")
    }

    /// Puts what it misses of these pages of a file into its memory. What cannot be put now is still missing afterwards.
    pub(super) fn fill(&mut self, file: u32, start: u64, bytes: &[u8]) -> Result<()> {
        for (address, part) in self.missing.within(file, &(start..start + bytes.len() as u64)) {
            let bytes = &bytes[(part.start - start) as usize..(part.end - start) as usize];
            if !self.put(address, bytes)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether all could be put.
    fn put(&mut self, mut address: u64, mut bytes: &[u8]) -> Result<bool> {
        let page = PAGE as usize;
        let mut step = bytes.len();
        while !bytes.is_empty() {
            let length = step.min(bytes.len());
            let done =
                match self.fault.copy(address, &bytes[..length]).context(|| "put a page into memory")? {
                    Placed::Bytes(done) => {
                        step = step.saturating_mul(2);
                        (done as usize).min(length)
                    }
                    Placed::Exists => {
                        self.wake(address)?;
                        page
                    }
                    // A copy ends where another mapping begins.
                    Placed::NoPlace if length > page => {
                        step = (length / 2).next_multiple_of(page);
                        continue;
                    }
                    Placed::NoPlace => {
                        self.wake(address)?;
                        page
                    }
                    Placed::Busy => return Ok(false),
                    Placed::Ended => {
                        self.ended = true;
                        return Ok(false);
                    }
                };
            self.missing.remove(&(address..address + done as u64));
            address += done as u64;
            bytes = &bytes[done..];
        }
        Ok(true)
    }
}
