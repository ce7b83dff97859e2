// SPDX-License-Identifier: Apache-2.0
//! Carries out one entry of `mounts`: finds or makes the destination inside the root, mounts exactly there, checks.
//!
//! Every mount is made detached, gets its attributes while nobody can reach it, and is attached to the fd of its
//! destination, so nothing that is swapped meanwhile can lead it elsewhere. Afterwards the destination is resolved
//! again and must lie on the new mount. Must not know of pivoting, devices or masked paths.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};

use super::bind::set_bind_attributes;
use super::cgroups;
use super::copy_up::copy_up;
use super::destination::check_destination;
use super::filesystem::{Label, NewFilesystem};
use super::options::{MountOptions, Propagation};
use super::plan::{MountKind, MountPlan};
use super::resolve::{Found, Links, Mountpoint, Root};
use super::sources::{Source, Sources};
use crate::sys::mount::{Attributes, Extent, attach, mount_id, set_attributes};
use crate::{Context, Error, ErrorKind, Result};

/// What entries are mounted in and with.
pub(super) struct Builder<'a> {
    /// The root filesystem.
    pub(super) root: &'a Root,
    /// Who opens the sources of bind mounts.
    pub(super) sources: &'a dyn Sources,
    /// `linux.mountLabel`.
    pub(super) label: Option<&'a str>,
}

impl Builder<'_> {
    /// Mounts one entry. Returns the mount if it must still be made read-only once its content is complete.
    pub(super) fn mount_entry(&self, plan: &MountPlan) -> Result<Option<OwnedFd>> {
        let mounted = match &plan.kind {
            MountKind::Bind { .. } => self.bind(plan).map(|()| None),
            MountKind::Filesystem { fstype, source } => self.filesystem(plan, fstype, source),
            MountKind::Cgroup { layout, namespace } => {
                cgroups::mount_cgroups(self.root, plan, layout, *namespace, self.label).map(|()| None)
            }
        };
        mounted.context(|| {
            let what = match &plan.kind {
                MountKind::Bind { source, .. } => source.display().to_string(),
                MountKind::Filesystem { fstype, .. } => fstype.clone(),
                MountKind::Cgroup { .. } => "cgroup".to_owned(),
            };
            // The beginning is what clients look for.
            let (destination, index) = (plan.destination.display().to_string(), plan.index);
            format!("error mounting {what:?} to rootfs at {destination:?} (mounts[{index}])")
        })
    }

    /// Bind mounts a host path on the entry's destination, made as a directory or file after the source.
    pub(super) fn bind(&self, plan: &MountPlan) -> Result<()> {
        let recursive = matches!(plan.kind, MountKind::Bind { recursive: true, .. });
        let source = self.sources.open(plan)?;
        let target = bind_target(self.root, plan, &source)?;
        let tree = source.into_tree(recursive)?;
        set_bind_attributes(tree.as_fd(), &plan.options)?;
        put(self.root, plan, &tree, &target, Links::Follow)
    }

    fn filesystem(&self, plan: &MountPlan, fstype: &str, source: &str) -> Result<Option<OwnedFd>> {
        let links = links_for(plan);
        let target = directory_target(self.root, plan)?;
        let mut flags = plan.options.set;
        let mut data = plan.options.data.clone();
        // What is still to be filled cannot be read-only yet.
        let filled_later = plan.is_tmpfs() || plan.destination == Path::new("/dev");
        let readonly_later = filled_later && flags & libc::MS_RDONLY != 0 && flags & libc::MS_REMOUNT == 0;
        if readonly_later {
            flags &= !libc::MS_RDONLY;
        }
        if plan.is_tmpfs() && !target.created && !data.iter().any(|word| word.starts_with("mode=")) {
            let mode = fstat(&target.fd).context(|| "stat the directory beneath")?.st_mode & 0o7777;
            data.push(format!("mode={mode:o}"));
        }
        let new = NewFilesystem { fstype, source, flags, data: &data, label: Label::of(fstype, self.label) };
        let mounted = if new.needs_mount2() {
            let mounted = mount_by_path(self.root, plan, &new, &target)?;
            self.fill(plan, &new, &target, &mounted)?;
            mounted
        } else {
            let mounted = new.detached()?;
            self.fill(plan, &new, &target, &mounted)?;
            put(self.root, plan, &mounted, &target, links)?;
            mounted
        };
        Ok(readonly_later.then_some(mounted))
    }

    /// What a new filesystem gets from us before the container sees it.
    fn fill(
        &self,
        plan: &MountPlan,
        new: &NewFilesystem<'_>,
        target: &Found,
        mounted: &OwnedFd,
    ) -> Result<()> {
        if plan.options.copy_up && plan.is_tmpfs() && !target.created {
            copy_up(target.fd.as_fd(), mounted.as_fd())
                .context(|| format!("tmpcopyup: copy what is in {}", plan.destination.display()))?;
        }
        new.label.write(mounted.as_fd())
    }
}

/// Finds or makes the place of a bind mount, and checks it.
pub(super) fn bind_target(root: &Root, plan: &MountPlan, source: &Source) -> Result<Found> {
    let is_directory = is_directory(source.fd()).context(|| "stat the source")?;
    let kind = if is_directory { Mountpoint::Directory } else { Mountpoint::File };
    let target = root.open_or_create(&plan.destination, kind, Links::Follow)?;
    check_destination(root, plan, &target, Some(source.fd()))?;
    Ok(target)
}

/// Finds or makes the place of anything else, and checks it.
pub(super) fn directory_target(root: &Root, plan: &MountPlan) -> Result<Found> {
    let links = links_for(plan);
    let target = match root.open_or_create(&plan.destination, Mountpoint::Directory, links) {
        Err(error) if error.is_errno(libc::ELOOP) && links == Links::Refuse => {
            return Err(not_ordinary(plan).with_source(error));
        }
        found => found?,
    };
    if links == Links::Refuse && !is_directory(target.fd.as_fd()).context(|| "stat the destination")? {
        return Err(not_ordinary(plan));
    }
    check_destination(root, plan, &target, None)?;
    Ok(target)
}

/// In the words that clients know.
fn not_ordinary(plan: &MountPlan) -> Error {
    let fstype = match &plan.kind {
        MountKind::Filesystem { fstype, .. } => fstype.as_str(),
        _ => "",
    };
    let message = format!("filesystem {fstype:?} must be mounted on ordinary directory");
    Error::new(ErrorKind::InvalidConfig, message)
}

/// Links on the way to these are refused: a `/proc` that is elsewhere would make all that is written to or masked
/// in `/proc` go astray.
pub(super) fn links_for(plan: &MountPlan) -> Links {
    match &plan.kind {
        MountKind::Filesystem { fstype, .. } if fstype == "proc" || fstype == "sysfs" => Links::Refuse,
        _ => Links::Follow,
    }
}

/// mount(2) on the fd's link in /proc, for what the newer calls cannot express.
fn mount_by_path(root: &Root, plan: &MountPlan, new: &NewFilesystem<'_>, target: &Found) -> Result<OwnedFd> {
    new.mount_on(Path::new(&format!("/proc/self/fd/{}", target.fd.as_raw_fd())))?;
    let mounted = reopen(root, plan, links_for(plan))?;
    let is_new = mount_id_of(mounted.as_fd())? != mount_id_of(target.fd.as_fd())?;
    if !is_new && new.flags & libc::MS_REMOUNT == 0 {
        return Err(moved(plan));
    }
    finish(mounted.as_fd(), &plan.options)?;
    Ok(mounted)
}

/// Attaches the mount to its destination, checks that the destination's path leads to it, and applies propagation.
pub(super) fn put(
    root: &Root,
    plan: &MountPlan,
    mounted: &OwnedFd,
    target: &Found,
    links: Links,
) -> Result<()> {
    attach(mounted.as_fd(), target.fd.as_fd())
        .map_err(|errno| explain_attach(mounted.as_fd(), target.fd.as_fd(), errno))?;
    let there = reopen(root, plan, links)?;
    if mount_id_of(there.as_fd())? != mount_id_of(mounted.as_fd())? {
        return Err(moved(plan));
    }
    finish(mounted.as_fd(), &plan.options)
}

/// The kernel says `EINVAL` for much; the commonest reason is a file on a directory or the reverse.
fn explain_attach(mounted: BorrowedFd<'_>, target: BorrowedFd<'_>, errno: Errno) -> Error {
    let (message, errno) = match (is_directory(mounted), is_directory(target)) {
        (Ok(true), Ok(false)) => {
            ("not a directory: the destination, while the source is one", Errno::ENOTDIR)
        }
        (Ok(false), Ok(true)) => ("not a directory: the source, while the destination is one", Errno::EISDIR),
        _ => ("move_mount to the destination", errno),
    };
    let Err(error) = Err::<Infallible, _>(errno).context(|| message);
    error
}

fn is_directory(fd: BorrowedFd<'_>) -> std::result::Result<bool, Errno> {
    Ok(fstat(fd)?.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
}

fn finish(mounted: BorrowedFd<'_>, options: &MountOptions) -> Result<()> {
    if !options.recursive.is_empty() {
        let attributes = Attributes::new(options.recursive.set, options.recursive.clear);
        set_attributes(mounted, &attributes, Extent::Tree).context(|| "mount_setattr of the whole tree")?;
    }
    options.propagation.iter().try_for_each(|change| set_propagation(mounted, *change))
}

/// Changes the propagation of the mount whose root the fd refers to.
pub(super) fn set_propagation(mounted: BorrowedFd<'_>, change: Propagation) -> Result<()> {
    let extent = if change.recursive { Extent::Tree } else { Extent::Mount };
    set_attributes(mounted, &Attributes::propagation(change.kind.flag()), extent)
        .context(|| format!("make the mount {change:?}"))
}

fn reopen(root: &Root, plan: &MountPlan, links: Links) -> Result<OwnedFd> {
    root.open(&plan.destination, links).context(|| "reopen the destination")
}

fn mount_id_of(fd: BorrowedFd<'_>) -> Result<u64> {
    mount_id(fd).context(|| "statx the mount's id")
}

fn moved(plan: &MountPlan) -> Error {
    let message = format!("{} changed while it was mounted on", plan.destination.display());
    Error::new(ErrorKind::System, message)
}
