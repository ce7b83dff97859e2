// SPDX-License-Identifier: Apache-2.0
//! Where the pages of one memory are: runs that do not overlap, by address. Must not know what is in them.

use std::collections::BTreeMap;
use std::ops::Range;

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the file of pages, from this byte on.
    At(u64),
    /// Nowhere: it is zero.
    Zeros,
}

impl Place {
    /// That of what is so many bytes further on in the same run.
    pub(in crate::pages) fn after(self, bytes: u64) -> Self {
        match self {
            Self::At(offset) => Self::At(offset.saturating_add(bytes)),
            Self::Zeros => Self::Zeros,
        }
    }
}

/// A run: its length in bytes, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pages) struct Run {
    pub(in crate::pages) length: u64,
    pub(in crate::pages) place: Place,
}

/// The runs of one memory. Addresses and lengths are of whole pages, and none reaches beyond the last address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::pages) struct Runs(BTreeMap<u64, Run>);

impl Runs {
    pub(in crate::pages) fn count(&self) -> usize {
        self.0.len()
    }

    pub(in crate::pages) fn iter(&self) -> impl Iterator<Item = (u64, Run)> + '_ {
        self.0.iter().map(|(address, run)| (*address, *run))
    }

    /// What is at this address and after it in the same run.
    pub(in crate::pages) fn at(&self, address: u64) -> Option<Run> {
        let (start, run) = self.0.range(..=address).next_back()?;
        let within = address - start;
        let left = run.length.checked_sub(within).filter(|left| *left > 0)?;
        Some(Run { length: left, place: run.place.after(within) })
    }

    /// What is in this range, in pieces that lie in it, in order.
    pub(in crate::pages) fn within(&self, range: &Range<u64>) -> Vec<(u64, Run)> {
        let before = self.0.range(..range.start).next_back();
        let inside = self.0.range(range.clone());
        let clipped = |(start, run): (&u64, &Run)| {
            let (from, to) = ((*start).max(range.start), (start + run.length).min(range.end));
            (from < to).then(|| (from, Run { length: to - from, place: run.place.after(from - start) }))
        };
        if range.is_empty() {
            Vec::new()
        } else {
            before.into_iter().chain(inside).filter_map(clipped).collect()
        }
    }

    /// Puts a run where there may be others, which it replaces there. What follows on from a neighbour becomes one with it.
    pub(in crate::pages) fn put(&mut self, address: u64, run: Run) {
        let end = address + run.length;
        self.remove(&(address..end));
        let (mut start, mut run) = (address, run);
        if let Some((before, other)) = self.0.range(..address).next_back().map(|(at, run)| (*at, *run))
            && before + other.length == address
            && other.place.after(other.length) == run.place
        {
            (start, run) = (before, Run { length: other.length + run.length, place: other.place });
        }
        if let Some(other) = self.0.get(&end).copied()
            && run.place.after(run.length) == other.place
        {
            self.0.remove(&end);
            run.length += other.length;
        }
        self.0.insert(start, run);
    }

    /// What is in this range is so no more.
    pub(in crate::pages) fn remove(&mut self, range: &Range<u64>) {
        let before = self.0.range(..range.start).next_back().map(|(at, _)| *at);
        let inside = self.0.range(range.clone()).map(|(at, _)| *at);
        let starts: Vec<u64> = before.into_iter().chain(inside).collect();
        for start in starts {
            let Some(run) = self.0.get(&start).copied() else { continue };
            let end = start + run.length;
            if end <= range.start {
                continue;
            }
            self.0.remove(&start);
            if start < range.start {
                self.0.insert(start, Run { length: range.start - start, place: run.place });
            }
            if range.end < end {
                let place = run.place.after(range.end - start);
                self.0.insert(range.end, Run { length: end - range.end, place });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(length: u64, place: Place) -> Run {
        Run { length, place }
    }

    #[test]
    fn what_follows_on_is_one_and_what_is_replaced_is_split() {
        let mut runs = Runs::default();
        runs.put(10, run(2, Place::At(0)));
        runs.put(14, run(2, Place::At(4)));
        runs.put(12, run(2, Place::At(2)));
        assert_eq!(runs.iter().collect::<Vec<_>>(), [(10, run(6, Place::At(0)))]);
        runs.put(12, run(1, Place::Zeros));
        runs.put(13, run(1, Place::Zeros));
        let expected = [(10, run(2, Place::At(0))), (12, run(2, Place::Zeros)), (14, run(2, Place::At(4)))];
        assert_eq!(runs.iter().collect::<Vec<_>>(), expected);
        assert_eq!(runs.at(13), Some(run(1, Place::Zeros)));
        assert_eq!(runs.at(15), Some(run(1, Place::At(5))));
        assert_eq!((runs.at(9), runs.at(16)), (None, None));
        assert_eq!(runs.within(&(11..13)), [(11, run(1, Place::At(1))), (12, run(1, Place::Zeros))]);
        assert_eq!(runs.within(&(0..10)), []);
        runs.put(0, run(100, Place::Zeros));
        assert_eq!((runs.count(), runs.at(99)), (1, Some(run(1, Place::Zeros))));
    }
}
