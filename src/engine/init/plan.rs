// SPDX-License-Identifier: Apache-2.0
//! Everything that init does, decided before the clone: init itself judges nothing.

use std::fs::File;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::engine::attributes::Attributes;
use crate::engine::console::ConsolePlan;
use crate::engine::hooks::InitHooks;
use crate::engine::keyring::KeyringPlan;
use crate::engine::lsm::LsmPlan;
use crate::engine::process::ProcessPlan;
use crate::engine::rootfs::RootfsPlan;
use crate::engine::seccomp::Filter;
use crate::engine::user_namespace::UserNamespacePlan;
use crate::{Context, Result, sys};

/// The plan, as it travels to init in a sealed memory file. Descriptors are numbers that init inherits.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::engine) struct InitPlan {
    /// The root file system to build; `None` for a process that joins a container.
    pub rootfs: Option<RootfsPlan>,
    /// The mount namespace to join.
    pub mount_namespace: Option<i32>,
    /// The root directory to enter: of a container without a mount namespace.
    pub root: Option<i32>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    /// Kernel parameters, as paths below `/proc/sys`.
    pub sysctls: Vec<(String, String)>,
    pub network: NetworkPlan,
    /// The fifo to wait at before the program starts, opened with `O_PATH`.
    pub fifo: Option<i32>,
    /// The socket on which the runtime opens sources of mounts.
    pub mount_sources: Option<i32>,
    /// How many descriptors from number 3 on are the program's.
    pub preserved: u32,
    /// The terminal to make for the process.
    pub console: Option<ConsolePlan>,
    /// The user namespace to join, if the process is not in it yet. Init was executed outside of it: nobody in it may
    /// look into the process, whatever his capabilities there (CVE-2016-9962).
    pub join_user_namespace: Option<i32>,
    /// The user namespace that the process ends up in, if it is another than the runtime's.
    pub user_namespace: Option<UserNamespacePlan>,
    pub hooks: InitHooks,
    pub attributes: Attributes,
    /// The session keyring to join; without one the caller's stays.
    pub keyring: Option<KeyringPlan>,
    pub lsm: LsmPlan,
    pub seccomp: Option<Filter>,
    pub process: ProcessPlan,
}

/// What there is to do about the network namespace.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(in crate::engine) struct NetworkPlan {
    /// Whether the loopback interface is to be brought up: it is down in a new namespace.
    pub loopback: bool,
    /// Whether the runtime puts interfaces there.
    pub from_outside: bool,
}

impl InitPlan {
    pub(super) fn to_memfd(&self) -> Result<File> {
        let bytes = serde_json::to_vec(self).context(|| "serialise the plan for init")?;
        sys::fd::sealed_memfd(c"init-plan", &bytes).context(|| "hand the plan to init")
    }

    pub(super) fn read(plan: OwnedFd) -> Result<Self> {
        serde_json::from_reader(std::io::BufReader::new(File::from(plan)))
            .context(|| "read the plan for init")
    }
}
