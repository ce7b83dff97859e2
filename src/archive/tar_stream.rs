// SPDX-License-Identifier: Apache-2.0
//! Owns the uncompressed tar of any file that is one, whoever has written it: for those who need its bytes and not its members.

use std::io::Read;

use super::invalid;
use super::open::{Decoded, decoded};
use crate::Result;

/// How a file's tar is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TarForm {
    /// Not at all.
    Plain,
    /// With Zstandard.
    Zstd,
    /// With gzip.
    Gzip,
}

/// The tar that is in `source`, and how it is compressed there.
///
/// # Errors
/// `InvalidArchive` if it is no tar, or one that is compressed in another way; `System` if it cannot be read.
pub fn tar_stream<'a, R: Read + 'a>(source: R) -> Result<(TarForm, Box<dyn Read + 'a>)> {
    let decoded = decoded(source)?;
    let form = match &decoded {
        Decoded::Plain(_) => TarForm::Plain,
        Decoded::Zstd(_) => TarForm::Zstd,
        Decoded::Gzip(_) => TarForm::Gzip,
        Decoded::Bzip2(_) | Decoded::Xz(_) => {
            let message = format!("a tar that is compressed with {} is no layer", decoded.compression());
            return Err(invalid(message));
        }
    };
    Ok((form, Box::new(decoded)))
}
