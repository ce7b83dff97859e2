// SPDX-License-Identifier: Apache-2.0
//! A container's unit: a scope, or a slice, whose cgroup is the container's.
//!
//! ```text
//! Cgroup::plan_unit ──▶ NewUnit::start ──▶ Cgroup::create, set ──▶ UnitHolder::make_room ─▶ join ─▶ UnitHolder::release
//!                       (with a process that                                                        (that process goes)
//!                        does nothing in it)
//! ```
//!
//! A scope cannot be without a process, and the container's own comes later, directly into the cgroup. So one that does
//! nothing stands in for it.

use std::collections::HashMap;
use std::path::Path;

use nix::sched::CloneFlags;
use nix::unistd::{AccessFlags, access, geteuid};
use serde::{Deserialize, Serialize};

use super::annotations;
use super::bus::Value;
use super::client::{Systemd, has_session};
use super::devices;
use super::place::Place;
use super::properties::{Property, of_writes};
use crate::cgroup::cgroup::{Cgroup, Node};
use crate::cgroup::hierarchy::{Hierarchies, Layout, self_cgroups};
use crate::cgroup::resources::{Current, Write};
use crate::spec::oci::LinuxResources;
use crate::sys::holder::Holder;
use crate::{Context, Error, ErrorKind, Result};

/// Which of systemd's managers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// The machine's, pid 1.
    System,
    /// That of the calling user's sessions.
    User,
}

impl Manager {
    /// The manager for a caller who is root of the machine, or is not (`rootless`): root in a user namespace may be a
    /// user who has gone into it, or root of a container that systemd has started.
    fn of(rootless: bool) -> Self {
        if rootless && (!geteuid().is_root() || has_session()) { Self::User } else { Self::System }
    }
}

/// What `state.json` keeps of a container's unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Its name, with its kind: `runc-web.scope`.
    pub name: String,
    /// Who has it.
    pub manager: Manager,
}

/// A unit that is planned, and the connection by which it will be made.
#[derive(Debug)]
pub struct NewUnit {
    systemd: Systemd,
    version: u32,
    place: Place,
    annotations: Vec<Property>,
}

/// What keeps a unit from ending before the container's first process is in it.
#[derive(Debug)]
pub struct UnitHolder {
    process: Option<Holder>,
    node: Option<Node>,
    /// The limit of tasks, while it is one higher.
    tasks: Option<u64>,
}

impl Cgroup {
    /// Decides where the container's cgroup lies if systemd is to make it: `linux.cgroupsPath` is `slice:prefix:name`
    /// then. Annotations named `org.systemd.property.…` become properties of the unit.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for a path or an annotation; systemd does not run or cannot be reached.
    pub fn plan_unit(
        hierarchies: &Hierarchies,
        cgroups_path: Option<&Path>,
        id: &str,
        annotations: Option<&HashMap<String, String>>,
        rootless: bool,
    ) -> Result<(Self, NewUnit)> {
        let manager = Manager::of(rootless);
        let place = Place::of(cgroups_path, id, manager)?;
        let annotations = annotations::properties(annotations)?;
        if manager == Manager::User && hierarchies.layout() != Layout::Unified {
            let message = "cannot use rootless systemd cgroups manager on cgroup v1";
            return Err(Error::new(ErrorKind::Unsupported, message)
                .with_hint("users' managers have only cgroup v2: leave --systemd-cgroup out"));
        }
        let mut systemd = Systemd::connect(manager)?;
        systemd.require_same_pids()?;
        let relative = systemd.control_group()?.join(place.path()?);
        let version = systemd.version()?;
        let nodes = hierarchies.iter().map(|hierarchy| Node {
            controllers: hierarchy.controllers().to_vec(),
            version: hierarchy.version(),
            mountpoint: hierarchy.mountpoint().to_path_buf(),
            relative: relative.clone(),
        });
        let unit = Unit { name: place.unit.clone(), manager };
        Ok((
            Self { nodes: nodes.collect(), unit: Some(unit) },
            NewUnit { systemd, version, place, annotations },
        ))
    }

    /// Its unit, if systemd has made it.
    pub fn unit(&self) -> Option<&Unit> {
        self.unit.as_ref()
    }

    /// The same cgroup, as that of this unit.
    #[must_use]
    pub fn with_unit(mut self, unit: Option<Unit>) -> Self {
        self.unit = unit;
        self
    }

    /// Gives the unit the properties for writes that follow.
    pub(in crate::cgroup) fn set_unit(&self, writes: &[Write], current: &Current) -> Result<()> {
        let Some(unit) = &self.unit else { return Ok(()) };
        let mut systemd = Systemd::connect(unit.manager)?;
        let properties = of_writes(writes, current, systemd.version()?);
        if properties.is_empty() { Ok(()) } else { systemd.set(&unit.name, &properties) }
    }

    /// Takes back what [`Cgroup::set_unit`] did for these writes: the unit has the limits of `before` again.
    pub(in crate::cgroup) fn reset_unit(
        &self,
        writes: &[Write],
        before: Option<&LinuxResources>,
    ) -> Result<()> {
        let Some(unit) = &self.unit else { return Ok(()) };
        let mut systemd = Systemd::connect(unit.manager)?;
        let version = systemd.version()?;
        let current = Current::default();
        let writes_before =
            before.map(|before| self.writes(before, &current)).transpose()?.unwrap_or_default();
        let mut properties = of_writes(&writes_before, &current, version);
        for set in of_writes(writes, &current, version) {
            if !properties.iter().any(|property| property.name == set.name) {
                properties.push(set.unset());
            }
        }
        if properties.is_empty() { Ok(()) } else { systemd.set(&unit.name, &properties) }
    }

    /// Ends the unit. Its cgroup may be left.
    pub(in crate::cgroup) fn stop_unit(&self) {
        let Some(unit) = &self.unit else { return };
        let stopped = Systemd::connect(unit.manager).and_then(|mut systemd| systemd.stop(&unit.name));
        if let Err(error) = stopped {
            // systemd sees by itself that the cgroup is gone.
            tracing::warn!(unit = unit.name, error = error.chain(), "unit not stopped");
        }
    }

    /// Makes sure that this process can put others into the cgroup of a unit of the user's manager. That takes the right
    /// to write to a cgroup above both, which one of a session has not: then this process goes to the manager, into a
    /// scope of its own.
    ///
    /// # Errors
    /// What systemd says.
    pub fn come_near(&self) -> Result<()> {
        let (Some(unit), Some(node)) = (&self.unit, self.v2_node()) else { return Ok(()) };
        if unit.manager == Manager::System {
            return Ok(());
        }
        let own = self_cgroups(std::process::id().cast_signed())?;
        let own = own.into_iter().find(|line| line.controllers.is_empty()).map(|line| line.path);
        let own = own.unwrap_or_default();
        let own = own.strip_prefix("/").unwrap_or(&own);
        let common: std::path::PathBuf = own
            .components()
            .zip(node.relative.components())
            .take_while(|(ours, theirs)| ours == theirs)
            .map(|(ours, _)| ours)
            .collect();
        let file = node.mountpoint.join(common).join("cgroup.procs");
        if access(&file, AccessFlags::W_OK).is_ok() {
            return Ok(());
        }
        let pid = std::process::id();
        let mut properties = scope("user.slice", pid);
        properties.push(description(&format!("container runtime, process {pid}")));
        let scope = format!("migrate-{pid}.scope");
        let mut systemd = Systemd::connect(unit.manager)?;
        systemd.require_same_pids()?;
        systemd.start(&scope, &properties).context(|| "go to the user's manager")
    }
}

impl NewUnit {
    /// Starts the unit, with properties for the limits, and for the rules of `linux.resources.devices`.
    ///
    /// # Errors
    /// The unit exists, or what systemd says.
    pub fn start(mut self, cgroup: &Cgroup, resources: Option<&LinuxResources>) -> Result<UnitHolder> {
        let process = if self.place.is_slice() {
            None
        } else {
            let holder = Holder::start(CloneFlags::empty());
            Some(holder.context(|| "start a process for the container's unit")?)
        };
        let mut properties = vec![description(&format!("libcontainer container {}", self.place.name))];
        match &process {
            Some(process) => properties.extend(scope(&self.place.slice, process.pid().cast_unsigned())),
            None => properties.push(Property::new(
                "Wants",
                Value::Array("s".to_owned(), vec![Value::text(self.place.slice.clone())]),
            )),
        }
        let io = if cgroup.layout() == Layout::Unified { "IOAccounting" } else { "BlockIOAccounting" };
        for accounting in ["MemoryAccounting", "CPUAccounting", io, "TasksAccounting"] {
            properties.push(Property::new(accounting, Value::Bool(true)));
        }
        properties.push(Property::new("DefaultDependencies", Value::Bool(false)));
        if let Some(resources) = resources {
            let current = Current::default();
            properties.extend(of_writes(&cgroup.writes(resources, &current)?, &current, self.version));
        }
        let rules = resources.and_then(|r| r.devices().as_deref()).unwrap_or_default();
        properties.extend(devices::properties(rules, self.version));
        properties.extend(self.annotations);
        let started = self.systemd.start(&self.place.unit, &properties);
        match started {
            // Whoever asks for a slice wants it to be there.
            Err(error) if self.place.is_slice() && error.kind() == ErrorKind::AlreadyExists => {}
            other => other?,
        }
        Ok(UnitHolder { process, node: cgroup.v2_node().cloned(), tasks: None })
    }
}

impl UnitHolder {
    /// Lets the cgroup have one task more than it may for as long as there is one more: on v2 a process does not start
    /// in a full one.
    ///
    /// # Errors
    /// The limit cannot be read or written.
    pub fn make_room(&mut self) -> Result<()> {
        let (Some(_), Some(node)) = (&self.process, &self.node) else { return Ok(()) };
        let directory = node.existing()?;
        let limit = directory.read_if_exists("pids.max")?.and_then(|text| text.parse::<u64>().ok());
        if let Some(limit) = limit {
            directory.write("pids.max", &limit.saturating_add(1).to_string())?;
            self.tasks = Some(limit);
        }
        Ok(())
    }

    /// Ends the process that stood in, now that another is in the cgroup.
    ///
    /// # Errors
    /// The limit of tasks cannot be written.
    pub fn release(mut self) -> Result<()> {
        drop(self.process.take());
        match (self.tasks, &self.node) {
            (Some(limit), Some(node)) => node.existing()?.write("pids.max", &limit.to_string()),
            _ => Ok(()),
        }
    }
}

fn description(text: &str) -> Property {
    Property::new("Description", Value::text(text))
}

/// What makes a scope of a process, and leaves what is beneath it to whoever is in it.
fn scope(slice: &str, pid: u32) -> Vec<Property> {
    vec![
        Property::new("Slice", Value::text(slice)),
        Property::new("Delegate", Value::Bool(true)),
        Property::new("PIDs", Value::Array("u".to_owned(), vec![Value::Uint32(pid)])),
    ]
}
