// SPDX-License-Identifier: Apache-2.0
//! Owns where pages begin in the tar of an archive: at the beginning of each file of memory, and of each file of a root filesystem
//! or volume, so that an equal file has equal pages wherever it is.
//!
//! It is a guess: on whatever is no tar the pages lie badly, and nothing is lost but room. Must not know what becomes of pages.

use tar::{EntryType, Header};

use super::PAGE;
use crate::archive::entry::{BLOCK, checksum_is_right};
use crate::archive::member::{IMAGES, ROOTFS, ROOTFS_OVER, VOLUMES};

/// The smallest image that is taken apart. Smaller ones are what is looked at without the rest, and stay together.
const IMAGE_MIN: u64 = 64 << 10;

/// Some bytes from the front of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) length: usize,
    pub(super) part: Part,
}

/// What they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Of no page.
    Between,
    /// Of a page, which ends with them or does not.
    Page { ends: bool },
}

/// The walk over the tar.
#[derive(Debug)]
pub(super) struct Grid {
    /// Whether this is a tree of files within a member.
    is_tree: bool,
    header: Vec<u8>,
    data: Option<Data>,
}

/// What follows a header.
#[derive(Debug)]
struct Data {
    left: u64,
    padding: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Plain,
    /// Pages; so many bytes of the last one are passed.
    Pages(usize),
    Tree(Box<Grid>),
}

impl Grid {
    /// At the beginning of an archive.
    pub(super) fn new() -> Self {
        Self { is_tree: false, header: Vec::new(), data: None }
    }

    /// Passes some of these bytes, at least one if there are any.
    pub(super) fn step(&mut self, bytes: &[u8]) -> Step {
        let Some(data) = &mut self.data else { return self.header(bytes) };
        let step = data.step(bytes);
        if data.left == 0 && data.padding == 0 {
            self.data = None;
        }
        step
    }

    fn header(&mut self, bytes: &[u8]) -> Step {
        let length = bytes.len().min(BLOCK as usize - self.header.len());
        self.header.extend_from_slice(&bytes[..length]);
        if self.header.len() == BLOCK as usize {
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(&self.header);
            self.header.clear();
            self.data = self.judge(&header);
        }
        Step { length, part: Part::Between }
    }

    /// What follows this header.
    fn judge(&self, header: &Header) -> Option<Data> {
        let left = header.entry_size().ok().filter(|size| *size > 0 && checksum_is_right(header))?;
        let padding = left.checked_next_multiple_of(BLOCK)? - left;
        let is_file = matches!(header.entry_type(), EntryType::Regular | EntryType::Continuous);
        let content = match is_file {
            true if self.is_tree => Content::Pages(0),
            true => Content::of_member(&header.path_bytes(), left),
            false => Content::Plain,
        };
        Some(Data { left, padding, content })
    }
}

impl Content {
    fn of_member(name: &[u8], size: u64) -> Self {
        let begins = |with: &str| name.starts_with(with.as_bytes());
        if name == ROOTFS.as_bytes() || name == ROOTFS_OVER.as_bytes() || begins(VOLUMES) {
            return Self::Tree(Box::new(Grid { is_tree: true, ..Grid::new() }));
        }
        if begins(IMAGES) && size >= IMAGE_MIN { Self::Pages(0) } else { Self::Plain }
    }
}

impl Data {
    fn step(&mut self, bytes: &[u8]) -> Step {
        let here = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        if self.left == 0 {
            let length = here(self.padding);
            self.padding -= length as u64;
            return Step { length, part: Part::Between };
        }
        let most = here(self.left);
        let step = match &mut self.content {
            Content::Plain => Step { length: most, part: Part::Between },
            Content::Pages(passed) => {
                let length = most.min(PAGE - *passed);
                let ends = *passed + length == PAGE || length as u64 == self.left;
                *passed = if ends { 0 } else { *passed + length };
                Step { length, part: Part::Page { ends } }
            }
            Content::Tree(grid) => {
                let step = grid.step(&bytes[..most]);
                let is_last = step.length as u64 == self.left;
                match step.part {
                    // What was to be a file ends with its tree.
                    Part::Page { .. } if is_last => Step { part: Part::Page { ends: true }, ..step },
                    _ => step,
                }
            }
        };
        self.left -= step.length as u64;
        step
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::archive::entry::{Entry, Kind};

    fn entry(out: &mut Vec<u8>, name: &str, data: &[u8]) {
        Entry { size: data.len() as u64, ..Entry::new(name, Kind::File) }.encode(out);
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(512), 0);
    }

    /// The pages of a stream, and how many bytes lie between.
    fn pages(mut bytes: &[u8], at_once: usize) -> (Vec<Vec<u8>>, usize) {
        let (mut grid, mut pages, mut page, mut between) = (Grid::new(), Vec::new(), Vec::new(), 0);
        while !bytes.is_empty() {
            let step = grid.step(&bytes[..bytes.len().min(at_once)]);
            assert!(step.length > 0, "it goes on");
            match step.part {
                Part::Between => between += step.length,
                Part::Page { ends } => {
                    page.extend_from_slice(&bytes[..step.length]);
                    if ends {
                        pages.push(std::mem::take(&mut page));
                    }
                }
            }
            bytes = &bytes[step.length..];
        }
        assert!(page.is_empty(), "each page ends");
        (pages, between)
    }

    #[test]
    fn pages_begin_with_their_file() {
        let mut tree = Vec::new();
        entry(&mut tree, &format!("./{}", "long".repeat(40)), &[1; PAGE + 7]);
        entry(&mut tree, "./b", &[2; 9]);
        tree.resize(tree.len() + 1024, 0);
        let mut tar = Vec::new();
        entry(&mut tar, "migrate.json", &[9; 100_000]);
        entry(&mut tar, "checkpoint/pages-1.img", &[3; 20 * PAGE]);
        entry(&mut tar, "checkpoint/core-1.img", &[4; 5000]);
        entry(&mut tar, "rootfs.tar", &tree);
        tar.resize(tar.len() + 1024, 0);
        for at_once in [1, 511, 4096, 1 << 20] {
            let (found, between) = pages(&tar, at_once);
            let expected = [vec![vec![3; PAGE]; 20], vec![vec![1; PAGE], vec![1; 7], vec![2; 9]]].concat();
            assert_eq!(found, expected);
            assert_eq!(between, tar.len() - expected.iter().map(Vec::len).sum::<usize>());
        }
    }

    proptest! {
        #[test]
        fn whatever_it_is_it_is_passed(bytes in proptest::collection::vec(any::<u8>(), 0..3000), at_once in 1_usize..700) {
            let (found, between) = pages(&bytes, at_once);
            prop_assert_eq!(found.iter().map(Vec::len).sum::<usize>() + between, bytes.len());
        }
    }
}
