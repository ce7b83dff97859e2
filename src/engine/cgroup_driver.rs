// SPDX-License-Identifier: Apache-2.0
//! Who makes a new container's cgroups, and the way there with systemd. Must not know what a unit is made of.

use serde_json::json;

use super::NewContainer;
use crate::cgroup::{Cgroup, Hierarchies};
use crate::spec::Config;
use crate::{Context, ErrorKind, Result};

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CgroupDriver {
    /// The engine, through the filesystem.
    #[default]
    Files,
    /// systemd, as a unit for each container; `linux.cgroupsPath` is `slice:prefix:name` then.
    Systemd,
}

impl NewContainer {
    /// Decides where the cgroup lies.
    pub(super) fn plan_cgroup(&mut self, config: &Config) -> Result<Cgroup> {
        let found = Hierarchies::detect()?;
        let hierarchies = self.hierarchies.get_or_init(|| found);
        let path = config.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
        if self.root.driver() == CgroupDriver::Files {
            return Cgroup::plan(hierarchies, path, self.id.as_str());
        }
        let annotations = config.spec.annotations().as_ref();
        let rootless = self.root.cgroups_are_optional();
        let (cgroup, unit) = Cgroup::plan_unit(hierarchies, path, self.id.as_str(), annotations, rootless)?;
        self.unit = Some(unit);
        Ok(cgroup)
    }

    /// The configuration with a cgroup that nobody uses. Copies of one checkpoint are all configured for the same; who comes
    /// later gets one beside it, which has the container's id in its name.
    pub(super) fn with_free_cgroup(&mut self, config: Config) -> Result<Config> {
        let path = config.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
        let Some(path) = path.and_then(|path| path.to_str()).filter(|path| !path.is_empty()) else {
            return Ok(config);
        };
        let beside = format!("{}-{}", path.trim_end_matches('/'), self.id);
        match self.plan_cgroup(&config)?.require_unused() {
            Err(used) if used.kind() == ErrorKind::AlreadyExists => {
                tracing::warn!(reason = used.chain(), cgroup = beside, "the container gets another cgroup");
            }
            other => return other.map(|()| config),
        }
        config.changed(|value| {
            value["linux"]["cgroupsPath"] = json!(beside);
            Ok(())
        })
    }

    /// Starts the unit, if there is one. Only one that is started is written down: who undoes this ends it by its name,
    /// and until then the name may be another's. If this process dies in between, systemd ends it, as it is empty then.
    pub(super) fn start_unit(&mut self) -> Result<()> {
        let Some(unit) = self.unit.take() else { return Ok(()) };
        let resources = self.first_resources();
        let started =
            unit.start(self.cgroup(), resources.as_ref()).context(|| "unable to apply cgroup configuration");
        match started {
            Ok(held) => self.unit_holder = Some(held),
            Err(error) => {
                self.cgroup = self.cgroup.take().map(|cgroup| cgroup.with_unit(None));
                return Err(error);
            }
        }
        self.state.cgroup_unit = self.cgroup().unit().cloned();
        self.state.save(&self.dir)?;
        self.cgroup().come_near()
    }

    /// Lets the unit go that was held for the first process to come: it is there.
    ///
    /// # Errors
    /// When a limit of the cgroup cannot be written.
    pub fn release_unit(&mut self) -> Result<()> {
        self.unit_holder.take().map_or(Ok(()), |held| held.release().context(|| "release the unit"))
    }
}
