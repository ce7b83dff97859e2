// SPDX-License-Identifier: Apache-2.0
//! Owns the walk over a directory tree: every file as a tar entry, by descriptor, without leaving the mount.
//!
//! Order: a directory, its files sorted by name, then its subdirectories one after the other. One directory is open at
//! a time. Must not know what becomes of the entries.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::Mode;

use super::path_in;
use crate::archive::entry::{Entry, Kind, PAX_MAX, Xattr};
use crate::archive::sink::changed;
use crate::archive::{failed, printable};
use crate::sys::beneath::open_beneath_same_mount;
use crate::sys::metadata::{Metadata, metadata_at};
use crate::{Context, Error, ErrorKind, Result};

/// Longest path that can be unpacked again, in bytes.
const PATH_MAX: usize = 4095;

/// What the walk came across and left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    /// Sockets: a tar cannot hold them.
    pub(super) sockets: u64,
    /// Mount points: they are there, empty.
    pub(super) mount_points: u64,
}

/// Who looks at each entry: the entry, and where the file is (a directory is open itself, the name is empty).
pub(super) type Visit<'a> = dyn FnMut(Entry, BorrowedFd<'_>, &CStr) -> Result<()> + 'a;

/// [`Visit`] of who wants to know all that was told about the file, too.
pub(super) type VisitFile<'a> = dyn FnMut(Entry, &Metadata, BorrowedFd<'_>, &CStr) -> Result<()> + 'a;

/// Whether anybody may write to the tree during the walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tree {
    /// Somebody may: a file that vanishes is not visited.
    Lives,
    /// Nobody: such a file is an error.
    StandsStill,
}

/// Visits every file beneath `root`, `root` first as `./`.
pub(super) fn walk(root: BorrowedFd<'_>, visit: &mut Visit<'_>) -> Result<LeftOut> {
    walk_tree(root, Tree::StandsStill, &mut |entry, _, dir, name| visit(entry, dir, name))
}

/// [`walk`] of a tree that somebody may write to.
pub(super) fn walk_tree(root: BorrowedFd<'_>, tree: Tree, visit: &mut VisitFile<'_>) -> Result<LeftOut> {
    let mut walk =
        Walk { root, tree, links: HashMap::new(), pending: vec![Vec::new()], left_out: LeftOut::default() };
    while let Some(path) = walk.pending.pop() {
        walk.directory(&path, visit)?;
    }
    Ok(walk.left_out)
}

/// Whether an error tells that what has just been listed is gone, or something else by now.
pub(super) fn vanished(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV | Errno::ESTALE | Errno::ENXIO
    )
}

/// What tells a file from all others: its device and its inode number.
type Inode = ((u32, u32), u64);

struct Walk<'r> {
    root: BorrowedFd<'r>,
    tree: Tree,
    /// Files with several names, by device and inode: the first name, and how many more are to come.
    links: HashMap<Inode, (Vec<u8>, u32)>,
    /// Directories to be looked into, the next one last; paths without a trailing slash.
    pending: Vec<Vec<u8>>,
    left_out: LeftOut,
}

impl Walk<'_> {
    /// Visits a directory and its files; its subdirectories are left for later.
    fn directory(&mut self, path: &[u8], visit: &mut VisitFile<'_>) -> Result<()> {
        let here = if path.is_empty() { &b"."[..] } else { path };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let fd = match open_beneath_same_mount(self.root, here, flags, Mode::empty()) {
            Err(errno) if self.lives() && vanished(errno) && !path.is_empty() => return Ok(()),
            fd => fd.map_err(|errno| not_read(errno, here, "open"))?,
        };
        let metadata = metadata_at(fd.as_fd(), c"").map_err(|errno| not_read(errno, here, "look at"))?;
        let mut entry = facts(&metadata, Kind::Directory, [here, b"/"].concat());
        entry.xattrs = xattrs(fd.as_fd(), c"", here)?;
        visit(entry, &metadata, fd.as_fd(), c"")?;
        let mut dir = Dir::from_fd(fd).map_err(|errno| not_read(errno, here, "open"))?;
        let first_pending = self.pending.len();
        for name in sorted_names(&mut dir, here)? {
            let path = joined(path, &name)?;
            if let Some((entry, metadata)) = self.entry(dir.as_fd(), &name, path)? {
                visit(entry, &metadata, dir.as_fd(), &name)?;
            }
        }
        self.pending[first_pending..].reverse();
        Ok(())
    }

    fn lives(&self) -> bool {
        self.tree == Tree::Lives
    }

    /// The entry of a file, if a tar can hold it. A directory is put on the pending list instead.
    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        path: Vec<u8>,
    ) -> Result<Option<(Entry, Metadata)>> {
        let metadata = match metadata_at(dir, name) {
            Err(errno) if self.lives() && vanished(errno) => return Ok(None),
            metadata => metadata.map_err(|errno| not_read(errno, &path, "look at"))?,
        };
        let kind = match metadata.file_type() {
            libc::S_IFREG => Kind::File,
            libc::S_IFDIR => Kind::Directory,
            libc::S_IFLNK => Kind::Symlink,
            libc::S_IFCHR => Kind::Character,
            libc::S_IFBLK => Kind::Block,
            libc::S_IFIFO => Kind::Fifo,
            _ => {
                self.left_out.sockets += 1;
                return Ok(None);
            }
        };
        if metadata.mount_root {
            self.left_out.mount_points += 1;
            return Ok(Some((mount_point(&metadata, kind, path), metadata)));
        }
        if kind == Kind::Directory {
            self.pending.push(path);
            return Ok(None);
        }
        if metadata.links > 1
            && let Some(first) = self.first_name(&metadata, &path)
        {
            let entry = facts(&metadata, Kind::HardLink, path);
            return Ok(Some((Entry { link: first, ..entry }, metadata)));
        }
        let mut entry = facts(&metadata, kind, path);
        match kind {
            Kind::File => entry.size = metadata.size,
            Kind::Character | Kind::Block => entry.device = metadata.node,
            Kind::Symlink => {
                let target = match readlinkat(dir, name) {
                    // Something else has the name by now.
                    Err(errno) if self.lives() && (vanished(errno) || errno == Errno::EINVAL) => {
                        return Ok(None);
                    }
                    target => target.map_err(|errno| not_read(errno, &entry.path, "read"))?,
                };
                entry.link = target.into_vec();
            }
            _ => {}
        }
        entry.xattrs = match xattrs(dir, name, &entry.path) {
            Err(error) if self.lives() && error.errno().map(Errno::from_raw).is_some_and(vanished) => {
                return Ok(None);
            }
            xattrs => xattrs?,
        };
        Ok(Some((entry, metadata)))
    }

    /// The name under which a file with several names was visited before; remembers this one if it is the first.
    fn first_name(&mut self, metadata: &Metadata, path: &[u8]) -> Option<Vec<u8>> {
        let key = (metadata.device, metadata.inode);
        let Some((first, left)) = self.links.get_mut(&key) else {
            self.links.insert(key, (path.to_vec(), metadata.links - 1));
            return None;
        };
        *left = left.saturating_sub(1);
        if *left == 0 {
            return self.links.remove(&key).map(|(first, _)| first);
        }
        Some(first.clone())
    }
}

/// What is beneath a mount cannot be seen, and what is in it is not ours: an empty file of the same kind stands in.
fn mount_point(metadata: &Metadata, kind: Kind, mut path: Vec<u8>) -> Entry {
    let (kind, mode) = if kind == Kind::Directory {
        path.push(b'/');
        (Kind::Directory, 0o755)
    } else {
        (Kind::File, 0o644)
    };
    let entry = Entry::new(path, kind);
    Entry { mode, mtime: (metadata.modified.0, 0), ..entry }
}

fn facts(metadata: &Metadata, kind: Kind, path: Vec<u8>) -> Entry {
    let entry = Entry::new(path, kind);
    let mode = metadata.mode & 0o7777;
    Entry { mode, uid: metadata.uid, gid: metadata.gid, mtime: metadata.modified, ..entry }
}

fn sorted_names(dir: &mut Dir, path: &[u8]) -> Result<Vec<CString>> {
    let mut names = Vec::new();
    for found in dir.iter() {
        let found = found.map_err(|errno| not_read(errno, path, "list"))?;
        let name = found.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn joined(path: &[u8], name: &CStr) -> Result<Vec<u8>> {
    let mut joined = path.to_vec();
    if !joined.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name.to_bytes());
    // A directory gets a slash at its end.
    if joined.len() >= PATH_MAX {
        let message = format!("path {} is too long to be archived", printable(&joined));
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    Ok(joined)
}

fn xattrs(dir: BorrowedFd<'_>, name: &CStr, path: &[u8]) -> Result<Vec<Xattr>> {
    let attempt = || format!("read extended attributes of {}", printable(path));
    let file = path_in(dir, OsStr::from_bytes(name.to_bytes()));
    let names = match xattr::list(&file) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        other => other.context(attempt)?,
    };
    let mut found = Vec::new();
    let mut bytes = 0;
    for name in names {
        // An attribute without a value was removed since it was listed.
        if let Some(value) = xattr::get(&file, &name).context(attempt)? {
            let name = name.into_vec();
            bytes += name.len() + value.len() + 64;
            found.push(Xattr { name, value });
        }
    }
    // The path and the link target share the space.
    if bytes as u64 > PAX_MAX - 4 * PATH_MAX as u64 {
        let message = format!("{} has more extended attributes than an archive holds", printable(path));
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// A file could not be looked at, or is not there any more.
pub(super) fn not_read(errno: Errno, path: &[u8], attempted: &str) -> Error {
    if errno == Errno::ENOENT {
        return changed(&printable(path), "vanished").with_source(errno);
    }
    failed(errno, format!("{attempted} {}", printable(path)))
}
