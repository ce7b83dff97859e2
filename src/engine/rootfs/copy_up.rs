// SPDX-License-Identifier: Apache-2.0
//! Copies the content of a directory into a new tmpfs that will cover it (the option `tmpcopyup`).
//!
//! Everything is reached from the two directories' descriptors, one name at a time, and no link is followed: the
//! directory belongs to whoever made the image. Kinds, modes, owners, device numbers and times are kept; several names
//! of one file become several files; extended attributes stay behind. Must not know where the tmpfs goes.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmodat, fstat, fstatat, mkdirat, mknodat,
    utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, symlinkat};

use crate::{Context, Result};

/// A directory that is being copied: what is left of its names, where from, where to.
struct Level {
    names: Vec<CString>,
    from: OwnedFd,
    to: OwnedFd,
}

/// Copies what is in `from` into `to`, and gives `to` the owner of `from`. The umask must be 0.
pub(super) fn copy_up(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let from = reopen(from).context(|| "open the directory beneath")?;
    let to = reopen(to).context(|| "open the tmpfs")?;
    let stat = fstat(&from).context(|| "stat the directory beneath")?;
    own(to.as_fd(), c"", &stat, AtFlags::AT_EMPTY_PATH).context(|| "chown the tmpfs")?;
    let mut levels =
        vec![Level { names: names(from.as_fd()).context(|| "list the directory beneath")?, from, to }];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.pop() else {
            levels.pop();
            continue;
        };
        let copied = copy(level.from.as_fd(), level.to.as_fd(), &name);
        let below = copied.context(|| format!("copy {} into the tmpfs", display(&name)))?;
        levels.extend(below);
    }
    Ok(())
}

/// Copies one entry; a directory without its content, which is returned.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<Option<Level>> {
    let stat = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW).context(|| "stat")?;
    let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
    match kind {
        SFlag::S_IFDIR => {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let source = openat(from, name, flags, Mode::empty()).context(|| "open")?;
            mkdirat(to, name, Mode::S_IRWXU).context(|| "mkdir")?;
            let made = openat(to, name, flags, Mode::empty()).context(|| "open the copy")?;
            // Times of directories are those of the copying: their content is still to come.
            own(to, name, &stat, AtFlags::AT_SYMLINK_NOFOLLOW).context(|| "chown")?;
            set_mode(to, name, &stat)?;
            let names = names(source.as_fd()).context(|| "list")?;
            return Ok(Some(Level { names, from: source, to: made }));
        }
        SFlag::S_IFLNK => {
            let target = readlinkat(from, name).context(|| "readlink")?;
            symlinkat(target.as_os_str(), to, name).context(|| "symlink")?;
        }
        SFlag::S_IFREG => copy_content(from, to, name)?,
        _ => mknodat(to, name, kind, Mode::S_IRUSR, stat.st_rdev).context(|| "mknod")?,
    }
    own(to, name, &stat, AtFlags::AT_SYMLINK_NOFOLLOW).context(|| "chown")?;
    if kind != SFlag::S_IFLNK {
        set_mode(to, name, &stat)?;
    }
    let accessed = TimeSpec::new(stat.st_atime, stat.st_atime_nsec);
    let modified = TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec);
    utimensat(to, name, &accessed, &modified, UtimensatFlags::NoFollowSymlink).context(|| "set the times")?;
    Ok(None)
}

fn copy_content(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    // What was a file a moment ago may be a fifo by now, which must not hold us up.
    let read = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let mut source = File::from(openat(from, name, read, Mode::empty()).context(|| "open")?);
    let write = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let mut copy = File::from(openat(to, name, write, mode).context(|| "create the copy")?);
    io::copy(&mut source, &mut copy).context(|| "copy the content")?;
    Ok(())
}

fn own(directory: BorrowedFd<'_>, name: &CStr, stat: &FileStat, flags: AtFlags) -> nix::Result<()> {
    fchownat(directory, name, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)), flags)
}

/// After chown(2), which takes set-id bits away. The copy is on a filesystem that nobody else can reach, so the name
/// cannot have become a link.
fn set_mode(directory: BorrowedFd<'_>, name: &CStr, stat: &FileStat) -> Result<()> {
    let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
    fchmodat(directory, name, mode, FchmodatFlags::FollowSymlink)
        .context(|| format!("chmod to {:o}", mode.bits()))
}

fn reopen(directory: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    openat(directory, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

fn names(directory: BorrowedFd<'_>) -> nix::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::from_fd(reopen(directory)?)?.iter() {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

fn display(name: &CStr) -> std::path::Display<'_> {
    Path::new(OsStr::from_bytes(name.to_bytes())).display()
}
