// SPDX-License-Identifier: Apache-2.0
//! A directory of archives: which there are, by their content, and which of them are too many.
//!
//! What cannot be read as an archive, is being written or is locked is left alone: it is not even counted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;

use super::header::Header;
use super::images::Images;
use super::report::Environment;
use crate::archive::{Bases, Selection, Wanted, select};
use crate::sys::clock::rfc3339_utc;
use crate::{Context, Error, Result};

/// An archive in a directory.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Shelved {
    /// Where it is.
    pub path: PathBuf,
    /// The container's name, or its id.
    pub container: String,
    /// Who wrote it.
    pub engine: Option<String>,
    /// When the file was last written.
    pub written: String,
    /// Its size in bytes.
    pub size: u64,
    /// What others that go on from it call it.
    pub digest: Option<String>,
    /// The archives that it needs, by their digests.
    pub bases: Vec<String>,
    #[serde(skip)]
    time: SystemTime,
    #[serde(skip)]
    file: (u64, u64),
}

/// What is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Quota {
    /// More than this many of one container.
    pub keep: Option<usize>,
    /// More than this many bytes in the directory.
    pub max_size: Option<u64>,
    /// Older ones than this.
    pub older_than: Option<Duration>,
}

/// The archives in a directory, the newest first.
///
/// # Errors
/// When it cannot be listed.
pub fn shelf(directory: &Path) -> Result<Vec<Shelved>> {
    let listing = || format!("list {}", directory.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).context(listing)? {
        let path = entry.context(listing)?.path();
        // One that is being written has such a name.
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if let Some(archive) = Some(path).filter(|_| !hidden).and_then(look) {
            found.push(archive);
        }
    }
    found.sort_by(|a, b| b.time.cmp(&a.time).then_with(|| a.path.cmp(&b.path)));
    Ok(found)
}

/// Which of these archives, the newest first, are too many at this time. What one that stays needs is not.
pub fn surplus<'a>(archives: &'a [Shelved], quota: &Quota, now: SystemTime) -> Vec<&'a Shelved> {
    let mut of_container: BTreeMap<&str, usize> = BTreeMap::new();
    let mut bytes: u64 = 0;
    let is_surplus = |archive: &&'a Shelved| {
        let number = of_container.entry(&archive.container).or_default();
        let too_many = quota.keep.is_some_and(|keep| *number >= keep);
        let age = now.duration_since(archive.time).unwrap_or_default();
        let too_old = quota.older_than.is_some_and(|oldest| age > oldest);
        let with_it = bytes.saturating_add(archive.size);
        let too_large = quota.max_size.is_some_and(|most| with_it > most);
        let surplus = too_many || too_old || too_large;
        if !surplus {
            *number += 1;
            bytes = with_it;
        }
        surplus
    };
    let mut surplus: Vec<_> = archives.iter().filter(is_surplus).collect();
    let stays = |archive: &Shelved| !surplus.iter().any(|other| other.path == archive.path);
    let staying = archives.iter().filter(|archive| stays(archive));
    let needed: BTreeSet<&String> = staying.flat_map(|archive| &archive.bases).collect();
    surplus.retain(|archive| archive.digest.as_ref().is_none_or(|digest| !needed.contains(digest)));
    surplus
}

/// Removes an archive, unless somebody has locked or replaced it.
///
/// # Errors
/// When it is locked, is another file by now, or cannot be removed.
pub fn discard(archive: &Shelved) -> Result<()> {
    let removing = || format!("remove {}", archive.path.display());
    let file = open(&archive.path).context(removing)?;
    let metadata = file.metadata().context(removing)?;
    if (metadata.dev(), metadata.ino()) != archive.file {
        return Err(Error::new(
            crate::ErrorKind::NotFound,
            format!("{} is another file by now", archive.path.display()),
        ));
    }
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno);
    let lock = lock.context(|| format!("lock {}", archive.path.display()))?;
    fs::remove_file(&archive.path).context(removing)?;
    drop(lock);
    Ok(())
}

fn open(path: &Path) -> std::io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// The first schema of our archives whose compressed files end with a table: one without it was not written to its end.
const WITH_TABLE: u64 = 2;

/// `None` if it is no archive or not all of one, or somebody has locked it.
fn look(path: PathBuf) -> Option<Shelved> {
    let file = open(&path).ok()?;
    let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
    let file = Flock::lock(file, FlockArg::LockSharedNonblock).ok()?;
    let mut facts = Facts(Images::new(Environment::Hidden));
    let contents = File::from(file.as_fd().try_clone_to_owned().ok()?);
    let contents = select(contents, &Bases::default(), &mut facts).ok()?;
    let header = Header::of(&facts.0);
    if header.archive_schema >= Some(WITH_TABLE) && !contents.has_index {
        return None;
    }
    let time = metadata.modified().ok()?;
    Some(Shelved {
        container: header.name.or(header.id)?,
        engine: header.engine,
        written: rfc3339_utc(time),
        size: metadata.len(),
        digest: contents.digest,
        bases: header.bases,
        file: (metadata.dev(), metadata.ino()),
        path,
        time,
    })
}

/// Reads no further than it must to know the container.
struct Facts(Images);

impl Selection for Facts {
    fn wanted(&mut self, name: &str, size: u64) -> Wanted {
        if name.contains('/') { Wanted::Nothing } else { self.0.wanted(name, size) }
    }

    fn take(&mut self, name: &str, offset: u64, bytes: Vec<u8>) -> Result<()> {
        self.0.take(name, offset, bytes)
    }

    fn is_done(&self) -> bool {
        let has = |name: &str| self.0.get(name).is_some();
        has("migrate.json") || (has("config.dump") && has("spec.dump"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelved(container: &str, age: u64, size: u64) -> Shelved {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 - age);
        let path = format!("{container}-{age}").into();
        let written = rfc3339_utc(time);
        let (container, digest) = (container.into(), Some(format!("{age}")));
        Shelved {
            path,
            container,
            engine: None,
            written,
            size,
            digest,
            bases: Vec::new(),
            time,
            file: (0, 0),
        }
    }

    #[test]
    fn the_oldest_are_too_many() {
        let archives = [shelved("a", 1, 10), shelved("b", 2, 10), shelved("a", 3, 10), shelved("a", 4, 10)];
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let too_many = |quota: Quota| -> Vec<String> {
            let found = surplus(&archives, &quota, now);
            found.iter().map(|archive| archive.path.display().to_string()).collect()
        };
        assert_eq!(too_many(Quota::default()), [""; 0]);
        assert_eq!(too_many(Quota { keep: Some(1), ..Quota::default() }), ["a-3", "a-4"]);
        assert_eq!(too_many(Quota { max_size: Some(25), ..Quota::default() }), ["a-3", "a-4"]);
        let seconds = Some(Duration::from_secs(2));
        assert_eq!(too_many(Quota { older_than: seconds, ..Quota::default() }), ["a-3", "a-4"]);
        assert_eq!(too_many(Quota { keep: Some(2), max_size: Some(1), ..Quota::default() }).len(), 4);
    }

    #[test]
    fn what_a_newer_one_needs_stays() {
        let needs = |archive: Shelved, bases: &[&str]| {
            let bases = bases.iter().map(|digest| (*digest).to_owned()).collect();
            Shelved { bases, ..archive }
        };
        let one = needs(shelved("a", 1, 10), &["3", "5"]);
        let archives =
            [one, shelved("a", 2, 10), shelved("a", 3, 10), shelved("a", 4, 10), shelved("a", 5, 10)];
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let too_many = |quota: Quota| -> Vec<u64> {
            let age = |archive: &&Shelved| now.duration_since(archive.time).expect("earlier").as_secs();
            surplus(&archives, &quota, now).iter().map(age).collect()
        };
        assert_eq!(too_many(Quota { keep: Some(1), ..Quota::default() }), [2, 4]);
        assert_eq!(
            too_many(Quota { max_size: Some(1), ..Quota::default() }),
            [1, 2, 3, 4, 5],
            "it goes itself"
        );
    }

    #[test]
    fn only_archives_count_and_a_locked_one_stays() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let at = |name: &str| directory.path().join(name);
        let manifest = |schema: u32| {
            format!(r#"{{"schema":{schema},"id":"web","tool":{{"name":"migrate","version":"0"}}}}"#)
                .into_bytes()
        };
        let archive = crate::inspect::tests::archive_of(&[("migrate.json", manifest(1))]);
        let no_end = crate::inspect::tests::archive_of(&[("migrate.json", manifest(2))]);
        fs::write(at("no-end"), no_end).expect("write");
        for name in ["one", "two", ".three.partial"] {
            fs::write(at(name), &archive).expect("write");
        }
        fs::write(at("text"), "no archive").expect("write");
        fs::write(at("cut"), &archive[..540]).expect("write");
        std::os::unix::fs::symlink("one", at("link")).expect("link");
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRUSR).expect("mkfifo");
        let names = || -> Vec<PathBuf> {
            let mut found: Vec<_> =
                shelf(directory.path()).expect("list").into_iter().map(|a| a.path).collect();
            found.sort();
            found
        };
        assert_eq!(names(), [at("one"), at("two")]);
        let found = shelf(directory.path()).expect("list");
        assert_eq!((&found[0].container[..], found[0].engine.as_deref()), ("web", Some("migrate")));
        let locked = File::open(at("one")).expect("open");
        let locked = Flock::lock(locked, FlockArg::LockExclusive).map_err(|(_, errno)| errno).expect("lock");
        assert_eq!(names(), [at("two")]);
        let one = found.iter().find(|archive| archive.path == at("one")).expect("it was seen");
        assert!(discard(one).expect_err("locked").to_string().starts_with("lock "));
        drop(locked);
        // Replaced meanwhile.
        fs::write(at("new"), &archive).and_then(|()| fs::rename(at("new"), at("one"))).expect("replace");
        assert!(discard(one).expect_err("replaced").to_string().contains("another file"));
        discard(found.iter().find(|archive| archive.path == at("two")).expect("seen")).expect("remove");
        assert_eq!(names(), [at("one")]);
    }
}
