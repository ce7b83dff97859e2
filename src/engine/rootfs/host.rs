// SPDX-License-Identifier: Apache-2.0
//! Containers without a mount namespace of their own: their mounts are the host's, below a bind mount of their root
//! filesystem on itself.
//!
//! That one mount is made by the runtime, which has written down before where the root filesystem lay, and goes with all
//! that is mounted below it when the container does. Nothing else of the host's mount table changes. Must not know what
//! is mounted below.

use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use serde::{Deserialize, Serialize};

use super::resolve::Root;
use crate::sys::mount::{Attributes, Extent, attach, clone_tree, lasting_mount_id, set_attributes};
use crate::{Context, Result};

/// The mounts at a root filesystem's path, by their identities: what [`HostMount::unbind`] needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostMount {
    /// What the root filesystem lies on.
    pub below: u64,
    /// What was bound on it, once that is known.
    pub own: Option<u64>,
}

impl HostMount {
    /// Before anything is bound.
    ///
    /// # Errors
    /// When the root filesystem cannot be opened.
    pub fn before(rootfs: &Path) -> Result<Self> {
        Ok(Self { below: mount_at(rootfs)?, own: None })
    }

    /// Undoes [`bind`] with all that is mounted below; nothing to do if that mount is not what is there.
    ///
    /// # Errors
    /// When it cannot be unmounted.
    pub fn unbind(self, rootfs: &Path) -> Result<()> {
        let found = match mount_at(rootfs) {
            // With the directory the mounts on it are gone.
            Err(error) if error.is_errno(libc::ENOENT) => return Ok(()),
            found => found?,
        };
        if self.own.map_or(found == self.below, |own| found != own) {
            return Ok(());
        }
        match umount2(rootfs, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Err(Errno::EINVAL) => Ok(()),
            done => done.context(|| format!("unmount {}", rootfs.display())),
        }
    }
}

fn mount_at(rootfs: &Path) -> Result<u64> {
    let root = Root::open_host(rootfs)?;
    lasting_mount_id(root.fd()).context(|| format!("statx the mount of {}", rootfs.display()))
}

/// Binds a root filesystem on itself in this mount namespace, so that nothing mounted in it reaches another place where
/// it is mounted; the new mount's identity.
///
/// # Errors
/// The system call that failed.
pub fn bind(rootfs: &Path) -> Result<u64> {
    let directory = Root::open_host(rootfs)?;
    let private = Attributes::propagation(libc::MS_PRIVATE);
    let bind = || {
        let tree = clone_tree(directory.fd(), Extent::Tree)?;
        set_attributes(tree.as_fd(), &private, Extent::Tree)?;
        attach(tree.as_fd(), directory.fd())?;
        // Below a shared mount it has become shared again.
        set_attributes(tree.as_fd(), &private, Extent::Tree)?;
        lasting_mount_id(tree.as_fd())
    };
    bind().context(|| format!("bind mount {} on itself", rootfs.display()))
}
