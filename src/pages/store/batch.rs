// SPDX-License-Identifier: Apache-2.0
//! Pages of one memory as they go from one host to another.
//!
//! ```text
//! space u32 · { address u64 · pages u32 · 1: they follow, 0: they are zero  u32 · [the pages] } …          little endian
//! ```
//! All that is read may come from anybody. Must not know how a batch travels.

use crate::criu::image::PAGE;
use crate::pages::track::Contents;
use crate::{Error, ErrorKind, Result};

const ZEROS: u32 = 0;
const BYTES: u32 = 1;

/// Space.
const HEAD: usize = 4;
/// Address, pages and kind.
const RUN: usize = 16;

/// A batch in the making.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    most: usize,
}

impl Batch {
    /// One of this memory, of at most so many bytes, which have room for a page.
    pub fn new(space: u32, most: usize) -> Self {
        let mut bytes = Vec::with_capacity(most);
        bytes.extend(space.to_le_bytes());
        Self { bytes, most }
    }

    /// Adds what is at this address, as much of it as there is room for; returns how many bytes of memory those are. None: it is full.
    pub fn add(&mut self, address: u64, contents: Contents<'_>) -> u64 {
        let Some(room) = self.most.checked_sub(self.bytes.len() + RUN) else { return 0 };
        let (pages, kind, bytes) = match contents {
            Contents::Zeros(length) => ((length / PAGE).min(u32::MAX.into()), ZEROS, &[][..]),
            Contents::Bytes(bytes) => {
                let pages = (bytes.len().min(room) / PAGE as usize) as u64;
                (pages, BYTES, bytes.get(..(pages * PAGE) as usize).unwrap_or_default())
            }
        };
        if pages > 0 {
            self.bytes.extend(address.to_le_bytes());
            self.bytes.extend((pages as u32).to_le_bytes());
            self.bytes.extend(kind.to_le_bytes());
            self.bytes.extend(bytes);
        }
        pages * PAGE
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.bytes.len() == HEAD
    }

    /// What is to be sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Empties it: it is one of this memory from now on.
    pub fn begin(&mut self, space: u32) {
        self.bytes.clear();
        self.bytes.extend(space.to_le_bytes());
    }
}

/// The space of a batch, and its runs: an address, and what is there.
///
/// # Errors
/// `InvalidInput` for what is no batch, before any of it is told.
pub fn runs_of(batch: &[u8]) -> Result<(u32, Vec<(u64, Contents<'_>)>)> {
    parse(batch).ok_or_else(|| Error::new(ErrorKind::InvalidInput, "pages come in a form that is none"))
}

fn parse(batch: &[u8]) -> Option<(u32, Vec<(u64, Contents<'_>)>)> {
    let (space, mut rest) = batch.split_first_chunk::<HEAD>()?;
    let mut runs = Vec::new();
    while !rest.is_empty() {
        let (address, after) = rest.split_first_chunk()?;
        let (pages, after) = after.split_first_chunk()?;
        let (kind, after) = after.split_first_chunk()?;
        let (address, length) = (u64::from_le_bytes(*address), u64::from(u32::from_le_bytes(*pages)) * PAGE);
        address.checked_add(length).filter(|_| length > 0 && address.is_multiple_of(PAGE))?;
        let contents = match u32::from_le_bytes(*kind) {
            ZEROS => {
                rest = after;
                Contents::Zeros(length)
            }
            BYTES => {
                let (bytes, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
                rest = after;
                Contents::Bytes(bytes)
            }
            _ => return None,
        };
        runs.push((address, contents));
    }
    Some((u32::from_le_bytes(*space), runs))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_added_is_told_until_it_is_full() {
        let page = PAGE as usize;
        let mut batch = Batch::new(7, HEAD + 2 * RUN + 2 * page + 100);
        assert!(batch.is_empty());
        assert_eq!(batch.add(0x1000, Contents::Zeros(3 * PAGE)), 3 * PAGE);
        let bytes = vec![5; 4 * page];
        assert_eq!(batch.add(0x9000, Contents::Bytes(&bytes)), 2 * PAGE);
        assert_eq!(batch.add(0xb000, Contents::Bytes(&bytes)), 0);
        let (space, runs) = runs_of(batch.bytes()).expect("its own");
        let expected = [(0x1000, Contents::Zeros(3 * PAGE)), (0x9000, Contents::Bytes(&bytes[..2 * page]))];
        assert_eq!((space, &runs[..]), (7, &expected[..]));
        batch.begin(8);
        assert!(batch.is_empty());
    }

    #[test]
    fn what_is_no_batch_is_refused() {
        let run = |address: u64, pages: u32, kind: u32| {
            [&[0; 4][..], &address.to_le_bytes(), &pages.to_le_bytes(), &kind.to_le_bytes()].concat()
        };
        runs_of(&run(0x1000, 1, ZEROS)).expect("a good one");
        for bad in [run(0x1001, 1, ZEROS), run(0, 0, ZEROS), run(u64::MAX - 4095, 1, ZEROS), run(0, 1, BYTES)]
        {
            runs_of(&bad).expect_err("no batch");
        }
        runs_of(&run(0, 1, 2)).expect_err("no such kind");
        runs_of(&[0; 3]).expect_err("no space");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_batch_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = runs_of(&bytes);
        }
    }
}
