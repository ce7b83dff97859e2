// SPDX-License-Identifier: Apache-2.0
//! Memory. Sources: kernel admin-guide/cgroup-v1/memory.rst, admin-guide/cgroup-v2.rst.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::directory::Directory;
use super::super::hierarchy::Version;
use super::{PressureStats, is_zero, number_or_zero, pairs, text};
use crate::Result;

/// Memory in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryStats {
    /// Pages of files.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache: u64,
    /// Memory.
    pub usage: MemoryEntry,
    /// Memory and swap together.
    pub swap: MemoryEntry,
    /// The kernel's memory (v1).
    pub kernel: MemoryEntry,
    /// Buffers of TCP connections (v1).
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: MemoryEntry,
    /// All of `memory.stat`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    /// Time that tasks waited for memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<PressureStats>,
    /// What happened for want of memory.
    pub event_count: MemoryCounts,
}

/// One kind of memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryEntry {
    /// How much it may be: `u64::MAX` on v2, and on v1 a little less than 2^63, when it is not limited.
    pub limit: u64,
    /// How much it is.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// How much it was at most.
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    /// How often the limit was hit (v1).
    pub failcnt: u64,
}

/// How often something happened for want of memory (v2: `memory.events`; v1 knows `oom_kill`). What never happened is
/// not written: clients look for the word `oom` in the lines of `events`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryCounts {
    /// Reclaimed below the protected amount.
    #[serde(skip_serializing_if = "is_zero")]
    pub low: u64,
    /// Slowed down above `memory.high`.
    #[serde(skip_serializing_if = "is_zero")]
    pub high: u64,
    /// At the limit.
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    /// Allocations that were about to fail.
    #[serde(skip_serializing_if = "is_zero")]
    pub oom: u64,
    /// Processes killed.
    #[serde(skip_serializing_if = "is_zero")]
    pub oom_kill: u64,
}

pub(super) fn read(directory: &Directory, version: Version, stats: &mut MemoryStats) -> Result<()> {
    let raw = text(directory, "memory.stat")?.unwrap_or_default();
    stats.raw = pairs(&raw).map(|(key, value)| (key.to_owned(), value)).collect();
    let of_raw = |key: &str| stats.raw.get(key).copied().unwrap_or_default();
    match version {
        Version::V1 => {
            stats.cache = of_raw("cache");
            stats.usage = v1_entry(directory, "memory")?;
            stats.swap = v1_entry(directory, "memory.memsw")?;
            stats.kernel = v1_entry(directory, "memory.kmem")?;
            stats.kernel_tcp = v1_entry(directory, "memory.kmem.tcp")?;
            stats.event_count = counts(&text(directory, "memory.oom_control")?.unwrap_or_default());
        }
        Version::V2 => {
            stats.cache = of_raw("file");
            stats.usage = v2_entry(directory, "memory")?;
            stats.swap = v2_entry(directory, "memory.swap")?;
            // In the sense of v1: both together, of which no maximum is known.
            stats.swap.usage = stats.swap.usage.saturating_add(stats.usage.usage);
            stats.swap.limit = stats.swap.limit.saturating_add(stats.usage.limit);
            stats.swap.max = 0;
            stats.event_count = counts(&text(directory, "memory.events")?.unwrap_or_default());
        }
    }
    Ok(())
}

fn v1_entry(directory: &Directory, prefix: &str) -> Result<MemoryEntry> {
    let file = |name: &str| number_or_zero(directory, &format!("{prefix}.{name}"));
    Ok(MemoryEntry {
        limit: file("limit_in_bytes")?,
        usage: file("usage_in_bytes")?,
        max: file("max_usage_in_bytes")?,
        failcnt: file("failcnt")?,
    })
}

fn v2_entry(directory: &Directory, prefix: &str) -> Result<MemoryEntry> {
    let file = |name: &str| number_or_zero(directory, &format!("{prefix}.{name}"));
    Ok(MemoryEntry { limit: file("max")?, usage: file("current")?, max: file("peak")?, failcnt: 0 })
}

fn counts(text: &str) -> MemoryCounts {
    let mut counts = MemoryCounts::default();
    for (key, value) in pairs(text) {
        match key {
            "low" => counts.low = value,
            "high" => counts.high = value,
            "max" => counts.max = value,
            "oom" => counts.oom = value,
            "oom_kill" => counts.oom_kill = value,
            _ => {}
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(version: Version, files: &[(&str, &str)]) -> MemoryStats {
        let temp = tempfile::tempdir().expect("temporary directory");
        for (file, text) in files {
            std::fs::write(temp.path().join(file), text).expect("write");
        }
        let mut stats = MemoryStats::default();
        read(&Directory::top(temp.path()).expect("open"), version, &mut stats).expect("readable");
        stats
    }

    #[test]
    fn version_1() {
        let stats = stats(
            Version::V1,
            &[
                ("memory.stat", "cache 7\nrss 8\n"),
                ("memory.usage_in_bytes", "5\n"),
                ("memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory.max_usage_in_bytes", "6\n"),
                ("memory.failcnt", "1\n"),
                ("memory.memsw.usage_in_bytes", "50\n"),
                ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
            ],
        );
        assert_eq!(stats.cache, 7);
        let usage = MemoryEntry { limit: 9_223_372_036_854_771_712, usage: 5, max: 6, failcnt: 1 };
        assert_eq!(stats.usage, usage);
        assert_eq!(
            (stats.swap.usage, stats.kernel, stats.event_count.oom_kill),
            (50, MemoryEntry::default(), 3)
        );
        assert_eq!(stats.raw["rss"], 8);
    }

    #[test]
    fn version_2_with_and_without_swap() {
        let files = [
            ("memory.stat", "anon 1\nfile 7\n"),
            ("memory.current", "5\n"),
            ("memory.max", "100\n"),
            ("memory.peak", "6\n"),
            ("memory.events", "low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 0\n"),
        ];
        let without = stats(Version::V2, &files);
        assert_eq!((without.cache, without.swap.usage, without.swap.limit), (7, 5, 100));
        assert_eq!(without.event_count, MemoryCounts { low: 0, high: 1, max: 2, oom: 3, oom_kill: 4 });
        let more =
            [("memory.swap.current", "20\n"), ("memory.swap.max", "max\n"), ("memory.swap.peak", "30\n")];
        let with = stats(Version::V2, &[&files[..], &more].concat());
        assert_eq!((with.swap.usage, with.swap.limit, with.swap.max), (25, u64::MAX, 0));
    }
}
