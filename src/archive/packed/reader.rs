// SPDX-License-Identifier: Apache-2.0
//! Owns the way back: the tar of a packed archive, byte for byte, from its own store and those of the archives that it needs.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::Bases;
use super::recipe::{OWN, Recipe, ZEROS};
use super::store::Store;
use crate::archive::envelope::{Identities, Random, opened_file};
use crate::archive::manifest::{ArchiveFacts, Manifest};
use crate::archive::{Limits, Progress};
use crate::{Error, Result};

/// The tar that is in a packed archive: one of the layout `full`, with a manifest and an index of its own.
pub struct PackedStream<R = Box<dyn Random>> {
    recipe: Recipe,
    position: u64,
    own: Store<R>,
    others: Vec<Other>,
    bases: Bases,
}

/// An archive that it needs.
enum Other {
    Wanted(ArchiveFacts),
    Found(Box<Store<Box<dyn Random>>>),
}

impl<R> fmt::Debug for PackedStream<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedStream").field("bases", &self.bases).finish_non_exhaustive()
    }
}

/// The tar in this file, if it is a packed archive, encrypted or not.
///
/// # Errors
/// `NotAllowed` if it is encrypted and no identity opens it; `InvalidArchive` if it is packed and damaged.
pub fn packed_stream(file: File, identities: &Identities, bases: Bases) -> Result<Option<PackedStream>> {
    PackedStream::open(opened_file(file, identities)?, bases)
}

impl<R: Read + Seek> PackedStream<R> {
    /// Reads the recipe. What else is needed is looked for among `bases` when it is.
    ///
    /// # Errors
    /// `InvalidArchive` if it is damaged, `System` if it cannot be read. What is not packed is `None`.
    pub fn open(source: R, bases: Bases) -> Result<Option<Self>> {
        let Some(mut own) = Store::open(source)? else { return Ok(None) };
        let recipe = own.recipe(&Limits::default())?;
        let others = own.manifest().bases.iter().cloned().map(Other::Wanted).collect();
        Ok(Some(Self { recipe, position: 0, own, others, bases }))
    }

    /// Finds all archives that are needed.
    ///
    /// # Errors
    /// `NotFound`, with the digest, or `InvalidArchive` for the first that is not there.
    pub fn require_bases(&mut self) -> Result<()> {
        (0..self.others.len()).try_for_each(|number| self.other(number).map(drop))
    }

    /// The facts about the checkpoint, as the packed archive has them.
    pub fn manifest(&self) -> &Manifest {
        self.own.manifest()
    }

    /// The same as the member's bytes.
    ///
    /// # Errors
    /// As reading.
    pub fn manifest_bytes(&mut self) -> Result<Vec<u8>> {
        self.own.manifest_bytes()
    }

    /// Which archive this is: `sha256:` and the digest of its index.
    pub fn digest(&self) -> String {
        self.own.digest()
    }

    /// Compares each member of the packed archive with its index, and returns how many there are. What is made of them is another
    /// matter.
    ///
    /// # Errors
    /// `InvalidArchive` if one is damaged.
    pub fn verify(&mut self, progress: &mut dyn Progress) -> Result<u64> {
        self.own.verify(progress)?;
        Ok(self.own.members())
    }

    fn other(&mut self, number: usize) -> Result<&mut Store<Box<dyn Random>>> {
        let nowhere = || crate::archive::invalid("the recipe leads to an archive that is not named");
        let other = self.others.get_mut(number).ok_or_else(nowhere)?;
        if let Other::Wanted(facts) = other {
            *other = Other::Found(Box::new(self.bases.find(facts)?));
        }
        match other {
            Other::Found(store) => Ok(store),
            Other::Wanted(_) => Err(nowhere()),
        }
    }

    fn read_some(&mut self, to: &mut [u8]) -> Result<usize> {
        let Some(piece) = self.recipe.find(self.position) else { return Ok(0) };
        let passed = self.position - piece.start;
        let left = usize::try_from(piece.length - passed).unwrap_or(usize::MAX);
        let wanted = left.min(to.len());
        let to = &mut to[..wanted];
        let length = match piece.store {
            ZEROS => {
                to.fill(0);
                to.len()
            }
            OWN => self.own.read(piece.at.saturating_add(passed), to)?,
            other => {
                let number = (other - OWN - 1) as usize;
                self.other(number)?.read(piece.at.saturating_add(passed), to)?
            }
        };
        self.position += length as u64;
        Ok(length)
    }
}

impl<R: Read + Seek> Read for PackedStream<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < to.len() {
            let length = self.read_some(&mut to[done..]).map_err(|error: Error| io::Error::other(error))?;
            if length == 0 {
                break;
            }
            done += length;
        }
        Ok(done)
    }
}

impl<R> Seek for PackedStream<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(by) => self.recipe.length().checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
