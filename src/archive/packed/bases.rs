// SPDX-License-Identifier: Apache-2.0
//! Owns where the archives are that a packed one needs besides itself: among files and directories that the caller names. Which one
//! it is says its digest; the name that the packed archive has for it only tells where to look first.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::store::Store;
use crate::archive::envelope::{Identities, Random, opened_file};
use crate::archive::manifest::ArchiveFacts;
use crate::archive::printable;
use crate::{Error, ErrorKind, Result};

/// Files of a directory that are looked at.
const MOST_FILES: usize = 10_000;

/// Where to look for archives.
#[derive(Debug, Clone, Default)]
pub struct Bases {
    places: Vec<PathBuf>,
    identities: Identities,
}

impl Bases {
    /// In these files and directories; encrypted ones are opened with these keys.
    pub fn new(places: Vec<PathBuf>, identities: Identities) -> Self {
        Self { places, identities }
    }

    /// In these files and directories, or if there are none in the directory that `path` is in.
    pub fn around(path: &Path, places: &[PathBuf], identities: Identities) -> Self {
        if !places.is_empty() {
            return Self::new(places.to_vec(), identities);
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        Self::new(vec![parent.unwrap_or(Path::new(".")).to_owned()], identities)
    }

    /// The archive of this digest.
    ///
    /// # Errors
    /// `NotFound` if it is not there; `InvalidArchive` if all that there is in its place is another one.
    pub(super) fn find(&self, facts: &ArchiveFacts) -> Result<Store<Box<dyn Random>>> {
        let mut others = Vec::new();
        for place in &self.places {
            if place.is_dir() {
                if let Some(found) = self.in_directory(place, facts, &mut others) {
                    return Ok(found);
                }
                continue;
            }
            match self.look(place, libc::O_NONBLOCK) {
                Some(store) if store.digest() == facts.digest => return Ok(store),
                _ if place.exists() => others.push(place.clone()),
                _ => {}
            }
        }
        Err(self.missing(facts, &others))
    }

    fn in_directory(
        &self,
        directory: &Path,
        facts: &ArchiveFacts,
        others: &mut Vec<PathBuf>,
    ) -> Option<Store<Box<dyn Random>>> {
        let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
        // A name from an archive: never a path.
        let is_name = Path::new(&facts.name).file_name().is_some_and(|name| name == facts.name.as_str());
        if is_name {
            let named = directory.join(&facts.name);
            match self.look(&named, flags) {
                Some(store) if store.digest() == facts.digest => return Some(store),
                Some(_) => others.push(named),
                None => {}
            }
        }
        let entries = fs::read_dir(directory).ok()?.filter_map(std::result::Result::ok).take(MOST_FILES);
        let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
        let mut stores = files.filter_map(|entry| self.look(&entry.path(), flags));
        stores.find(|store| store.digest() == facts.digest)
    }

    /// An archive at this path, if there is one.
    fn look(&self, path: &Path, flags: i32) -> Option<Store<Box<dyn Random>>> {
        let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        Store::open_base(opened_file(file, &self.identities).ok()?).ok()?
    }

    fn missing(&self, facts: &ArchiveFacts, others: &[PathBuf]) -> Error {
        let shown = |paths: &[PathBuf]| {
            let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
            names.join(", ")
        };
        let digest = printable(facts.digest.as_bytes());
        let name = printable(facts.name.as_bytes());
        let needed = format!("the archive needs another one, {name}, of the digest {digest}");
        let hint = "name it, or the directory that it is in, with --base-archive; `migrate inspect` tells an archive's digest";
        if others.is_empty() {
            let place =
                if self.places.is_empty() { "no place was named".into() } else { shown(&self.places) };
            let message = format!("{needed}, which was not found: {place}");
            return Error::new(ErrorKind::NotFound, message).with_hint(hint);
        }
        let message = format!("{needed}, and {} is not that one, or is damaged", shown(others));
        Error::new(ErrorKind::InvalidArchive, message).with_hint(hint)
    }
}
