// SPDX-License-Identifier: Apache-2.0
//! Processes and threads. Source: kernel admin-guide/cgroup-v1/pids.rst.

use serde::{Deserialize, Serialize};

use super::super::directory::Directory;
use super::{is_zero, number, number_or_zero};
use crate::Result;

/// Processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PidsStats {
    /// How many there are.
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    /// How many there may be; 0 when that is not limited.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

pub(super) fn read(directory: &Directory, stats: &mut PidsStats) -> Result<()> {
    stats.current = number_or_zero(directory, "pids.current")?;
    stats.limit = number(directory, "pids.max")?.filter(|limit| *limit != u64::MAX).unwrap_or_default();
    Ok(())
}
