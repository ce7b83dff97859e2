// SPDX-License-Identifier: Apache-2.0
//! Freezing a container's processes and letting them go on.

use super::{Container, Status};
use crate::Result;

impl Container {
    /// Freezes its processes.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`](crate::ErrorKind::WrongStatus) unless it runs or waits for its start.
    pub fn pause(&mut self) -> Result<()> {
        let _lock = self.lock()?;
        self.require_owned()?;
        match self.status()? {
            Status::Running | Status::Created => self.cgroup()?.freeze(),
            other => {
                let message =
                    format!("cannot pause container {}: container not running: it is {other}", self.id());
                Err(self.wrong_status(&message))
            }
        }
    }

    /// Lets frozen processes go on.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`](crate::ErrorKind::WrongStatus) unless it is paused.
    pub fn resume(&mut self) -> Result<()> {
        let _lock = self.lock()?;
        self.require_owned()?;
        match self.status()? {
            Status::Paused => self.cgroup()?.thaw(),
            other => {
                let message =
                    format!("cannot resume container {}: container not paused: it is {other}", self.id());
                Err(self.wrong_status(&message))
            }
        }
    }

    /// Whether its program has been started: a container can be paused before that.
    ///
    /// # Errors
    /// When its first process cannot be looked at.
    pub fn has_started(&self) -> Result<bool> {
        self.init().map_or(Ok(true), |init| self.waits_for_start(init).map(|waits| !waits))
    }
}
