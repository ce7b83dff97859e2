// SPDX-License-Identifier: Apache-2.0
//! The members of an archive that somebody wants, by name, and of the large ones only the pieces: whoever looks into an
//! archive need not unpack it.
//!
//! ```text
//! a file ─▶ [PackedStream] ─▶ Seekable ─▶ wanted(member)? ─▶ take(name, offset, bytes)
//!    └ no table or index ─▶ TarReader ─▶
//! ```
//! Reads archives of any engine: it knows tar and compression, not members. Nothing that it gives is verified.

use std::io::{BufRead as _, Read, Seek, SeekFrom};
use std::ops::Range;

use super::entry::Kind;
use super::limits::Limits;
use super::member::MANIFEST;
use super::open::decoded;
use super::packed::{Bases, PackedStream};
use super::seekable::Seekable;
use super::tar_reader::TarReader;
use super::{invalid, printable, unreadable};
use crate::{Context, Error, ErrorKind, Result};

/// So much is asked of a file at once: what its index claims to be there may not be.
const STEP: u64 = 1 << 20;

/// What is wanted of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing.
    Nothing,
    /// All of it.
    All,
    /// These bytes of it, in ascending order and apart from each other.
    Pieces(Vec<Range<u64>>),
}

/// Who wants something of an archive.
pub trait Selection {
    /// Asked for each file, in the order of the archive. `name` has no `./` in front.
    fn wanted(&mut self, name: &str, size: u64) -> Wanted;

    /// Given what was wanted: all at once, or piece by piece.
    ///
    /// # Errors
    /// End the reading.
    fn take(&mut self, name: &str, offset: u64, bytes: Vec<u8>) -> Result<()>;

    /// Told when what was wanted is in another archive, which is not there.
    ///
    /// # Errors
    /// End the reading: the usual answer is the error itself.
    fn missing(&mut self, _name: &str, error: Error) -> Result<()> {
        Err(error)
    }

    /// Whether the rest of the archive need not be read. What it consists of is then not known.
    fn is_done(&self) -> bool {
        false
    }
}

/// What the archive consists of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Contents {
    /// `none`, `zstd` …
    pub compression: &'static str,
    /// Names and sizes of all files.
    pub files: Vec<(String, u64)>,
    /// Bytes of the uncompressed stream.
    pub bytes: u64,
    /// Whether the index was found, which stands at the end of an archive of ours.
    pub has_index: bool,
    /// Which archive it is, by its index: `sha256:…`.
    pub digest: Option<String>,
}

/// Gives `selection` what it wants of an archive: by the index at its end, or else by reading all of it. Of a packed one these are
/// the members of the archive that is packed, but its own manifest; what others of `bases` have is taken from there.
///
/// # Errors
/// `InvalidArchive` if it is empty, truncated, damaged, no archive, or larger than [`Limits`] allow; what `selection` says.
pub fn select(
    mut source: impl Read + Seek,
    bases: &Bases,
    selection: &mut dyn Selection,
) -> Result<Contents> {
    if let Some(mut packed) = PackedStream::open(&mut source, bases.clone())? {
        let (manifest, digest) = (packed.manifest_bytes()?, packed.digest());
        let no_index = || invalid("the packed archive has no index in it");
        let inner = Seekable::open(packed)?.ok_or_else(no_index)?;
        let contents = by_index(inner, Some(manifest), selection)?;
        return Ok(Contents { compression: "zstd", digest: Some(digest), ..contents });
    }
    if let Some(seekable) = Seekable::open(&mut source)? {
        return by_index(seekable, None, selection);
    }
    source.seek(SeekFrom::Start(0)).context(|| "go back to the beginning of the archive")?;
    to_its_end(source, selection)
}

fn by_index<R: Read + Seek>(
    mut archive: Seekable<R>,
    mut manifest: Option<Vec<u8>>,
    selection: &mut dyn Selection,
) -> Result<Contents> {
    let members = archive.members().filter(|(name, _)| !name.ends_with('/'));
    let files: Vec<(String, u64)> = members.map(|(name, size)| (name.to_owned(), size)).collect();
    for (name, size) in &files {
        if name == MANIFEST
            && let Some(manifest) = manifest.take()
        {
            if selection.wanted(name, manifest.len() as u64) != Wanted::Nothing {
                selection.take(name, 0, manifest)?;
            }
            continue;
        }
        for piece in pieces(selection.wanted(name, *size), *size) {
            let mut bytes = Vec::new();
            let mut at = piece.start;
            let read = loop {
                let next = piece.end.min(at + STEP);
                match archive.piece(name, at..next) {
                    Ok(read) => bytes.extend(read.unwrap_or_default()),
                    Err(error) => break Err(error),
                }
                at = next;
                if at == piece.end {
                    break Ok(());
                }
            };
            match read {
                Ok(()) => selection.take(name, piece.start, bytes)?,
                Err(error) if error.kind() == ErrorKind::NotFound => selection.missing(name, error)?,
                Err(error) => return Err(error),
            }
        }
        if selection.is_done() {
            break;
        }
    }
    let (compression, bytes) = (archive.compression(), archive.uncompressed_size());
    let digest = Some(archive.digest().to_owned());
    Ok(Contents { compression, files, bytes, has_index: true, digest })
}

/// What is wanted as parts of a member of this size, in ascending order.
fn pieces(wanted: Wanted, size: u64) -> Vec<Range<u64>> {
    let mut at = 0;
    let pieces = match wanted {
        Wanted::Nothing => Vec::new(),
        Wanted::All => std::iter::once(0..size).collect(),
        Wanted::Pieces(pieces) => pieces,
    };
    let bounded = pieces.into_iter().map(|piece| {
        let start = piece.start.max(at).min(size);
        at = piece.end.min(size).max(start);
        start..at
    });
    bounded.collect()
}

fn to_its_end(source: impl Read, selection: &mut dyn Selection) -> Result<Contents> {
    let limits = Limits::default();
    let source = decoded(source)?;
    let compression = source.compression();
    let mut tar = TarReader::new(source, "the archive");
    let mut files = Vec::new();
    let mut members: u64 = 0;
    while let Some(entry) = tar.next()? {
        members += 1;
        let end = tar.offset().saturating_add(entry.size);
        if members > limits.members || end > limits.total_bytes || entry.path.len() > limits.path_length {
            let what = "more members, bytes, or bytes in a name than are allowed";
            return Err(invalid(format!("member {}: {what}", printable(&entry.path))));
        }
        if entry.kind != Kind::File {
            continue;
        }
        let name =
            String::from_utf8_lossy(entry.path.strip_prefix(b"./").unwrap_or(&entry.path)).into_owned();
        let mut at = 0;
        for piece in pieces(selection.wanted(&name, entry.size), entry.size) {
            let cut_off = |error| unreadable(error, &printable(name.as_bytes()));
            skip(&mut tar, piece.start - at).map_err(cut_off)?;
            let mut bytes = Vec::new();
            (&mut tar).take(piece.end - piece.start).read_to_end(&mut bytes).map_err(cut_off)?;
            at = piece.end;
            selection.take(&name, piece.start, bytes)?;
        }
        files.push((name, entry.size));
        if selection.is_done() {
            break;
        }
    }
    Ok(Contents { compression, files, bytes: tar.offset(), has_index: false, digest: None })
}

fn skip<R: std::io::BufRead>(tar: &mut TarReader<R>, mut bytes: u64) -> std::io::Result<()> {
    while bytes > 0 {
        let here = tar.fill_buf()?.len() as u64;
        if here == 0 {
            return Ok(());
        }
        let step = here.min(bytes);
        tar.consume(usize::try_from(step).unwrap_or(usize::MAX));
        bytes -= step;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::super::entry::Entry;
    use super::*;
    use crate::ErrorKind;

    /// Wants all of `a`, pieces of `b`.
    #[derive(Default)]
    struct Some(Vec<(String, u64, String)>);

    impl Selection for Some {
        fn wanted(&mut self, name: &str, _size: u64) -> Wanted {
            match name {
                "a" => Wanted::All,
                "b" => Wanted::Pieces(vec![1..3, 5..6, 90..100]),
                _ => Wanted::Nothing,
            }
        }

        fn take(&mut self, name: &str, offset: u64, bytes: Vec<u8>) -> Result<()> {
            self.0.push((name.to_owned(), offset, String::from_utf8(bytes).expect("text")));
            Ok(())
        }
    }

    fn tar() -> Vec<u8> {
        let mut out = Vec::new();
        Entry::new("d/", Kind::Directory).encode(&mut out);
        for (path, data) in [("./a", "one"), ("other", "two"), ("b", "0123456789")] {
            Entry { size: data.len() as u64, ..Entry::new(path, Kind::File) }.encode(&mut out);
            out.extend_from_slice(data.as_bytes());
            out.resize(out.len().next_multiple_of(512), 0);
        }
        out.resize(out.len() + 1024, 0);
        out
    }

    #[test]
    fn what_is_wanted_is_given_and_nothing_else() {
        let tar = tar();
        for (archive, compression) in
            [(tar.clone(), "none"), (zstd::encode_all(&tar[..], 1).expect("memory"), "zstd")]
        {
            let mut some = Some::default();
            let contents = select(Cursor::new(&archive), &Bases::default(), &mut some).expect("good");
            let taken: Vec<_> = some.0.iter().map(|(n, at, bytes)| (&n[..], *at, &bytes[..])).collect();
            assert_eq!(taken, [("a", 0, "one"), ("b", 1, "12"), ("b", 5, "5"), ("b", 10, "")]);
            assert_eq!((contents.compression, contents.bytes), (compression, tar.len() as u64));
            let sizes: Vec<_> = contents.files.iter().map(|(name, size)| (&name[..], *size)).collect();
            assert_eq!(sizes, [("a", 3), ("other", 3), ("b", 10)]);
        }
    }

    #[test]
    fn an_archive_that_is_cut_off_is_refused_at_every_length() {
        let tar = tar();
        for length in 0..tar.len() {
            let cut = Cursor::new(&tar[..length]);
            let error = select(cut, &Bases::default(), &mut Some::default()).expect_err("cut off");
            assert_eq!(error.kind(), ErrorKind::InvalidArchive, "{length}");
        }
    }
}
