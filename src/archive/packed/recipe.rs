// SPDX-License-Identifier: Apache-2.0
//! Owns `migrate.recipe`: of which pieces of which stores the tar of an archive is made.
//!
//! ```text
//! "migrpack" 8 · version u32 · 0 u32 · bytes of the tar u64 · pieces u64 · { store · bytes · [where] } per piece
//! ```
//! Little endian; the numbers of pieces have seven bits a byte. Store 0 is zeros without end, 1 is the archive's own, 2 the first
//! base's. A piece leads to bytes, never to another recipe: there is nothing to go round in.

use super::{MOST_BASES, put_number, take_number};
use crate::Result;
use crate::archive::invalid;
use crate::archive::member::RECIPE;

const MAGIC: &[u8; 8] = b"migrpack";
const VERSION: u32 = 1;
const HEAD: usize = 32;

/// Zeros.
pub(super) const ZEROS: u32 = 0;
/// The store of the archive itself.
pub(super) const OWN: u32 = 1;

/// Pieces that are read. A writer that comes near to that looks for no equal pages any more.
const MOST_PIECES: usize = 1 << 22;

/// Some bytes of the tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where they are in the tar.
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) store: u32,
    /// Where they are in the store.
    pub(super) at: u64,
}

/// All of them, without a gap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Recipe {
    pieces: Vec<Piece>,
}

impl Recipe {
    /// Bytes of the tar.
    pub(super) fn length(&self) -> u64 {
        self.pieces.last().map_or(0, |last| last.start + last.length)
    }

    /// Whether so many pieces are there that no more should be made than there must be.
    pub(super) fn is_crowded(&self) -> bool {
        self.pieces.len() > MOST_PIECES / 2
    }

    /// Goes on with these bytes of a store.
    pub(super) fn push(&mut self, store: u32, at: u64, length: u64) {
        let start = self.length();
        if let Some(last) = self.pieces.last_mut()
            && last.store == store
            && (store == ZEROS || last.at + last.length == at)
        {
            last.length += length;
            return;
        }
        self.pieces.push(Piece { start, length, store, at });
    }

    /// The piece with the byte at this position of the tar.
    pub(super) fn find(&self, position: u64) -> Option<Piece> {
        let after = self.pieces.partition_point(|piece| piece.start <= position);
        let piece = *self.pieces.get(after.checked_sub(1)?)?;
        (position - piece.start < piece.length).then_some(piece)
    }

    /// The member's bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + 8 * self.pieces.len());
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend(self.length().to_le_bytes());
        bytes.extend((self.pieces.len() as u64).to_le_bytes());
        for piece in &self.pieces {
            put_number(piece.store.into(), &mut bytes);
            put_number(piece.length, &mut bytes);
            if piece.store != ZEROS {
                put_number(piece.at, &mut bytes);
            }
        }
        bytes
    }

    /// Reads the member's bytes. The archive's own store has so many bytes, the tar may have so many, and there are so many bases.
    ///
    /// # Errors
    /// `InvalidArchive` if they are no recipe, or one that leads beyond what is there.
    pub(super) fn from_bytes(bytes: &[u8], own: u64, most: u64, bases: usize) -> Result<Self> {
        let refused = |why: &str| invalid(format!("{RECIPE} {why}"));
        let (head, mut rest) = bytes.split_at_checked(HEAD).ok_or_else(|| refused("is too short"))?;
        let mut fields =
            head.chunks_exact(8).filter_map(|field| field.try_into().ok().map(u64::from_le_bytes));
        let mut field = || fields.next().unwrap_or_default();
        if field() != u64::from_le_bytes(*MAGIC) {
            return Err(refused("is no recipe"));
        }
        let version = field();
        if version != u64::from(VERSION) {
            return Err(refused(&format!("has version {version}, this program reads {VERSION}")));
        }
        let (length, count) = (field(), field());
        if length > most {
            return Err(refused(&format!("makes {length} bytes, at most {most} are allowed")));
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > MOST_PIECES {
            return Err(refused(&format!("has {count} pieces, at most {MOST_PIECES} are allowed")));
        }
        // Not allocated before they are seen: the number is only announced.
        let mut recipe = Self::default();
        let mut end = 0_u64;
        for _ in 0..count {
            let piece = take_piece(&mut rest, end).ok_or_else(|| refused("ends within a piece"))?;
            let after = end.checked_add(piece.length).filter(|after| *after <= length && *after > end);
            end = after.ok_or_else(|| refused("has pieces that do not add up"))?;
            let until = piece.at.checked_add(piece.length);
            if piece.store == OWN && until.is_none_or(|until| until > own) {
                return Err(refused("leads beyond the archive's store"));
            }
            if u64::from(piece.store) > bases.min(MOST_BASES) as u64 + 1 {
                return Err(refused("leads to an archive that migrate.json does not name"));
            }
            recipe.pieces.push(piece);
        }
        if end != length || !rest.is_empty() {
            return Err(refused("has pieces that do not add up"));
        }
        Ok(recipe)
    }
}

fn take_piece(bytes: &mut &[u8], start: u64) -> Option<Piece> {
    let store = u32::try_from(take_number(bytes)?).ok()?;
    let length = take_number(bytes)?;
    let at = if store == ZEROS { 0 } else { take_number(bytes)? };
    Some(Piece { start, length, store, at })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWN_BYTES: u64 = 1 << 40;

    fn recipe(pieces: &[(u32, u64, u64)]) -> Recipe {
        let mut recipe = Recipe::default();
        pieces.iter().for_each(|(store, at, length)| recipe.push(*store, *at, *length));
        recipe
    }

    fn read(bytes: &[u8]) -> Result<Recipe> {
        Recipe::from_bytes(bytes, OWN_BYTES, 1 << 44, 2)
    }

    proptest! {
        #[test]
        fn a_recipe_reads_as_written(
            pieces in proptest::collection::vec((0_u32..4, 0_u64..1 << 30, 1_u64..1 << 20), 0..200),
            position in any::<u32>(),
        ) {
            let recipe = recipe(&pieces);
            prop_assert_eq!(recipe.length(), pieces.iter().map(|piece| piece.2).sum::<u64>());
            let again = read(&recipe.to_bytes()).expect("ours");
            // Where zeros are is nowhere.
            prop_assert_eq!(again.to_bytes(), recipe.to_bytes());
            let position = u64::from(position);
            let found = again.find(position);
            prop_assert_eq!(found.is_some(), position < recipe.length());
            if let Some(piece) = found {
                prop_assert!((piece.start..piece.start + piece.length).contains(&position));
            }
        }

        #[test]
        fn hostile_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..300), count in 0_u64..40) {
            let mut hostile = recipe(&[(OWN, 0, 7)]).to_bytes();
            hostile[24..32].copy_from_slice(&count.to_le_bytes());
            hostile.truncate(HEAD);
            hostile.extend(&bytes);
            for hostile in [&hostile, &bytes] {
                if let Ok(recipe) = read(hostile) {
                    prop_assert!(recipe.length() <= 1 << 44);
                }
            }
        }
    }

    #[test]
    fn neighbours_are_one_piece() {
        let found =
            recipe(&[(OWN, 0, 5), (OWN, 5, 5), (ZEROS, 0, 1), (ZEROS, 0, 1), (2, 9, 1), (OWN, 10, 1)]);
        let pieces: Vec<_> = found.pieces.iter().map(|piece| (piece.start, piece.length)).collect();
        assert_eq!(pieces, [(0, 10), (10, 2), (12, 1), (13, 1)]);
    }

    #[test]
    fn what_leads_nowhere_is_refused_with_the_reason() {
        let good = recipe(&[(OWN, 0, 100), (2, 0, 100)]);
        read(&good.to_bytes()).expect("good");
        let refused = |bytes: &[u8], why: &str| {
            let error = read(bytes).expect_err(why);
            assert!(error.to_string().contains(why), "{error}");
        };
        refused(&recipe(&[(OWN, OWN_BYTES, 1)]).to_bytes(), "beyond the archive's store");
        refused(&recipe(&[(OWN, u64::MAX, 1)]).to_bytes(), "beyond the archive's store");
        refused(&recipe(&[(4, 0, 1)]).to_bytes(), "does not name");
        // One page two to the power of forty times.
        refused(&recipe(&[(ZEROS, 0, 4096 << 40)]).to_bytes(), "bytes, at most");
        let with = |at: usize, number: u64| {
            let mut bytes = good.to_bytes();
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
            bytes
        };
        refused(&with(0, 7), "is no recipe");
        refused(&with(8, 2), "has version 2");
        refused(&with(16, 199), "do not add up");
        refused(&with(16, 201), "do not add up");
        refused(&with(24, 1), "do not add up");
        refused(&with(24, 3), "ends within a piece");
        refused(&with(24, u64::MAX), "pieces, at most");
        refused(&good.to_bytes()[..20], "too short");
        refused(&[&good.to_bytes()[..], &[0]].concat(), "do not add up");
    }
}
