// SPDX-License-Identifier: Apache-2.0
//! The address space of a process: what is mapped, and which pages of it are where.
//!
//! ```text
//! mm-PID.img       areas, and where arguments and environment are
//! pagemap-PID.img  the number of a file of pages, then runs of pages in the order in which they stand there
//! pages-N.img      the pages
//! ```

use std::io::{Read as _, Write};
use std::ops::Range;
use std::os::fd::BorrowedFd;

use protobuf::Message;

use super::proto::criu_images::{MmEntry, PagemapEntry, PagemapHead, VmaEntry};
use super::{Image, Kind, list, open};
use crate::{Context, Error, ErrorKind, Result};

/// Bytes of a page in an image.
pub const PAGE: u64 = 4096;

/// Bits of [`PagemapEntry`]'s flags.
const IN_PARENT: u32 = 1;
const LAZY: u32 = 2;
const PRESENT: u32 = 4;

/// The bit of a `VmaEntry`'s advice is its number in madvise(2).
const WIPE_ON_FORK: u32 = 18;

/// An address space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// Where the arguments are, one after the other, each ended by a zero byte.
    pub arguments: (u64, u64),
    /// Where the environment is, likewise.
    pub environment: (u64, u64),
    /// Number of the file that is executed.
    pub program: Option<u32>,
    /// What is mapped, in ascending order.
    pub areas: Vec<Area>,
}

/// A part of an address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// Its first address.
    pub start: u64,
    /// The first address after it.
    pub end: u64,
    /// What it is: `heap`, `stack`, `file`, `shared file`, `anonymous`, `shared`, `sysv`, `memfd`, `vdso` …
    pub kind: &'static str,
    /// Whether it may be read, written and executed.
    pub allows: [bool; 3],
    /// Of a mapped file: its number, and where in it the area begins.
    pub file: Option<(u32, u64)>,
    /// Whether a child of fork(2) finds zeros there (`MADV_WIPEONFORK`).
    pub wiped_on_fork: bool,
}

impl Area {
    /// How many bytes it spans.
    pub fn length(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

/// Which pages of a process, or of shared memory, a dump has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PageTable {
    /// The number in the name of the file of pages.
    pub file: u32,
    /// Runs of pages, as they are listed.
    pub runs: Vec<Run>,
}

/// A run of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first one's address.
    pub address: u64,
    /// How many.
    pub pages: u64,
    /// Where they are.
    pub kept: Kept,
    /// Of those that are in the file: where the first one begins.
    pub offset: u64,
    /// Whether a restore on demand leaves them to who provides the memory.
    pub on_demand: bool,
}

/// Where pages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// In the file of pages.
    Here,
    /// In the images of an earlier dump.
    InParent,
    /// Still with the source.
    Lazy,
    /// Nowhere: they are zero.
    Zero,
}

/// Reads `mm-PID.img`.
///
/// # Errors
/// `InvalidArchive` if it is damaged.
pub fn memory(bytes: &[u8]) -> Result<Memory> {
    let entry: MmEntry = Image::read(bytes, Kind::Memory)?.only()?;
    let range = |start: Option<u64>, end: Option<u64>| (start.unwrap_or(0), end.unwrap_or(0));
    Ok(Memory {
        arguments: range(entry.arg_start, entry.arg_end),
        environment: range(entry.env_start, entry.env_end),
        program: entry.exe_file_id,
        areas: entry.vmas.iter().map(area).collect(),
    })
}

fn area(entry: &VmaEntry) -> Area {
    let status = entry.status.unwrap_or(0);
    let has = |bit: u32| status & (1 << bit) != 0;
    // The first that fits, from the special to the general.
    let kinds = [
        (2, "vsyscall"),
        (3, "vdso"),
        (12, "vvar"),
        (1, "stack"),
        (15, "shadow stack"),
        (5, "heap"),
        (10, "sysv"),
        (11, "socket"),
        (13, "aio"),
        (14, "memfd"),
        (16, "guard"),
        (6, "file"),
        (7, "shared file"),
        (8, "shared"),
        (9, "anonymous"),
    ];
    let kind = kinds.iter().find(|(bit, _)| has(*bit)).map_or("other", |(_, name)| name);
    let prot = entry.prot.unwrap_or(0);
    let number = entry.shmid.and_then(|id| u32::try_from(id).ok());
    Area {
        start: entry.start.unwrap_or(0),
        end: entry.end.unwrap_or(0),
        kind,
        allows: [1, 2, 4].map(|bit| prot & bit != 0),
        file: number.filter(|_| has(6) || has(7)).map(|id| (id, entry.pgoff.unwrap_or(0))),
        wiped_on_fork: entry.madv.is_some_and(|advice| advice & (1 << WIPE_ON_FORK) != 0),
    }
}

/// Reads `pagemap-PID.img` or `pagemap-shmem-ID.img`; an empty one is a table of nothing.
///
/// # Errors
/// `InvalidArchive` if it is damaged.
pub fn page_table(bytes: &[u8]) -> Result<PageTable> {
    let mut image = Image::read(bytes, Kind::Pagemap)?;
    let Some(file) = image.next::<PagemapHead>()?.and_then(|head| head.pages_id) else {
        return Ok(PageTable::default());
    };
    let mut offset: u64 = 0;
    let run = |entry: PagemapEntry| {
        let (kept, pages) = kept(&entry);
        let on_demand = entry.flags.is_some_and(|flags| flags & LAZY != 0);
        let run = Run { address: entry.vaddr.unwrap_or(0), pages, kept, offset, on_demand };
        if kept == Kept::Here {
            offset = offset.saturating_add(pages.saturating_mul(PAGE));
        }
        run
    };
    Ok(PageTable { file, runs: image.list()?.into_iter().map(run).collect() })
}

/// What a dump has left where it is: of each process, by its number in the names of images, whole pages in ascending order.
///
/// # Errors
/// `InvalidArchive` for a table that is damaged; else when it cannot be read.
pub fn left_behind(images: BorrowedFd<'_>) -> Result<Vec<(u32, Vec<Range<u64>>)>> {
    let mut left = Vec::new();
    for pid in list(images, "pagemap-", ".img")?.iter().filter_map(|middle| middle.parse().ok()) {
        let name = format!("pagemap-{pid}.img");
        let mut bytes = Vec::new();
        if let Some(mut file) = open(images, &name)? {
            file.read_to_end(&mut bytes).context(|| format!("read {name}"))?;
        }
        let table = page_table(&bytes).context(|| format!("read {name}"))?;
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for run in table.runs.iter().filter(|run| run.kept == Kept::Lazy && run.pages > 0) {
            let end = run.pages.checked_mul(PAGE).and_then(|bytes| run.address.checked_add(bytes));
            let after = ranges.last().is_none_or(|last| last.end <= run.address);
            match end.filter(|_| after && run.address.is_multiple_of(PAGE)) {
                Some(end) => ranges.push(run.address..end),
                None => {
                    let message = format!("{name} lists pages that cannot be");
                    return Err(Error::new(ErrorKind::InvalidArchive, message));
                }
            }
        }
        if !ranges.is_empty() {
            left.push((pid, ranges));
        }
    }
    Ok(left)
}

/// A `pagemap-PID.img` in the making.
#[derive(Debug)]
pub struct PageTableWriter<W> {
    to: W,
    /// Whether a number of pages is written as CRIU 4.2 does.
    wide: bool,
}

impl<W: Write> PageTableWriter<W> {
    /// The table of the file of pages with this number. `wide` as CRIU 4.2 and newer write it.
    ///
    /// # Errors
    /// As writing.
    pub fn new(mut to: W, file: u32, wide: bool) -> Result<Self> {
        for magic in Kind::Pagemap.magic() {
            to.write_all(&magic.to_le_bytes()).context(|| "write a table of pages")?;
        }
        let head = PagemapHead { pages_id: Some(file), ..PagemapHead::new() };
        let mut table = Self { to, wide };
        table.message(&head)?;
        Ok(table)
    }

    /// Adds a run of pages; `flags` are CRIU's.
    ///
    /// # Errors
    /// `InvalidInput` for more pages than an older CRIU can have; else as writing.
    pub fn run(&mut self, address: u64, pages: u64, flags: u32) -> Result<()> {
        let mut entry = PagemapEntry { vaddr: Some(address), flags: Some(flags), ..PagemapEntry::new() };
        if self.wide {
            (entry.compat_nr_pages, entry.nr_pages) = (Some(0), Some(pages));
        } else {
            let pages = u32::try_from(pages);
            entry.compat_nr_pages =
                Some(pages.context_kind(ErrorKind::InvalidInput, || "too many pages in a row")?);
        }
        self.message(&entry)
    }

    /// Writes out what is held back.
    ///
    /// # Errors
    /// As writing.
    pub fn finish(mut self) -> Result<()> {
        self.to.flush().context(|| "write a table of pages")
    }

    fn message(&mut self, message: &impl Message) -> Result<()> {
        let context = || "write a table of pages";
        let bytes = message.write_to_bytes().context(context)?;
        self.to.write_all(&(bytes.len() as u32).to_le_bytes()).context(context)?;
        self.to.write_all(&bytes).context(context)
    }
}

/// Where the pages of a run are, and how many they are.
pub(super) fn kept(entry: &PagemapEntry) -> (Kept, u64) {
    let kept = match entry.flags {
        Some(flags) if flags & PRESENT != 0 => Kept::Here,
        Some(flags) if flags & IN_PARENT != 0 => Kept::InParent,
        Some(flags) if flags & LAZY != 0 => Kept::Lazy,
        Some(_) => Kept::Zero,
        None if entry.in_parent == Some(true) => Kept::InParent,
        None => Kept::Here,
    };
    (kept, entry.nr_pages.or(entry.compat_nr_pages.map(u64::from)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::super::written;
    use super::*;

    #[test]
    fn areas_say_what_they_are() {
        // [start 0x1000, end 0x3000, pgoff 0, shmid 5, prot 5, status regular + private file]
        let file = [8, 0x80, 0x20, 16, 0x80, 0x60, 24, 0, 32, 5, 40, 5, 56, 0x41];
        let heap = [8, 0x80, 0x60, 16, 0x80, 0x80, 1, 40, 3, 56, 0xa1, 4];
        let image = written(
            Kind::Memory,
            &[&[&[64, 9, 72, 12, 96, 8, 0x72, 14][..], &file, &[0x72, 12], &heap].concat()],
        );
        let found = memory(&image).expect("good");
        assert_eq!((found.arguments, found.environment, found.program), ((9, 12), (0, 0), Some(8)));
        let [file, heap] = found.areas[..] else { panic!("{found:?}") };
        assert_eq!((file.kind, file.allows, file.file), ("file", [true, false, true], Some((5, 0))));
        assert_eq!((heap.kind, heap.allows, heap.file), ("heap", [true, true, false], None));
        assert_eq!((file.length(), heap.length()), (0x2000, 0x1000));
    }

    #[test]
    fn pages_are_found_by_those_before_them() {
        let runs: [&[u8]; 6] = [
            &[8, 1],
            &[8, 0x80, 0x20, 16, 3, 32, 4],
            &[8, 0x80, 0x60, 16, 9, 32, 1],
            &[8, 0x80, 0x20, 32, 2, 40, 7],
            &[8, 0x80, 0x20, 32, 0, 40, 2],
            &[8, 0x80, 0x20, 16, 1, 32, 6],
        ];
        let found = page_table(&written(Kind::Pagemap, &runs)).expect("good");
        let facts: Vec<_> = found.runs.iter().map(|run| (run.kept, run.pages, run.offset)).collect();
        let expected = [
            (Kept::Here, 3, 0),
            (Kept::InParent, 9, 3 * PAGE),
            (Kept::Lazy, 7, 3 * PAGE),
            (Kept::Zero, 2, 3 * PAGE),
            (Kept::Here, 1, 3 * PAGE),
        ];
        assert_eq!((found.file, &facts[..]), (1, &expected[..]));
        let on_demand: Vec<_> = found.runs.iter().map(|run| run.on_demand).collect();
        assert_eq!(on_demand, [false, false, true, false, true]);
        let huge = [8, 1, 32, 4, 40, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        let found =
            page_table(&written(Kind::Pagemap, &[&[8, 1], &huge, &huge])).expect("sums do not overflow");
        assert_eq!(found.runs[1].offset, u64::MAX);
    }

    #[test]
    fn what_is_left_where_it_is_is_found_in_all_tables() {
        let dir = tempfile::tempdir().expect("tempdir");
        let runs: [&[u8]; 4] = [
            &[8, 1],
            &[8, 0x80, 0x20, 32, 2, 40, 3],
            &[8, 0x80, 0x80, 1, 32, 4, 40, 1],
            &[8, 0x80, 0xa0, 1, 32, 2, 40, 1],
        ];
        let table = written(Kind::Pagemap, &runs);
        std::fs::write(dir.path().join("pagemap-7.img"), &table).expect("write");
        std::fs::write(dir.path().join("pagemap-shmem-9.img"), &table).expect("write");
        std::fs::write(dir.path().join("pagemap-8.img"), written(Kind::Pagemap, &runs[..1])).expect("write");
        let images = std::fs::File::open(dir.path()).expect("open");
        let left = left_behind(images.as_fd()).expect("good");
        assert_eq!(left, [(7, vec![0x1000..0x4000, 0x5000..0x6000])]);
        let twice = written(Kind::Pagemap, &[runs[0], runs[1], runs[1]]);
        std::fs::write(dir.path().join("pagemap-7.img"), twice).expect("write");
        left_behind(images.as_fd()).expect_err("they overlap");
    }
}
