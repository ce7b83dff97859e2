// SPDX-License-Identifier: Apache-2.0
//! `PAGEMAP_SCAN` on `/proc/PID/pagemap` (Linux 6.7, Documentation/admin-guide/mm/pagemap.rst): which pages a memory has, and which of
//! them were written to.
//!
//! A page that is not there is never asked for: to protect it from writes the kernel would leave a mark in its place, which
//! costs a page table, and which CRIU takes for a page.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// `PAGEMAP_SCAN` of linux/fs.h.
pub(in crate::sys) const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610_u32 as libc::Ioctl;

const WRITE_PROTECT_MATCHING: u64 = 1 << 0;
const CHECK_REGISTERED: u64 = 1 << 1;

const WRITTEN: u64 = 1 << 1;
const OF_A_FILE: u64 = 1 << 2;
const PRESENT: u64 = 1 << 3;
const SWAPPED: u64 = 1 << 4;

/// Runs of pages that one call tells at most.
const RUNS: usize = 4096;

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
pub(in crate::sys) struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vector: u64,
    vector_length: u64,
    most_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_any: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    start: u64,
    end: u64,
    categories: u64,
}

/// Which pages are asked for. Those of a private mapping that are still the file's are never among the first three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// Of registered memory, those that were written to since they were last taken. They are taken.
    Written,
    /// Of registered memory, all of its own. They are taken.
    All,
    /// All of its own, registered or not. Nothing changes.
    Own,
    /// All, also a file's or shared ones. Nothing changes.
    Any,
}

/// What is behind a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Nothing, so that all its pages are the process's own. It costs the kernel less to list them.
    Nothing,
    /// Perhaps a file, so that each page is asked for whose it is.
    File,
}

/// The pages of one memory: of the one that the thread had when this was opened, also when it executes another program.
#[derive(Debug)]
pub struct Pagemap(File);

impl Pagemap {
    /// Opens that of a thread.
    ///
    /// # Errors
    /// `ENOENT` when it is gone, `EACCES` for who may not trace it.
    pub fn open(thread: i32) -> io::Result<Self> {
        File::open(format!("/proc/{thread}/pagemap")).map(Self)
    }

    /// Adds to `found` where such pages are in this range. A page is taken and told in one step: what is written to it
    /// afterwards is told the next time.
    ///
    /// # Errors
    /// `EPERM` when a part of the range is not registered, and then pages before it may have been taken and not told.
    pub fn scan(
        &self,
        range: &Range<u64>,
        backing: Backing,
        which: Pages,
        found: &mut Vec<Range<u64>>,
    ) -> io::Result<()> {
        let not_a_files = if backing == Backing::File { OF_A_FILE } else { 0 };
        let (flags, mask) = match which {
            Pages::Written => (WRITE_PROTECT_MATCHING | CHECK_REGISTERED, WRITTEN | not_a_files),
            Pages::All => (WRITE_PROTECT_MATCHING | CHECK_REGISTERED, not_a_files),
            Pages::Own => (0, not_a_files),
            Pages::Any => (0, 0),
        };
        let mut runs = [Run::default(); RUNS];
        let mut start = range.start;
        while start < range.end {
            let mut argument = ScanArgument {
                size: size_of::<ScanArgument>() as u64,
                flags,
                start,
                end: range.end,
                vector: runs.as_mut_ptr() as u64,
                vector_length: RUNS as u64,
                category_inverted: mask & OF_A_FILE,
                category_mask: mask,
                category_any: PRESENT | SWAPPED,
                return_mask: PRESENT,
                ..ScanArgument::default()
            };
            // SAFETY: PAGEMAP_SCAN reads and writes one such structure and writes at most `vector_length` runs to `vector`,
            // which are there; both live through the call.
            let count = unsafe { libc::ioctl(self.0.as_raw_fd(), PAGEMAP_SCAN, &raw mut argument) };
            let Ok(count) = usize::try_from(count) else {
                match io::Error::last_os_error() {
                    e if e.kind() == io::ErrorKind::Interrupted => continue,
                    e => return Err(e),
                }
            };
            runs.iter().take(count).for_each(|run| add(found, run.start..run.end));
            if argument.walk_end <= start {
                return Err(io::Error::other("the kernel's walk over pages does not go on"));
            }
            start = argument.walk_end;
        }
        Ok(())
    }
}

/// Adds a run behind the others; what adjoins is one.
fn add(found: &mut Vec<Range<u64>>, run: Range<u64>) {
    match found.last_mut() {
        Some(last) if last.end == run.start => last.end = run.end,
        _ => found.push(run),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_the_kernels() {
        assert_eq!((size_of::<ScanArgument>(), size_of::<Run>()), (96, 24));
    }

    #[test]
    fn runs_that_adjoin_are_one() {
        let mut found = Vec::new();
        for run in [1..2, 2..5, 7..8] {
            add(&mut found, run);
        }
        assert_eq!(found, [1..5, 7..8]);
    }
}
