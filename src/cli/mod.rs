// SPDX-License-Identifier: Apache-2.0
//! The command line: runc's commands and flags, and what `migrate` adds. One file a command.
//!
//! Only here are things printed, progress bars drawn and exit codes chosen.

mod commands;
mod durations;
mod exit;
mod inherited;
mod logging;
mod output;
mod progress;
mod sizes;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser};

use crate::engine::{ContainerId, Rootless, StateRoot};
use crate::{Error, ErrorKind, Result};
use inherited::Inherited;
use logging::LogFormat;

/// Runs, checkpoints, restores and moves Linux containers.
#[derive(Debug, Parser)]
#[command(name = "migrate", version, args_override_self = true, infer_subcommands = false)]
#[command(
    after_help = "Exit codes: 0 success; 1 failure; 3 unusable archive; 4 no usable CRIU; 5 CRIU refused; \
6 disk full or read-only; 255 failure of exec itself. `run` and `exec` in the foreground end with the container's code."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: commands::Command,
}

/// Flags before the command.
#[derive(Debug, Args)]
struct Global {
    /// Directory under which containers are written down [default: /run/migrate]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// CRIU's executable [default: found]
    #[arg(long, value_name = "PATH")]
    criu: Option<PathBuf>,
    /// Write log lines and the error to this file
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Format of the log file
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Whether the cgroups of a container without limits may be left out where the caller may not make them
    #[arg(long, value_name = "true|false|auto", value_parser = parse_rootless, default_value = "auto", hide_default_value = true)]
    rootless: Rootless,
    /// Log what is done
    #[arg(long)]
    debug: bool,
    #[arg(skip)]
    inherited: Inherited,
}

impl Global {
    fn state_root(&self) -> Result<StateRoot> {
        let root = self.root.as_deref().map_or_else(|| Ok(StateRoot::default_root()), StateRoot::at)?;
        Ok(root.rootless(self.rootless))
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let inherited = Inherited::now();
    // A caller may have it ignored. Children are waited for here, and how they ended matters.
    if let Err(error) = crate::sys::process::keep_ended_children() {
        output::error(&Error::new(ErrorKind::System, "sigaction(SIGCHLD, SIG_DFL)").with_source(error));
        return exit::FAILURE.into();
    }
    run(std::env::args_os(), inherited)
}

fn run(args: impl Iterator<Item = OsString>, inherited: Inherited) -> ExitCode {
    let mut cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; everything else is exit code 1, as runc has it.
            let code = if error.use_stderr() { exit::FAILURE } else { exit::SUCCESS };
            if error.print().is_err() {
                return exit::FAILURE.into();
            }
            return code.into();
        }
    };
    cli.global.inherited = inherited;
    let result = logging::init(&cli.global).and_then(|()| cli.command.run(&cli.global));
    match result {
        Ok(code) => code,
        Err(error) => {
            output::error(&error);
            logging::error(&cli.global, &error);
            exit::code_of(&error, &cli.command).into()
        }
    }
}

fn parse_id(text: &str) -> std::result::Result<ContainerId, String> {
    text.parse().map_err(|e: crate::Error| match e.hint() {
        Some(hint) => format!("{e}: {hint}"),
        None => e.to_string(),
    })
}

/// `auto`, or a truth value in one of the spellings that runc takes.
fn parse_rootless(text: &str) -> std::result::Result<Rootless, String> {
    match text {
        "auto" | "" => Ok(Rootless::Auto),
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Rootless::Yes),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Rootless::No),
        _ => Err("it is true, false or auto".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
