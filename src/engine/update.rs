// SPDX-License-Identifier: Apache-2.0
//! Other limits for a container that exists.

use serde_json::Value;

use super::intel_rdt::{RdtChange, Undo};
use super::state::save_config;
use super::{Container, Status};
use crate::spec::ResourceChange;
use crate::{Context, Error, ErrorKind, Result};

impl Container {
    /// Changes its limits, also while it is paused or waits for its start. Its saved configuration has them from then
    /// on: a checkpoint takes them along, and the next change starts from them. Device rules stay as they are.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`] when it has stopped; else the field of the limit that could not be set. All limits
    /// are then as they were.
    pub fn update(&mut self, change: &ResourceChange) -> Result<()> {
        self.update_with(change, &RdtChange::default())
    }

    /// [`Container::update`], and changes its shares of the cache and of the memory's bandwidth.
    ///
    /// # Errors
    /// As there; [`ErrorKind::Unsupported`] for shares that this machine does not have.
    pub fn update_with(&mut self, change: &ResourceChange, shares: &RdtChange) -> Result<()> {
        shares.require_machine()?;
        let _lock = self.lock()?;
        self.require_owned()?;
        let context = format!("update container {}", self.id());
        match self.status()? {
            Status::Created | Status::Running | Status::Paused => {}
            other => {
                let message = format!("{context}: container not running: it is {other}");
                return Err(Error::new(ErrorKind::WrongStatus, message));
            }
        }
        let before = self.config()?;
        let mut to_set = None;
        let after = before.changed(|config| {
            let linux = config
                .as_object_mut()
                .map(|c| c.entry("linux").or_insert_with(|| Value::Object(Default::default())));
            let Some(linux) = linux else { return Ok(()) };
            let changed = change.applied_to(&linux["resources"])?;
            to_set = Some(change.to_set(&changed)?);
            linux["resources"] = changed;
            shares.write_into(linux);
            Ok(())
        })?;
        let Some(to_set) = to_set else { return Ok(()) };
        let limits_before = before.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        // Written down first: a command that dies here leaves what was asked for on record, and asking again helps.
        save_config(self.dir(), &after.bytes)?;
        let done = self.update_shares(shares).and_then(|undo| {
            self.cgroup()
                .and_then(|cgroup| cgroup.update(&to_set, limits_before))
                .map_err(|error| error.with_cleanup(undo.run().err()))
        });
        done.context(|| context)
            .map_err(|error| error.with_cleanup(save_config(self.dir(), &before.bytes).err()))
    }

    /// A container without a group gets one, with all of its processes, and keeps it whatever comes.
    fn update_shares(&mut self, shares: &RdtChange) -> Result<Undo> {
        let cgroup = self.cgroup()?;
        let (id, dir) = (self.id().clone(), self.dir().to_owned());
        let state = self.state_mut();
        let groups = state.intel_rdt.clone();
        shares.apply(
            &groups,
            &id,
            || cgroup.all_pids(),
            |groups| {
                state.intel_rdt.clone_from(groups);
                state.save(&dir)
            },
        )
    }
}
