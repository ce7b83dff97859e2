// SPDX-License-Identifier: Apache-2.0
//! `migrate verify`.

use std::path::PathBuf;

use crate::Result;
use crate::cli::output;
use crate::cli::progress::Bar;
use crate::cli::signed::SignedArgs;
use crate::inspect::verify;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
    /// Archive that it needs, or the directory that it is in [default: the archive's directory]
    #[arg(long, value_name = "FILE|DIR")]
    base_archive: Vec<PathBuf>,
    #[command(flatten)]
    signed: SignedArgs,
    /// The archive
    #[arg(value_name = "FILE")]
    path: PathBuf,
}

impl Args {
    pub(in crate::cli) fn run(&self) -> Result<()> {
        let signer = self.signed.require(&self.path)?;
        let mut found = verify(&self.path, &self.base_archive, &mut Bar::new("verify"))?;
        found.signer = signer;
        if self.json {
            output::json(&found)?;
        }
        let found = found.into_result()?;
        if self.json { Ok(()) } else { output::text(&format!("{}: {}\n", self.path.display(), found.text())) }
    }
}
