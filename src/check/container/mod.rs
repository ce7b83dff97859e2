// SPDX-License-Identifier: Apache-2.0
//! What the processes of a container hold, and what of it CRIU cannot carry.
//!
//! ```text
//!  gather.rs ──▶ ContainerFacts{ processes, mounts, unix sockets } ──▶ descriptors · sockets · processes · mounts ──▶ Finding
//!  process.rs      one process of /proc                                  rules, pure
//! ```
//! Everything that a process says of itself (its name, its paths) is its own and may hold anything: it is shown escaped
//! and opened beneath its root. How much is looked at is bounded; what was left out is said.

mod descriptors;
mod gather;
mod mounts;
mod process;
mod processes;
mod sockets;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use super::{Finding, Severity};
use crate::sys::mountinfo::MountInfo;
use crate::sys::netlink::UnixSocket;
use process::Process;

/// How much is looked at.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Limits {
    /// Processes.
    pub processes: usize,
    /// Descriptors and mappings of all processes together.
    pub entries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { processes: 32 << 10, entries: 1 << 20 }
    }
}

/// What the processes hold.
#[derive(Debug, Default)]
pub struct ContainerFacts {
    /// Those of the tree that CRIU dumps, the first one first.
    pub(super) processes: Vec<Process>,
    /// Others in the container's cgroup: pid and name.
    pub(super) others: Vec<(i32, String)>,
    /// Whether a limit was reached.
    pub(super) cut_short: bool,
    /// The mount tables, by the inode of the mount namespace.
    pub(super) mounts: HashMap<u64, Vec<MountInfo>>,
    /// Places in the first process's table that the configuration accounts for.
    pub(super) configured: Vec<PathBuf>,
    /// Those of them that the host provides.
    pub(super) binds: HashSet<PathBuf>,
    /// The unix sockets of the network namespaces; empty when no process has a connected one.
    pub(super) unix: HashMap<u32, UnixSocket>,
    /// Whether descriptors are on their way through unix sockets: those are nobody's for the moment.
    pub(super) in_flight: bool,
    /// Mount and inode of what the first process was given as stdio, which the dump leaves out.
    pub(super) given_files: HashSet<(u64, u64)>,
    /// The inodes of sockets among them.
    pub(super) given_sockets: HashSet<u32>,
    /// Names of POSIX message queues.
    pub(super) queues: Vec<String>,
}

impl ContainerFacts {
    /// The process whose tree is dumped.
    pub(super) fn init(&self) -> Option<&Process> {
        self.processes.first()
    }
}

/// Everything that CRIU cannot carry, carries only when told to, or loses. `carries_bpf`: whether this CRIU carries bpf maps.
pub fn judge(facts: &ContainerFacts, carries_bpf: Option<bool>) -> Vec<Finding> {
    let mut found = processes::judge(facts);
    found.extend(descriptors::judge(facts, carries_bpf));
    found.extend(sockets::judge(facts));
    found.extend(mounts::judge(facts));
    if facts.cut_short {
        let finding = Finding::new(Severity::Note, "cut_short", "the container has very much open");
        found.push(finding.because("not everything was looked at", ""));
    }
    found
}
