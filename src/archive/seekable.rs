// SPDX-License-Identifier: Apache-2.0
//! Owns the way to single members of an archive, without reading the rest: by the table of frames and the index at its end.
//!
//! ```text
//! file ─▶ [table of frames] ─▶ Stream: any part of the tar ─▶ migrate.index ─▶ Seekable: any part of a member
//! ```
//! What is in the archive is hostile: a part is bounded by what its caller asks for. Must not know what members mean.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;

use sha2::{Digest as _, Sha256};
use tar::Header;
use zstd::bulk::Decompressor;

use super::entry::{BLOCK, Entry, Kind, checksum_is_right};
use super::index::{Digest, Index, IndexEntry};
use super::member::{INDEX, SMALL_MAX};
use super::seek_table::SeekTable;
use super::{invalid, unreadable};
use crate::{Context, Error, ErrorKind, Result};

/// How much is looked at at once when the index is searched from the end.
const STEP: u64 = 64 << 10;

/// How much is copied at once.
const COPIED: u64 = 1 << 20;

/// The uncompressed stream of which any part can be read.
pub(super) struct Stream<R> {
    file: R,
    size: u64,
    /// `None` when nothing is compressed.
    frames: Option<Frames>,
}

/// What it takes to read a compressed one.
struct Frames {
    table: SeekTable,
    decompressor: Decompressor<'static>,
    /// The last frame that was read, and where it begins.
    content: Vec<u8>,
    start: u64,
    /// Whether it had a checksum.
    checked: bool,
}

/// Bit 2 of a frame's descriptor, which follows its magic number (RFC 8878, 3.1.1.1.1).
fn has_checksum(frame: &[u8]) -> bool {
    frame.get(4).is_some_and(|descriptor| descriptor & 4 != 0)
}

impl<R: Read + Seek> Stream<R> {
    /// `None` when it can only be read from the beginning.
    fn open(mut file: R) -> io::Result<Option<Self>> {
        if let Some(table) = SeekTable::read(&mut file)? {
            let (size, decompressor) = (table.uncompressed(), Decompressor::new()?);
            let frames = Frames { table, decompressor, content: Vec::new(), start: 0, checked: false };
            return Ok(Some(Self { file, size, frames: Some(frames) }));
        }
        let size = file.seek(SeekFrom::End(0))?;
        let mut stream = Self { file, size, frames: None };
        Ok(if stream.header(0)?.is_some() { Some(stream) } else { None })
    }

    /// The bytes from this position on that can be had at once; none at the end.
    pub(super) fn at_once(&mut self, position: u64) -> io::Result<&[u8]> {
        let Some(frames) = &mut self.frames else { return Err(io::ErrorKind::Unsupported.into()) };
        if position >= self.size { Ok(&[]) } else { frames.from(position, &mut self.file) }
    }

    /// Whether these bytes were verified by a checksum of their frame.
    fn is_checked(&self) -> bool {
        self.frames.as_ref().is_some_and(|frames| frames.checked)
    }

    /// Reads this part, all of it.
    fn read(&mut self, mut position: u64, mut to: &mut [u8]) -> io::Result<()> {
        let Some(frames) = &mut self.frames else {
            self.file.seek(SeekFrom::Start(position))?;
            return self.file.read_exact(to);
        };
        while !to.is_empty() {
            let here = frames.from(position, &mut self.file)?;
            let length = here.len().min(to.len());
            to[..length].copy_from_slice(&here[..length]);
            to = &mut to[length..];
            position += length as u64;
        }
        Ok(())
    }

    /// The header at this position, if there is one.
    fn header(&mut self, position: u64) -> io::Result<Option<Header>> {
        let mut header = Header::new_old();
        if position.saturating_add(BLOCK) > self.size {
            return Ok(None);
        }
        self.read(position, header.as_mut_bytes())?;
        Ok(is_header(&header).then_some(header))
    }

    /// Where what must be read as a whole begins, to have the byte at this position.
    fn frame_start(&self, position: u64) -> u64 {
        let frames = self.frames.as_ref();
        frames.and_then(|frames| frames.table.find(position)).map_or(0, |frame| frame.start)
    }

    /// Finds the index, which is the last member: its header is the last one. Returns where its data is.
    fn find_index(&mut self) -> io::Result<Option<Range<u64>>> {
        let lowest = self.size.saturating_sub(SMALL_MAX + 4 * BLOCK);
        let mut end = self.size;
        if !end.is_multiple_of(BLOCK) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        while end > lowest {
            let start = self.frame_start(end - 1).max(end.saturating_sub(STEP));
            let start = start - start % BLOCK;
            bytes.resize((end - start) as usize, 0);
            self.read(start, &mut bytes)?;
            for (at, block) in bytes.as_chunks::<{ BLOCK as usize }>().0.iter().enumerate().rev() {
                let mut header = Header::new_old();
                header.as_mut_bytes().copy_from_slice(block);
                if is_header(&header) {
                    return Ok(self.index_of(&header, start + (at as u64 + 1) * BLOCK));
                }
            }
            end = start;
        }
        Ok(None)
    }

    /// Where the index is, if this is the header of one, and the tar ends after it.
    fn index_of(&self, header: &Header, data: u64) -> Option<Range<u64>> {
        let entry = Entry::decode(header, b"").ok()?;
        let is_index = entry.kind == Kind::File && entry.path == INDEX.as_bytes() && entry.size <= SMALL_MAX;
        let end = data.checked_add(entry.padded_size()?)?.checked_add(2 * BLOCK)?;
        (is_index && end == self.size).then(|| data..data + entry.size)
    }
}

fn not_that_of_the_index(name: &str) -> Error {
    invalid(format!("member {name} is damaged: its SHA-256 is not that of {INDEX}"))
}

fn is_header(header: &Header) -> bool {
    header.as_bytes().iter().any(|byte| *byte != 0)
        && checksum_is_right(header)
        && (header.as_ustar().is_some() || header.as_gnu().is_some())
}

impl Frames {
    /// The bytes from this position to the end of its frame.
    fn from(&mut self, position: u64, file: &mut (impl Read + Seek)) -> io::Result<&[u8]> {
        let ends = self.start + self.content.len() as u64;
        if !(self.start..ends).contains(&position) {
            self.load(position, file)?;
        }
        Ok(&self.content[(position - self.start) as usize..])
    }

    /// Where the frame with this position begins and ends; at least a byte.
    fn bounds(&self, position: u64) -> io::Result<Range<u64>> {
        let frame = self.table.find(position).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(frame.start..frame.start + u64::from(frame.uncompressed))
    }

    fn load(&mut self, position: u64, file: &mut (impl Read + Seek)) -> io::Result<()> {
        let damaged = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        let frame = self.table.find(position).ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut compressed = vec![0; frame.compressed as usize];
        file.seek(SeekFrom::Start(frame.at))?;
        file.read_exact(&mut compressed)?;
        self.checked = has_checksum(&compressed);
        self.content.clear();
        self.content.reserve(frame.uncompressed as usize);
        let decompressed = self.decompressor.decompress_to_buffer(&compressed, &mut self.content);
        self.start = frame.start;
        if decompressed.map_err(|_| damaged("a frame cannot be decompressed"))? != frame.uncompressed as usize
        {
            self.content.clear();
            return Err(damaged("a frame has another size than the table of frames says"));
        }
        Ok(())
    }
}

/// An archive of which single members are read. Its index has been read, and nothing is verified yet.
pub struct Seekable<R = File> {
    stream: Stream<R>,
    members: Vec<IndexEntry>,
    /// Of the index.
    digest: String,
}

impl<R> std::fmt::Debug for Seekable<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seekable").field("members", &self.members.len()).finish_non_exhaustive()
    }
}

impl<R: Read + Seek> Seekable<R> {
    /// Reads the index. `None` for an archive that has no index or no table of frames, as other programs write them: it can
    /// only be read from the beginning.
    ///
    /// # Errors
    /// `InvalidArchive` if what is there is damaged, `System` if the file cannot be read.
    pub fn open(file: R) -> Result<Option<Self>> {
        let end = |error| unreadable(error, "the end of the archive");
        let Some(mut stream) = Stream::open(file).map_err(end)? else { return Ok(None) };
        let Some(found) = stream.find_index().map_err(end)? else { return Ok(None) };
        let mut bytes = vec![0; (found.end - found.start) as usize];
        stream.read(found.start, &mut bytes).map_err(|error| unreadable(error, INDEX))?;
        let Index { members, .. } = Index::from_bytes(&bytes)?;
        for member in &members {
            if member.offset.checked_add(member.size).is_none_or(|end| end > found.start) {
                return Err(invalid(format!("{INDEX} has a member {} beyond its end", member.name)));
            }
        }
        let digest = format!("sha256:{}", Digest::of(Sha256::new().chain_update(&bytes)));
        Ok(Some(Self { stream, members, digest }))
    }

    /// Which archive this is: `sha256:` and the SHA-256 of its index, and with it of all members.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Names and sizes of all members but the index, in their order; a directory's name ends in a slash.
    pub fn members(&self) -> impl Iterator<Item = (&str, u64)> {
        self.members.iter().map(|member| (member.name.as_str(), member.size))
    }

    /// `none` or `zstd`.
    pub fn compression(&self) -> &'static str {
        if self.stream.frames.is_some() { "zstd" } else { "none" }
    }

    /// Bytes of the uncompressed archive.
    pub fn uncompressed_size(&self) -> u64 {
        self.stream.size
    }

    /// Reads a member of at most `limit` bytes and compares it with its digest. `None` if there is no such member.
    ///
    /// # Errors
    /// `InvalidArchive` if it is damaged or larger, `System` if the file cannot be read.
    pub fn member(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(member) = self.find(name) else { return Ok(None) };
        let (size, sha256) = (member.size, member.sha256.clone());
        if size > limit {
            return Err(invalid(format!("member {name} has {size} bytes, at most {limit} are allowed")));
        }
        let Some(bytes) = self.piece(name, 0..size)? else { return Ok(None) };
        if Digest::of(Sha256::new().chain_update(&bytes)) != sha256 {
            return Err(not_that_of_the_index(name));
        }
        Ok(Some(bytes))
    }

    /// Reads from this position of the uncompressed archive on, all that is wanted. Only the checksums of the frames verify it.
    pub(super) fn raw(&mut self, position: u64, to: &mut [u8]) -> Result<()> {
        self.stream.read(position, to).map_err(|error| unreadable(error, "the archive"))
    }

    /// [`Seekable::member`] by its number.
    pub(super) fn verified(&mut self, number: usize, limit: u64) -> Result<Vec<u8>> {
        let member = self.members.get(number).filter(|member| member.size <= limit);
        let member = member.cloned().ok_or_else(|| invalid("archive has no such member, or a larger one"))?;
        let mut bytes = vec![0; member.size as usize];
        self.stream.read(member.offset, &mut bytes).map_err(|error| unreadable(error, &member.name))?;
        if Digest::of(Sha256::new().chain_update(&bytes)) != member.sha256 {
            return Err(not_that_of_the_index(&member.name));
        }
        Ok(bytes)
    }

    /// Reads a part of a member, which is not verified beyond the checksums of the frames. `None` if there is no such member.
    ///
    /// # Errors
    /// `InvalidInput` if the part is beyond the member's end, `InvalidArchive` if it is damaged, `System` if the file cannot
    /// be read.
    pub fn piece(&mut self, name: &str, part: Range<u64>) -> Result<Option<Vec<u8>>> {
        let Some(member) = self.find(name) else { return Ok(None) };
        if part.start > part.end || part.end > member.size {
            let message =
                format!("member {name} has {} bytes, not {} to {}", member.size, part.start, part.end);
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let position = member.offset + part.start;
        let mut bytes = vec![0; (part.end - part.start) as usize];
        self.stream.read(position, &mut bytes).map_err(|error| unreadable(error, name))?;
        Ok(Some(bytes))
    }

    /// Copies a member and compares it with its digest; what was copied is worth nothing after an error.
    ///
    /// # Errors
    /// `InvalidInput` if there is no such member, `InvalidArchive` if it is damaged; else as reading and writing.
    pub fn copy(&mut self, name: &str, to: &mut impl Write) -> Result<()> {
        let missing = || Error::new(ErrorKind::InvalidInput, format!("there is no member {name}"));
        let member = self.find(name).ok_or_else(missing)?;
        let (size, sha256) = (member.size, member.sha256.clone());
        let (mut at, mut hasher) = (0, Sha256::new());
        while at < size {
            let next = size.min(at + COPIED);
            let bytes = self.piece(name, at..next)?.ok_or_else(missing)?;
            hasher.update(&bytes);
            to.write_all(&bytes).context(|| format!("write a copy of {name}"))?;
            at = next;
        }
        if Digest::of(hasher) != sha256 {
            return Err(not_that_of_the_index(name));
        }
        Ok(())
    }

    /// A part of a member that can be had at once and has the byte at `at`: its range in the member, and its bytes. They are verified
    /// by a checksum of their own. `None` beyond the member's end, or if there is no such member.
    ///
    /// # Errors
    /// `InvalidArchive` if it is damaged or has no checksum, `System` if the file cannot be read.
    pub fn block(&mut self, name: &str, at: u64) -> Result<Option<(Range<u64>, &[u8])>> {
        let Some(member) = self.find(name) else { return Ok(None) };
        let (data, size) = (member.offset, member.size);
        if at >= size {
            return Ok(None);
        }
        let unread = |error| unreadable(error, name);
        let frames = self.stream.frames.as_ref();
        let frames = frames.ok_or(io::ErrorKind::Unsupported).map_err(|kind| unread(kind.into()))?;
        let bounds = frames.bounds(data + at).map_err(unread)?;
        let start = bounds.start.max(data);
        let end = bounds.end.min(data + size);
        self.stream.at_once(start).map_err(unread)?;
        if !self.stream.is_checked() {
            return Err(unread(io::Error::new(io::ErrorKind::InvalidData, "a frame has no checksum")));
        }
        let bytes = self.stream.at_once(start).map_err(unread)?;
        Ok(Some((start - data..end - data, &bytes[..(end - start) as usize])))
    }

    /// The SHA-256 that a member must have.
    pub fn is_digest_of(&self, name: &str, hasher: Sha256) -> bool {
        let digest = Digest::of(hasher);
        self.find(name).is_some_and(|member| member.sha256 == digest)
    }

    fn find(&self, name: &str) -> Option<&IndexEntry> {
        self.members.iter().find(|member| member.name == name)
    }

    pub(super) fn into_parts(self) -> (Stream<R>, Vec<IndexEntry>) {
        (self.stream, self.members)
    }
}
