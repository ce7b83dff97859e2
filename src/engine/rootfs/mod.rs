// SPDX-License-Identifier: Apache-2.0
//! The container's root filesystem: decided in the parent, built by init.
//!
//! ```text
//! parent   config.json ── RootfsPlan::from_spec ──▶ RootfsPlan ── JSON ──┐
//! init     ┌─────────────────────────────────────────────────────────────┘
//!          └▶ prepare ──▶ Prepared ── enter ──▶ Entered ── protect ──▶ done
//!              mounts,     (hooks,     pivot,    (sysctl,   read-only and
//!              devices      console)   read-only  hostname)  masked paths
//! ```
//!
//! [`prepare`] to [`Entered::protect`] run in init: single-threaded, in the new mount namespace, with all
//! capabilities, with the host's `/proc` mounted. Each step consumes the one before. On an error init exits, and with
//! it the mount namespace goes: there is nothing to undo. A container without one is the exception: [`host`]. Checkpoint
//! and restore use [`resolve_destination`] and [`prepare_mountpoints`] in their own process.
//!
//! Knows neither cgroups (their paths come in as [`CgroupLayout`]) nor namespaces, hooks or capabilities.
//! Nothing here walks a path of the container without resolving it beneath the root's fd.

mod bind;
mod cgroups;
mod console;
mod copy_up;
mod destination;
mod devices;
mod external;
mod filesystem;
pub mod host;
mod id_map;
mod inherited;
mod mountpoints;
mod mounts;
mod options;
mod pivot;
mod plan;
mod protect;
mod resolve;
mod sources;
mod stdio;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_filled;
mod unnamed;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sys::stat::{Mode, umask};

pub use devices::{DeviceKind, DevicePlan};
pub use id_map::{IdMap, Mapping};
pub use inherited::InheritedMount;
pub use mountpoints::{mount_source, prepare_mountpoints, resolve_destination};
pub use options::{IdMapReach, MountOptions, Propagation, PropagationKind, RecursiveAttributes};
pub use plan::{CgroupBind, CgroupLayout, Entry, MountKind, MountPlan, PlanContext, RootfsPlan};
pub use sources::{OwnSources, Source, Sources};
pub use unnamed::{UnnamedMount, unnamed_mounts};

use crate::sys::mount::{Attributes, Extent, MOUNT_ATTR_RDONLY, set_attributes};
use crate::{Context, Result};
use mounts::Builder;
use resolve::{Links, Mountpoint, Root};

/// The words of mount options that are not for the filesystem.
pub(super) fn mount_words() -> &'static [&'static str] {
    &options::WORDS
}

/// The root filesystem with its mounts and devices, not entered yet: the moment for createContainer hooks and for
/// the console.
#[derive(Debug)]
pub struct Prepared<'a> {
    plan: &'a RootfsPlan,
    root: Root,
    readonly_later: Vec<OwnedFd>,
}

/// The root filesystem as the process's `/`, before its last protections: the moment for sysctls, which are
/// written below paths that become read-only.
#[derive(Debug)]
pub struct Entered<'a> {
    plan: &'a RootfsPlan,
    root: Root,
}

/// Mounts everything and makes the devices, beneath the plan's `rootfs`.
///
/// # Errors
/// What could not be mounted or made, naming the entry of `config.json`; the namespace is then unusable.
pub fn prepare<'a>(plan: &'a RootfsPlan, sources: &dyn Sources) -> Result<Prepared<'a>> {
    let _umask = Umask::set(0);
    let root = match plan.entry {
        // The runtime has bound it there: see [`host`].
        Entry::Chroot => Root::open_host(&plan.rootfs)?,
        Entry::PivotRoot | Entry::MoveMount => pivot::isolate(plan)?,
    };
    let mut readonly_later = Vec::new();
    let builder = Builder { root: &root, sources, label: plan.mount_label.as_deref() };
    for mount in &plan.mounts {
        readonly_later.extend(builder.mount_entry(mount)?);
    }
    if let Some(devices) = &plan.devices {
        devices::create(&root, devices, plan.bind_devices)?;
    }
    Ok(Prepared { plan, root, readonly_later })
}

impl<'a> Prepared<'a> {
    /// The root filesystem's mount, to resolve paths in.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.fd()
    }

    /// The container's `/dev/pts/ptmx` as a path fd, checked to be the multiplexer of a devpts.
    ///
    /// # Errors
    /// What is there instead, or the system call that failed.
    pub fn open_ptmx(&self) -> Result<OwnedFd> {
        console::open_ptmx(&self.root)
    }

    /// Binds the container's terminal on its `/dev/console`.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn bind_console(&self, terminal: BorrowedFd<'_>) -> Result<()> {
        let _umask = Umask::set(0);
        console::bind(&self.root, terminal)
    }

    /// Makes the root filesystem `/`: the working directory becomes `/`, standard streams on the host's null
    /// device move to the container's, a missing `process.cwd` is made, and what shall be read-only is.
    ///
    /// # Errors
    /// The step that failed; the process is then neither here nor there and must exit.
    pub fn enter(self) -> Result<Entered<'a>> {
        let Self { plan, root, readonly_later } = self;
        match plan.entry {
            Entry::PivotRoot => pivot::pivot(&root)?,
            Entry::MoveMount => pivot::move_over(&root, &plan.rootfs)?,
            Entry::Chroot => pivot::enter_by_chroot(root.fd())?,
        }
        // The others were set before; these two stand in the way of pivot_root(2) or of the bind mount of /.
        if matches!(plan.propagation.kind, PropagationKind::Shared | PropagationKind::Unbindable) {
            mounts::set_propagation(root.fd(), plan.propagation)
                .context(|| "set linux.rootfsPropagation on /")?;
        }
        if plan.devices.is_some() {
            stdio::reopen_dev_null()?;
        }
        if let Some(cwd) = plan.cwd.as_deref().filter(|cwd| *cwd != Path::new("/")) {
            let _umask = Umask::set(0);
            root.open_or_create(cwd, Mountpoint::Directory, Links::Follow).context(|| "make process.cwd")?;
        }
        for tmpfs in &readonly_later {
            make_mount_readonly(tmpfs.as_fd()).context(|| "make a tmpfs read-only")?;
        }
        if plan.readonly_root {
            make_mount_readonly(root.fd()).context(|| "make / read-only")?;
        }
        Ok(Entered { plan, root })
    }
}

impl Entered<'_> {
    /// Makes `linux.readonlyPaths` read-only and hides `linux.maskedPaths`.
    ///
    /// # Errors
    /// The path that could not be protected; the container must not start.
    pub fn protect(self) -> Result<()> {
        protect::make_readonly(&self.root, &self.plan.readonly_paths)?;
        protect::mask(&self.root, &self.plan.masked_paths, self.plan.mount_label.as_deref())
    }
}

/// [`Prepared::open_ptmx`] in the root filesystem that this process is in.
///
/// # Errors
/// What is there instead, or the system call that failed.
pub fn open_ptmx_here() -> Result<OwnedFd> {
    console::open_ptmx(&Root::open_host(Path::new("/"))?)
}

/// Makes a directory the root and working directory of this process (chroot(2)).
///
/// # Errors
/// The system call that failed.
pub fn enter_root(root: BorrowedFd<'_>) -> Result<()> {
    pivot::enter_by_chroot(root)
}

/// The mount's other flags stay, the locked ones among them.
fn make_mount_readonly(mount: BorrowedFd<'_>) -> Result<()> {
    set_attributes(mount, &Attributes::new(MOUNT_ATTR_RDONLY, 0), Extent::Mount).context(|| "mount_setattr")
}

/// The umask, until dropped: modes are given exactly.
struct Umask(Mode);

impl Umask {
    fn set(bits: libc::mode_t) -> Self {
        Self(umask(Mode::from_bits_truncate(bits)))
    }
}

impl Drop for Umask {
    fn drop(&mut self) {
        umask(self.0);
    }
}
