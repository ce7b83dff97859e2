// SPDX-License-Identifier: Apache-2.0
//! Huge pages. Sources: kernel admin-guide/cgroup-v1/hugetlb.rst, admin-guide/cgroup-v2.rst.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::directory::Directory;
use super::super::hierarchy::Version;
use super::{is_zero, number, pairs, text};
use crate::{Context, Result};

/// Huge pages of one size, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HugePageStats {
    /// How much is in use; what is reserved, where the kernel accounts that.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// How much was in use at most (v1).
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    /// How often the limit was hit.
    pub failcnt: u64,
}

/// Where the kernel lists the sizes that it has.
const SIZES: &str = "/sys/kernel/mm/hugepages";

pub(super) fn read(
    directory: &Directory,
    version: Version,
    stats: &mut BTreeMap<String, HugePageStats>,
) -> Result<()> {
    for size in sizes()? {
        // Reservations fail where usage would: they are what is limited in effect.
        let prefixes = [format!("hugetlb.{size}.rsvd"), format!("hugetlb.{size}")];
        let found =
            prefixes.iter().find_map(|prefix| read_size(directory, version, prefix, &size).transpose());
        if let Some(found) = found {
            stats.insert(size, found?);
        }
    }
    Ok(())
}

fn read_size(
    directory: &Directory,
    version: Version,
    prefix: &str,
    size: &str,
) -> Result<Option<HugePageStats>> {
    let file = |name: &str| number(directory, &format!("{prefix}.{name}"));
    match version {
        Version::V1 => {
            let Some(usage) = file("usage_in_bytes")? else { return Ok(None) };
            let (max, failcnt) = (file("max_usage_in_bytes")?, file("failcnt")?);
            Ok(Some(HugePageStats { usage, max: max.unwrap_or(0), failcnt: failcnt.unwrap_or(0) }))
        }
        Version::V2 => {
            let Some(usage) = file("current")? else { return Ok(None) };
            let events = text(directory, &format!("hugetlb.{size}.events"))?.unwrap_or_default();
            let failcnt = pairs(&events).find(|(key, _)| *key == "max").map_or(0, |(_, count)| count);
            Ok(Some(HugePageStats { usage, max: 0, failcnt }))
        }
    }
}

/// The sizes in the spelling of cgroup files: `2MB`.
fn sizes() -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(SIZES) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.context(|| format!("list {SIZES}"))?,
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| spelled(&name)).collect())
}

/// `hugepages-2048kB` is `2MB`.
fn spelled(name: &str) -> Option<String> {
    let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kib {
        kib if kib >= 1 << 20 => format!("{}GB", kib >> 20),
        kib if kib >= 1 << 10 => format!("{}MB", kib >> 10),
        kib => format!("{kib}KB"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_cgroups_spell_them() {
        for (name, size) in [
            ("hugepages-64kB", Some("64KB")),
            ("hugepages-2048kB", Some("2MB")),
            ("hugepages-32768kB", Some("32MB")),
            ("hugepages-1048576kB", Some("1GB")),
            ("x", None),
        ] {
            assert_eq!(spelled(name).as_deref(), size, "{name}");
        }
    }

    #[test]
    fn reservations_go_before_usage() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let write = |file: &str, text: &str| std::fs::write(temp.path().join(file), text).expect("write");
        let top = Directory::top(temp.path()).expect("open");
        let v2 = |prefix: &str| read_size(&top, Version::V2, prefix, "2MB").expect("readable");
        write("hugetlb.2MB.current", "3\n");
        write("hugetlb.2MB.events", "max 4\n");
        assert_eq!(v2("hugetlb.2MB.rsvd"), None);
        assert_eq!(v2("hugetlb.2MB"), Some(HugePageStats { usage: 3, max: 0, failcnt: 4 }));
        write("hugetlb.2MB.usage_in_bytes", "5\n");
        write("hugetlb.2MB.max_usage_in_bytes", "6\n");
        write("hugetlb.2MB.failcnt", "7\n");
        let v1 = read_size(&top, Version::V1, "hugetlb.2MB", "2MB").expect("readable");
        assert_eq!(v1, Some(HugePageStats { usage: 5, max: 6, failcnt: 7 }));
    }
}
