// SPDX-License-Identifier: Apache-2.0
//! Isolates the mount namespace before anything is mounted, and makes the root filesystem `/` when all is.
//!
//! Owns propagation towards the host: nothing that happens here may reach it. Must not know what is mounted in
//! the root filesystem. Sources: pivot_root(2), mount_namespaces(7).

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, chroot, fchdir, pivot_root};

use super::options::{Propagation, PropagationKind};
use super::plan::RootfsPlan;
use super::resolve::Root;
use crate::sys::mount::{Extent, attach, clone_tree};
use crate::sys::mountinfo;
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
    make_parent_private(&plan.rootfs)?;
    let directory = Root::open_host(&plan.rootfs)?;
    let bind = || {
        let tree = clone_tree(directory.fd(), Extent::Tree)?;
        attach(tree.as_fd(), directory.fd())?;
        Ok::<_, Errno>(tree)
    };
    let tree = bind().context(|| format!("bind mount {} on itself", plan.rootfs.display()))?;
    Root::from_fd(tree)
}

/// Makes the mount that the root filesystem lies on private: else the bind mount would show on the host, and
/// pivot_root(2) refuses a shared parent. Only the root of a mount can be changed: the path is tried upwards.
fn make_parent_private(rootfs: &Path) -> Result<()> {
    for directory in rootfs.ancestors() {
        match mount(NONE, directory, NONE, MsFlags::MS_PRIVATE, NONE) {
            Err(Errno::EINVAL) => {}
            done => return done.context(|| format!("make the mount {} private", directory.display())),
        }
    }
    Ok(())
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
    for path in unmasked_kernel_mounts(rootfs)? {
        unmount_or_cover(&path).context(|| format!("hide the host's {}", path.display()))?;
    }
    fchdir(root.fd()).context(|| "chdir to the root filesystem")?;
    mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE).context(|| "move the root filesystem to /")?;
    enter_by_chroot(root.fd())
}

/// chroot(2) into the root filesystem.
pub(super) fn enter_by_chroot(root: BorrowedFd<'_>) -> Result<()> {
    fchdir(root).context(|| "chdir to the root filesystem")?;
    chroot(".").context(|| "chroot")?;
    chdir("/").context(|| "chdir to the new root")
}

fn unmasked_kernel_mounts(rootfs: &Path) -> Result<Vec<PathBuf>> {
    let mounts = mountinfo::read().context(|| "read the mount table")?;
    Ok(mounts
        .into_iter()
        .filter(|mount| mount.fstype == "proc" || mount.fstype == "sysfs")
        .filter(|mount| mount.root == Path::new("/") && !mount.mount_point.starts_with(rootfs))
        .map(|mount| mount.mount_point)
        .collect())
}

fn unmount_or_cover(path: &Path) -> Result<()> {
    match mount(NONE, path, NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE) {
        // It went with one above it.
        Err(Errno::ENOENT) => return Ok(()),
        done => done.context(|| "make it a slave")?,
    }
    match umount2(path, MntFlags::MNT_DETACH) {
        // A mount that a user namespace's owner may not remove.
        Err(Errno::EINVAL | Errno::EPERM) => {
            mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_RDONLY, NONE)
                .context(|| "mount a tmpfs on it")
        }
        done => done.context(|| "unmount it"),
    }
}
