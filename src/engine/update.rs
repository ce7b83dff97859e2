// SPDX-License-Identifier: Apache-2.0
//! Other limits for a container that exists.

use serde_json::Value;

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
        let _lock = self.lock()?;
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
            Ok(())
        })?;
        let Some(to_set) = to_set else { return Ok(()) };
        // Written down first: a command that dies here leaves what was asked for on record, and asking again helps.
        save_config(self.dir(), &after.bytes)?;
        self.cgroup()
            .and_then(|cgroup| cgroup.update(&to_set))
            .context(|| context)
            .map_err(|error| error.with_cleanup(save_config(self.dir(), &before.bytes).err()))
    }
}
