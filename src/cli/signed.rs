// SPDX-License-Identifier: Apache-2.0
//! The flags that ask for a signature of an archive.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::archive::signature::{Verification, beside};
use crate::{Context, Error, ErrorKind, Result};

/// Who must have signed an archive.
#[derive(Debug, clap::Args)]
pub(super) struct SignedArgs {
    /// Take only what one of these has signed: the file is like `allowed_signers` of ssh-keygen(1), or has public keys of OpenSSH's and
    /// minisign's, one a line
    #[arg(long, value_name = "SIGNERS")]
    verify: Option<PathBuf>,
    /// Signature of the archive [default: the archive's name with .sig, or .minisig]
    #[arg(long, value_name = "FILE", requires = "verify")]
    signature: Option<PathBuf>,
}

impl SignedArgs {
    /// Whether a signature is asked for.
    pub(super) fn are_given(&self) -> bool {
        self.verify.is_some()
    }

    /// The signature of this archive, by one of them, if it is asked for.
    pub(super) fn verification(&self, archive: &Path) -> Result<Option<Verification>> {
        let Some(signers) = &self.verify else { return Ok(None) };
        let signature = match &self.signature {
            Some(path) => path.clone(),
            None if archive.as_os_str() == "-" => {
                let message = "standard input has no signature beside it";
                return Err(
                    Error::new(ErrorKind::InvalidInput, message).with_hint("name it with --signature")
                );
            }
            None => beside(archive),
        };
        Verification::read(&signature, signers).map(Some)
    }

    /// Whether this file is what one of them has signed, if it is asked for; tells who.
    pub(super) fn require(&self, archive: &Path) -> Result<Option<String>> {
        let attempt = || format!("verify archive {}", archive.display());
        let Some(verification) = self.verification(archive).context(attempt)? else { return Ok(None) };
        let file = File::open(archive).context(attempt)?;
        verification.check_file(&file).context(attempt)?;
        Ok(Some(verification.signer()))
    }
}
