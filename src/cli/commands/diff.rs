// SPDX-License-Identifier: Apache-2.0
//! `migrate diff`.

use std::path::PathBuf;

use crate::Result;
use crate::cli::output;
use crate::inspect::diff;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Print what has changed as JSON
    #[arg(long)]
    json: bool,
    /// Archive that one of them needs, or the directory that it is in [default: their directories]
    #[arg(long, value_name = "FILE|DIR")]
    base_archive: Vec<PathBuf>,
    /// The earlier archive or directory of images
    #[arg(value_name = "A")]
    first: PathBuf,
    /// The later one
    #[arg(value_name = "B")]
    second: PathBuf,
}

impl Args {
    pub(in crate::cli) fn run(&self) -> Result<()> {
        let found = diff(&self.first, &self.second, &self.base_archive)?;
        if self.json { output::json(&found) } else { output::text(&found.text()) }
    }
}
