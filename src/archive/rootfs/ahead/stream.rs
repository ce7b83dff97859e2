// SPDX-License-Identifier: Apache-2.0
//! Owns the writing of a round's stream: its parts one after the other, a tar begun where one is needed. Must not know what is sent, nor
//! why.

use std::io::Write;

use super::{END, MOVED, PATCH, REMOVED, TAR};
use crate::Result;
use crate::archive::entry::{BLOCK, Entry, Kind};
use crate::archive::sink::Sink;
use crate::archive::writer::Compression;

/// A tar's end mark.
const MARK: [u8; 2 * BLOCK as usize] = [0; 2 * BLOCK as usize];

pub(super) struct Stream<W: Write> {
    sink: Sink<W>,
    in_tar: bool,
    header: Vec<u8>,
}

impl<W: Write> Stream<W> {
    pub(super) fn new(to: W) -> Result<Self> {
        Ok(Self { sink: Sink::new(to, Compression::default())?, in_tar: false, header: Vec::new() })
    }

    /// Writes an entry; its data is to follow, by [`Stream::data`] and [`Stream::end_data`].
    pub(super) fn entry(&mut self, entry: &Entry) -> Result<()> {
        if !self.in_tar {
            self.sink.put(&[TAR])?;
            self.in_tar = true;
        }
        self.put_header(entry)
    }

    pub(super) fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.sink.put(bytes)
    }

    /// Fills up the last block of an entry's data.
    pub(super) fn end_data(&mut self, entry: &Entry) -> Result<()> {
        let missing = entry.size.next_multiple_of(BLOCK) - entry.size;
        self.sink.put(&MARK[..missing as usize])
    }

    /// Begins a patch of the file that the entry names.
    pub(super) fn patch(&mut self, entry: &Entry) -> Result<()> {
        self.end_tar()?;
        self.sink.put(&[PATCH])?;
        self.put_header(&Entry { size: 0, ..entry.clone() })?;
        self.sink.put(&MARK)?;
        self.sink.put(&entry.size.to_le_bytes())
    }

    /// A piece of it.
    pub(super) fn piece(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.sink.put(&offset.to_le_bytes())?;
        self.sink.put(&(bytes.len() as u32).to_le_bytes())?;
        self.sink.put(bytes)
    }

    /// Ends it.
    pub(super) fn end_patch(&mut self) -> Result<()> {
        self.piece(0, &[])
    }

    /// A file has another path now.
    pub(super) fn moved(&mut self, from: &[u8], to: &[u8]) -> Result<()> {
        self.end_tar()?;
        self.sink.put(&[MOVED])?;
        self.path(from)?;
        self.path(to)
    }

    /// Names what is gone.
    pub(super) fn removed<'p>(&mut self, paths: impl Iterator<Item = &'p [u8]>) -> Result<()> {
        self.end_tar()?;
        self.sink.put(&[REMOVED])?;
        for path in paths {
            self.path(path)?;
        }
        self.path(&[])
    }

    fn path(&mut self, path: &[u8]) -> Result<()> {
        self.sink.put(&(path.len() as u32).to_le_bytes())?;
        self.sink.put(path)
    }

    /// Ends the round.
    pub(super) fn finish(mut self) -> Result<()> {
        self.end_tar()?;
        self.sink.put(&[END])?;
        self.sink.finish().map(drop)
    }

    fn end_tar(&mut self) -> Result<()> {
        if std::mem::take(&mut self.in_tar) { self.sink.put(&MARK) } else { Ok(()) }
    }

    fn put_header(&mut self, entry: &Entry) -> Result<()> {
        debug_assert!(entry.size == 0 || entry.kind == Kind::File, "only files have data");
        self.header.clear();
        entry.encode(&mut self.header);
        self.sink.put(&self.header)
    }
}
