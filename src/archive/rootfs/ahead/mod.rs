// SPDX-License-Identifier: Apache-2.0
//! Owns a tree that goes to another host while somebody writes to it: in rounds, each with what is other than in the one before, the
//! last one when nobody writes any more. What the other host has by then is the tree.
//!
//! ```text
//! one round, compressed:  ( 't' tar · 'p' patch · 'm' moved · 'r' removed ) …  'e'
//!
//! tar      entries of what is new, and of directories that are other, as in an archive
//! patch    a tar of one entry, without data: a file that is there, and what is to be set on it
//!          size u64 · ( offset u64 · length u32 · so many bytes ) … · 0 u64 · 0 u32
//! moved    length u32 · a path · length u32 · the path that it has now: a file that is there
//! removed  ( length u32 · a path ) … · 0 u32
//! ```
//! Numbers are little endian. What is read from such a stream is hostile: the same holds as for a root filesystem in an archive. Must not
//! know how a round gets to the other host, nor who writes to the tree.

mod lay;
mod sent;
mod settled;
mod stream;

pub use lay::lay_round;
pub use sent::{SentRound, SentTree};
pub use settled::tells_of_writes;

const TAR: u8 = b't';
const PATCH: u8 = b'p';
const MOVED: u8 = b'm';
const REMOVED: u8 = b'r';
const END: u8 = b'e';

/// What is compared of a file at once, and sent again if it is other: the longest piece of a patch, in bytes.
const PIECE: usize = 64 << 10;

#[cfg(test)]
mod tests;
