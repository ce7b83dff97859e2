// SPDX-License-Identifier: Apache-2.0
//! `migrate sign`.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::archive::ArchiveFile;
use crate::archive::signature::SigningKey;
use crate::{Context, Result};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The archive; the signature is its name with .sig, of a key of minisign's with .minisig
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Private key of OpenSSH's, ed25519, or of minisign's, without a passphrase
    #[arg(long, value_name = "KEY")]
    key: PathBuf,
}

impl Args {
    pub(in crate::cli) fn run(&self) -> Result<()> {
        sign_file(&SigningKey::read(&self.key)?, &self.file)
    }
}

/// Puts the signature beside the archive, in the place of an earlier one.
pub(super) fn sign_file(key: &SigningKey, archive: &Path) -> Result<()> {
    let mut file = File::open(archive).context(|| format!("open {}", archive.display()))?;
    let signature = key.sign(&mut file).context(|| format!("sign {}", archive.display()))?;
    let path = key.beside(archive);
    let mut file = ArchiveFile::create(&path)?;
    file.write_all(signature.as_bytes()).context(|| format!("write {}", path.display()))?;
    file.commit()
}
