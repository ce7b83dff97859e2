// SPDX-License-Identifier: Apache-2.0
//! The cgroups that a container has made beneath its own, as data: so that they can be made again somewhere else, with who
//! was in them and what limits they had.
//!
//! ```text
//! Cgroup::tree ──▶ CgroupTree ──▶ bytes beside a checkpoint's images ──▶ Cgroup::make_tree ──▶ Cgroup::fill_tree
//!  (nobody runs)                   (hostile from here on)                (directories)         (members, limits)
//! ```
//! Members are known by the number that their own pid namespace gives them. Must not know CRIU.

mod files;
mod make;
mod read;

use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::hierarchy::Version;
use crate::{Context, Error, ErrorKind, Result};

/// More than systemd with a thousand services makes.
const MOST_GROUPS: usize = 16_384;

/// Deeper than anybody nests them.
const DEEPEST: usize = 64;

/// The longest value that a file is given, in bytes.
const LONGEST_VALUE: usize = 4096;

const SCHEMA: u32 = 1;

/// What lies beneath a container's cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupTree {
    schema: u32,
    hierarchies: Vec<Beneath>,
}

/// In one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Beneath {
    /// The v1 controllers; none for v2.
    controllers: Vec<String>,
    version: Version,
    /// v2: the controllers that the container's own cgroup gives to those beneath it.
    given: String,
    /// Parents come first.
    groups: Vec<Group>,
}

/// One cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Group {
    /// From the container's own.
    path: String,
    /// Its user and group, as the container numbers them; none for root.
    owner: Option<(u32, u32)>,
    /// Files and what stands in them.
    values: Vec<(String, String)>,
    /// The tasks in it, as their pid namespace numbers them: threads on v1 and in a threaded cgroup, else processes.
    tasks: Vec<i32>,
}

impl CgroupTree {
    /// As it is kept.
    ///
    /// # Errors
    /// When it cannot be serialised.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).context(|| "serialise the container's cgroups")
    }

    /// From what was kept, wherever that comes from.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] for what no checkpoint of ours has written.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let tree: Self = serde_json::from_slice(bytes)
            .context_kind(ErrorKind::InvalidArchive, || "understand the checkpoint's cgroups")?;
        let refused =
            |why: &str| Error::new(ErrorKind::InvalidArchive, format!("the checkpoint's cgroups {why}"));
        if tree.schema != SCHEMA {
            return Err(refused(&format!("have schema {}, this program knows {SCHEMA}", tree.schema)));
        }
        if tree.groups() > MOST_GROUPS {
            return Err(refused(&format!("are more than {MOST_GROUPS}")));
        }
        for group in tree.hierarchies.iter().flat_map(|beneath| &beneath.groups) {
            if !is_beneath(&group.path) {
                return Err(refused(&format!("have the path {:?}", group.path)));
            }
            let plain = |value: &str| value.len() <= LONGEST_VALUE && !value.contains('\0');
            if let Some((file, _)) =
                group.values.iter().find(|(file, value)| !files::is_known(file) || !plain(value))
            {
                return Err(refused(&format!("have a value for {file:?}")));
            }
        }
        Ok(tree)
    }

    fn groups(&self) -> usize {
        self.hierarchies.iter().map(|beneath| beneath.groups.len()).sum()
    }
}

fn is_beneath(path: &str) -> bool {
    let mut depth = 0;
    let ordinary = Path::new(path).components().all(|component| {
        depth += 1;
        matches!(component, Component::Normal(_))
    });
    ordinary && (1..=DEEPEST).contains(&depth)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tree(path: &str, file: &str, value: &str) -> Result<CgroupTree> {
        let tree = json!({"schema": 1, "hierarchies": [{"controllers": ["pids"], "version": "v1", "given": "",
            "groups": [{"path": path, "owner": null, "values": [[file, value]], "tasks": [1]}]}]});
        CgroupTree::parse(tree.to_string().as_bytes())
    }

    #[test]
    fn what_was_written_reads_back() {
        let found = tree("a/b", "pids.max", "7").expect("a tree");
        assert_eq!(CgroupTree::parse(&found.to_bytes().expect("bytes")).expect("a tree"), found);
    }

    #[test]
    fn hostile_trees_are_refused() {
        let deep = "a/".repeat(DEEPEST + 1);
        for path in ["", "..", "a/../b", "/sys", "a/..", deep.as_str()] {
            let error = tree(path, "pids.max", "7").expect_err(path);
            assert_eq!(error.kind(), ErrorKind::InvalidArchive, "{path}");
        }
        for file in
            ["release_agent", "notify_on_release", "cgroup.procs", "../x", "cgroup.kill", "devices.allow"]
        {
            tree("a", file, "1").expect_err(file);
        }
        tree("a", "pids.max", &"1".repeat(LONGEST_VALUE + 1)).expect_err("too long");
        CgroupTree::parse(b"{}").expect_err("nothing");
        CgroupTree::parse(br#"{"schema": 2, "hierarchies": []}"#).expect_err("another schema");
    }
}
