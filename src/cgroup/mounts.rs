// SPDX-License-Identifier: Apache-2.0
//! What a mount of type `cgroup` shows to a container, and what its checkpoint names as external mounts.
//!
//! Data only: the engine mounts, checkpoint and restore name.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The mounts that make up a container's `/sys/fs/cgroup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupMounts {
    /// v1 and hybrid: a tmpfs that holds one mount per v1 hierarchy. The unified tree of a hybrid is not shown.
    PerHierarchy(Vec<CgroupMount>),
    /// v2: one mount of type `cgroup2`, or, where that is refused, a bind of `host_path`.
    Unified(CgroupMount),
}

/// One hierarchy as a container sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupMount {
    /// The directory in the container's cgroup tmpfs: the last component of the host's mount point
    /// (`memory`, `cpu,cpuacct`, `systemd`).
    pub name: String,
    /// The controllers mounted together, or `name=…`; none for v2.
    pub controllers: Vec<String>,
    /// Where the host has the hierarchy mounted.
    pub host_mountpoint: PathBuf,
    /// The container's own cgroup on the host: the source of a bind.
    pub host_path: PathBuf,
    /// Data for a real mount of type `cgroup` inside a cgroup namespace (`cpu,cpuacct`, `none,name=systemd`); empty
    /// for v2.
    pub data: String,
    /// Names of symbolic links to `name` that the tmpfs gets as well: `cpu` and `cpuacct` for `cpu,cpuacct`.
    pub links: Vec<String>,
}

impl CgroupMount {
    pub(super) fn new(controllers: &[String], host_mountpoint: PathBuf, host_path: PathBuf) -> Self {
        let joined = controllers.join(",");
        let name = host_mountpoint
            .file_name()
            .map_or_else(|| joined.clone(), |name| name.to_string_lossy().into_owned());
        let links = match controllers {
            [] | [_] => Vec::new(),
            several => several.iter().filter(|c| **c != name).cloned().collect(),
        };
        let data = if joined.starts_with("name=") { format!("none,{joined}") } else { joined };
        Self { name, controllers: controllers.to_vec(), host_mountpoint, host_path, data, links }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_data_and_links() {
        for (controllers, mountpoint, name, data, links) in [
            (&["memory"][..], "/sys/fs/cgroup/memory", "memory", "memory", &[][..]),
            (&["name=systemd"], "/sys/fs/cgroup/systemd", "systemd", "none,name=systemd", &[]),
            (
                &["cpu", "cpuacct"],
                "/sys/fs/cgroup/cpu,cpuacct",
                "cpu,cpuacct",
                "cpu,cpuacct",
                &["cpu", "cpuacct"],
            ),
            (&["cpu", "cpuacct"], "/sys/fs/cgroup/cpu", "cpu", "cpu,cpuacct", &["cpuacct"]),
            (&[], "/sys/fs/cgroup", "cgroup", "", &[]),
        ] {
            let controllers: Vec<String> = controllers.iter().map(|c| (*c).to_owned()).collect();
            let mount = CgroupMount::new(&controllers, mountpoint.into(), "/x".into());
            assert_eq!((mount.name.as_str(), mount.data.as_str()), (name, data));
            assert_eq!(mount.links, links);
        }
    }
}
