// SPDX-License-Identifier: Apache-2.0
//! Owns the table of frames at the end of a compressed archive.
//!
//! ```text
//! magic 0x184D2A5E u32 · length u32 · { compressed u32 · uncompressed u32 } per frame · count u32 · 0 u8 · magic 0x8F92EAB1 u32
//! ```
//! All little endian. The layout is that of Zstandard's seekable format: a frame that every decompressor skips. A table that
//! is read is hostile: it is believed only as far as the file bears it out.

use std::io::{self, Read, Seek, SeekFrom};

/// A frame to be skipped, and the end of one that is a table.
const SKIPPABLE: u32 = 0x184D_2A5E;
const SEEKABLE: u32 = 0x8F92_EAB1;

/// Bytes before, of, and after the entries.
const HEADER: usize = 8;
const ENTRY: usize = 8;
const FOOTER: usize = 9;

/// The format's own bound on the number of frames, and how many are read: more than the largest archive that is read can have.
const FRAMES_MAX: usize = 0x0800_0000;
const READ_MAX: usize = 1 << 23;

/// The largest frame that is read at random, in bytes.
const FRAME_MAX: u32 = 16 << 20;

/// Where a frame is, in the file and in the uncompressed stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) at: u64,
    pub(super) compressed: u32,
    pub(super) start: u64,
    pub(super) uncompressed: u32,
}

/// All frames, in their order and without a gap.
#[derive(Debug, Clone, Default)]
pub(super) struct SeekTable {
    frames: Vec<Frame>,
}

impl SeekTable {
    /// Adds a frame.
    ///
    /// # Errors
    /// If it is too large for the table.
    pub(super) fn push(&mut self, compressed: usize, uncompressed: usize) -> io::Result<()> {
        let sizes = (u32::try_from(compressed), u32::try_from(uncompressed));
        let (Ok(compressed), Ok(uncompressed)) = sizes else {
            return Err(io::Error::other("a frame of 4 GiB and more"));
        };
        let (at, start) = self.end();
        self.frames.push(Frame { at, compressed, start, uncompressed });
        Ok(())
    }

    /// Where the last frame ends, in the file and in the uncompressed stream.
    fn end(&self) -> (u64, u64) {
        let last = self.frames.last();
        last.map_or((0, 0), |f| (f.at + u64::from(f.compressed), f.start + u64::from(f.uncompressed)))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Where in the file this one is.
    pub(super) fn position(&self, number: usize) -> Option<u64> {
        self.frames.get(number).map(|frame| frame.at)
    }

    /// Bytes of the uncompressed stream.
    pub(super) fn uncompressed(&self) -> u64 {
        self.end().1
    }

    /// The frame that has the byte at this position of the uncompressed stream.
    pub(super) fn find(&self, position: u64) -> Option<Frame> {
        let after = self.frames.partition_point(|frame| frame.start <= position);
        let frame = *self.frames.get(after.checked_sub(1)?)?;
        (position - frame.start < u64::from(frame.uncompressed)).then_some(frame)
    }

    /// The frame that the table is.
    pub(super) fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let count = u32::try_from(self.frames.len()).ok().filter(|_| self.frames.len() <= FRAMES_MAX);
        let count = count.ok_or_else(|| io::Error::other("too many frames for one archive"))?;
        let length = self.frames.len() * ENTRY + FOOTER;
        let mut bytes = Vec::with_capacity(HEADER + length);
        bytes.extend(SKIPPABLE.to_le_bytes());
        bytes.extend((length as u32).to_le_bytes());
        for frame in &self.frames {
            bytes.extend(frame.compressed.to_le_bytes());
            bytes.extend(frame.uncompressed.to_le_bytes());
        }
        bytes.extend(count.to_le_bytes());
        // No checksums in the table: each frame has its own.
        bytes.push(0);
        bytes.extend(SEEKABLE.to_le_bytes());
        Ok(bytes)
    }

    /// Reads the table at the end of a file. `None` if there is none, or one that does not fit the file.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn read(file: &mut (impl Read + Seek)) -> io::Result<Option<Self>> {
        let size = file.seek(SeekFrom::End(0))?;
        if size < (HEADER + FOOTER) as u64 {
            return Ok(None);
        }
        let mut footer = [0; FOOTER];
        file.seek(SeekFrom::Start(size - FOOTER as u64))?;
        file.read_exact(&mut footer)?;
        let [a, b, c, d, descriptor, magic @ ..] = footer;
        let count = u32::from_le_bytes([a, b, c, d]) as usize;
        if u32::from_le_bytes(magic) != SEEKABLE || descriptor != 0 || count > READ_MAX {
            return Ok(None);
        }
        let length = HEADER + count * ENTRY + FOOTER;
        let Some(frames) = size.checked_sub(length as u64) else { return Ok(None) };
        file.seek(SeekFrom::Start(frames))?;
        let mut bytes = vec![0; length];
        file.read_exact(&mut bytes)?;
        let table = Self::parse(&bytes[HEADER..length - FOOTER]);
        // Written again it must be the same, so the header is right, too.
        let fits =
            |table: &Self| table.end().0 == frames && table.to_bytes().is_ok_and(|again| again == bytes);
        Ok(table.filter(fits))
    }

    fn parse(entries: &[u8]) -> Option<Self> {
        let mut table = Self { frames: Vec::with_capacity(entries.len() / ENTRY) };
        for entry in entries.as_chunks::<ENTRY>().0 {
            let [a, b, c, d, uncompressed @ ..] = *entry;
            let uncompressed = u32::from_le_bytes(uncompressed);
            let compressed = u32::from_le_bytes([a, b, c, d]);
            if uncompressed > FRAME_MAX || compressed > 2 * FRAME_MAX {
                return None;
            }
            table.push(compressed as usize, uncompressed as usize).ok()?;
        }
        Some(table)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn written() -> Vec<u8> {
        let mut table = SeekTable::default();
        table.push(0x0102, 0x0003_0405).expect("small");
        table.push(4, 10).expect("small");
        table.to_bytes().expect("two frames")
    }

    fn read(bytes: Vec<u8>) -> Option<SeekTable> {
        SeekTable::read(&mut Cursor::new(bytes)).expect("memory")
    }

    #[test]
    fn the_table_has_the_public_layout() {
        let expected = b"\x5e\x2a\x4d\x18\x19\0\0\0\x02\x01\0\0\x05\x04\x03\0\x04\0\0\0\x0a\0\0\0\
                         \x02\0\0\0\0\xb1\xea\x92\x8f";
        assert_eq!(written(), expected);
        SeekTable::default().push(1 << 32, 0).expect_err("it is too large");
    }

    #[test]
    fn frames_are_found_by_their_content() {
        let table = read([vec![7; 0x0106], written()].concat()).expect("it fits");
        assert_eq!(table.uncompressed(), 0x0003_040f);
        let second = Frame { at: 0x0102, compressed: 4, start: 0x0003_0405, uncompressed: 10 };
        assert_eq!(table.find(0x0003_0404).map(|frame| frame.at), Some(0));
        assert_eq!(table.find(0x0003_0405), Some(second));
        assert_eq!(table.find(0x0003_040e), Some(second));
        assert_eq!(table.find(0x0003_040f), None);
        assert_eq!(SeekTable::default().find(0), None);
    }

    #[test]
    fn a_table_that_does_not_fit_is_none() {
        let good = [vec![7; 0x0106], written()].concat();
        for changed in 0x0106..good.len() {
            let mut bytes = good.clone();
            bytes[changed] ^= 0x80;
            let size_of_content = [0x0106 + 12..0x0106 + 16, 0x0106 + 20..0x0106 + 24];
            let is_free = size_of_content.iter().any(|range| range.contains(&changed));
            // How large a frame becomes is seen when it is decompressed, unless it is far too large.
            assert!(is_free || read(bytes).is_none(), "{changed:#x}");
        }
        assert!(read(good[1..].to_vec()).is_none(), "a byte is missing at the beginning");
        for length in 0..written().len() {
            assert!(read(written()[written().len() - length..].to_vec()).is_none(), "{length}");
        }
        let mut large = SeekTable::default();
        large.push(0, FRAME_MAX as usize + 1).expect("it can be written");
        assert!(read(large.to_bytes().expect("one")).is_none());
    }
}
