// SPDX-License-Identifier: Apache-2.0
//! The mounts that come from outside: name in the images → path on this host. Surplus names do no harm, a missing one
//! fails the restore; so the names of runc's and of crun's images are all there.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use super::recorded::{Mask, RecordedMounts};
use crate::criu::ExternalMount;
use crate::engine::NewContainer;
use crate::engine::rootfs::{MountKind, MountPlan, mount_source, resolve_destination};
use crate::sys::mount::{Extent, attach, clone_tree};
use crate::sys::mountinfo;
use crate::sys::namespace::PrivateMounts;
use crate::{Context, Error, ErrorKind, Result};

/// Where sources that CRIU could not use as they are are mounted for it, in the container's directory.
const PLACES: &str = "criu-mounts";

/// Whether CRIU needs another source than the configuration's: it maps no owners and mounts no devices, and in a user
/// namespace it opens sources as the container's root, who may not reach them.
fn is_placed(new: &NewContainer, mount: &MountPlan) -> bool {
    let is_bind = matches!(mount.kind, MountKind::Bind { .. });
    mount.is_id_mapped()
        || mount.foreign_filesystem().is_some()
        || (is_bind && new.user_namespace().is_some())
}

/// Mounts such sources where CRIU can use them, and an empty directory if the images want one. In this mount namespace
/// only.
pub(in crate::restore) fn place_sources(
    new: &NewContainer,
    recorded: &RecordedMounts,
    given: &[ExternalMount],
    _private: &PrivateMounts,
) -> Result<()> {
    let placed: Vec<_> = new.rootfs_plan().mounts.iter().filter(|mount| is_placed(new, mount)).collect();
    for mount in &placed {
        let (source, place) = (source_of(mount), place_of(new, mount));
        make_place(new, &place, source, mount.foreign_filesystem().is_some())
            .context(|| format!("make a place for {} (mounts[{}])", source.display(), mount.index))?;
        mount_source(mount, &place)
            .context(|| format!("mount {} for criu (mounts[{}])", source.display(), mount.index))?;
    }
    let given = if new.user_namespace().is_some() { given } else { &[] };
    for (number, mount) in given.iter().enumerate() {
        let (source, place) = (Path::new(&mount.value), place_of_given(new, number));
        make_place(new, &place, source, false)
            .context(|| format!("make a place for {} (--external mnt[{}])", mount.value, mount.key))?;
        bind(source, &place)
            .context(|| format!("mount {} for criu (--external mnt[{}])", mount.value, mount.key))?;
    }
    let wants_empty = recorded.wants_empty_directory(new)?;
    if wants_empty {
        place_empty_directory(&empty_directory(new))
            .context(|| "mount an empty directory for criu, in the place of masked ones")?;
    }
    if (wants_empty || !placed.is_empty() || !given.is_empty()) && new.user_namespace().is_some() {
        open_way(new.dir()).context(|| format!("open a way to {} for criu", new.dir().display()))?;
    }
    Ok(())
}

/// A directory or a file to mount a source on.
fn make_place(new: &NewContainer, place: &Path, source: &Path, is_directory: bool) -> std::io::Result<()> {
    fs::create_dir_all(new.dir().join(PLACES))?;
    match is_directory || fs::metadata(source)?.is_dir() {
        true => fs::create_dir_all(place),
        false => fs::write(place, ""),
    }
}

fn bind(source: &Path, place: &Path) -> nix::Result<()> {
    mount(Some(source), place, None::<&Path>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&Path>)
}

/// Its own file system, for its source is seen from inside the container.
fn place_empty_directory(at: &Path) -> Result<()> {
    fs::create_dir_all(at).context(|| format!("make {}", at.display()))?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some("mode=755,nr_inodes=1"))
        .context(|| format!("mount a tmpfs on {}", at.display()))
}

fn empty_directory(new: &NewContainer) -> PathBuf {
    new.dir().join(PLACES).join("empty")
}

fn source_of(mount: &MountPlan) -> &Path {
    match &mount.kind {
        MountKind::Bind { source, .. } => source,
        MountKind::Filesystem { source, .. } => Path::new(source),
        MountKind::Cgroup { .. } => Path::new("cgroup"),
    }
}

/// Only root may search the state root, and CRIU is the container's root by then. So a directory that all may search is
/// mounted over it, with the container's own in it; the others are not needed here.
fn open_way(directory: &Path) -> Result<()> {
    let state_root = directory.parent().unwrap_or(Path::new("/"));
    let open = || File::open(directory).context(|| "open");
    let tree = clone_tree(open()?.as_fd(), Extent::Tree).context(|| "open_tree")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), state_root, Some("tmpfs"), flags, Some("mode=711"))
        .context(|| format!("mount a tmpfs on {}", state_root.display()))?;
    fs::create_dir(directory).context(|| "mkdir")?;
    attach(tree.as_fd(), open()?.as_fd()).context(|| "move_mount")
}

/// Removes what [`place_sources`] has made, once the mounts are gone with their namespace.
pub(in crate::restore) fn remove_places(new: &NewContainer) -> Result<()> {
    let places = new.dir().join(PLACES);
    match fs::remove_dir_all(&places) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).context(|| format!("remove {}", places.display()))
        }
        _ => Ok(()),
    }
}

fn place_of(new: &NewContainer, mount: &MountPlan) -> PathBuf {
    new.dir().join(PLACES).join(mount.index.to_string())
}

fn place_of_given(new: &NewContainer, number: usize) -> PathBuf {
    new.dir().join(PLACES).join(format!("given-{number}"))
}

/// The external mounts of the container that is restored. What the caller has `given` has precedence.
pub(in crate::restore) fn external_mounts(
    new: &NewContainer,
    recorded: &RecordedMounts,
    given: &[ExternalMount],
) -> Result<Vec<ExternalMount>> {
    let plan = new.rootfs_plan();
    let mut list: Vec<ExternalMount> = Vec::new();
    let mut add = |key: &Path, value: &Path| -> Result<()> {
        let (key, value) = (utf8(key)?, utf8(value)?);
        if !list.iter().any(|e| e.key == key) {
            list.push(ExternalMount { key, value });
        }
        Ok(())
    };
    for (number, mount) in given.iter().enumerate() {
        let source = match new.user_namespace() {
            Some(_) => place_of_given(new, number),
            None => fs::canonicalize(&mount.value)
                .context(|| format!("find the source {} (--external mnt[{}])", mount.value, mount.key))?,
        };
        add(Path::new(&mount.key), &source)?;
    }
    for mount in &plan.mounts {
        if matches!(mount.kind, MountKind::Bind { .. }) || mount.foreign_filesystem().is_some() {
            let source = if is_placed(new, mount) {
                place_of(new, mount)
            } else {
                // CRIU would bind a symbolic link itself, and then not find its mount.
                let source = source_of(mount);
                fs::canonicalize(source)
                    .context(|| format!("find the source {} (mounts[{}])", source.display(), mount.index))?
            };
            add(&resolve_destination(new.rootfs(), &mount.destination)?, &source)?;
            add(&mount.destination, &source)?;
        }
        for (inside, host) in plan.external_cgroups(mount) {
            add(&inside, host)?;
        }
    }
    let host = mountinfo::read().context(|| "read /proc/thread-self/mountinfo")?;
    for inherited in plan.inherited_mounts(new.rootfs(), &host)? {
        let placed =
            inherited.bind.and_then(|bind| plan.mounts.get(bind)).filter(|mount| is_placed(new, mount));
        let placed = placed.map(|mount| place_of(new, mount).join(&inherited.below));
        add(&inherited.inside, placed.as_deref().unwrap_or(&inherited.host.mount_point))?;
    }
    let null = PathBuf::from("/dev/null");
    add(&null, &null)?;
    let empty = empty_directory(new);
    for (name, mask) in recorded.masks(new)? {
        let source = match mask {
            Mask::File => &null,
            Mask::Directory => &empty,
        };
        add(Path::new(name), source)?;
    }
    for device in plan.devices.iter().flatten() {
        add(&device.path, &device.path)?;
    }
    Ok(list)
}

fn utf8(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            format!("mount path {path:?} is not UTF-8, which criu's request must be"),
        )
    })
}
