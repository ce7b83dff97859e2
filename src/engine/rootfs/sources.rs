// SPDX-License-Identifier: Apache-2.0
//! What a bind mount shows, by descriptor, and who opens it.
//!
//! A process in the container's user namespace may not reach every source by path, and may not map the ids of any. So
//! whoever builds the root filesystem asks a [`Sources`]. Must not know how the answer travels.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::plan::{MountKind, MountPlan};
use crate::sys::mount::{Extent, clone_tree};
use crate::{Context, Error, ErrorKind, Result};

/// The source of a bind mount.
#[derive(Debug)]
pub enum Source {
    /// A path descriptor of the file or directory, on a mount of this namespace.
    Path(OwnedFd),
    /// A detached tree, complete but for the flags of the entry's options.
    Tree(OwnedFd),
}

impl Source {
    /// The file or directory.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Source::Path(fd) | Source::Tree(fd) => fd.as_fd(),
        }
    }

    /// As a detached tree.
    pub(super) fn into_tree(self, recursive: bool) -> Result<OwnedFd> {
        match self {
            Source::Tree(tree) => Ok(tree),
            Source::Path(fd) => clone_source(fd.as_fd(), recursive),
        }
    }
}

fn clone_source(source: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd> {
    clone_tree(source, extent(recursive)).context(|| "open_tree of the source").map_err(|error| {
        if error.is_errno(libc::EINVAL) && !recursive {
            return error.with_hint(
                "if the container has a user namespace and something is mounted below the source, use rbind: \
                 what a mount of the host covers must stay covered",
            );
        }
        error
    })
}

/// Who opens the sources of bind mounts.
pub trait Sources {
    /// Opens the source of the entry, which is a bind mount.
    ///
    /// # Errors
    /// When it cannot be opened or mapped.
    fn open(&self, mount: &MountPlan) -> Result<Source>;
}

/// This process, by its own rights.
#[derive(Debug, Clone, Copy, Default)]
pub struct OwnSources;

impl Sources for OwnSources {
    fn open(&self, mount: &MountPlan) -> Result<Source> {
        let MountKind::Bind { source, recursive, id_map } = &mount.kind else {
            return Err(Error::new(ErrorKind::System, "asked for the source of what is no bind mount"));
        };
        let opened = open(source, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .context(|| format!("open the source {}", source.display()))?;
        let Some(map) = id_map else { return Ok(Source::Path(opened)) };
        let tree = clone_source(opened.as_fd(), *recursive)?;
        map.apply(tree.as_fd()).context(|| format!("map the ids of {}", source.display()))?;
        Ok(Source::Tree(tree))
    }
}

fn extent(recursive: bool) -> Extent {
    if recursive { Extent::Tree } else { Extent::Mount }
}
