// SPDX-License-Identifier: Apache-2.0
//! Mounts of the host in a running container that nothing in its configuration leads to: a hook made them, or somebody
//! on the host. Pure over the two tables of mounts. Must not know CRIU.

use std::path::{Path, PathBuf};

use super::external::MADE_AGAIN;
use crate::sys::mountinfo::MountInfo;

/// Filesystems whose mounts a restore makes by rules of their own.
const OTHERS_MATTER: &[&str] = &["cgroup", "cgroup2", "nsfs"];

/// Filesystems that a restore makes again with what was in them, which must not happen to one of the host's.
const WITH_CONTENT: &[&str] = &["devtmpfs", "tmpfs"];

/// One such mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnnamedMount {
    /// Where it is in the container.
    pub inside: PathBuf,
    /// Where the same is on the host.
    pub source: PathBuf,
}

/// Those in the table of a container. `known` tells which mount points of it are accounted for, `exists` which paths are
/// there on the host.
pub fn unnamed_mounts(
    container: &[MountInfo],
    host: &[MountInfo],
    known: impl Fn(&Path) -> bool,
    exists: impl Fn(&Path) -> bool,
) -> Vec<UnnamedMount> {
    let is_root = |mount: &MountInfo| mount.mount_point == Path::new("/");
    let mut found: Vec<UnnamedMount> = Vec::new();
    for mount in container {
        let fstype = mount.fstype.as_str();
        if is_root(mount) || known(&mount.mount_point) || OTHERS_MATTER.contains(&fstype) {
            continue;
        }
        let whole = mount.root == Path::new("/");
        let made_again = whole && MADE_AGAIN.contains(&fstype) && !WITH_CONTENT.contains(&fstype);
        // A part of what the container has as a whole, or of its root, is a bind that was made inside.
        let inside = |other: &MountInfo| {
            let covers = other.device == mount.device && mount.root.starts_with(&other.root);
            let counts = is_root(other) || known(&other.mount_point) || other.root == Path::new("/");
            covers && counts && other.id != mount.id
        };
        if made_again || (!whole && container.iter().any(inside)) {
            continue;
        }
        let source = host.iter().filter(|other| other.device == mount.device).find_map(|other| {
            let below = mount.root.strip_prefix(&other.root).ok()?;
            let path = match below.as_os_str().is_empty() {
                true => other.mount_point.clone(),
                false => other.mount_point.join(below),
            };
            exists(&path).then_some(path)
        });
        // What the host does not have is the container's own.
        let Some(source) = source else { continue };
        // The last one on a place is the one that is seen.
        found.retain(|known| known.inside != mount.mount_point);
        found.push(UnnamedMount { inside: mount.mount_point.clone(), source });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mountinfo;

    const HOST: &[u8] = b"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:5 / /dev rw - devtmpfs dev rw\n\
        3 1 0:20 / /run rw - tmpfs tmpfs rw\n4 1 8:9 / /big rw - xfs /dev/sdb rw\n\
        5 1 0:21 / /proc rw - proc proc rw\n6 1 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";

    fn found(container: &str) -> Vec<(String, String)> {
        let table = |text: &[u8]| mountinfo::parse(text).expect("a table");
        let container = format!("10 1 8:1 /bundle/rootfs / rw - ext4 /dev/sda rw\n{container}");
        let known = |path: &Path| path == Path::new("/volume");
        let exists = |path: &Path| !path.ends_with("gone");
        let found = unnamed_mounts(&table(container.as_bytes()), &table(HOST), known, exists);
        let text = |path: PathBuf| path.to_str().expect("text").to_owned();
        found.into_iter().map(|m| (text(m.inside), text(m.source))).collect()
    }

    fn one(inside: &str, source: &str) -> Vec<(String, String)> {
        vec![(inside.to_owned(), source.to_owned())]
    }

    #[test]
    fn what_the_host_has_and_nothing_leads_to_is_found() {
        assert_eq!(found("11 10 8:1 /srv/data /data rw - ext4 /dev/sda rw\n"), one("/data", "/srv/data"));
        assert_eq!(found("11 10 0:5 /fuse /dev/fuse rw - devtmpfs dev rw\n"), one("/dev/fuse", "/dev/fuse"));
        assert_eq!(
            found("11 10 0:21 /driver /proc/driver rw - proc proc rw\n"),
            one("/proc/driver", "/proc/driver")
        );
        assert_eq!(found("11 10 8:9 / /disk rw - xfs /dev/sdb rw\n"), one("/disk", "/big"));
        // CRIU would take the host's files along.
        assert_eq!(found("11 10 0:20 / /run rw - tmpfs tmpfs rw\n"), one("/run", "/run"));
        let twice = "11 10 0:20 /a /x rw - tmpfs tmpfs rw\n12 11 0:20 /b /x rw - tmpfs tmpfs rw\n";
        assert_eq!(found(twice), one("/x", "/run/b"));
    }

    #[test]
    fn the_containers_own_and_what_is_accounted_for_is_not() {
        for own in [
            "11 10 8:1 /srv /volume rw - ext4 /dev/sda rw\n12 11 8:1 /srv/a /part rw - ext4 /dev/sda rw\n",
            "11 10 8:1 /bundle/rootfs/a /b rw - ext4 /dev/sda rw\n",
            "11 10 0:99 / /tmp rw - tmpfs tmpfs rw\n12 10 0:99 /a /b rw - tmpfs tmpfs rw\n",
            "11 10 0:21 / /proc rw - proc proc rw\n12 11 0:21 /sys /proc/sys ro - proc proc rw\n",
            "11 10 0:30 /a /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            "11 10 7:0 / /loop rw - ext4 /dev/loop0 rw\n",
            "11 10 8:1 /srv/gone /data rw - ext4 /dev/sda rw\n",
        ] {
            assert_eq!(found(own), [], "{own}");
        }
    }
}
