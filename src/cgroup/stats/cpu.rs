// SPDX-License-Identifier: Apache-2.0
//! CPU time, its limits, and the cpuset. Sources: kernel admin-guide/cgroup-v1/{cpuacct,cpusets}.rst,
//! scheduler/sched-bwc.rst, admin-guide/cgroup-v2.rst.

use serde::{Deserialize, Serialize};

use super::super::directory::Directory;
use super::super::hierarchy::Version;
use super::{PressureStats, is_zero, number_or_zero, pairs, text};
use crate::Result;

/// CPU time used and withheld.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuStats {
    /// Time used.
    pub usage: CpuUsage,
    /// How the limit was felt.
    pub throttling: Throttling,
    /// Time that tasks waited for a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<PressureStats>,
}

/// CPU time in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuUsage {
    /// All of it.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    /// By CPU (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    /// By CPU, in the kernel (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    /// By CPU, in user mode (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    /// In the kernel.
    pub kernel: u64,
    /// In user mode.
    pub user: u64,
}

/// How a limit of CPU time was felt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Throttling {
    /// Periods in which it ran.
    #[serde(skip_serializing_if = "is_zero")]
    pub periods: u64,
    /// Periods in which it was stopped.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_periods: u64,
    /// Nanoseconds for which it was stopped.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_time: u64,
}

/// The cpuset (v1); flags are 0 or 1.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "each field is the file cpuset.FIELD")]
pub struct CpusetStats {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u16>,
    pub cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u16>,
    pub mem_hardwall: u64,
    pub mem_exclusive: u64,
    pub memory_migrate: u64,
    pub memory_spread_page: u64,
    pub memory_spread_slab: u64,
    pub memory_pressure: u64,
    pub sched_load_balance: u64,
    pub sched_relax_domain_level: i64,
}

/// Nanoseconds in a tick of `cpuacct.stat`: the kernel counts 100 a second for user space, on every machine.
const TICK: u64 = 10_000_000;

pub(super) fn read(directory: &Directory, version: Version, stats: &mut CpuStats) -> Result<()> {
    let text = text(directory, "cpu.stat")?.unwrap_or_default();
    match version {
        Version::V1 => read_v1(&text, stats),
        Version::V2 => read_v2(&text, stats),
    }
    Ok(())
}

fn read_v1(text: &str, stats: &mut CpuStats) {
    for (key, value) in pairs(text) {
        match key {
            "nr_periods" => stats.throttling.periods = value,
            "nr_throttled" => stats.throttling.throttled_periods = value,
            "throttled_time" => stats.throttling.throttled_time = value,
            _ => {}
        }
    }
}

fn read_v2(text: &str, stats: &mut CpuStats) {
    let nanoseconds = |microseconds: u64| microseconds.saturating_mul(1000);
    for (key, value) in pairs(text) {
        match key {
            "usage_usec" => stats.usage.total = nanoseconds(value),
            "user_usec" => stats.usage.user = nanoseconds(value),
            "system_usec" => stats.usage.kernel = nanoseconds(value),
            "nr_periods" => stats.throttling.periods = value,
            "nr_throttled" => stats.throttling.throttled_periods = value,
            "throttled_usec" => stats.throttling.throttled_time = nanoseconds(value),
            _ => {}
        }
    }
}

pub(super) fn read_accounting(directory: &Directory, usage: &mut CpuUsage) -> Result<()> {
    usage.total = number_or_zero(directory, "cpuacct.usage")?;
    for (key, ticks) in pairs(&text(directory, "cpuacct.stat")?.unwrap_or_default()) {
        match key {
            "user" => usage.user = ticks.saturating_mul(TICK),
            "system" => usage.kernel = ticks.saturating_mul(TICK),
            _ => {}
        }
    }
    let by_cpu = text(directory, "cpuacct.usage_percpu")?.unwrap_or_default();
    usage.percpu = by_cpu.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect();
    // A heading, then CPU, user and system a line.
    for line in text(directory, "cpuacct.usage_all")?.unwrap_or_default().lines().skip(1) {
        let mut numbers = line.split_ascii_whitespace().filter_map(|n| n.parse().ok());
        if let (Some(_), Some(user), Some(kernel)) = (numbers.next(), numbers.next(), numbers.next()) {
            usage.percpu_user.push(user);
            usage.percpu_kernel.push(kernel);
        }
    }
    Ok(())
}

pub(super) fn read_cpuset(directory: &Directory) -> Result<CpusetStats> {
    let flag = |name: &str| number_or_zero(directory, &format!("cpuset.{name}"));
    let list = |file| text(directory, file).map(|list| numbers(&list.unwrap_or_default()));
    let level = text(directory, "cpuset.sched_relax_domain_level")?;
    Ok(CpusetStats {
        cpus: list("cpuset.cpus")?,
        cpu_exclusive: flag("cpu_exclusive")?,
        mems: list("cpuset.mems")?,
        mem_hardwall: flag("mem_hardwall")?,
        mem_exclusive: flag("mem_exclusive")?,
        memory_migrate: flag("memory_migrate")?,
        memory_spread_page: flag("memory_spread_page")?,
        memory_spread_slab: flag("memory_spread_slab")?,
        memory_pressure: flag("memory_pressure")?,
        sched_load_balance: flag("sched_load_balance")?,
        sched_relax_domain_level: level.and_then(|text| text.parse().ok()).unwrap_or_default(),
    })
}

/// `0-2,5` as numbers.
fn numbers(list: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.trim().parse::<u16>().ok()?..=to.trim().parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_in_nanoseconds() {
        let mut stats = CpuStats::default();
        read_v1("nr_periods 5\nnr_throttled 2\nthrottled_time 70\nnr_bursts 0\n", &mut stats);
        let throttling = Throttling { periods: 5, throttled_periods: 2, throttled_time: 70 };
        assert_eq!(stats.throttling, throttling);
        read_v2("usage_usec 9\nuser_usec 6\nsystem_usec 3\nnr_periods 1\nthrottled_usec 4\n", &mut stats);
        assert_eq!((stats.usage.total, stats.usage.user, stats.usage.kernel), (9000, 6000, 3000));
        assert_eq!((stats.throttling.periods, stats.throttling.throttled_time), (1, 4000));
    }

    #[test]
    fn lists_of_cpus() {
        assert_eq!(numbers("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(numbers("7"), [7]);
        assert!(numbers("").is_empty());
        assert!(numbers("3-1").is_empty());
    }

    #[test]
    fn accounting_is_by_cpu_too() {
        let temp = tempfile::tempdir().expect("temporary directory");
        for (file, text) in [
            ("cpuacct.usage", "42\n"),
            ("cpuacct.stat", "user 3\nsystem 2\n"),
            ("cpuacct.usage_percpu", "40 2 \n"),
            ("cpuacct.usage_all", "cpu user system\n0 30 10\n1 1 1\n"),
        ] {
            std::fs::write(temp.path().join(file), text).expect("write");
        }
        let mut usage = CpuUsage::default();
        read_accounting(&Directory::top(temp.path()).expect("open"), &mut usage).expect("readable");
        assert_eq!((usage.total, usage.user, usage.kernel), (42, 30_000_000, 20_000_000));
        assert_eq!(
            (usage.percpu, usage.percpu_user, usage.percpu_kernel),
            (vec![40, 2], vec![30, 1], vec![10, 1])
        );
    }
}
