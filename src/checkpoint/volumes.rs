// SPDX-License-Identifier: Apache-2.0
//! What of the host's directories travels with a container: those of its bind mounts that the caller names. Their names in
//! the archive, and where they are.

use std::path::PathBuf;

use super::ArchiveOptions;
use crate::archive::VolumeFacts;
use crate::engine::ContainerId;
use crate::spec::{Config, is_bind};
use crate::{Error, ErrorKind, Result};

/// A directory that goes into the archive.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Volume {
    pub(super) facts: VolumeFacts,
    pub(super) source: PathBuf,
}

/// The volumes that the caller names. Podman makes volumes of their names, and has those of all containers in one place: so each
/// begins with the container's.
///
/// # Errors
/// `InvalidInput` for a place where nothing of the host, or no directory, is mounted.
pub(super) fn of(id: &ContainerId, config: &Config, options: &ArchiveOptions) -> Result<Vec<Volume>> {
    let mounts = config.spec.mounts().as_deref().unwrap_or_default();
    let mut volumes: Vec<Volume> = Vec::new();
    for destination in &options.volumes {
        let mount = mounts.iter().rev().find(|m| m.destination().as_os_str() == destination.as_str());
        let source = mount.filter(|mount| is_bind(mount)).and_then(|mount| mount.source().clone());
        let source =
            source.ok_or_else(|| refused(destination, "nothing of the host is mounted there", config))?;
        if !source.is_absolute() || !source.is_dir() {
            return Err(refused(
                destination,
                "what is mounted there is no directory with an absolute path",
                config,
            ));
        }
        if volumes.iter().any(|volume| volume.facts.destination == *destination) {
            continue;
        }
        let name = format!("{}-{}-{}", name_of(id.as_str()), volumes.len() + 1, name_of(destination));
        volumes.push(Volume { facts: VolumeFacts::new(name, destination.clone()), source });
    }
    Ok(volumes)
}

/// An id or a place as part of a volume's name.
fn name_of(destination: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') { c } else { '-' };
    let name = |c: &char| c.is_ascii_alphanumeric();
    destination.chars().skip_while(|c| !name(c)).map(allowed).take(100).collect()
}

fn refused(destination: &str, why: &str, config: &Config) -> Error {
    let mounts = config.spec.mounts().iter().flatten().filter(|mount| is_bind(mount));
    let places: Vec<String> = mounts.map(|mount| mount.destination().display().to_string()).collect();
    let error = Error::new(ErrorKind::InvalidInput, format!("--include-volume {destination}: {why}"));
    if places.is_empty() {
        error
    } else {
        error.with_hint(format!("the host's are at {}", places.join(", ")))
    }
}
