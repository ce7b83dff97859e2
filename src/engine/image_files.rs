// SPDX-License-Identifier: Apache-2.0
//! Small files of ours beside CRIU's images. They may come from anybody: reading is bounded and follows no link.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::{Context, Error, ErrorKind, Result};

/// The configuration of a container at its checkpoint. An archive has it as a member of its own instead.
pub const CONFIG: &str = "config.json";

/// Longer is no `config.json` that could be loaded.
pub const CONFIG_LIMIT: u64 = 16 << 20;

/// The cgroups that a container had made beneath its own.
pub const CGROUPS: &str = "cgroups.json";

/// Longer is more than a container may have.
pub const CGROUPS_LIMIT: u64 = 64 << 20;

/// Removes a file from an image directory; that it is not there is success.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(images: BorrowedFd<'_>, name: &str) -> Result<()> {
    match unlinkat(images, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::errno::Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno).context(|| format!("remove {name} from the image directory")),
    }
}

/// Writes a file into an image directory, readable for its owner only.
///
/// # Errors
/// When it cannot be written.
pub fn write(images: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    openat(images, name, flags, Mode::from_bits_truncate(0o600))
        .map_err(io::Error::from)
        .and_then(|fd| File::from(fd).write_all(bytes))
        .context(|| format!("write {name} into the image directory"))
}

/// Reads a file of at most `limit` bytes from an image directory; `None` if it is not there.
///
/// # Errors
/// [`ErrorKind::InvalidArchive`] when it is longer, or is no file; else when it cannot be read.
pub fn read(images: BorrowedFd<'_>, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let what = || format!("read {name} in the image directory");
    let file = match openat(images, name, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(nix::errno::Errno::ENOENT) => return Ok(None),
        Err(error) => return Err(error).context(what),
    };
    let refused =
        |why: &str| Error::new(ErrorKind::InvalidArchive, format!("{name} in the image directory {why}"));
    if !file.metadata().context(what)?.is_file() {
        return Err(refused("is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).context(what)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
        return Err(refused(&format!("is longer than {limit} bytes")));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_file_reads_back_and_what_is_none_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fd = File::open(dir.path()).expect("open");
        let read = |name: &str, limit| read(fd.as_fd(), name, limit);
        assert_eq!(read("a", 3).expect("it is only missing"), None);
        write(fd.as_fd(), "a", b"abc").expect("write");
        assert_eq!(read("a", 3).expect("read").as_deref(), Some(&b"abc"[..]));
        remove(fd.as_fd(), "b").expect("it is not there");
        let error = read("a", 2).expect_err("too long");
        assert_eq!(error.to_string(), "a in the image directory is longer than 2 bytes");
        std::os::unix::fs::symlink("a", dir.path().join("link")).expect("symlink");
        read("link", 3).expect_err("links lead anywhere");
        nix::unistd::mkfifo(&dir.path().join("fifo"), Mode::S_IRWXU).expect("mkfifo");
        assert_eq!(read("fifo", 3).expect_err("no file").kind(), ErrorKind::InvalidArchive);
    }
}
