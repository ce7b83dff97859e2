// SPDX-License-Identifier: Apache-2.0
//! What one side keeps of a migration, in the directory of its journal:
//!
//! | there | what |
//! | --- | --- |
//! | `journal` | what was decided; its notes tell the way to the other host, and how the container is restored |
//! | `memory/` or `pages/`, `archive` | destination: what has come of the container, until it runs here |
//! | `stdout.log`, `stderr.log` | destination: what it writes to pipes and files that it had at the source, until it is restored |
//! | `member-1/`, `member-2/` … | destination: the same of the second container that moves together with the first, of the third … |
//!
//! Must not know what is decided.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::handoff::{Event, Record, Recorded, Side, Tree};
use super::id::MigrationId;
use super::journal::{About, History, Journal, directory, migrations};
use super::members;
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

    /// Removes what is left of migrations to here about which nothing was promised, when nobody is at work on them any more. Whoever asks
    /// about one has the same answer without.
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
            if !History::read(root, migration).is_ok_and(|history| is_left(&history)) {
                continue;
            }
            let Ok(journal) = Journal::open(root, migration) else { continue };
            if is_left(journal.history()) {
                journal.remove()?;
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
