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

use super::resolve::Root;
use crate::sys::mount::{Attributes, Extent, attach, clone_tree, mount_id, set_attributes};
use crate::{Context, Result};

/// The identity of the mount that a root filesystem lies on: what [`unbind`] must find there in the end.
///
/// # Errors
/// When it cannot be opened.
pub fn mount_below(rootfs: &Path) -> Result<u64> {
    let root = Root::open_host(rootfs)?;
    mount_id(root.fd()).context(|| format!("statx the mount of {}", rootfs.display()))
}

/// Binds a root filesystem on itself in this mount namespace, so that nothing mounted in it reaches another place where
/// it is mounted.
///
/// # Errors
/// The system call that failed.
pub fn bind(rootfs: &Path) -> Result<()> {
    let directory = Root::open_host(rootfs)?;
    let private = Attributes::propagation(libc::MS_PRIVATE);
    let bind = || {
        let tree = clone_tree(directory.fd(), Extent::Tree)?;
        set_attributes(tree.as_fd(), &private, Extent::Tree)?;
        attach(tree.as_fd(), directory.fd())?;
        // Below a shared mount it has become shared again.
        set_attributes(tree.as_fd(), &private, Extent::Tree)
    };
    bind().context(|| format!("bind mount {} on itself", rootfs.display()))
}

/// Undoes [`bind`] with all that is mounted below; nothing to do if the mount `below` is what is there.
///
/// # Errors
/// When it cannot be unmounted.
pub fn unbind(rootfs: &Path, below: u64) -> Result<()> {
    match mount_below(rootfs) {
        Ok(found) if found == below => return Ok(()),
        // With the directory the mounts on it are gone.
        Err(error) if error.is_errno(libc::ENOENT) => return Ok(()),
        found => found?,
    };
    match umount2(rootfs, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Err(Errno::EINVAL) => Ok(()),
        done => done.context(|| format!("unmount {}", rootfs.display())),
    }
}
