// SPDX-License-Identifier: Apache-2.0
//! Owns what is known of the pages of one process that are not there: at which address, and where their contents are.
//!
//! Follows what the process does to its memory. Must not know how pages get there.

use std::collections::BTreeMap;
use std::ops::Range;

/// Pages that follow each other, in a file of pages as in the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// The number of the file of pages.
    pub(super) file: u32,
    /// Where they begin in it.
    pub(super) offset: u64,
    /// In bytes.
    pub(super) length: u64,
}

/// The missing pages of a process.
#[derive(Debug, Clone, Default)]
pub(super) struct Missing {
    by_address: BTreeMap<u64, Piece>,
    /// The address of each piece, by file and offset.
    by_place: BTreeMap<(u32, u64), u64>,
    /// Where a child of fork(2) finds zeros.
    wiped_on_fork: Vec<Range<u64>>,
}

impl Missing {
    pub(super) fn new(wiped_on_fork: Vec<Range<u64>>) -> Self {
        Self { wiped_on_fork, ..Self::default() }
    }

    /// How many pieces there are.
    pub(super) fn len(&self) -> usize {
        self.by_address.len()
    }

    /// Adds pages that no others are at the place of.
    pub(super) fn insert(&mut self, address: u64, piece: Piece) {
        self.by_address.insert(address, piece);
        self.by_place.insert((piece.file, piece.offset), address);
    }

    /// Where the contents of the page with this address are, and any page that is missing.
    pub(super) fn place_of(&self, address: u64) -> Option<(u32, u64)> {
        let (start, piece) = self.by_address.range(..=address).next_back()?;
        let within = address - start;
        (within < piece.length).then_some((piece.file, piece.offset + within))
    }

    pub(super) fn any(&self) -> Option<(u32, u64)> {
        self.by_place.keys().next().copied()
    }

    /// Missing pages with contents in this part of a file: their addresses, and the parts.
    pub(super) fn within(&self, file: u32, part: &Range<u64>) -> Vec<(u64, Range<u64>)> {
        let before = self.by_place.range(..(file, part.start)).next_back();
        let inside = self.by_place.range((file, part.start)..(file, part.end));
        let clipped = |(place, address): (&(u32, u64), &u64)| {
            let piece = self.by_address.get(address)?;
            let start = piece.offset.max(part.start);
            let end = piece.offset.saturating_add(piece.length).min(part.end);
            (place.0 == file && start < end).then(|| (address + (start - piece.offset), start..end))
        };
        before.into_iter().chain(inside).filter_map(clipped).collect()
    }

    /// What is missing at these addresses is so no more, or nothing is there any more.
    pub(super) fn remove(&mut self, addresses: &Range<u64>) -> Vec<(u64, Piece)> {
        let mut taken = Vec::new();
        if addresses.is_empty() {
            return taken;
        }
        let before = self.by_address.range(..addresses.start).next_back().map(|(start, _)| *start);
        let inside = self.by_address.range(addresses.clone()).map(|(start, _)| *start);
        let starts: Vec<u64> = before.into_iter().chain(inside).collect();
        for start in starts {
            let Some(piece) = self.by_address.get(&start).copied() else { continue };
            let end = start.saturating_add(piece.length);
            let (from, to) = (start.max(addresses.start), end.min(addresses.end));
            if from >= to {
                continue;
            }
            self.by_address.remove(&start);
            self.by_place.remove(&(piece.file, piece.offset));
            let part = |from: u64, to: u64| Piece {
                offset: piece.offset + (from - start),
                length: to - from,
                ..piece
            };
            if start < from {
                self.insert(start, part(start, from));
            }
            if to < end {
                self.insert(to, part(to, end));
            }
            taken.push((from, part(from, to)));
        }
        taken
    }

    /// Memory has moved. What was where it is now is gone.
    pub(super) fn move_to(&mut self, from: u64, to: u64, length: u64) {
        let moved = self.remove(&(from..from.saturating_add(length)));
        self.remove(&(to..to.saturating_add(length)));
        for (address, piece) in moved {
            self.insert(to.wrapping_add(address - from), piece);
        }
        let wiped: Vec<_> = self
            .wiped_on_fork
            .iter()
            .filter_map(|range| {
                let start = range.start.max(from);
                let end = range.end.min(from.saturating_add(length));
                (start < end).then(|| to.wrapping_add(start - from)..to.wrapping_add(end - from))
            })
            .collect();
        self.wiped_on_fork.extend(wiped);
    }

    /// What a child is missing that the process has just forked.
    pub(super) fn of_child(&self) -> Self {
        let mut child = self.clone();
        for range in &self.wiped_on_fork {
            child.remove(range);
        }
        child
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    fn piece(offset: u64, pages: u64) -> Piece {
        Piece { file: 1, offset: offset * PAGE, length: pages * PAGE }
    }

    fn pages(range: Range<u64>) -> Range<u64> {
        range.start * PAGE..range.end * PAGE
    }

    fn all(missing: &Missing) -> Vec<(u64, u64, u64)> {
        assert_eq!(missing.by_address.len(), missing.by_place.len());
        let facts = |(address, piece): (&u64, &Piece)| {
            assert_eq!(missing.by_place.get(&(piece.file, piece.offset)), Some(address));
            (address / PAGE, piece.offset / PAGE, piece.length / PAGE)
        };
        missing.by_address.iter().map(facts).collect()
    }

    fn two() -> Missing {
        let mut missing = Missing::default();
        missing.insert(10 * PAGE, piece(0, 4));
        missing.insert(20 * PAGE, piece(4, 2));
        missing
    }

    #[test]
    fn pages_are_found_by_address_and_by_place() {
        let missing = two();
        assert_eq!(missing.place_of(9 * PAGE), None);
        assert_eq!(missing.place_of(13 * PAGE), Some((1, 3 * PAGE)));
        assert_eq!(missing.place_of(14 * PAGE), None);
        assert_eq!(missing.within(1, &pages(3..5)), [(13 * PAGE, pages(3..4)), (20 * PAGE, pages(4..5))]);
        assert_eq!(missing.within(2, &pages(0..9)), []);
        assert_eq!(missing.any(), Some((1, 0)));
        assert_eq!(Missing::default().any(), None);
    }

    #[test]
    fn what_is_removed_splits_what_is_around_it() {
        let mut missing = two();
        assert_eq!(missing.remove(&pages(11..12)), [(11 * PAGE, piece(1, 1))]);
        assert_eq!(all(&missing), [(10, 0, 1), (12, 2, 2), (20, 4, 2)]);
        missing.remove(&pages(13..21));
        assert_eq!(all(&missing), [(10, 0, 1), (12, 2, 1), (21, 5, 1)]);
        missing.remove(&(0..u64::MAX));
        assert_eq!(all(&missing), []);
    }

    #[test]
    fn what_moves_takes_its_contents_with_it() {
        let mut missing = two();
        missing.move_to(12 * PAGE, 19 * PAGE, 2 * PAGE);
        assert_eq!(all(&missing), [(10, 0, 2), (19, 2, 2), (21, 5, 1)]);
    }

    #[test]
    fn a_child_does_not_get_what_is_wiped_even_if_that_has_moved() {
        let mut missing = Missing::new(vec![pages(11..12)]);
        missing.insert(10 * PAGE, piece(0, 4));
        assert_eq!(all(&missing.of_child()), [(10, 0, 1), (12, 2, 2)]);
        missing.move_to(10 * PAGE, 30 * PAGE, 4 * PAGE);
        assert_eq!(all(&missing.of_child()), [(30, 0, 1), (32, 2, 2)]);
        assert_eq!(all(&missing), [(30, 0, 4)]);
    }
}
