// SPDX-License-Identifier: Apache-2.0
//! What blobs and manifests are called: `sha256:` and 64 hexadecimal digits. Nothing else is a digest here, so that a name
//! which comes from a registry can be a file's name.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Error, ErrorKind, Result};

/// A SHA-256 digest.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The digest of these bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self::finished(Sha256::new().chain_update(bytes))
    }

    /// The digest of all that `hasher` has seen.
    pub(super) fn finished(hasher: Sha256) -> Self {
        Self(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The digits, without the algorithm.
    pub(super) fn hex(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        match text.strip_prefix("sha256:") {
            Some(hex) if hex.len() == 64 && hex.bytes().all(is_digit) => Ok(Self(hex.to_owned())),
            _ => {
                let shown: String = text.chars().filter(|c| !c.is_control()).take(100).collect();
                Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("{shown:?} is not a digest of the form sha256:HEX"),
                ))
            }
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sha256_in_small_letters_is_a_digest() {
        let good = Digest::of(b"").to_string();
        assert_eq!(good, "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(good.parse::<Digest>().expect("a digest"), Digest::of(b""));
        for text in
            [&good[7..], &good.to_uppercase(), &good[..70], "sha256:../../../../etc/passwd", "sha512:00"]
        {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
