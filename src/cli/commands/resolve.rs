// SPDX-License-Identifier: Apache-2.0
//! `migrate resolve`.

use crate::Result;
use crate::cli::{Global, output};
use crate::migration::handoff::Side;
use crate::migration::journal::{self, History};
use crate::migration::{Resolved, resolve};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The side that does not run the container and never will, for which you vouch: the other one keeps it. If it runs
    /// after all, the container runs twice
    #[arg(long, value_name = "source|destination")]
    i_fenced: Side,
    /// Why, to be written down
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// The migration; the beginning of its id is enough
    #[arg(value_name = "ID")]
    id: String,
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<()> {
        let root = global.state_root()?;
        let id = journal::find(&root, &self.id)?;
        let containers = History::read(&root, id)?.opened().container.replace(',', ", ");
        let is_here = resolve(&root, id, self.i_fenced, self.reason.as_deref())? == Resolved::Here;
        let what = match (containers.contains(','), is_here) {
            (false, true) => format!("container {containers} is this host's"),
            (false, false) => format!("container {containers} is not this host's any more"),
            (true, true) => format!("containers {containers} are this host's"),
            (true, false) => format!("containers {containers} are not this host's any more"),
        };
        output::text(&format!("migration {id} is decided: {what}\n"))
    }
}
