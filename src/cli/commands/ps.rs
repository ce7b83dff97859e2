// SPDX-License-Identifier: Apache-2.0
//! `migrate ps`: the host's ps(1), without the processes of others.

use std::process::{Command, ExitCode};

use crate::cli::format::Format;
use crate::cli::{Global, exit, output, parse_id};
use crate::engine::ContainerId;
use crate::{Context, Error, ErrorKind, Result};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Form of the list
    #[arg(short, long, value_name = "table|json", default_value = "table", hide_default_value = true)]
    format: Format,
    /// The container's id
    #[arg(value_name = "CONTAINER", value_parser = parse_id)]
    id: ContainerId,
    /// Arguments for ps(1) [default: -ef]
    #[arg(value_name = "PS-ARGS", trailing_var_arg = true, allow_hyphen_values = true)]
    ps_args: Vec<String>,
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<ExitCode> {
        let pids = global.state_root()?.load(&self.id)?.processes()?;
        if self.format == Format::Json {
            output::json_line(&pids)?;
            return Ok(exit::SUCCESS.into());
        }
        let args = if self.ps_args.is_empty() { vec!["-ef".to_owned()] } else { self.ps_args.clone() };
        let ps = Command::new("ps").args(&args).output().context(|| "run ps")?;
        if !ps.status.success() {
            let text = String::from_utf8_lossy(&ps.stderr).trim().to_owned();
            return Err(Error::new(
                ErrorKind::System,
                format!("ps {} ended with {}: {text}", args.join(" "), ps.status),
            ));
        }
        output::text(&select(&String::from_utf8_lossy(&ps.stdout), &pids)?)?;
        Ok(exit::SUCCESS.into())
    }
}

/// The heading, and the lines whose `PID` column names one of the processes.
fn select(table: &str, pids: &[i32]) -> Result<String> {
    let mut lines = table.lines();
    let heading = lines.next().unwrap_or_default();
    let column = heading.split_ascii_whitespace().position(|word| word == "PID").ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, "couldn't find PID field in ps output")
            .with_hint("let the arguments for ps show it")
    })?;
    let mut out = format!("{heading}\n");
    for line in lines {
        let pid = line.split_ascii_whitespace().nth(column).and_then(|word| word.parse::<i32>().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            out.push_str(line);
            out.push('\n');
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_processes_of_the_container_are_shown() {
        let table = "UID   PID  CMD\nroot    1  init\nroot   12  sleep 12\n";
        assert_eq!(
            select(table, &[12]).expect("there is a PID column"),
            "UID   PID  CMD\nroot   12  sleep 12\n"
        );
        assert_eq!(select("CMD\n", &[1]).expect_err("no column").kind(), ErrorKind::InvalidInput);
    }
}
