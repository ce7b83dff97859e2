// SPDX-License-Identifier: Apache-2.0
//! Owns the unpacking of a nested tar beneath a root directory. The tar is hostile: every directory is resolved
//! beneath the root without following a link, every file is made anew, device nodes are those of a list.
//!
//! Must not know the archive around the nested tar.

use std::ffi::OsStr;
use std::fs::File;
use std::io::BufRead;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, makedev, mkdirat, mknodat};
use nix::unistd::{linkat, symlinkat};

use super::STREAM;
use super::apply::{Ignored, finish_named, finish_open, remove_stale, reopened, split, write_sparse};
use super::over::{Room, make_room};
use crate::archive::entry::{Entry, Kind};
use crate::archive::tar_reader::TarReader;
use crate::archive::{Limits, Progress, failed, invalid, printable};
use crate::sys::beneath::open_beneath;
use crate::{Context, Error, Result};

/// Character devices of every container (OCI runtime specification, "Default Devices"), and the whiteout of overlayfs.
const STANDARD: [(u32, u32); 9] = [(0, 0), (1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];

/// Bytes that are counted for a directory besides its names and attributes.
const DIRECTORY_COST: u64 = 160;

/// Which device nodes an archive may make in the root filesystem.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceNodes {
    /// The character devices that every container has, and whiteouts.
    #[default]
    Standard,
    /// All of them: the archive is trusted like a program that runs as root on this host.
    Any,
}

/// What became of the root filesystem.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnpackedRootfs {
    /// Files of all kinds, the root directory included.
    pub entries: u64,
    /// Extended attributes that were not set because they belong to the host (labels, hashes); at most 32 names.
    pub ignored_xattrs: Vec<String>,
}

/// Unpacks the tar beneath `root`.
///
/// # Errors
/// `InvalidArchive`, naming the path, for what a root filesystem must not hold; else what the file system says.
pub(in crate::archive) fn unpack<R: BufRead>(
    tar: &mut TarReader<R>,
    root: BorrowedFd<'_>,
    devices: DeviceNodes,
    limits: &Limits,
    progress: &mut dyn Progress,
) -> Result<UnpackedRootfs> {
    let unpacked = unpack_entries(tar, root, Ground::Empty, devices, limits, progress)?;
    tar.expect_end()?;
    Ok(unpacked)
}

/// Lays the tar over the files beneath `root`, which it replaces.
///
/// # Errors
/// As [`unpack`].
pub(in crate::archive) fn unpack_over<R: BufRead>(
    tar: &mut TarReader<R>,
    root: BorrowedFd<'_>,
    ground: Ground,
    devices: DeviceNodes,
    limits: &Limits,
    progress: &mut dyn Progress,
) -> Result<UnpackedRootfs> {
    let unpacked = unpack_entries(tar, root, ground, devices, limits, progress)?;
    tar.drain()?;
    Ok(unpacked)
}

/// What is beneath the root before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::archive) enum Ground {
    /// Nothing: whatever is there is from the same tar.
    Empty,
    /// Files that give way. A whiteout is one.
    Layers,
    /// Files that give way, of a tree that was compared with the one in the tar: a directory's entry says everything of it,
    /// and a name is only a name.
    Base,
}

/// Unpacks the entries of the tar, up to its end mark.
pub(super) fn unpack_entries<R: BufRead>(
    tar: &mut TarReader<R>,
    root: BorrowedFd<'_>,
    ground: Ground,
    devices: DeviceNodes,
    limits: &Limits,
    progress: &mut dyn Progress,
) -> Result<UnpackedRootfs> {
    let mut unpack = Unpack {
        root,
        ground,
        devices,
        limits,
        parent: None,
        directories: Vec::new(),
        directory_memory: 0,
        ignored: Ignored::new(),
    };
    let mut entries = 0;
    while let Some(entry) = tar.next()? {
        entries += 1;
        if entries > limits.rootfs_entries {
            return Err(invalid(format!("{STREAM} has more than {} entries", limits.rootfs_entries)));
        }
        unpack.entry(entry, tar, progress).context(|| format!("unpack {STREAM}"))?;
    }
    unpack.finish_directories().context(|| format!("unpack {STREAM}"))?;
    Ok(UnpackedRootfs { entries, ignored_xattrs: unpack.ignored.into_iter().collect() })
}

struct Unpack<'a> {
    root: BorrowedFd<'a>,
    ground: Ground,
    devices: DeviceNodes,
    limits: &'a Limits,
    /// The directory that was resolved last: mostly the next entry is in it too.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Directories in the order of their creation, to be finished when their content is there.
    directories: Vec<Entry>,
    directory_memory: u64,
    ignored: Ignored,
}

impl Unpack<'_> {
    fn entry<R: BufRead>(
        &mut self,
        entry: Entry,
        tar: &mut TarReader<R>,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let (parent, name) = split(&entry.path, self.limits.path_length)?;
        if name.is_empty() {
            return self.root_directory(entry);
        }
        if entry.path.ends_with(b"/") && entry.kind != Kind::Directory {
            return Err(invalid(format!("{}: a directory's name, but no directory", printable(&entry.path))));
        }
        if self.parent.as_ref().is_none_or(|(path, _)| path != parent) {
            let opened = open_directory(self.root, parent, &entry.path)?;
            self.parent = Some((parent.to_vec(), opened));
        }
        let Some((_, dir)) = &self.parent else { return Ok(()) };
        let name = OsStr::from_bytes(name);
        if self.ground != Ground::Empty {
            match make_room(dir.as_fd(), name, &entry, self.ground == Ground::Layers)? {
                Room::Free => {}
                Room::Directory => return self.remember(entry),
                Room::Done => return Ok(()),
            }
        }
        let private = Mode::from_bits_truncate(0o600);
        match entry.kind {
            Kind::Directory => {
                mkdirat(dir, name, Mode::from_bits_truncate(0o700)).map_err(|e| not_made(e, &entry))?;
                return self.remember(entry);
            }
            Kind::File => {
                let flags =
                    OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let file = File::from(openat(dir, name, flags, private).map_err(|e| not_made(e, &entry))?);
                write_sparse(tar, &file, &entry, progress)?;
                return finish_open(&file, &entry, &mut self.ignored);
            }
            Kind::HardLink => return hard_link(self.root, dir.as_fd(), name, &entry, self.limits),
            Kind::Symlink => symlinkat(OsStr::from_bytes(&entry.link), dir, name),
            Kind::Fifo => mknodat(dir, name, SFlag::S_IFIFO, private, 0),
            Kind::Character | Kind::Block => {
                self.check_device(&entry)?;
                let kind = if entry.kind == Kind::Block { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
                mknodat(dir, name, kind, private, makedev(entry.device.0.into(), entry.device.1.into()))
            }
        }
        .map_err(|e| not_made(e, &entry))?;
        finish_named(dir.as_fd(), name, &entry, &mut self.ignored)
    }

    fn root_directory(&mut self, entry: Entry) -> Result<()> {
        if entry.kind != Kind::Directory {
            return Err(invalid(format!("{}: the root is not a directory", printable(&entry.path))));
        }
        if self.directories.iter().any(|other| path_of(other).is_empty()) {
            return Err(appears_twice(&entry));
        }
        self.remember(entry)
    }

    fn remember(&mut self, entry: Entry) -> Result<()> {
        let attributes: usize = entry.xattrs.iter().map(|x| x.name.len() + x.value.len() + 48).sum();
        self.directory_memory += DIRECTORY_COST + (entry.path.len() + attributes) as u64;
        if self.directory_memory > self.limits.directory_memory {
            let most = self.limits.directory_memory;
            return Err(invalid(format!("directories of {STREAM} need more than {most} bytes of memory")));
        }
        self.directories.push(entry);
        Ok(())
    }

    fn check_device(&self, entry: &Entry) -> Result<()> {
        let standard = entry.kind == Kind::Character && STANDARD.contains(&entry.device);
        if standard || self.devices == DeviceNodes::Any {
            return Ok(());
        }
        let kind = if entry.kind == Kind::Block { "block" } else { "character" };
        let (major, minor) = entry.device;
        let path = printable(&entry.path);
        Err(invalid(format!("{path}: {kind} device {major}:{minor} is not one that every container has"))
            .with_hint("allow device nodes only from an archive that you trust like a program run as root"))
    }

    /// Sets owner, mode, attributes and times of directories, the innermost first.
    fn finish_directories(&mut self) -> Result<()> {
        while let Some(entry) = self.directories.pop() {
            let path = path_of(&entry);
            let file = reopened(self.root, path).context(|| format!("open {}", printable(&entry.path)))?;
            if self.ground == Ground::Base {
                remove_stale(&file, &entry)?;
            }
            finish_open(&file, &entry, &mut self.ignored)?;
        }
        Ok(())
    }
}

/// A remembered directory's path without decoration; it was checked when it was made.
fn path_of(entry: &Entry) -> &[u8] {
    let path = entry.path.strip_prefix(b"./").unwrap_or(&entry.path);
    let path = path.strip_suffix(b"/").unwrap_or(path);
    if path == b"." { b"" } else { path }
}

/// Opens the directory that an entry is to be made in.
pub(super) fn open_directory(root: BorrowedFd<'_>, path: &[u8], entry: &[u8]) -> Result<OwnedFd> {
    let path = if path.is_empty() { &b"."[..] } else { path };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    open_beneath(root, path, flags, Mode::empty()).map_err(|errno| {
        let entry = printable(entry);
        match errno {
            Errno::ENOENT => invalid(format!("{entry}: its directory does not come before it")),
            Errno::ELOOP | Errno::ENOTDIR | Errno::EXDEV => {
                invalid(format!("{entry}: a part of its path is not a directory")).with_source(errno)
            }
            _ => failed(errno, format!("open the directory of {entry}")),
        }
    })
}

/// Makes a second name of a file that was unpacked before.
fn hard_link(
    root: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    name: &OsStr,
    entry: &Entry,
    limits: &Limits,
) -> Result<()> {
    let place = || format!("hard link {}", printable(&entry.path));
    let (target_parent, target) = split(&entry.link, limits.path_length).context(place)?;
    if target.is_empty() || entry.link.ends_with(b"/") {
        return Err(invalid(format!("{}: a hard link to a directory", printable(&entry.path))));
    }
    let target_dir = open_directory(root, target_parent, &entry.link).context(place)?;
    let target = OsStr::from_bytes(target);
    // Without AT_SYMLINK_FOLLOW a symbolic link is linked, not followed.
    linkat(&target_dir, target, dir, name, AtFlags::empty()).map_err(|errno| match errno {
        Errno::ENOENT => {
            let (path, link) = (printable(&entry.path), printable(&entry.link));
            invalid(format!("{path}: a hard link to {link}, which does not come before it"))
        }
        Errno::EPERM
            if nix::sys::stat::fstatat(&target_dir, target, AtFlags::AT_SYMLINK_NOFOLLOW)
                .is_ok_and(|found| found.st_mode & libc::S_IFMT == libc::S_IFDIR) =>
        {
            invalid(format!("{}: a hard link to a directory", printable(&entry.path)))
        }
        _ => not_made(errno, entry),
    })
}

fn not_made(errno: Errno, entry: &Entry) -> Error {
    if errno == Errno::EEXIST {
        return appears_twice(entry);
    }
    failed(errno, format!("create {}", printable(&entry.path)))
}

fn appears_twice(entry: &Entry) -> Error {
    invalid(format!("{}: appears twice", printable(&entry.path)))
}
