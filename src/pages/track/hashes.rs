// SPDX-License-Identifier: Apache-2.0
//! Changes found by comparing contents: for shared mappings, whose writes nobody notes, and as the judge of what was noted. Costs a
//! reading of everything each time; never misses a change.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use super::read::{Contents, PageReader, ReadTotals};
use crate::Result;
use crate::criu::image::PAGE;

/// What was in each page of one process when it was last compared: 128 bits a page. Two keys that nobody knows, so that no process can
/// make pages that look alike.
#[derive(Debug, Default)]
pub struct MemoryHashes {
    keys: [RandomState; 2],
    pages: HashMap<u64, [u64; 2]>,
}

/// What has come of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Pages with other contents than at the last time, or that were not there then; in order.
    pub changed: Vec<Range<u64>>,
    /// What was read for it.
    pub totals: ReadTotals,
}

impl MemoryHashes {
    /// Compares these ranges with what was in them the last time, and keeps what is in them now. Pages elsewhere are forgotten.
    ///
    /// # Errors
    /// As [`PageReader::read`].
    pub fn compare(&mut self, reader: &mut PageReader, ranges: &[Range<u64>]) -> Result<Changes> {
        let zero = self.hash(&[0; PAGE as usize]);
        let mut now = HashMap::new();
        let mut changed: Vec<Range<u64>> = Vec::new();
        let mut compare = |page: u64, hash: [u64; 2]| {
            if self.pages.get(&page) != Some(&hash) {
                match changed.last_mut() {
                    Some(last) if last.end == page => last.end += PAGE,
                    _ => changed.push(page..page + PAGE),
                }
            }
            now.insert(page, hash);
        };
        let totals = reader.read(ranges, &mut |address, contents| {
            match contents {
                Contents::Zeros(length) => {
                    (address..address + length).step_by(PAGE as usize).for_each(|page| compare(page, zero));
                }
                Contents::Bytes(bytes) => {
                    let pages = (address..).step_by(PAGE as usize);
                    bytes
                        .chunks(PAGE as usize)
                        .zip(pages)
                        .for_each(|(bytes, page)| compare(page, self.hash(bytes)));
                }
            }
            Ok(())
        })?;
        self.pages = now;
        Ok(Changes { changed, totals })
    }

    fn hash(&self, page: &[u8]) -> [u64; 2] {
        self.keys.each_ref().map(|key| key.hash_one(page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_changed_is_told() {
        let page = PAGE as usize;
        let mut memory = vec![0_u8; 5 * page];
        let begin = memory.as_ptr() as u64;
        let start = begin.next_multiple_of(PAGE);
        let all = start..start + 4 * PAGE;
        let own = nix::unistd::getpid().as_raw();
        let mut reader = PageReader::open(own, own).expect("our own");
        let mut hashes = MemoryHashes::default();
        let mut compare =
            || hashes.compare(&mut reader, std::slice::from_ref(&all)).expect("compared").changed;
        assert_eq!(compare().as_slice(), std::slice::from_ref(&all));
        assert!(compare().is_empty());
        memory[(start - begin) as usize + 2 * page + 5] = 1;
        std::hint::black_box(&mut memory);
        let third = start + 2 * PAGE..start + 3 * PAGE;
        assert_eq!(compare().as_slice(), std::slice::from_ref(&third));
        memory[(start - begin) as usize + 2 * page + 5] = 0;
        std::hint::black_box(&mut memory);
        assert_eq!(compare().as_slice(), std::slice::from_ref(&third));
        assert!(compare().is_empty());
    }
}
