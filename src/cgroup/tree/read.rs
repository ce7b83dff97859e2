// SPDX-License-Identifier: Apache-2.0
//! Reading what lies beneath a container's cgroup, while nobody in it runs.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::super::cgroup::{Cgroup, Node};
use super::super::directory::Directory;
use super::super::freezer::ANCHOR;
use super::super::hierarchy::Version;
use super::files::{self, GIVEN, TYPE};
use super::{Beneath, CgroupTree, Group, LONGEST_VALUE, MOST_GROUPS, SCHEMA, is_beneath};
use crate::sys::proc::innermost_id;
use crate::{Context, Error, ErrorKind, Result};

/// The owner of a cgroup as the container numbers it, of its numbers on the host.
pub(super) type Owners<'a> = dyn Fn((u32, u32)) -> Option<(u32, u32)> + 'a;

impl Cgroup {
    /// What lies beneath it; `None` when there is nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when that is more than could be made again; it cannot be read.
    pub fn tree(&self, owners: &Owners<'_>) -> Result<Option<CgroupTree>> {
        let mut tree = CgroupTree { schema: SCHEMA, hierarchies: Vec::new() };
        for node in &self.nodes {
            let beneath = beneath(node, owners)?;
            if !beneath.groups.is_empty() {
                tree.hierarchies.push(beneath);
            }
            if tree.groups() > MOST_GROUPS {
                let message = format!("the container has made more than {MOST_GROUPS} cgroups");
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        }
        Ok((!tree.hierarchies.is_empty()).then_some(tree))
    }
}

fn beneath(node: &Node, owners: &Owners<'_>) -> Result<Beneath> {
    let top = node.existing()?;
    let given = top.read_if_exists(GIVEN)?.unwrap_or_default();
    let mut groups = Vec::new();
    top.walk(&mut |directory| {
        let Ok(relative) = directory.path().strip_prefix(top.path()) else { return Ok(()) };
        if relative.as_os_str().is_empty() || relative == Path::new(ANCHOR) || groups.len() > MOST_GROUPS {
            return Ok(());
        }
        match relative.to_str().filter(|path| is_beneath(path)) {
            Some(path) => groups.push(group(path, directory, node.version, owners)?),
            None => tracing::warn!(
                cgroup = ?relative,
                "a cgroup whose name is not UTF-8, or that lies too deep, does not go along"
            ),
        }
        Ok(())
    })?;
    Ok(Beneath { controllers: node.controllers.clone(), version: node.version, given, groups })
}

fn group(path: &str, directory: &Directory, version: Version, owners: &Owners<'_>) -> Result<Group> {
    let metadata = directory.metadata()?;
    let owner = match (metadata.uid(), metadata.gid()) {
        (0, 0) => None,
        ids => owners(ids),
    };
    let mut values = Vec::new();
    let settings = files::of(version).iter().map(|(file, _)| *file);
    for file in settings.chain((version == Version::V2).then_some(GIVEN)) {
        let Some(value) = readable(directory, file)? else { continue };
        if value.len() <= LONGEST_VALUE && (file != TYPE || value == "threaded") {
            values.push((file.to_owned(), value));
        }
    }
    let tasks = match version {
        Version::V1 => directory.numbers_in("tasks")?,
        Version::V2 if values.iter().any(|(file, _)| file == TYPE) => {
            directory.numbers_in("cgroup.threads")?
        }
        Version::V2 => directory.pids()?,
    };
    let mut inside = Vec::with_capacity(tasks.len());
    for task in tasks {
        let context = || format!("look at task {task} in cgroup {}", directory.path().display());
        inside.extend(innermost_id(task).context(context)?);
    }
    Ok(Group { path: path.to_owned(), owner, values, tasks: inside })
}

/// The content of a file that there is and that can be read now; some cannot, as long as they mean nothing.
fn readable(directory: &Directory, file: &str) -> Result<Option<String>> {
    match directory.read_if_exists(file) {
        Err(error) if matches!(error.errno(), Some(libc::EOPNOTSUPP | libc::EINVAL | libc::EIO)) => Ok(None),
        read => read,
    }
}
