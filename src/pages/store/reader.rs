// SPDX-License-Identifier: Apache-2.0
//! Tells what is in a store that is complete. Must not know who asks.

use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::index::{self, Index};
use super::runs::{Place, Runs};
use super::{INDEX, PAGES};
use crate::criu::image::PAGE;
use crate::pages::track::Contents;
use crate::{Context, Error, ErrorKind, Result};

/// Bytes that are told at once.
const AT_ONCE: u64 = 1 << 20;

/// Whether there is a store in this directory that has all of its pages.
pub fn is_complete(directory: &Path) -> bool {
    directory.join(INDEX).exists()
}

/// A store that nothing is added to any more. It holds its file open, which may lose its name.
#[derive(Debug)]
pub struct StoreReader {
    pages: File,
    index: Index,
    buffer: Vec<u8>,
}

impl StoreReader {
    /// Opens the store in a directory.
    ///
    /// # Errors
    /// `InvalidArchive` for one that is damaged or not complete; else when it cannot be opened.
    pub fn open(directory: &Path) -> Result<Self> {
        let open = |name: &str| {
            let path = directory.join(name);
            File::open(&path).context_kind(ErrorKind::InvalidArchive, || format!("open {}", path.display()))
        };
        Self::of(open(PAGES)?, open(INDEX)?)
    }

    /// The same, with both of its files, `pages` and `index`, open.
    ///
    /// # Errors
    /// As [`StoreReader::open`].
    pub fn of(pages: File, index: File) -> Result<Self> {
        let bytes = pages.metadata().context(|| "stat a store of memory")?.len();
        let index = index::read(BufReader::new(index), bytes)
            .context_kind(ErrorKind::InvalidArchive, || "read the index of a store of memory")?;
        Ok(Self { pages, index, buffer: Vec::new() })
    }

    /// Whether it has anything of this process, by CRIU's number of it.
    pub fn knows(&self, pid: u32) -> bool {
        self.runs_of(pid).is_some()
    }

    /// What is at this address of a process and after it, of one kind and not more than `limit` bytes, in whole pages. `None`: the store
    /// does not have that page.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn pages(&mut self, pid: u32, address: u64, limit: u64) -> Result<Option<Contents<'_>>> {
        let Some(run) = self.runs_of(pid).and_then(|runs| runs.at(address)) else { return Ok(None) };
        let length = run.length.min((limit - limit % PAGE).max(PAGE));
        match run.place {
            Place::Zeros => Ok(Some(Contents::Zeros(length))),
            Place::At(offset) => self.read(offset, length).map(|bytes| Some(Contents::Bytes(bytes))),
        }
    }

    /// Bytes of the file of pages, at most a mebibyte.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read(&mut self, offset: u64, length: u64) -> Result<&[u8]> {
        let length = length.min(AT_ONCE) as usize;
        self.buffer.resize(length.max(self.buffer.len()), 0);
        let buffer = self.buffer.get_mut(..length).unwrap_or_default();
        self.pages.read_exact_at(buffer, offset).context(|| "read a store of memory")?;
        Ok(buffer)
    }

    /// All that it has in these addresses of a process, in order, in pieces that lie in them: where each begins, its length in bytes, and
    /// where it is.
    ///
    /// # Errors
    /// `InvalidArchive` when it does not have all of it.
    pub fn places(&self, pid: u32, range: &Range<u64>) -> Result<Vec<(u64, u64, Place)>> {
        let found = self.runs_of(pid).map(|runs| runs.within(range)).unwrap_or_default();
        let mut reached = range.start;
        for (start, run) in &found {
            if *start != reached {
                break;
            }
            reached += run.length;
        }
        if reached < range.end {
            let message = format!("memory of process {pid} at {reached:#x} has not come");
            return Err(Error::new(ErrorKind::InvalidArchive, message));
        }
        Ok(found.into_iter().map(|(start, run)| (start, run.length, run.place)).collect())
    }

    /// Bytes of the file of pages.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn size(&self) -> Result<u64> {
        self.pages.metadata().map(|metadata| metadata.len()).context(|| "stat a store of memory")
    }

    fn runs_of(&self, pid: u32) -> Option<&Runs> {
        self.index.processes.get(&pid).and_then(|space| self.index.spaces.get(space))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Batch, StoreWriter};
    use super::*;

    fn page(byte: u8) -> Vec<u8> {
        vec![byte; PAGE as usize]
    }

    fn take(
        writer: &mut StoreWriter,
        space: u32,
        runs: &[(u64, Contents<'_>)],
        room: &mut u64,
    ) -> Result<()> {
        let mut batch = Batch::new(space, 1 << 20);
        for (address, contents) in runs {
            batch.add(address * PAGE, *contents);
        }
        writer.take(batch.bytes(), room)
    }

    fn byte(reader: &mut StoreReader, pid: u32, address: u64) -> Option<u8> {
        match reader.pages(pid, address * PAGE, PAGE).expect("readable")? {
            Contents::Zeros(length) => {
                assert_eq!(length, PAGE);
                Some(0)
            }
            Contents::Bytes(bytes) => {
                assert!(bytes.len() == PAGE as usize && bytes.iter().all(|byte| *byte == bytes[0]));
                Some(bytes[0])
            }
        }
    }

    #[test]
    fn the_last_that_came_is_there_and_takes_no_more_room() {
        let top = tempfile::tempdir().expect("tempdir");
        let directory = top.path().join("store");
        let mut writer = StoreWriter::create(&directory).expect("a new one");
        let mut room = 7 * PAGE;
        let four = [page(1), page(2), page(3), page(4)].concat();
        take(&mut writer, 5, &[(10, Contents::Bytes(&four)), (20, Contents::Zeros(2 * PAGE))], &mut room)
            .expect("taken");
        // Again, and around it.
        let three = [page(6), page(7), page(8)].concat();
        take(&mut writer, 5, &[(9, Contents::Bytes(&three))], &mut room).expect("taken");
        take(&mut writer, 6, &[(10, Contents::Bytes(&page(9)))], &mut room).expect("taken");
        assert_eq!(room, PAGE);
        // The place of what is zero now is another's next.
        take(&mut writer, 5, &[(12, Contents::Zeros(PAGE))], &mut room).expect("taken");
        take(&mut writer, 6, &[(11, Contents::Bytes(&three[..2 * PAGE as usize]))], &mut room)
            .expect("taken");
        assert_eq!((room, writer.size()), (0, 7 * PAGE));
        StoreReader::open(&directory).expect_err("it is not complete");
        assert!(!is_complete(&directory));
        let full = take(&mut writer, 6, &[(30, Contents::Bytes(&page(1)))], &mut room).expect_err("full");
        assert_eq!(full.kind(), ErrorKind::Storage);
        writer.seal(&[(1, 5), (2, 6), (3, 77)]).expect("written");

        assert!(is_complete(&directory));
        let mut reader = StoreReader::open(&directory).expect("complete");
        std::fs::remove_dir_all(&directory).expect("it needs no name");
        let found: Vec<_> = (8..16).map(|address| byte(&mut reader, 1, address)).collect();
        assert_eq!(found, [None, Some(6), Some(7), Some(8), Some(0), Some(4), None, None]);
        assert_eq!((byte(&mut reader, 1, 20), byte(&mut reader, 1, 21)), (Some(0), Some(0)));
        let found: Vec<_> = (10..14).map(|address| byte(&mut reader, 2, address)).collect();
        assert_eq!(found, [Some(9), Some(6), Some(7), None]);
        assert_eq!((byte(&mut reader, 3, 10), byte(&mut reader, 4, 10)), (None, None));
        assert!(reader.knows(2) && !reader.knows(3));
        let places = reader.places(1, &(12 * PAGE..14 * PAGE)).expect("all of it");
        assert_eq!(places.first(), Some(&(12 * PAGE, PAGE, Place::Zeros)));
        assert_eq!(places.len(), 2);
        let missing = reader.places(1, &(12 * PAGE..15 * PAGE)).expect_err("not all of it");
        assert!(missing.to_string().contains("at 0xe000 has not come"), "{missing}");
    }

    #[test]
    fn a_damaged_store_is_refused() {
        let top = tempfile::tempdir().expect("tempdir");
        let directory = top.path().join("store");
        let mut writer = StoreWriter::create(&directory).expect("a new one");
        take(&mut writer, 0, &[(1, Contents::Bytes(&page(1)))], &mut u64::MAX.clone()).expect("taken");
        writer.take(b"no batch", &mut 0).expect_err("it is none");
        writer.seal(&[(1, 0)]).expect("written");
        StoreReader::open(&directory).expect("complete");
        File::options().write(true).open(directory.join("pages")).expect("open").set_len(9).expect("cut");
        let error = StoreReader::open(&directory).expect_err("it is cut off");
        assert_eq!(error.kind(), ErrorKind::InvalidArchive);
        StoreWriter::create(&directory).expect_err("there is one");
    }
}
