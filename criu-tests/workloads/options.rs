// SPDX-License-Identifier: Apache-2.0
//! The arguments of a workload: `--name value` pairs and bare `--name` switches.

use std::path::PathBuf;
use std::time::Duration;

/// What a workload was started with.
#[derive(Debug)]
pub(crate) struct Options {
    pairs: Vec<(String, Option<String>)>,
}

impl Options {
    /// Reads `--name value` and `--name`; anything else is an error.
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut pairs: Vec<(String, Option<String>)> = Vec::new();
        for arg in args {
            if let Some(name) = arg.strip_prefix("--") {
                pairs.push((name.to_owned(), None));
            } else {
                match pairs.last_mut() {
                    Some((_, value @ None)) => *value = Some(arg),
                    _ => return Err(format!("unexpected argument {arg:?}")),
                }
            }
        }
        Ok(Self { pairs })
    }

    /// Whether the option was given at all.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.pairs.iter().any(|(n, _)| n == name)
    }

    /// The value of an option.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(n, _)| n == name).and_then(|(_, value)| value.as_deref())
    }

    /// Every value of an option that may be repeated.
    pub(crate) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(n, _)| n == name).filter_map(|(_, value)| value.as_deref())
    }

    /// The value of an option as a number, or `default`.
    pub(crate) fn number(&self, name: &str, default: u64) -> Result<u64, String> {
        match self.value(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|e| format!("--{name} {text}: {e}")),
        }
    }

    /// The file that the workload reports to.
    pub(crate) fn status(&self) -> Result<PathBuf, String> {
        self.value("status").map(PathBuf::from).ok_or_else(|| "--status FILE is missing".to_owned())
    }

    /// The directory for the workload's own files: `--dir`, else the one that holds the status file.
    pub(crate) fn dir(&self) -> Result<PathBuf, String> {
        let beside = || self.status().map(|s| s.parent().map_or_else(|| PathBuf::from("/"), PathBuf::from));
        self.value("dir").map_or_else(beside, |dir| Ok(PathBuf::from(dir)))
    }

    /// The time between two ticks: `--tick-ms`, 10 ms by default.
    pub(crate) fn tick(&self) -> Result<Duration, String> {
        self.number("tick-ms", 10).map(Duration::from_millis)
    }
}
