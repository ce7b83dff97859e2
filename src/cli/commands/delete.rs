// SPDX-License-Identifier: Apache-2.0
//! `migrate delete`.

use crate::cli::{Global, parse_id};
use crate::engine::{Container, ContainerId};
use crate::{ErrorKind, Result};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The container's id
    #[arg(value_name = "CONTAINER", value_parser = parse_id)]
    id: ContainerId,
    /// Kill the container first if it runs; succeed if it does not exist
    #[arg(short, long)]
    force: bool,
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<()> {
        let root = global.state_root()?;
        match root.load(&self.id) {
            Ok(mut container) => crate::checkpoint::settle(&mut container, self.force)
                .and_then(|()| crate::restore::settle(&mut container))
                .and_then(|()| container.delete(self.force))
                .or_else(|e| self.forgive(e)),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Container::remove_remains(&root, &self.id).or_else(|e| self.forgive(e))
            }
            // Its record is damaged.
            Err(e) if self.force && e.kind() == ErrorKind::System => {
                Container::remove_damaged(&root, &self.id).map_err(|failed| e.with_cleanup([failed]))
            }
            Err(e) => Err(e),
        }
    }

    /// With `--force` the container's absence is what was asked for.
    fn forgive(&self, error: crate::Error) -> Result<()> {
        if self.force && error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) }
    }
}
