// SPDX-License-Identifier: Apache-2.0
//! Block devices. Sources: kernel admin-guide/cgroup-v1/blkio-controller.rst, admin-guide/cgroup-v2.rst (`io.stat`).

use serde::{Deserialize, Serialize};

use super::super::directory::Directory;
use super::super::hierarchy::Version;
use super::{PressureStats, is_zero, text};
use crate::Result;

/// Traffic with block devices, by device and operation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BlockIoStats {
    /// Bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlockIoEntry>,
    /// Operations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlockIoEntry>,
    /// Operations that wait.
    #[serde(skip_serializing_if = "Vec::is_empty", rename = "ioQueueRecursive")]
    pub io_queued_recursive: Vec<BlockIoEntry>,
    /// Nanoseconds from dispatch to completion.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_time_recursive: Vec<BlockIoEntry>,
    /// Nanoseconds in the scheduler's queues.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_wait_time_recursive: Vec<BlockIoEntry>,
    /// Operations merged into others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_merged_recursive: Vec<BlockIoEntry>,
    /// Milliseconds that the device was held.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_time_recursive: Vec<BlockIoEntry>,
    /// Sectors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sectors_recursive: Vec<BlockIoEntry>,
    /// Time that tasks waited for I/O.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<PressureStats>,
}

/// A figure of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockIoEntry {
    /// Major number.
    #[serde(skip_serializing_if = "is_zero")]
    pub major: u64,
    /// Minor number.
    #[serde(skip_serializing_if = "is_zero")]
    pub minor: u64,
    /// `Read`, `Write`, `Sync`, `Async`, `Discard`, `Total`; empty for what is not told apart.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    /// The figure.
    #[serde(skip_serializing_if = "is_zero")]
    pub value: u64,
}

/// Who counts on v1: the old CFQ scheduler, its successor BFQ, else the throttling layer, which is there always. The
/// first one with a figure is asked.
const PREFIXES: [&str; 3] = ["blkio", "blkio.bfq", "blkio.throttle"];

pub(super) fn read(directory: &Directory, version: Version, stats: &mut BlockIoStats) -> Result<()> {
    match version {
        Version::V1 => read_v1(directory, stats),
        Version::V2 => {
            read_v2(&text(directory, "io.stat")?.unwrap_or_default(), stats);
            Ok(())
        }
    }
}

fn read_v1(directory: &Directory, stats: &mut BlockIoStats) -> Result<()> {
    for prefix in PREFIXES {
        let file = |name: &str| -> Result<Vec<BlockIoEntry>> {
            Ok(entries(&text(directory, &format!("{prefix}.{name}"))?.unwrap_or_default()))
        };
        let serviced = file("io_serviced_recursive")?;
        if serviced.is_empty() {
            continue;
        }
        *stats = BlockIoStats {
            io_service_bytes_recursive: file("io_service_bytes_recursive")?,
            io_serviced_recursive: serviced,
            io_queued_recursive: file("io_queued_recursive")?,
            io_service_time_recursive: file("io_service_time_recursive")?,
            io_wait_time_recursive: file("io_wait_time_recursive")?,
            io_merged_recursive: file("io_merged_recursive")?,
            io_time_recursive: file("time_recursive")?,
            sectors_recursive: file("sectors_recursive")?,
            psi: None,
        };
        break;
    }
    Ok(())
}

/// `8:0 Read 512` or `8:0 512` a line; the sum over all devices at the end is left out.
fn entries(text: &str) -> Vec<BlockIoEntry> {
    let entry = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let (op, value) = match (words.next()?, words.next()) {
            (op, Some(value)) => (op, value),
            (value, None) => ("", value),
        };
        Some(BlockIoEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            op: op.to_owned(),
            value: value.parse().ok()?,
        })
    };
    text.lines().filter_map(entry).collect()
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`, in the tables of v1.
fn read_v2(text: &str, stats: &mut BlockIoStats) {
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let number = words.next().and_then(|device| device.split_once(':'));
        let Some((Ok(major), Ok(minor))) = number.map(|(a, b)| (a.parse(), b.parse())) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (table, op) = match key {
                "rbytes" => (&mut stats.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut stats.io_service_bytes_recursive, "Write"),
                "rios" => (&mut stats.io_serviced_recursive, "Read"),
                "wios" => (&mut stats.io_serviced_recursive, "Write"),
                // Nothing of v1 corresponds to the others.
                _ => continue,
            };
            if let Ok(value) = value.parse() {
                table.push(BlockIoEntry { major, minor, op: op.to_owned(), value });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(minor: u64, op: &str, value: u64) -> BlockIoEntry {
        BlockIoEntry { major: 8, minor, op: op.to_owned(), value }
    }

    #[test]
    fn lines_of_version_1() {
        let text = "8:0 Read 512\n8:0 Total 512\n8:16 7\nTotal 512\n";
        assert_eq!(entries(text), [entry(0, "Read", 512), entry(0, "Total", 512), entry(16, "", 7)]);
        assert!(entries("Total 0\n").is_empty());
    }

    #[test]
    fn version_1_asks_who_has_counted() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let write = |file: &str, text: &str| std::fs::write(temp.path().join(file), text).expect("write");
        write("blkio.bfq.io_serviced_recursive", "Total 0\n");
        write("blkio.throttle.io_serviced_recursive", "8:0 Read 2\nTotal 2\n");
        write("blkio.throttle.io_service_bytes_recursive", "8:0 Read 1024\nTotal 1024\n");
        let mut stats = BlockIoStats::default();
        read_v1(&Directory::top(temp.path()).expect("open"), &mut stats).expect("readable");
        assert_eq!(stats.io_serviced_recursive, [entry(0, "Read", 2)]);
        assert_eq!(stats.io_service_bytes_recursive, [entry(0, "Read", 1024)]);
    }

    #[test]
    fn version_2_in_the_tables_of_version_1() {
        let mut stats = BlockIoStats::default();
        read_v2("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:16 \n", &mut stats);
        assert_eq!(stats.io_service_bytes_recursive, [entry(0, "Read", 1), entry(0, "Write", 2)]);
        assert_eq!(stats.io_serviced_recursive, [entry(0, "Read", 3), entry(0, "Write", 4)]);
    }
}
