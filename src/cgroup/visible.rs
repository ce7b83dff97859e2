// SPDX-License-Identifier: Apache-2.0
//! The cgroup mounts of a mount table that a path leads to. Pure.
//!
//! Must not know which of them will be used.

use std::collections::HashMap;

use crate::sys::mountinfo::MountInfo;

/// The mounts of type `cgroup` and `cgroup2` that a path lookup reaches, in the order of the table; overmounted ones are
/// left out.
pub(super) fn cgroup_mounts(table: &[MountInfo]) -> Vec<&MountInfo> {
    let by_id: HashMap<u64, &MountInfo> = table.iter().map(|mount| (mount.id, mount)).collect();
    let mut children: HashMap<u64, Vec<&MountInfo>> = HashMap::new();
    for mount in table {
        children.entry(mount.parent).or_default().push(mount);
    }
    table
        .iter()
        .filter(|mount| matches!(mount.fstype.as_str(), "cgroup" | "cgroup2"))
        .filter(|mount| is_visible(mount, &by_id, &children))
        .collect()
}

/// A mount is reached by its path unless, somewhere on the way, another mount lies on top of the mount that the
/// lookup passes through at that point.
fn is_visible(
    mount: &MountInfo,
    by_id: &HashMap<u64, &MountInfo>,
    children: &HashMap<u64, Vec<&MountInfo>>,
) -> bool {
    let mut walked_to = mount.mount_point.as_path();
    let mut next = None;
    let mut current = mount;
    for _ in 0..=by_id.len() {
        let hidden = children.get(&current.id).is_some_and(|mounted| {
            mounted
                .iter()
                .any(|m| Some(m.id) != next && m.id != current.id && walked_to.starts_with(&m.mount_point))
        });
        if hidden {
            return false;
        }
        let Some(parent) = by_id.get(&current.parent).filter(|parent| parent.id != current.id) else {
            return true;
        };
        walked_to = current.mount_point.as_path();
        next = Some(current.id);
        current = parent;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mountinfo::parse;

    fn points(table: &str) -> Vec<String> {
        let table = parse(table.as_bytes()).expect("a mount table");
        cgroup_mounts(&table).iter().map(|m| m.mount_point.display().to_string()).collect()
    }

    #[test]
    fn a_mount_is_listed_only_if_its_path_leads_to_it() {
        let base = "1 0 8:1 / / rw - ext4 /dev/vda rw\n\
                    2 1 0:20 / /sys rw - sysfs sysfs rw\n\
                    3 2 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                    4 3 0:29 / /sys/fs/cgroup/cpu rw,nosuid shared:9 - cgroup cgroup rw,cpu\n";
        let with = |line: &str| points(&format!("{base}{line}"));
        assert_eq!(with(""), ["/sys/fs/cgroup/cpu"]);
        // Stacked on the same mount point: the upper one.
        assert_eq!(with("5 4 0:40 / /sys/fs/cgroup/cpu rw - cgroup2 none rw\n"), ["/sys/fs/cgroup/cpu"]);
        let stacked = format!("{base}5 4 0:40 / /sys/fs/cgroup/cpu rw - cgroup2 none rw\n");
        let stacked = parse(stacked.as_bytes()).expect("a mount table");
        assert_eq!(cgroup_mounts(&stacked)[0].fstype, "cgroup2");
        // A tmpfs over the tmpfs, over sysfs, over a directory in between, over the root.
        assert!(with("5 3 0:40 / /sys/fs/cgroup rw - tmpfs none rw\n").is_empty());
        assert!(with("5 2 0:40 / /sys rw - tmpfs none rw\n").is_empty());
        assert!(with("5 2 0:40 / /sys/fs rw - tmpfs none rw\n").is_empty());
        assert!(with("5 1 0:40 / / rw - tmpfs none rw\n").is_empty());
        // Beneath sysfs since before it was mounted: hidden itself, hides nothing. A sibling hides nothing.
        assert_eq!(with("5 1 0:40 / /sys/fs rw - tmpfs none rw\n"), ["/sys/fs/cgroup/cpu"]);
        assert_eq!(with("5 3 0:40 / /sys/fs/cgroup/cpuset rw - tmpfs none rw\n"), ["/sys/fs/cgroup/cpu"]);
    }
}
