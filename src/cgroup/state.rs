// SPDX-License-Identifier: Apache-2.0
//! What `state.json` keeps of a container's cgroups.
//!
//! The form is runc's `cgroup_paths`: one absolute directory per controller, under `name=…` for a named hierarchy and
//! under the empty key for the unified one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A container's cgroup directories by controller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CgroupState {
    /// Controller (`memory`, `name=systemd`, empty for v2) to absolute directory.
    pub paths: BTreeMap<String, PathBuf>,
}
