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

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A cgroup with a group beneath it in each hierarchy, all of which go with it.
    struct Guard(Cgroup);

    impl Guard {
        fn new(name: &str) -> Self {
            let hierarchies = Hierarchies::detect().expect("this host has cgroups");
            let id = format!("migrate-test-{name}-{}", std::process::id());
            let guard =
                Self(Cgroup::plan(&hierarchies, Some(&Path::new("/").join(&id)), &id).expect("a plan"));
            guard.0.create().expect("this test needs root: it makes cgroups");
            guard
        }

        fn at(&self, node: &Node, path: &str) -> Directory {
            existing(&node.existing().expect("it was made"), path).expect("it is there")
        }
    }

    impl Drop for Guard {
        fn drop(&mut self) {
            let gone = self.0.kill_all().and_then(|()| self.0.destroy());
            if !std::thread::panicking() {
                gone.expect("the test's cgroup can be removed");
            }
        }
    }

    /// Waits for the end of its standard input.
    struct Waiter(Child);

    impl Waiter {
        fn spawn() -> (Self, i32) {
            let child =
                Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat runs");
            let pid = i32::try_from(child.id()).expect("a pid");
            (Self(child), pid)
        }
    }

    impl Drop for Waiter {
        fn drop(&mut self) {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }

    #[test]
    fn members_and_limits_are_where_they_were_and_the_helper_is_not_among_them() {
        let (from, to) = (Guard::new("tree-from"), Guard::new("tree-to"));
        let ((_member, member), (_helper, helper)) = (Waiter::spawn(), Waiter::spawn());
        from.0.apply(member).expect("it joins");
        for node in &from.0.nodes {
            let leaf = make(&node.existing().expect("it was made"), "inner/leaf").expect("made");
            // Before anybody is in it: v1 wants these.
            for file in ["cpuset.cpus", "cpuset.mems"].iter().filter(|_| node.version == Version::V1) {
                for path in ["", "inner"] {
                    let above =
                        if path.is_empty() { node.existing().expect("there") } else { from.at(node, path) };
                    let Some(value) = above.read_if_exists(file).expect("read") else { continue };
                    let below =
                        if path.is_empty() { from.at(node, "inner") } else { from.at(node, "inner/leaf") };
                    below.write(file, value.trim()).expect("set");
                }
            }
            leaf.write("cgroup.procs", &member.to_string()).expect("it joins");
        }
        let limited = from.0.nodes.iter().find(|node| from.at(node, "inner/leaf").has("pids.max"));
        if let Some(node) = limited {
            from.at(node, "inner/leaf").write("pids.max", "7").expect("set");
        }
        let tree = from.0.tree(&|ids| Some(ids)).expect("read").expect("there is something");

        to.0.apply(member).expect("it joins");
        to.0.apply(helper).expect("it joins");
        to.0.make_tree(&tree, &|ids| Some(ids)).expect("made");
        for node in &to.0.nodes {
            let empty = to.at(node, "inner/leaf").pids().expect("read").is_empty();
            assert!(empty, "{node}: until it is filled");
        }
        to.0.fill_tree(&tree, helper).expect("filled");
        for node in &to.0.nodes {
            let top = node.existing().expect("it is there");
            assert_eq!(to.at(node, "inner/leaf").pids().expect("read"), [member], "{node}");
            assert!(to.at(node, "inner").pids().expect("read").is_empty(), "{node}");
            // On v2 it leaves where those beneath are given controllers.
            let stays = node.version == Version::V1;
            assert!(!stays || top.pids().expect("read") == [helper], "{node}");
        }
        if let Some(node) = limited {
            let there = to.0.nodes.iter().find(|there| there.mountpoint == node.mountpoint);
            let there = there.expect("both are on this host");
            let value = to.at(there, "inner/leaf").read_if_exists("pids.max").expect("read");
            assert_eq!(value.as_deref().map(str::trim), Some("7"));
        }
    }
}
