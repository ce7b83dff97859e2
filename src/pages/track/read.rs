// SPDX-License-Identifier: Apache-2.0
//! The contents of pages of a process that runs. Whoever reads them gets what is there at that moment, page by page.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::criu::image::PAGE;
use crate::sys::remote_memory;
use crate::{Context, Result};

/// Bytes that are in memory at a time.
const AT_ONCE: usize = 1 << 20;
const BYTES_OF_A_PAGE: usize = PAGE as usize;

/// What is at an address: whole pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// So many bytes of zeros. There may have been something else before.
    Zeros(u64),
}

/// How much was read, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadTotals {
    /// Told with their contents.
    pub bytes: u64,
    /// Told as zeros.
    pub zeros: u64,
    /// Not told: these pages are not there any more.
    pub gone: u64,
}

/// Reads the pages of one process.
#[derive(Debug)]
pub struct PageReader {
    process: i32,
    thread: i32,
    /// For what may not be read by the process itself.
    memory: File,
    buffer: Vec<u8>,
}

impl PageReader {
    /// That of a process, by its first thread, which must live.
    ///
    /// # Errors
    /// The process is gone, or not the caller's to trace.
    pub fn of(process: i32) -> Result<Self> {
        Self::open(process, process)
    }

    pub(super) fn open(process: i32, thread: i32) -> Result<Self> {
        let memory = File::open(format!("/proc/{thread}/mem"))
            .context(|| format!("open the memory of process {process}"))?;
        Ok(Self { process, thread, memory, buffer: vec![0; AT_ONCE] })
    }

    /// Tells what is in these ranges, which begin and end with a page, in their order.
    ///
    /// # Errors
    /// Those of `each`.
    pub fn read(
        &mut self,
        ranges: &[Range<u64>],
        each: &mut dyn FnMut(u64, Contents<'_>) -> Result<()>,
    ) -> Result<ReadTotals> {
        let mut totals = ReadTotals::default();
        let mut left = ranges.iter().filter(|range| range.start < range.end).cloned();
        let mut next = left.next();
        while next.is_some() {
            let mut batch = Vec::with_capacity(remote_memory::RANGES);
            let mut room = AT_ONCE as u64;
            while let Some(range) = next.take() {
                if room == 0 || batch.len() == remote_memory::RANGES {
                    next = Some(range);
                    break;
                }
                let end = range.end.min(range.start.saturating_add(room));
                room -= end - range.start;
                next = if end < range.end { Some(end..range.end) } else { left.next() };
                batch.push(range.start..end);
            }
            self.read_batch(batch, &mut totals, each)?;
        }
        Ok(totals)
    }

    fn read_batch(
        &mut self,
        mut batch: Vec<Range<u64>>,
        totals: &mut ReadTotals,
        each: &mut dyn FnMut(u64, Contents<'_>) -> Result<()>,
    ) -> Result<()> {
        while !batch.is_empty() {
            let mut read = match remote_memory::read(self.process, &batch, &mut self.buffer) {
                // Its first thread may have ended.
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {
                    remote_memory::read(self.thread, &batch, &mut self.buffer).unwrap_or(0)
                }
                read => read.unwrap_or(0),
            };
            read -= read % BYTES_OF_A_PAGE;
            let mut page = batch.first().map_or(0, |range| range.start);
            if read == 0 {
                // This page may not be read by the process itself, or is gone.
                let buffer = self.buffer.get_mut(..BYTES_OF_A_PAGE).unwrap_or_default();
                if self.memory.read_exact_at(buffer, page).is_ok() {
                    read = BYTES_OF_A_PAGE;
                } else {
                    totals.gone += PAGE;
                    page += PAGE;
                    advance(&mut batch, page);
                    continue;
                }
            }
            let mut bytes = self.buffer.get(..read).unwrap_or_default();
            while let Some(range) = batch.first().filter(|_| !bytes.is_empty()) {
                let length = bytes.len().min(usize::try_from(range.end - range.start).unwrap_or(usize::MAX));
                let (these, rest) = bytes.split_at(length);
                tell(range.start, these, totals, each)?;
                let reached = range.start + length as u64;
                advance(&mut batch, reached);
                bytes = rest;
            }
        }
        Ok(())
    }
}

/// Drops what comes before this address of the first range.
fn advance(batch: &mut Vec<Range<u64>>, reached: u64) {
    if let Some(first) = batch.first_mut() {
        first.start = reached;
        if first.start >= first.end {
            batch.remove(0);
        }
    }
}

/// Tells pages of one kind that follow each other at once.
fn tell(
    address: u64,
    bytes: &[u8],
    totals: &mut ReadTotals,
    each: &mut dyn FnMut(u64, Contents<'_>) -> Result<()>,
) -> Result<()> {
    let mut at = address;
    let pages: Vec<&[u8]> = bytes.chunks(BYTES_OF_A_PAGE).collect();
    let mut rest = bytes;
    for run in pages.chunk_by(|one, other| is_zero(one) == is_zero(other)) {
        let length = run.iter().map(|page| page.len()).sum();
        let (these, after) = rest.split_at(length);
        if run.first().is_some_and(|page| is_zero(page)) {
            totals.zeros += length as u64;
            each(at, Contents::Zeros(length as u64))?;
        } else {
            totals.bytes += length as u64;
            each(at, Contents::Bytes(these))?;
        }
        (at, rest) = (at + length as u64, after);
    }
    Ok(())
}

fn is_zero(page: &[u8]) -> bool {
    let (before, words, after) = (page.get(..8), page.chunks_exact(8), page.chunks_exact(8).remainder());
    before.is_some_and(|first| first == [0; 8])
        && after.iter().all(|byte| *byte == 0)
        && words.map(|word| word.try_into().map_or(1, u64::from_ne_bytes)).all(|word| word == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_told_in_runs() {
        let mut memory = vec![0_u8; 6 * BYTES_OF_A_PAGE];
        let begin = memory.as_ptr() as u64;
        let start = begin.next_multiple_of(PAGE);
        let page = |index: u64| (start + index * PAGE - begin) as usize;
        memory[page(1)..page(3)].fill(7);
        let own = nix::unistd::getpid().as_raw();
        let mut reader = PageReader::open(own, own).expect("our own");
        let mut told = Vec::new();
        let ranges = [start..start + 3 * PAGE, start + 3 * PAGE..start + 4 * PAGE, 0..PAGE, 5..5];
        let totals = reader
            .read(&ranges, &mut |address, contents| {
                told.push(match contents {
                    Contents::Zeros(length) => (address - start, length, 0),
                    Contents::Bytes(bytes) => (address - start, bytes.len() as u64, bytes[0]),
                });
                Ok(())
            })
            .expect("read");
        assert_eq!(told, [(0, PAGE, 0), (PAGE, 2 * PAGE, 7), (3 * PAGE, PAGE, 0)]);
        assert_eq!(totals, ReadTotals { bytes: 2 * PAGE, zeros: 2 * PAGE, gone: PAGE });
    }

    #[test]
    fn a_page_of_zeros_is_zero_to_its_last_byte() {
        let mut page = vec![0; BYTES_OF_A_PAGE];
        assert!(is_zero(&page));
        page[BYTES_OF_A_PAGE - 1] = 1;
        assert!(!is_zero(&page));
    }
}
