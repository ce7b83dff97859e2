// SPDX-License-Identifier: Apache-2.0
//! RDMA devices. Source: kernel admin-guide/cgroup-v1/rdma.rst.

use serde::{Deserialize, Serialize};

use super::super::directory::Directory;
use super::text;
use crate::Result;

/// RDMA devices: limits and use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RdmaStats {
    /// What may be used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limit: Vec<RdmaEntry>,
    /// What is used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub current: Vec<RdmaEntry>,
}

impl RdmaStats {
    /// Whether there is no device.
    pub fn is_empty(&self) -> bool {
        self.limit.is_empty() && self.current.is_empty()
    }
}

/// One device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RdmaEntry {
    /// Its name.
    pub device: String,
    /// Handles; `u32::MAX` is unlimited.
    pub hca_handles: u32,
    /// Objects; `u32::MAX` is unlimited.
    pub hca_objects: u32,
}

pub(super) fn read(directory: &Directory, stats: &mut RdmaStats) -> Result<()> {
    stats.limit = entries(&text(directory, "rdma.max")?.unwrap_or_default());
    stats.current = entries(&text(directory, "rdma.current")?.unwrap_or_default());
    Ok(())
}

/// `mlx4_0 hca_handle=2 hca_object=max` a line.
fn entries(text: &str) -> Vec<RdmaEntry> {
    let number = |value: &str| if value == "max" { Some(u32::MAX) } else { value.parse().ok() };
    let entry = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let mut entry = RdmaEntry { device: words.next()?.to_owned(), ..RdmaEntry::default() };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "hca_handle" => entry.hca_handles = number(value)?,
                "hca_object" => entry.hca_objects = number(value)?,
                _ => {}
            }
        }
        Some(entry)
    };
    text.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_by_line() {
        let m = RdmaEntry { device: "m0".into(), hca_handles: 2, hca_objects: u32::MAX };
        assert_eq!(entries("m0 hca_handle=2 hca_object=max\n"), [m]);
        assert!(entries("").is_empty());
    }
}
