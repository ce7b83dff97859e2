// SPDX-License-Identifier: Apache-2.0
//! `migrate push`.

use std::path::PathBuf;
use std::time::Duration;

use super::container;
use crate::checkpoint::{CheckpointOptions, checkpoint};
use crate::cli::dump::DumpArgs;
use crate::cli::progress::Bar;
use crate::cli::registry::{self, NewImage, RegistryArgs};
use crate::cli::{Global, output, sizes};
use crate::engine::Container;
use crate::registry::{Reference, RegistryOptions, push};
use crate::{Error, ErrorKind, Result};

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(group(clap::ArgGroup::new("into_one").args(["image"])))]
pub(in crate::cli) struct Args {
    /// What `checkpoint --export` has written, or the id of a container: a checkpoint of it is pushed, and it ends when the image is there
    #[arg(value_name = "FILE|CONTAINER")]
    source: PathBuf,
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
    #[command(flatten)]
    dump: DumpArgs,
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
        if let Some(container) = container(&self.source, global)? {
            return self.push_container(global, container, options);
        }
        if self.dump != DumpArgs::default() {
            let message = format!("{} is no container: a file is pushed as it is", self.source.display());
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .with_hint("flags of `checkpoint` go with the id of a container"));
        }
        let pushed = push(&self.source, &self.image, &options, &mut Bar::new("pushing"))?;
        output::text(&format!("{}\n", pushed.digest))
    }

    fn push_container(
        &self,
        global: &Global,
        mut container: Container,
        registry: RegistryOptions,
    ) -> Result<()> {
        let mut options = CheckpointOptions::default();
        options.criu.clone_from(&global.criu);
        let _base = self.dump.apply(&mut options)?;
        let id = container.id().clone();
        let mut take = |export| checkpoint(&mut container, &options, export, &mut Bar::new("exporting"));
        if self.dump.leaves_running() {
            let mut export = None;
            let image = NewImage::begin(&self.image, registry, &id, &mut export)?;
            take(export)?;
            return image.push();
        }
        NewImage::and_end(&self.image, registry, &id, |export| take(Some(export)).map(drop))
    }
}
