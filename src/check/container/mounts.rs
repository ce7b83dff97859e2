// SPDX-License-Identifier: Apache-2.0
//! Rules about mounts that the container has and the configuration does not account for.

use std::collections::HashSet;

use super::ContainerFacts;
use super::process::shown;
use crate::check::{Finding, Severity};
use crate::sys::mountinfo::MountInfo;

/// Filesystems that CRIU mounts again by itself (criu/filesystems.c).
const CARRIED: [&str; 23] = [
    "proc",
    "sysfs",
    "devtmpfs",
    "binfmt_misc",
    "debugfs",
    "tracefs",
    "cgroup",
    "cgroup2",
    "tmpfs",
    "devpts",
    "simfs",
    "btrfs",
    "pstore",
    "mqueue",
    "fusectl",
    "overlay",
    "overlayfs",
    "autofs",
    "securityfs",
    "rpc_pipefs",
    "unionfs",
    "aufs",
    "nsfs",
];

pub(super) fn judge(facts: &ContainerFacts) -> Vec<Finding> {
    let Some(init) = facts.init() else { return Vec::new() };
    let root = facts
        .mounts
        .get(&init.namespace("mnt"))
        .and_then(|table| table.iter().find(|mount| mount.mount_point.as_os_str() == "/"));
    let Some(root) = root else { return Vec::new() };
    let is_accounted_for =
        |mount: &MountInfo| facts.configured.iter().any(|place| mount.mount_point.starts_with(place));
    let tables = || facts.mounts.values().flatten();
    // Of the filesystem of a mount that it has CRIU binds further parts.
    let known: HashSet<&str> =
        tables().filter(|mount| is_accounted_for(mount)).map(|mount| mount.device.as_str()).collect();
    let is_known = |mount: &MountInfo| {
        CARRIED.contains(&mount.fstype.as_str())
            || mount.device == root.device
            || known.contains(mount.device.as_str())
    };
    let mut seen = HashSet::new();
    let unknown =
        tables().filter(|mount| !is_known(mount) && seen.insert((&mount.mount_point, &mount.device)));
    unknown.map(unknown_mount).collect()
}

fn unknown_mount(mount: &MountInfo) -> Finding {
    let (fstype, place) =
        (shown(mount.fstype.as_bytes()), shown(mount.mount_point.as_os_str().as_encoded_bytes()));
    let finding = Finding::new(Severity::Blocker, "unknown_mount", format!("{fstype} on {place}"));
    if fstype == "fuse" || fstype.starts_with("fuse.") {
        let cause = "a process serves this filesystem, and criu does not carry the connection to it";
        return finding.told_in(cause, "fuse-mount");
    }
    let cause = format!("criu does not know how to mount {fstype} again");
    finding.because(cause, "unmount it, or make it a bind mount in the container's configuration")
}
