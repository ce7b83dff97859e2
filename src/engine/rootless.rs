// SPDX-License-Identifier: Apache-2.0
//! Callers who are not root: what their containers must be like, and what they need not have.

use std::path::Path;

use nix::unistd::geteuid;

use super::Namespaces;
use crate::spec::oci::{LinuxResources, Spec};
use crate::{Error, ErrorKind, Result};

/// Whether a container without limits may do without the cgroups that its maker may not make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rootless {
    /// If the caller is not root, or root of a user namespace only.
    #[default]
    Auto,
    /// Yes.
    Yes,
    /// No.
    No,
}

impl Rootless {
    pub(super) fn applies(self) -> bool {
        match self {
            Self::Yes => true,
            Self::No => false,
            Self::Auto => !geteuid().is_root() || in_user_namespace(),
        }
    }
}

/// Whether this caller has a runtime directory of his own for what root has in `/run` (as runc judges): he is not root,
/// or root in a user namespace that he has gone into as somebody else.
pub(super) fn has_own_runtime_directory() -> bool {
    !geteuid().is_root()
        || (in_user_namespace() && std::env::var_os("USER").is_none_or(|user| user != "root"))
}

/// Whether the ids of this process are not simply those of the machine.
fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let numbers: Vec<&str> = map.split_ascii_whitespace().collect();
    !numbers.is_empty() && numbers != ["0", "0", "4294967295"]
}

/// Whether anything needs a cgroup: a place of its own choice, or a limit. Rules for devices do not: whoever is no root
/// cannot make any.
pub(super) fn needs_cgroup(spec: &Spec) -> bool {
    let Some(linux) = spec.linux() else { return false };
    let has_path = linux.cgroups_path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
    has_path || linux.resources().as_ref().is_some_and(has_limits)
}

fn has_limits(resources: &LinuxResources) -> bool {
    fn is_something(value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::Null => false,
            serde_json::Value::Array(list) => !list.is_empty(),
            serde_json::Value::Object(fields) => fields.values().any(is_something),
            _ => true,
        }
    }
    let value = serde_json::to_value(resources).unwrap_or_default();
    let fields = value.as_object().into_iter().flatten();
    fields.filter(|(name, _)| *name != "devices").any(|(_, value)| is_something(value))
}

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
        ("uid=", linux.and_then(|l| l.uid_mappings().as_ref())),
        ("gid=", linux.and_then(|l| l.gid_mappings().as_ref())),
    ];
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        for option in mount.options().iter().flatten() {
            for (key, map) in &maps {
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
                             option for rootless container: the id is not mapped (on {})",
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
    fn limits_need_a_cgroup_and_rules_for_devices_do_not() {
        let spec = |linux| -> Spec {
            serde_json::from_value(json!({"ociVersion": "1.0.2", "linux": linux})).expect("valid")
        };
        assert!(!needs_cgroup(&spec(json!({"cgroupsPath": ""}))));
        let devices = json!([{"allow": false, "access": "rwm"}]);
        assert!(!needs_cgroup(&spec(json!({"resources": {"devices": devices, "memory": {}}}))));
        assert!(needs_cgroup(&spec(json!({"resources": {"devices": devices, "memory": {"limit": 1}}}))));
        assert!(needs_cgroup(&spec(json!({"cgroupsPath": "/a"}))));
    }

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
