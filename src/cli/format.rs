// SPDX-License-Identifier: Apache-2.0
//! The two forms in which lists are printed.

use std::str::FromStr;

use crate::{Error, ErrorKind, Result};

/// The form of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            _ => {
                Err(Error::new(ErrorKind::InvalidInput, "invalid format option")
                    .with_hint("it is table or json"))
            }
        }
    }
}
