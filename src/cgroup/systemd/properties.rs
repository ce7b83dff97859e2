// SPDX-License-Identifier: Apache-2.0
//! Limits as properties of a unit, from the writes to cgroup files that they are otherwise. Pure.
//!
//! systemd writes what its units' properties say, at every change and every reload: a limit that it does not know of
//! would be gone then. What it has no property for is written to the files only, by the engine, as without systemd.
//! Source: systemd.resource-control(5), org.freedesktop.systemd1(5).

use super::bus::Value;
use crate::cgroup::resources::{Current, Missing, Write};

/// The kernel's CPU bandwidth period, microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// systemd has quotas in whole percents of a processor: microseconds per second.
const PERCENT: u64 = 10_000;

/// The first version that has the length of the period.
const HAS_PERIOD: u32 = 242;
/// The first version that has cpusets.
const HAS_CPUSET: u32 = 244;
/// The first version that takes 0 as a weight for "idle".
const HAS_IDLE: u32 = 252;

/// The highest processor or memory node that is passed on.
const HIGHEST: usize = 8191;

/// A property of a unit.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Property {
    pub(super) name: String,
    pub(super) value: Value,
}

impl Property {
    pub(super) fn new(name: impl Into<String>, value: Value) -> Self {
        Self { name: name.into(), value }
    }

    /// The same property as it is where nobody has set it.
    pub(super) fn unset(&self) -> Self {
        let value = match (&self.value, self.name.as_str()) {
            (Value::Array(element, _), _) => Value::Array(element.clone(), Vec::new()),
            (_, "MemoryLow" | "MemoryMin") => Value::Uint64(0),
            // No limit, and no weight of its own.
            _ => Value::Uint64(u64::MAX),
        };
        Self::new(self.name.clone(), value)
    }

    pub(super) fn to_value(&self) -> Value {
        Value::Struct(vec![Value::text(self.name.clone()), Value::variant(self.value.clone())])
    }
}

/// The properties for writes to a cgroup that is now as `current` says, for this version of systemd.
pub(super) fn of_writes(writes: &[Write], current: &Current, systemd: u32) -> Vec<Property> {
    let mut properties: Vec<Property> = Vec::new();
    let mut put = |name: &str, value: Value| match properties.iter_mut().find(|p| p.name == name) {
        Some(present) => present.value = value,
        None => properties.push(Property::new(name, value)),
    };
    let mut bandwidth = Bandwidth::default();
    // An idle group has no other weight.
    let idle = systemd >= HAS_IDLE && writes.iter().any(|w| w.file == "cpu.idle" && w.value == "1");
    for write in writes {
        let value = write.value.trim();
        match write.file.as_str() {
            "cpu.max" => bandwidth.read(value),
            "cpu.cfs_quota_us" => bandwidth.quota = Some(value.parse().ok()),
            "cpu.cfs_period_us" => bandwidth.period = value.parse().ok(),
            "cpuset.cpus" | "cpuset.mems" if systemd >= HAS_CPUSET => {
                let name = if write.file == "cpuset.cpus" { "AllowedCPUs" } else { "AllowedMemoryNodes" };
                // The kernel takes forms of lists that systemd does not know.
                if let Some(bits) = bits(value) {
                    put(name, Value::bytes(&bits));
                }
            }
            "cpu.idle" if idle => put("CPUWeight", Value::Uint64(0)),
            "cpu.weight" if idle => {}
            "io.bfq.weight" => {
                if let Missing::Use(_, weight) = &write.missing
                    && let Ok(weight) = weight.parse()
                {
                    put("IOWeight", Value::Uint64(weight));
                }
            }
            file => {
                if let (Some(name), Some(amount)) = (named(file), amount(value)) {
                    put(name, Value::Uint64(amount));
                }
            }
        }
    }
    for property in bandwidth.properties(current, systemd) {
        put(&property.name, property.value);
    }
    properties
}

/// The property whose value is the file's.
fn named(file: &str) -> Option<&'static str> {
    Some(match file {
        "memory.max" => "MemoryMax",
        "memory.high" => "MemoryHigh",
        "memory.low" => "MemoryLow",
        "memory.min" => "MemoryMin",
        "memory.swap.max" => "MemorySwapMax",
        "memory.limit_in_bytes" => "MemoryLimit",
        "cpu.weight" => "CPUWeight",
        "cpu.shares" => "CPUShares",
        "pids.max" => "TasksMax",
        "blkio.weight" => "BlockIOWeight",
        _ => return None,
    })
}

/// A number, or none for "no limit".
fn amount(value: &str) -> Option<u64> {
    match value {
        "max" | "-1" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// What is set of the share of processors' time. A quota of `None` is "unlimited".
#[derive(Default)]
struct Bandwidth {
    quota: Option<Option<u64>>,
    period: Option<u64>,
}

impl Bandwidth {
    /// `QUOTA [PERIOD]`.
    fn read(&mut self, cpu_max: &str) {
        let mut words = cpu_max.split_ascii_whitespace();
        self.quota = words.next().map(|quota| quota.parse().ok());
        self.period = words.next().and_then(|period| period.parse().ok()).or(self.period);
    }

    fn properties(&self, current: &Current, systemd: u32) -> Vec<Property> {
        if self.quota.is_none() && self.period.is_none() {
            return Vec::new();
        }
        let mut properties = Vec::new();
        if let Some(period) = self.period.filter(|_| systemd >= HAS_PERIOD) {
            properties.push(Property::new("CPUQuotaPeriodUSec", Value::Uint64(period)));
        }
        let period = self.period.or(current.cpu_period).filter(|p| *p > 0).unwrap_or(DEFAULT_PERIOD);
        let per_second = self.quota.unwrap_or(current.cpu_quota).map_or(u64::MAX, |quota| {
            // Rounded up: what the container gives to cgroups beneath its own must fit into it.
            let exact = u128::from(quota) * 1_000_000 / u128::from(period);
            let rounded = exact.next_multiple_of(u128::from(PERCENT));
            u64::try_from(rounded).unwrap_or(u64::MAX)
        });
        properties.push(Property::new("CPUQuotaPerSecUSec", Value::Uint64(per_second)));
        properties
    }
}

/// `0-3,8` as bits, the lowest first.
fn bits(list: &str) -> Option<Vec<u8>> {
    let mut bits = Vec::new();
    for range in list.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > HIGHEST {
            return None;
        }
        bits.resize(bits.len().max(last / 8 + 1), 0);
        (first..=last).for_each(|bit| bits[bit / 8] |= 1 << (bit % 8));
    }
    Some(bits).filter(|bits| !bits.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Version;
    use crate::cgroup::resources::writes;
    use crate::spec::oci::LinuxResources;

    fn properties(json: &str, version: Version, current: &Current, systemd: u32) -> Vec<(String, Value)> {
        let resources: LinuxResources = serde_json::from_str(json).expect("valid resources");
        let writes = writes(&resources, current, &|_| version).expect("valid values");
        of_writes(&writes, current, systemd).into_iter().map(|p| (p.name, p.value)).collect()
    }

    fn expected(list: &[(&str, u64)]) -> Vec<(String, Value)> {
        list.iter().map(|(name, n)| ((*name).to_owned(), Value::Uint64(*n))).collect()
    }

    const MAX: u64 = u64::MAX;

    #[test]
    fn limits_on_v2() {
        for (json, list) in [
            (
                r#"{"memory":{"limit":100,"swap":300,"reservation":50}}"#,
                &[("MemorySwapMax", 200), ("MemoryMax", 100), ("MemoryLow", 50)][..],
            ),
            (r#"{"memory":{"limit":100,"swap":100}}"#, &[("MemorySwapMax", 0), ("MemoryMax", 100)]),
            (r#"{"memory":{"limit":-1}}"#, &[("MemorySwapMax", MAX), ("MemoryMax", MAX)]),
            (r#"{"cpu":{"shares":1024}}"#, &[("CPUWeight", 100)]),
            (r#"{"cpu":{"shares":1024,"idle":1}}"#, &[("CPUWeight", 0)]),
            (r#"{"cpu":{"shares":1024,"idle":0}}"#, &[("CPUWeight", 100)]),
            (
                r#"{"cpu":{"quota":50000,"period":200000}}"#,
                &[("CPUQuotaPeriodUSec", 200_000), ("CPUQuotaPerSecUSec", 250_000)],
            ),
            (r#"{"cpu":{"quota":50000}}"#, &[("CPUQuotaPerSecUSec", 500_000)]),
            (
                r#"{"cpu":{"quota":12345,"period":100000}}"#,
                &[("CPUQuotaPeriodUSec", 100_000), ("CPUQuotaPerSecUSec", 130_000)],
            ),
            (r#"{"cpu":{"quota":-1}}"#, &[("CPUQuotaPerSecUSec", MAX)]),
            (r#"{"cpu":{"period":200000}}"#, &[("CPUQuotaPeriodUSec", 200_000), ("CPUQuotaPerSecUSec", MAX)]),
            (r#"{"pids":{"limit":20}}"#, &[("TasksMax", 20)]),
            (r#"{"pids":{"limit":-1}}"#, &[("TasksMax", MAX)]),
            (r#"{"blockIO":{"weight":100}}"#, &[("IOWeight", 910)]),
            (
                r#"{"unified":{"memory.high":"7","memory.min":"max","cpu.max":"max 1000","pids.max":"9","io.max":"8:0 rbps=1"}}"#,
                &[
                    ("MemoryHigh", 7),
                    ("MemoryMin", MAX),
                    ("TasksMax", 9),
                    ("CPUQuotaPeriodUSec", 1000),
                    ("CPUQuotaPerSecUSec", MAX),
                ],
            ),
            (r#"{"unified":{"cpu.idle":"1","cpu.weight":"200"}}"#, &[("CPUWeight", 0)]),
            (r#"{"memory":{"limit":100},"unified":{"memory.max":"90"}}"#, &[("MemoryMax", 90)]),
            (r#"{"memory":{"swappiness":5}}"#, &[]),
        ] {
            assert_eq!(properties(json, Version::V2, &Current::default(), 252), expected(list), "{json}");
        }
    }

    #[test]
    fn limits_on_v1() {
        for (json, list) in [
            (r#"{"memory":{"limit":100,"swap":300}}"#, &[("MemoryLimit", 100)][..]),
            (r#"{"memory":{"limit":-1}}"#, &[("MemoryLimit", MAX)]),
            (r#"{"cpu":{"shares":512}}"#, &[("CPUShares", 512)]),
            (
                r#"{"cpu":{"quota":50000,"period":100000}}"#,
                &[("CPUQuotaPeriodUSec", 100_000), ("CPUQuotaPerSecUSec", 500_000)],
            ),
            (r#"{"cpu":{"quota":-1}}"#, &[("CPUQuotaPerSecUSec", MAX)]),
            (r#"{"pids":{"limit":20}}"#, &[("TasksMax", 20)]),
            (r#"{"blockIO":{"weight":100}}"#, &[("BlockIOWeight", 100)]),
        ] {
            assert_eq!(properties(json, Version::V1, &Current::default(), 252), expected(list), "{json}");
        }
    }

    #[test]
    fn half_of_a_bandwidth_goes_with_the_other_half_that_is() {
        let current = Current { cpu_quota: Some(20_000), cpu_period: Some(50_000), ..Current::default() };
        for (json, list) in [
            (r#"{"cpu":{"quota":10000}}"#, &[("CPUQuotaPerSecUSec", 200_000)][..]),
            (
                r#"{"cpu":{"period":100000}}"#,
                &[("CPUQuotaPeriodUSec", 100_000), ("CPUQuotaPerSecUSec", 200_000)],
            ),
        ] {
            for version in [Version::V1, Version::V2] {
                assert_eq!(properties(json, version, &current, 252), expected(list), "{json} {version:?}");
            }
        }
    }

    #[test]
    fn what_nobody_has_set() {
        for (value, unset) in [
            (Property::new("MemoryMax", Value::Uint64(5)), Value::Uint64(MAX)),
            (Property::new("CPUWeight", Value::Uint64(5)), Value::Uint64(MAX)),
            (Property::new("MemoryLow", Value::Uint64(5)), Value::Uint64(0)),
            (Property::new("AllowedCPUs", Value::bytes(&[1])), Value::bytes(&[])),
        ] {
            assert_eq!(value.unset(), Property::new(value.name.clone(), unset));
        }
    }

    #[test]
    fn older_versions_get_what_they_know() {
        let of = |json, systemd| properties(json, Version::V2, &Current::default(), systemd);
        let quota = r#"{"cpu":{"quota":50000,"period":200000}}"#;
        assert_eq!(of(quota, 241), expected(&[("CPUQuotaPerSecUSec", 250_000)]));
        assert_eq!(of(r#"{"cpu":{"cpus":"0-1"}}"#, 243), []);
        assert_eq!(of(r#"{"cpu":{"idle":1}}"#, 251), []);
        let cpuset = of(r#"{"cpu":{"cpus":"0-1","mems":"0"}}"#, 244);
        let set = |name: &str, bits| (name.to_owned(), Value::bytes(bits));
        assert_eq!(cpuset, [set("AllowedCPUs", &[3]), set("AllowedMemoryNodes", &[1])]);
    }

    #[test]
    fn lists_of_processors_as_bits() {
        for (list, expected) in [
            ("0", Some(vec![1])),
            ("0-3,8", Some(vec![0x0f, 0x01])),
            (" 1 , 3-5 ", Some(vec![0b11_1010])),
            ("15", Some(vec![0, 0x80])),
            ("", None),
            ("x", None),
            ("3-1", None),
            ("0-10:2/5", None),
            ("99999", None),
        ] {
            assert_eq!(bits(list), expected, "{list}");
        }
    }
}
