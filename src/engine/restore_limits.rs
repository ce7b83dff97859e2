// SPDX-License-Identifier: Apache-2.0
//! Limits of a container that is restored. What makes its processes works in its cgroup, and could not under a small limit
//! of tasks, memory or processor time: such limits are set when the processes are there and before they run.

use super::NewContainer;
use crate::cgroup::resources::without_tight_limits;
use crate::spec::oci::{LinuxMemory, LinuxResources};
use crate::{Error, ErrorKind, Result};

/// Memory that the kernel charges for a process beside what its status tells, in bytes: page tables, slabs.
const UNSEEN: u64 = 4 << 20;

/// Which of the limits are not set yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a container may not stay without its limits"]
pub enum LimitsDue {
    /// None.
    None,
    /// All but the limit of memory are set; that one once who restored has ended.
    Memory,
}

impl NewContainer {
    /// [`NewContainer::create_cgroup`] without the limits that a restore could not live under.
    ///
    /// # Errors
    /// As there.
    pub fn create_cgroup_for_restore(&mut self) -> Result<()> {
        self.spared = true;
        self.create_cgroup()
    }

    /// What the cgroup is made with.
    pub(super) fn first_resources(&self) -> Option<LinuxResources> {
        let resources = self.resources()?;
        Some(if self.spared { without_tight_limits(resources) } else { resources.clone() })
    }

    /// How much memory in bytes its processes may have, swap aside; `None`: as much as there is.
    pub fn memory_limit(&self) -> Option<u64> {
        self.resources().and_then(memory_limit)
    }

    fn resources(&self) -> Option<&LinuxResources> {
        self.config().spec.linux().as_ref()?.resources().as_ref()
    }

    /// Sets the limits that were left out. `helper` is the memory in bytes of the process in the cgroup that is about to end.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] when the processes need more memory than the limit gives them; the field of the limit
    /// that could not be set.
    pub fn set_spared_limits(&mut self, helper: u64) -> Result<LimitsDue> {
        let Some(resources) = self.spared.then(|| self.resources()).flatten() else {
            return Ok(LimitsDue::None);
        };
        let first = without_tight_limits(resources);
        if self.cgroup().is_nowhere() || first == *resources {
            return Ok(LimitsDue::None);
        }
        if let Some(limit) = memory_limit(resources) {
            let used = self.cgroup().reclaim_memory(limit)?;
            let theirs = used.saturating_sub(helper.saturating_add(UNSEEN));
            if theirs > limit {
                let message = format!(
                    "the restored processes use {theirs} bytes of memory, and linux.resources.memory.limit is {limit}"
                );
                return Err(Error::new(ErrorKind::InvalidConfig, message)
                    .with_hint("raise the limit in config.json, or restore to a machine with swap space"));
            }
            if used > limit {
                let mut others = resources.clone();
                others.set_memory(None);
                if let Some(unified) = others.unified_mut() {
                    unified.retain(|file, _| !file.starts_with("memory."));
                }
                self.cgroup().update(&others, Some(&first))?;
                return Ok(LimitsDue::Memory);
            }
        }
        self.cgroup().update(resources, Some(&first))?;
        self.spared = false;
        Ok(LimitsDue::None)
    }

    /// Sets what is due, now that who restored has ended.
    ///
    /// # Errors
    /// As [`NewContainer::set_spared_limits`].
    pub fn set_due_limits(&mut self, due: LimitsDue) -> Result<()> {
        match due {
            LimitsDue::None => Ok(()),
            LimitsDue::Memory => match self.set_spared_limits(0)? {
                LimitsDue::None => Ok(()),
                LimitsDue::Memory => Err(Error::new(
                    ErrorKind::InvalidConfig,
                    "the restored processes use more memory than linux.resources.memory.limit gives them",
                )
                .with_hint("raise the limit in config.json")),
            },
        }
    }
}

/// The limit of memory in bytes, in whichever way it is configured.
fn memory_limit(resources: &LinuxResources) -> Option<u64> {
    let limit = resources.memory().as_ref().and_then(LinuxMemory::limit);
    let unified = || resources.unified().as_ref()?.get("memory.max")?.parse().ok();
    limit.and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0).or_else(unified)
}
