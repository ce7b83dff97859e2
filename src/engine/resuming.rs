// SPDX-License-Identifier: Apache-2.0
//! That the first process of a restored container is there and was not yet let go, in the container's record. Who comes after a
//! restore that was killed together with its CRIU can tell from it that the processes hang half made, or are not all there.
//!
//! Knows of CRIU only that it is a process which logs while it works, and writes another file when it has let the processes go.
//! Must not know what is in either.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::state::{Creator, InitProcess, State};
use super::{Container, NewContainer};
use crate::{Error, ErrorKind, Result};

/// A restore that is about to let its processes go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resuming {
    criu: InitProcess,
    log: PathBuf,
    /// Another run's log has another one.
    log_inode: u64,
    /// What it writes last.
    last: PathBuf,
    /// What that was like before, if it was there.
    last_before: Option<Stamp>,
}

/// A file as it was at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    inode: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let found = fs::symlink_metadata(path).ok()?;
        Some(Self { inode: found.ino(), changed: (found.ctime(), found.ctime_nsec()) })
    }
}

impl Resuming {
    /// Of this CRIU, which logs to a file and writes another one beside it, `last`, when it is done; `None` without a log.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(criu: i32, log: &Path, last: &str) -> Result<Option<Self>> {
        let criu = InitProcess::of(Pid::from_raw(criu))?;
        let last = log.with_file_name(last);
        let last_before = Stamp::of(&last);
        let log_inode = Stamp::of(log).map(|stamp| stamp.inode);
        Ok(log_inode.map(|log_inode| Self { criu, log: log.to_owned(), log_inode, last, last_before }))
    }

    /// Whether it has ended without having let the processes go. Where its files have gone nobody can tell any more, and it has not.
    fn was_cut_off(&self, creator: Creator) -> bool {
        let at_work = self.criu.is_alive() || creator.is_alive();
        !at_work
            && Stamp::of(&self.log).is_some_and(|log| log.inode == self.log_inode)
            && Stamp::of(&self.last) == self.last_before
    }
}

impl State {
    /// Whether the restore was killed before it let the processes go.
    pub(super) fn is_half_restored(&self) -> bool {
        self.init.is_some_and(|init| init.is_alive())
            && self.resuming.as_ref().is_some_and(|resuming| resuming.was_cut_off(self.creator))
    }
}

impl NewContainer {
    /// To be written down with the first process: this restore still has to let the processes go.
    pub fn set_resuming(&mut self, resuming: Option<Resuming>) {
        self.state.resuming = resuming;
    }

    /// The processes run.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn has_resumed(&mut self) -> Result<()> {
        if self.state.resuming.take().is_none() {
            return Ok(());
        }
        self.state.save(&self.dir)
    }
}

impl Container {
    /// Makes sure that its restore came to its end: of one that was killed with its CRIU before that, processes hang or are gone.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`] when it is not so.
    pub fn require_restored(&self) -> Result<()> {
        if !self.state().is_half_restored() {
            return Ok(());
        }
        let message = format!("the restore of container {} was killed before its processes ran", self.id());
        Err(Error::new(ErrorKind::WrongStatus, message)
            .with_hint(State::half_restored_remedy(self.id().as_str())))
    }

    /// Makes sure that its restore came to its end, and that all its memory is there.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`] when it is not so.
    pub fn require_whole(&self) -> Result<()> {
        self.require_restored()?;
        self.require_whole_memory()
    }
}

impl State {
    /// What can be done about a container that is half restored.
    pub(super) fn half_restored_remedy(id: &str) -> String {
        format!(
            "remove it with `migrate delete --force {id}` and restore it again: what it is restored from is as it was"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_off_is_told_by_what_is_missing() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (log, last) = (dir.path().join("log"), dir.path().join("last"));
        let criu = std::process::id().cast_signed();
        assert_eq!(Resuming::of(criu, &log, "last").expect("this one lives"), None, "no log");
        fs::write(&log, "").expect("write");
        let begun = |last: &str| {
            let alive = Resuming::of(criu, &log, last).expect("this one lives").expect("a log");
            let criu = InitProcess { start_time: 0, ..alive.criu };
            (alive.clone(), Resuming { criu, ..alive })
        };
        let gone = Creator { pid: criu, start_time: 0 };
        let (alive, dead) = begun("last");
        assert!(!alive.was_cut_off(gone), "criu is at work");
        assert!(!dead.was_cut_off(Creator::this().expect("this one lives")), "the command is at work");
        assert!(dead.was_cut_off(gone));
        fs::write(&last, "").expect("write");
        assert!(!dead.was_cut_off(gone), "it came to its end");
        // Of a restore before.
        let (_, dead) = begun("last");
        assert!(dead.was_cut_off(gone));
        fs::remove_file(&last).expect("remove");
        fs::write(&last, "again").expect("write");
        assert!(!dead.was_cut_off(gone), "it came to its end");
        let (_, dead) = begun("other");
        fs::rename(&log, dir.path().join("moved")).expect("rename");
        assert!(!dead.was_cut_off(gone), "nobody knows");
        fs::write(&log, "").expect("write");
        assert!(!dead.was_cut_off(gone), "another run's log");
    }
}
