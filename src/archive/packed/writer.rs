// SPDX-License-Identifier: Apache-2.0
//! Owns the way of an archive's tar into a packed archive: each page once, what an earlier archive has not at all.
//!
//! Pages that are new are in memory with 32 bytes and their place until the end, and those of the earlier archives are, too.
//! Whatever is written is a store of whole members: nothing must be written a second time, so that a pipe and an envelope will do.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use sha2::{Digest as _, Sha256};

use super::grid::{Grid, Part};
use super::known::{LARGEST, PageDigest, PageList};
use super::recipe::{OWN, Recipe, ZEROS};
use super::store::Store;
use super::{Bases, MOST_BASES, PAGE, SEGMENT};
use crate::archive::Limits;
use crate::archive::entry::{BLOCK, Entry, Kind};
use crate::archive::envelope::{Completes, Identities, opened_file};
use crate::archive::index::{Index, IndexEntry};
use crate::archive::manifest::{ArchiveFacts, LAYOUT_PACKED, Manifest, SCHEMA_PACKED};
use crate::archive::member::{INDEX, MANIFEST, PAGES, RECIPE, STORE};
use crate::archive::sink::Sink;
use crate::archive::writer::{Compression, WriteOptions};
use crate::{Context, Error, ErrorKind, Result};

/// Where a page is.
#[derive(Debug, Clone, Copy)]
struct Place {
    store: u32,
    at: u64,
}

/// The archive that another one continues: its pages, and those of the archives that it needs itself.
#[derive(Clone, Default)]
pub struct PackedBase {
    chain: Vec<ArchiveFacts>,
    known: HashMap<PageDigest, Place>,
}

impl fmt::Debug for PackedBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedBase").field("chain", &self.chain).finish_non_exhaustive()
    }
}

impl PackedBase {
    /// Reads which pages there are, and all of it if it is not packed. The archives that this one needs are looked for in `around`,
    /// or beside it if that is empty. Whether a packed one has what it says it has is not read: that is for `verify`.
    ///
    /// # Errors
    /// `InvalidInput` if it is no archive of ours, or needs too many others already; `NotFound` if one of these is not there;
    /// `InvalidArchive` if one is damaged; `NotAllowed` if one is encrypted and no identity opens it.
    pub fn read(path: &Path, around: &[PathBuf], identities: &Identities) -> Result<Self> {
        let around = Bases::around(path, around, identities.clone());
        let attempt = || format!("read the base {}", path.display());
        let file = File::open(path).context(attempt)?;
        let store = Store::open_base(opened_file(file, identities).context(attempt)?).context(attempt)?;
        let mut store = store.ok_or_else(|| {
            let message =
                format!("the base {} is no archive of migrate, or has no index at its end", path.display());
            Error::new(ErrorKind::InvalidInput, message)
                .with_hint("name one that `checkpoint --export` wrote, of any layout, or leave --base out")
        })?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut chain = vec![ArchiveFacts { digest: store.digest(), name }];
        chain.extend(store.manifest().bases.iter().cloned());
        if chain.len() > MOST_BASES {
            let message = format!("the base {} needs {MOST_BASES} archives itself", path.display());
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .with_hint("begin anew with an archive that needs none: export without --base"));
        }
        let mut known = HashMap::new();
        for (number, facts) in chain.iter().enumerate() {
            let mut other = None;
            let store = match number {
                0 => &mut store,
                _ => other.insert(around.find(facts).context(attempt)?),
            };
            let number = OWN + 1 + number as u32;
            store.pages(|at, digest| {
                known.entry(digest).or_insert(Place { store: number, at });
            })?;
        }
        Ok(Self { chain, known })
    }
}

/// A packed archive in the making: takes the tar of an archive of the layout `full`, not compressed.
pub struct Packer<W: Write> {
    sink: Sink<W>,
    index: Vec<IndexEntry>,
    mtime: (i64, u32),
    grid: Grid,
    /// What there is of a page that has not ended.
    page: Vec<u8>,
    /// What there is of a segment of the store.
    segment: Vec<u8>,
    segments: u64,
    recipe: Recipe,
    known: HashMap<PageDigest, Place>,
    pages: PageList,
}

impl<W: Write> fmt::Debug for Packer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packer").field("segments", &self.segments).finish_non_exhaustive()
    }
}

impl<W: Write> Packer<W> {
    /// Begins one with the facts of the archive that it will hold; pages of the base are not written again.
    ///
    /// # Errors
    /// `InvalidInput` for a manifest above its limit; else as writing to `output`.
    pub fn new(
        output: W,
        options: &WriteOptions,
        manifest: &Manifest,
        base: Option<PackedBase>,
    ) -> Result<Self> {
        let PackedBase { chain, known } = base.unwrap_or_default();
        let manifest = Manifest {
            schema: SCHEMA_PACKED,
            layout: LAYOUT_PACKED.into(),
            compression: "zstd".into(),
            bases: chain,
            ..manifest.clone()
        };
        let compression = match options.compression {
            // Its parts must be found, which takes a table.
            Compression::None => Compression::default(),
            compressed => compressed,
        };
        let seconds = options.created.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut packer = Self {
            sink: Sink::new(output, compression)?,
            index: Vec::new(),
            mtime: (i64::try_from(seconds).unwrap_or(0), 0),
            grid: Grid::new(),
            page: Vec::with_capacity(PAGE),
            segment: Vec::with_capacity(SEGMENT),
            segments: 0,
            recipe: Recipe::default(),
            known,
            pages: PageList::default(),
        };
        packer.member(MANIFEST, &manifest.to_bytes()?)?;
        Ok(packer)
    }

    /// Writes what is held back, and the end. Returns where it was written to, and how many bytes that were.
    ///
    /// # Errors
    /// `InvalidInput` if the archive would be larger than a reader takes; else as writing.
    pub fn finish(mut self) -> Result<(W, u64)> {
        let rest = std::mem::take(&mut self.page);
        self.keep(&rest)?;
        self.end_segment()?;
        let (recipe, pages) = (self.recipe.to_bytes(), self.pages.to_bytes());
        let limits = Limits::default();
        if self.segments.saturating_add(4) > limits.members || pages.len() as u64 > LARGEST {
            let message =
                format!("a packed archive has room for {} parts, this one needs more", limits.members);
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        self.member(RECIPE, &recipe)?;
        self.member(PAGES, &pages)?;
        let index = Index::of(std::mem::take(&mut self.index)).to_bytes()?;
        self.sink.cut()?;
        self.member(INDEX, &index)?;
        self.sink.put(&[0; 2 * BLOCK as usize])?;
        self.sink.finish()
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let step = self.grid.step(bytes);
            let (part, rest) = bytes.split_at(step.length);
            match step.part {
                Part::Between => self.keep(part)?,
                Part::Page { ends: true } if self.page.is_empty() => self.take_page(part)?,
                Part::Page { ends } => {
                    self.page.extend_from_slice(part);
                    if ends {
                        let mut page = std::mem::take(&mut self.page);
                        self.take_page(&page)?;
                        page.clear();
                        self.page = page;
                    }
                }
            }
            bytes = rest;
        }
        Ok(())
    }

    fn take_page(&mut self, page: &[u8]) -> Result<()> {
        if self.recipe.is_crowded() {
            return self.keep(page);
        }
        let length = page.len() as u64;
        if page.iter().all(|byte| *byte == 0) {
            self.recipe.push(ZEROS, 0, length);
            return Ok(());
        }
        let digest: PageDigest = Sha256::digest(page).into();
        let at = self.stored();
        match self.known.entry(digest) {
            Slot::Occupied(found) => {
                let Place { store, at } = *found.get();
                self.recipe.push(store, at, length);
                Ok(())
            }
            Slot::Vacant(slot) => {
                slot.insert(Place { store: OWN, at });
                self.pages.push(at, length, &digest);
                self.keep(page)
            }
        }
    }

    /// Bytes of the store until now.
    fn stored(&self) -> u64 {
        self.segments * SEGMENT as u64 + self.segment.len() as u64
    }

    /// Puts bytes into the store.
    fn keep(&mut self, mut bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.recipe.push(OWN, self.stored(), bytes.len() as u64);
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(SEGMENT - self.segment.len()));
            self.segment.extend_from_slice(now);
            if self.segment.len() == SEGMENT {
                self.end_segment()?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn end_segment(&mut self) -> Result<()> {
        if self.segment.is_empty() {
            return Ok(());
        }
        let mut segment = std::mem::take(&mut self.segment);
        self.member(&format!("{STORE}{}", self.segments), &segment)?;
        self.segments += 1;
        segment.clear();
        self.segment = segment;
        Ok(())
    }

    fn member(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let size = bytes.len() as u64;
        self.sink.header(&Entry { size, mtime: self.mtime, ..Entry::new(name, Kind::File) })?;
        let offset = self.sink.offset();
        self.sink.begin_data(size)?;
        self.sink.put(bytes)?;
        let sha256 = self.sink.end_data()?;
        self.index.push(IndexEntry { name: name.to_owned(), size, offset, sha256 });
        Ok(())
    }
}

impl<W: Write> Write for Packer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.take(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // What is held back has no end yet.
        Ok(())
    }
}

impl<W: Completes> Completes for Packer<W> {
    fn complete(self: Box<Self>) -> Result<Option<u64>> {
        let (output, written) = self.finish()?;
        Ok(Box::new(output).complete()?.or(Some(written)))
    }
}
