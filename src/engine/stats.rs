// SPDX-License-Identifier: Apache-2.0
//! What a container uses.

use super::{Container, Status};
use crate::cgroup::Stats;
use crate::{Context, Error, ErrorKind, Result};

impl Container {
    /// What its processes use now.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`] when it has stopped; [`ErrorKind::NotFound`] when it was removed meanwhile.
    pub fn stats(&self) -> Result<Stats> {
        self.require_running()?;
        self.cgroup()?.stats().context(|| format!("read the statistics of container {}", self.id()))
    }

    pub(super) fn require_running(&self) -> Result<()> {
        match self.status()? {
            Status::Created | Status::Running | Status::Paused => Ok(()),
            Status::Creating | Status::Stopped => Err(self.not_running()),
        }
    }

    /// The words are runc's.
    pub(super) fn not_running(&self) -> Error {
        let message = format!("container with id {} is not running", self.id());
        Error::new(ErrorKind::WrongStatus, message)
    }
}
