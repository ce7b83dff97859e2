// SPDX-License-Identifier: Apache-2.0
//! Bringing the limits of the configuration into a container's cgroup.
//!
//! The values and their order come from [`super::resources`]; here is where they are written, and what the kernel
//! says to them.

use nix::errno::Errno;

use crate::spec::oci::LinuxResources;

use super::cgroup::{Cgroup, Node};
use super::create::enable_down_to;
use super::directory::Directory;
use super::hierarchy::{Layout, Version};
use super::resources::{self, Current, Missing, Write};
use crate::{Context, Error, ErrorKind, Result};

impl Cgroup {
    /// Writes the limits of `linux.resources`. Devices are not among them: see [`Cgroup::restrict_devices`].
    ///
    /// # Errors
    /// A value is invalid or the kernel refuses it (the message names the field of the configuration), or a
    /// controller that a limit needs is not there. Limits written before stay.
    pub fn set(&self, resources: &LinuxResources) -> Result<()> {
        let writes = self.writes(resources, &self.current(resources)?)?;
        writes.iter().try_for_each(|write| self.perform(write))
    }

    /// What to write where the cgroup is as `current` says.
    pub(super) fn writes(&self, resources: &LinuxResources, current: &Current) -> Result<Vec<Write>> {
        let v2_controllers = self.v2_controllers()?;
        resources::writes(resources, current, &|controller| self.version_of(controller, &v2_controllers))
    }

    /// [`Cgroup::set`] of a running container's cgroup, and of its unit: all of it or nothing. `before` are all limits
    /// that it had.
    ///
    /// # Errors
    /// As there; what was written is taken back.
    pub fn update(&self, resources: &LinuxResources, before: Option<&LinuxResources>) -> Result<()> {
        let current = self.current(resources)?;
        let writes = self.writes(resources, &current)?;
        // systemd writes to the files, too, and less exactly: what is written after it stays.
        self.set_unit(&writes, &current)?;
        let mut done = Vec::new();
        for write in &writes {
            if let Err(error) = self.perform_undoably(write, &mut done) {
                let mut failures: Vec<Error> = self.reset_unit(&writes, before).err().into_iter().collect();
                failures.extend(done.iter().rev().filter_map(|undo: &Undo| undo.perform().err()));
                return Err(error.with_cleanup(failures));
            }
        }
        Ok(())
    }

    /// Takes back what can be taken back of the cgroup's memory until it uses no more than `limit` bytes; returns what it
    /// uses then. No process is killed. On v1 the limit is set when it fits.
    ///
    /// # Errors
    /// When the cgroup cannot be read or written.
    pub fn reclaim_memory(&self, limit: u64) -> Result<u64> {
        let Some(node) = self.node_of("memory") else { return Ok(0) };
        let directory = node.existing()?;
        let number = |file| {
            directory.read_if_exists(file).map(|text| text.and_then(|text| text.parse().ok()).unwrap_or(0))
        };
        match node.version {
            Version::V1 => match directory.write_raw("memory.limit_in_bytes", &limit.to_string()) {
                Ok(()) | Err(Errno::EBUSY) => number("memory.usage_in_bytes"),
                Err(errno) => Err(errno).context(|| format!("limit the memory of cgroup {node} to {limit}")),
            },
            Version::V2 if !directory.has("memory.high") => Ok(0),
            Version::V2 => {
                // Unlike memory.max, this one reclaims and never kills.
                directory.write("memory.high", &limit.to_string())?;
                let used = number("memory.current");
                directory.write("memory.high", "max")?;
                used
            }
        }
    }

    /// The fields of `resources` that are set but have no effect on this host, for a warning.
    ///
    /// # Errors
    /// The hierarchies cannot be read.
    pub fn unenforced(&self, resources: &LinuxResources) -> Result<Vec<&'static str>> {
        let v2_controllers = self.v2_controllers()?;
        Ok(resources::unenforced(resources, &|controller| self.version_of(controller, &v2_controllers)))
    }

    /// The controllers that the unified hierarchy has for us.
    fn v2_controllers(&self) -> Result<Vec<String>> {
        let Some(node) = self.v2_node() else { return Ok(Vec::new()) };
        let text = Directory::top(&node.mountpoint)?.read_if_exists("cgroup.controllers")?;
        Ok(text.unwrap_or_default().split_whitespace().map(str::to_owned).collect())
    }

    fn version_of(&self, controller: &str, v2_controllers: &[String]) -> Version {
        let v2_name = if controller == "blkio" { "io" } else { controller };
        let in_v2 = match self.layout() {
            Layout::V1 => false,
            Layout::Unified => true,
            // Device programs and core files need no controller.
            Layout::Hybrid => {
                matches!(controller, "devices" | "cgroup") || v2_controllers.iter().any(|c| c == v2_name)
            }
        };
        if in_v2 && self.v1_node(controller).is_none() { Version::V2 } else { Version::V1 }
    }

    fn current(&self, resources: &LinuxResources) -> Result<Current> {
        let mut current = Current::default();
        if let (Some(_), Some(node)) = (resources.memory(), self.node_of("memory")) {
            read_memory(&node.existing()?, node.version, &mut current)?;
        }
        if let (Some(_), Some(node)) = (resources.cpu(), self.node_of("cpu")) {
            read_cpu(&node.existing()?, node.version, &mut current)?;
        }
        Ok(current)
    }

    pub(super) fn perform(&self, write: &Write) -> Result<()> {
        let Some((directory, file, value)) = self.target(write)? else { return Ok(()) };
        directory.write(file, value).map_err(|error| explain(error, write, &directory))
    }

    /// [`Cgroup::perform`], having noted what was there. A file that cannot be read is not put back.
    fn perform_undoably(&self, write: &Write, done: &mut Vec<Undo>) -> Result<()> {
        let Some((directory, file, value)) = self.target(write)? else { return Ok(()) };
        let before = directory.read(file).ok().map(|before| Write::undone(file, value, &before));
        directory.write(file, value).map_err(|error| explain(error, write, &directory))?;
        done.extend(before.map(|value| Undo { directory, file: file.to_owned(), value }));
        Ok(())
    }

    /// Where a write goes, and what; `None` where it can be left out.
    fn target<'w>(&self, write: &'w Write) -> Result<Option<(Directory, &'w str, &'w str)>> {
        let no_controller = || {
            let (field, controller) = (write.field, &write.controller);
            let message = if self.nodes.is_empty() {
                format!("cannot set {field}: container could not join or create cgroup")
            } else {
                format!("{field} needs the {controller} controller, which this host has not")
            };
            Error::new(ErrorKind::Unsupported, message)
                .with_hint("remove the limit, or enable the controller")
        };
        let node = match (self.node_of(&write.controller), &write.missing) {
            (Some(node), _) => node,
            (None, Missing::Skip) => return Ok(None),
            (None, _) => return Err(no_controller()),
        };
        let directory = node.existing()?;
        if node.version == Version::V2 && write.controller != "cgroup" {
            enable_down_to(node, &write.controller)
                .map_err(|error| explain_threaded(error, write, node, &directory))?;
        }
        let (file, value) = match &write.missing {
            Missing::Fail if !directory.has(&write.file) && node.version == Version::V2 => {
                return Err(no_controller());
            }
            Missing::Skip if !directory.has(&write.file) => return Ok(None),
            Missing::Use(file, value) if !directory.has(&write.file) => (file, value),
            _ => (&write.file, &write.value),
        };
        Ok(Some((directory, file, value)))
    }
}

/// The words in the middle are runc's.
fn explain_threaded(error: Error, write: &Write, node: &Node, directory: &Directory) -> Error {
    let kind = directory.read_if_exists("cgroup.type").ok().flatten().unwrap_or_default();
    if !error.is_errno(libc::EOPNOTSUPP) || !kind.contains("threaded") {
        return error;
    }
    let message = format!(
        "set {}: cannot enter cgroupv2 {:?} with domain controllers -- it is in {kind} mode",
        write.field,
        node.path()
    );
    Error::new(ErrorKind::Unsupported, message)
        .with_source(error)
        .with_hint("a cgroup above it is threaded or has processes of its own: choose another linux.cgroupsPath, or remove the limit")
}

fn read_memory(directory: &Directory, version: Version, current: &mut Current) -> Result<()> {
    let number = |file| directory.read_if_exists(file).map(|text| text.and_then(|t| t.parse().ok()));
    match version {
        Version::V1 => {
            current.memory_limit = number("memory.limit_in_bytes")?;
            current.memory_swap_limit = number("memory.memsw.limit_in_bytes")?;
            current.memory_usage = number("memory.usage_in_bytes")?;
        }
        Version::V2 => {
            current.memory_limit = number("memory.max")?;
            current.memory_usage = number("memory.current")?;
        }
    }
    Ok(())
}

fn read_cpu(directory: &Directory, version: Version, current: &mut Current) -> Result<()> {
    let number = |file| directory.read_if_exists(file).map(|text| text.and_then(|t| t.parse().ok()));
    match version {
        Version::V1 => {
            current.cpu_quota = number("cpu.cfs_quota_us")?;
            current.cpu_period = number("cpu.cfs_period_us")?;
            current.cpu_burst = number("cpu.cfs_burst_us")?;
            current.rt_period = number("cpu.rt_period_us")?;
            let runtime = directory.read_if_exists("cpu.rt_runtime_us")?;
            current.rt_runtime = runtime.and_then(|text| text.parse().ok());
        }
        Version::V2 => {
            let max = directory.read_if_exists("cpu.max")?.unwrap_or_default();
            let mut parts = max.split(' ').map(|part| part.parse().ok());
            (current.cpu_quota, current.cpu_period) = (parts.next().flatten(), parts.next().flatten());
            current.cpu_burst = number("cpu.max.burst")?;
        }
    }
    Ok(())
}

/// How to take one write back.
struct Undo {
    directory: Directory,
    file: String,
    value: String,
}

impl Undo {
    fn perform(&self) -> Result<()> {
        self.directory.write(&self.file, &self.value).context(|| "take a limit back")
    }
}

/// Says which field of the configuration the kernel did not take.
pub(super) fn explain(error: Error, write: &Write, directory: &Directory) -> Error {
    let kind = match error.errno() {
        Some(libc::EINVAL | libc::ERANGE | libc::EBUSY) => ErrorKind::InvalidConfig,
        Some(libc::ENOENT) => ErrorKind::Unsupported,
        _ => error.kind(),
    };
    let busy = write.controller == "memory" && error.is_errno(libc::EBUSY);
    let number = |file| busy.then(|| directory.read(file).ok()).flatten();
    let message = match (number("memory.usage_in_bytes"), number("memory.max_usage_in_bytes")) {
        (Some(usage), Some(peak)) => format!(
            "set {}: unable to set memory limit to {} (current usage: {usage}, peak usage: {peak})",
            write.field, write.value
        ),
        _ => format!("set {}", write.field),
    };
    let error = Error::new(kind, message).with_source(error);
    if busy {
        return error.with_hint("the kernel takes no limit below what is in use and cannot be reclaimed");
    }
    error
}
