// SPDX-License-Identifier: Apache-2.0
//! Carries out a mount of type `cgroup`: what a container sees of its cgroups.
//!
//! Version 1 is a small tmpfs with a directory per hierarchy; each is the hierarchy itself if the container has a
//! cgroup namespace (whose root is its own cgroup), else a bind mount of its own cgroup. Version 2 is one mount.
//! Must not know how cgroups are made or limited: all paths come with the plan.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::symlinkat;

use super::bind::set_bind_attributes;
use super::filesystem::{Label, NewFilesystem};
use super::mounts::{directory_target, put};
use super::plan::{CgroupBind, CgroupLayout, MountPlan};
use super::resolve::{Found, Links, Root};
use crate::sys::mount::{Attributes, Extent, MOUNT_ATTR_RDONLY, attach, clone_tree, set_attributes};
use crate::{Context, Result};

/// What no file of a cgroup needs.
const USUAL: u64 = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;

pub(super) fn mount_cgroups(
    root: &Root,
    plan: &MountPlan,
    layout: &CgroupLayout,
    namespace: bool,
    label: Option<&str>,
) -> Result<()> {
    let target = directory_target(root, plan)?;
    match layout {
        CgroupLayout::V1(hierarchies) => mount_v1(root, plan, &target, hierarchies, namespace, label),
        CgroupLayout::V2 { host_mount, host_path } => {
            let mounted = if namespace {
                let new = NewFilesystem {
                    fstype: "cgroup2",
                    source: "cgroup",
                    flags: plan.options.set,
                    data: &plan.options.data,
                    label: Label::None,
                };
                match new.detached() {
                    // In a user namespace that does not own the cgroup namespace.
                    Err(error) if error.is_errno(libc::EPERM) || error.is_errno(libc::EBUSY) => {
                        match bind_v2(plan, host_path) {
                            // The caller could not make one: nothing of the host's is shown in its place.
                            Err(error) if error.is_errno(libc::ENOENT) => nothing(label),
                            done => done,
                        }
                    }
                    done => done,
                }
            } else {
                // Mounting it anew from the host's cgroup namespace would reset the options of the host's own
                // mount (nsdelegate, memory_recursiveprot): it is copied instead.
                bind_v2(plan, host_mount)
            }?;
            put(root, plan, &mounted, &target, Links::Follow)
        }
    }
}

/// An empty directory that stays empty.
fn nothing(label: Option<&str>) -> Result<OwnedFd> {
    let new = NewFilesystem {
        fstype: "tmpfs",
        source: "tmpfs",
        flags: USUAL | libc::MS_RDONLY,
        data: &["nr_blocks=1,nr_inodes=1"],
        label: Label::of("tmpfs", label),
    };
    new.detached()
}

fn bind_v2(plan: &MountPlan, source: &Path) -> Result<OwnedFd> {
    let mounted = copy_of(source)?;
    set_bind_attributes(mounted.as_fd(), &plan.options)?;
    // CRIU takes it for a mount of the container's own, which must not be the host's peer or slave.
    set_attributes(mounted.as_fd(), &Attributes::propagation(libc::MS_PRIVATE), Extent::Mount)
        .context(|| "make the mount private")?;
    Ok(mounted)
}

fn copy_of(source: &Path) -> Result<OwnedFd> {
    let fd = open(source, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .context(|| format!("open the source {}", source.display()))?;
    clone_tree(fd.as_fd(), Extent::Mount).context(|| format!("open_tree {}", source.display()))
}

fn mount_v1(
    root: &Root,
    plan: &MountPlan,
    target: &Found,
    hierarchies: &[CgroupBind],
    namespace: bool,
    label: Option<&str>,
) -> Result<()> {
    let tmpfs = NewFilesystem {
        fstype: "tmpfs",
        source: "tmpfs",
        flags: USUAL,
        data: &["mode=755"],
        label: Label::of("tmpfs", label),
    };
    let tmpfs = tmpfs.detached()?;
    put(root, plan, &tmpfs, target, Links::Follow)?;
    for hierarchy in hierarchies {
        mount_hierarchy(plan, &tmpfs, hierarchy, namespace)
            .context(|| format!("mount the {} hierarchy", hierarchy.name))?;
    }
    if plan.options.set & libc::MS_RDONLY != 0 {
        set_attributes(tmpfs.as_fd(), &Attributes::new(MOUNT_ATTR_RDONLY, 0), Extent::Mount)
            .context(|| "make the tmpfs read-only")?;
    }
    Ok(())
}

fn mount_hierarchy(plan: &MountPlan, tmpfs: &OwnedFd, hierarchy: &CgroupBind, namespace: bool) -> Result<()> {
    let name = hierarchy.name.as_str();
    mkdirat(tmpfs, name, Mode::from_bits_truncate(0o755)).context(|| "mkdir")?;
    let directory = openat(tmpfs, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
        .context(|| "open the new directory")?;
    let mounted = if namespace {
        let new = NewFilesystem {
            fstype: "cgroup",
            source: "cgroup",
            flags: plan.options.set | USUAL,
            data: &[&hierarchy.fs_data],
            label: Label::None,
        };
        new.detached()?
    } else {
        let mounted = copy_of(&hierarchy.host_path)?;
        set_bind_attributes(mounted.as_fd(), &plan.options)?;
        mounted
    };
    attach(mounted.as_fd(), directory.as_fd()).context(|| "move_mount")?;
    for link in &hierarchy.symlinks {
        match symlinkat(name, tmpfs, link.as_str()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error).context(|| format!("link {link}")),
        }
    }
    Ok(())
}
