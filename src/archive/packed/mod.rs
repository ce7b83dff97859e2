// SPDX-License-Identifier: Apache-2.0
//! The packed layout: an archive whose equal pages are there once, and not at all if an earlier archive has them.
//!
//! ```text
//! ArchiveWriter ─▶ tar of the layout `full` ─▶ Grid ─▶ pages ─┬─▶ new: migrate.store/N     │ a tar of its own, compressed:
//!                                                             └─▶ known: a line in the recipe  │ schema 4, layout `packed`
//! Archive, Seekable ◀── the same tar, byte for byte ◀── PackedStream ◀── recipe, own store, stores of the bases
//! ```
//! What is packed is the tar with its manifest and its index, so that whoever reads it back verifies it as ever. This module knows
//! bytes and pages; it must not know what members mean.

mod bases;
mod grid;
mod known;
mod reader;
mod recipe;
mod store;
mod writer;

pub use bases::Bases;
pub use reader::{PackedStream, packed_stream};
pub use writer::{PackedBase, Packer};

use super::sink::LARGE;

/// Bytes of a page: what is compared as a whole.
const PAGE: usize = 4096;

/// Bytes of the store that are a member of their own, in a frame of its own, and are verified together: what is read for one page.
const SEGMENT: usize = LARGE as usize;

/// Archives that an archive may need besides itself.
const MOST_BASES: usize = 32;

/// Appends a number, seven bits a byte, the low ones first.
fn put_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes a number from the front of `bytes`. `None` if there is none, or a larger one than fits.
fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_read_as_written(numbers in proptest::collection::vec(any::<u64>(), 0..20)) {
            let mut bytes = Vec::new();
            numbers.iter().for_each(|number| put_number(*number, &mut bytes));
            let mut rest = &bytes[..];
            for number in numbers {
                prop_assert_eq!(take_number(&mut rest), Some(number));
            }
            prop_assert_eq!(take_number(&mut rest), None);
        }
    }

    #[test]
    fn a_number_that_does_not_fit_is_none() {
        for bytes in
            [&[0x80][..], &[0xff; 9], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], &[0x80; 11]]
        {
            assert_eq!(take_number(&mut &bytes[..]), None, "{bytes:?}");
        }
    }
}
