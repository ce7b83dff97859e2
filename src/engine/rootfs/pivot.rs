// SPDX-License-Identifier: Apache-2.0
//! Isolates the mount namespace before anything is mounted, and makes the root filesystem `/` when all is.
//!
//! Owns propagation towards the host: nothing that happens here may reach it. Must not know what is mounted in
//! the root filesystem. Sources: pivot_root(2), mount_namespaces(7).

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, chroot, fchdir, pivot_root};

use super::options::{Propagation, PropagationKind};
use super::plan::RootfsPlan;
use super::resolve::Root;
use crate::sys::mount::{Extent, attach, clone_tree, mount_id};
use crate::sys::mountinfo::{self, MountInfo};
use crate::{Context, Result};

const NONE: Option<&str> = None;

/// Sets the propagation of the whole namespace, takes the root filesystem out of the host's peer groups, and bind
/// mounts it on itself. The result refers to that mount.
pub(super) fn isolate(plan: &RootfsPlan) -> Result<Root> {
    // The root filesystem cannot be bind mounted from an unbindable mount: `/` becomes unbindable at the end.
    let kind = match plan.propagation.kind {
        PropagationKind::Unbindable => PropagationKind::Private,
        kind => kind,
    };
    propagate("/", Propagation { kind, ..plan.propagation }).context(|| "set the propagation of /")?;
    // A whole tree of slaves or of private mounts has no shared one.
    if kind == PropagationKind::Shared || !plan.propagation.recursive {
        make_parent_private(&plan.rootfs)?;
    }
    let directory = Root::open_host(&plan.rootfs)?;
    let bind = || {
        let tree = clone_tree(directory.fd(), Extent::Tree)?;
        attach(tree.as_fd(), directory.fd())?;
        Ok::<_, Errno>(tree)
    };
    let tree = bind().context(|| format!("bind mount {} on itself", plan.rootfs.display()))?;
    Root::from_fd(tree)
}

/// Makes the mount that the root filesystem lies on private if it is shared: else the bind mount would show on the
/// host, and pivot_root(2) refuses a shared parent. A slave stays one, and so does the bind mount, the container's root.
fn make_parent_private(rootfs: &Path) -> Result<()> {
    let directory = Root::open_host(rootfs)?;
    let id = mount_id(directory.fd()).context(|| format!("statx the mount of {}", rootfs.display()))?;
    let mounts = mountinfo::read().context(|| "read the mount table")?;
    let parent = mounts.iter().find(|mount| mount.id == id);
    let Some(parent) =
        parent.filter(|mount| mount.propagation.iter().any(|mark| mark.starts_with("shared:")))
    else {
        return Ok(());
    };
    let path = &parent.mount_point;
    mount(NONE, path, NONE, MsFlags::MS_PRIVATE, NONE)
        .context(|| format!("make the mount {} private", path.display()))
}

fn propagate(path: &str, change: Propagation) -> std::result::Result<(), Errno> {
    let recursive = if change.recursive { MsFlags::MS_REC } else { MsFlags::empty() };
    mount(NONE, path, NONE, MsFlags::from_bits_retain(change.kind.flag()) | recursive, NONE)
}

/// Makes the root filesystem `/` and detaches the old one.
pub(super) fn pivot(root: &Root) -> Result<()> {
    let old = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .context(|| "open the old root")?;
    fchdir(root.fd()).context(|| "chdir to the root filesystem")?;
    // With both in one place the old root comes to lie over the new one, and needs no directory in it.
    pivot_root(".", ".").context(|| "pivot_root")?;
    fchdir(&old).context(|| "chdir to the old root")?;
    // The unmounting must not reach the host.
    mount(NONE, ".", NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE)
        .context(|| "make the old root a slave")?;
    umount2(".", MntFlags::MNT_DETACH).context(|| "unmount the old root")?;
    chdir("/").context(|| "chdir to the new root")
}

/// Moves the root filesystem over `/`, where pivot_root(2) cannot work (initramfs). The host's mounts stay below
/// it, so its proc and sysfs, which a process could otherwise reach unmasked through a mount of its own, go first.
pub(super) fn move_over(root: &Root, rootfs: &Path) -> Result<()> {
    let mut mounts = mountinfo::read().context(|| "read the mount table")?;
    mounts.retain(|mount| !mount.mount_point.starts_with(rootfs));
    for mount in &mounts {
        leave_peers(&mount.mount_point)?;
    }
    let is_full = |mount: &&MountInfo| mount.root == Path::new("/");
    for mount in mounts.iter().filter(is_full).filter(|m| m.fstype == "proc" || m.fstype == "sysfs") {
        let path = &mount.mount_point;
        unmount_or_cover(path).context(|| format!("hide the host's {}", path.display()))?;
    }
    fchdir(root.fd()).context(|| "chdir to the root filesystem")?;
    mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE).context(|| "move the root filesystem to /")?;
    enter_by_chroot(root.fd())
}

/// With `rootfsPropagation` shared, what is unmounted from or moved over a mount of the host's would be so for
/// everybody.
fn leave_peers(path: &Path) -> Result<()> {
    match mount(NONE, path, NONE, MsFlags::MS_SLAVE, NONE) {
        // Another mount covers it or its way: nothing of ours happens on it.
        Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => Ok(()),
        done => done.context(|| format!("make the mount {} a slave", path.display())),
    }
}

/// chroot(2) into the root filesystem.
pub(super) fn enter_by_chroot(root: BorrowedFd<'_>) -> Result<()> {
    fchdir(root).context(|| "chdir to the root filesystem")?;
    chroot(".").context(|| "chroot")?;
    chdir("/").context(|| "chdir to the new root")
}

fn unmount_or_cover(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        // A mount that a user namespace's owner may not remove.
        Err(Errno::EINVAL | Errno::EPERM) => {
            mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_RDONLY, NONE)
                .context(|| "mount a tmpfs on it")
        }
        // It went with one above it.
        Err(Errno::ENOENT) => Ok(()),
        done => done.context(|| "unmount it"),
    }
}
