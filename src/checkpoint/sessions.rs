// SPDX-License-Identifier: Apache-2.0
//! Processes that `exec` has put into the container. They are children of somebody outside, and CRIU dumps the tree of the
//! first process only: they are named, never silently lost.

use std::collections::HashSet;
use std::fmt;

use nix::unistd::Pid;

use super::{ExecSessions, LeaveRunning};
use crate::engine::{Container, InitProcess};
use crate::sys::ancestry::Ancestry;
use crate::sys::proc::{Stat, command_line};
use crate::{Error, ErrorKind, Result};

/// How many are named in one message.
const MOST_NAMED: usize = 8;

/// A command line is not quoted in full, in bytes.
const LONGEST_COMMAND: usize = 60;

/// Processes of a container that are not in the tree of its first one.
#[derive(Debug, Default)]
pub(super) struct Sessions(Vec<(i32, String)>);

impl Sessions {
    /// Those that are there now.
    ///
    /// # Errors
    /// When the container's cgroup cannot be read.
    pub(super) fn of(container: &Container, init: InitProcess) -> Result<Self> {
        let pids = container.processes()?;
        let mut ancestry = Ancestry::default();
        let outside = pids.into_iter().filter(|pid| !ancestry.descends(*pid, init.pid));
        Ok(Self(outside.filter_map(|pid| Some((pid, command(pid)?))).collect()))
    }

    /// Those that were not there `before`.
    pub(super) fn since(self, before: &Self) -> Self {
        let known: HashSet<i32> = before.0.iter().map(|(pid, _)| *pid).collect();
        Self(self.0.into_iter().filter(|(pid, _)| !known.contains(pid)).collect())
    }

    /// Says what becomes of them, or that they are in the way.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`], naming them, when the caller will not have them lost.
    pub(super) fn announce(&self, wanted: ExecSessions, after: LeaveRunning) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        if wanted == ExecSessions::Refuse {
            let message = format!("the container has processes that were started by exec: {self}");
            return Err(Error::new(ErrorKind::WrongStatus, message)
                .with_hint("end them first; criu dumps the tree of the container's first process only"));
        }
        match after {
            LeaveRunning::No => tracing::warn!(
                processes = %self,
                "processes that exec has started are not part of the checkpoint: they end with the container"
            ),
            LeaveRunning::Yes | LeaveRunning::Paused => tracing::warn!(
                processes = %self,
                "processes that exec has started are not part of the checkpoint: they run on here"
            ),
        }
        Ok(())
    }
}

impl fmt::Display for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (pid, command)) in self.0.iter().take(MOST_NAMED).enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            write!(f, "{separator}{pid} ({command})")?;
        }
        match self.0.len().checked_sub(MOST_NAMED) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, " and {more} more"),
        }
    }
}

/// What a process runs, as text for a message; `None` of one that has ended.
fn command(pid: i32) -> Option<String> {
    let pid = Pid::from_raw(pid);
    if Stat::of(pid).map_or(true, |stat| stat.ended()) {
        return None;
    }
    Some(quoted(&command_line(pid, LONGEST_COMMAND + 1).ok()?))
}

/// The text is the process's own and may hold anything.
fn quoted(line: &[u8]) -> String {
    let end = line.len().min(LONGEST_COMMAND);
    let words: Vec<u8> = line[..end].iter().map(|byte| if *byte == 0 { b' ' } else { *byte }).collect();
    let text = String::from_utf8_lossy(&words);
    let more = if line.len() > LONGEST_COMMAND { "…" } else { "" };
    format!("{}{more}", text.trim_end().escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_quoted_short_and_harmless() {
        assert_eq!(quoted(b"sh\0-c\0sleep 9\0"), "sh -c sleep 9");
        assert_eq!(quoted(b"\x1b[2J\nx\0"), "\\u{1b}[2J\\nx");
        assert_eq!(quoted(&[b'a'; 61]), format!("{}…", "a".repeat(60)));
        assert_eq!(quoted(b""), "");
    }

    #[test]
    fn only_so_many_are_named() {
        let many = Sessions((1..=10).map(|pid| (pid, "sh".to_owned())).collect());
        let text = many.to_string();
        assert!(text.starts_with("1 (sh), 2 (sh)") && text.ends_with("8 (sh) and 2 more"), "{text}");
    }

    #[test]
    fn those_of_a_caller_who_wants_none_lost_are_an_error() {
        let some = Sessions(vec![(7, "top".to_owned())]);
        some.announce(ExecSessions::End, LeaveRunning::No).expect("a warning");
        let error = some.announce(ExecSessions::Refuse, LeaveRunning::Yes).expect_err("they are there");
        assert_eq!(error.kind(), ErrorKind::WrongStatus);
        assert!(error.to_string().contains("started by exec: 7 (top)"), "{error}");
        Sessions::default().announce(ExecSessions::Refuse, LeaveRunning::No).expect("there are none");
    }
}
