// SPDX-License-Identifier: Apache-2.0
//! One open cgroup directory and its files: everything is resolved beneath a hierarchy's mount point, without
//! following a symbolic link, and relative to an open directory from then on.
//!
//! Must not know what the files mean.

use std::ffi::{CStr, CString, OsStr};
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, unlinkat};

use crate::sys::proc::process_of;
use crate::{Context, Error, ErrorKind, Result};

/// More than this in one interface file is refused: `cgroup.procs` with a million pids has 8 MB.
const LARGEST_FILE: u64 = 16 << 20;

/// Sub-cgroups nested deeper than this are refused by walks that keep a directory open per level.
const DEEPEST_WALK: usize = 256;

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// An open cgroup directory. The path serves messages only.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

impl Directory {
    /// Opens the top of a hierarchy.
    pub(super) fn top(mountpoint: &Path) -> Result<Self> {
        let fd = open(mountpoint, DIRECTORY, Mode::empty())
            .context(|| format!("open cgroup hierarchy {}", mountpoint.display()))?;
        Ok(Self { fd, path: mountpoint.to_path_buf() })
    }

    /// Opens a directory beneath this one; `None` if there is none of that name.
    pub(super) fn descend(&self, relative: &Path) -> Result<Option<Self>> {
        let how = OpenHow::new()
            .flags(DIRECTORY)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let path = self.path.join(relative);
        match openat2(&self.fd, relative, how) {
            Ok(fd) => Ok(Some(Self { fd, path })),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno).context(|| format!("open cgroup {}", path.display())),
        }
    }

    /// Makes the directory `name` in this one unless it exists, and opens it; true if it was made.
    pub(super) fn make(&self, name: &OsStr) -> Result<(Self, bool)> {
        let path = self.path.join(name);
        let made = match mkdirat(&self.fd, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(errno) => return Err(errno).context(|| format!("mkdir cgroup {}", path.display())),
        };
        let child = self.descend(Path::new(name))?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("cgroup {} vanished while it was made", path.display()))
        })?;
        Ok((child, made))
    }

    /// Removes the empty directory `name`; that there is none is success.
    pub(super) fn remove(&self, name: &OsStr) -> std::result::Result<(), Errno> {
        match unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Whether it has this file.
    pub(super) fn has(&self, file: &str) -> bool {
        nix::sys::stat::fstatat(&self.fd, file, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
    }

    /// The content of an interface file, without white space around it.
    pub(super) fn read(&self, file: &str) -> Result<String> {
        let attempted = || format!("read {}", self.path.join(file).display());
        match self.read_raw(file) {
            Err(e) if self.is_gone_after(e.raw_os_error()) => {
                Err(e).context_kind(ErrorKind::NotFound, attempted)
            }
            read => read.context(attempted),
        }
    }

    /// Whether this failed since the cgroup was removed, by somebody else, while it was open: systemd does so with what
    /// becomes empty.
    fn is_gone_after(&self, errno: Option<i32>) -> bool {
        match errno {
            Some(libc::ENODEV) => true,
            // Every cgroup has this file.
            Some(libc::ENOENT) => !self.has("cgroup.procs"),
            _ => false,
        }
    }

    /// [`Directory::read`], `None` if there is no such file.
    pub(super) fn read_if_exists(&self, file: &str) -> Result<Option<String>> {
        match self.read_raw(file) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e).context(|| format!("read {}", self.path.join(file).display())),
        }
    }

    fn read_raw(&self, file: &str) -> std::io::Result<String> {
        let fd =
            openat(&self.fd, file, OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty())?;
        // Room for most files, so that one read(2) gets them.
        let mut text = String::with_capacity(512);
        let read = std::fs::File::from(fd).take(LARGEST_FILE + 1).read_to_string(&mut text)?;
        if read as u64 > LARGEST_FILE {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        text.truncate(text.trim_end().len());
        Ok(text)
    }

    /// Writes an interface file in one write(2), as the kernel wants it.
    pub(super) fn write(&self, file: &str, value: &str) -> Result<()> {
        let attempted = || format!("write(\"{}\", {value:?})", self.path.join(file).display());
        match self.write_raw(file, value) {
            Err(e) if self.is_gone_after(Some(e as i32)) => {
                Err(e).context_kind(ErrorKind::NotFound, attempted)
            }
            written => written.context(attempted),
        }
    }

    /// [`Directory::write`] with the bare error number, for callers that decide by it.
    pub(super) fn write_raw(&self, file: &str, value: &str) -> std::result::Result<(), Errno> {
        let fd = self.open_for_write(file)?;
        loop {
            match nix::unistd::write(&fd, value.as_bytes()) {
                Ok(written) if written == value.len() => return Ok(()),
                Ok(_) => return Err(Errno::EIO),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// An interface file, open for writing, closed on execve.
    pub(super) fn open_for_write(&self, file: &str) -> std::result::Result<OwnedFd, Errno> {
        let flags = OFlag::O_WRONLY | OFlag::O_TRUNC | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        openat(&self.fd, file, flags, Mode::empty())
    }

    /// The processes in this cgroup itself; in a threaded one, those that have a thread there.
    pub(super) fn pids(&self) -> Result<Vec<i32>> {
        let text = match self.read("cgroup.procs") {
            Err(e) if e.is_errno(libc::EOPNOTSUPP) => {
                let threads = numbers(&self.read("cgroup.threads")?);
                let context = || format!("read whose threads are in cgroup {}", self.path.display());
                let owners = threads.into_iter().filter_map(|thread| process_of(thread).transpose());
                let mut pids: Vec<i32> = owners.collect::<std::io::Result<_>>().context(context)?;
                pids.sort_unstable();
                pids.dedup();
                return Ok(pids);
            }
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        Ok(numbers(&text))
    }

    /// The positive numbers in one of its files, a line each; none when it is gone.
    pub(super) fn numbers_in(&self, file: &str) -> Result<Vec<i32>> {
        match self.read(file) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            other => other.map(|text| numbers(&text)),
        }
    }

    pub(super) fn metadata(&self) -> Result<std::fs::Metadata> {
        let copy = self.fd.try_clone().context(|| "duplicate a descriptor")?;
        std::fs::File::from(copy).metadata().context(|| format!("stat cgroup {}", self.path.display()))
    }

    /// Makes this user and group own it and all of its files, as if they had made it.
    pub(super) fn give_to(&self, (uid, gid): (u32, u32)) -> Result<()> {
        let attempted = || format!("give cgroup {} to user {uid}", self.path.display());
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        let mut listing = Dir::openat(&self.fd, ".", DIRECTORY, Mode::empty()).context(attempted)?;
        for entry in listing.iter() {
            let entry = entry.context(attempted)?;
            if entry.file_type() == Some(Type::File) {
                fchownat(&self.fd, entry.file_name(), uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
                    .context(attempted)?;
            }
        }
        fchown(&self.fd, uid, gid).context(attempted)
    }

    /// The processes in this cgroup and in all beneath it, sorted, each once.
    pub(super) fn all_pids(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        self.walk(&mut |directory| {
            pids.extend(directory.pids()?);
            Ok(())
        })?;
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Visits this cgroup and all beneath it, parents first.
    pub(super) fn walk(&self, visit: &mut dyn FnMut(&Self) -> Result<()>) -> Result<()> {
        self.walk_from(0, visit)
    }

    fn walk_from(&self, depth: usize, visit: &mut dyn FnMut(&Self) -> Result<()>) -> Result<()> {
        if depth > DEEPEST_WALK {
            let message =
                format!("cgroup {} is nested deeper than {DEEPEST_WALK} levels", self.path.display());
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        visit(self)?;
        for name in self.subdirectories()? {
            if let Some(child) = self.descend(Path::new(OsStr::from_bytes(name.as_bytes())))? {
                child.walk_from(depth + 1, visit)?;
            }
        }
        Ok(())
    }

    /// The names of the cgroups in this one.
    fn subdirectories(&self) -> Result<Vec<CString>> {
        let mut names = Vec::new();
        self.each_subdirectory(|name| {
            names.push(name.to_owned());
            true
        })?;
        Ok(names)
    }

    /// The first cgroup in this one, opened, with its name.
    pub(super) fn first_subdirectory(&self) -> Result<Option<(CString, Self)>> {
        let mut first = None;
        self.each_subdirectory(|name| {
            first = Some(name.to_owned());
            false
        })?;
        let Some(name) = first else { return Ok(None) };
        let child = self.descend(Path::new(OsStr::from_bytes(name.as_bytes())))?;
        Ok(child.map(|child| (name, child)))
    }

    fn each_subdirectory(&self, mut visit: impl FnMut(&CStr) -> bool) -> Result<()> {
        let attempted = || format!("list cgroup {}", self.path.display());
        let mut listing = match Dir::openat(&self.fd, ".", DIRECTORY, Mode::empty()) {
            Err(Errno::ENOENT | Errno::ENODEV) => return Ok(()),
            other => other.context(attempted)?,
        };
        for entry in listing.iter() {
            let entry = entry.context(attempted)?;
            let name = entry.file_name();
            let ordinary = !matches!(name.to_bytes(), b"." | b"..");
            if entry.file_type() == Some(Type::Directory) && ordinary && !visit(name) {
                break;
            }
        }
        Ok(())
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A process outside of our pid namespace reads as 0: nothing that we could name.
fn numbers(text: &str) -> Vec<i32> {
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_symbolic_link_is_followed_and_nothing_above_is_reached() {
        let temp = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir(temp.path().join("real")).expect("mkdir");
        std::os::unix::fs::symlink("real", temp.path().join("link")).expect("symlink");
        std::os::unix::fs::symlink("/proc/self/status", temp.path().join("file")).expect("symlink");
        let top = Directory::top(temp.path()).expect("open");
        assert!(top.descend(Path::new("real")).expect("a directory").is_some());
        assert!(top.descend(Path::new("absent/x")).expect("no error").is_none());
        assert!(top.descend(Path::new("link")).expect_err("a link").is_errno(libc::ELOOP));
        assert!(top.descend(Path::new("..")).expect_err("outside").is_errno(libc::EXDEV));
        assert!(top.descend(Path::new("/proc")).expect_err("outside").is_errno(libc::EXDEV));
        assert!(top.make(OsStr::new("link")).is_err());
        assert!(top.read("file").expect_err("a link").is_errno(libc::ELOOP));
        assert!(top.write("file", "1").expect_err("a link").is_errno(libc::ELOOP));
    }

    #[test]
    fn pids_are_collected_from_the_whole_tree() {
        let temp = tempfile::tempdir().expect("temporary directory");
        for (directory, procs) in [("", "7\n3\n"), ("a", "12\n3\n"), ("a/b", "0\n99\n")] {
            let directory = temp.path().join(directory);
            std::fs::create_dir_all(&directory).expect("mkdir");
            std::fs::write(directory.join("cgroup.procs"), procs).expect("write");
        }
        let top = Directory::top(temp.path()).expect("open");
        assert_eq!(top.pids().expect("readable"), [7, 3]);
        assert_eq!(top.all_pids().expect("readable"), [3, 7, 12, 99]);
    }
}
