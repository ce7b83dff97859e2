// SPDX-License-Identifier: Apache-2.0
//! `linux.resources.blockIO`: weights (10..=1000 in the configuration) and throttles per device.

use crate::spec::oci::{LinuxBlockIo, LinuxThrottleDevice};

use super::{Write, invalid};
use crate::Result;

const WEIGHT: &str = "linux.resources.blockIO.weight";
const LEAF_WEIGHT: &str = "linux.resources.blockIO.leafWeight";
const WEIGHT_DEVICE: &str = "linux.resources.blockIO.weightDevice";

/// Field, v1 file and v2 key of the four throttles.
type Throttle<'a> = (&'static str, &'static str, &'static str, &'a Option<Vec<LinuxThrottleDevice>>);

fn throttles(block_io: &LinuxBlockIo) -> [Throttle<'_>; 4] {
    [
        (
            "linux.resources.blockIO.throttleReadBpsDevice",
            "blkio.throttle.read_bps_device",
            "rbps",
            block_io.throttle_read_bps_device(),
        ),
        (
            "linux.resources.blockIO.throttleWriteBpsDevice",
            "blkio.throttle.write_bps_device",
            "wbps",
            block_io.throttle_write_bps_device(),
        ),
        (
            "linux.resources.blockIO.throttleReadIOPSDevice",
            "blkio.throttle.read_iops_device",
            "riops",
            block_io.throttle_read_iops_device(),
        ),
        (
            "linux.resources.blockIO.throttleWriteIOPSDevice",
            "blkio.throttle.write_iops_device",
            "wiops",
            block_io.throttle_write_iops_device(),
        ),
    ]
}

fn weight(value: Option<u16>, field: &str) -> Result<Option<u16>> {
    match value {
        None | Some(0) => Ok(None),
        Some(weight @ 10..=1000) => Ok(Some(weight)),
        Some(weight) => Err(invalid(field, format_args!("is {weight}, not 10 to 1000"))),
    }
}

fn number(major: i64, minor: i64, field: &str) -> Result<String> {
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) => Ok(format!("{major}:{minor}")),
        _ => Err(invalid(field, format_args!("names the device {major}:{minor}"))),
    }
}

pub(super) fn v1_writes(block_io: &LinuxBlockIo, out: &mut Vec<Write>) -> Result<()> {
    // The plain names went with the CFQ scheduler in Linux 5.0; BFQ has its own.
    if let Some(w) = weight(block_io.weight(), WEIGHT)? {
        out.push(Write::new("blkio", "blkio.weight", w, WEIGHT).or_use("blkio.bfq.weight", w));
    }
    if let Some(w) = weight(block_io.leaf_weight(), LEAF_WEIGHT)? {
        out.push(Write::new("blkio", "blkio.leaf_weight", w, LEAF_WEIGHT));
    }
    for device in block_io.weight_device().iter().flatten() {
        let number = number(device.major(), device.minor(), WEIGHT_DEVICE)?;
        if let Some(w) = weight(device.weight(), WEIGHT_DEVICE)? {
            let value = format!("{number} {w}");
            out.push(
                Write::new("blkio", "blkio.weight_device", &value, WEIGHT_DEVICE)
                    .or_use("blkio.bfq.weight_device", &value),
            );
        }
        if let Some(w) = weight(device.leaf_weight(), WEIGHT_DEVICE)? {
            out.push(Write::new("blkio", "blkio.leaf_weight_device", format!("{number} {w}"), WEIGHT_DEVICE));
        }
    }
    for (field, file, _, devices) in throttles(block_io) {
        for device in devices.iter().flatten() {
            let number = number(device.major(), device.minor(), field)?;
            out.push(Write::new("blkio", file, format!("{number} {}", device.rate()), field));
        }
    }
    Ok(())
}

pub(super) fn v2_writes(block_io: &LinuxBlockIo, out: &mut Vec<Write>) -> Result<()> {
    if let Some(w) = weight(block_io.weight(), WEIGHT)? {
        // BFQ keeps the configuration's scale; the io.cost weight is 1..=10000, mapped end to end.
        let cost = 1 + (u64::from(w) - 10) * 9999 / 990;
        out.push(Write::new("io", "io.bfq.weight", w, WEIGHT).or_use("io.weight", cost));
    }
    for device in block_io.weight_device().iter().flatten() {
        let number = number(device.major(), device.minor(), WEIGHT_DEVICE)?;
        if let Some(w) = weight(device.weight(), WEIGHT_DEVICE)? {
            out.push(Write::new("io", "io.bfq.weight", format!("{number} {w}"), WEIGHT_DEVICE));
        }
    }
    for (field, _, key, devices) in throttles(block_io) {
        for device in devices.iter().flatten() {
            let number = number(device.major(), device.minor(), field)?;
            let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            out.push(Write::new("io", "io.max", format!("{number} {key}={rate}"), field));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Version;
    use super::super::tests::{lines, refusal};

    #[test]
    fn weights_and_throttles_by_version() {
        let json = r#"{"blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":100}],
            "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1024}],
            "throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":0}]}}"#;
        assert_eq!(
            lines(json, Version::V1),
            [
                "blkio.weight=500 | blkio.bfq.weight=500",
                "blkio.weight_device=8:0 100 | blkio.bfq.weight_device=8:0 100",
                "blkio.throttle.read_bps_device=8:0 1024",
                "blkio.throttle.write_iops_device=8:16 0",
            ]
        );
        assert_eq!(
            lines(json, Version::V2),
            [
                "io.bfq.weight=500 | io.weight=4950",
                "io.bfq.weight=8:0 100",
                "io.max=8:0 rbps=1024",
                "io.max=8:16 wiops=max",
            ]
        );
        assert_eq!(lines(r#"{"blockIO":{"weight":10}}"#, Version::V2), ["io.bfq.weight=10 | io.weight=1"]);
        assert_eq!(
            lines(r#"{"blockIO":{"weight":1000}}"#, Version::V2),
            ["io.bfq.weight=1000 | io.weight=10000"]
        );
    }

    #[test]
    fn refusals_name_the_field() {
        for (fields, field) in [
            (r#""weight":9"#, super::WEIGHT),
            (r#""weightDevice":[{"major":-1,"minor":0,"weight":100}]"#, super::WEIGHT_DEVICE),
            (
                r#""throttleReadBpsDevice":[{"major":8,"minor":-3,"rate":1}]"#,
                "linux.resources.blockIO.throttleReadBpsDevice",
            ),
        ] {
            for version in [Version::V1, Version::V2] {
                let error = refusal(&format!(r#"{{"blockIO":{{{fields}}}}}"#), version);
                assert!(error.to_string().starts_with(field), "{error}");
            }
        }
    }
}
