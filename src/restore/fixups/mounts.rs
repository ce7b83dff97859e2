// SPDX-License-Identifier: Apache-2.0
//! The mounts that come from outside: name in the images → path on this host. Surplus names do no harm, a missing one
//! fails the restore; so the names of runc's and of crun's images are all there.

use std::path::{Path, PathBuf};

use crate::criu::ExternalMount;
use crate::engine::NewContainer;
use crate::engine::rootfs::{MountKind, resolve_destination};
use crate::{Error, ErrorKind, Result};

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
