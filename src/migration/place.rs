// SPDX-License-Identifier: Apache-2.0
//! What one side keeps of a migration, in the directory of its journal:
//!
//! | there | what |
//! | --- | --- |
//! | `journal` | what was decided; its notes tell the way to the other host, and how the container is restored |
//! | `memory/` or `pages/`, `archive` | destination: what has come of the container, until it runs here |
//! | `rootfs.coming/`, then `rootfs/` | destination: its root filesystem, from the first round on and after the last one; restored, it is the container's |
//! | `stdout.log`, `stderr.log` | destination: what it writes to pipes and files that it had at the source, until it is restored |
//! | `member-1/`, `member-2/` … | destination: the same of the second container that moves together with the first, of the third … |
//!
//! Must not know what is decided.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::claim::Claim;
use super::handoff::{Event, Record, Recorded, Side, Tree};
use super::id::{MigrationId, Tag};
use super::journal::{About, History, Journal, directory, migrations};
use super::members::{self, each};
use super::stored::Stored;
use crate::engine::{ContainerId, StateRoot};
use crate::{Context, Error, ErrorKind, Result};

/// How long another process may take to leave a migration alone: its connection may have ended, and it has not seen that yet.
const PATIENCE: Duration = Duration::from_secs(20);

/// The directory of a migration, and the right to go on with it.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    journal: Journal,
}

impl Place {
    /// Makes that of a new migration.
    ///
    /// # Errors
    /// It is there already, or cannot be made.
    pub(super) fn make(root: &StateRoot, about: &About<'_>) -> Result<Self> {
        let journal = Journal::create(root, about)?;
        Ok(Self { path: directory(root, about.migration), journal })
    }

    /// That of a migration that was begun, of this side.
    ///
    /// # Errors
    /// `NotFound` if there is none; another process is at work on it; it is one of the other side.
    pub(super) fn open(root: &StateRoot, migration: MigrationId, side: Side) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        let journal = loop {
            match Journal::open(root, migration) {
                Err(busy) if busy.kind() == ErrorKind::WrongStatus && Instant::now() < deadline => {
                    // A lock of flock(2) has no deadline of its own.
                    std::thread::sleep(Duration::from_millis(10));
                }
                opened => break opened?,
            }
        };
        if journal.history().opened().side != side {
            let message = match side {
                Side::Source => format!("migration {migration} is to this host: its source goes on with it"),
                Side::Destination => format!("migration {migration} is from this host, not to it"),
            };
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        Ok(Self { path: directory(root, migration), journal })
    }

    /// Removes what is left of migrations to here about which nothing was promised, when nobody is at work on them any more: whoever asks
    /// about one has the same answer without. Of those that are over, whose sources have not said so, it removes all but the journal.
    ///
    /// # Errors
    /// When they cannot be listed or removed.
    pub(super) fn sweep(root: &StateRoot) -> Result<()> {
        for migration in migrations(root)? {
            // A restore that was killed has left a container, which is removed with the help of its journal.
            let is_left = |history: &History| {
                let opened = history.opened();
                let are_there = opened.container.split(',').any(|id| root.path().join(id).exists());
                opened.side == Side::Destination && history.last().is_none() && !are_there
            };
            // Whose journal is being made is not disturbed; somebody who is at work on it has it locked.
            if !History::read(root, migration)
                .is_ok_and(|history| is_left(&history) || is_over(root, &history))
            {
                continue;
            }
            let Ok(journal) = Journal::open(root, migration) else { continue };
            if is_left(journal.history()) {
                journal.remove()?;
            } else if is_over(root, journal.history()) {
                let ids = members::read(&journal.history().opened().container)?;
                each(0..ids.len(), |number| stored(&directory(root, migration), number).drop_store())?;
            }
        }
        Ok(())
    }

    /// The ids of the containers.
    ///
    /// # Errors
    /// When they are none.
    pub(super) fn containers(&self) -> Result<Vec<ContainerId>> {
        members::read(&self.journal.history().opened().container)
    }

    /// Writes a record down; it is durable when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn append(&mut self, record: Record, reason: Option<&str>) -> Result<()> {
        self.journal.append(record, reason)
    }

    /// Writes down what whoever goes on must know.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn note(&mut self, key: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value).context(|| "serialise what a migration is about")?;
        self.journal.note(key, &text)
    }

    /// What was written down so.
    ///
    /// # Errors
    /// When it cannot be understood.
    pub(super) fn noted<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let text = self.journal.history().note(key);
        text.map(serde_json::from_str)
            .transpose()
            .context(|| format!("understand the note {key:?} of the journal in {}", self.path.display()))
    }

    /// What was decided last.
    pub(super) fn last(&self) -> Option<Recorded> {
        self.journal.history().last().map(|(_, record, _)| record.what)
    }

    /// What the handoff begins anew with.
    pub(super) fn restart(&self, tree: Tree) -> Event {
        self.journal.history().restart(tree)
    }

    /// Forgets the migration.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(super) fn remove(self) -> Result<()> {
        self.journal.remove()
    }

    /// What has come of the container of this number.
    pub(super) fn stored(&self, number: usize) -> Stored {
        stored(&self.path, number)
    }
}

/// [`Place::stored`], in the directory of a migration.
pub(super) fn stored(directory: &Path, number: usize) -> Stored {
    Stored::at(match number {
        0 => directory.to_owned(),
        _ => directory.join(format!("member-{number}")),
    })
}

/// Whether what has come to here is of no more use: the containers will never run here, or have run, all of them. Until then they may
/// have to be restored once more.
fn is_over(root: &StateRoot, history: &History) -> bool {
    let opened = history.opened();
    let Some((_, record, _)) = history.last() else { return false };
    let tag = Tag { migration: opened.migration, epoch: record.epoch };
    let has_run =
        |id: &ContainerId| matches!(Claim { root, id, tag }.tree(), Ok(Tree::Running | Tree::Absent));
    opened.side == Side::Destination
        && match record.what {
            Recorded::Aborted | Recorded::Fenced(Side::Destination) => true,
            Recorded::Live => members::read(&opened.container).is_ok_and(|ids| ids.iter().all(has_run)),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::id::Epoch;

    /// Whoever had received it was killed before it could remove what had come.
    #[test]
    fn what_has_come_is_removed_by_the_next_as_soon_as_it_is_of_no_more_use() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = StateRoot::at(directory.path()).expect("a state root");
        let after = |records: &[Recorded]| {
            let migration = MigrationId::random().expect("an id");
            let about = About { migration, side: Side::Destination, container: "web", peer: "" };
            let mut place = Place::make(&root, &about).expect("made");
            place.stored(0).create_archive().expect("made");
            for what in records {
                place.append(Record { epoch: Epoch::FIRST, what: *what }, None).expect("written down");
            }
            let (path, kept) = (place.path.clone(), place);
            Place::sweep(&root).expect("swept");
            assert!(path.join("archive").exists(), "somebody is at work on it");
            drop(kept);
            Place::sweep(&root).expect("swept");
            [path.exists(), path.join("archive").exists()]
        };
        use Recorded::{Aborted, Committed, Live, Ready};
        assert_eq!(after(&[]), [false, false]);
        assert_eq!(after(&[Ready]), [true, true]);
        assert_eq!(after(&[Ready, Committed]), [true, true]);
        assert_eq!(after(&[Ready, Committed, Live]), [true, false]);
        assert_eq!(after(&[Ready, Aborted]), [true, false]);
    }
}
