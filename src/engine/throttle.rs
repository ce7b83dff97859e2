// SPDX-License-Identifier: Apache-2.0
//! Less processor time for a container than its configuration gives it, for as long as the process lives that wants it so: a file in its
//! directory has what was before, and whoever loads the container after a death puts that back. Must not know what it is good for.
//!
//! ```text
//!  throttle ─▶ throttled.json: who, and what was ─▶ the cgroup's quota          unthrottle ─▶ the quota that was ─▶ the file goes
//! ```

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::container::Container;
use super::state::{Creator, read_record, remove_record};
use crate::cgroup::CpuBandwidth;
use crate::{Context, Error, ErrorKind, Result};

const FILE: &str = "throttled.json";

#[derive(Debug, Serialize, Deserialize)]
struct Throttled {
    by: Creator,
    before: CpuBandwidth,
}

impl Container {
    /// Gives the container so much processor time, until [`Container::unthrottle`] or the end of this process. The cgroup must have a
    /// processor controller.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] without one; when it cannot be written down, or the kernel refuses it.
    pub fn throttle(&self, bandwidth: CpuBandwidth) -> Result<()> {
        let path = self.dir().join(FILE);
        if read_record::<Throttled>(&path)?.is_none() {
            let before = self.cgroup()?.cpu_bandwidth()?.ok_or_else(|| {
                let message = format!("the cgroup of container {} has no processor controller", self.id());
                Error::new(ErrorKind::Unsupported, message)
            })?;
            let record = Throttled { by: Creator::this()?, before };
            let bytes = serde_json::to_vec(&record).context(|| "serialise what the processor time was")?;
            self.write_file(FILE, &bytes)?;
        }
        self.set_bandwidth(bandwidth).context(|| format!("throttle container {}", self.id()))
    }

    /// Gives it again what it had.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn unthrottle(&self) -> Result<()> {
        let path = self.dir().join(FILE);
        let Some(Throttled { before, .. }) = read_record(&path)? else { return Ok(()) };
        self.set_bandwidth(before)
            .context(|| format!("give container {} its processor time again", self.id()))?;
        remove_record(&path)
    }

    /// Gives it again what it had, if the process has died that wanted it otherwise.
    pub(super) fn unthrottle_after_death(&self) {
        let given = match read_record::<Throttled>(&self.dir().join(FILE)) {
            Ok(Some(throttled)) if throttled.by.is_alive() => return,
            Ok(Some(_)) => self.unthrottle(),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        if let Err(error) = given {
            tracing::warn!(id = %self.id(), error = error.chain(), "the container stays throttled");
        }
    }

    fn set_bandwidth(&self, CpuBandwidth { quota, period }: CpuBandwidth) -> Result<()> {
        let quota = quota.map_or(json!(-1), |quota| json!(quota));
        let resources = serde_json::from_value(json!({"cpu": {"quota": quota, "period": period}}))
            .context(|| "understand a limit of processor time")?;
        self.cgroup()?.set(&resources)
    }
}
