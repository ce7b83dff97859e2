// SPDX-License-Identifier: Apache-2.0
//! What one side keeps of a migration, in the directory of its journal:
//!
//! | there | what |
//! | --- | --- |
//! | `journal` | what was decided; its notes tell the way to the other host, and how the container is restored |
//! | `memory/` or `pages/`, `archive` | destination: what has come of the container, until it runs here |
//! | `stdout.log`, `stderr.log` | destination: what it writes to pipes and files that it had at the source, until it is restored |
//!
//! Must not know what is decided.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::handoff::{Event, Record, Recorded, Side, Tree};
use super::id::MigrationId;
use super::journal::{About, History, Journal, directory, migrations};
use crate::engine::{ContainerId, StateRoot};
use crate::pages::store::is_complete;
use crate::{Context, Error, ErrorKind, Result};

const MEMORY: &str = "memory";
const PAGES: &str = "pages";
const ARCHIVE: &str = "archive";
const OUTPUT: [&str; 2] = ["stdout.log", "stderr.log"];

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
                let there = root.path().join(&opened.container).exists();
                opened.side == Side::Destination && history.last().is_none() && !there
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

    /// The container's id.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn container(&self) -> Result<ContainerId> {
        self.journal.history().opened().container.parse()
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

    /// The directory of memory that has come; it is made.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn memory(&self) -> Result<PathBuf> {
        let path = self.path.join(MEMORY);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                Err(e).context(|| format!("make {}", path.display()))
            }
            _ => Ok(path),
        }
    }

    /// The directory of a store of pages.
    pub(super) fn pages(&self) -> PathBuf {
        self.path.join(PAGES)
    }

    /// The same, if all pages have come.
    pub(super) fn store(&self) -> Option<PathBuf> {
        Some(self.pages()).filter(|path| is_complete(path))
    }

    /// A new file of memory. Of the same name there is none.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn create_memory(&self, name: &str) -> Result<File> {
        self.create(&format!("{MEMORY}/{name}"))
    }

    /// A new file for the archive.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn create_archive(&self) -> Result<File> {
        self.create(ARCHIVE)
    }

    /// The archive that has come.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn archive(&self) -> Result<File> {
        let path = self.path.join(ARCHIVE);
        File::open(&path).context(|| format!("open {}", path.display()))
    }

    /// The files for its standard output and error.
    ///
    /// # Errors
    /// When they cannot be opened.
    pub(super) fn output(&self) -> Result<[File; 2]> {
        let open = |name| {
            let path = self.path.join(name);
            let opened = File::options().append(true).create(true).mode(0o600).open(&path);
            opened.context(|| format!("open {}", path.display()))
        };
        let [stdout, stderr] = OUTPUT.map(open);
        Ok([stdout?, stderr?])
    }

    /// Gives those files to the container, with which they go.
    ///
    /// # Errors
    /// When they cannot be renamed.
    pub(super) fn leave_output(&self, container: &Path) -> Result<()> {
        OUTPUT.iter().try_for_each(|name| {
            let (from, to) = (self.path.join(name), container.join(name));
            fs::rename(&from, &to).context(|| format!("rename {} to {}", from.display(), to.display()))
        })
    }

    /// Removes what has come.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(super) fn drop_store(&self) -> Result<()> {
        drop_store(&self.path)
    }

    fn create(&self, name: &str) -> Result<File> {
        let path = self.path.join(name);
        let made = File::options().write(true).create_new(true).mode(0o600).open(&path);
        made.context(|| format!("make {}", path.display()))
    }
}

/// [`Place::drop_store`], in the directory of a migration.
///
/// # Errors
/// When it cannot be removed.
pub(super) fn drop_store(directory: &Path) -> Result<()> {
    let removed = |result: io::Result<()>| match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    };
    removed(fs::remove_file(directory.join(ARCHIVE)))
        .and_then(|()| removed(fs::remove_dir_all(directory.join(MEMORY))))
        .and_then(|()| removed(fs::remove_dir_all(directory.join(PAGES))))
        .context(|| format!("remove what has come from {}", directory.display()))
}
