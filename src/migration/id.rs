// SPDX-License-Identifier: Apache-2.0
//! Names of migrations and of their attempts.

use std::fmt;
use std::fs;
use std::io::Read;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Context, Error, ErrorKind, Result};

/// The name of one migration, the same on both hosts: 128 random bits, written as 32 hexadecimal digits, so that it can
/// be the name of a directory without further ado.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MigrationId([u8; Self::BYTES]);

impl MigrationId {
    /// The length in bytes.
    pub const BYTES: usize = 16;

    /// A new one.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn random() -> Result<Self> {
        let mut bytes = [0; Self::BYTES];
        let read = |bytes: &mut [u8]| fs::File::open("/dev/urandom")?.read_exact(bytes);
        read(&mut bytes).context(|| "read /dev/urandom for a migration's id")?;
        Ok(Self(bytes))
    }

    /// The one with these bits.
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bits.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl fmt::Display for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MigrationId {
    type Err = Error;

    /// Reads the 32 digits.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for anything else.
    fn from_str(text: &str) -> Result<Self> {
        let digits =
            text.len() == 2 * Self::BYTES && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let bits = digits.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        bits.map(|bits| Self(bits.to_be_bytes())).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("{text:?} is not the id of a migration"))
                .with_hint("an id has 32 hexadecimal digits; `migrate migrations` lists them")
        })
    }
}

impl TryFrom<String> for MigrationId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<MigrationId> for String {
    fn from(id: MigrationId) -> Self {
        id.to_string()
    }
}

/// One attempt of a migration: they are counted from 1, and each is decided by itself. What belongs to an earlier one
/// means nothing to a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(u64);

impl Epoch {
    /// The first attempt.
    pub const FIRST: Self = Self(1);

    /// The attempt with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The attempt after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A migration and one attempt of it: what every message and effect is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tag {
    /// The migration.
    pub migration: MigrationId,
    /// The attempt.
    pub epoch: Epoch,
}

impl Tag {
    /// A migration's first attempt.
    pub const fn first(migration: MigrationId) -> Self {
        Self { migration, epoch: Epoch::FIRST }
    }

    /// The same migration's attempt of that number.
    #[must_use]
    pub const fn at(self, epoch: Epoch) -> Self {
        Self { epoch, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_its_32_digits_and_nothing_else() {
        let id = MigrationId::random().expect("there are random bytes");
        assert_eq!(id.to_string().parse::<MigrationId>().expect("its own text"), id);
        let text = "00112233445566778899aabbccddeeff";
        assert_eq!(text.parse::<MigrationId>().expect("32 digits").to_string(), text);
        let too_long = format!("{text}0");
        let signed = format!("+{}", &text[1..]);
        for wrong in [
            "",
            "..",
            &text[1..],
            &too_long,
            &signed,
            &text.to_uppercase(),
            "0011223344556677/899aabbccddeeff",
        ] {
            let error = wrong.parse::<MigrationId>().expect_err(wrong);
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn two_ids_differ() {
        let id = || MigrationId::random().expect("there are random bytes");
        assert_ne!(id(), id());
    }
}
