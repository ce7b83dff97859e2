// SPDX-License-Identifier: Apache-2.0
//! The name of a container.

use std::fmt;
use std::str::FromStr;

use crate::{Error, ErrorKind, Result};

/// The longest id, in bytes: it becomes a file name.
const LONGEST: usize = 255;

/// A container's id: letters, digits, `_`, `+`, `-` and `.`, as runc has it, and nothing that means something to a
/// file system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(String);

impl ContainerId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "container id cannot be empty"));
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'+' | b'-' | b'.');
        if text.len() > LONGEST
            || matches!(text, "." | ".." | super::state_root::OTHER_ROOTS | super::state_root::MIGRATIONS)
            || !text.bytes().all(allowed)
        {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("invalid container ID format: {text:?}"),
            )
            .with_hint("an id has letters, digits, `_`, `+`, `-` and `.`, and at most 255 of them"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_file_names_and_no_paths() {
        for good in ["web", "a.b_c+d-1", "0"] {
            assert_eq!(good.parse::<ContainerId>().expect(good).as_str(), good);
        }
        for bad in ["", ".", "..", ".roots", ".migrations", "a/b", "a b", "ä", "a\0", &"x".repeat(256)] {
            assert_eq!(bad.parse::<ContainerId>().expect_err(bad).kind(), ErrorKind::InvalidInput);
        }
    }
}
