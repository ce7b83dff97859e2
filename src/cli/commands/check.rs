// SPDX-License-Identifier: Apache-2.0
//! `migrate check`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::check::{self, DirtyRates, ProcessRate, Report, Verdict};
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
    /// Measure for so long how fast the container's processes write to their memory, instead of the report
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    dirty_rate: Option<u64>,
    /// The id of a container that runs
    #[arg(value_name = "CONTAINER", value_parser = parse_id)]
    id: Option<ContainerId>,
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<ExitCode> {
        if let Some(seconds) = self.dirty_rate {
            let (Some(id), None) = (&self.id, &self.bundle) else {
                let message = "--dirty-rate measures a container that runs: give its id, and no --bundle";
                return Err(Error::new(ErrorKind::InvalidInput, message));
            };
            let mut container = global.state_root()?.load(id)?;
            let rates = check::dirty_rate(&mut container, Duration::from_secs(seconds))?;
            if self.json {
                output::json(&rates)?;
            } else {
                print(&rates)?;
            }
            return Ok(exit::SUCCESS.into());
        }
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

fn print(rates: &DirtyRates) -> Result<()> {
    let heading = ["PID", "COMMAND", "MEMORY", "DIRTIED", "AT MOST", "NOT SEEN", "STOOD"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(rates.processes.iter().map(row));
    let total = [
        "all".to_owned(),
        String::new(),
        size(rates.memory_bytes),
        format!("{}/s", size(rates.dirty_bytes_per_second)),
    ];
    rows.push(total.to_vec());
    output::table(&rows)
}

fn row(rate: &ProcessRate) -> Vec<String> {
    // Its own choice, for a terminal.
    let command = rate.command.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    vec![
        rate.pid.to_string(),
        command,
        size(rate.memory_bytes),
        format!("{}/s", size(rate.dirty_bytes_per_second)),
        format!("{}/s", size(rate.peak_bytes_per_second)),
        size(rate.untracked_bytes),
        format!("{} \u{b5}s", rate.stood_microseconds),
    ]
}

fn size(bytes: u64) -> String {
    format!("{} KiB", bytes.div_ceil(1024))
}
