// SPDX-License-Identifier: Apache-2.0
//! One thing that a checkpoint would meet: how bad it is, where it was seen, why, and what helps.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::diagnose::remedy;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// CRIU cannot carry it.
    Blocker,
    /// CRIU carries it when told to.
    NeedsFlag,
    /// It works, or may work; something is lost or to be known.
    Note,
}

/// A flag of `checkpoint` without which CRIU refuses what it can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flag {
    /// `--tcp-established`.
    TcpEstablished,
    /// `--tcp-skip-in-flight`.
    TcpSkipInFlight,
    /// `--ext-unix-sk`.
    ExtUnixSk,
    /// `--file-locks`.
    FileLocks,
    /// `--shell-job`.
    ShellJob,
    /// `--link-remap`.
    LinkRemap,
    /// `--ghost-limit`, with the size that is needed, in bytes.
    GhostLimit(u64),
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TcpEstablished => "--tcp-established",
            Self::TcpSkipInFlight => "--tcp-skip-in-flight",
            Self::ExtUnixSk => "--ext-unix-sk",
            Self::FileLocks => "--file-locks",
            Self::ShellJob => "--shell-job",
            Self::LinkRemap => "--link-remap",
            Self::GhostLimit(size) => return write!(f, "--ghost-limit {size}"),
        })
    }
}

impl Serialize for Flag {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which flags a checkpoint is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Given {
    /// Established TCP connections are kept or closed.
    pub tcp: bool,
    /// Connections that are being set up are left out.
    pub tcp_skip_in_flight: bool,
    /// The other end of a unix socket may be outside.
    pub ext_unix_sk: bool,
    /// File locks are taken along.
    pub file_locks: bool,
    /// The session may be outside.
    pub shell_job: bool,
    /// Unlinked files may be linked back.
    pub link_remap: bool,
    /// Largest unlinked file that is taken along, in bytes; `None`: CRIU's default.
    pub ghost_limit: Option<u64>,
}

impl Given {
    /// Whether this flag is among them.
    pub fn has(&self, flag: Flag) -> bool {
        match flag {
            Flag::TcpEstablished => self.tcp,
            Flag::TcpSkipInFlight => self.tcp_skip_in_flight,
            Flag::ExtUnixSk => self.ext_unix_sk,
            Flag::FileLocks => self.file_locks,
            Flag::ShellJob => self.shell_job,
            Flag::LinkRemap => self.link_remap,
            Flag::GhostLimit(needed) => self.ghost_limit.is_some_and(|limit| limit >= needed),
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Which rule found it; stays the same from version to version.
    pub rule: &'static str,
    /// The flag that is needed.
    pub flag: Option<Flag>,
    /// The process on the host, if it is one's.
    pub pid: Option<i32>,
    /// That process's name for itself.
    pub command: Option<String>,
    /// What was seen: a descriptor, a path, a field of the configuration.
    pub evidence: String,
    /// How many of the same kind this process has, this one included.
    pub count: usize,
    /// Why it is in the way.
    pub cause: String,
    /// What helps; empty where there is nothing to do.
    pub remedy: String,
}

impl Finding {
    pub(super) fn new(severity: Severity, rule: &'static str, evidence: impl Into<String>) -> Self {
        Self {
            severity,
            rule,
            flag: None,
            pid: None,
            command: None,
            evidence: evidence.into(),
            count: 1,
            cause: String::new(),
            remedy: String::new(),
        }
    }

    pub(super) fn because(mut self, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        (self.cause, self.remedy) = (cause.into(), remedy.into());
        self
    }

    /// With the remedy that is told when CRIU itself refuses: that of `diagnose`'s rule of this name.
    pub(super) fn told_in(self, cause: impl Into<String>, rule: &str) -> Self {
        self.because(cause, remedy(rule))
    }

    pub(super) fn needs(mut self, flag: Flag) -> Self {
        (self.severity, self.flag) = (Severity::NeedsFlag, Some(flag));
        self
    }

    /// A blocker that may be none.
    pub(super) fn softened(mut self) -> Self {
        if self.severity == Severity::Blocker {
            self.severity = Severity::Note;
        }
        self
    }

    pub(super) fn of(mut self, pid: i32, command: &str) -> Self {
        (self.pid, self.command) = (Some(pid), Some(command.to_owned()));
        self
    }

    /// Whether a checkpoint with these flags fails because of it.
    pub fn is_in_the_way_of(&self, given: &Given) -> bool {
        match (self.severity, self.flag) {
            (Severity::Blocker, _) => true,
            (Severity::NeedsFlag, flag) => !flag.is_some_and(|flag| given.has(flag)),
            (Severity::Note, _) => false,
        }
    }

    /// Who has it and what it is, as the beginning of a sentence.
    pub fn subject(&self) -> String {
        let mut text = match (self.pid, &self.command) {
            (Some(pid), Some(command)) => format!("process {pid} ({command}), {}", self.evidence),
            _ => self.evidence.clone(),
        };
        if self.count > 1 {
            text.push_str(&format!(" and {} more", self.count - 1));
        }
        text
    }
}

/// One finding for each process and rule, the worst first. Of unlinked files the largest counts.
pub(super) fn gathered(found: Vec<Finding>) -> Vec<Finding> {
    let mut list: Vec<Finding> = Vec::new();
    for finding in found {
        let same = |other: &&mut Finding| {
            (other.pid, other.rule, other.severity) == (finding.pid, finding.rule, finding.severity)
                && other.pid.is_some()
        };
        match list.iter_mut().find(same) {
            Some(first) => {
                first.count += 1;
                first.flag = first.flag.max(finding.flag);
            }
            None => list.push(finding),
        }
    }
    list.sort_by_key(|finding| finding.severity);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_that_is_given_is_not_in_the_way() {
        let lock = Finding::new(Severity::Blocker, "file_lock", "x").needs(Flag::FileLocks);
        assert!(lock.is_in_the_way_of(&Given::default()));
        assert!(!lock.is_in_the_way_of(&Given { file_locks: true, ..Given::default() }));
        let ghost = Finding::new(Severity::Blocker, "ghost", "x").needs(Flag::GhostLimit(7));
        for (limit, is_in_the_way) in [(None, true), (Some(6), true), (Some(7), false)] {
            let given = Given { ghost_limit: limit, ..Given::default() };
            assert_eq!(ghost.is_in_the_way_of(&given), is_in_the_way, "{limit:?}");
        }
        assert!(!Finding::new(Severity::Note, "x", "x").is_in_the_way_of(&Given::default()));
        assert!(Finding::new(Severity::Blocker, "x", "x").is_in_the_way_of(&Given::default()));
    }

    #[test]
    fn many_of_one_kind_are_one_line() {
        let one = |pid| Finding::new(Severity::Note, "tcp", "fd 3").of(pid, "nginx");
        let blocker = Finding::new(Severity::Blocker, "io_uring", "fd 9").of(1, "init");
        let found = gathered(vec![one(7), one(7), one(8), one(7), blocker]);
        assert_eq!(
            found.iter().map(|f| (f.rule, f.count)).collect::<Vec<_>>(),
            [("io_uring", 1), ("tcp", 3), ("tcp", 1)]
        );
        assert_eq!(found[1].subject(), "process 7 (nginx), fd 3 and 2 more");
    }
}
