// SPDX-License-Identifier: Apache-2.0
//! What a container's mounts of cgroups mean for others: what a restore must get from outside, and who must own the
//! cgroup. Must not know CRIU.

use std::path::{Path, PathBuf};

use super::plan::{CgroupLayout, MountKind, MountPlan, RootfsPlan};

/// Filesystems that are made of nothing, and that CRIU makes again as they were.
pub(super) const MADE_AGAIN: &[&str] = &[
    "autofs",
    "binfmt_misc",
    "cgroup",
    "cgroup2",
    "debugfs",
    "devpts",
    "devtmpfs",
    "fusectl",
    "mqueue",
    "proc",
    "pstore",
    "securityfs",
    "sysfs",
    "tmpfs",
    "tracefs",
];

/// Filesystems whose content is nowhere else and that CRIU cannot carry.
const IN_MEMORY: &[&str] = &["hugetlbfs", "ramfs"];

impl MountPlan {
    /// The type of the filesystem, if its content is not the container's own: on a device, on another machine, in other
    /// directories. A restore mounts it again.
    pub fn foreign_filesystem(&self) -> Option<&str> {
        match &self.kind {
            MountKind::Filesystem { fstype, .. } if !MADE_AGAIN.contains(&fstype.as_str()) => Some(fstype),
            _ => None,
        }
    }

    /// The type of the filesystem, if what is in it cannot be carried.
    pub fn volatile_filesystem(&self) -> Option<&str> {
        self.foreign_filesystem().filter(|fstype| IN_MEMORY.contains(fstype))
    }
}

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
    /// Whether the container's root is meant to manage its cgroup of the unified hierarchy: it has it mounted for
    /// writing, in a user namespace and a cgroup namespace (runc's rule).
    pub fn has_writable_cgroup(&self) -> bool {
        let is_writable = |mount: &MountPlan| {
            let is_own =
                matches!(&mount.kind, MountKind::Cgroup { layout: CgroupLayout::V2 { .. }, namespace: true });
            is_own
                && mount.destination == Path::new("/sys/fs/cgroup")
                && mount.options.set & libc::MS_RDONLY == 0
        };
        self.bind_devices && self.mounts.iter().any(is_writable)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::plan::PlanContext;
    use super::*;

    fn plan(kinds: &[&str], option: &str) -> RootfsPlan {
        let namespaces: Vec<_> = kinds.iter().map(|kind| json!({"type": kind})).collect();
        let spec = json!({"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "linux": {"namespaces": namespaces},
            "mounts": [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [option]}]});
        let layout =
            CgroupLayout::V2 { host_mount: "/sys/fs/cgroup".into(), host_path: "/sys/fs/cgroup/a".into() };
        let context = PlanContext { cgroups: layout, ..PlanContext::default() };
        let spec = serde_json::from_value(spec).expect("valid");
        RootfsPlan::from_spec(&spec, Path::new("/b"), Path::new("/b/rootfs"), &context).expect("a plan")
    }

    #[test]
    fn filesystems_with_content_elsewhere_are_foreign() {
        let of = |fstype: &str| {
            let mut plan = plan(&["mount"], "ro").mounts.remove(0);
            plan.kind = MountKind::Filesystem { fstype: fstype.to_owned(), source: String::new() };
            (plan.foreign_filesystem().is_some(), plan.volatile_filesystem().is_some())
        };
        for fstype in ["ext4", "nfs4", "overlay", "fuse.sshfs"] {
            assert_eq!(of(fstype), (true, false), "{fstype}");
        }
        for fstype in ["tmpfs", "proc", "mqueue"] {
            assert_eq!(of(fstype), (false, false), "{fstype}");
        }
        assert_eq!(of("ramfs"), (true, true));
        assert_eq!(plan(&["mount"], "ro").mounts[0].foreign_filesystem(), None, "cgroups are another matter");
    }

    #[test]
    fn a_cgroup_is_given_away_only_where_it_is_the_containers_own_and_writable() {
        assert!(plan(&["mount", "user", "cgroup"], "rw").has_writable_cgroup());
        assert!(!plan(&["mount", "user", "cgroup"], "ro").has_writable_cgroup());
        assert!(!plan(&["mount", "user"], "rw").has_writable_cgroup());
        assert!(!plan(&["mount", "cgroup"], "rw").has_writable_cgroup());
    }

    #[test]
    fn in_a_user_namespace_cgroups_come_from_outside() {
        let external = |kinds: &[&str]| {
            let plan = plan(kinds, "ro");
            plan.external_cgroups(&plan.mounts[0]).first().map(|(_, host)| host.to_path_buf())
        };
        assert_eq!(external(&["mount", "user", "cgroup"]).as_deref(), Some(Path::new("/sys/fs/cgroup/a")));
        assert_eq!(external(&["mount", "user"]).as_deref(), Some(Path::new("/sys/fs/cgroup")));
        assert_eq!(external(&["mount", "cgroup"]), None);
    }
}
