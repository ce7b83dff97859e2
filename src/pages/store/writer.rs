// SPDX-License-Identifier: Apache-2.0
//! Takes pages as they come. Must not know when all of them have.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::runs::{Place, Run, Runs};
use super::{INDEX, PAGES, RUNS, SPACES, runs_of};
use crate::criu::image::PAGE;
use crate::pages::track::Contents;
use crate::{Context, Error, ErrorKind, Result};

/// So much may be written before it must be on the disk: the end, for which processes stand still, has little to wait for.
const UNSYNCED: u64 = 32 << 20;

/// A store in the making.
#[derive(Debug)]
pub struct StoreWriter {
    directory: PathBuf,
    pages: File,
    /// Where the next page comes that has no place yet.
    end: u64,
    /// Places of pages that are zero now: where they begin, and how many bytes they are.
    free: Vec<(u64, u64)>,
    /// Bytes that may not be on the disk yet.
    unsynced: u64,
    spaces: HashMap<u32, Runs>,
}

impl StoreWriter {
    /// Makes the directory of a store, and an empty one in it.
    ///
    /// # Errors
    /// When it is there already or cannot be made.
    pub fn create(directory: &Path) -> Result<Self> {
        let made = || format!("make a store of memory in {}", directory.display());
        fs::DirBuilder::new().mode(0o700).create(directory).context(made)?;
        let pages = File::options().write(true).create_new(true).mode(0o600).open(directory.join(PAGES));
        Ok(Self {
            directory: directory.to_owned(),
            pages: pages.context(made)?,
            end: 0,
            free: Vec::new(),
            unsynced: 0,
            spaces: HashMap::new(),
        })
    }

    /// Takes a batch. What it says of a page replaces what was said before. Of `room`, in bytes, that is taken which the store grows by.
    ///
    /// # Errors
    /// `InvalidInput` for what is no batch; `Storage` when there is no room, or more runs of pages than one store may have.
    pub fn take(&mut self, batch: &[u8], room: &mut u64) -> Result<()> {
        let (space, runs) = runs_of(batch)?;
        if !self.spaces.contains_key(&space) && self.spaces.len() >= SPACES {
            return Err(Error::new(ErrorKind::Storage, "too many processes"));
        }
        for (address, contents) in runs {
            match contents {
                Contents::Zeros(length) => self.zeros(space, address, length),
                Contents::Bytes(bytes) => self.bytes(space, address, bytes, room)?,
            }
        }
        self.unsynced += batch.len() as u64;
        if self.unsynced >= UNSYNCED {
            self.pages.sync_data().context(keep)?;
            self.unsynced = 0;
        }
        let count: usize = self.spaces.values().map(Runs::count).sum();
        if count > RUNS {
            return Err(Error::new(ErrorKind::Storage, "the memory is in too many pieces"));
        }
        Ok(())
    }

    fn zeros(&mut self, space: u32, address: u64, length: u64) {
        let runs = self.spaces.entry(space).or_default();
        for (_, run) in runs.within(&(address..address + length)) {
            if let Place::At(offset) = run.place {
                self.free.push((offset, run.length));
            }
        }
        runs.put(address, Run { length, place: Place::Zeros });
    }

    fn bytes(&mut self, space: u32, address: u64, bytes: &[u8], room: &mut u64) -> Result<()> {
        let Self { spaces, pages, .. } = self;
        let runs = spaces.entry(space).or_default();
        let end = address + bytes.len() as u64;
        let slice = |from: u64, to: u64| {
            bytes.get((from - address) as usize..(to - address) as usize).unwrap_or_default()
        };
        let (mut at, mut fresh) = (address, Vec::new());
        for (start, run) in runs.within(&(address..end)) {
            let Place::At(offset) = run.place else { continue };
            pages.write_all_at(slice(start, start + run.length), offset).context(keep)?;
            fresh.push(at..start);
            at = start + run.length;
        }
        fresh.push(at..end);
        for range in fresh {
            let mut from = range.start;
            while from < range.end {
                let (offset, length) = self.place(range.end - from, room)?;
                self.pages.write_all_at(slice(from, from + length), offset).context(keep)?;
                self.spaces.entry(space).or_default().put(from, Run { length, place: Place::At(offset) });
                from += length;
            }
        }
        Ok(())
    }

    /// A place for so many bytes, or for fewer.
    fn place(&mut self, wanted: u64, room: &mut u64) -> Result<(u64, u64)> {
        if let Some((offset, length)) = self.free.pop() {
            let used = length.min(wanted);
            if used < length {
                self.free.push((offset + used, length - used));
            }
            return Ok((offset, used));
        }
        *room = room.checked_sub(wanted).ok_or_else(|| {
            Error::new(ErrorKind::Storage, "there is no room for more of the container's memory")
                .with_hint("choose a state root on a larger file system with --root")
        })?;
        let offset = self.end;
        self.end += wanted;
        Ok((offset, wanted))
    }

    /// Nothing more comes: these processes, by CRIU's numbers, have these memories. Both files are on the disk when this returns.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn seal(&mut self, processes: &[(u32, u32)]) -> Result<()> {
        let path = self.directory.join(INDEX);
        let written = || -> io::Result<()> {
            self.pages.set_len(self.end)?;
            self.pages.sync_all()?;
            let partial = self.directory.join("index.partial");
            let mut index = BufWriter::new(File::create(&partial)?);
            super::index::write(&mut index, processes, &self.spaces)?;
            index.flush()?;
            index.get_ref().sync_all()?;
            fs::rename(&partial, &path)?;
            File::open(&self.directory)?.sync_all()
        };
        written().context(|| format!("write {}", path.display()))
    }

    /// Bytes of pages that it keeps, in whole pages.
    pub fn size(&self) -> u64 {
        self.end - self.end % PAGE
    }
}

fn keep() -> &'static str {
    "keep memory that has come"
}
