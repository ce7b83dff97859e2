// SPDX-License-Identifier: Apache-2.0
//! `migrate pull`.

use std::path::PathBuf;

use super::push::TransferArgs;
use crate::Result;
use crate::cli::output;
use crate::cli::progress::Bar;
use crate::cli::registry::{self, RegistryArgs};
use crate::registry::{Reference, pull};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// REGISTRY/NAME:TAG, REGISTRY/NAME@DIGEST, or `oci:DIRECTORY:TAG`
    #[arg(value_name = "IMAGE", value_parser = registry::reference)]
    image: Reference,
    /// The file to write [default: named after the image, in the working directory]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    transfer: TransferArgs,
}

impl Args {
    pub(in crate::cli) fn run(&self) -> Result<()> {
        let options = self.transfer.options(&self.registry)?;
        let pulled = pull(&self.image, self.output.as_deref(), &options, &mut Bar::new("pulling"))?;
        output::text(&format!("{}\n", pulled.path.display()))
    }
}
