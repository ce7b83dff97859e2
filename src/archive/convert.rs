// SPDX-License-Identifier: Apache-2.0
//! Owns the way of an archive from one layout to another: the same members with the same contents, in the same order.
//!
//! ```text
//! file ─▶ verified ─▶ read again, member by member, compared with its index ─▶ tar, frames           (full)
//!                                                                           └▶ tar ─▶ Packer       (packed)
//! ```

use std::fs::File;
use std::io::{Read, Write};
use std::time::SystemTime;

use super::entry::{BLOCK, Entry, Kind};
use super::envelope::{Completes, Identities, opened_file};
use super::index::{Index, IndexEntry};
use super::manifest::Manifest;
use super::member::{INDEX, MANIFEST, SMALL_MAX};
use super::open::Decoded;
use super::packed::{Bases, PackedBase, PackedStream, Packer};
use super::sink::Sink;
use super::tar_reader::TarReader;
use super::writer::{Compression, WriteOptions};
use super::{Archive, Limits, Progress, Random, invalid, printable, unreadable};
use crate::{Context, Error, ErrorKind, Result};

/// How an archive is laid out.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Layout {
    /// Each file is a member, so that other engines read it.
    #[default]
    Full,
    /// Equal pages are there once, or only in an archive that this one goes on from.
    Packed(Option<PackedBase>),
}

/// Writes an archive of ours again, in another layout. What it needs of others is taken from `bases`.
///
/// # Errors
/// `InvalidArchive` if it is damaged, or another engine's; `NotFound` if an archive that it needs is not there; `InvalidInput` if it
/// is no regular file; else as reading and writing. The target then has no name.
pub fn convert(
    file: &File,
    identities: &Identities,
    bases: &Bases,
    target: Box<dyn Completes>,
    layout: Layout,
    progress: &mut dyn Progress,
) -> Result<()> {
    if !file.metadata().context(|| "stat the archive")?.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "the archive is not a regular file")
            .with_hint("it is read twice: save it to a file first"));
    }
    let again = || -> Result<Archive<Box<dyn Random>>> {
        let copy = || file.try_clone().context(|| "duplicate a descriptor");
        if let Some(mut packed) = PackedStream::open(opened_file(copy()?, identities)?, bases.clone())? {
            packed.require_bases()?;
            return Archive::open(Box::new(packed));
        }
        Archive::open(opened_file(copy()?, identities)?)
    };
    again()?.verify(&Limits::default(), progress)?;
    let archive = again()?;
    let mut options = WriteOptions { created: SystemTime::now(), ..WriteOptions::default() };
    let source = archive.manifest();
    let manifest = |compression: &str| Manifest { compression: compression.into(), ..source.clone() };
    match layout {
        Layout::Full => {
            let manifest = manifest("zstd");
            let sink = Sink::new(target, options.compression)?;
            copy(archive, sink, &manifest)?.complete().map(drop)
        }
        Layout::Packed(base) => {
            let manifest = manifest("none");
            let packer = Packer::new(target, &options, &manifest, base)?;
            options.compression = Compression::None;
            let sink = Sink::new(packer, options.compression)?;
            Box::new(copy(archive, sink, &manifest)?).complete().map(drop)
        }
    }
}

/// Copies all members behind another manifest. What is not what the index says is an error in the end.
fn copy<R: Read, W: Write>(archive: Archive<R>, mut sink: Sink<W>, manifest: &Manifest) -> Result<W> {
    let Archive { mut tar, mut found, .. } = archive;
    let mut written = Vec::new();
    let bytes = manifest.to_bytes()?;
    let entry = |name: &str, size: usize| Entry { size: size as u64, ..Entry::new(name, Kind::File) };
    put(&mut sink, &entry(MANIFEST, bytes.len()), MANIFEST, &mut &bytes[..], &mut written)?;
    let index = loop {
        let next = tar.next()?.ok_or_else(|| invalid(format!("archive is truncated: {INDEX} is missing")))?;
        let name = String::from_utf8(next.path.clone())
            .map_err(|error| invalid(format!("member {}", printable(&next.path))).with_source(error))?;
        if name == INDEX {
            break index_of(&mut tar, &next)?;
        }
        let offset = tar.offset();
        put(&mut sink, &next, &name, &mut tar, &mut written)?;
        let copied = written.last().cloned();
        found.extend(copied.map(|entry| IndexEntry { offset, ..entry }));
    };
    if let Some(entry) = tar.next()? {
        return Err(invalid(format!("member {} comes after {INDEX}", printable(&entry.path))));
    }
    tar.expect_end()?;
    index.verify(&found)?;
    let bytes = Index::of(std::mem::take(&mut written)).to_bytes()?;
    sink.cut()?;
    put(&mut sink, &entry(INDEX, bytes.len()), INDEX, &mut &bytes[..], &mut written)?;
    sink.put(&[0; 2 * BLOCK as usize])?;
    Ok(sink.finish()?.0)
}

/// Writes one member.
fn put<W: Write>(
    sink: &mut Sink<W>,
    entry: &Entry,
    name: &str,
    from: &mut impl Read,
    written: &mut Vec<IndexEntry>,
) -> Result<()> {
    sink.header(entry)?;
    let offset = sink.offset();
    sink.begin_data(entry.size)?;
    sink.put_from(from, entry.size)?;
    let sha256 = sink.end_data()?;
    written.push(IndexEntry { name: name.to_owned(), size: entry.size, offset, sha256 });
    Ok(())
}

fn index_of<R: Read>(tar: &mut TarReader<Decoded<R>>, entry: &Entry) -> Result<Index> {
    let mut bytes = Vec::new();
    tar.take(SMALL_MAX.min(entry.size)).read_to_end(&mut bytes).map_err(|error| unreadable(error, INDEX))?;
    Index::from_bytes(&bytes)
}
