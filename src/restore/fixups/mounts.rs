// SPDX-License-Identifier: Apache-2.0
//! The mounts that come from outside: name in the images → path on this host. Surplus names do no harm, a missing one
//! fails the restore; so the names of runc's and of crun's images are all there.

use std::fs;
use std::path::{Path, PathBuf};

use crate::criu::ExternalMount;
use crate::engine::NewContainer;
use crate::engine::rootfs::{MountKind, MountPlan, mount_source, resolve_destination};
use crate::sys::namespace::PrivateMounts;
use crate::{Context, Error, ErrorKind, Result};

/// Where sources whose owners are mapped are mounted for CRIU, in the container's directory.
const MAPPED: &str = "criu-mounts";

/// Mounts the sources of id-mapped binds, mapped. In this mount namespace only.
pub(in crate::restore) fn map_sources(new: &NewContainer, _private: &PrivateMounts) -> Result<()> {
    for mount in new.rootfs_plan().mounts.iter().filter(|mount| mount.is_id_mapped()) {
        let MountKind::Bind { source, .. } = &mount.kind else { continue };
        let place = mapped_path(new, mount);
        let make = || {
            fs::create_dir_all(new.dir().join(MAPPED))?;
            match fs::metadata(source)?.is_dir() {
                true => fs::create_dir_all(&place),
                false => fs::write(&place, ""),
            }
        };
        make().context(|| format!("make a place for {} (mounts[{}])", source.display(), mount.index))?;
        mount_source(mount, &place)
            .context(|| format!("map the ids of {} (mounts[{}])", source.display(), mount.index))?;
    }
    Ok(())
}

/// Removes what [`map_sources`] has made, once the mounts are gone with their namespace.
pub(in crate::restore) fn remove_mapped_sources(new: &NewContainer) -> Result<()> {
    let places = new.dir().join(MAPPED);
    match fs::remove_dir_all(&places) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).context(|| format!("remove {}", places.display()))
        }
        _ => Ok(()),
    }
}

fn mapped_path(new: &NewContainer, mount: &MountPlan) -> PathBuf {
    new.dir().join(MAPPED).join(mount.index.to_string())
}

/// The external mounts of the container that is restored.
pub(in crate::restore) fn external_mounts(new: &NewContainer) -> Result<Vec<ExternalMount>> {
    let plan = new.rootfs_plan();
    let mut list: Vec<ExternalMount> = Vec::new();
    let mut add = |key: &Path, value: &Path| -> Result<()> {
        let (key, value) = (utf8(key)?, utf8(value)?);
        if !list.iter().any(|e| e.key == key) {
            list.push(ExternalMount { key, value });
        }
        Ok(())
    };
    for mount in &plan.mounts {
        if let MountKind::Bind { source, .. } = &mount.kind {
            let mapped = mount.is_id_mapped().then(|| mapped_path(new, mount));
            let source = mapped.as_deref().unwrap_or(source);
            add(&resolve_destination(new.rootfs(), &mount.destination)?, source)?;
            add(&mount.destination, source)?;
        }
        for (inside, host) in plan.external_cgroups(mount) {
            add(&inside, host)?;
        }
    }
    let null = PathBuf::from("/dev/null");
    add(&null, &null)?;
    for path in &plan.masked_paths {
        add(path, &null)?;
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
