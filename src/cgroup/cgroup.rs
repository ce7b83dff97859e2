// SPDX-License-Identifier: Apache-2.0
//! A container's cgroup: its directory in every hierarchy of the host, from planning to removal.
//!
//! Every hierarchy gets one, the named ones and the unified tree of a hybrid included: a container left at the top of
//! a hierarchy would drag everything beneath that into its checkpoints. Must not know why limits are what they are.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::directory::Directory;
use super::freezer::{self, FreezerState};
use super::hierarchy::{Hierarchies, Hierarchy, Layout, Version, label};
use super::mounts::{CgroupMount, CgroupMounts};
use super::placement::place;
use super::state::CgroupState;
use super::systemd::Unit;
use crate::{Context, Error, ErrorKind, Result};

/// A container's cgroup in all hierarchies. Holds paths only: usable from any process, serialisable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    pub(super) nodes: Vec<Node>,
    /// What systemd knows of it, if that has made it.
    pub(super) unit: Option<Unit>,
}

/// The directory in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Node {
    pub(super) controllers: Vec<String>,
    pub(super) version: Version,
    pub(super) mountpoint: PathBuf,
    /// Relative to the mount point, ordinary components only, at least one.
    pub(super) relative: PathBuf,
}

impl Node {
    pub(super) fn path(&self) -> PathBuf {
        self.mountpoint.join(&self.relative)
    }

    pub(super) fn open(&self) -> Result<Option<Directory>> {
        Directory::top(&self.mountpoint)?.descend(&self.relative)
    }

    pub(super) fn existing(&self) -> Result<Directory> {
        self.open()?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no cgroup {}", self.path().display()))
        })
    }

    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.path().display(), label(&self.controllers))
    }
}

/// An open file by which a thread puts itself into one v1 hierarchy: see [`Cgroup::entry_fds`].
#[derive(Debug)]
pub struct EntryFd {
    /// The hierarchy, for a message: `cpu,cpuacct`.
    pub hierarchy: String,
    /// `tasks`, open for writing, closed on execve.
    pub fd: OwnedFd,
}

impl Cgroup {
    /// Decides where the container's cgroup lies in each hierarchy; touches nothing. An absolute `cgroups_path`
    /// (`linux.cgroupsPath`) counts from the top of a hierarchy, a relative one from our own cgroup (v2: from the one
    /// above ours, which may have processes), and without one the id is the name.
    ///
    /// # Errors
    /// The path climbs out of its start or names nothing.
    pub fn plan(hierarchies: &Hierarchies, cgroups_path: Option<&Path>, id: &str) -> Result<Self> {
        let nodes = hierarchies.iter().map(|hierarchy| {
            Ok(Node {
                controllers: hierarchy.controllers().to_vec(),
                version: hierarchy.version(),
                mountpoint: hierarchy.mountpoint().to_path_buf(),
                relative: place(hierarchy, cgroups_path, id)?,
            })
        });
        Ok(Self { nodes: nodes.collect::<Result<_>>()?, unit: None })
    }

    /// The cgroup that `state.json` describes, without its unit: see [`Cgroup::with_unit`].
    ///
    /// # Errors
    /// A path does not lie beneath the mount point of its controller's hierarchy, or that is not mounted.
    pub fn from_state(state: &CgroupState, hierarchies: &Hierarchies) -> Result<Self> {
        let mut nodes: Vec<Node> = Vec::new();
        for (controller, path) in &state.paths {
            let foreign = || {
                let name = if controller.is_empty() { "unified" } else { controller };
                Error::new(
                    ErrorKind::InvalidInput,
                    format!("the saved {name} cgroup {} is in no mounted hierarchy", path.display()),
                )
            };
            let hierarchy = hierarchies.with_controller(controller).ok_or_else(foreign)?;
            let relative = path.strip_prefix(hierarchy.mountpoint()).map_err(|_| foreign())?;
            let ordinary = relative.components().all(|c| matches!(c, std::path::Component::Normal(_)));
            if relative.as_os_str().is_empty() || !ordinary {
                return Err(foreign());
            }
            let node = Node {
                controllers: hierarchy.controllers().to_vec(),
                version: hierarchy.version(),
                mountpoint: hierarchy.mountpoint().to_path_buf(),
                relative: relative.to_path_buf(),
            };
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        Ok(Self { nodes, unit: None })
    }

    /// What to keep in `state.json`.
    pub fn state(&self) -> CgroupState {
        let paths = self.nodes.iter().flat_map(|node| {
            let keys =
                if node.controllers.is_empty() { vec![String::new()] } else { node.controllers.clone() };
            keys.into_iter().map(|controller| (controller, node.path()))
        });
        CgroupState { paths: paths.collect() }
    }

    /// Puts a process with all its threads into the cgroup, hierarchy by hierarchy. The first write waits for an
    /// RCU grace period of the kernel (5 to 10 ms), whatever the hierarchy: a new process gets in without that
    /// through [`Cgroup::entry_fds`] and [`Cgroup::clone_into_fd`].
    ///
    /// # Errors
    /// No such process (`NotFound`), no such cgroup, or the kernel refuses; the process is then in some hierarchies
    /// only.
    pub fn apply(&self, pid: i32) -> Result<()> {
        for node in &self.nodes {
            let written = node.existing()?.write_raw("cgroup.procs", &pid.to_string());
            let attempted = || format!("put process {pid} into cgroup {node}");
            match written {
                Ok(()) => {}
                Err(Errno::ESRCH) => return Err(Errno::ESRCH).context_kind(ErrorKind::NotFound, attempted),
                Err(errno) => return Err(errno).context(attempted),
            }
        }
        Ok(())
    }

    /// Takes a process out of the cgroup, into those of the calling process, which must not be in it.
    ///
    /// # Errors
    /// As [`Cgroup::apply`].
    pub fn expel(&self, pid: i32) -> Result<()> {
        let hierarchies = Hierarchies::detect()?;
        for node in &self.nodes {
            let Some(own) = hierarchies.iter().find(|found| found.mountpoint() == node.mountpoint) else {
                continue;
            };
            let directory = Directory::top(own.mountpoint())?;
            let directory = match own.own().as_os_str().is_empty() {
                true => Some(directory),
                false => directory.descend(own.own())?,
            };
            let attempted = || format!("take process {pid} out of cgroup {node}");
            let directory = directory.ok_or_else(|| Error::new(ErrorKind::NotFound, attempted()))?;
            directory.write_raw("cgroup.procs", &pid.to_string()).context(attempted)?;
        }
        Ok(())
    }

    /// Files by which a *single-threaded* process puts itself into the v1 hierarchies: it writes `0` to each with one
    /// write(2), which takes 10 to 50 µs. The kernel skips the grace period that [`Cgroup::apply`] pays when a
    /// thread moves itself alone (Linux 5.6, cgroup_procs_write_start); for the unified hierarchy there is
    /// [`Cgroup::clone_into_fd`].
    ///
    /// # Errors
    /// The cgroup does not exist.
    pub fn entry_fds(&self) -> Result<Vec<EntryFd>> {
        let v1 = self.nodes.iter().filter(|node| node.version == Version::V1);
        v1.map(|node| {
            let fd = node
                .existing()?
                .open_for_write("tasks")
                .context(|| format!("open tasks of cgroup {node}"))?;
            Ok(EntryFd { hierarchy: label(&node.controllers), fd })
        })
        .collect()
    }

    /// The directory in the unified hierarchy, of v2 as of a hybrid, for `CLONE_INTO_CGROUP` of clone3(2).
    ///
    /// # Errors
    /// The cgroup does not exist.
    pub fn clone_into_fd(&self) -> Result<Option<OwnedFd>> {
        self.v2_node().map(|node| node.existing().map(Directory::into_fd)).transpose()
    }

    /// The processors that its threads may have, as a list: `0-3,7`; `None` where no cpuset says.
    ///
    /// # Errors
    /// The cgroup does not exist or cannot be read.
    pub fn processors(&self) -> Result<Option<String>> {
        let Some(node) = self.node_of("cpuset") else { return Ok(None) };
        let file = match node.version {
            Version::V1 => "cpuset.effective_cpus",
            Version::V2 => "cpuset.cpus.effective",
        };
        let top = Directory::top(&node.mountpoint)?;
        // On v2 only cgroups that were given the controller have the file: the next one above says it for the others.
        for relative in node.relative.ancestors() {
            let beneath = if relative.as_os_str().is_empty() { None } else { top.descend(relative)? };
            if let Some(list) = beneath.as_ref().unwrap_or(&top).read_if_exists(file)? {
                return Ok(Some(list));
            }
        }
        Ok(None)
    }

    /// The processes in the cgroup itself, not in cgroups beneath it.
    ///
    /// # Errors
    /// The cgroup does not exist or cannot be read.
    pub fn pids(&self) -> Result<Vec<i32>> {
        self.main_node()?.existing()?.pids()
    }

    /// The processes in the cgroup and in cgroups that the container made beneath it, sorted.
    ///
    /// # Errors
    /// The cgroup does not exist or cannot be read.
    pub fn all_pids(&self) -> Result<Vec<i32>> {
        self.main_node()?.existing()?.all_pids()
    }

    /// Whether there is no hierarchy in which it is: that of a container that does without.
    pub fn is_nowhere(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether the cgroup exists in any hierarchy.
    ///
    /// # Errors
    /// A hierarchy cannot be read.
    pub fn exists(&self) -> Result<bool> {
        for node in &self.nodes {
            if node.open()?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Stops every process and waits until all have stopped, at most 10 s.
    ///
    /// # Errors
    /// The calling process is in the cgroup; a process cannot be stopped; there is no freezer. The cgroup is thawed.
    pub fn freeze(&self) -> Result<()> {
        let (directory, version) = self.freezer()?;
        require_foreign(&directory, &directory.all_pids()?)?;
        freezer::freeze(&directory, version)
    }

    /// Lets every process run again.
    ///
    /// # Errors
    /// There is no freezer or no such cgroup.
    pub fn thaw(&self) -> Result<()> {
        let (directory, version) = self.freezer()?;
        freezer::thaw(&directory, version)
    }

    /// [`Cgroup::thaw`], also of cgroups that the container has made beneath it and frozen by themselves: what has been
    /// sent SIGKILL dies only then.
    ///
    /// # Errors
    /// There is no freezer or no such cgroup.
    pub fn thaw_all(&self) -> Result<()> {
        let (directory, version) = self.freezer()?;
        freezer::thaw_tree(&directory, version)
    }

    /// Whether a cgroup above it is frozen: what enters it does not run, whatever its own freezer says.
    ///
    /// # Errors
    /// There is no freezer or no such cgroup.
    pub fn is_frozen_from_above(&self) -> Result<bool> {
        let (directory, version) = self.freezer()?;
        freezer::is_frozen_from_above(&directory, version)
    }

    /// A cgroup beneath it that the container has frozen by itself and that has processes: thawing this one does not let
    /// them run.
    ///
    /// # Errors
    /// There is no freezer or no such cgroup.
    pub fn frozen_beneath(&self) -> Result<Option<PathBuf>> {
        let (directory, version) = self.freezer()?;
        freezer::frozen_beneath(&directory, version)
    }

    /// Whether a task that was stopped by a signal cannot be traced as long as its freezer is frozen, as is so on v1.
    pub fn freezer_hides_stops(&self) -> bool {
        self.freezer_node().is_some_and(|node| node.version == Version::V1)
    }

    /// What the cgroup's own freezer does; that a cgroup above is frozen does not count.
    ///
    /// # Errors
    /// There is no freezer or no such cgroup.
    pub fn freezer_state(&self) -> Result<FreezerState> {
        let (directory, version) = self.freezer()?;
        freezer::state(&directory, version)
    }

    /// The directory with the freezer: CRIU's `freeze_cgroup`.
    pub fn freezer_path(&self) -> Option<PathBuf> {
        self.freezer_node().map(Node::path)
    }

    /// The directory that holds a controller's files: v1's, else the unified one (also for the empty name).
    pub fn path_of(&self, controller: &str) -> Option<PathBuf> {
        self.node_of(controller).map(Node::path)
    }

    /// What a mount of type `cgroup` shows to the container.
    pub fn container_mounts(&self) -> CgroupMounts {
        let mount = |node: &Node| CgroupMount::new(&node.controllers, node.mountpoint.clone(), node.path());
        match self.v2_node() {
            Some(node) if self.layout() == Layout::Unified => CgroupMounts::Unified(mount(node)),
            _ => CgroupMounts::PerHierarchy(
                self.nodes.iter().filter(|node| node.version == Version::V1).map(mount).collect(),
            ),
        }
    }

    /// [`Cgroup::container_mounts`] of a container that may do without some cgroups of this plan, where only `made`
    /// were: it stays in the caller's, and sees those.
    ///
    /// # Errors
    /// When the caller's cgroups cannot be read.
    pub fn container_mounts_where_made(&self, made: &Self) -> Result<CgroupMounts> {
        let hierarchies = Hierarchies::detect()?;
        let seen = |node: &Node| {
            let same = |hierarchy: &&Hierarchy| hierarchy.mountpoint() == node.mountpoint;
            match hierarchies.iter().find(same) {
                Some(callers) if !made.nodes.contains(node) => {
                    Node { relative: callers.own().to_owned(), ..node.clone() }
                }
                _ => node.clone(),
            }
        };
        Ok(Self { nodes: self.nodes.iter().map(seen).collect(), unit: None }.container_mounts())
    }

    pub(super) fn layout(&self) -> Layout {
        match (self.nodes.iter().any(|node| node.version == Version::V1), self.v2_node()) {
            (true, Some(_)) => Layout::Hybrid,
            (true, None) => Layout::V1,
            (false, _) => Layout::Unified,
        }
    }

    pub(super) fn v1_node(&self, controller: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.has(controller))
    }

    pub(super) fn v2_node(&self) -> Option<&Node> {
        self.nodes.iter().find(|node| node.version == Version::V2)
    }

    pub(super) fn node_of(&self, controller: &str) -> Option<&Node> {
        self.v1_node(controller).or_else(|| self.v2_node())
    }

    pub(super) fn freezer_node(&self) -> Option<&Node> {
        self.node_of("freezer")
    }

    fn freezer(&self) -> Result<(Directory, Version)> {
        let node = self.freezer_node().ok_or_else(|| {
            let message = if self.nodes.is_empty() {
                "the container has no cgroup, and so nothing that could be frozen"
            } else {
                "this host has no cgroup freezer mounted"
            };
            Error::new(ErrorKind::Unsupported, message)
        })?;
        Ok((node.existing()?, node.version))
    }

    /// The hierarchy that is asked for the container's processes.
    fn main_node(&self) -> Result<&Node> {
        self.freezer_node()
            .or(self.nodes.first())
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "the container has no cgroup"))
    }
}

/// Freezing or killing the cgroup that one is in ends badly.
pub(super) fn require_foreign(directory: &Directory, pids: &[i32]) -> Result<()> {
    let own = std::process::id();
    if pids.iter().any(|pid| u32::try_from(*pid) == Ok(own)) {
        let message = format!("the calling process {own} is itself in cgroup {}", directory.path().display());
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    Ok(())
}

/// Pids for a message, not more than a reader can use.
pub(super) fn name_pids(pids: &[i32]) -> String {
    const MOST: usize = 8;
    let named: Vec<String> = pids.iter().take(MOST).map(ToString::to_string).collect();
    let noun = if pids.len() == 1 { "process" } else { "processes" };
    match pids.len().checked_sub(MOST) {
        None | Some(0) => format!("{noun} {}", named.join(", ")),
        Some(more) => format!("{noun} {} and {more} more", named.join(", ")),
    }
}
