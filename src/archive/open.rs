// SPDX-License-Identifier: Apache-2.0
//! Owns the beginning of an archive that is read: what kind of file it is, and its manifest.
//!
//! Must not know what the rest is unpacked into.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use sha2::{Digest as _, Sha256};
use zstd::stream::read::Decoder as ZstdDecoder;

use super::entry::{BLOCK, Entry, Kind};
use super::foreign::ForeignArchive;
use super::index::{Digest, IndexEntry};
use super::manifest::Manifest;
use super::member::{MANIFEST, MANIFEST_MAX};
use super::tar_reader::TarReader;
use super::{invalid, printable, unreadable};
use crate::Result;

const BUFFER: usize = 128 << 10;

/// Largest window that a compressed stream may ask for: log2 of bytes. What zstd itself allows without being told.
const WINDOW_LOG_MAX: u32 = 27;

/// What a decoder of xz may use, in KiB: a dictionary as large as such a window, and its tables.
const XZ_MEMORY: u32 = (128 + 2) << 10;

/// What precedes the tar magic in a header.
const TAR_MAGIC_AT: usize = 257;

type Source<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// The bytes of the tar.
pub(super) enum Decoded<R: Read> {
    Plain(Source<R>),
    Zstd(Box<BufReader<ZstdDecoder<'static, Source<R>>>>),
    Gzip(Box<BufReader<MultiGzDecoder<Source<R>>>>),
    Bzip2(Box<BufReader<MultiBzDecoder<Source<R>>>>),
    Xz(Box<BufReader<XzReader<Source<R>>>>),
}

impl<R: Read> Decoded<R> {
    /// How the file is compressed, in the manifest's words.
    pub(super) fn compression(&self) -> &'static str {
        match self {
            Self::Plain(_) => "none",
            Self::Zstd(_) => "zstd",
            Self::Gzip(_) => "gzip",
            Self::Bzip2(_) => "bzip2",
            Self::Xz(_) => "xz",
        }
    }
}

impl<R: Read> Read for Decoded<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(to),
            Self::Zstd(source) => source.read(to),
            Self::Gzip(source) => source.read(to),
            Self::Bzip2(source) => source.read(to),
            Self::Xz(source) => source.read(to),
        }
    }
}

impl<R: Read> BufRead for Decoded<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self {
            Self::Plain(source) => source.fill_buf(),
            Self::Zstd(source) => source.fill_buf(),
            Self::Gzip(source) => source.fill_buf(),
            Self::Bzip2(source) => source.fill_buf(),
            Self::Xz(source) => source.fill_buf(),
        }
    }

    fn consume(&mut self, amount: usize) {
        match self {
            Self::Plain(source) => source.consume(amount),
            Self::Zstd(source) => source.consume(amount),
            Self::Gzip(source) => source.consume(amount),
            Self::Bzip2(source) => source.consume(amount),
            Self::Xz(source) => source.consume(amount),
        }
    }
}

/// An archive whose manifest was read. Nothing else of it is known yet, and nothing is verified.
pub struct Archive<R: Read> {
    pub(super) tar: TarReader<Decoded<R>>,
    pub(super) manifest: Manifest,
    /// The members read so far: the manifest.
    pub(super) found: Vec<IndexEntry>,
}

impl<R: Read> std::fmt::Debug for Archive<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive").field("manifest", &self.manifest).finish_non_exhaustive()
    }
}

/// An archive, by whoever has written it.
#[derive(Debug)]
pub enum Opened<R: Read> {
    /// One of this program's.
    Ours(Box<Archive<R>>),
    /// One of another engine's.
    Foreign(Box<ForeignArchive<R>>),
}

impl<R: Read> Opened<R> {
    /// Reads as far as the manifest, or the first header of another engine's archive.
    ///
    /// # Errors
    /// `InvalidArchive` if this is empty, compressed in a way that is not read, something else, or of a schema that
    /// this version does not read; `System` if it cannot be read.
    pub fn open(source: R) -> Result<Self> {
        let mut tar = TarReader::new(decoded(source)?, "the archive");
        let first = tar.next()?.ok_or_else(|| invalid("not a checkpoint archive: it has no members"))?;
        if first.path == MANIFEST.as_bytes() {
            let archive = Archive::begin(tar, &first)?;
            if archive.manifest.is_packed() {
                let message = "a packed archive cannot be read from its beginning: its index is at the end";
                return Err(invalid(message).with_hint("save it to a file first, and name that"));
            }
            return Ok(Self::Ours(Box::new(archive)));
        }
        let name = printable(&first.path);
        ForeignArchive::of(tar, first).map(|foreign| Self::Foreign(Box::new(foreign))).map_err(|()| {
            invalid(format!("not a checkpoint archive: its first member is {name}, not {MANIFEST}"))
        })
    }
}

impl<R: Read> Archive<R> {
    /// Reads as far as the manifest.
    ///
    /// # Errors
    /// As [`Opened::open`], and for another engine's archive.
    pub fn open(source: R) -> Result<Self> {
        match Opened::open(source)? {
            Opened::Ours(archive) => Ok(*archive),
            Opened::Foreign(_) => Err(invalid("an archive of Podman, CRI-O or containerd, not of migrate")),
        }
    }

    fn begin(mut tar: TarReader<Decoded<R>>, first: &Entry) -> Result<Self> {
        if first.kind != Kind::File || first.size > MANIFEST_MAX {
            return Err(invalid(format!("member {MANIFEST} is not a file of at most {MANIFEST_MAX} bytes")));
        }
        let offset = tar.offset();
        let mut bytes = vec![0; first.size as usize];
        tar.read_exact(&mut bytes).map_err(|error| unreadable(error, MANIFEST))?;
        let manifest = Manifest::from_bytes(&bytes)?;
        let sha256 = Digest::of(Sha256::new().chain_update(&bytes));
        let found = vec![IndexEntry { name: MANIFEST.into(), size: first.size, offset, sha256 }];
        Ok(Self { tar, manifest, found })
    }

    /// The facts about the checkpoint. They are not verified before the archive is unpacked.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

/// The manifest at the beginning of an archive of ours, of whatever layout. It is not verified.
///
/// # Errors
/// As [`Opened::open`], and for another engine's archive.
pub fn manifest_at(source: impl Read) -> Result<Manifest> {
    let mut tar = TarReader::new(decoded(source)?, "the archive");
    let first = tar.next()?.filter(|first| first.path == MANIFEST.as_bytes());
    let first = first.ok_or_else(|| invalid("not an archive of migrate"))?;
    Archive::begin(tar, &first).map(|archive| archive.manifest)
}

/// Finds out how the file is compressed.
pub(super) fn decoded<R: Read>(mut source: R) -> Result<Decoded<R>> {
    let mut head = Vec::new();
    let read = (&mut source).take(BLOCK).read_to_end(&mut head);
    read.map_err(|error| unreadable(error, "the beginning of the archive"))?;
    let length = head.len();
    let kind = FileKind::of(&head);
    let source = BufReader::with_capacity(BUFFER, Cursor::new(head).chain(source));
    match kind {
        FileKind::Tar => Ok(Decoded::Plain(source)),
        FileKind::Zstd => {
            let started = ZstdDecoder::with_buffer(source).and_then(|mut decoder| {
                decoder.window_log_max(WINDOW_LOG_MAX)?;
                Ok(Decoded::Zstd(Box::new(BufReader::with_capacity(BUFFER, decoder))))
            });
            started.map_err(|error| unreadable(error, "the beginning of the archive"))
        }
        FileKind::Gzip => {
            let decoder = MultiGzDecoder::new(source);
            Ok(Decoded::Gzip(Box::new(BufReader::with_capacity(BUFFER, decoder))))
        }
        FileKind::Bzip2 => {
            let decoder = MultiBzDecoder::new(source);
            Ok(Decoded::Bzip2(Box::new(BufReader::with_capacity(BUFFER, decoder))))
        }
        FileKind::Xz => {
            let decoder = XzReader::new_mem_limit(source, true, XZ_MEMORY);
            Ok(Decoded::Xz(Box::new(BufReader::with_capacity(BUFFER, decoder))))
        }
        FileKind::Compressed(name, command) => {
            Err(invalid(format!("archive is compressed with {name}: not supported yet"))
                .with_hint(format!("recompress it: {command} -dc FILE | zstd > NEW")))
        }
        FileKind::Other if length == 0 => Err(invalid("archive is empty")),
        FileKind::Other => Err(invalid(format!(
            "not a checkpoint archive: its first {length} bytes are neither a tar header nor compressed"
        ))),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileKind {
    Tar,
    Zstd,
    Gzip,
    Bzip2,
    Xz,
    /// Name, and the command that decompresses it.
    Compressed(&'static str, &'static str),
    Other,
}

impl FileKind {
    /// Tells by the magic number.
    fn of(head: &[u8]) -> Self {
        let compressed: [(&[u8], Self); 6] = [
            (b"\x28\xb5\x2f\xfd", Self::Zstd),
            (b"\x1f\x8b", Self::Gzip),
            (b"\xfd7zXZ\0", Self::Xz),
            (b"BZh", Self::Bzip2),
            (b"\x04\x22\x4d\x18", Self::Compressed("lz4", "lz4")),
            (b"LZIP", Self::Compressed("lzip", "lzip")),
        ];
        if let Some((_, kind)) = compressed.iter().find(|(magic, _)| head.starts_with(magic)) {
            return *kind;
        }
        let is_tar = head.len() as u64 == BLOCK && head[TAR_MAGIC_AT..].starts_with(b"ustar");
        if is_tar { Self::Tar } else { Self::Other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart_by_their_magic() {
        let mut tar = Vec::new();
        Entry::new("a", Kind::File).encode(&mut tar);
        assert_eq!(FileKind::of(&tar), FileKind::Tar);
        assert_eq!(FileKind::of(&tar[..511]), FileKind::Other);
        assert_eq!(FileKind::of(&zstd::encode_all(&tar[..], 1).expect("memory")), FileKind::Zstd);
        assert_eq!(FileKind::of(b"\x1f\x8b\x08"), FileKind::Gzip);
        assert_eq!(FileKind::of(b"BZh9"), FileKind::Bzip2);
        assert_eq!(FileKind::of(b"LZIP"), FileKind::Compressed("lzip", "lzip"));
        assert_eq!(FileKind::of(b""), FileKind::Other);
    }
}
