// SPDX-License-Identifier: Apache-2.0
//! A checkpoint in one file: written and read as a stream, in bounded memory, verified before it is used.
//!
//! ```text
//!            images dir, rootfs ──▶ ArchiveWriter ──▶ tar ──▶ zstd ──▶ ArchiveFile (or any Write)
//!  private dir, rootfs dir ◀── Archive::unpack_into ◀── tar ◀── zstd ◀── any Read
//!                single members ◀── Seekable ◀── index, table of frames ◀── a file
//!     the tar in between ◀── PackedStream ◀── a packed file, and those that it needs ◀── Packer ◀── tar
//! ```
//! The format is described in `docs/archive-format.md`. This module knows paths and bytes; it must not know CRIU
//! calls or the engine. What it reads is hostile: every name is resolved beneath a directory, every size is bounded
//! by [`Limits`], and nothing is reported as unpacked before the index has verified.

mod convert;
mod digester;
mod engine_config;
mod entry;
mod envelope;
mod file;
mod foreign;
mod frames;
mod index;
mod late;
mod limits;
mod manifest;
pub mod member;
mod on_demand;
mod open;
mod packed;
mod read_ahead;
mod rootfs;
mod seek_table;
mod seekable;
mod select;
pub mod signature;
mod sink;
mod small_tree;
mod tar_reader;
mod tar_stream;
mod unpack;
mod writer;

use std::borrow::Cow;
use std::convert::Infallible;
use std::io;

pub use convert::{Layout, convert};
pub use envelope::{Completes, Identities, Random, Recipients, Sealed, opened};
pub use file::ArchiveFile;
pub use foreign::{ForeignArchive, UnpackedForeign, copy_tree, lay_over, lay_over_base, remove_deleted};
pub use late::Ending;
pub use limits::Limits;
pub use manifest::{
    ArchiveFacts, BaseFacts, ContainerFacts, CriuVersion, EngineFacts, LAYOUT_FULL, LAYOUT_PACKED, Manifest,
    OLDEST_SCHEMA, RootfsForm, SCHEMA, SCHEMA_PACKED, Tool, VolumeFacts,
};
pub use member::SmallMember;
pub use on_demand::{Memory, manifest_of, unpack_without_memory};
pub use open::{Archive, Opened, manifest_at};
pub use packed::{Bases, PackedBase, PackedStream, Packer, packed_stream};
pub use rootfs::{
    BaseTree, DeviceNodes, SentRound, SentTree, Tree, UnpackedRootfs, lay_round, tells_of_writes, verify_base,
};
pub use seekable::Seekable;
pub use select::{Contents, Selection, Wanted, select};
pub(crate) use small_tree::crc32;
pub use small_tree::small_tree;
pub use tar_stream::{TarForm, tar_stream};
pub use unpack::{UnpackOptions, UnpackedCheckpoint};
pub use writer::{ArchiveWriter, Compression, RootfsSummary, Summary, WriteOptions};

use crate::{Context, Error, ErrorKind};

/// Who wants to know how far a long operation is. Bytes are counted before compression.
pub trait Progress {
    /// As far as is known now, the operation consists of this many bytes in all. May grow as more becomes known.
    fn total(&mut self, bytes: u64);

    /// This many bytes more are done.
    fn advance(&mut self, bytes: u64);
}

/// Nobody wants to know.
impl Progress for () {
    fn total(&mut self, _bytes: u64) {}
    fn advance(&mut self, _bytes: u64) {}
}

/// The archive is wrong, and this is how.
fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidArchive, message)
}

/// What was attempted failed, and this is the cause. The kind is that of the cause.
fn failed<E>(cause: E, attempted: impl Into<Cow<'static, str>>) -> Error
where
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let Err(error) = Err::<Infallible, E>(cause).context(|| attempted);
    error
}

/// Sorts out why bytes of an archive could not be read: the operating system said no, the archive ends early, or
/// it is damaged. `what` is the member, or what else was being read.
fn unreadable(error: io::Error, what: &str) -> Error {
    let is_told = matches!(error.get_ref(), Some(inner) if inner.is::<Error>());
    if error.raw_os_error().is_some() || is_told {
        return failed(error, format!("read {what}"));
    }
    if error.kind() == io::ErrorKind::UnexpectedEof {
        let hint = "the file was not copied or written to its end: copy it again, or export again";
        return invalid(format!("archive is truncated: it ends within {what}")).with_hint(hint);
    }
    invalid(format!("archive is damaged: {what} cannot be decoded")).with_source(error)
}

/// Bytes from a hostile name, for a message: printable, and not longer than a line or two.
fn printable(name: &[u8]) -> String {
    const LONGEST: usize = 200;
    let (shown, more) = if name.len() > LONGEST { (&name[..LONGEST], "…") } else { (name, "") };
    let mut text = String::new();
    for chunk in shown.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.extend(std::ascii::escape_default(*byte).map(char::from));
        }
    }
    text + more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_printable() {
        assert_eq!(printable("etc/ä".as_bytes()), "etc/ä");
        assert_eq!(printable(b"a\x1b[2J\n\xff"), "a\\u{1b}[2J\\n\\xff");
        assert!(printable(&[b'x'; 5000]).len() < 300);
    }
}
