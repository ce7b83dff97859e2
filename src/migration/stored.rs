// SPDX-License-Identifier: Apache-2.0
//! What has come of one container that is on its way here, in a directory of its migration's; [`super::place`] has the table of it.
//!
//! Must not know what is decided, nor how a container is restored.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::pages::store::is_complete;
use crate::{Context, Result};

const MEMORY: &str = "memory";
const PAGES: &str = "pages";
const ARCHIVE: &str = "archive";
const ROOTFS_COMING: &str = "rootfs.coming";
const ROOTFS: &str = "rootfs";
const OUTPUT: [&str; 2] = ["stdout.log", "stderr.log"];

/// The directory of one container.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    path: PathBuf,
}

impl Stored {
    /// In this directory.
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Makes the directory, unless it is there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn make(&self) -> Result<()> {
        make(&self.path)
    }

    /// The directory of memory that has come; it is made.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn memory(&self) -> Result<PathBuf> {
        let path = self.path.join(MEMORY);
        make(&path).map(|()| path)
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

    /// Makes the directory of a root filesystem that comes in rounds.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn make_rootfs(&self) -> Result<File> {
        let path = self.path.join(ROOTFS_COMING);
        let make = || fs::DirBuilder::new().mode(0o755).create(&path).and_then(|()| File::open(&path));
        make().context(|| format!("make {}", path.display()))
    }

    /// All of it has come.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub(super) fn complete_rootfs(&self) -> Result<()> {
        let (from, to) = (self.path.join(ROOTFS_COMING), self.path.join(ROOTFS));
        fs::rename(&from, &to).context(|| format!("rename {} to {}", from.display(), to.display()))
    }

    /// The directory of a root filesystem that has come wholly.
    pub(super) fn rootfs(&self) -> Option<PathBuf> {
        Some(self.path.join(ROOTFS)).filter(|path| path.is_dir())
    }

    /// Takes the root filesystem back from a container that was restored with it and has not run, so that it can be again.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub(super) fn take_rootfs_back(&self, from: &Path) -> Result<()> {
        let to = self.path.join(ROOTFS);
        if self.rootfs().is_some() || !from.is_dir() {
            return Ok(());
        }
        fs::rename(from, &to).context(|| format!("rename {} to {}", from.display(), to.display()))
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
        let removed = |result: io::Result<()>| match result {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        };
        removed(fs::remove_file(self.path.join(ARCHIVE)))
            .and_then(|()| removed(fs::remove_dir_all(self.path.join(MEMORY))))
            .and_then(|()| removed(fs::remove_dir_all(self.path.join(PAGES))))
            .and_then(|()| removed(fs::remove_dir_all(self.path.join(ROOTFS_COMING))))
            .and_then(|()| removed(fs::remove_dir_all(self.path.join(ROOTFS))))
            .context(|| format!("remove what has come from {}", self.path.display()))
    }

    fn create(&self, name: &str) -> Result<File> {
        let path = self.path.join(name);
        let made = File::options().write(true).create_new(true).mode(0o600).open(&path);
        made.context(|| format!("make {}", path.display()))
    }
}

fn make(path: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(e).context(|| format!("make {}", path.display()))
        }
        _ => Ok(()),
    }
}
