// SPDX-License-Identifier: Apache-2.0
//! `migrate kill`.

use crate::Result;
use crate::cli::{Global, parse_id};
use crate::engine::{ContainerId, parse_signal};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The container's id
    #[arg(value_name = "CONTAINER", value_parser = parse_id)]
    id: ContainerId,
    /// Number or name of the signal
    #[arg(value_name = "SIGNAL", default_value = "SIGTERM")]
    signal: String,
    /// Accepted for old clients
    #[arg(short, long, hide = true)]
    all: bool,
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<()> {
        let signal = parse_signal(&self.signal)?;
        let container = global.state_root()?.load(&self.id)?;
        if self.all { container.signal_all(signal) } else { container.signal(signal) }
    }
}
