// SPDX-License-Identifier: Apache-2.0
//! The index of a store: from runs to bytes and back.
//!
//! ```text
//! "pages 1\n" · processes u32 · { pid u32 · space u32 } · spaces u32 · { space u32 · runs u32 · { address u64 · pages u64 · offset u64 } }
//! ```
//! Little endian. An offset of all ones: the run is zero. What was written to a disk may come back otherwise; that pages overlap, or are
//! beyond the end of the file that they are in, is found before any is read.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use super::runs::{Place, Run, Runs};
use super::{RUNS, SPACES};
use crate::criu::image::PAGE;

const MAGIC: &[u8; 8] = b"pages 1\n";
const ZEROS: u64 = u64::MAX;

/// What is in an index.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    /// Which memory a process has, by CRIU's number of it.
    pub(super) processes: HashMap<u32, u32>,
    /// Where the pages of a memory are.
    pub(super) spaces: HashMap<u32, Runs>,
}

pub(super) fn write(
    to: &mut impl Write,
    processes: &[(u32, u32)],
    spaces: &HashMap<u32, Runs>,
) -> io::Result<()> {
    to.write_all(MAGIC)?;
    count(to, processes.len())?;
    for (pid, space) in processes {
        to.write_all(&[pid.to_le_bytes(), space.to_le_bytes()].concat())?;
    }
    // Of the others nobody will ask.
    let wanted: Vec<_> =
        spaces.iter().filter(|(space, _)| processes.iter().any(|(_, of)| of == *space)).collect();
    count(to, wanted.len())?;
    for (space, runs) in wanted {
        to.write_all(&space.to_le_bytes())?;
        count(to, runs.count())?;
        for (address, run) in runs.iter() {
            let offset = match run.place {
                Place::At(offset) => offset,
                Place::Zeros => ZEROS,
            };
            let numbers = [address, run.length / PAGE, offset];
            to.write_all(&numbers.map(u64::to_le_bytes).concat())?;
        }
    }
    Ok(())
}

fn count(to: &mut impl Write, count: usize) -> io::Result<()> {
    to.write_all(&u32::try_from(count).map_err(|_| io::ErrorKind::InvalidInput)?.to_le_bytes())
}

/// Reads an index of a file of so many bytes of pages.
pub(super) fn read(mut from: impl Read, bytes: u64) -> io::Result<Index> {
    if number(&mut from)? != u64::from_le_bytes(*MAGIC) {
        return Err(damaged());
    }
    let mut index = Index::default();
    for _ in 0..bounded(&mut from, SPACES)? {
        let (pid, space) = (short(&mut from)?, short(&mut from)?);
        if index.processes.insert(pid, space).is_some() {
            return Err(damaged());
        }
    }
    let mut left = RUNS;
    for _ in 0..bounded(&mut from, SPACES)? {
        let space = short(&mut from)?;
        let mut runs = Runs::default();
        let mut reached = 0;
        let count = bounded(&mut from, left)?;
        left -= count;
        for _ in 0..count {
            let (address, pages, offset) = (number(&mut from)?, number(&mut from)?, number(&mut from)?);
            let length = pages.checked_mul(PAGE).filter(|length| *length > 0).ok_or_else(damaged)?;
            let end = address.checked_add(length).ok_or_else(damaged)?;
            let place = if offset == ZEROS { Place::Zeros } else { Place::At(offset) };
            let is_there = offset == ZEROS || offset.checked_add(length).is_some_and(|last| last <= bytes);
            if address < reached || !address.is_multiple_of(PAGE) || !is_there {
                return Err(damaged());
            }
            reached = end;
            runs.put(address, Run { length, place });
        }
        if index.spaces.insert(space, runs).is_some() {
            return Err(damaged());
        }
    }
    match from.read(&mut [0])? {
        0 => Ok(index),
        _ => Err(damaged()),
    }
}

fn bounded(from: &mut impl Read, most: usize) -> io::Result<usize> {
    usize::try_from(short(from)?).ok().filter(|count| *count <= most).ok_or_else(damaged)
}

fn short(from: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn number(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is damaged")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written() -> Vec<u8> {
        let mut runs = Runs::default();
        runs.put(0x1000, Run { length: 2 * PAGE, place: Place::At(PAGE) });
        runs.put(0x8000, Run { length: PAGE, place: Place::Zeros });
        let mut bytes = Vec::new();
        write(&mut bytes, &[(1, 9)], &HashMap::from([(9, runs), (4, Runs::default())])).expect("memory");
        bytes
    }

    #[test]
    fn what_is_written_is_read_and_what_nobody_asks_for_is_left_out() {
        let index = read(&written()[..], 3 * PAGE).expect("its own");
        assert_eq!(index.processes, HashMap::from([(1, 9)]));
        assert_eq!(index.spaces.len(), 1);
        assert_eq!(index.spaces.get(&9).map(Runs::count), Some(2));
    }

    #[test]
    fn what_is_damaged_is_refused() {
        read(&written()[..], 3 * PAGE - 1).expect_err("a page beyond the end");
        read(&[&written()[..], b"x"].concat()[..], 3 * PAGE).expect_err("more than there should be");
        let whole = written();
        for end in 0..whole.len() {
            read(&whole[..end], 3 * PAGE).expect_err("cut off");
        }
        // The second run at the address of the first.
        let mut bytes = written();
        let at = bytes.len() - 24;
        bytes[at..at + 8].copy_from_slice(&0x1000_u64.to_le_bytes());
        read(&bytes[..], 3 * PAGE).expect_err("they overlap");
    }

    proptest! {
        #[test]
        fn any_change_is_an_index_or_an_error(at in 0_usize..64, byte in any::<u8>()) {
            let mut bytes = written();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = read(&bytes[..], 3 * PAGE);
        }
    }
}
