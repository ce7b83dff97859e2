// SPDX-License-Identifier: Apache-2.0
//! The directories that a checkpoint writes to: that of CRIU's images, and that of its log. Must not know what is in them.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::journal::Journal;
use super::{CheckpointOptions, Export, Passed};
use crate::engine::Container;
use crate::{Context, Error, ErrorKind, Result};

/// Longest name of a file, in bytes.
const NAME_MAX: usize = 255;

/// The directory of CRIU's images: the caller's, or one that is only needed on the way into an archive.
pub(super) struct ImagesDir {
    pub(super) path: PathBuf,
    pub(super) owned: bool,
}

impl ImagesDir {
    pub(super) fn choose(
        container: &Container,
        options: &CheckpointOptions,
        export: Option<&Export>,
    ) -> Result<Self> {
        let (path, owned) = match (&options.image_path, export) {
            (Some(path), _) => (path.clone(), false),
            (None, Some(Export::File(file) | Export::Passed(Passed { file, .. }))) => (beside(file)?, true),
            (None, Some(Export::Stream(_) | Export::Peer(_))) => (container.dir().join("checkpoint"), true),
            (None, None) => (PathBuf::from("checkpoint"), false),
        };
        let path = std::path::absolute(&path).context(|| format!("resolve {}", path.display()))?;
        Ok(Self { path, owned })
    }

    pub(super) fn of(journal: &Journal) -> Self {
        Self { path: journal.images.clone(), owned: journal.owns_images }
    }

    pub(super) fn create(&self) -> Result<OwnedFd> {
        fs::DirBuilder::new()
            .recursive(!self.owned)
            .mode(0o700)
            .create(&self.path)
            .context(|| format!("make the image directory {}", self.path.display()))?;
        open_dir(&self.path)
    }

    /// Removes the directory if it was made for the way only.
    pub(super) fn discard(&self) -> Result<()> {
        if !self.owned {
            return Ok(());
        }
        match fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.context(|| format!("remove {}", self.path.display())),
        }
    }

    pub(super) fn size(&self) -> Result<u64> {
        let sum = || {
            fs::read_dir(&self.path)?
                .try_fold(0_u64, |sum, entry| Ok(sum.saturating_add(entry?.metadata()?.len())))
        };
        sum().map_err(|e: std::io::Error| e).context(|| format!("list {}", self.path.display()))
    }
}

/// A directory on the disk that must hold the archive anyway. Of a long name only the beginning is in its own.
fn beside(file: &Path) -> Result<PathBuf> {
    let name = file.file_name().ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, format!("archive name {} names no file", file.display()))
    })?;
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    let ending = format!(".{}-{nanos}.images", std::process::id());
    let name = name.as_bytes();
    let mut hidden = OsString::from(".");
    hidden.push(OsStr::from_bytes(&name[..name.len().min(NAME_MAX - 1 - ending.len())]));
    hidden.push(ending);
    Ok(file.with_file_name(hidden))
}

pub(super) fn open_dir(path: &Path) -> Result<OwnedFd> {
    fs::File::open(path).map(OwnedFd::from).context(|| format!("open the image directory {}", path.display()))
}

/// The work directory, made if it is missing (as runc does).
pub(super) fn open_work_dir(path: &Path) -> Result<OwnedFd> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| fs::File::open(path))
        .map(OwnedFd::from)
        .context(|| format!("make the work directory {}", path.display()))
}
