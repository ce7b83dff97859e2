// SPDX-License-Identifier: Apache-2.0
//! What one side of a migration has written down: one file that only grows, in a directory of the migration's own beneath
//! the state root, `.migrations/ID/journal`.
//!
//! An entry is on the disk when [`Journal::append`] returns. Who has the file open to write has its lock, so that there is
//! one worker a migration. A file system that does not outlive the boot (`/run`) keeps a journal as long as it keeps the
//! container: after a crash of such a host there is neither.
//!
//! Knows the handoff's records, and neither connections nor containers.

mod format;

pub use format::Opened;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{Flock, FlockArg};

use self::format::{Entry, LARGEST, SCHEMA, encode, parse};
use super::handoff::{Event, Record, Recorded, Side, Tree};
use super::id::MigrationId;
use crate::engine::{MIGRATIONS, StateRoot};
use crate::sys::clock::rfc3339_utc;
use crate::{Context, Error, ErrorKind, Result};

const FILE: &str = "journal";

/// The longest text of a person's or of another host's that is kept; what is longer is cut.
const LONGEST_TEXT: usize = 1024;

/// A journal that is being written, by this process alone.
#[derive(Debug)]
pub struct Journal {
    file: Flock<File>,
    path: PathBuf,
    history: History,
    /// How many bytes are good; none any more when a write has failed and it is not known what is on the disk.
    length: Option<u64>,
}

/// What a journal says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    opened: Opened,
    entries: Vec<Entry>,
}

/// What a new journal is about.
#[derive(Debug, Clone)]
pub struct About<'a> {
    /// The migration.
    pub migration: MigrationId,
    /// The side that this host is.
    pub side: Side,
    /// The container's id here; of several, all of them, with commas between them.
    pub container: &'a str,
    /// The other host, for people.
    pub peer: &'a str,
}

/// The directory of a migration, where its worker may keep more. It may be read by its owner alone.
pub fn directory(root: &StateRoot, migration: MigrationId) -> PathBuf {
    root.path().join(MIGRATIONS).join(migration.to_string())
}

/// The migrations that are written down beneath a state root, sorted by id.
///
/// # Errors
/// When the directory cannot be listed.
pub fn migrations(root: &StateRoot) -> Result<Vec<MigrationId>> {
    let path = root.path().join(MIGRATIONS);
    let context = || format!("list {}", path.display());
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).context(context),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.context(context)?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse::<MigrationId>().ok()));
    }
    found.sort();
    Ok(found)
}

/// The migration of this host whose id begins so.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] when several do; [`ErrorKind::NotFound`] when none does.
pub fn find(root: &StateRoot, beginning: &str) -> Result<MigrationId> {
    let mut found = migrations(root)?.into_iter().filter(|id| id.to_string().starts_with(beginning));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => {
            let message = format!("the ids of several migrations begin with {beginning:?}");
            Err(Error::new(ErrorKind::InvalidInput, message).with_hint("say more of it"))
        }
        (None, _) => Err(unknown(beginning)),
    }
}

fn unknown(migration: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("migration {migration} has no journal on this host"))
        .with_hint("`migrate migrations` lists those that have one; with --root, those of another state root")
}

impl Journal {
    /// Begins a journal, durably.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] when the migration has one here; what the file system says.
    pub fn create(root: &StateRoot, about: &About<'_>) -> Result<Self> {
        let directory = directory(root, about.migration);
        let all = root.path().join(MIGRATIONS);
        let make = || DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        make().context(|| format!("make {}", directory.display()))?;
        let path = directory.join(FILE);
        let created = options().create_new(true).open(&path);
        let file = match created {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let message = format!("migration {} has a journal on this host already", about.migration);
                return Err(Error::new(ErrorKind::AlreadyExists, message).with_source(e));
            }
            other => other.context(|| format!("create {}", path.display()))?,
        };
        let opened = Opened {
            schema: SCHEMA,
            migration: about.migration,
            side: about.side,
            container: about.container.to_owned(),
            peer: shortened(about.peer),
            at: rfc3339_utc(SystemTime::now()),
        };
        let history = History { opened: opened.clone(), entries: Vec::new() };
        let mut journal = Self { file: lock(file, &path)?, path, history, length: Some(0) };
        journal.write(&Entry::Opened(opened))?;
        for directory in [&directory, &all] {
            let sync = || File::open(directory)?.sync_all();
            sync().context(|| format!("sync {}", directory.display()))?;
        }
        Ok(journal)
    }

    /// Takes a migration's journal over, and cuts off an entry whose writing was cut short.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without one; [`ErrorKind::WrongStatus`] while another process writes it;
    /// [`ErrorKind::System`] when it is damaged, with the byte; what the file system says.
    pub fn open(root: &StateRoot, migration: MigrationId) -> Result<Self> {
        let path = directory(root, migration).join(FILE);
        let mut file = lock(options().open(&path).map_err(|e| missing(e, migration, &path))?, &path)?;
        let (history, length) = read(&mut file, migration, &path)?;
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        let cut = || {
            if file.metadata()?.len() > length {
                file.set_len(length)?;
                file.sync_all()?;
            }
            Ok::<(), io::Error>(())
        };
        cut().context(|| format!("cut a torn entry off {}", path.display()))?;
        Ok(Self { file, path, history, length: Some(length) })
    }

    /// What it says.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Writes a record of the handoff down. It is on the disk when this returns. `reason` is for people.
    ///
    /// # Errors
    /// When it cannot be made durable: then nothing of it may be done, nor anything that follows it.
    pub fn append(&mut self, record: Record, reason: Option<&str>) -> Result<()> {
        let at = rfc3339_utc(SystemTime::now());
        self.add(Entry::Handoff { at, record, reason: reason.map(shortened) })
    }

    /// Writes something down that whoever takes over must know; a later value of a key replaces an earlier one.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub fn note(&mut self, key: &str, value: &str) -> Result<()> {
        let at = rfc3339_utc(SystemTime::now());
        self.add(Entry::Note { at, key: key.to_owned(), value: value.to_owned() })
    }

    /// Removes the migration's directory, with all that its worker has kept there; the journal last, for whoever finds some of it.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn remove(self) -> Result<()> {
        let Some(directory) = self.path.parent() else { return Ok(()) };
        let remove = || {
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                match entry.file_type()?.is_dir() {
                    true => fs::remove_dir_all(entry.path())?,
                    false if entry.file_name() == FILE => {}
                    false => fs::remove_file(entry.path())?,
                }
            }
            fs::remove_dir_all(directory)
        };
        remove().context(|| format!("remove {}", directory.display()))
    }

    fn add(&mut self, entry: Entry) -> Result<()> {
        self.write(&entry)?;
        self.history.entries.push(entry);
        Ok(())
    }

    fn write(&mut self, entry: &Entry) -> Result<()> {
        let bytes = encode(entry)?;
        let context = || format!("write to {}", self.path.display());
        let full = || Error::new(ErrorKind::Storage, format!("{} is full", self.path.display()));
        // After a failure nobody knows what the disk has; reading it again tells.
        let Some(length) = self.length.take() else {
            return Err(Error::new(ErrorKind::Storage, "an earlier entry could not be written"))
                .context(context);
        };
        let added = u64::try_from(bytes.len()).ok().and_then(|more| length.checked_add(more));
        let end = added.filter(|end| *end <= LARGEST as u64).ok_or_else(full)?;
        let mut write = || {
            self.file.seek(SeekFrom::Start(length))?;
            self.file.write_all(&bytes)?;
            self.file.sync_all()
        };
        write().context(context)?;
        self.length = Some(end);
        Ok(())
    }
}

impl History {
    /// Reads a migration's journal, whoever is writing it.
    ///
    /// # Errors
    /// As [`Journal::open`], but for the lock.
    pub fn read(root: &StateRoot, migration: MigrationId) -> Result<Self> {
        let path = directory(root, migration).join(FILE);
        let opened = options().write(false).open(&path);
        let mut file = opened.map_err(|e| missing(e, migration, &path))?;
        read(&mut file, migration, &path).map(|(history, _)| history)
    }

    /// What it is about.
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// What has been recorded of the handoff, oldest first.
    pub fn records(&self) -> Vec<Record> {
        self.handoff().map(|(_, record, _)| record).collect()
    }

    /// The last record: when it was written, what it says, and why.
    pub fn last(&self) -> Option<(&str, Record, Option<&str>)> {
        self.handoff().last()
    }

    /// What was noted last under a key.
    pub fn note(&self, wanted: &str) -> Option<&str> {
        self.entries.iter().rev().find_map(|entry| match entry {
            Entry::Note { key, value, .. } if key == wanted => Some(value.as_str()),
            _ => None,
        })
    }

    /// What the handoff is begun again with.
    pub fn restart(&self, tree: Tree) -> Event {
        Event::Restart { records: self.records(), tree }
    }

    /// All records with when they were written and why, oldest first.
    pub fn recorded(&self) -> Vec<(&str, Record, Option<&str>)> {
        self.handoff().collect()
    }

    /// Whether nothing is open any more: the container runs on one side, and both may know it.
    pub fn is_over(&self) -> bool {
        let last = self.last().map(|(_, record, _)| record.what);
        let end = if self.opened.side == Side::Source { Recorded::Done } else { Recorded::Live };
        last == Some(end) || matches!(last, Some(Recorded::Aborted | Recorded::Fenced(Side::Destination)))
    }

    fn handoff(&self) -> impl Iterator<Item = (&str, Record, Option<&str>)> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Handoff { at, record, reason } => Some((at.as_str(), *record, reason.as_deref())),
            _ => None,
        })
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options
}

fn lock(file: File, path: &Path) -> Result<Flock<File>> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        let busy = errno == nix::errno::Errno::EAGAIN;
        let kind = if busy { ErrorKind::WrongStatus } else { ErrorKind::System };
        let error = Error::new(kind, format!("lock {}", path.display())).with_source(errno);
        if busy {
            error.with_hint("another process is at work on this migration: wait for it, or end it")
        } else {
            error
        }
    })
}

fn missing(error: io::Error, migration: MigrationId, path: &Path) -> Error {
    if error.kind() == io::ErrorKind::NotFound {
        return unknown(&migration.to_string()).with_source(error);
    }
    Error::new(ErrorKind::System, format!("open {}", path.display())).with_source(error)
}

/// Reads a file of bounded size that says what its place says.
fn read(file: &mut File, migration: MigrationId, path: &Path) -> Result<(History, usize)> {
    let context = || format!("read {}", path.display());
    let mut bytes = Vec::new();
    let most = u64::try_from(LARGEST).unwrap_or(u64::MAX).saturating_add(1);
    if !file.metadata().context(context)?.is_file() {
        return Err(Error::new(ErrorKind::System, format!("{} is no file", path.display())));
    }
    file.take(most).read_to_end(&mut bytes).context(context)?;
    let parsed = parse(&bytes).context(context)?;
    let mut entries = parsed.entries.into_iter();
    match entries.next() {
        Some(Entry::Opened(opened)) if opened.migration == migration => {
            Ok((History { opened, entries: entries.collect() }, parsed.length))
        }
        Some(_) => Err(Error::new(ErrorKind::System, "it is of another migration")).context(context),
        // Whoever began it was killed before anything was promised.
        None => Err(Error::new(ErrorKind::NotFound, "nothing has been written yet")).context(context),
    }
}

fn shortened(text: &str) -> String {
    let end = (0..=LONGEST_TEXT.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
