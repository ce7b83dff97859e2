// SPDX-License-Identifier: Apache-2.0
//! The mounts that a restore gets from outside: what CRIU must not look into. Names are runc's, so that the images
//! mean the same to both.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use crate::criu::ExternalMount;
use crate::engine::host_mounts;
use crate::engine::rootfs::{MountKind, MountPlan, resolve_destination, unnamed_mounts};
use crate::engine::{Container, InitProcess};
use crate::spec::Config;
use crate::sys::mountinfo::{self, MountInfo};
use crate::{Context, Error, ErrorKind, Result};

/// The external mounts of a running container: mountpoint inside → name in the images. Those in `given` the caller names
/// to CRIU. Where the ones are from that the configuration does not name is written beside the images.
pub(super) fn mounts(
    container: &Container,
    config: &Config,
    init: InitProcess,
    given: &[String],
    images: BorrowedFd<'_>,
) -> Result<Vec<ExternalMount>> {
    let plan = container.rootfs_plan(config)?;
    let root = PathBuf::from(format!("/proc/{}/root", init.pid));
    let mounts = mounts_of(init)?;
    let mounted: HashSet<&Path> = mounts.iter().map(|m| m.mount_point.as_path()).collect();
    let mut list = Vec::new();
    let mut add = |key: String, value: String| {
        if !list.iter().any(|e: &ExternalMount| e.key == key) {
            list.push(ExternalMount { key, value });
        }
    };
    for mount in &plan.mounts {
        let bind = match &mount.kind {
            MountKind::Bind { .. } => Some(resolve_destination(&root, &mount.destination)?),
            _ if mount.foreign_filesystem().is_some() => Some(foreign(mount, &root)?),
            _ => None,
        };
        let cgroups = plan.external_cgroups(mount).into_iter().map(|(inside, _)| inside);
        for path in bind.into_iter().chain(cgroups) {
            let path = utf8(path)?;
            add(path.clone(), path);
        }
    }
    for path in &plan.masked_paths {
        let inside = resolve_destination(&root, path)?;
        // A masked directory is a tmpfs of the container's own; a masked file is /dev/null on top of it.
        if mounted.contains(inside.as_path()) && !is_directory(&root, &inside) {
            add(utf8(inside)?, "/dev/null".to_owned());
        }
    }
    for device in plan.devices.iter().flatten() {
        if mounted.contains(device.path.as_path()) {
            let path = utf8(device.path.clone())?;
            add(path.clone(), path);
        }
    }
    let host = mountinfo::read().context(|| "read /proc/thread-self/mountinfo")?;
    for inherited in plan.inherited_mounts(&root, &host)? {
        // What the container has mounted on such a place is its own.
        let seen = mounts.iter().rev().find(|m| m.mount_point == inherited.inside);
        if seen.is_some_and(|m| (&m.device, &m.root) == (&inherited.host.device, &inherited.host.root)) {
            let path = utf8(inherited.inside)?;
            add(path.clone(), path);
        }
    }
    let is_known = |path: &Path| list.iter().any(|known| Path::new(&known.key) == path);
    let unnamed = unnamed_mounts(&mounts, &host, is_known, |path| path.symlink_metadata().is_ok());
    let given: Vec<ExternalMount> = given.iter().filter_map(|object| ExternalMount::parse(object)).collect();
    list.retain(|mount| !given.iter().any(|given| given.key == mount.key));
    let mut sources = BTreeMap::new();
    for mount in unnamed {
        let (path, source) = (utf8(mount.inside)?, utf8(mount.source)?);
        if let Some(given) = given.iter().find(|given| given.key == path) {
            sources.insert(given.value.clone(), source);
            continue;
        }
        tracing::warn!(
            mount = path,
            source,
            "mount of the host that config.json does not name: a restore must be told"
        );
        sources.insert(path.clone(), source);
        list.push(ExternalMount { key: path.clone(), value: path });
    }
    host_mounts::write(images, sources)?;
    Ok(list)
}

/// The place of a filesystem that a restore mounts again. What is only in memory would be lost.
fn foreign(mount: &MountPlan, root: &Path) -> Result<PathBuf> {
    let inside = resolve_destination(root, &mount.destination)?;
    if let Some(fstype) = mount.volatile_filesystem() {
        let seen = root.join(inside.strip_prefix("/").unwrap_or(&inside));
        let mut entries = std::fs::read_dir(&seen).context(|| format!("list {}", seen.display()))?;
        if entries.next().is_some() {
            let (message, field) = (
                format!("criu cannot carry what is in the {fstype} on {}", inside.display()),
                mount.field("type"),
            );
            return Err(Error::new(ErrorKind::Unsupported, format!("{message} ({field})"))
                .with_hint("use a tmpfs, or empty it before the checkpoint"));
        }
    }
    Ok(inside)
}

fn is_directory(root: &Path, inside: &Path) -> bool {
    let relative = inside.strip_prefix("/").unwrap_or(inside);
    std::fs::symlink_metadata(root.join(relative)).is_ok_and(|m| m.is_dir())
}

fn mounts_of(init: InitProcess) -> Result<Vec<MountInfo>> {
    let path = format!("/proc/{}/mountinfo", init.pid);
    let bytes = std::fs::read(&path).context(|| format!("read {path}"))?;
    mountinfo::parse(&bytes).context(|| format!("understand {path}"))
}

/// CRIU's request is text.
fn utf8(path: PathBuf) -> Result<String> {
    path.into_os_string().into_string().map_err(|path| {
        Error::new(
            ErrorKind::Unsupported,
            format!("mount point {path:?} is not UTF-8, which criu's request must be"),
        )
    })
}
