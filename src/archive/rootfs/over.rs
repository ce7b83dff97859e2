// SPDX-License-Identifier: Apache-2.0
//! Owns how a difference is laid over files that are there: what it replaces goes, and so does what it says is gone.
//!
//! Podman and CRI-O list what is gone in `deleted.files`; layers of images, as containerd writes them, have whiteouts.
//! Must not know the archive around the nested tar.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::apply::split;
use super::path_in;
use crate::archive::entry::{Entry, Kind};
use crate::archive::{invalid, printable};
use crate::sys::beneath::open_beneath;
use crate::{Context, Result};

/// What names of whiteouts begin with (OCI image specification, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";

/// A whiteout of everything that its directory had.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What is to be done with an entry once there is room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// It is to be made.
    Free,
    /// It is a directory that is there.
    Directory,
    /// It was a whiteout.
    Done,
}

/// Makes room for an entry named `name` in `dir`.
pub(super) fn make_room(dir: BorrowedFd<'_>, name: &OsStr, entry: &Entry, whiteouts: bool) -> Result<Room> {
    let attempt = || format!("lay {} over what is there", printable(&entry.path));
    if whiteouts && name.as_bytes() == OPAQUE {
        empty(dir).context(attempt)?;
        return Ok(Room::Done);
    }
    if let Some(gone) = name.as_bytes().strip_prefix(WHITEOUT).filter(|_| whiteouts) {
        if matches!(gone, b"" | b"." | b"..") {
            return Err(invalid(format!("{}: a whiteout of nothing", printable(&entry.path))));
        }
        remove(dir, OsStr::from_bytes(gone)).context(attempt)?;
        return Ok(Room::Done);
    }
    if entry.kind == Kind::Directory && is_directory(dir, name).context(attempt)? == Some(true) {
        return Ok(Room::Directory);
    }
    remove(dir, name).context(attempt)?;
    Ok(Room::Free)
}

/// Removes what a `deleted.files` lists: a JSON list of paths from the root.
///
/// # Errors
/// `InvalidArchive` for what is no such list or leads elsewhere; else what the file system says.
pub(in crate::archive) fn remove_listed(root: BorrowedFd<'_>, list: &[u8], longest: usize) -> Result<()> {
    const WHAT: &str = crate::archive::member::DELETED;
    let paths: Vec<String> = serde_json::from_slice(list)
        .map_err(|error| invalid(format!("{WHAT} is not a list of paths")).with_source(error))?;
    for path in paths {
        remove_path(root, path.trim_start_matches('/').as_bytes(), longest)
            .context(|| format!("apply {WHAT}"))?;
    }
    Ok(())
}

/// Removes what is at a path from the root; that there is nothing is success.
///
/// # Errors
/// `InvalidArchive` for a path that leads elsewhere; else what the file system says.
pub(super) fn remove_path(root: BorrowedFd<'_>, path: &[u8], longest: usize) -> Result<()> {
    let (parent, name) = split(path, longest)?;
    if name.is_empty() {
        return Err(invalid("the root itself is to be removed"));
    }
    let here = if parent.is_empty() { &b"."[..] } else { parent };
    match open_beneath(root, here, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()) {
        Ok(dir) => {
            remove(dir.as_fd(), OsStr::from_bytes(name)).context(|| format!("remove {}", printable(path)))
        }
        // Its directory is gone already.
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(()),
        Err(errno) => Err(invalid(format!("{} leads elsewhere", printable(path))).with_source(errno)),
    }
}

/// Whether something is a directory; `None` if there is nothing.
fn is_directory(dir: BorrowedFd<'_>, name: &OsStr) -> nix::Result<Option<bool>> {
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found.st_mode & libc::S_IFMT == libc::S_IFDIR)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Removes whatever has this name; that there is nothing is success. Follows no link.
fn remove(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match is_directory(dir, name)? {
        None => Ok(()),
        Some(true) => fs::remove_dir_all(path_in(dir, name)),
        Some(false) => unlinkat(dir, name, UnlinkatFlags::NoRemoveDir).map_err(io::Error::from),
    }
}

/// Removes everything in a directory.
fn empty(dir: BorrowedFd<'_>) -> io::Result<()> {
    let path = path_in(dir, OsStr::new(""));
    let names: Vec<_> =
        fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<_>>()?;
    names.iter().try_for_each(|name| remove(dir, name))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;
    use crate::ErrorKind;
    use crate::archive::Limits;
    use crate::archive::rootfs::{DeviceNodes, Ground, STREAM, unpack_over};
    use crate::archive::tar_reader::TarReader;

    /// A tree with a directory, a file in it, and a link that leads out of it.
    fn tree() -> tempfile::TempDir {
        let tree = tempfile::tempdir().expect("tempdir");
        fs::create_dir_all(tree.path().join("root/d/inner")).expect("mkdir");
        fs::create_dir(tree.path().join("outside")).expect("mkdir");
        for file in ["root/d/file", "root/d/inner/file", "root/kept", "outside/file"] {
            fs::write(tree.path().join(file), "old").expect("write");
        }
        symlink("../outside", tree.path().join("root/out")).expect("symlink");
        tree
    }

    /// Lays entries over the tree; a path that ends in a slash is a directory.
    fn lay(tree: &Path, paths: &[&str]) -> Result<()> {
        let mut tar = Vec::new();
        for path in paths {
            let kind = if path.ends_with('/') { Kind::Directory } else { Kind::File };
            let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
            Entry { uid, gid, ..Entry::new(*path, kind) }.encode(&mut tar);
        }
        tar.resize(tar.len() + 4096, 0);
        let root = File::open(tree.join("root")).expect("open");
        let mut reader = TarReader::new(&tar[..], STREAM);
        let limits = Limits::default();
        unpack_over(&mut reader, root.as_fd(), Ground::Layers, DeviceNodes::Standard, &limits, &mut ())
            .map(drop)
    }

    #[test]
    fn what_is_there_gives_way() {
        let there = |tree: &Path, path: &str| tree.join("root").join(path).symlink_metadata().is_ok();
        let tree = tree();
        let tree = tree.path();
        lay(tree, &["d/", "d/new", "kept/", "kept/in", "out"]).expect("all of it fits");
        assert!(there(tree, "d/file") && there(tree, "d/new") && there(tree, "kept/in"));
        assert_eq!(fs::read(tree.join("root/out")).expect("a file now"), b"");
        lay(tree, &["d/.wh.file", "d/.wh.none", ".wh.kept"]).expect("whiteouts");
        assert!(!there(tree, "d/file") && !there(tree, "kept") && there(tree, "d/inner/file"));
        lay(tree, &["d/.wh..wh..opq", "d/last"]).expect("opaque");
        assert!(there(tree, "d/last") && !there(tree, "d/inner") && !there(tree, "d/new"));
        assert!(tree.join("outside/file").exists(), "what a link led to is not touched");
        for bad in [".wh.", ".wh..", ".wh...", "d/.wh..."] {
            assert_eq!(lay(tree, &[bad]).expect_err(bad).kind(), ErrorKind::InvalidArchive);
        }
    }

    #[test]
    fn what_is_listed_is_removed_and_nothing_else() {
        let tree = tree();
        let root = File::open(tree.path().join("root")).expect("open");
        let remove = |list: &str| remove_listed(root.as_fd(), list.as_bytes(), 4095);
        remove(r#"["/d/inner","/d/inner/file","/none/at/all","/kept/beneath"]"#).expect("all gone");
        assert!(!tree.path().join("root/d/inner").exists() && tree.path().join("root/d/file").exists());
        for bad in ["", "{}", r#"["/"]"#, r#"["/../outside/file"]"#, r#"["/out/file"]"#, r#"["/d/."]"#] {
            assert_eq!(remove(bad).expect_err(bad).kind(), ErrorKind::InvalidArchive, "{bad}");
        }
        remove(r#"["/out"]"#).expect("the link itself");
        assert!(tree.path().join("outside/file").exists());
    }
}
