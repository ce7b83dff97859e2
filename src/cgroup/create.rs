// SPDX-License-Identifier: Apache-2.0
//! Making a container's cgroup: directories, v1 cpusets, v2 controllers.
//!
//! Must not know limits. Sources: kernel admin-guide/cgroup-v1/cpusets.rst, admin-guide/cgroup-v2.rst.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use super::cgroup::{Cgroup, Node, name_pids};
use super::directory::Directory;
use super::freezer::{self, FreezerState};
use super::hierarchy::{Hierarchies, Hierarchy, Layout, Version};
use crate::{Context, Error, ErrorKind, Result};

impl Cgroup {
    /// Makes the directories, parents included. v1 cpusets are filled from their parents, v2 controllers are
    /// switched on down the path where the host allows it. An empty cgroup of that name is taken over.
    ///
    /// # Errors
    /// The cgroup exists and holds processes or is frozen (`AlreadyExists`), or one above it is (`WrongStatus`); a
    /// directory cannot be made. What was made is removed again.
    pub fn create(&self) -> Result<()> {
        let mut made = Vec::new();
        let created = self.nodes.iter().try_for_each(|node| self.create_node(node, &mut made));
        created.map_err(|error| {
            let failures = made.iter().rev().filter_map(|(parent, name): &(Directory, &OsStr)| {
                let path = parent.path().join(name);
                parent.remove(name).context(|| format!("rmdir cgroup {}", path.display())).err()
            });
            error.with_cleanup(failures)
        })
    }

    /// [`Cgroup::create`] in those hierarchies in which this process may: the result knows no others. For containers
    /// that can do without.
    ///
    /// # Errors
    /// As [`Cgroup::create`], but for a lack of permission.
    pub fn create_where_permitted(&self) -> Result<Self> {
        let mut made = Self { nodes: Vec::new(), unit: None };
        for node in &self.nodes {
            let one = Self { nodes: vec![node.clone()], unit: None };
            match one.create().and_then(|()| one.require_entry()) {
                Ok(()) => made.nodes.push(node.clone()),
                Err(error) if is_no_permission(&error) => {
                    tracing::debug!(cgroup = %node, error = error.chain(), "the container does without");
                    // It may have been made and not be ours to enter.
                    drop(one.destroy());
                }
                Err(error) => return Err(error.with_cleanup(made.destroy().err())),
            }
        }
        Ok(made)
    }

    /// [`Cgroup::create`], on a hybrid host without the unified hierarchy if this process may not be in it: its
    /// controllers are few there, and the right to enter a cgroup is seldom given.
    ///
    /// # Errors
    /// As [`Cgroup::create`].
    pub fn create_with_optional_unified(&self) -> Result<Self> {
        if self.layout() != Layout::Hybrid {
            return self.create().map(|()| Self { nodes: self.nodes.clone(), unit: self.unit.clone() });
        }
        let (unified, mut nodes): (Vec<Node>, Vec<Node>) =
            self.nodes.iter().cloned().partition(|node| node.version == Version::V2);
        let made = Self { nodes: nodes.clone(), unit: self.unit.clone() };
        made.create()?;
        match (Self { nodes: unified, unit: None }).create_where_permitted() {
            Ok(unified) => nodes.extend(unified.nodes),
            Err(error) => return Err(error.with_cleanup(made.destroy().err())),
        }
        Ok(Self { nodes, unit: self.unit.clone() })
    }

    /// It in those hierarchies in which nobody is in it whom this process may not join. For containers that can do
    /// without: somebody else's may have the same name.
    ///
    /// # Errors
    /// The cgroup cannot be read.
    pub fn without_those_of_others(&self) -> Result<Self> {
        let mut own = Self { nodes: Vec::new(), unit: None };
        for node in &self.nodes {
            let one = Self { nodes: vec![node.clone()], unit: None };
            let is_others = one.require_unused().is_err_and(|e| e.kind() == ErrorKind::AlreadyExists)
                && one.require_entry().is_err_and(|e| is_no_permission(&e));
            if is_others {
                tracing::debug!(cgroup = %node, "others are in it: the container does without");
            } else {
                own.nodes.push(node.clone());
            }
        }
        Ok(own)
    }

    /// Whether a process of ours gets in. In the unified hierarchy that takes the right to write to the nearest cgroup
    /// above both it and the process's present one (cgroups(7), "Cgroup delegation containment").
    fn require_entry(&self) -> Result<()> {
        self.entry_fds()?;
        let Some(node) = self.v2_node() else { return Ok(()) };
        let hierarchies = Hierarchies::detect()?;
        let own = hierarchies.iter().find(|h| h.mountpoint() == node.mountpoint).map(Hierarchy::own);
        let above = common_ancestor(&node.relative, own.unwrap_or(Path::new("")));
        let file = node.mountpoint.join(above).join("cgroup.procs");
        access(&file, AccessFlags::W_OK).context(|| format!("write to {}", file.display()))
    }

    /// Makes sure that nobody uses a cgroup of that name.
    ///
    /// # Errors
    /// The cgroup exists and holds processes or is frozen (`AlreadyExists`), or cannot be read.
    pub fn require_unused(&self) -> Result<()> {
        for node in &self.nodes {
            if let Some(directory) = node.open()? {
                self.require_unused_node(node, &directory)?;
            }
        }
        Ok(())
    }

    fn require_unused_node(&self, node: &Node, directory: &Directory) -> Result<()> {
        let pids = directory.all_pids()?;
        if !pids.is_empty() {
            let count = pids.len();
            let message = format!(
                "container's cgroup is not empty: {count} process(es) found: {node} exists and holds {}",
                name_pids(&pids)
            );
            return Err(in_use(message));
        }
        if self.freezer_node() == Some(node)
            && freezer::state(directory, node.version)? != FreezerState::Thawed
        {
            return Err(in_use(format!(
                "container's cgroup unexpectedly frozen: {node} exists and is frozen"
            )));
        }
        Ok(())
    }

    fn create_node<'a>(&self, node: &'a Node, made: &mut Vec<(Directory, &'a OsStr)>) -> Result<()> {
        let mut directory = Directory::top(&node.mountpoint)?;
        let mut is_ours = false;
        for name in &node.relative {
            if self.layout() == Layout::Unified {
                enable_all_controllers(&directory)?;
            }
            let (child, is_new) = directory.make(name)?;
            let parent = std::mem::replace(&mut directory, child);
            if node.version == Version::V1 && node.has("cpuset") {
                inherit_cpuset(&parent, &directory)?;
            }
            is_ours = is_new;
            if is_new {
                made.push((parent, name));
            }
        }
        // What systemd has made has a process in it, of ours.
        if !is_ours && self.unit.is_none() {
            self.require_unused_node(node, &directory)?;
        }
        if self.freezer_node() == Some(node) && freezer::is_frozen_from_above(&directory, node.version)? {
            let message = format!("container's cgroup unexpectedly frozen: a cgroup above {node} is frozen");
            return Err(Error::new(ErrorKind::WrongStatus, message)
                .with_hint("thaw that one first: whatever enters this one stands still"));
        }
        if node.version == Version::V1 {
            return Ok(());
        }
        match directory.read_if_exists("cgroup.type")?.as_deref() {
            // One above it is threaded or has processes of its own: this one takes processes as a threaded one only, and
            // those limits that threads can have.
            Some("domain invalid") => directory.write("cgroup.type", "threaded"),
            _ => Ok(()),
        }
    }
}

/// The nearest cgroup above `new` which is, or is above, `present` too.
fn common_ancestor(new: &Path, present: &Path) -> PathBuf {
    let above = new.parent().unwrap_or(Path::new(""));
    let both = above.components().zip(present.components());
    both.take_while(|(one, other)| one == other).map(|(one, _)| one).collect()
}

fn is_no_permission(error: &Error) -> bool {
    matches!(error.errno(), Some(libc::EPERM | libc::EACCES | libc::EROFS))
}

/// The words before the last colon are runc's.
fn in_use(message: String) -> Error {
    Error::new(ErrorKind::AlreadyExists, message)
        .with_hint("give the container another linux.cgroupsPath, or remove what is left there")
}

/// A v1 cpuset without cpus or memory nodes takes no process: a new one gets its parent's.
fn inherit_cpuset(parent: &Directory, child: &Directory) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if child.read(file)?.is_empty() {
            child.write(file, &parent.read(file)?)?;
        }
    }
    Ok(())
}

/// Gives the cgroups beneath `directory` every controller that it has. One that cannot be given is left: if a limit
/// needs it, that limit says so.
fn enable_all_controllers(directory: &Directory) -> Result<()> {
    let controllers = directory.read_if_exists("cgroup.controllers")?.unwrap_or_default();
    for controller in controllers.split_whitespace() {
        if let Err(errno) = enable(directory, controller)? {
            tracing::debug!(cgroup = %directory.path().display(), controller, %errno, "controller not enabled");
        }
    }
    Ok(())
}

/// Switches a controller on for the cgroups beneath `directory`; the inner result is the kernel's answer.
fn enable(directory: &Directory, controller: &str) -> Result<std::result::Result<(), Errno>> {
    let enabled = directory.read_if_exists("cgroup.subtree_control")?.unwrap_or_default();
    if enabled.split_whitespace().any(|c| c == controller) {
        return Ok(Ok(()));
    }
    Ok(directory.write_raw("cgroup.subtree_control", &format!("+{controller}")))
}

/// Switches a v2 controller on along the whole path to `node`, unless it is on.
pub(super) fn enable_down_to(node: &Node, controller: &str) -> Result<()> {
    let has = |directory: &Directory| -> Result<bool> {
        let listed = directory.read_if_exists("cgroup.controllers")?.unwrap_or_default();
        Ok(listed.split_whitespace().any(|c| c == controller))
    };
    if has(&node.existing()?)? {
        return Ok(());
    }
    let mut directory = Directory::top(&node.mountpoint)?;
    for name in &node.relative {
        if !has(&directory)? {
            return Ok(());
        }
        if let Err(errno) = enable(&directory, controller)? {
            let path = directory.path().display();
            let error =
                Err(errno).context(|| format!("enable the {controller} controller beneath cgroup {path}"));
            return match errno {
                Errno::EBUSY => error.map_err(|e: Error| {
                    e.with_hint("a v2 cgroup with processes cannot give controllers to cgroups beneath it")
                }),
                _ => error,
            };
        }
        let Some(child) = directory.descend(Path::new(name))? else { return Ok(()) };
        directory = child;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_moves_by_way_of_the_nearest_cgroup_above_both() {
        let ancestor = |new: &str, present: &str| common_ancestor(Path::new(new), Path::new(present));
        assert_eq!(ancestor("given/web", ""), Path::new(""));
        assert_eq!(ancestor("user/given/web", "user/session"), Path::new("user"));
        assert_eq!(ancestor("user/web", "user"), Path::new("user"));
        assert_eq!(ancestor("user/web", "user/web/below"), Path::new("user"));
        assert_eq!(ancestor("web", "user"), Path::new(""));
    }
}
