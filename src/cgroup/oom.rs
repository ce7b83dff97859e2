// SPDX-License-Identifier: Apache-2.0
//! How often the kernel killed for want of memory.

use super::cgroup::Cgroup;
use super::hierarchy::Version;
use crate::Result;

impl Cgroup {
    /// How many processes of the cgroup the kernel has killed because its memory was used up; 0 where memory is not
    /// accounted.
    ///
    /// # Errors
    /// The cgroup does not exist or cannot be read.
    pub fn oom_kills(&self) -> Result<u64> {
        let Some(node) = self.node_of("memory") else { return Ok(0) };
        let file = match node.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        Ok(node.existing()?.read_if_exists(file)?.as_deref().map_or(0, count))
    }
}

pub(super) fn count(text: &str) -> u64 {
    let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    kills.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_count_in_one_way() {
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), 3);
        assert_eq!(count("low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(count(""), 0);
    }
}
