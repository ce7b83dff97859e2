// SPDX-License-Identifier: Apache-2.0
//! `migrate list`.

use super::state::Report;
use crate::cli::format::Format;
use crate::cli::{Global, output};
use crate::engine::ContainerId;
use crate::{Error, ErrorKind, Result};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Form of the list
    #[arg(short, long, value_name = "table|json", default_value = "table", hide_default_value = true)]
    format: Format,
    /// Only the ids
    #[arg(short, long)]
    quiet: bool,
}

fn left_out(id: &ContainerId, error: Error) -> Error {
    let message = format!("load container {id}");
    if error.to_string() == message { error } else { Error::new(error.kind(), message).with_source(error) }
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<()> {
        let root = global.state_root()?;
        let mut reports = Vec::new();
        for id in root.ids()? {
            match root.load(&id).and_then(|container| Report::of(&container)) {
                Ok(report) => reports.push(report),
                // Deleted as this looked.
                Err(error) if error.kind() == ErrorKind::NotFound && !root.dir(&id).exists() => {}
                // Damaged: the others are listed all the same.
                Err(error) => output::left_out(&left_out(&id, error)),
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
