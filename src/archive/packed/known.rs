// SPDX-License-Identifier: Apache-2.0
//! Owns `migrate.pages`: which pages the store of an archive has, for those that go on from it.
//!
//! ```text
//! pages u64 · { bytes between the page before and this one · bytes of it } per page · SHA-256 32 per page
//! ```
//! Little endian; the numbers of pages have seven bits a byte. A restore does not need it.

use super::{put_number, take_number};
use crate::Result;
use crate::archive::invalid;
use crate::archive::member::PAGES;

/// Bytes of a SHA-256.
const DIGEST: usize = 32;

/// The most pages that are listed: those of 128 GiB.
const MOST_PAGES: usize = 1 << 25;

/// Most bytes of the member.
pub(super) const LARGEST: u64 = (MOST_PAGES as u64) * (DIGEST as u64 + 12) + 8;

/// What a page is.
pub(super) type PageDigest = [u8; DIGEST];

/// The list in the making.
#[derive(Debug, Default)]
pub(super) struct PageList {
    spans: Vec<u8>,
    digests: Vec<u8>,
    end: u64,
}

impl PageList {
    /// Adds a page that begins there in the store, behind those before. When there are too many it is left out: nobody will find it.
    pub(super) fn push(&mut self, at: u64, length: u64, digest: &PageDigest) {
        if self.digests.len() / DIGEST >= MOST_PAGES {
            return;
        }
        put_number(at - self.end, &mut self.spans);
        put_number(length, &mut self.spans);
        self.digests.extend(digest);
        self.end = at + length;
    }

    /// The member's bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let count = (self.digests.len() / DIGEST) as u64;
        [&count.to_le_bytes()[..], &self.spans, &self.digests].concat()
    }

    /// Reads the member's bytes, of an archive whose store has so many, and gives each page's place and digest.
    ///
    /// # Errors
    /// `InvalidArchive` if they are no list, or one that leads beyond the store.
    pub(super) fn read(bytes: &[u8], store: u64, mut each: impl FnMut(u64, PageDigest)) -> Result<()> {
        let refused = || invalid(format!("{PAGES} is no list of the pages in the archive's store"));
        let (count, rest) = bytes.split_first_chunk().ok_or_else(refused)?;
        let count = usize::try_from(u64::from_le_bytes(*count)).ok().filter(|count| *count <= MOST_PAGES);
        let size = count.ok_or_else(refused)?.saturating_mul(DIGEST);
        let spans = rest.len().checked_sub(size).ok_or_else(refused)?;
        let (mut spans, digests) = rest.split_at(spans);
        let mut end = 0_u64;
        for digest in digests.as_chunks::<DIGEST>().0 {
            let (between, length) =
                take_number(&mut spans).zip(take_number(&mut spans)).ok_or_else(refused)?;
            let at = end.checked_add(between).ok_or_else(refused)?;
            end = at.checked_add(length).filter(|end| *end <= store).ok_or_else(refused)?;
            each(at, *digest);
        }
        if spans.is_empty() { Ok(()) } else { Err(refused()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_list_reads_as_written(pages in proptest::collection::vec((0_u64..9000, 1_u64..4097, any::<u8>()), 0..100)) {
            let (mut list, mut end, mut expected) = (PageList::default(), 0, Vec::new());
            for (between, length, byte) in pages {
                list.push(end + between, length, &[byte; DIGEST]);
                expected.push((end + between, [byte; DIGEST]));
                end += between + length;
            }
            let mut found = Vec::new();
            PageList::read(&list.to_bytes(), end, |at, digest| found.push((at, digest))).expect("ours");
            prop_assert_eq!(found, expected);
            if end > 0 {
                PageList::read(&list.to_bytes(), end - 1, |_, _| ()).expect_err("a smaller store");
            }
        }

        #[test]
        fn hostile_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..200), count in 0_u64..5) {
            for hostile in [[&count.to_le_bytes()[..], &bytes].concat(), bytes] {
                let _ = PageList::read(&hostile, 1 << 30, |at, _| assert!(at <= 1 << 30));
            }
        }
    }

    #[test]
    fn a_number_of_pages_is_only_announced() {
        for count in [1, 1 << 25, u64::MAX] {
            PageList::read(&count.to_le_bytes(), 1 << 30, |_, _| ()).expect_err("there are none");
        }
    }
}
