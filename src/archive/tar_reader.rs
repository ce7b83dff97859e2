// SPDX-License-Identifier: Apache-2.0
//! Owns the walk over a tar stream: one entry after the other, data in between, nothing held in memory but PAX records.
//!
//! Strict: checksums, zero padding, two zero blocks at the end. Must not know what the entries mean.

use std::io::{self, BufRead, Read};

use tar::{EntryType, Header};

use super::entry::{BLOCK, Entry, Malformed, PAX_MAX, checksum_is_right};
use super::{invalid, printable, unreadable};
use crate::Result;

/// Reads a tar from a stream. As a [`BufRead`] it gives the data of the entry that [`TarReader::next`] returned.
#[derive(Debug)]
pub(super) struct TarReader<R> {
    inner: R,
    /// What the stream is, for messages.
    name: &'static str,
    /// Position in the stream.
    offset: u64,
    /// Bytes of data that are left of the current entry, and of padding after it.
    data: u64,
    padding: u64,
    /// The last entry's path, for messages.
    current: Vec<u8>,
    records: Vec<u8>,
}

/// Where an entry that is a tar of its own has fewer bytes than that tar needs.
#[derive(Debug, thiserror::Error)]
#[error("{0} has fewer bytes than its entries need")]
struct TooShort(&'static str);

impl<R> TarReader<R> {
    /// The same walk over another source of the same bytes, e.g. one that reads ahead, and the source until now.
    pub(super) fn swap<S>(self, inner: S) -> (TarReader<S>, R) {
        let Self { inner: before, name, offset, data, padding, current, records } = self;
        (TarReader { inner, name, offset, data, padding, current, records }, before)
    }
}

impl<R: BufRead> TarReader<R> {
    /// Reads the stream from its beginning. `name` tells what it is.
    pub(super) fn new(inner: R, name: &'static str) -> Self {
        Self { inner, name, offset: 0, data: 0, padding: 0, current: Vec::new(), records: Vec::new() }
    }

    /// Position in the stream: after [`TarReader::next`], that of the entry's data.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next entry; what is left of the data before it is skipped. `None` at the end of the tar.
    ///
    /// # Errors
    /// `InvalidArchive` if the stream is not a tar or ends without an end mark.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        self.finish_entry()?;
        self.records.clear();
        let Some(mut header) = self.read_header()? else { return Ok(None) };
        if header.entry_type() == EntryType::XHeader {
            self.read_records(&header)?;
            header = self.read_header()?.ok_or_else(|| self.malformed("PAX records without an entry"))?;
            if header.entry_type() == EntryType::XHeader {
                return Err(self.malformed("PAX records without an entry"));
            }
        }
        let entry = Entry::decode(&header, &self.records).map_err(|Malformed(what)| self.malformed(what))?;
        self.data = entry.size;
        let padded = entry.padded_size().and_then(|padded| padded.checked_add(self.offset));
        if padded.is_none() {
            return Err(self.malformed("a size that is out of range"));
        }
        self.padding = entry.size.next_multiple_of(BLOCK) - entry.size;
        self.current.clone_from(&entry.path);
        Ok(Some(entry))
    }

    /// Skips what is left of the entry's data and checks that the padding is zero.
    pub(super) fn finish_entry(&mut self) -> Result<()> {
        loop {
            match self.fill_buf().map(<[u8]>::len) {
                Ok(0) => break,
                Ok(here) => self.consume(here),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error, &self.place())),
            }
        }
        let mut padding = [0; BLOCK as usize];
        let padding = &mut padding[..self.padding as usize];
        self.padding = 0;
        self.read_all(padding)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(self.malformed("padding that is not zero"));
        }
        Ok(())
    }

    /// Takes note that the entry's data and padding are not in the stream.
    pub(super) fn pass_over(&mut self) {
        self.offset = self.offset.saturating_add(self.data).saturating_add(self.padding);
        (self.data, self.padding) = (0, 0);
    }

    /// Checks that the stream ends where the tar did.
    pub(super) fn expect_end(&mut self) -> Result<()> {
        let rest = self.inner.fill_buf().map_err(|e| unreadable(e, "its end"))?;
        if rest.is_empty() { Ok(()) } else { Err(invalid(format!("data after the end of {}", self.name))) }
    }

    /// Reads what is left of the stream: others fill it up with zeros. A compressed stream verifies its checksum there.
    pub(super) fn drain(&mut self) -> Result<()> {
        loop {
            let rest = self.inner.fill_buf().map_err(|e| unreadable(e, "its end"))?;
            let length = rest.len();
            if length == 0 {
                return Ok(());
            }
            if rest.iter().any(|byte| *byte != 0) {
                return Err(invalid(format!("data after the end of {}", self.name)));
            }
            self.inner.consume(length);
        }
    }

    /// What was being read when something went wrong: the stream and the entry.
    pub(super) fn place(&self) -> String {
        if self.current.is_empty() {
            return format!("the first header of {}", self.name);
        }
        format!("{} of {}", printable(&self.current), self.name)
    }

    /// A header block; `None` for the two zero blocks at the end.
    fn read_header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        self.read_all(header.as_mut_bytes())?;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            self.read_all(header.as_mut_bytes())?;
            return if header.as_bytes().iter().all(|byte| *byte == 0) {
                Ok(None)
            } else {
                Err(self.malformed("half an end mark"))
            };
        }
        if !checksum_is_right(&header) {
            return Err(self.malformed("a header with a wrong checksum"));
        }
        if header.as_ustar().is_none() && header.as_gnu().is_none() {
            return Err(self.malformed("a header that is not ustar"));
        }
        Ok(Some(header))
    }

    fn read_records(&mut self, header: &Header) -> Result<()> {
        let size = header.entry_size().ok().filter(|size| (1..=PAX_MAX).contains(size));
        let size = size.ok_or_else(|| self.malformed("PAX records of an impossible size"))?;
        let mut records = std::mem::take(&mut self.records);
        records.resize(size as usize, 0);
        self.read_all(&mut records)?;
        self.records = records;
        self.padding = size.next_multiple_of(BLOCK) - size;
        self.finish_entry()
    }

    fn read_all(&mut self, mut to: &mut [u8]) -> Result<()> {
        while !to.is_empty() {
            let read = match self.inner.read(to) {
                Ok(0) => Err(self.too_short()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other,
            };
            let read = read.map_err(|e| {
                let place = self.place();
                let place =
                    if self.current.is_empty() { place } else { format!("{place} or what follows it") };
                unreadable(e, &place)
            })?;
            self.offset += read as u64;
            to = &mut to[read..];
        }
        Ok(())
    }

    /// The stream ended, the tar did not.
    fn too_short(&self) -> io::Error {
        if self.name == super::rootfs::STREAM {
            io::Error::new(io::ErrorKind::InvalidData, TooShort(self.name))
        } else {
            io::ErrorKind::UnexpectedEof.into()
        }
    }

    fn malformed(&self, what: &'static str) -> crate::Error {
        let place = if self.current.is_empty() {
            format!("at the beginning of {}", self.name)
        } else {
            format!("at or after {}", self.place())
        };
        invalid(format!("{what} {place}"))
    }
}

impl<R: BufRead> BufRead for TarReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.data == 0 {
            return Ok(&[]);
        }
        if self.inner.fill_buf()?.is_empty() {
            return Err(self.too_short());
        }
        // Filled above: this only borrows again.
        let buffer = self.inner.fill_buf()?;
        let length = usize::try_from(self.data).map_or(buffer.len(), |data| data.min(buffer.len()));
        Ok(&buffer[..length])
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
        self.data -= amount as u64;
        self.offset += amount as u64;
    }
}

impl<R: BufRead> Read for TarReader<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let length = available.read(to)?;
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::entry::Kind;

    fn tar_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (path, data) in entries {
            let entry = Entry { size: data.len() as u64, ..Entry::new(*path, Kind::File) };
            entry.encode(&mut out);
            out.extend_from_slice(data);
            out.resize(out.len().next_multiple_of(512), 0);
        }
        out.resize(out.len() + 1024, 0);
        out
    }

    fn walk(bytes: &[u8]) -> Result<Vec<(String, u64, String)>> {
        let mut reader = TarReader::new(bytes, "archive");
        let mut found = Vec::new();
        while let Some(entry) = reader.next()? {
            let offset = reader.offset();
            let mut data = String::new();
            reader.read_to_string(&mut data).map_err(|e| unreadable(e, &reader.place()))?;
            found.push((printable(&entry.path), offset, data));
        }
        reader.expect_end()?;
        Ok(found)
    }

    #[test]
    fn entries_come_with_their_data_and_offset() {
        let long = "n".repeat(300);
        let bytes = tar_of(&[("a", b"one"), (&long, b""), ("b", b"two")]);
        let found = walk(&bytes).expect("well formed");
        assert_eq!(found[0], ("a".into(), 512, "one".into()));
        assert_eq!(found[1].1, 1024 + 3 * 512);
        assert_eq!(found[2], ("b".into(), 1024 + 4 * 512, "two".into()));
    }

    #[test]
    fn every_prefix_and_every_flipped_header_bit_is_noticed() {
        let bytes = tar_of(&[("a", b"one"), ("b", b"two")]);
        for length in 0..bytes.len() {
            let error = walk(&bytes[..length]).expect_err("it is cut off");
            assert!(error.chain().contains("truncated"), "{length}: {}", error.chain());
        }
        for position in (0..bytes.len()).filter(|at| !(512..515).contains(at) && !(1536..1539).contains(at)) {
            let mut damaged = bytes.clone();
            damaged[position] ^= 1;
            assert!(walk(&damaged).is_err(), "byte {position}");
        }
    }

    #[test]
    fn what_follows_the_end_is_refused() {
        let mut bytes = tar_of(&[("a", b"one")]);
        bytes.push(0);
        assert!(walk(&bytes).expect_err("one byte too many").to_string().contains("data after the end"));
    }
}
