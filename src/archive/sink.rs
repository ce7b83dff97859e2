// SPDX-License-Identifier: Apache-2.0
//! Owns the way of bytes into an archive: gathered in one buffer, hashed if they are a member's data, compressed.
//!
//! Must not know which members there are.

use std::fs::File;
use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};
use zstd::stream::raw::CParameter;
use zstd::stream::write::Encoder;

use super::Progress;
use super::entry::{BLOCK, Entry};
use super::index::Digest;
use super::writer::Compression;
use crate::{Context, Error, ErrorKind, Result};

/// How much is gathered before it is hashed and compressed.
const BUFFER: usize = 256 << 10;

/// Threads that compress, at most.
const WORKERS: usize = 4;

/// The lowest level whose tables are too large to have one set per worker.
const LARGE_TABLES: i32 = 4;

/// Piece of work of each worker at the lower levels, in bytes: zstd's own choice is four windows, times the workers.
const JOB: u32 = 2 << 20;

/// Largest tables and window that keep an export below its memory goal at the highest levels: log2 of entries/bytes.
const LOG_MAX: u32 = 21;

pub(super) struct Sink<W: Write> {
    output: Output<Counted<W>>,
    /// Of [`BUFFER`] bytes, the first `filled` are in use.
    buffer: Box<[u8]>,
    filled: usize,
    hasher: Option<Sha256>,
    /// Bytes taken so far, those in the buffer included.
    offset: u64,
}

enum Output<W: Write> {
    Plain(W),
    Zstd(Box<Encoder<'static, W>>),
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
        let counted = Counted { inner: output, written: 0 };
        let output = match compression {
            Compression::None => Output::Plain(counted),
            Compression::Zstd { level } => {
                let encoder = encoder(counted, level).context(|| "start compression")?;
                Output::Zstd(Box::new(encoder))
            }
        };
        Ok(Self { output, buffer: vec![0; BUFFER].into(), filled: 0, hasher: None, offset: 0 })
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

    /// What is put from now on is a member's data, until [`Sink::end_data`].
    pub(super) fn begin_data(&mut self) -> Result<()> {
        self.drain()?;
        self.hasher = Some(Sha256::new());
        Ok(())
    }

    /// The member's data is complete; returns its digest.
    pub(super) fn end_data(&mut self) -> Result<Digest> {
        self.drain()?;
        Ok(Digest::of(self.hasher.take().unwrap_or_default()))
    }

    /// Fills up the last block. Members begin at a block, so this is right for those of a nested tar too.
    pub(super) fn pad(&mut self) -> Result<()> {
        let missing = self.offset.next_multiple_of(BLOCK) - self.offset;
        self.put(&[0; BLOCK as usize][..missing as usize])
    }

    /// Takes these bytes.
    pub(super) fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let length = bytes.len().min(BUFFER - self.filled);
            self.buffer[self.filled..][..length].copy_from_slice(&bytes[..length]);
            self.filled += length;
            self.offset += length as u64;
            bytes = &bytes[length..];
            if self.filled == BUFFER {
                self.drain()?;
            }
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
            if self.filled == BUFFER {
                self.drain()?;
            }
            // One byte more than is left: it tells a file that has grown, without another call.
            let room = (BUFFER - self.filled) as u64;
            let wanted = room.min(left.saturating_add(1)) as usize;
            let read = read_some(&mut file, &mut self.buffer[self.filled..][..wanted]);
            let read = read.context(|| format!("read {}", name()))?;
            self.filled += read;
            let (read, wanted) = (read as u64, wanted as u64);
            if read > left || (read == 0 && left > 0) {
                let what = if read > left { "grew" } else { "shrank" };
                return Err(changed(&name(), what));
            }
            left -= read;
            self.offset += read;
            progress.advance(read);
            if left == 0 && read < wanted {
                return Ok(());
            }
        }
    }

    /// Hands over all that was put, so that little is left to be written later.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.drain()?;
        match &mut self.output {
            Output::Plain(output) => output.flush(),
            Output::Zstd(encoder) => encoder.flush(),
        }
        .context(|| "write the archive")
    }

    /// Where the archive goes.
    pub(super) fn target(&mut self) -> &mut W {
        match &mut self.output {
            Output::Plain(output) => &mut output.inner,
            Output::Zstd(encoder) => &mut encoder.get_mut().inner,
        }
    }

    /// Ends the stream; returns where it went and how many bytes that were.
    pub(super) fn finish(mut self) -> Result<(W, u64)> {
        self.drain()?;
        let mut output = match self.output {
            Output::Plain(output) => output,
            Output::Zstd(encoder) => encoder.finish().context(|| "write the archive")?,
        };
        output.flush().context(|| "write the archive")?;
        Ok((output.inner, output.written))
    }

    fn drain(&mut self) -> Result<()> {
        let bytes = &self.buffer[..self.filled];
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.filled = 0;
        match &mut self.output {
            Output::Plain(output) => output.write_all(bytes),
            Output::Zstd(encoder) => encoder.write_all(bytes),
        }
        .context(|| "write the archive")
    }
}

/// A compressor with checksums, with workers where they do not cost too much memory.
fn encoder<W: Write>(output: W, level: i32) -> io::Result<Encoder<'static, W>> {
    let mut encoder = Encoder::new(output, level)?;
    encoder.include_checksum(true)?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = if level < LARGE_TABLES { processors.min(WORKERS) } else { 1 };
    encoder.multithread(workers as u32)?;
    if level < LARGE_TABLES {
        encoder.set_parameter(CParameter::JobSize(JOB))?;
    } else {
        encoder.set_parameter(CParameter::WindowLog(LOG_MAX))?;
        encoder.set_parameter(CParameter::HashLog(LOG_MAX))?;
        encoder.set_parameter(CParameter::ChainLog(LOG_MAX))?;
    }
    Ok(encoder)
}

fn read_some(file: &mut &File, to: &mut [u8]) -> io::Result<usize> {
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
        for length in [0, 1, 511, BUFFER - 1, BUFFER, BUFFER + 1, 3 * BUFFER] {
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
