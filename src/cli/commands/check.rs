// SPDX-License-Identifier: Apache-2.0
//! `migrate check`.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::check::{self, Report, Verdict};
use crate::cli::{Global, exit, output, parse_id};
use crate::engine::ContainerId;
use crate::spec::Config;
use crate::{Error, ErrorKind, Result};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Directory of a bundle whose configuration is looked at
    #[arg(short, long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// The id of a container that runs
    #[arg(value_name = "CONTAINER", value_parser = parse_id)]
    id: Option<ContainerId>,
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<ExitCode> {
        let report = self.report(global)?;
        if self.json {
            output::json(&report)?;
        } else {
            output::text(&report.text())?;
        }
        Ok(match report.verdict {
            Verdict::Ready => exit::SUCCESS,
            Verdict::ReadyWithFlags => exit::READY_WITH_FLAGS,
            Verdict::NotPossible => exit::NOT_POSSIBLE,
        }
        .into())
    }

    fn report(&self, global: &Global) -> Result<Report> {
        let criu = global.criu.as_deref();
        match (&self.bundle, &self.id) {
            (None, None) => Ok(check::host(criu)),
            (Some(bundle), None) => Ok(check::config(criu, &Config::load(bundle)?)),
            (None, Some(id)) => check::container(criu, &global.state_root()?.load(id)?),
            (Some(_), Some(_)) => Err(Error::new(
                ErrorKind::InvalidInput,
                "a container has a configuration of its own: give its id or --bundle, not both",
            )),
        }
    }
}
