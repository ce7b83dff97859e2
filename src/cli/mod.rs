// SPDX-License-Identifier: Apache-2.0
//! The command line: runc's commands and flags, and what `migrate` adds. One file a command.
//!
//! Only here are things printed, progress bars drawn and exit codes chosen.

mod as_tar;
mod base;
mod commands;
mod criu_values;
mod dump;
mod durations;
mod exit;
mod flags;
mod format;
mod inherited;
mod logging;
mod output;
mod progress;
mod registry;
mod served;
mod signed;
mod sizes;
mod usage;
mod version;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser};

use crate::engine::{CgroupDriver, ContainerId, Rootless, StateRoot};
use crate::{Error, ErrorKind, Result};
use flags::{Misuse, Request};
use inherited::Inherited;
use logging::LogFormat;

/// Runs, checkpoints, restores and moves Linux containers.
#[derive(Debug, Parser)]
#[command(name = "migrate", args_override_self = true, infer_subcommands = false)]
#[command(
    after_help = "Exit codes: 0 success; 1 failure; 3 unusable archive; 4 no usable CRIU; 5 CRIU refused; \
6 disk full or read-only; 7 not allowed to the archive; 8 a registry cannot be reached or refuses; \
10 (check) a checkpoint needs flags; 11 (check) a checkpoint is not possible; 255 failure of exec itself. `run` and `exec` in the foreground end with the container's code."
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
    #[arg(long, value_name = "text|json", default_value = "text", hide_default_value = true)]
    log_format: LogFormat,
    /// Whether the cgroups of a container without limits may be left out where the caller may not make them
    #[arg(long, value_name = "true|false|auto", value_parser = parse_rootless, default_value = "auto", hide_default_value = true)]
    rootless: Rootless,
    /// Have systemd make the cgroups
    #[arg(long)]
    systemd_cgroup: bool,
    /// Log what is done
    #[arg(long)]
    debug: bool,
    #[arg(skip)]
    inherited: Inherited,
}

impl Global {
    fn state_root(&self) -> Result<StateRoot> {
        let root = self.root.as_deref().map_or_else(|| Ok(StateRoot::default_root()), StateRoot::at)?;
        let driver = if self.systemd_cgroup { CgroupDriver::Systemd } else { CgroupDriver::Files };
        Ok(root.rootless(self.rootless).cgroup_driver(driver))
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    if let Some(code) = as_tar::if_requested() {
        return code;
    }
    let inherited = Inherited::now();
    // A caller may have it ignored. Children are waited for here, and how they ended matters.
    if let Err(error) = crate::sys::process::keep_ended_children() {
        output::error(&Error::new(ErrorKind::System, "sigaction(SIGCHLD, SIG_DFL)").with_source(error));
        return exit::FAILURE.into();
    }
    let mut args = std::env::args_os();
    let program = usage::program_name(args.next());
    let args: Vec<OsString> = args.collect();
    // To put it together is most of what a short command does before it begins: once is enough.
    let command = Cli::command();
    match usage::grammar(program, &command, &args).read(&args) {
        Ok(Request::Run(line)) => run(command, line, inherited),
        Ok(Request::Help(topic)) => answer(usage::help(program, command, topic.as_deref())),
        Ok(Request::Version) => answer(version::print(program)),
        Err(misuse) => refuse(misuse),
    }
}

/// Runs a command line in the one form that [`flags`] knows.
fn run(command: clap::Command, line: Vec<OsString>, inherited: Inherited) -> ExitCode {
    let global = line.iter().take_while(|word| word.as_encoded_bytes().starts_with(b"--")).cloned().collect();
    let matches = command.try_get_matches_from(named(line));
    let mut cli = match matches.and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches)) {
        Ok(cli) => cli,
        Err(error) => return refuse(Misuse { global, error: usage::error(&error) }),
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

/// The same, with a name in front, which clap wants.
fn named(line: Vec<OsString>) -> impl Iterator<Item = OsString> + Clone {
    std::iter::once(OsString::from("migrate")).chain(line)
}

fn answer(printed: Result<()>) -> ExitCode {
    match printed {
        Ok(()) => exit::SUCCESS.into(),
        Err(error) => {
            output::error(&error);
            exit::FAILURE.into()
        }
    }
}

/// Says what is wrong with the command line, in the log too if the flags before the command name one.
fn refuse(misuse: Misuse) -> ExitCode {
    output::error(&misuse.error);
    if let Ok(flags) = GlobalOnly::try_parse_from(named(misuse.global)) {
        logging::error(&flags.global, &misuse.error);
    }
    exit::FAILURE.into()
}

/// The flags before a command that cannot be run.
#[derive(Debug, Parser)]
#[command(args_override_self = true)]
struct GlobalOnly {
    #[command(flatten)]
    global: Global,
}

fn parse_id(text: &str) -> Result<ContainerId> {
    text.parse()
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
    use super::flags::Arguments;
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_arguments_are_those_of_runc() {
        let command = Cli::command();
        let names: Vec<OsString> =
            command.get_subcommands().map(|command| command.get_name().into()).collect();
        let grammar = usage::grammar("migrate", &command, &names);
        assert_eq!(grammar.commands.len(), names.len());
        for command in &grammar.commands {
            let (least, most) = match command.name.as_str() {
                "exec" | "ps" => (1, None),
                "kill" => (1, Some(2)),
                "archives" => (1, Some(3)),
                "diff" => (2, Some(2)),
                "list" | "spec" | "features" | "receive" => (0, Some(0)),
                "agent" => (0, Some(3)),
                "to" => (0, Some(1 + crate::migration::members::MOST)),
                "check" | "migrations" => (0, Some(1)),
                "push" => (2, Some(2)),
                _ => (1, Some(1)),
            };
            assert_eq!(command.arguments, Arguments { least, most }, "{}", command.name);
        }
    }
}
