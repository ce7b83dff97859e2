// SPDX-License-Identifier: Apache-2.0
//! Read-only and masked paths, the last things done to the root filesystem.
//!
//! Files are masked by a bind mount of the container's null device, opened and checked by fd (CVE-2025-31133);
//! directories by an empty read-only tmpfs, one for all. CRIU knows both forms. Must not know why a path is
//! listed.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};

use super::devices::open_null;
use super::filesystem::{Label, NewFilesystem};
use super::resolve::{Links, Root};
use crate::sys::mount::{Attributes, Extent, MOUNT_ATTR_RDONLY, attach, clone_tree, set_attributes};
use crate::{Context, Error, Result};

/// Makes each path read-only by a bind mount of itself, keeping its mount's other flags. Missing paths are no
/// error.
pub(super) fn make_readonly(root: &Root, paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        let Some(target) = open_existing(root, path)? else { continue };
        let protect = || {
            let tree = clone_tree(target.as_fd(), Extent::Tree)?;
            set_attributes(tree.as_fd(), &Attributes::new(MOUNT_ATTR_RDONLY, 0), Extent::Mount)?;
            attach(tree.as_fd(), target.as_fd())
        };
        protect().context(|| format!("make {} read-only", path.display()))?;
    }
    Ok(())
}

/// Hides each path. Missing paths are no error.
pub(super) fn mask(root: &Root, paths: &[PathBuf], label: Option<&str>) -> Result<()> {
    let mut masks = Masks { label, ..Masks::default() };
    for path in paths {
        let Some(target) = open_existing(root, path)? else { continue };
        let mut hide = || {
            let stat = fstat(&target).context(|| "stat")?;
            let cover = if stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() {
                masks.directory()
            } else {
                masks.file(root)
            }?;
            attach(cover.as_fd(), target.as_fd()).context(|| "move_mount")?;
            masks.keep(cover);
            Ok::<_, Error>(())
        };
        hide().context(|| format!("mask {}", path.display()))?;
    }
    Ok(())
}

fn open_existing(root: &Root, path: &Path) -> Result<Option<OwnedFd>> {
    match root.open(path, Links::Follow) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(error) => Err(error).context(|| format!("open {} in the container", path.display())),
    }
}

/// What is mounted over masked paths: made at first use, copied afterwards.
#[derive(Default)]
struct Masks<'a> {
    label: Option<&'a str>,
    null: Option<OwnedFd>,
    empty: Option<OwnedFd>,
    made_empty: bool,
}

impl Masks<'_> {
    fn file(&mut self, root: &Root) -> Result<OwnedFd> {
        if self.null.is_none() {
            self.null = Some(open_null(root)?);
        }
        match &self.null {
            Some(null) => clone_tree(null.as_fd(), Extent::Mount).context(|| "open_tree of /dev/null"),
            None => open_null(root),
        }
    }

    /// All directories share one superblock; only an attached mount can be copied before Linux 6.15, so the first
    /// is the original.
    fn directory(&mut self) -> Result<OwnedFd> {
        if let Some(Ok(copy)) = self.empty.as_ref().map(|empty| clone_tree(empty.as_fd(), Extent::Mount)) {
            return Ok(copy);
        }
        self.made_empty = true;
        let new = NewFilesystem {
            fstype: "tmpfs",
            source: "tmpfs",
            flags: libc::MS_RDONLY,
            data: &["nr_blocks=1,nr_inodes=1"],
            label: Label::of("tmpfs", self.label),
        };
        new.detached()
    }

    fn keep(&mut self, cover: OwnedFd) {
        if std::mem::take(&mut self.made_empty) {
            self.empty = Some(cover);
        }
    }
}
