// SPDX-License-Identifier: Apache-2.0
//! Making again what lay beneath a container's cgroup: first the directories, which its processes may have open, and when
//! they are there and before they run their places and the limits.

use std::collections::HashMap;
use std::path::Path;

use nix::errno::Errno;

use super::super::cgroup::{Cgroup, Node};
use super::super::directory::Directory;
use super::super::hierarchy::{Hierarchies, Hierarchy, Version, label};
use super::files::{self, GIVEN, TYPE};
use super::{Beneath, CgroupTree, Group};
use crate::sys::proc::{Stat, innermost_id, threads};
use crate::{Context, Result};

use super::read::Owners;

impl Cgroup {
    /// Makes the cgroups of a tree, empty. `owners` gives the host's numbers of an owner. Those of a hierarchy that is not here
    /// are left out, with a warning.
    ///
    /// # Errors
    /// The cgroup that could not be made.
    pub fn make_tree(&self, tree: &CgroupTree, owners: &Owners<'_>) -> Result<()> {
        for beneath in &tree.hierarchies {
            let Some(node) = self.node_for(beneath) else {
                tracing::warn!(
                    hierarchy = label(&beneath.controllers),
                    cgroups = beneath.groups.len(),
                    "this host has no such hierarchy: the cgroups that the container made there are not restored"
                );
                continue;
            };
            let top = node.existing()?;
            for group in &beneath.groups {
                let directory = make(&top, &group.path)?;
                if let Some(ids) = group.owner.and_then(owners) {
                    directory.give_to(ids)?;
                }
                let early = ["cpuset.cpus", "cpuset.mems"].iter().filter(|_| node.version == Version::V1);
                for file in early.chain([&TYPE]) {
                    set(&directory, node.version, group, file);
                }
            }
        }
        Ok(())
    }

    /// Moves the processes that are in the cgroup into those of a tree, which were made before, and sets the limits.
    /// `helper` and its children are not the container's: where a v2 cgroup may have none, they leave it.
    ///
    /// # Errors
    /// The process that could not be moved, or the controllers that could not be given. A limit that the kernel does not take
    /// is a warning.
    pub fn fill_tree(&self, tree: &CgroupTree, helper: i32) -> Result<()> {
        let tasks = self.tasks_by_innermost_id(helper)?;
        for beneath in &tree.hierarchies {
            let Some(node) = self.node_for(beneath) else { continue };
            let top = node.existing()?;
            for group in &beneath.groups {
                let directory = existing(&top, &group.path)?;
                for task in group.tasks.iter().filter_map(|task| tasks.get(task)) {
                    put(*task, &directory, node.version, group)?;
                }
            }
            if node.version == Version::V2 && !beneath.given.is_empty() {
                send_away(helper, node, &top)?;
                give(&top, &beneath.given)?;
            }
            for group in &beneath.groups {
                let directory = existing(&top, &group.path)?;
                for (file, value) in &group.values {
                    match file.as_str() {
                        GIVEN => give(&directory, value)?,
                        file => set(&directory, node.version, group, file),
                    }
                }
            }
        }
        Ok(())
    }

    fn node_for(&self, beneath: &Beneath) -> Option<&Node> {
        match (beneath.version, beneath.controllers.first()) {
            (Version::V2, _) => self.v2_node(),
            (Version::V1, Some(first)) => self.v1_node(first),
            (Version::V1, None) => None,
        }
    }

    /// The threads in the cgroup and beneath it, by the number that their own pid namespace gives them. `helper` is not the
    /// container's, and its number is of another one.
    ///
    /// # Errors
    /// They cannot be listed.
    pub fn tasks_by_innermost_id(&self, helper: i32) -> Result<HashMap<i32, i32>> {
        let mut found = HashMap::new();
        for pid in self.all_pids()?.into_iter().filter(|pid| *pid != helper) {
            let context = || format!("look at the threads of process {pid}");
            for thread in threads(pid).context(context)? {
                found.extend(innermost_id(thread).context(context)?.map(|inside| (inside, thread)));
            }
        }
        Ok(found)
    }
}

fn make(top: &Directory, path: &str) -> Result<Directory> {
    let mut components = Path::new(path).components();
    let first = components.next().map(|c| top.make(c.as_os_str())).transpose()?;
    let (mut directory, _) = match first {
        Some(made) => made,
        None => (existing(top, path)?, false),
    };
    for component in components {
        (directory, _) = directory.make(component.as_os_str())?;
    }
    Ok(directory)
}

fn existing(top: &Directory, path: &str) -> Result<Directory> {
    let found = top.descend(Path::new(path))?;
    found.ok_or(Errno::ENOENT).context(|| format!("open cgroup {}", top.path().join(path).display()))
}

fn put(task: i32, directory: &Directory, version: Version, group: &Group) -> Result<()> {
    let threaded = group.values.iter().any(|(file, _)| file == TYPE);
    let file = match version {
        Version::V1 => "tasks",
        Version::V2 if threaded => "cgroup.threads",
        Version::V2 => "cgroup.procs",
    };
    match directory.write_raw(file, &task.to_string()) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => {
            Err(errno).context(|| format!("put task {task} into cgroup {}", directory.path().display()))
        }
    }
}

/// Moves a process with its children out of the cgroup into ours.
fn send_away(helper: i32, node: &Node, top: &Directory) -> Result<()> {
    let hierarchies = Hierarchies::detect()?;
    let own = hierarchies.iter().find(|h| h.mountpoint() == node.mountpoint).map(Hierarchy::own);
    let root = Directory::top(&node.mountpoint)?;
    let ours = match own {
        Some(own) if !own.as_os_str().is_empty() => existing(&root, &own.to_string_lossy())?,
        _ => root,
    };
    for pid in top.pids()? {
        let is_helpers = pid == helper
            || Stat::of(nix::unistd::Pid::from_raw(pid)).is_ok_and(|stat| stat.parent == helper);
        if is_helpers {
            let moved = ours.write_raw("cgroup.procs", &pid.to_string());
            moved.context(|| format!("move process {pid} out of cgroup {node}"))?;
        }
    }
    Ok(())
}

/// Gives controllers to the cgroups beneath. One that this one has not itself is a warning.
fn give(directory: &Directory, controllers: &str) -> Result<()> {
    let has = directory.read_if_exists("cgroup.controllers")?.unwrap_or_default();
    for controller in controllers.split_whitespace() {
        if !has.split_whitespace().any(|own| own == controller) {
            tracing::warn!(controller, cgroup = %directory.path().display(), "the restored cgroup has no such controller");
            continue;
        }
        let given = directory.write_raw(GIVEN, &format!("+{controller}"));
        given.context(|| {
            format!("give the {controller} controller to those beneath cgroup {}", directory.path().display())
        })?;
    }
    Ok(())
}

/// Writes one setting, if the group has it and it is another one now.
fn set(directory: &Directory, version: Version, group: &Group, file: &str) {
    let Some((_, value)) = group.values.iter().find(|(name, _)| name == file) else { return };
    let Some(form) = files::form(version, file) else { return };
    if directory.read_if_exists(file).is_ok_and(|now| now.as_ref() == Some(value)) {
        return;
    }
    for line in files::writes(form, value) {
        if let Err(errno) = directory.write_raw(file, line) {
            let path = directory.path().join(file);
            tracing::warn!(file = %path.display(), value = line, error = errno.desc(), "a limit of a cgroup that the container made is not restored");
        }
    }
}
