// SPDX-License-Identifier: Apache-2.0
//! `migrate list`.

use clap::ValueEnum;

use super::state::Report;
use crate::Result;
use crate::cli::{Global, output};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Form of the list
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Only the ids
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<()> {
        let root = global.state_root()?;
        let mut reports = Vec::new();
        for id in root.ids()? {
            match root.load(&id).and_then(|container| Report::of(&container)) {
                Ok(report) => reports.push(report),
                Err(error) => tracing::warn!(%id, error = error.chain(), "container skipped"),
            }
        }
        if self.quiet {
            return output::text(&reports.iter().map(|r| format!("{}\n", r.id)).collect::<String>());
        }
        if self.format == Format::Json {
            return output::json_line(&reports);
        }
        let mut rows =
            vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned).to_vec()];
        rows.extend(reports.into_iter().map(|r| {
            vec![r.id, r.pid.to_string(), r.status, r.bundle.display().to_string(), r.created, r.owner]
        }));
        output::table(&rows)
    }
}
