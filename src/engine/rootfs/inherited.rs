// SPDX-License-Identifier: Apache-2.0
//! Mounts of the host that no entry of the configuration names: they lie below the source of a recursive bind, or in the
//! root filesystem's directory, and came along. A restore must get them from the host again. Must not know CRIU.

use std::path::{Path, PathBuf};

use super::plan::{MountKind, RootfsPlan};
use super::resolve_destination;
use crate::Result;
use crate::sys::mountinfo::MountInfo;

/// One such mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InheritedMount {
    /// Where it is in the container.
    pub inside: PathBuf,
    /// What is mounted there.
    pub host: MountInfo,
    /// The entry of the bind that it came with, by its position among the plan's mounts; `None`: the root filesystem.
    pub bind: Option<usize>,
    /// Its path below the bind's source, or below the root filesystem.
    pub below: PathBuf,
}

impl RootfsPlan {
    /// The mounts that come along from a host with these mounts into a container whose root is `root`: destinations are
    /// resolved in there.
    ///
    /// # Errors
    /// When a destination cannot be resolved.
    pub fn inherited_mounts(&self, root: &Path, host: &[MountInfo]) -> Result<Vec<InheritedMount>> {
        let mut list: Vec<InheritedMount> = Vec::new();
        let mut add = |source: &Path, destination: &Path, bind: Option<usize>| {
            let source = std::fs::canonicalize(source).unwrap_or_else(|_| source.to_owned());
            for mount in host {
                let Ok(below) = mount.mount_point.strip_prefix(&source) else { continue };
                if below.as_os_str().is_empty() {
                    continue;
                }
                let inside = destination.join(below);
                // The last one on a place is the one that is seen.
                list.retain(|known| known.inside != inside);
                list.push(InheritedMount { inside, host: mount.clone(), bind, below: below.to_owned() });
            }
        };
        add(&self.rootfs, Path::new("/"), None);
        for (index, mount) in self.mounts.iter().enumerate() {
            if let MountKind::Bind { source, recursive: true, .. } = &mount.kind {
                add(source, &resolve_destination(root, &mount.destination)?, Some(index));
            }
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::plan::PlanContext;
    use super::*;
    use crate::sys::mountinfo;

    #[test]
    fn what_lies_below_a_recursive_bind_comes_along() {
        let root = tempfile::tempdir().expect("tempdir");
        let spec = json!({"ociVersion": "1.0.2", "root": {"path": "rootfs"},
            "linux": {"namespaces": [{"type": "mount"}]},
            "mounts": [{"destination": "/all", "source": "/volume", "options": ["rbind"]},
                       {"destination": "/one", "source": "/volume", "options": ["bind"]}]});
        let spec = serde_json::from_value(spec).expect("valid");
        let plan =
            RootfsPlan::from_spec(&spec, Path::new("/b"), Path::new("/b/rootfs"), &PlanContext::default());
        let host = mountinfo::parse(
            b"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 8:2 / /volume rw - ext4 /dev/sdb rw\n\
              3 2 0:9 / /volume/deep/er rw - tmpfs old rw\n4 3 0:10 / /volume/deep/er rw - tmpfs new rw\n\
              5 1 0:11 /sub /b/rootfs/here rw - tmpfs tmpfs rw\n6 1 0:12 / /volumes rw - tmpfs tmpfs rw\n",
        );
        let found =
            plan.expect("a plan").inherited_mounts(root.path(), &host.expect("a table")).expect("resolved");
        let seen: Vec<_> = found
            .iter()
            .map(|m| (m.inside.to_str().expect("text"), m.host.source.to_str().expect("text"), m.bind))
            .collect();
        assert_eq!(seen, [("/here", "tmpfs", None), ("/all/deep/er", "new", Some(0))]);
    }
}
