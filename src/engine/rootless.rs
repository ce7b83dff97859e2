// SPDX-License-Identifier: Apache-2.0
//! Callers who are not root: what their containers must be like.

use std::path::Path;

use nix::unistd::geteuid;

use super::Namespaces;
use crate::spec::oci::Spec;
use crate::{Error, ErrorKind, Result};

/// Refuses what only root can do, before the kernel does it in fewer words.
///
/// # Errors
/// [`ErrorKind::InvalidConfig`], naming the field.
pub(super) fn check(spec: &Spec) -> Result<()> {
    if geteuid().is_root() {
        return Ok(());
    }
    if Namespaces::from_spec(spec).user().is_none() {
        let message =
            "invalid configuration: field `linux.namespaces`: rootless container requires user namespaces";
        return Err(Error::new(ErrorKind::InvalidConfig, message)
            .with_hint("`migrate spec --rootless` writes a configuration for a caller who is not root"));
    }
    check_mount_owners(spec)
}

/// `uid=` and `gid=` of a mount are ids of the container, which the kernel knows only if they are mapped.
fn check_mount_owners(spec: &Spec) -> Result<()> {
    let linux = spec.linux().as_ref();
    let maps = [
        ("uid=", "UID", linux.and_then(|l| l.uid_mappings().as_ref())),
        ("gid=", "GID", linux.and_then(|l| l.gid_mappings().as_ref())),
    ];
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        for option in mount.options().iter().flatten() {
            for (key, name, map) in &maps {
                let Some(id) = option.strip_prefix(key).and_then(|id| id.parse::<u32>().ok()) else {
                    continue;
                };
                let Some(map) = map else { continue };
                let mapped = map
                    .iter()
                    .any(|m| id.checked_sub(m.container_id()).is_some_and(|offset| offset < m.size()));
                if !mapped {
                    let destination: &Path = mount.destination();
                    return Err(Error::new(
                        ErrorKind::InvalidConfig,
                        format!(
                            "invalid configuration: field `mounts[{index}].options`: cannot specify {option} mount \
                             option for unmapped {name} in rootless container (on {})",
                            destination.display()
                        ),
                    ));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_owner_of_a_mount_must_be_mapped() {
        let spec = |gid: &str| -> Spec {
            serde_json::from_value(json!({"ociVersion": "1.0.2",
                "mounts": [{"destination": "/dev/pts", "options": ["mode=0620", gid]}],
                "linux": {"gidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}]}}))
            .expect("valid")
        };
        check_mount_owners(&spec("gid=0")).expect("mapped");
        let error = check_mount_owners(&spec("gid=5")).expect_err("not mapped");
        assert!(error.to_string().contains("`mounts[0].options`: cannot specify gid=5"), "{error}");
    }
}
