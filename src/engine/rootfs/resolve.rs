// SPDX-License-Identifier: Apache-2.0
//! Finds paths inside a root filesystem that somebody else wrote, and makes what is missing of them.
//!
//! Owns the rule that no symbolic link, `..` or race leads out of the root: paths are resolved by the kernel with
//! `RESOLVE_IN_ROOT` (openat2(2)) or, where a part is missing, one component at a time without following links.
//! What comes out is an fd, and the mount goes onto that fd. Must not know what is mounted.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlink, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat, mknodat};

use crate::{Context, Error, ErrorKind, Result};

/// As many as the kernel follows: path_resolution(7).
const MAX_LINKS: usize = 40;

/// openat2(2) says `EAGAIN` if something is renamed while it checks a `..`; a tree that never rests is hostile.
const MAX_RACES: usize = 64;

const PATH_ONLY: OFlag = OFlag::O_PATH.union(OFlag::O_CLOEXEC);

/// What to make where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mountpoint {
    /// A directory, mode 0755.
    Directory,
    /// An empty file, mode 0644, in such directories.
    File,
}

/// Whether a path may lead through symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    /// Followed, but never out of the root.
    Follow,
    /// An error.
    Refuse,
}

/// A file or directory inside the root.
#[derive(Debug)]
pub(super) struct Found {
    /// A path fd of it.
    pub(super) fd: OwnedFd,
    /// Whether it had to be made.
    pub(super) created: bool,
}

/// The directory that paths are resolved in.
#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
    /// The kernel's name for it, which `/proc/self/fd` gives to all that lies below it.
    path: PathBuf,
}

impl Root {
    /// Opens the directory at a trusted host path.
    pub(super) fn open_host(path: &Path) -> Result<Self> {
        let fd = open(path, PATH_ONLY | OFlag::O_DIRECTORY, Mode::empty())
            .context(|| format!("open the root filesystem {}", path.display()))?;
        Self::from_fd(fd)
    }

    /// Takes a path fd of the directory.
    pub(super) fn from_fd(fd: OwnedFd) -> Result<Self> {
        let path = fd_path(fd.as_fd()).context(|| "name the root filesystem")?;
        Ok(Self { fd, path })
    }

    /// The directory's fd.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens what is at the path in the container, as a path fd.
    pub(super) fn open(&self, path: &Path, links: Links) -> std::result::Result<OwnedFd, Errno> {
        let resolve = match links {
            Links::Follow => ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS,
            Links::Refuse => ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS,
        };
        let how = OpenHow::new().flags(PATH_ONLY).resolve(resolve);
        let mut result = Err(Errno::EAGAIN);
        for _ in 0..MAX_RACES {
            result = openat2(&self.fd, path, how);
            if !matches!(result, Err(Errno::EAGAIN)) {
                break;
            }
        }
        result
    }

    /// Opens what is at the path in the container, and makes what is missing of it.
    ///
    /// A dangling symbolic link is followed as well: what it points to is made, inside the root (images have
    /// such links, `/etc/resolv.conf` for one).
    pub(super) fn open_or_create(&self, path: &Path, missing: Mountpoint, links: Links) -> Result<Found> {
        let describe = || format!("resolve {} in the root filesystem", path.display());
        match self.open(path, links) {
            Ok(fd) => Ok(Found { fd, created: false }),
            Err(Errno::ENOENT) => {
                let walked = self.walk(path, links).context(describe)?;
                create(walked, missing)
                    .context(|| format!("create {} in the root filesystem", path.display()))
            }
            Err(Errno::ELOOP) if links == Links::Refuse => Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("{} leads through a symbolic link in the root filesystem", path.display()),
            )
            .with_source(Errno::ELOOP)),
            Err(error) => Err(error).context(describe),
        }
    }

    /// The path at which the container sees what the fd refers to.
    pub(super) fn container_path(&self, fd: BorrowedFd<'_>) -> Result<PathBuf> {
        let path = fd_path(fd).context(|| "name a mount point")?;
        match path.strip_prefix(&self.path) {
            Ok(inside) => Ok(Path::new("/").join(inside)),
            Err(_) => Err(Error::new(
                ErrorKind::System,
                format!("{} is outside the root filesystem {}", path.display(), self.path.display()),
            )),
        }
    }

    /// The path with all symbolic links followed inside the root, whether or not all of it exists.
    pub(super) fn resolve(&self, path: &Path) -> Result<PathBuf> {
        let walked = self
            .walk(path, Links::Follow)
            .context(|| format!("resolve {} in the root filesystem", path.display()))?;
        let names = walked.existing.iter().map(|(name, _)| name).chain(&walked.missing);
        Ok(Path::new("/").join(names.collect::<PathBuf>()))
    }

    /// Follows the path by hand, as far as it exists, and the rest by name.
    fn walk(&self, path: &Path, links: Links) -> Result<Walked<'_>> {
        let mut walked = Walked { root: self.fd(), existing: Vec::new(), missing: Vec::new() };
        let mut todo: Vec<OsString> = Vec::new();
        push_components(&mut todo, path);
        let mut links_left = if links == Links::Follow { MAX_LINKS } else { 0 };
        while let Some(name) = todo.pop() {
            if name == ".." {
                if walked.missing.pop().is_none() {
                    walked.existing.pop();
                }
                continue;
            }
            if !walked.missing.is_empty() {
                walked.missing.push(name);
                continue;
            }
            let fd = match openat(
                walked.deepest(),
                name.as_os_str(),
                PATH_ONLY | OFlag::O_NOFOLLOW,
                Mode::empty(),
            ) {
                Ok(fd) => fd,
                Err(Errno::ENOENT) => {
                    walked.missing.push(name);
                    continue;
                }
                Err(error) => return Err(error).context(|| format!("openat {}", name.display())),
            };
            let Some(target) = link_target(fd.as_fd()).context(|| format!("readlink {}", name.display()))?
            else {
                walked.existing.push((name, fd));
                continue;
            };
            if links_left == 0 {
                let message = format!("{} is a symbolic link too many", name.display());
                return Err(Error::new(ErrorKind::InvalidConfig, message).with_source(Errno::ELOOP));
            }
            links_left -= 1;
            if target.is_absolute() {
                walked.existing.clear();
            }
            push_components(&mut todo, &target);
        }
        Ok(walked)
    }
}

/// A path taken apart: what exists, by fd, and the names of what does not.
struct Walked<'a> {
    root: BorrowedFd<'a>,
    existing: Vec<(OsString, OwnedFd)>,
    missing: Vec<OsString>,
}

impl Walked<'_> {
    fn deepest(&self) -> BorrowedFd<'_> {
        self.existing.last().map_or(self.root, |(_, fd)| fd.as_fd())
    }
}

fn push_components(todo: &mut Vec<OsString>, path: &Path) {
    todo.extend(path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    }));
}

/// Where a path fd of a symbolic link leads; `None` for any other file.
fn link_target(fd: BorrowedFd<'_>) -> std::result::Result<Option<PathBuf>, Errno> {
    match readlinkat(fd, OsStr::new("")) {
        Ok(target) => Ok(Some(PathBuf::from(target))),
        // What an empty path says of a file that is no link: readlink(2).
        Err(Errno::ENOENT | Errno::EINVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the missing components; a component that appears meanwhile is used if it is no link.
fn create(walked: Walked<'_>, last: Mountpoint) -> Result<Found> {
    let Walked { root, existing, missing } = walked;
    let mut here = existing.into_iter().next_back().map(|(_, fd)| fd);
    let count = missing.len();
    for (position, name) in missing.iter().enumerate() {
        let parent = here.as_ref().map_or(root, AsFd::as_fd);
        let is_last = position.checked_add(1) == Some(count);
        let as_file = is_last && last == Mountpoint::File;
        let made = if as_file {
            mknodat(parent, name.as_os_str(), SFlag::S_IFREG, Mode::from_bits_truncate(0o644), 0)
        } else {
            mkdirat(parent, name.as_os_str(), Mode::from_bits_truncate(0o755))
        };
        match made {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error).context(|| format!("make {}", name.display())),
        }
        let kind = if as_file { OFlag::empty() } else { OFlag::O_DIRECTORY };
        let fd = openat(parent, name.as_os_str(), PATH_ONLY | OFlag::O_NOFOLLOW | kind, Mode::empty())
            .context(|| format!("open the new {}", name.display()))?;
        here = Some(fd);
    }
    match here {
        Some(fd) => {
            refuse_link(fd.as_fd())?;
            Ok(Found { fd, created: count > 0 })
        }
        // The path led back to the root itself.
        None => Ok(Found { fd: root.try_clone_to_owned().context(|| "dup")?, created: false }),
    }
}

fn refuse_link(fd: BorrowedFd<'_>) -> Result<()> {
    let stat = fstat(fd).context(|| "stat")?;
    if stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFLNK.bits() {
        return Err(Error::new(ErrorKind::System, "a symbolic link appeared meanwhile"));
    }
    Ok(())
}

fn fd_path(fd: BorrowedFd<'_>) -> std::result::Result<PathBuf, Errno> {
    readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str()).map(PathBuf::from)
}
