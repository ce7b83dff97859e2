// SPDX-License-Identifier: Apache-2.0
//! `linux.resources.cpu`: weight, bandwidth (microseconds), real-time share, and the cpuset.

use crate::spec::oci::LinuxCpu;

use super::{Current, Version, Write, invalid, single_line};
use crate::Result;

const SHARES: &str = "linux.resources.cpu.shares";
const QUOTA: &str = "linux.resources.cpu.quota";
const PERIOD: &str = "linux.resources.cpu.period";
const BURST: &str = "linux.resources.cpu.burst";
const IDLE: &str = "linux.resources.cpu.idle";

/// The kernel's range of `cpu.shares`.
const SHARES_RANGE: std::ops::RangeInclusive<u64> = 2..=262_144;

pub(super) fn cpu_writes(
    cpu: &LinuxCpu,
    current: &Current,
    version: Version,
    out: &mut Vec<Write>,
) -> Result<()> {
    weight(cpu, version, out)?;
    let quota = match cpu.quota() {
        None | Some(0) => None,
        Some(quota @ -1..) => Some(quota),
        Some(quota) => return Err(invalid(QUOTA, format_args!("is {quota}; only -1 stands for unlimited"))),
    };
    let period = cpu.period().filter(|period| *period != 0);
    let burst = cpu.burst().map(|burst| Write::new("cpu", burst_file(version), burst, BURST));
    // The kernel holds burst <= quota at every moment.
    let (before, after) = match (cpu.burst(), current.cpu_burst) {
        (Some(new), Some(old)) if new < old => (burst, None),
        _ => (None, burst),
    };
    out.extend(before);
    match version {
        Version::V1 => v1_bandwidth(quota, period, current, out),
        Version::V2 => v2_bandwidth(quota, period, current, out),
    }
    out.extend(after);
    if version == Version::V1 {
        v1_realtime(cpu, current, out);
    }
    Ok(())
}

fn burst_file(version: Version) -> &'static str {
    match version {
        Version::V1 => "cpu.cfs_burst_us",
        Version::V2 => "cpu.max.burst",
    }
}

/// An idle group has the least weight by definition, and the kernel refuses to give it another: idle first when it is
/// switched off, no shares when it is switched on.
fn weight(cpu: &LinuxCpu, version: Version, out: &mut Vec<Write>) -> Result<()> {
    match cpu.idle() {
        None => {}
        Some(idle @ 0..=1) => out.push(Write::new("cpu", "cpu.idle", idle, IDLE)),
        Some(idle) => return Err(invalid(IDLE, format_args!("is {idle}, not 0 or 1"))),
    }
    let Some(shares) = cpu.shares().filter(|shares| *shares != 0 && cpu.idle() != Some(1)) else {
        return Ok(());
    };
    match version {
        Version::V1 if !SHARES_RANGE.contains(&shares) => Err(invalid(
            SHARES,
            format_args!(
                "is {shares}: the minimum allowed cpu-shares is {}, the maximum {}",
                SHARES_RANGE.start(),
                SHARES_RANGE.end()
            ),
        )),
        Version::V1 => {
            out.push(Write::new("cpu", "cpu.shares", shares, SHARES));
            Ok(())
        }
        Version::V2 => {
            out.push(Write::new("cpu", "cpu.weight", weight_of_shares(shares), SHARES));
            Ok(())
        }
    }
}

/// v1 shares (2..=262144, default 1024) as a v2 weight (1..=10000, default 100): the curve through both ends and the
/// two defaults, quadratic in the logarithm.
fn weight_of_shares(shares: u64) -> u64 {
    if shares <= *SHARES_RANGE.start() {
        return 1;
    }
    if shares >= *SHARES_RANGE.end() {
        return 10_000;
    }
    // At most 2^18: exact in a double.
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    (10_f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
}

/// The kernel compares quota/period with the parent's at every write: of the two writes, the one that lowers the
/// ratio comes first.
fn v1_bandwidth(quota: Option<i64>, period: Option<u64>, current: &Current, out: &mut Vec<Write>) {
    let quota_write = quota.map(|quota| Write::new("cpu", "cpu.cfs_quota_us", quota, QUOTA));
    let period_write = period.map(|period| Write::new("cpu", "cpu.cfs_period_us", period, PERIOD));
    let shorter_period = matches!((period, current.cpu_period), (Some(new), Some(old)) if new < old);
    let smaller_quota = match (quota.and_then(|q| u64::try_from(q).ok()), current.cpu_quota) {
        (Some(new), Some(old)) => new < old,
        _ => false,
    };
    if shorter_period && smaller_quota {
        out.extend(quota_write);
        out.extend(period_write);
    } else {
        out.extend(period_write);
        out.extend(quota_write);
    }
}

fn v2_bandwidth(quota: Option<i64>, period: Option<u64>, current: &Current, out: &mut Vec<Write>) {
    let (field, quota) = match (quota, period) {
        (None, None) => return,
        (Some(-1), _) => (QUOTA, "max".to_owned()),
        (Some(quota), _) => (QUOTA, quota.to_string()),
        // A period alone keeps the present quota.
        (None, Some(_)) => {
            (PERIOD, current.cpu_quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string()))
        }
    };
    // A quota alone keeps the present period, which the kernel does by itself.
    let value = period.map_or_else(|| quota.clone(), |period| format!("{quota} {period}"));
    out.push(Write::new("cpu", "cpu.max", value, field));
}

/// The kernel holds `runtime <= period` and compares their ratio with the parent's: as above.
fn v1_realtime(cpu: &LinuxCpu, current: &Current, out: &mut Vec<Write>) {
    let runtime = cpu.realtime_runtime().filter(|runtime| *runtime != 0);
    let period = cpu.realtime_period().filter(|period| *period != 0);
    let smaller_runtime = matches!((runtime, current.rt_runtime), (Some(new), Some(old)) if new < old);
    let shorter_period = matches!((period, current.rt_period), (Some(new), Some(old)) if new < old);
    let runtime =
        runtime.map(|us| Write::new("cpu", "cpu.rt_runtime_us", us, "linux.resources.cpu.realtimeRuntime"));
    let period =
        period.map(|us| Write::new("cpu", "cpu.rt_period_us", us, "linux.resources.cpu.realtimePeriod"));
    let (first, second) =
        if smaller_runtime && shorter_period { (runtime, period) } else { (period, runtime) };
    out.extend(first);
    out.extend(second);
}

pub(super) fn cpuset_writes(cpu: &LinuxCpu, out: &mut Vec<Write>) -> Result<()> {
    for (list, file, field) in [
        (cpu.cpus(), "cpuset.cpus", "linux.resources.cpu.cpus"),
        (cpu.mems(), "cpuset.mems", "linux.resources.cpu.mems"),
    ] {
        if let Some(list) = list.as_deref().filter(|list| !list.is_empty()) {
            out.push(Write::new("cpuset", file, single_line(list, field)?, field));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lines, lines_from, refusal};
    use super::*;
    use crate::ErrorKind;

    fn cpu(fields: &str) -> String {
        format!(r#"{{"cpu":{{{fields}}}}}"#)
    }

    #[test]
    fn shares_become_weights() {
        // The ends and the defaults are fixed points; the others are the formula worked out apart from this code.
        for (shares, weight) in [
            (1, 1),
            (2, 1),
            (3, 2),
            (10, 4),
            (100, 17),
            (512, 59),
            (1024, 100),
            (2048, 174),
            (4096, 303),
            (102_400, 4429),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        let weights: Vec<u64> = (2..262_144).step_by(97).map(weight_of_shares).collect();
        assert!(weights.is_sorted());
    }

    #[test]
    fn values_by_version() {
        for (fields, v1, v2) in [
            (r#""shares":1024"#, &["cpu.shares=1024"][..], &["cpu.weight=100"][..]),
            (r#""shares":0"#, &[], &[]),
            (r#""idle":1,"shares":512"#, &["cpu.idle=1"], &["cpu.idle=1"]),
            (
                r#""idle":0,"shares":1024"#,
                &["cpu.idle=0", "cpu.shares=1024"],
                &["cpu.idle=0", "cpu.weight=100"],
            ),
            (
                r#""quota":50000,"period":100000"#,
                &["cpu.cfs_period_us=100000", "cpu.cfs_quota_us=50000"],
                &["cpu.max=50000 100000"],
            ),
            (r#""quota":50000"#, &["cpu.cfs_quota_us=50000"], &["cpu.max=50000"]),
            (r#""quota":-1"#, &["cpu.cfs_quota_us=-1"], &["cpu.max=max"]),
            (r#""period":20000"#, &["cpu.cfs_period_us=20000"], &["cpu.max=max 20000"]),
            (
                r#""quota":50000,"burst":1000"#,
                &["cpu.cfs_quota_us=50000", "cpu.cfs_burst_us=1000"],
                &["cpu.max=50000", "cpu.max.burst=1000"],
            ),
            (
                r#""realtimePeriod":1000000,"realtimeRuntime":950000"#,
                &["cpu.rt_period_us=1000000", "cpu.rt_runtime_us=950000"],
                &[],
            ),
            (
                r#""cpus":"0-1","mems":"0""#,
                &["cpuset.cpus=0-1", "cpuset.mems=0"],
                &["cpuset.cpus=0-1", "cpuset.mems=0"],
            ),
            (r#""cpus":"""#, &[], &[]),
        ] {
            assert_eq!(lines(&cpu(fields), Version::V1), v1, "{fields}");
            assert_eq!(lines(&cpu(fields), Version::V2), v2, "{fields}");
        }
    }

    #[test]
    fn the_order_never_passes_a_higher_share_than_both_ends() {
        let now =
            Current { cpu_period: Some(100), cpu_quota: Some(50), cpu_burst: Some(10), ..Current::default() };
        for (fields, order) in [
            (r#""period":50,"quota":20"#, &["cpu.cfs_quota_us=20", "cpu.cfs_period_us=50"][..]),
            (r#""period":50,"quota":60"#, &["cpu.cfs_period_us=50", "cpu.cfs_quota_us=60"]),
            (r#""period":200,"quota":20"#, &["cpu.cfs_period_us=200", "cpu.cfs_quota_us=20"]),
            (r#""quota":5,"burst":1"#, &["cpu.cfs_burst_us=1", "cpu.cfs_quota_us=5"]),
            (r#""quota":90,"burst":80"#, &["cpu.cfs_quota_us=90", "cpu.cfs_burst_us=80"]),
        ] {
            assert_eq!(lines_from(&cpu(fields), Version::V1, &now), order, "{fields}");
        }
        assert_eq!(lines_from(&cpu(r#""period":200"#), Version::V2, &now), ["cpu.max=50 200"]);
    }

    #[test]
    fn refusals_name_the_field() {
        for (fields, version, field) in [
            (r#""shares":1"#, Version::V1, SHARES),
            (r#""shares":262145"#, Version::V1, SHARES),
            (r#""quota":-7"#, Version::V2, QUOTA),
            (r#""idle":2"#, Version::V2, IDLE),
            (r#""cpus":"0\n1""#, Version::V1, "linux.resources.cpu.cpus"),
        ] {
            let error = refusal(&cpu(fields), version);
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{fields}");
            assert!(error.to_string().starts_with(field), "{fields}: {error}");
        }
    }
}
