// SPDX-License-Identifier: Apache-2.0
//! Owns images whose size is known only at their end: memory that comes while the archive is written.
//!
//! ```text
//! frame of the header: magic 4 · 0x60 · 512 - 256 u16 · last, stored, 512 bytes u24 · header 512      written again at the end
//! frames of the data, as those of any large member
//! ```
//! The header is stored, so that its frame keeps its length. An image that turns out to be small is like all small members.
//! Must not know what the images hold.

use std::io::{Read, Write};
use std::path::PathBuf;

use super::Progress;
use super::entry::{BLOCK, Entry, Kind};
use super::file::ArchiveFile;
use super::index::IndexEntry;
use super::member::{IMAGES, Place};
use super::sink::{HeaderPlace, LARGE};
use super::writer::ArchiveWriter;
use crate::{Context, Error, ErrorKind, Result};

/// How a frame of 512 bytes begins that are stored (RFC 8878, 3.1.1).
const BEGINNING: [u8; CONTENT as usize] = [0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0x01, 0x01, 0x10, 0x00];

/// Where in such a frame its content begins.
pub(super) const CONTENT: u64 = 10;

/// The frame with this header.
pub(super) fn frame(header: &[u8; BLOCK as usize]) -> Vec<u8> {
    [&BEGINNING[..], header].concat()
}

/// What is to be written again, and what is being written.
#[derive(Debug, Default)]
pub(super) struct LateMembers {
    /// Headers whose size is known now.
    unsettled: Vec<(HeaderPlace, Entry)>,
    current: Option<Current>,
}

/// An image that has not ended.
#[derive(Debug)]
struct Current {
    name: String,
    /// All of it, as long as it is small.
    small: Vec<u8>,
    large: Option<Large>,
}

/// One that is in the archive already.
#[derive(Debug)]
struct Large {
    header: HeaderPlace,
    /// Where its data begins.
    offset: u64,
}

impl LateMembers {
    /// An archive is not complete before this holds.
    pub(super) fn must_be_settled(&self) -> Result<()> {
        if self.current.is_none() && self.unsettled.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InvalidInput, "an image of the archive has no size yet"))
    }
}

/// What is needed to make an archive of a partial file that was not finished.
#[derive(Debug, Clone)]
pub struct Ending {
    /// Where the members end.
    pub position: u64,
    /// What follows them there.
    pub bytes: Vec<u8>,
    /// The file's inode.
    pub inode: u64,
    /// The file's name once it is complete.
    pub target: PathBuf,
}

impl<W: Write> ArchiveWriter<W> {
    /// Begins an image in `checkpoint/` whose size is not known: after [`ArchiveWriter::spec`], before
    /// [`ArchiveWriter::images`].
    ///
    /// # Errors
    /// `InvalidInput` out of order; else as writing.
    pub fn begin_image(&mut self, name: &str) -> Result<()> {
        self.begin_images()?;
        let name = format!("{IMAGES}{name}");
        self.late.current = Some(Current { name, small: Vec::new(), large: None });
        Ok(())
    }

    /// Takes this many bytes for the image from a stream.
    ///
    /// # Errors
    /// `InvalidInput` without an image; `System` if the stream ends before; else as reading and writing.
    pub fn image_data(
        &mut self,
        from: &mut impl Read,
        bytes: u64,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        self.expect(bytes, progress);
        let current = self.late.current.as_mut().ok_or_else(no_image)?;
        let length = current.small.len() as u64;
        if current.large.is_none() && length + bytes >= LARGE {
            let entry = Entry { mtime: self.mtime, ..Entry::new(current.name.as_str(), Kind::File) };
            let header = self.sink.late_header(&entry.encode_alone())?;
            current.large = Some(Large { header, offset: self.sink.offset() });
            self.sink.begin_data(LARGE)?;
            self.sink.put(&std::mem::take(&mut current.small))?;
        }
        if current.large.is_some() {
            self.sink.put_from(from, bytes)?;
        } else {
            current.small.resize((length + bytes) as usize, 0);
            from.read_exact(&mut current.small[length as usize..]).context(|| "read a member's data")?;
        }
        progress.advance(bytes);
        Ok(())
    }

    /// Ends the image.
    ///
    /// # Errors
    /// `InvalidInput` without an image; else as writing.
    pub fn end_image(&mut self) -> Result<()> {
        let Current { name, small, large } = self.late.current.take().ok_or_else(no_image)?;
        match large {
            None => self.small(&name, &small)?,
            Some(Large { header, offset }) => {
                let size = self.sink.offset() - offset;
                let sha256 = self.sink.end_data()?;
                let entry = Entry { size, mtime: self.mtime, ..Entry::new(name.as_str(), Kind::File) };
                self.late.unsettled.push((header, entry));
                self.index.push(IndexEntry { name, size, offset, sha256 });
            }
        }
        self.place = Some(Place::Image);
        Ok(())
    }
}

impl ArchiveWriter<ArchiveFile> {
    /// Writes out what is held back, with the sizes that have become known, and makes room for `bytes` more in the file, so that
    /// the members that are still to come cannot fail for want of space: to be called while the container can still go
    /// on at the source.
    ///
    /// # Errors
    /// `Storage` if there is no room.
    pub fn reserve(&mut self, bytes: u64) -> Result<()> {
        self.sink.flush()?;
        for (header, entry) in std::mem::take(&mut self.late.unsettled) {
            let at = self.sink.position(header).ok_or_else(no_image)?;
            self.sink.target().write_again(&entry.encode_alone(), at)?;
        }
        self.sink.target().reserve(bytes)
    }

    /// From now on the partial file stays, whatever happens: with what is returned it is an archive of all members until now.
    /// Only after [`ArchiveWriter::reserve`].
    ///
    /// # Errors
    /// `InvalidInput` if a member is missing.
    pub fn keep(&mut self) -> Result<Ending> {
        let bytes = self.end_so_far()?;
        let file = self.sink.target();
        let (inode, target) = file.identity()?;
        let ending = Ending { bytes, position: file.length(), inode, target: target.to_owned() };
        file.keep();
        Ok(ending)
    }
}

fn no_image() -> Error {
    Error::new(ErrorKind::InvalidInput, "the archive has no image that has not ended")
}
