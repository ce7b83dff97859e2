// SPDX-License-Identifier: Apache-2.0
//! What resctrl tells of a container's group.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::{CACHE, RdtGroups, mounted};
use crate::engine::Container;
use crate::{Context, Error, ErrorKind, Result};

/// Shares of the cache and of the memory's bandwidth, and what was used of them. Serialised in runc's form; what the
/// machine does not have is left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct RdtStats {
    /// What the cache offers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l3_cache_info: Option<CacheInfo>,
    /// The share of the cache of those who are in no group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema_root: String,
    /// The container's share of the cache.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema: String,
    /// What the memory's bandwidth offers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_bw_info: Option<MemoryBandwidthInfo>,
    /// The share of the bandwidth of those who are in no group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema_root: String,
    /// The container's share of the bandwidth.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema: String,
    /// The bandwidth that was used, by cache in the order of their numbers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mbm_stats: Vec<MemoryBandwidth>,
    /// The cache that is in use, by cache in the order of their numbers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmt_stats: Vec<CacheOccupancy>,
}

/// What the cache offers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct CacheInfo {
    /// All of it, as a mask in hexadecimal.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cbm_mask: String,
    /// The least bits that a share has.
    #[serde(skip_serializing_if = "is_zero")]
    pub min_cbm_bits: u64,
    /// How many groups there can be.
    #[serde(skip_serializing_if = "is_zero")]
    pub num_closids: u64,
}

/// What the memory's bandwidth offers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct MemoryBandwidthInfo {
    /// The step between two shares.
    #[serde(skip_serializing_if = "is_zero")]
    pub bandwidth_gran: u64,
    /// 1 when the delay grows in proportion.
    #[serde(skip_serializing_if = "is_zero")]
    pub delay_linear: u64,
    /// The least share.
    #[serde(skip_serializing_if = "is_zero")]
    pub min_bandwidth: u64,
    /// How many groups there can be.
    #[serde(skip_serializing_if = "is_zero")]
    pub num_closids: u64,
}

/// The bandwidth that was used through one cache, in bytes. 0 where the processor counts none or has no number now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct MemoryBandwidth {
    /// To all memory.
    pub mbm_total_bytes: u64,
    /// To the memory of the same node.
    pub mbm_local_bytes: u64,
}

/// What is in use of one cache, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct CacheOccupancy {
    /// The bytes.
    pub llc_occupancy: u64,
}

impl Container {
    /// What resctrl tells of its group; nothing for a container without one. What was used is that of the group, with
    /// others in it, unless the configuration asks for monitoring.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`] when it has stopped; else the file that cannot be read.
    pub fn intel_rdt_stats(&self) -> Result<Option<RdtStats>> {
        self.require_running()?;
        let groups = &self.state().intel_rdt;
        if groups.joined.is_empty() {
            return Ok(None);
        }
        let root =
            mounted()?.ok_or_else(|| Error::new(ErrorKind::NotFound, "resctrl is not mounted any more"))?;
        read_all(&root, groups).map(Some)
    }
}

fn read_all(root: &Path, groups: &RdtGroups) -> Result<RdtStats> {
    let mut stats = RdtStats::default();
    let (Some(group), Some(monitored)) = (groups.joined.first(), groups.joined.last()) else {
        return Ok(stats);
    };
    let (of_root, of_group) = (read(&root.join("schemata"))?, read(&group.join("schemata"))?);
    let info = root.join("info");
    if let Some(cache) = CACHE.iter().map(|name| info.join(name)).find(|directory| directory.is_dir()) {
        stats.l3_cache_info = Some(CacheInfo {
            cbm_mask: read(&cache.join("cbm_mask"))?,
            min_cbm_bits: number(&cache.join("min_cbm_bits"))?,
            num_closids: number(&cache.join("num_closids"))?,
        });
        stats.l3_cache_schema_root = lines_of("L3", &of_root);
        stats.l3_cache_schema = lines_of("L3", &of_group);
    }
    let memory = info.join("MB");
    if memory.is_dir() {
        stats.mem_bw_info = Some(MemoryBandwidthInfo {
            bandwidth_gran: number(&memory.join("bandwidth_gran"))?,
            delay_linear: number(&memory.join("delay_linear"))?,
            min_bandwidth: number(&memory.join("min_bandwidth"))?,
            num_closids: number(&memory.join("num_closids"))?,
        });
        stats.mem_bw_schema_root = lines_of("MB:", &of_root);
        stats.mem_bw_schema = lines_of("MB:", &of_group);
    }
    read_monitored(&monitored.join("mon_data"), &mut stats)?;
    Ok(stats)
}

/// One directory for each cache; a machine without monitoring has none.
fn read_monitored(data: &Path, stats: &mut RdtStats) -> Result<()> {
    let context = || format!("read {}", data.display());
    let entries = match fs::read_dir(data) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.context(context)?,
    };
    let mut caches: Vec<_> =
        entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>().context(context)?;
    caches.retain(|path| path.is_dir());
    caches.sort();
    for cache in caches {
        let file = |name: &str| Some(cache.join(name)).filter(|path| path.exists());
        let value = |name: &str| file(name).map_or(Ok(0), |path| number(&path));
        if file("mbm_total_bytes").or_else(|| file("mbm_local_bytes")).is_some() {
            let (mbm_total_bytes, mbm_local_bytes) = (value("mbm_total_bytes")?, value("mbm_local_bytes")?);
            stats.mbm_stats.push(MemoryBandwidth { mbm_total_bytes, mbm_local_bytes });
        }
        if file("llc_occupancy").is_some() {
            stats.cmt_stats.push(CacheOccupancy { llc_occupancy: value("llc_occupancy")? });
        }
    }
    Ok(())
}

fn lines_of(resource: &str, schemata: &str) -> String {
    let lines: Vec<&str> =
        schemata.lines().map(str::trim).filter(|line| line.starts_with(resource)).collect();
    lines.join("\n")
}

fn read(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).context(|| format!("read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// The kernel has words for a number that it cannot give now (Documentation/filesystems/resctrl.rst).
fn number(path: &Path) -> Result<u64> {
    let text = match fs::read_to_string(path) {
        // Which files there are depends on the processor.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        text => text.context(|| format!("read {}", path.display()))?,
    };
    match text.trim() {
        "Unavailable" | "Unassigned" | "Error" => Ok(0),
        text => text.parse().context(|| format!("understand {text:?} in {}", path.display())),
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("tempdir");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("it has one")).expect("mkdir");
            fs::write(path, text).expect("write");
        }
        root
    }

    fn json_of(root: &Path, groups: &[&str]) -> serde_json::Value {
        let joined = groups.iter().map(|group| root.join(group)).collect();
        let stats = read_all(root, &RdtGroups { joined, made: Vec::new() }).expect("read");
        serde_json::to_value(stats).expect("it serialises")
    }

    #[test]
    fn everything_that_a_machine_tells_is_there_in_runcs_form() {
        let root = tree(&[
            ("schemata", "    L3:0=fffff;1=fffff\n    MB:0=100;1=100\n  SMBA:0=2048\n"),
            ("info/L3/cbm_mask", "fffff\n"),
            ("info/L3/min_cbm_bits", "1\n"),
            ("info/L3/num_closids", "16\n"),
            ("info/MB/bandwidth_gran", "10\n"),
            ("info/MB/delay_linear", "1\n"),
            ("info/MB/min_bandwidth", "10\n"),
            ("info/MB/num_closids", "8\n"),
            ("web/schemata", "    L3:0=f;1=f\n    MB:0=20;1=70\n"),
            ("web/mon_data/mon_L3_00/llc_occupancy", "1\n"),
            ("web/mon_groups/web/mon_data/mon_L3_01/llc_occupancy", "456\n"),
            ("web/mon_groups/web/mon_data/mon_L3_01/mbm_total_bytes", "Unavailable\n"),
            ("web/mon_groups/web/mon_data/mon_L3_01/mbm_local_bytes", "7\n"),
            ("web/mon_groups/web/mon_data/mon_L3_00/llc_occupancy", "123\n"),
            ("web/mon_groups/web/mon_data/mon_L3_00/mbm_total_bytes", "9\n"),
            ("web/mon_groups/web/mon_data/mon_L3_00/mbm_local_bytes", "8\n"),
        ]);
        assert_eq!(
            json_of(root.path(), &["web", "web/mon_groups/web"]),
            json!({
                "l3_cache_info": {"cbm_mask": "fffff", "min_cbm_bits": 1, "num_closids": 16},
                "l3_cache_schema_root": "L3:0=fffff;1=fffff",
                "l3_cache_schema": "L3:0=f;1=f",
                "mem_bw_info": {"bandwidth_gran": 10, "delay_linear": 1, "min_bandwidth": 10, "num_closids": 8},
                "mem_bw_schema_root": "MB:0=100;1=100",
                "mem_bw_schema": "MB:0=20;1=70",
                "mbm_stats": [
                    {"mbm_total_bytes": 9, "mbm_local_bytes": 8},
                    {"mbm_total_bytes": 0, "mbm_local_bytes": 7},
                ],
                "cmt_stats": [{"llc_occupancy": 123}, {"llc_occupancy": 456}],
            })
        );
        assert_eq!(
            json_of(root.path(), &["web"])["cmt_stats"],
            json!([{"llc_occupancy": 1}]),
            "of the group"
        );
    }

    #[test]
    fn what_a_machine_does_not_have_is_left_out() {
        let root = tree(&[("schemata", "L2:0=f\n"), ("web/schemata", "L2:0=3\n")]);
        assert_eq!(json_of(root.path(), &["web"]), json!({}));
        let groups = RdtGroups { joined: vec![root.path().join("gone")], made: Vec::new() };
        let error = read_all(root.path(), &groups).expect_err("there is no such group");
        assert!(error.to_string().contains("gone/schemata"), "{error}");
    }
}
