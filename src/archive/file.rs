// SPDX-License-Identifier: Apache-2.0
//! Owns the file that an archive is written to: a partial file beside the target until it is complete.
//!
//! ```text
//! create ──▶ .NAME.RANDOM.partial ──write──▶ commit: fsync, rename to NAME, fsync directory
//!                                    └─drop─▶ unlink
//! ```
//! Must not know what is written.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FallocateFlags, OFlag, fallocate, open, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};

use super::failed;
use crate::{Context, Error, ErrorKind, Result};

/// Longest name of a file, in bytes.
const NAME_MAX: usize = 255;

/// How a partial file's name ends.
const SUFFIX: &str = ".partial";

/// An archive file in the making, mode 0600. Nothing exists under the final name before [`ArchiveFile::commit`];
/// dropped without it, the partial file is removed, unless it was to be kept.
#[derive(Debug)]
pub struct ArchiveFile {
    file: File,
    directory: OwnedFd,
    target: PathBuf,
    partial: OsString,
    written: u64,
    /// Whether it stays: it has its name, or is needed without one.
    keep: bool,
}

impl ArchiveFile {
    /// Begins a file that will be at `path`. A regular file that is there now stays until [`ArchiveFile::commit`]
    /// replaces it.
    ///
    /// # Errors
    /// `InvalidInput` if `path` names something else than a file, `NotFound` if its directory is missing,
    /// `Storage` if the file system is full or read-only.
    pub fn create(path: &Path) -> Result<Self> {
        Self::create_after(path, |_| Ok(()))
    }

    /// [`ArchiveFile::create`], with a step between the choice of the partial file's path and its creation: whoever
    /// must clean up after a process that was killed can be told the path before there is anything at it.
    ///
    /// # Errors
    /// Those of [`ArchiveFile::create`], and that of `before`.
    pub fn create_after(path: &Path, mut before: impl FnMut(&Path) -> Result<()>) -> Result<Self> {
        let attempt = || format!("create archive {}", path.display());
        let name = path.file_name().filter(|_| !path.as_os_str().as_bytes().ends_with(b"/"));
        let name = name.ok_or_else(|| not_a_file(path, "it names a directory"))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(parent, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::ENOENT | Errno::ENOTDIR => {
                let message = format!("directory {} for the archive is not there", parent.display());
                Error::new(ErrorKind::NotFound, message).with_source(errno).with_hint("create it first")
            }
            _ => failed(errno, attempt()),
        })?;
        match fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => match SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT {
                SFlag::S_IFREG => {}
                SFlag::S_IFDIR => return Err(not_a_file(path, "it is a directory")),
                _ => return Err(not_a_file(path, "it exists and is not a regular file")),
            },
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(failed(errno, attempt())),
        }
        loop {
            let partial = partial_name(name);
            before(&path.with_file_name(&partial))?;
            let flags =
                OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            match openat(&directory, partial.as_os_str(), flags, Mode::from_bits_truncate(0o600)) {
                Ok(fd) => {
                    let (file, target) = (File::from(fd), path.to_owned());
                    return Ok(Self { file, directory, target, partial, written: 0, keep: false });
                }
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(failed(errno, attempt())),
            }
        }
    }

    /// Where the bytes are until the commit: beside the target, hidden, ending in `.partial`. A process that was
    /// killed leaves this file behind.
    pub fn partial_path(&self) -> PathBuf {
        self.target.with_file_name(&self.partial)
    }

    /// Makes room for this many bytes more, so that writing them cannot fail for want of space. A file system that
    /// cannot do that is left alone.
    ///
    /// # Errors
    /// `Storage` if there is no room.
    pub fn reserve(&self, bytes: u64) -> Result<()> {
        let offset = i64::try_from(self.written);
        let (Ok(offset), Ok(length @ 1..)) = (offset, i64::try_from(bytes)) else { return Ok(()) };
        match fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, length) {
            Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
            Err(errno) => {
                Err(failed(errno, format!("reserve {bytes} bytes for archive {}", self.target.display())))
            }
        }
    }

    /// Its inode's number, and its name once it is committed.
    pub(super) fn identity(&self) -> Result<(u64, &Path)> {
        let metadata = self.file.metadata().context(|| format!("look at {}", self.target.display()))?;
        Ok((metadata.ino(), &self.target))
    }

    /// How long it is.
    pub(super) fn length(&self) -> u64 {
        self.written
    }

    /// Writes something else where something was written.
    pub(super) fn write_again(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.file.write_all_at(bytes, at).context(|| format!("write archive {}", self.target.display()))
    }

    /// From now on the partial file stays if this is dropped.
    pub(super) fn keep(&mut self) {
        self.keep = true;
    }

    /// Makes the file appear under its name, on stable storage.
    ///
    /// # Errors
    /// `Storage` or `System`; then the partial file is gone and what was at the target before is still there,
    /// unless only the last step, syncing the directory, failed.
    pub fn commit(mut self) -> Result<()> {
        let attempt = || format!("write archive {}", self.target.display());
        // Gives back what was reserved and not used.
        self.file.set_len(self.written).context(attempt)?;
        self.file.sync_all().context(attempt)?;
        let name = self.target.file_name().unwrap_or_default();
        renameat(&self.directory, self.partial.as_os_str(), &self.directory, name).context(attempt)?;
        self.keep = true;
        fsync(self.directory.as_fd()).context(|| format!("sync the directory of {}", self.target.display()))
    }
}

impl Write for ArchiveFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for ArchiveFile {
    fn drop(&mut self) {
        if !self.keep {
            let partial = self.partial.as_os_str();
            if let Err(errno) = unlinkat(&self.directory, partial, UnlinkatFlags::NoRemoveDir) {
                tracing::warn!(path = %self.partial_path().display(), %errno, "cannot remove a partial archive");
            }
        }
    }
}

/// `.NAME.RANDOM.partial`, with NAME cut so that the whole is a possible name.
fn partial_name(name: &OsStr) -> OsString {
    let random = RandomState::new().build_hasher().finish();
    let ending = format!(".{random:016x}{SUFFIX}");
    let name = name.as_bytes();
    let kept = &name[..name.len().min(NAME_MAX - 1 - ending.len())];
    let mut partial = OsString::from(".");
    partial.push(OsStr::from_bytes(kept));
    partial.push(ending);
    partial
}

fn not_a_file(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("cannot write an archive to {}: {why}", path.display()))
        .with_hint("name a file, or - for the standard output")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn names(directory: &Path) -> Vec<OsString> {
        let entries = fs::read_dir(directory).expect("list");
        entries.map(|entry| entry.expect("an entry").file_name()).collect()
    }

    #[test]
    fn the_file_appears_at_the_commit_and_only_then() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let target = directory.path().join("web.tar");
        fs::write(&target, "before").expect("write");
        let mut file = ArchiveFile::create(&target).expect("create");
        file.write_all(b"after").expect("write");
        file.reserve(1 << 20).expect("space");
        let partial = file.partial_path();
        assert_eq!(fs::metadata(&partial).expect("partial").permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read(&target).expect("still there"), b"before");
        file.commit().expect("commit");
        assert_eq!(fs::read(&target).expect("replaced"), b"after");
        assert!(fs::metadata(&target).expect("stat").blocks() <= 16, "what was reserved is given back");
        assert_eq!(names(directory.path()), ["web.tar"]);
    }

    #[test]
    fn a_dropped_file_leaves_nothing() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let long = "n".repeat(255);
        let mut file = ArchiveFile::create(&directory.path().join(&long)).expect("create");
        file.write_all(b"half").expect("write");
        let name = file.partial_path().file_name().expect("a name").to_owned();
        assert!(
            name.len() <= 255
                && name.as_bytes().starts_with(b".nn")
                && name.as_bytes().ends_with(b".partial")
        );
        drop(file);
        assert!(names(directory.path()).is_empty());
    }

    #[test]
    fn unusable_targets_are_refused() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("d")).expect("mkdir");
        symlink("nowhere", directory.path().join("link")).expect("symlink");
        for (path, kind) in [
            ("d", ErrorKind::InvalidInput),
            ("d/", ErrorKind::InvalidInput),
            ("new/", ErrorKind::InvalidInput),
            ("..", ErrorKind::InvalidInput),
            ("link", ErrorKind::InvalidInput),
            ("missing/file", ErrorKind::NotFound),
        ] {
            let error = ArchiveFile::create(&directory.path().join(path)).expect_err(path);
            assert_eq!(error.kind(), kind, "{path}: {}", error.chain());
        }
        let error = ArchiveFile::create(Path::new("/dev/null")).expect_err("a device");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(names(directory.path()).len(), 2);
    }
}
