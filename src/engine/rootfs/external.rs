// SPDX-License-Identifier: Apache-2.0
//! Which mounts of cgroups a restore must get from outside. Must not know CRIU.

use std::path::{Path, PathBuf};

use super::plan::{CgroupLayout, MountKind, MountPlan, RootfsPlan};

impl RootfsPlan {
    /// What of an entry of type `cgroup` shows something of the host's: where it is in the container, and what it is on
    /// the host.
    ///
    /// A mount that is rooted in the container's cgroup namespace is its own, and is made anew; not so in a user
    /// namespace, since the cgroup namespace of a restored container is made before that one and does not belong to it.
    pub fn external_cgroups<'a>(&self, mount: &'a MountPlan) -> Vec<(PathBuf, &'a Path)> {
        let in_user_namespace = self.bind_devices;
        match &mount.kind {
            MountKind::Cgroup { layout: CgroupLayout::V1(binds), namespace }
                if !namespace || in_user_namespace =>
            {
                binds.iter().map(|b| (mount.destination.join(&b.name), b.host_path.as_path())).collect()
            }
            MountKind::Cgroup { layout: CgroupLayout::V2 { host_mount, host_path }, namespace }
                if in_user_namespace =>
            {
                let source = if *namespace { host_path } else { host_mount };
                vec![(mount.destination.clone(), source.as_path())]
            }
            _ => Vec::new(),
        }
    }
}
