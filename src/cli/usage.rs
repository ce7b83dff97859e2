// SPDX-License-Identifier: Apache-2.0
//! Between our reading of the command line ([`super::flags`]) and clap's: which flags there are, help in runc's form, and
//! clap's complaints as errors of our own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command};

use super::flags::{Arguments, Flag, Grammar, Syntax, Takes};
use super::output;
use crate::{Error, ErrorKind, Result};

/// The name under which the program is to speak of itself: `runc` where it is installed under that name, for those who
/// look for it.
pub(super) fn program_name(argv0: Option<OsString>) -> &'static str {
    let is_runc = argv0.is_some_and(|name| Path::new(&name).file_name().is_some_and(|name| name == "runc"));
    if is_runc { "runc" } else { "migrate" }
}

/// The flags and arguments of a command line: of the commands that these arguments may be about.
pub(super) fn grammar(program: &str, command: &Command, args: &[OsString]) -> Grammar {
    Grammar {
        program: program.to_owned(),
        global: flags(command),
        commands: command
            .get_subcommands()
            .filter(|command| args.iter().any(|arg| arg == command.get_name()))
            .map(|command| Syntax {
                name: command.get_name().to_owned(),
                flags: flags(command),
                arguments: arguments(command),
            })
            .collect(),
    }
}

fn flags(command: &Command) -> Vec<Flag> {
    let flags = command.get_arguments().filter(|arg| !arg.is_positional());
    flags
        .map(|arg| Flag {
            names: arg
                .get_long()
                .map(str::to_owned)
                .into_iter()
                .chain(arg.get_short().map(String::from))
                .chain(arg.get_all_aliases().into_iter().flatten().map(str::to_owned))
                .collect(),
            takes: takes(arg),
        })
        .collect()
}

fn takes(arg: &Arg) -> Takes {
    let value = arg.get_value_parser().type_id();
    match arg.get_action() {
        ArgAction::SetTrue | ArgAction::SetFalse | ArgAction::Count => Takes::Nothing,
        ArgAction::Append => Takes::Values,
        _ if value == std::any::TypeId::of::<PathBuf>() || value == std::any::TypeId::of::<String>() => {
            Takes::Text
        }
        _ => Takes::Value,
    }
}

fn arguments(command: &Command) -> Arguments {
    let arguments: Vec<&Arg> = command.get_positionals().collect();
    let least = arguments.iter().filter(|arg| arg.is_required_set()).count();
    let is_open = arguments.iter().any(|arg| arg.is_trailing_var_arg_set());
    let most =
        || arguments.iter().map(|arg| arg.get_num_args().map_or(1, |values| values.max_values())).sum();
    Arguments { least, most: (!is_open).then(most) }
}

/// Prints help, in the form in which runc begins.
pub(super) fn help(program: &str, command: Command, topic: Option<&str>) -> Result<()> {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let about = if program == "runc" { "Open Container Initiative runtime".to_owned() } else { about };
    let (name, about, mut command) = match topic.and_then(|topic| command.find_subcommand(topic)) {
        Some(found) => {
            let about = found.get_about().map(ToString::to_string).unwrap_or_default();
            (format!("{program} {}", found.get_name()), about, found.clone())
        }
        None => (program.to_owned(), about, command),
    };
    command = command.bin_name(&name).help_template(format!(
        "NAME:\n   {name} - {about}\n\nUSAGE:\n   {{usage}}\n\n{{all-args}}{{after-help}}"
    ));
    output::text(&format!("{}\n", command.render_help().to_string().trim_end()))
}

/// What clap does not like about a command line.
pub(super) fn error(error: &clap::Error) -> Error {
    use std::error::Error as _;
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let ours = error.source().and_then(|source| source.downcast_ref::<Error>());
    let flag = text(ContextKind::InvalidArg).filter(|arg| arg.starts_with('-'));
    let mut why = None;
    let message = match (ours, flag, text(ContextKind::InvalidValue)) {
        (Some(ours), _, _) => ours.to_string(),
        (_, Some(flag), Some(value)) => {
            let flag = flag.trim_start_matches('-').split([' ', '=']).next().unwrap_or_default().to_owned();
            why = error.source().map(ToString::to_string);
            // Go's words.
            format!("invalid value \"{value}\" for flag -{flag}: parse error")
        }
        _ => {
            let text = error.to_string();
            text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    };
    let new = Error::new(ErrorKind::InvalidInput, message);
    match ours.and_then(Error::hint).map(str::to_owned).or(why) {
        Some(hint) => new.with_hint(hint),
        None => new,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_that_of_the_file() {
        for (argv0, name) in
            [("/usr/sbin/runc", "runc"), ("runc", "runc"), ("/x/migrate", "migrate"), ("/runc/y", "migrate")]
        {
            assert_eq!(program_name(Some(argv0.into())), name);
        }
        assert_eq!(program_name(None), "migrate");
    }
}
