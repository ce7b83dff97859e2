// SPDX-License-Identifier: Apache-2.0
//! `linux.resources.memory`: bytes, -1 for unlimited, 0 for "leave as it is".

use crate::spec::oci::LinuxMemory;

use super::{Current, Version, Write, invalid};
use crate::{ErrorKind, Result};

const LIMIT: &str = "linux.resources.memory.limit";
const SWAP: &str = "linux.resources.memory.swap";
const RESERVATION: &str = "linux.resources.memory.reservation";

/// The obsolete kernel-memory limit, which no kernel since 5.4 keeps.
#[allow(deprecated)]
pub(super) fn kernel(memory: &LinuxMemory) -> Option<i64> {
    memory.kernel()
}

pub(super) fn writes(
    memory: &LinuxMemory,
    current: &Current,
    version: Version,
    out: &mut Vec<Write>,
) -> Result<()> {
    let limit = amount(memory.limit(), LIMIT)?;
    let swap = amount(memory.swap(), SWAP)?;
    let reservation = amount(memory.reservation(), RESERVATION)?;
    if let (Some(Amount::Bytes(limit)), Some(Amount::Bytes(swap))) = (limit, swap)
        && swap < limit
    {
        return Err(invalid(
            SWAP,
            format_args!("({swap}, memory and swap together) is below the limit {limit}"),
        ));
    }
    if let (Some(Amount::Bytes(limit)), Some(usage), Some(true)) =
        (limit, current.memory_usage, memory.check_before_update())
        && limit < usage
    {
        return Err(crate::Error::new(
            ErrorKind::InvalidInput,
            format!("{LIMIT}: rejecting memory limit {limit} < usage {usage}, as checkBeforeUpdate asks"),
        ));
    }
    match version {
        Version::V1 => {
            v1_limits(limit, swap, current, out);
            if let Some(reservation) = reservation {
                out.push(Write::new("memory", "memory.soft_limit_in_bytes", reservation.v1(), RESERVATION));
            }
            v1_rest(memory, out)
        }
        Version::V2 => v2_limits(limit, swap, reservation, out),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Amount {
    Unlimited,
    Bytes(u64),
}

impl Amount {
    fn v1(self) -> String {
        match self {
            Self::Unlimited => "-1".to_owned(),
            Self::Bytes(bytes) => bytes.to_string(),
        }
    }

    fn v2(self) -> String {
        match self {
            Self::Unlimited => "max".to_owned(),
            Self::Bytes(bytes) => bytes.to_string(),
        }
    }
}

fn amount(bytes: Option<i64>, field: &str) -> Result<Option<Amount>> {
    match bytes {
        None | Some(0) => Ok(None),
        Some(-1) => Ok(Some(Amount::Unlimited)),
        Some(bytes) => match u64::try_from(bytes) {
            Ok(bytes) => Ok(Some(Amount::Bytes(bytes))),
            Err(_) => Err(invalid(field, format_args!("is {bytes}; only -1 stands for unlimited"))),
        },
    }
}

/// The kernel holds `memory limit <= memory and swap limit` at every moment: raise the outer one first, lower the
/// inner one first.
fn v1_limits(limit: Option<Amount>, swap: Option<Amount>, current: &Current, out: &mut Vec<Write>) {
    let limit_write = limit.map(|limit| Write::new("memory", "memory.limit_in_bytes", limit.v1(), LIMIT));
    let swap_write = match (limit, swap) {
        (_, Some(swap)) => Some(Write::new("memory", "memory.memsw.limit_in_bytes", swap.v1(), SWAP)),
        // Unlimited memory beneath a limit of both would stay limited.
        (Some(Amount::Unlimited), None) => {
            Some(Write::new("memory", "memory.memsw.limit_in_bytes", "-1", LIMIT).or_skip())
        }
        _ => None,
    };
    let above_current_swap = match (limit, current.memory_swap_limit) {
        (Some(Amount::Unlimited), Some(_)) => true,
        (Some(Amount::Bytes(limit)), Some(swap)) => limit > swap,
        _ => false,
    };
    if above_current_swap {
        out.extend(swap_write);
        out.extend(limit_write);
    } else {
        out.extend(limit_write);
        out.extend(swap_write);
    }
}

fn v1_rest(memory: &LinuxMemory, out: &mut Vec<Write>) -> Result<()> {
    if let Some(bytes) = amount(memory.kernel_tcp(), "linux.resources.memory.kernelTCP")? {
        let field = "linux.resources.memory.kernelTCP";
        out.push(Write::new("memory", "memory.kmem.tcp.limit_in_bytes", bytes.v1(), field));
    }
    if memory.disable_oom_killer() == Some(true) {
        let field = "linux.resources.memory.disableOOMKiller";
        out.push(Write::new("memory", "memory.oom_control", 1, field));
    }
    match memory.swappiness() {
        None => Ok(()),
        Some(percent @ 0..=100) => {
            let field = "linux.resources.memory.swappiness";
            out.push(Write::new("memory", "memory.swappiness", percent, field));
            Ok(())
        }
        Some(percent) => {
            Err(invalid("linux.resources.memory.swappiness", format_args!("is {percent}, not 0 to 100")))
        }
    }
}

fn v2_limits(
    limit: Option<Amount>,
    swap: Option<Amount>,
    reservation: Option<Amount>,
    out: &mut Vec<Write>,
) -> Result<()> {
    let swap_only = match (limit, swap) {
        (Some(Amount::Unlimited), None) | (_, Some(Amount::Unlimited)) => Some(Amount::Unlimited),
        (Some(Amount::Bytes(limit)), Some(Amount::Bytes(both))) => {
            Some(Amount::Bytes(both.saturating_sub(limit)))
        }
        // Nothing to subtract from "unlimited".
        (Some(Amount::Unlimited), Some(both)) => Some(both),
        (None, Some(Amount::Bytes(_))) => {
            return Err(invalid(SWAP, format_args!("needs {LIMIT}: cgroup v2 limits swap by itself")));
        }
        (_, None) => None,
    };
    if let Some(swap) = swap_only {
        let write = Write::new("memory", "memory.swap.max", swap.v2(), SWAP);
        // A kernel without swap accounting has no such file, and needs none for "no swap" or "unlimited".
        let harmless = matches!(swap, Amount::Unlimited | Amount::Bytes(0));
        out.push(if harmless { write.or_skip() } else { write });
    }
    out.extend(limit.map(|limit| Write::new("memory", "memory.max", limit.v2(), LIMIT)));
    out.extend(reservation.map(|r| Write::new("memory", "memory.low", r.v2(), RESERVATION)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lines, lines_from, refusal, resources};
    use super::super::writes;
    use super::*;

    fn memory(fields: &str) -> String {
        format!(r#"{{"memory":{{{fields}}}}}"#)
    }

    #[test]
    fn v1_order_follows_the_present_limits() {
        let both = memory(r#""limit":200,"swap":300"#);
        let with = |memory_swap_limit| Current { memory_swap_limit, ..Current::default() };
        let outer_last = ["memory.limit_in_bytes=200", "memory.memsw.limit_in_bytes=300"];
        let outer_first = ["memory.memsw.limit_in_bytes=300", "memory.limit_in_bytes=200"];
        for (current, expected) in [
            (None, &outer_last),
            (Some(1000), &outer_last),
            (Some(200), &outer_last),
            (Some(199), &outer_first),
        ] {
            assert_eq!(lines_from(&both, Version::V1, &with(current)), expected, "{current:?}");
        }
        assert_eq!(
            lines_from(&memory(r#""limit":-1"#), Version::V1, &with(Some(5))),
            ["memory.memsw.limit_in_bytes=-1?", "memory.limit_in_bytes=-1"]
        );
    }

    #[test]
    fn values_by_version() {
        for (fields, v1, v2) in [
            (r#""limit":100"#, &["memory.limit_in_bytes=100"][..], &["memory.max=100"][..]),
            (r#""limit":0,"swap":0"#, &[], &[]),
            (
                r#""limit":-1"#,
                &["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1?"],
                &["memory.swap.max=max?", "memory.max=max"],
            ),
            (
                r#""limit":100,"swap":150"#,
                &["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=150"],
                &["memory.swap.max=50", "memory.max=100"],
            ),
            (
                r#""limit":100,"swap":100"#,
                &["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=100"],
                &["memory.swap.max=0?", "memory.max=100"],
            ),
            (
                r#""limit":100,"swap":-1"#,
                &["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=-1"],
                &["memory.swap.max=max?", "memory.max=100"],
            ),
            (r#""reservation":50"#, &["memory.soft_limit_in_bytes=50"], &["memory.low=50"]),
            (
                r#""swappiness":60,"disableOOMKiller":true,"kernelTCP":9"#,
                &["memory.kmem.tcp.limit_in_bytes=9", "memory.oom_control=1", "memory.swappiness=60"],
                &[],
            ),
        ] {
            assert_eq!(lines(&memory(fields), Version::V1), v1, "{fields}");
            assert_eq!(lines(&memory(fields), Version::V2), v2, "{fields}");
        }
    }

    #[test]
    fn refusals_name_the_field() {
        for (fields, version, field) in [
            (r#""limit":-2"#, Version::V1, LIMIT),
            (r#""limit":100,"swap":99"#, Version::V1, SWAP),
            (r#""limit":100,"swap":99"#, Version::V2, SWAP),
            (r#""swap":99"#, Version::V2, SWAP),
            (r#""reservation":-5"#, Version::V2, RESERVATION),
            (r#""swappiness":101"#, Version::V1, "linux.resources.memory.swappiness"),
        ] {
            let error = refusal(&memory(fields), version);
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{fields}");
            assert!(error.to_string().starts_with(field), "{fields}: {error}");
        }
    }

    #[test]
    fn a_limit_below_the_usage_is_refused_if_the_configuration_says_so() {
        let current = Current { memory_usage: Some(4096), ..Current::default() };
        let strict = resources(&memory(r#""limit":100,"checkBeforeUpdate":true"#));
        assert!(writes(&strict, &current, &|_| Version::V2).is_err());
        let lax = resources(&memory(r#""limit":100"#));
        assert!(writes(&lax, &current, &|_| Version::V2).is_ok());
    }
}
