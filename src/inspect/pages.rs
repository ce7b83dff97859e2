// SPDX-License-Identifier: Apache-2.0
//! The contents of all pages of a checkpoint as a number each, to compare them with those of another: eight bytes of memory
//! a page, whatever the size of the checkpoint.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::images::{Images, Space};
use crate::archive::{Bases, Selection, Wanted, select};
use crate::criu::image::{Kept, PAGE};
use crate::sys::beneath::open_beneath;
use crate::{Context, Error, ErrorKind, Result};

/// Pages that are compared: of 256 GiB.
const MOST: u64 = 1 << 26;
/// Bytes that are read at once.
const PIECE: u64 = 1 << 20;

/// The numbers of pages, by file and place in it.
#[derive(Debug)]
pub(super) struct PageHashes<'s> {
    state: &'s RandomState,
    files: BTreeMap<u32, Vec<u64>>,
    left: u64,
}

impl<'s> PageHashes<'s> {
    /// Reads all pages of the checkpoint at `path`, of which the images are known.
    pub(super) fn read(path: &Path, images: &Images, bases: &Bases, state: &'s RandomState) -> Result<Self> {
        let mut hashes = Self { state, files: BTreeMap::new(), left: MOST };
        let reading = || format!("read {}", path.display());
        let file = File::open(path).context(reading)?;
        if file.metadata().context(reading)?.is_dir() {
            hashes.of_directory(&file, images).context(reading)?;
        } else {
            select(file, bases, &mut hashes).context(reading)?;
        }
        Ok(hashes)
    }

    fn of_directory(&mut self, directory: &File, images: &Images) -> Result<()> {
        for number in images.page_files() {
            let name = format!("pages-{number}.img");
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
            let Ok(file) = open_beneath(directory.as_fd(), &name[..], flags, Mode::empty()) else { continue };
            let mut file = File::from(file);
            loop {
                let mut bytes = Vec::new();
                (&mut file).take(PIECE).read_to_end(&mut bytes).context(|| format!("read {name}"))?;
                if bytes.is_empty() {
                    break;
                }
                self.add(number, &bytes)?;
            }
        }
        Ok(())
    }

    /// Pages that follow those before.
    fn add(&mut self, file: u32, bytes: &[u8]) -> Result<()> {
        let pages = bytes.chunks(PAGE as usize);
        let too_many =
            || Error::new(ErrorKind::Unsupported, format!("more than {MOST} pages are not compared"));
        self.left = self.left.checked_sub(pages.len() as u64).ok_or_else(too_many)?;
        self.files.entry(file).or_default().extend(pages.map(|page| self.state.hash_one(page)));
        Ok(())
    }

    /// The pages of a process: address → number.
    pub(super) fn of_process(&self, space: &Space) -> HashMap<u64, u64> {
        let Some(table) = &space.table else { return HashMap::new() };
        let Some(file) = self.files.get(&table.file) else { return HashMap::new() };
        let mut pages = HashMap::new();
        for run in table.runs.iter().filter(|run| run.kept == Kept::Here) {
            let first = usize::try_from(run.offset / PAGE).unwrap_or(usize::MAX);
            let there = file.get(first..).unwrap_or_default();
            // What the file does not have is not compared.
            let count = usize::try_from(run.pages).unwrap_or(usize::MAX).min(there.len());
            let addresses = (0..).map(|page: u64| run.address.saturating_add(page.saturating_mul(PAGE)));
            pages.extend(addresses.zip(there[..count].iter().copied()));
        }
        pages
    }
}

impl Selection for PageHashes<'_> {
    fn wanted(&mut self, name: &str, size: u64) -> Wanted {
        let is_pages = name.strip_prefix("checkpoint/").and_then(Images::pages_id).is_some();
        if !is_pages {
            return Wanted::Nothing;
        }
        let most = size.min(MOST.saturating_mul(PAGE));
        let starts = (0..most.div_ceil(PIECE)).map(|piece| piece * PIECE);
        Wanted::Pieces(starts.map(|start| start..size.min(start + PIECE)).collect())
    }

    fn take(&mut self, name: &str, _offset: u64, bytes: Vec<u8>) -> Result<()> {
        match name.strip_prefix("checkpoint/").and_then(Images::pages_id) {
            Some(file) => self.add(file, &bytes),
            None => Ok(()),
        }
    }
}
