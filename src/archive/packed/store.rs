// SPDX-License-Identifier: Apache-2.0
//! Owns a packed archive as its parts: facts, recipe, list of pages, and any bytes of its store, each part verified when it is read.
//! The store of an archive that is not packed is all of its tar, whose parts have no digests.
//!
//! What is in it is hostile: members have the names and sizes that they must have, or it is refused.

use std::collections::VecDeque;
use std::io::{self, Read, Seek};
use std::ops::Range;

use sha2::{Digest as _, Sha256};

use super::grid::{Grid, Part};
use super::known::{LARGEST, PageDigest, PageList};
use super::recipe::Recipe;
use super::{MOST_BASES, PAGE, SEGMENT};
use crate::Result;
use crate::archive::member::{MANIFEST, MANIFEST_MAX, PAGES, RECIPE, SMALL_MAX, STORE};
use crate::archive::open::manifest_at;
use crate::archive::{Limits, Manifest, Progress, Seekable, invalid, unreadable};

/// Parts of the store that are in memory.
const HELD: usize = 64;

/// A packed archive.
pub(super) struct Store<R> {
    archive: Seekable<R>,
    manifest: Manifest,
    /// Numbers of the segments among the members; `None` if it is not packed.
    segments: Option<Range<usize>>,
    /// Bytes of the store.
    length: u64,
    /// Segments by their numbers, the one that was used last at the end.
    held: VecDeque<(u64, Vec<u8>)>,
}

impl<R: Read + Seek> Store<R> {
    /// `None` if it is not packed, or no archive of ours; then `source` has been read from.
    ///
    /// # Errors
    /// `InvalidArchive` if it is packed and damaged, `System` if it cannot be read.
    pub(super) fn open(mut source: R) -> Result<Option<Self>> {
        if !manifest_at(&mut source).is_ok_and(|manifest| manifest.is_packed()) {
            return Ok(None);
        }
        let cut = || {
            invalid("archive is truncated: a packed one is read by the index at its end, which is missing")
                .with_hint("the file was not copied or written to its end: copy it again, or export again")
        };
        let mut archive = Seekable::open(source)?.ok_or_else(cut)?;
        let bytes = archive.member(MANIFEST, MANIFEST_MAX)?.ok_or_else(|| strange(MANIFEST))?;
        let manifest = Manifest::from_bytes(&bytes)?;
        if !manifest.is_packed() || manifest.bases.len() > MOST_BASES {
            return Err(invalid(format!("{MANIFEST} is not that of a packed archive")));
        }
        let (segments, length) = layout(&archive)?;
        Ok(Some(Self { archive, manifest, segments: Some(segments), length, held: VecDeque::new() }))
    }

    /// One that others go on from, packed or not. `None` if it is no archive of ours, or has no index.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub(super) fn open_base(mut source: R) -> Result<Option<Self>> {
        let Ok(manifest) = manifest_at(&mut source) else { return Ok(None) };
        source.rewind().map_err(|error| unreadable(error, "the archive"))?;
        if manifest.is_packed() {
            return Self::open(source);
        }
        let Some(archive) = Seekable::open(source)? else { return Ok(None) };
        let length = archive.uncompressed_size();
        // It needs no others, whatever it says.
        let manifest = Manifest { bases: Vec::new(), ..manifest };
        Ok(Some(Self { archive, manifest, segments: None, length, held: VecDeque::new() }))
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The manifest as it is written.
    pub(super) fn manifest_bytes(&mut self) -> Result<Vec<u8>> {
        self.archive.member(MANIFEST, MANIFEST_MAX)?.ok_or_else(|| strange(MANIFEST))
    }

    /// Which archive this is.
    pub(super) fn digest(&self) -> String {
        self.archive.digest().to_owned()
    }

    pub(super) fn recipe(&mut self, limits: &Limits) -> Result<Recipe> {
        let bytes = self.archive.member(RECIPE, SMALL_MAX)?.ok_or_else(|| strange(RECIPE))?;
        Recipe::from_bytes(&bytes, self.length, limits.total_bytes, self.manifest.bases.len())
    }

    /// Gives the places and digests of its pages.
    pub(super) fn pages(&mut self, mut each: impl FnMut(u64, PageDigest)) -> Result<()> {
        if self.segments.is_none() {
            return self.pages_of_tar(each);
        }
        let bytes = self.archive.member(PAGES, LARGEST)?.ok_or_else(|| strange(PAGES))?;
        PageList::read(&bytes, self.length, &mut each)
    }

    /// The same of a whole tar, which is read for it.
    fn pages_of_tar(&mut self, mut each: impl FnMut(u64, PageDigest)) -> Result<()> {
        let (mut grid, mut page, mut at) = (Grid::new(), Vec::with_capacity(PAGE), 0);
        let mut buffer = vec![0; SEGMENT];
        while at < self.length {
            let wanted = (self.length - at).min(SEGMENT as u64) as usize;
            self.archive.raw(at, &mut buffer[..wanted])?;
            let mut rest = &buffer[..wanted];
            while !rest.is_empty() {
                let step = grid.step(rest);
                let (part, later) = rest.split_at(step.length);
                at += step.length as u64;
                rest = later;
                let Part::Page { ends } = step.part else { continue };
                page.extend_from_slice(part);
                if ends {
                    each(at - page.len() as u64, Sha256::digest(&page).into());
                    page.clear();
                }
            }
        }
        Ok(())
    }

    /// Reads some bytes of the store, which were compared with the digest of their part.
    ///
    /// # Errors
    /// `InvalidArchive` if they are not there or damaged.
    pub(super) fn read(&mut self, at: u64, to: &mut [u8]) -> Result<usize> {
        if at >= self.length {
            return Err(invalid(format!("{RECIPE} leads beyond the end of a store")));
        }
        let Some(segments) = &self.segments else {
            let length = usize::try_from(self.length - at).unwrap_or(usize::MAX).min(to.len());
            return self.archive.raw(at, &mut to[..length]).map(|()| length);
        };
        let number = at / SEGMENT as u64;
        let held = match self.held.iter().position(|(held, _)| *held == number) {
            Some(at) => self.held.remove(at),
            None => {
                let bytes = self.archive.verified(segments.start + number as usize, SEGMENT as u64)?;
                Some((number, bytes))
            }
        };
        let Some((_, bytes)) = held else { return Ok(0) };
        let from = bytes.get((at % SEGMENT as u64) as usize..).unwrap_or_default();
        let length = from.len().min(to.len());
        to[..length].copy_from_slice(&from[..length]);
        if self.held.len() == HELD {
            self.held.pop_front();
        }
        self.held.push_back((number, bytes));
        Ok(length)
    }

    /// Compares each member with its digest.
    pub(super) fn verify(&mut self, progress: &mut dyn Progress) -> Result<()> {
        for number in self.segments.clone().unwrap_or_default() {
            let bytes = self.archive.verified(number, SEGMENT as u64)?;
            progress.advance(bytes.len() as u64);
        }
        [MANIFEST, RECIPE, PAGES].iter().try_for_each(|name| self.archive.copy(name, &mut io::sink()))
    }

    /// Number of members, the index included.
    pub(super) fn members(&self) -> u64 {
        self.archive.members().count() as u64 + 1
    }
}

fn strange(name: &str) -> crate::Error {
    invalid(format!("member {name} of a packed archive is missing, out of order, or has another size"))
}

/// Sees that the members are those that a packed archive has. Returns which are segments, and their bytes.
fn layout<R: Read + Seek>(archive: &Seekable<R>) -> Result<(Range<usize>, u64)> {
    let members: Vec<_> = archive.members().collect();
    let count = members.len().checked_sub(3).ok_or_else(|| strange(RECIPE))?;
    if members.len() as u64 > Limits::default().members {
        return Err(invalid("archive has more members than are allowed"));
    }
    let mut length = 0;
    for (number, (name, size)) in members.iter().enumerate() {
        let segment = || format!("{STORE}{}", number - 1);
        let (expected, right) = match number {
            0 => (MANIFEST.to_owned(), true),
            _ if number < count => (segment(), *size == SEGMENT as u64),
            _ if number == count => (segment(), (1..=SEGMENT as u64).contains(size)),
            _ if number == count + 1 => (RECIPE.to_owned(), *size <= SMALL_MAX),
            _ => (PAGES.to_owned(), *size <= LARGEST),
        };
        if *name != expected || !right {
            return Err(strange(&expected));
        }
        length += if (1..=count).contains(&number) { *size } else { 0 };
    }
    Ok((1..count + 1, length))
}
