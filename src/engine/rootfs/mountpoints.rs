// SPDX-License-Identifier: Apache-2.0
//! What checkpoint and restore need to know of, and find in, a root filesystem that is not mounted anywhere.
//!
//! CRIU mounts on directories and files that must exist before it starts; create makes them on the way, a restore
//! makes them here, by the same rules. Must not know CRIU.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;

use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;

use super::filesystem::{Label, NewFilesystem};
use super::mounts::{Builder, bind_target, directory_target};
use super::plan::{MountKind, MountPlan, RootfsPlan};
use super::resolve::{Links, Mountpoint, Root};
use super::sources::{OwnSources, Sources};
use crate::sys::mount::attach;
use crate::{Context, Error, ErrorKind, Result};

/// A path of the container with all symbolic links followed inside its root filesystem, as an absolute path in the
/// container. Parts that do not exist are taken by name, so the answer is where create would make them.
///
/// # Errors
/// When `rootfs` cannot be opened, a component cannot be read, or more than 40 links follow each other
/// (`InvalidConfig`).
pub fn resolve_destination(rootfs: &Path, destination: &Path) -> Result<PathBuf> {
    Root::open_host(rootfs)?.resolve(destination)
}

/// Makes the mount points of all mounts that a restore will need, in the plan's root filesystem, as create does:
/// directories, or files for binds of files, with links followed inside the root.
///
/// Mounts of cgroups are left out, and whatever lies on top of another filesystem than the root's (a tmpfs, procfs):
/// CRIU fills or mounts that itself. A mount point inside a bind mount is made in the bind's source. For that
/// the binds are really mounted, in a mount namespace that a thread of its own has and that ends with it: no
/// mount can be left behind, whatever happens to the caller. May be called from a multi-threaded process.
///
/// A root that is to be read-only gets a `/tmp` too: CRIU hangs the old root there for a moment, and can make no other
/// place for it.
///
/// # Errors
/// The first mount point that cannot be made, naming the entry of `mounts`; those before it stay.
pub fn prepare_mountpoints(plan: &RootfsPlan) -> Result<()> {
    if plan.readonly_root {
        Root::open_host(&plan.rootfs)?
            .open_or_create(Path::new("/tmp"), Mountpoint::Directory, Links::Follow)
            .context(|| "make /tmp for CRIU in a root that is to be read-only")?;
    }
    let mounts: Vec<&MountPlan> = plan
        .mounts
        .iter()
        .enumerate()
        .filter(|(index, _)| is_needed(&plan.mounts, *index))
        .map(|(_, m)| m)
        .collect();
    let last_bind_matters = mounts
        .iter()
        .position(|mount| matches!(mount.kind, MountKind::Bind { .. }))
        .is_some_and(|first| first.saturating_add(1) < mounts.len());
    if !last_bind_matters {
        let root = Root::open_host(&plan.rootfs)?;
        return mounts.iter().try_for_each(|mount| prepare_one(&root, mount, Binds::Leave));
    }
    let in_namespace = || {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).context(|| "unshare the mount namespace")?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>)
            .context(|| "make all mounts private")?;
        let root = Root::open_host(&plan.rootfs)?;
        mounts.iter().try_for_each(|mount| prepare_one(&root, mount, Binds::Mount))
    };
    thread::scope(|scope| {
        let spawned = thread::Builder::new().name("mountpoints".to_owned()).spawn_scoped(scope, in_namespace);
        spawned.context(|| "start a thread")?.join().unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::System, "the thread that makes mount points panicked"))
        })
    })
}

/// Mounts an entry's content on a place of its own, a directory or file that is there: for CRIU, which binds what it is
/// shown. That is the source of a bind, its owners mapped, or a filesystem.
///
/// # Errors
/// When it cannot be opened, mapped or mounted.
pub fn mount_source(mount: &MountPlan, on: &Path) -> Result<()> {
    let tree = match &mount.kind {
        MountKind::Filesystem { fstype, source } => {
            let (flags, data) = (mount.options.set, &mount.options.data);
            let new = NewFilesystem { fstype, source, flags, data, label: Label::None };
            if new.needs_mount2() {
                return new.mount_on(on);
            }
            new.detached()?
        }
        kind => {
            let recursive = matches!(kind, MountKind::Bind { recursive: true, .. });
            OwnSources.open(mount)?.into_tree(recursive)?
        }
    };
    let place = open(on, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
        .context(|| format!("open {}", on.display()))?;
    attach(tree.as_fd(), place.as_fd()).context(|| format!("move_mount to {}", on.display()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Binds {
    Mount,
    Leave,
}

/// Whether the mount point lies on the root filesystem or on a bind mount: decided by the last mount before it
/// whose destination contains it.
fn is_needed(mounts: &[MountPlan], index: usize) -> bool {
    let Some((this, before)) = mounts.get(..=index).and_then(<[_]>::split_last) else {
        return false;
    };
    let below = before.iter().rev().find(|other| {
        this.destination != other.destination && this.destination.starts_with(&other.destination)
    });
    !matches!(this.kind, MountKind::Cgroup { .. })
        && below.is_none_or(|other| matches!(other.kind, MountKind::Bind { .. }))
}

fn prepare_one(root: &Root, plan: &MountPlan, binds: Binds) -> Result<()> {
    let sources = OwnSources;
    let prepare = || match &plan.kind {
        MountKind::Bind { .. } if binds == Binds::Mount => {
            Builder { root, sources: &sources, label: None }.bind(plan)
        }
        MountKind::Bind { .. } => bind_target(root, plan, &sources.open(plan)?).map(drop),
        MountKind::Filesystem { .. } | MountKind::Cgroup { .. } => directory_target(root, plan).map(drop),
    };
    prepare().context(|| {
        format!("prepare the mount point {} (mounts[{}])", plan.destination.display(), plan.index)
    })
}
