// SPDX-License-Identifier: Apache-2.0
//! `migrate push`.

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::progress::Bar;
use crate::cli::registry::{self, RegistryArgs};
use crate::cli::{Global, output, parse_id, sizes};
use crate::registry::{Reference, RegistryOptions, push};
use crate::{Error, ErrorKind, Result};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// What `checkpoint --export` has written
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// REGISTRY/NAME:TAG, or `oci:DIRECTORY:TAG`
    #[arg(value_name = "IMAGE", value_parser = registry::reference)]
    image: Reference,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    transfer: TransferArgs,
    /// The most that is sent in one request, like 64M [default: all]
    #[arg(long, value_name = "SIZE", value_parser = chunk)]
    chunk_size: Option<u64>,
}

/// What push and pull share.
#[derive(Debug, clap::Args)]
pub(super) struct TransferArgs {
    /// How many seconds the registry may be silent [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout: Option<u32>,
}

impl TransferArgs {
    pub(super) fn options(&self, registry: &RegistryArgs) -> Result<RegistryOptions> {
        let mut options = registry.options()?;
        if let Some(seconds) = self.timeout {
            options.timeout = Duration::from_secs(seconds.into());
        }
        Ok(options)
    }
}

fn chunk(text: &str) -> std::result::Result<u64, String> {
    match sizes::memory(text)? {
        bytes @ 1.. => Ok(bytes as u64),
        _ => Err("it is not a size above 0".to_owned()),
    }
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<()> {
        let mut options = self.transfer.options(&self.registry)?;
        options.chunk = self.chunk_size;
        if let Some(error) = self.is_container(global) {
            return Err(error);
        }
        let pushed = push(&self.file, &self.image, &options, &mut Bar::new("pushing"))?;
        output::text(&format!("{}\n", pushed.digest))
    }

    /// What to do instead, if there is no such file but a container.
    fn is_container(&self, global: &Global) -> Option<Error> {
        let name = self.file.to_str().filter(|_| !self.file.exists())?;
        let id = parse_id(name).ok()?;
        global.state_root().ok()?.load(&id).ok()?;
        Some(Error::new(ErrorKind::InvalidInput, format!("{id} is a container, not a file")).with_hint(format!(
            "`migrate checkpoint --create-image {} {id}` pushes a checkpoint of it; with --leave-running it runs on",
            self.image
        )))
    }
}
