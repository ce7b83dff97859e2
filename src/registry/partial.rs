// SPDX-License-Identifier: Apache-2.0
//! Owns the file of a download: beside the target, named after the blob so that the next attempt finds it, with one download at
//! a time in it, and under the target's name only when it is complete.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};

use super::digest::Digest;
use crate::{Context, Error, ErrorKind, Result};

/// A download's file in the making, mode 0600. It stays when the program ends before [`Partial::commit`].
#[derive(Debug)]
pub(super) struct Partial {
    file: Flock<File>,
    directory: OwnedFd,
    name: OsString,
    target: PathBuf,
}

impl Partial {
    /// Begins, or finds again, the file that will be at `target`.
    pub(super) fn open(target: &Path, digest: &Digest) -> Result<Self> {
        let attempt = || format!("write {}", target.display());
        let unusable = |why: &str| {
            Error::new(ErrorKind::InvalidInput, format!("cannot write {}: {why}", target.display()))
        };
        let last = target.file_name().ok_or_else(|| unusable("it names a directory"))?;
        let parent =
            target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(parent, flags, Mode::empty())
            .context(|| format!("open the directory {}", parent.display()))?;
        match fstatat(&directory, last, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) if found.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() => {
                return Err(unusable("it exists and is not a regular file"));
            }
            Ok(_) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno).context(attempt),
        }
        let mut name = OsString::from(".");
        // A name that is too long is an error of the system's, which says so.
        name.push(last);
        name.push(format!(".{}.partial", &digest.hex()[..16]));
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let fd =
            openat(&directory, name.as_os_str(), flags, Mode::from_bits_truncate(0o600)).context(attempt)?;
        let of_file = fstat(&fd).context(attempt)?;
        let ours = of_file.st_uid == crate::sys::process::effective_ids().0;
        if of_file.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() || !ours {
            return Err(unusable("the file of an earlier download is not a file of this user's"));
        }
        let file =
            Flock::lock(File::from(fd), FlockArg::LockExclusiveNonblock).map_err(
                |(_, errno)| match errno {
                    Errno::EWOULDBLOCK => unusable("another download to it is under way"),
                    _ => Error::new(ErrorKind::System, attempt()).with_source(errno),
                },
            )?;
        Ok(Self { file, directory, name, target: target.to_owned() })
    }

    /// The file, at its beginning.
    pub(super) fn file(&self) -> Result<File> {
        self.file.try_clone().context(|| "duplicate a descriptor")
    }

    /// Makes the file appear under its name, on stable storage.
    pub(super) fn commit(self) -> Result<()> {
        let attempt = || format!("write {}", self.target.display());
        self.file.sync_all().context(attempt)?;
        let name = self.target.file_name().unwrap_or_default();
        renameat(&self.directory, self.name.as_os_str(), &self.directory, name).context(attempt)?;
        fsync(&self.directory).context(|| format!("sync the directory of {}", self.target.display()))
    }

    /// What is in it is of no use.
    pub(super) fn discard(self) -> Result<()> {
        unlinkat(&self.directory, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir)
            .context(|| format!("remove what was downloaded for {}", self.target.display()))
    }
}
