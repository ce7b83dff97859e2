// SPDX-License-Identifier: Apache-2.0
//! Flags as runc's clients write them: `-no-subreaper`, `--force=false`, one flag many times, `delete ID --force`. They are
//! put into the one form that clap reads without doubt. Pure: it knows names of flags, not what they mean.
//!
//! The rules are those of Go's `flag` and of the library that runc reads its command line with:
//!
//! * One dash or two make no difference, and letters cannot be put together behind one dash.
//! * `--flag=value` and `--flag value` are the same, but a switch takes a value after `=` only.
//! * A flag that is given again replaces the earlier one, unless it is one that collects.
//! * Flags come before the first argument. After it only flags that the command knows are taken for some, up to `--`, and
//!   none at all where what follows is somebody else's command line (`exec`, `ps`).
//! * Names are written out: there are no abbreviations.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::{Error, ErrorKind};

/// What a flag does with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing: it is there or not.
    Nothing,
    /// Text. When that is empty it is as if the flag were not there.
    Text,
    /// Anything else, which is not for this module to judge.
    Value,
    /// Anything, as often as it is given.
    Values,
}

/// A flag that a command has.
#[derive(Debug, Clone)]
pub(super) struct Flag {
    /// Without dashes. The first one is what clap knows it by.
    pub(super) names: Vec<String>,
    pub(super) takes: Takes,
}

/// How many arguments that are no flags a command takes, and what may be behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arguments {
    pub(super) least: usize,
    /// `None`: everything after the last one belongs to another program.
    pub(super) most: Option<usize>,
}

/// A command's flags and arguments.
#[derive(Debug, Clone)]
pub(super) struct Syntax {
    pub(super) name: String,
    pub(super) flags: Vec<Flag>,
    pub(super) arguments: Arguments,
}

/// The whole command line.
#[derive(Debug, Clone)]
pub(super) struct Grammar {
    /// The name that the program goes by.
    pub(super) program: String,
    pub(super) global: Vec<Flag>,
    pub(super) commands: Vec<Syntax>,
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// To run this command line, which has `--name` and `--name=value` only, then `--` and what is no flag.
    Run(Vec<OsString>),
    /// To print help, of a command.
    Help(Option<String>),
    /// To print the version.
    Version,
}

/// A command line that breaks the rules.
#[derive(Debug)]
pub(super) struct Misuse {
    /// The flags before the command, as in [`Request::Run`]: they tell where the error is to be logged.
    pub(super) global: Vec<OsString>,
    pub(super) error: Error,
}

impl Grammar {
    /// Reads the arguments of the program, without its name.
    pub(super) fn read(&self, args: &[OsString]) -> Result<Request, Misuse> {
        let early = |message| Misuse { global: Vec::new(), error: self.misuse(None, message) };
        let global = parse(&self.global, args, Level::Program).map_err(early)?;
        if global.help {
            return Ok(Request::Help(None));
        }
        if global.version {
            return Ok(Request::Version);
        }
        let Some((name, rest)) = global.rest.split_first() else { return Ok(Request::Help(None)) };
        let flags = global.flags;
        self.read_command(name, rest, &flags)
            .map_err(|(command, message)| Misuse { error: self.misuse(command, message), global: flags })
    }

    fn read_command(
        &self,
        name: &OsStr,
        rest: &[OsString],
        global: &[OsString],
    ) -> Result<Request, (Option<&str>, String)> {
        if name == "help" || name == "h" {
            return match rest.first() {
                None => Ok(Request::Help(None)),
                Some(topic) => {
                    let command = self.command(topic).map_err(|message| (None, message))?;
                    Ok(Request::Help(Some(command.name.clone())))
                }
            };
        }
        let command = self.command(name).map_err(|message| (None, message))?;
        let name = command.name.as_str();
        let ordered =
            if command.arguments.most.is_some() { flags_first(&command.flags, rest) } else { rest.to_vec() };
        let parsed =
            parse(&command.flags, &ordered, Level::Command).map_err(|message| (Some(name), message))?;
        if parsed.help {
            return Ok(Request::Help(Some(name.to_owned())));
        }
        let wrong = command.arguments.complain(parsed.rest.len());
        if let Some(wrong) = wrong {
            return Err((Some(name), format!("{}: \"{name}\" {wrong}", self.program)));
        }
        let mut line = global.to_vec();
        line.push(name.into());
        line.extend(parsed.flags);
        if !parsed.rest.is_empty() {
            line.push("--".into());
            line.extend(parsed.rest);
        }
        Ok(Request::Run(line))
    }

    fn command(&self, name: &OsStr) -> Result<&Syntax, String> {
        self.commands
            .iter()
            .find(|command| name == command.name.as_str())
            .ok_or_else(|| format!("No help topic for '{}'", name.display()))
    }

    fn misuse(&self, command: Option<&str>, message: String) -> Error {
        let program = &self.program;
        let ask = match command {
            Some(command) => format!("{program} {command} --help"),
            None => format!("{program} --help"),
        };
        Error::new(ErrorKind::InvalidInput, message).with_hint(format!("`{ask}` tells what there is"))
    }
}

impl Arguments {
    /// What is wrong with this many, in runc's words.
    fn complain(self, given: usize) -> Option<String> {
        match self.most {
            Some(most) if most == self.least && given != most => {
                Some(format!("requires exactly {most} argument(s)"))
            }
            Some(most) if given > most => Some(format!("requires a maximum of {most} argument(s)")),
            _ if given < self.least => Some(format!("requires a minimum of {} argument(s)", self.least)),
            _ => None,
        }
    }
}

/// Whose flags are read: the program has one for its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Program,
    Command,
}

/// What one set of flags found in its part of the command line.
#[derive(Debug, Default)]
struct Parsed {
    flags: Vec<OsString>,
    rest: Vec<OsString>,
    help: bool,
    version: bool,
}

/// Reads flags up to the first argument that is none. Errors are in the words of Go's `flag`.
fn parse(flags: &[Flag], args: &[OsString], level: Level) -> Result<Parsed, String> {
    let mut parsed = Parsed::default();
    let mut found: Vec<(&Flag, Option<OsString>)> = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let Some((name, value)) = split(arg) else {
            parsed.rest.push(arg.clone());
            break;
        };
        if name.is_empty() && value.is_none() {
            break;
        }
        if name.is_empty() || name.starts_with(b"-") {
            return Err(format!("bad flag syntax: {}", arg.display()));
        }
        let shown = name.escape_ascii();
        match known(flags, name) {
            None if is_help(name) => parsed.help = truth(name, value)?,
            None if level == Level::Program && is_version(name) => parsed.version = truth(name, value)?,
            None => return Err(format!("flag provided but not defined: -{shown}")),
            Some(flag) if flag.takes == Takes::Nothing => {
                let is_set = truth(name, value)?;
                found.retain(|(other, _)| !std::ptr::eq(*other, flag));
                if is_set {
                    found.push((flag, None));
                }
            }
            Some(flag) => {
                let value = value.map(|value| OsString::from_vec(value.to_vec()));
                let value = value.or_else(|| args.next().cloned());
                let value = value.ok_or_else(|| format!("flag needs an argument: -{shown}"))?;
                if flag.takes != Takes::Values {
                    found.retain(|(other, _)| !std::ptr::eq(*other, flag));
                }
                if flag.takes != Takes::Text || !value.is_empty() {
                    found.push((flag, Some(value)));
                }
            }
        }
    }
    parsed.rest.extend(args.cloned());
    parsed.flags = found.into_iter().map(|(flag, value)| written(flag, value.as_deref())).collect();
    Ok(parsed)
}

/// Moves the flags that are known, with their values, before everything else.
fn flags_first(flags: &[Flag], args: &[OsString]) -> Vec<OsString> {
    let (mut first, mut last) = (Vec::new(), Vec::new());
    let mut may_be_value = false;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let parts = split(arg);
        let flag = parts.and_then(|(name, _)| known(flags, name));
        let is_flag = flag.is_some() || parts.is_some_and(|(name, _)| is_help(name));
        if is_flag {
            // A switch has none behind it: what stands there is an argument, in its place among the others.
            let takes_value = flag.is_some_and(|flag| flag.takes != Takes::Nothing);
            may_be_value = takes_value && parts.is_some_and(|(_, value)| value.is_none());
            first.push(arg.clone());
        } else if may_be_value {
            may_be_value = false;
            first.push(arg.clone());
        } else if arg == "--" {
            last.extend(args.cloned());
            // What is behind it stays behind it; what was before it is no flag either.
            first.push(arg.clone());
            break;
        } else {
            last.push(arg.clone());
        }
    }
    first.extend(last);
    first
}

/// The name and the value of a flag; `None` for what is none. `--` has an empty name.
fn split(arg: &OsStr) -> Option<(&[u8], Option<&[u8]>)> {
    let bytes = arg.as_bytes();
    let body = bytes.strip_prefix(b"-").filter(|body| !body.is_empty())?;
    let body = body.strip_prefix(b"-").unwrap_or(body);
    match body.iter().position(|byte| *byte == b'=') {
        Some(at) => Some((&body[..at], Some(&body[at + 1..]))),
        None => Some((body, None)),
    }
}

fn known<'f>(flags: &'f [Flag], name: &[u8]) -> Option<&'f Flag> {
    flags.iter().find(|flag| flag.names.iter().any(|known| known.as_bytes() == name))
}

fn is_help(name: &[u8]) -> bool {
    matches!(name, b"help" | b"h")
}

fn is_version(name: &[u8]) -> bool {
    matches!(name, b"version" | b"v")
}

/// Whether a switch is on, in the spellings of Go's `strconv.ParseBool`.
fn truth(name: &[u8], value: Option<&[u8]>) -> Result<bool, String> {
    match value {
        None | Some(b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True") => Ok(true),
        Some(b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False") => Ok(false),
        Some(value) => Err(format!(
            "invalid boolean value \"{}\" for -{}: parse error",
            value.escape_ascii(),
            name.escape_ascii()
        )),
    }
}

fn written(flag: &Flag, value: Option<&OsStr>) -> OsString {
    let mut text = OsString::from("--");
    text.push(flag.names.first().map_or("", String::as_str));
    if let Some(value) = value {
        text.push("=");
        text.push(value);
    }
    text
}

#[cfg(test)]
mod tests;
