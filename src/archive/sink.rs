// SPDX-License-Identifier: Apache-2.0
//! Owns the way of bytes into an archive: gathered in chunks, hashed if they are a member's data, compressed.
//!
//! ```text
//!  put ─▶ chunk ─┬─▶ Digester (a large member's data; a small one's is hashed here)
//!                └─▶ Frames ─▶ output      a chunk ends where it is full, and at either end of a large member
//! ```
//! Must not know which members there are.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::Progress;
use super::digester::Digester;
use super::entry::{BLOCK, Entry};
use super::frames::{Chunk, Frames};
use super::index::Digest;
use super::late;
use super::seek_table::SeekTable;
use super::writer::Compression;
use crate::{Context, Error, ErrorKind, Result};

/// How much is gathered before it is hashed and compressed: the largest frame.
const CHUNK: usize = 2 << 20;

/// A member of this size has frames of its own.
pub(super) const LARGE: u64 = 512 << 10;

/// How much of a file is read at once.
const READ: u64 = 256 << 10;

pub(super) struct Sink<W: Write> {
    output: Counted<W>,
    compression: Compression,
    /// `None` when nothing is compressed.
    frames: Option<Frames>,
    digester: Digester,
    /// What is being filled.
    chunk: Chunk,
    /// Chunks that were handed over. One that nobody has any more is filled again.
    used: Vec<Arc<Chunk>>,
    hashing: Hashing,
    /// Bytes taken so far, those in the chunk included.
    offset: u64,
}

/// Whose bytes are put.
enum Hashing {
    /// No member's.
    No,
    /// A small member's; those of the chunk from this position on are not hashed yet.
    Here(Sha256, usize),
    /// A large member's, all from the beginning of the chunk to here, or to its end.
    There(Option<usize>),
}

/// Where a header is that is to be written again.
#[derive(Debug, Clone, Copy)]
pub(super) enum HeaderPlace {
    /// In the frame of this number.
    Frame(usize),
    /// At this position of an output that is not compressed.
    Plain(u64),
}

/// A writer that counts what it has written.
struct Counted<W> {
    inner: W,
    written: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W: Write> Sink<W> {
    pub(super) fn new(output: W, compression: Compression) -> Result<Self> {
        Self::after(output, compression, SeekTable::default(), 0)
    }

    /// One that goes on elsewhere, after all that was put and written until now.
    pub(super) fn continued<V: Write>(&self, output: V) -> Result<Sink<V>> {
        let table = self.frames.as_ref().map(Frames::table).cloned().unwrap_or_default();
        Sink::after(output, self.compression, table, self.offset)
    }

    fn after(output: W, compression: Compression, table: SeekTable, offset: u64) -> Result<Self> {
        let frames = match compression {
            Compression::None => None,
            Compression::Zstd { level } => Some(Frames::new(level, table).context(|| "start compression")?),
        };
        Ok(Self {
            output: Counted { inner: output, written: 0 },
            compression,
            frames,
            digester: Digester::default(),
            chunk: Chunk::new(CHUNK),
            used: Vec::new(),
            hashing: Hashing::No,
            offset,
        })
    }

    /// Position in the uncompressed stream.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Writes a header; the data is to follow.
    pub(super) fn header(&mut self, entry: &Entry) -> Result<()> {
        let mut blocks = Vec::with_capacity(BLOCK as usize);
        entry.encode(&mut blocks);
        self.put(&blocks)
    }

    /// Writes a header that has a place of its own, so that it can be written again.
    pub(super) fn late_header(&mut self, header: &[u8; BLOCK as usize]) -> Result<HeaderPlace> {
        self.cut()?;
        let place = match &mut self.frames {
            Some(frames) => {
                frames.stored(late::frame(header), header.len(), &mut self.output).map(HeaderPlace::Frame)
            }
            None => {
                let at = self.output.written;
                self.output.write_all(header).map(|()| HeaderPlace::Plain(at))
            }
        };
        self.offset += BLOCK;
        place.context(|| "write the archive")
    }

    /// Where in the output such a header is; after [`Sink::flush`] it is there.
    pub(super) fn position(&self, place: HeaderPlace) -> Option<u64> {
        match (place, &self.frames) {
            (HeaderPlace::Frame(number), Some(frames)) => Some(frames.position(number)? + late::CONTENT),
            (HeaderPlace::Plain(at), None) => Some(at),
            _ => None,
        }
    }

    /// What is put from now on is data of a member of that size, until [`Sink::end_data`].
    pub(super) fn begin_data(&mut self, size: u64) -> Result<()> {
        self.hashing = if size < LARGE {
            Hashing::Here(Sha256::new(), self.chunk.filled)
        } else {
            self.cut()?;
            Hashing::There(None)
        };
        Ok(())
    }

    /// The member's data is complete; fills up its last block and returns its digest.
    pub(super) fn end_data(&mut self) -> Result<Digest> {
        match std::mem::replace(&mut self.hashing, Hashing::No) {
            Hashing::There(_) => {
                // The frame ends after the padding, so that the next one begins with a header.
                self.hashing = Hashing::There(Some(self.chunk.filled));
                self.pad()?;
                self.cut()?;
                self.hashing = Hashing::No;
                self.digester.finish().context(|| "hash the archive")
            }
            Hashing::Here(hasher, from) => {
                let hasher = hasher.chain_update(&self.chunk.content()[from..]);
                self.pad()?;
                Ok(Digest::of(hasher))
            }
            Hashing::No => Ok(Digest::of(Sha256::new())),
        }
    }

    /// Fills up the last block. Members begin at a block, so this is right for those of a nested tar too.
    pub(super) fn pad(&mut self) -> Result<()> {
        let missing = self.offset.next_multiple_of(BLOCK) - self.offset;
        self.put(&[0; BLOCK as usize][..missing as usize])
    }

    /// Takes these bytes.
    pub(super) fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.room();
            let length = bytes.len().min(room.len());
            room[..length].copy_from_slice(&bytes[..length]);
            bytes = &bytes[length..];
            self.filled(length)?;
        }
        Ok(())
    }

    /// Takes exactly `size` bytes of a stream.
    ///
    /// # Errors
    /// Also if it ends before.
    pub(super) fn put_from(&mut self, from: &mut impl Read, size: u64) -> Result<()> {
        let mut left = size;
        while left > 0 {
            let room = self.room();
            let wanted = (room.len() as u64).min(left) as usize;
            let read = read_some(from, &mut room[..wanted]).context(|| "read a member's data")?;
            if read == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof)).context(|| "read a member's data");
            }
            left -= read as u64;
            self.filled(read)?;
        }
        Ok(())
    }

    /// Takes exactly `size` bytes of a file, which must not have more. `name` tells which file it is.
    pub(super) fn put_file(
        &mut self,
        mut file: &File,
        size: u64,
        name: &dyn Fn() -> String,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let mut left = size;
        loop {
            // One byte more than is left: it tells a file that has grown, without another call.
            let room = self.room();
            let wanted = (room.len() as u64).min(left.saturating_add(1)).min(READ) as usize;
            let read = read_some(&mut file, &mut room[..wanted]);
            let read = read.context(|| format!("read {}", name()))?;
            let (length, wanted) = (read as u64, wanted as u64);
            if length > left || (length == 0 && left > 0) {
                let what = if length > left { "grew" } else { "shrank" };
                return Err(changed(&name(), what));
            }
            left -= length;
            self.filled(read)?;
            progress.advance(length);
            if left == 0 && length < wanted {
                return Ok(());
            }
        }
    }

    /// Hands over all that was put, so that little is left to be written later.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.cut()?;
        if let Some(frames) = &mut self.frames {
            frames.flush(&mut self.output).context(|| "write the archive")?;
        }
        self.output.flush().context(|| "write the archive")
    }

    /// Where the archive goes.
    pub(super) fn target(&mut self) -> &mut W {
        &mut self.output.inner
    }

    /// Ends the stream; returns where it went and how many bytes that were.
    pub(super) fn finish(mut self) -> Result<(W, u64)> {
        self.cut()?;
        let mut output = self.output;
        if let Some(frames) = self.frames {
            frames.finish(&mut output).context(|| "write the archive")?;
        }
        output.flush().context(|| "write the archive")?;
        Ok((output.inner, output.written))
    }

    /// Ends the frame: what is put next begins a new one.
    pub(super) fn cut(&mut self) -> Result<()> {
        if self.chunk.filled == 0 {
            return Ok(());
        }
        let next = self.empty_chunk();
        let chunk = Arc::new(std::mem::replace(&mut self.chunk, next));
        match &mut self.hashing {
            Hashing::No => {}
            Hashing::Here(hasher, from) => {
                hasher.update(&chunk.content()[*from..]);
                *from = 0;
            }
            Hashing::There(end) => {
                let part = 0..end.unwrap_or(chunk.filled);
                self.digester.update(Arc::clone(&chunk), part).context(|| "hash the archive")?;
                // What comes after the end, which is padding, is not hashed.
                *end = end.map(|_| 0);
            }
        }
        match &mut self.frames {
            Some(frames) => frames.compress(Arc::clone(&chunk), &mut self.output),
            None => self.output.write_all(chunk.content()),
        }
        .context(|| "write the archive")?;
        self.used.push(chunk);
        Ok(())
    }

    fn empty_chunk(&mut self) -> Chunk {
        let free = self.used.iter().position(|chunk| Arc::strong_count(chunk) == 1);
        match free.and_then(|at| Arc::into_inner(self.used.swap_remove(at))) {
            Some(chunk) => Chunk { filled: 0, ..chunk },
            None => Chunk::new(CHUNK),
        }
    }

    /// What is free of the chunk: at least one byte.
    fn room(&mut self) -> &mut [u8] {
        &mut self.chunk.bytes[self.chunk.filled..]
    }

    /// So many bytes of the room are in use now.
    fn filled(&mut self, length: usize) -> Result<()> {
        self.chunk.filled += length;
        self.offset += length as u64;
        if self.chunk.filled == CHUNK { self.cut() } else { Ok(()) }
    }
}

fn read_some(file: &mut impl Read, to: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read(to) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// A file did not hold still while it was archived.
pub(super) fn changed(name: &str, how: &str) -> Error {
    Error::new(ErrorKind::System, format!("{name} {how} while it was being archived"))
        .with_hint("the container must be frozen, and nothing else may write to its files")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_must_have_the_size_it_was_announced_with() {
        let path = tempfile::NamedTempFile::new().expect("a temporary file");
        for length in [0, 1, 511, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            fs::write(path.path(), vec![1; length]).expect("write");
            for announced in [length.saturating_sub(1), length, length + 1] {
                let file = fs::File::open(path.path()).expect("open");
                let mut sink = Sink::new(Vec::new(), Compression::None).expect("no compression");
                sink.put(b"before").expect("memory");
                let result = sink.put_file(&file, announced as u64, &|| "it".into(), &mut ());
                if announced == length {
                    result.expect("the announced size");
                    assert_eq!(sink.finish().expect("memory").0.len(), length + 6);
                } else {
                    let how = if announced < length { "it grew" } else { "it shrank" };
                    assert!(result.expect_err("another size").to_string().contains(how));
                }
            }
        }
    }
}
