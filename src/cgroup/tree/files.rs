// SPDX-License-Identifier: Apache-2.0
//! Which files of a cgroup hold its settings, in the order in which they are written. Pure.

use super::super::hierarchy::Version;

/// How the content of a file is written back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As it stands there.
    Whole,
    /// A line at a time.
    Lines,
    /// The number behind the first word: `oom_kill_disable 0`.
    Second,
}

/// v1. A cpuset takes no process before it has the first two.
const V1: [(&str, Form); 31] = [
    ("cpuset.cpus", Form::Whole),
    ("cpuset.mems", Form::Whole),
    ("cpuset.cpu_exclusive", Form::Whole),
    ("cpuset.mem_exclusive", Form::Whole),
    ("cpuset.mem_hardwall", Form::Whole),
    ("cpuset.memory_migrate", Form::Whole),
    ("cpuset.memory_spread_page", Form::Whole),
    ("cpuset.memory_spread_slab", Form::Whole),
    ("cpuset.sched_load_balance", Form::Whole),
    ("cpuset.sched_relax_domain_level", Form::Whole),
    ("cpu.shares", Form::Whole),
    ("cpu.idle", Form::Whole),
    ("cpu.cfs_period_us", Form::Whole),
    ("cpu.cfs_quota_us", Form::Whole),
    ("cpu.cfs_burst_us", Form::Whole),
    ("cpu.rt_period_us", Form::Whole),
    ("cpu.rt_runtime_us", Form::Whole),
    ("memory.limit_in_bytes", Form::Whole),
    ("memory.memsw.limit_in_bytes", Form::Whole),
    ("memory.soft_limit_in_bytes", Form::Whole),
    ("memory.swappiness", Form::Whole),
    ("memory.oom_control", Form::Second),
    ("pids.max", Form::Whole),
    ("blkio.weight", Form::Whole),
    ("blkio.bfq.weight", Form::Whole),
    ("blkio.throttle.read_bps_device", Form::Lines),
    ("blkio.throttle.write_bps_device", Form::Lines),
    ("blkio.throttle.read_iops_device", Form::Lines),
    ("blkio.throttle.write_iops_device", Form::Lines),
    ("net_cls.classid", Form::Whole),
    ("net_prio.ifpriomap", Form::Lines),
];

/// v2.
const V2: [(&str, Form); 27] = [
    ("cgroup.max.descendants", Form::Whole),
    ("cgroup.max.depth", Form::Whole),
    ("cpuset.cpus", Form::Whole),
    ("cpuset.mems", Form::Whole),
    ("cpuset.cpus.partition", Form::Whole),
    ("cpu.weight", Form::Whole),
    ("cpu.idle", Form::Whole),
    ("cpu.max", Form::Whole),
    ("cpu.max.burst", Form::Whole),
    ("cpu.uclamp.min", Form::Whole),
    ("cpu.uclamp.max", Form::Whole),
    ("memory.min", Form::Whole),
    ("memory.low", Form::Whole),
    ("memory.high", Form::Whole),
    ("memory.max", Form::Whole),
    ("memory.swap.high", Form::Whole),
    ("memory.swap.max", Form::Whole),
    ("memory.zswap.max", Form::Whole),
    ("memory.oom.group", Form::Whole),
    ("io.weight", Form::Lines),
    ("io.bfq.weight", Form::Lines),
    ("io.max", Form::Lines),
    ("io.latency", Form::Lines),
    ("pids.max", Form::Whole),
    ("rdma.max", Form::Lines),
    ("misc.max", Form::Lines),
    // Written before there are members, and before what depends on it.
    (TYPE, Form::Whole),
];

/// Says that a v2 cgroup takes threads.
pub(super) const TYPE: &str = "cgroup.type";

/// The controllers that a v2 cgroup gives to those beneath it.
pub(super) const GIVEN: &str = "cgroup.subtree_control";

/// The settings of that version.
pub(super) fn of(version: Version) -> &'static [(&'static str, Form)] {
    match version {
        Version::V1 => &V1,
        Version::V2 => &V2,
    }
}

/// The form of a file of that version; `None` for one that is none of the settings.
pub(super) fn form(version: Version, file: &str) -> Option<Form> {
    of(version).iter().find(|(name, _)| *name == file).map(|(_, form)| *form)
}

/// Whether a value of this file may be written at all.
pub(super) fn is_known(file: &str) -> bool {
    file == GIVEN || form(Version::V1, file).is_some() || form(Version::V2, file).is_some()
}

/// The single writes that bring `value` about.
pub(super) fn writes(form: Form, value: &str) -> Vec<&str> {
    match form {
        Form::Whole => vec![value],
        Form::Lines => value.lines().filter(|line| !line.is_empty()).collect(),
        Form::Second => value.lines().next().and_then(|line| line.split(' ').nth(1)).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_the_kernel_takes_them() {
        assert_eq!(writes(Form::Whole, "max 100000"), ["max 100000"]);
        assert_eq!(writes(Form::Lines, "8:0 rbps=1\n8:16 wbps=2"), ["8:0 rbps=1", "8:16 wbps=2"]);
        assert_eq!(writes(Form::Second, "oom_kill_disable 1\nunder_oom 0"), ["1"]);
        assert!(writes(Form::Lines, "").is_empty() && writes(Form::Second, "x").is_empty());
        assert!(is_known("pids.max") && is_known(GIVEN) && !is_known("cgroup.procs"));
    }
}
