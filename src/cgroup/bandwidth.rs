// SPDX-License-Identifier: Apache-2.0
//! How much processor time a cgroup may have, as the kernel tells it. Setting it is [`super::limits`]'.

use serde::{Deserialize, Serialize};

use super::cgroup::Cgroup;
use super::hierarchy::Version;
use crate::Result;

/// The kernel's own period, in microseconds.
const PERIOD: u64 = 100_000;

/// So much time of processors in each period, both in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuBandwidth {
    /// `None`: as much as there is.
    pub quota: Option<u64>,
    /// The period.
    pub period: u64,
}

impl Cgroup {
    /// What it has; `None` without a controller.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn cpu_bandwidth(&self) -> Result<Option<CpuBandwidth>> {
        let Some(node) = self.node_of("cpu") else { return Ok(None) };
        let directory = node.existing()?;
        let text = match node.version {
            Version::V1 => {
                let quota = directory.read_if_exists("cpu.cfs_quota_us")?;
                quota
                    .zip(directory.read_if_exists("cpu.cfs_period_us")?)
                    .map(|(quota, period)| format!("{quota} {period}"))
            }
            Version::V2 => directory.read_if_exists("cpu.max")?,
        };
        Ok(text.map(|text| bandwidth(&text)))
    }
}

/// `50000 100000`; without a limit the first word is `max` on v2, and -1 on v1.
fn bandwidth(text: &str) -> CpuBandwidth {
    let mut words = text.split_ascii_whitespace().map(|word| word.parse().ok());
    CpuBandwidth { quota: words.next().flatten(), period: words.next().flatten().unwrap_or(PERIOD) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_understood() {
        for (text, quota, period) in
            [("max 100000", None, 100_000), ("-1 50000", None, 50_000), ("2500 20000\n", Some(2500), 20_000)]
        {
            assert_eq!(bandwidth(text), CpuBandwidth { quota, period }, "{text}");
        }
    }
}
