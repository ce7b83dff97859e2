// SPDX-License-Identifier: Apache-2.0
//! What a cgroup uses: figures of the kernel in runc's names, of v1 and v2 alike.
//!
//! Each file has the types of one controller, the pure parsers of its files, and the order in which they are asked.
//! What a kernel does not tell is zero, or absent where the form allows that. Must not know why somebody asks.

mod block_io;
mod cpu;
mod huge_pages;
mod memory;
mod pids;
mod pressure;
mod rdma;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cgroup::{Cgroup, Node};
use super::directory::Directory;
use super::hierarchy::Version;
use crate::{Context, Error, ErrorKind, Result};

pub use block_io::{BlockIoEntry, BlockIoStats};
pub use cpu::{CpuStats, CpuUsage, CpusetStats, Throttling};
pub use huge_pages::HugePageStats;
pub use memory::{MemoryCounts, MemoryEntry, MemoryStats};
pub use pids::PidsStats;
pub use pressure::{Pressure, PressureStats};
pub use rdma::{RdmaEntry, RdmaStats};

/// What a container uses. Serialised it is the `data` of runc's `events`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Stats {
    /// CPU time.
    pub cpu: CpuStats,
    /// Where it may run and allocate (v1).
    pub cpuset: CpusetStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Processes and threads.
    pub pids: PidsStats,
    /// Block devices.
    pub blkio: BlockIoStats,
    /// Huge pages, by page size (`2MB`).
    pub hugetlb: BTreeMap<String, HugePageStats>,
    /// RDMA devices.
    #[serde(skip_serializing_if = "RdmaStats::is_empty")]
    pub rdma: RdmaStats,
}

impl Cgroup {
    /// What its processes, and those of cgroups beneath it, use.
    ///
    /// # Errors
    /// The cgroup does not exist, or a file of it cannot be read.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        self.asked("cpu", |directory, version| cpu::read(directory, version, &mut stats.cpu))?;
        if let Some(node) = self.v1_node("cpuacct") {
            cpu::read_accounting(&node.existing()?, &mut stats.cpu.usage)?;
        }
        if let Some(node) = self.v1_node("cpuset") {
            stats.cpuset = cpu::read_cpuset(&node.existing()?)?;
        }
        self.asked("memory", |directory, version| memory::read(directory, version, &mut stats.memory))?;
        self.asked("pids", |directory, _| pids::read(directory, &mut stats.pids))?;
        self.asked("blkio", |directory, version| block_io::read(directory, version, &mut stats.blkio))?;
        self.asked("hugetlb", |directory, version| huge_pages::read(directory, version, &mut stats.hugetlb))?;
        self.asked("rdma", |directory, _| rdma::read(directory, &mut stats.rdma))?;
        // The unified tree knows it of every cgroup, whatever controllers it has.
        if let Some(node) = self.v2_node() {
            let directory = node.existing()?;
            stats.cpu.psi = pressure::read(&directory, "cpu.pressure")?;
            stats.memory.psi = pressure::read(&directory, "memory.pressure")?;
            stats.blkio.psi = pressure::read(&directory, "io.pressure")?;
        }
        Ok(stats)
    }

    fn asked(&self, controller: &str, ask: impl FnOnce(&Directory, Version) -> Result<()>) -> Result<()> {
        self.node_of(controller).map_or(Ok(()), |node: &Node| ask(&node.existing()?, node.version))
    }
}

/// A number, `max` for the largest; `None` without the file.
fn number(directory: &Directory, file: &str) -> Result<Option<u64>> {
    let Some(text) = text(directory, file)? else { return Ok(None) };
    parse_number(&text).map(Some).ok_or_else(|| not_understood(directory, file, &text))
}

/// [`number`], zero without the file.
fn number_or_zero(directory: &Directory, file: &str) -> Result<u64> {
    Ok(number(directory, file)?.unwrap_or_default())
}

fn parse_number(text: &str) -> Option<u64> {
    match text {
        "max" => Some(u64::MAX),
        // -1 is "unlimited" in files of v1.
        negative if negative.starts_with('-') => negative.parse::<i64>().ok().map(|_| 0),
        number => number.parse().ok(),
    }
}

/// The content of a file; `None` without it, and where the kernel has the file but keeps nothing in it.
fn text(directory: &Directory, file: &str) -> Result<Option<String>> {
    match directory.read_if_exists(file) {
        Err(e) if e.is_errno(libc::EOPNOTSUPP) => Ok(None),
        // The cgroup was removed while it was open.
        Err(e) if e.is_errno(libc::ENODEV) => {
            Err(e).context_kind(ErrorKind::NotFound, || "the cgroup is gone")
        }
        other => other,
    }
}

/// `key value` a line; what is no number is left out.
fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, parse_number(value.trim())?))
    })
}

fn not_understood(directory: &Directory, file: &str, text: &str) -> Error {
    let path = directory.path().join(file);
    Error::new(ErrorKind::System, format!("{} holds {text:?}, which is no number", path.display()))
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}
