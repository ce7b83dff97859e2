// SPDX-License-Identifier: Apache-2.0
//! Owns the beginning of an archive that is read: what kind of file it is, and its manifest.
//!
//! Must not know what the rest is unpacked into.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use sha2::{Digest as _, Sha256};
use zstd::stream::read::Decoder as ZstdDecoder;

use super::entry::{BLOCK, Entry, Kind};
use super::index::{Digest, IndexEntry};
use super::manifest::Manifest;
use super::member::{MANIFEST, MANIFEST_MAX};
use super::tar_reader::TarReader;
use super::{invalid, printable, unreadable};
use crate::{Error, Result};

const BUFFER: usize = 128 << 10;

/// Largest window that a compressed stream may ask for: log2 of bytes. What zstd itself allows without being told.
const WINDOW_LOG_MAX: u32 = 27;

/// Members that are looked at to tell which engine a foreign archive is from, and how far that may go.
const FOREIGN_MEMBERS: usize = 64;
const FOREIGN_BYTES: u64 = 1 << 30;

/// What precedes the tar magic in a header.
const TAR_MAGIC_AT: usize = 257;

type Source<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// The bytes of the tar.
pub(super) enum Decoded<R: Read> {
    Plain(Source<R>),
    Zstd(Box<BufReader<ZstdDecoder<'static, Source<R>>>>),
}

impl<R: Read> Read for Decoded<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(to),
            Self::Zstd(source) => source.read(to),
        }
    }
}

impl<R: Read> BufRead for Decoded<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self {
            Self::Plain(source) => source.fill_buf(),
            Self::Zstd(source) => source.fill_buf(),
        }
    }

    fn consume(&mut self, amount: usize) {
        match self {
            Self::Plain(source) => source.consume(amount),
            Self::Zstd(source) => source.consume(amount),
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

impl<R: Read> Archive<R> {
    /// Reads as far as the manifest.
    ///
    /// # Errors
    /// `InvalidArchive` if this is empty, compressed in another way, another engine's archive, something else, or
    /// of a schema that this version does not read; `System` if it cannot be read.
    pub fn open(source: R) -> Result<Self> {
        let mut tar = TarReader::new(decoded(source)?, "the archive");
        let first = tar.next()?.ok_or_else(|| invalid("not a checkpoint archive: it has no members"))?;
        if first.path != MANIFEST.as_bytes() {
            return Err(foreign(tar, &first));
        }
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

/// Finds out how the file is compressed.
fn decoded<R: Read>(mut source: R) -> Result<Decoded<R>> {
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
        FileKind::Compressed(name, command) => {
            Err(invalid(format!("archive is compressed with {name}: not supported yet"))
                .with_hint(format!("recompress it: {command} -dc FILE | zstd > NEW")))
        }
        FileKind::Other if length == 0 => Err(invalid("archive is empty")),
        FileKind::Other => Err(invalid(format!(
            "not a checkpoint archive: its first {length} bytes are neither a tar header nor zstd"
        ))),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileKind {
    Tar,
    Zstd,
    /// Name, and the command that decompresses it.
    Compressed(&'static str, &'static str),
    Other,
}

impl FileKind {
    /// Tells by the magic number.
    fn of(head: &[u8]) -> Self {
        let compressed: [(&[u8], Self); 6] = [
            (b"\x28\xb5\x2f\xfd", Self::Zstd),
            (b"\x1f\x8b", Self::Compressed("gzip", "gzip")),
            (b"\xfd7zXZ\0", Self::Compressed("xz", "xz")),
            (b"BZh", Self::Compressed("bzip2", "bzip2")),
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

/// Why a tar that does not begin with a manifest is refused.
fn foreign<R: Read>(mut tar: TarReader<Decoded<R>>, first: &Entry) -> Error {
    let mut name = first.path.clone();
    for _ in 0..FOREIGN_MEMBERS {
        match name.strip_prefix(b"./").unwrap_or(&name) {
            b"config.dump" | b"spec.dump" => {
                return invalid(
                    "an archive of Podman, CRI-O or containerd, which this version does not read",
                )
                .with_hint("restore it with the engine that wrote it");
            }
            b"migrate.json" => return invalid(format!("{MANIFEST} is not the first member")),
            _ => {}
        }
        match tar.next() {
            Ok(Some(entry)) if tar.offset().saturating_add(entry.size) < FOREIGN_BYTES => name = entry.path,
            Ok(_) => break,
            Err(error) => return error,
        }
    }
    invalid(format!(
        "not a checkpoint archive: its first member is {}, not {MANIFEST}",
        printable(&first.path)
    ))
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
        assert_eq!(FileKind::of(b"\x1f\x8b\x08"), FileKind::Compressed("gzip", "gzip"));
        assert_eq!(FileKind::of(b""), FileKind::Other);
    }
}
