// SPDX-License-Identifier: Apache-2.0
//! Bringing the limits of the configuration into a container's cgroup.
//!
//! The values and their order come from [`super::resources`]; here is where they are written, and what the kernel
//! says to them.

use crate::spec::oci::{LinuxDeviceCgroup, LinuxResources};

use super::cgroup::Cgroup;
use super::create::enable_down_to;
use super::directory::Directory;
use super::hierarchy::{Layout, Version};
use super::resources::{self, Current, DeviceTable, Missing, Write};
use crate::{Error, ErrorKind, Result};

impl Cgroup {
    /// Writes the limits of `linux.resources`. Devices are not among them: see [`Cgroup::restrict_devices`].
    ///
    /// # Errors
    /// A value is invalid or the kernel refuses it (the message names the field of the configuration), or a
    /// controller that a limit needs is not there. Limits written before stay.
    pub fn set(&self, resources: &LinuxResources) -> Result<()> {
        let v2_controllers = self.v2_controllers()?;
        let version_of = |controller: &str| self.version_of(controller, &v2_controllers);
        let current = self.current(resources)?;
        for write in resources::writes(resources, &current, &version_of)? {
            self.perform(&write)?;
        }
        Ok(())
    }

    /// Lets the cgroup use the devices that the rules of `linux.resources.devices` allow, and those that every
    /// container has; without rules only the latter. v1 only: on v2 nothing happens (see [`Cgroup::unenforced`]).
    ///
    /// # Errors
    /// A rule is malformed or cannot be expressed, or the kernel refuses it.
    pub fn restrict_devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<()> {
        let Some(node) = self.v1_node("devices") else { return Ok(()) };
        let table = DeviceTable::from_rules(rules)?;
        if table.is_shown_by(&node.existing()?.read("devices.list")?) {
            return Ok(());
        }
        table.writes().iter().try_for_each(|write| self.perform(write))
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
            let directory = node.existing()?;
            let number = |file| directory.read_if_exists(file).map(|text| text.and_then(|t| t.parse().ok()));
            (current.memory_limit, current.memory_swap_limit, current.memory_usage) = match node.version {
                Version::V1 => (
                    number("memory.limit_in_bytes")?,
                    number("memory.memsw.limit_in_bytes")?,
                    number("memory.usage_in_bytes")?,
                ),
                Version::V2 => (number("memory.max")?, None, number("memory.current")?),
            };
        }
        if let (Some(_), Some(node)) = (resources.cpu(), self.node_of("cpu")) {
            let directory = node.existing()?;
            let number = |file| directory.read_if_exists(file).map(|text| text.and_then(|t| t.parse().ok()));
            (current.cpu_quota, current.cpu_period, current.cpu_burst) = match node.version {
                Version::V1 => {
                    (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?, number("cpu.cfs_burst_us")?)
                }
                Version::V2 => {
                    let max = directory.read_if_exists("cpu.max")?.unwrap_or_default();
                    let mut parts = max.split(' ').map(|part| part.parse().ok());
                    (parts.next().flatten(), parts.next().flatten(), number("cpu.max.burst")?)
                }
            };
        }
        Ok(current)
    }

    fn perform(&self, write: &Write) -> Result<()> {
        let no_controller = || {
            let message =
                format!("{} needs the {} controller, which this host has not", write.field, write.controller);
            Error::new(ErrorKind::Unsupported, message)
                .with_hint("remove the limit, or enable the controller")
        };
        let node = match (self.node_of(&write.controller), &write.missing) {
            (Some(node), _) => node,
            (None, Missing::Skip) => return Ok(()),
            (None, _) => return Err(no_controller()),
        };
        let directory = node.existing()?;
        if node.version == Version::V2 && write.controller != "cgroup" {
            enable_down_to(node, &write.controller)?;
        }
        let (file, value) = match &write.missing {
            Missing::Fail if !directory.has(&write.file) && node.version == Version::V2 => {
                return Err(no_controller());
            }
            Missing::Skip if !directory.has(&write.file) => return Ok(()),
            Missing::Use(file, value) if !directory.has(&write.file) => (file, value),
            _ => (&write.file, &write.value),
        };
        directory.write(file, value).map_err(|error| explain(error, write, &directory))
    }
}

/// Says which field of the configuration the kernel did not take.
fn explain(error: Error, write: &Write, directory: &Directory) -> Error {
    let kind = match error.errno() {
        Some(libc::EINVAL | libc::ERANGE | libc::EBUSY) => ErrorKind::InvalidConfig,
        Some(libc::ENOENT) => ErrorKind::Unsupported,
        _ => error.kind(),
    };
    let usage = (write.controller == "memory" && error.is_errno(libc::EBUSY))
        .then(|| directory.read("memory.usage_in_bytes").ok())
        .flatten();
    let error = Error::new(kind, format!("set {}", write.field)).with_source(error);
    match usage {
        Some(bytes) => {
            error.with_hint(format!("the cgroup uses {bytes} bytes at the moment: no lower limit is taken"))
        }
        None => error,
    }
}
