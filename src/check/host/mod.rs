// SPDX-License-Identifier: Apache-2.0
//! What this host has of what CRIU needs. Judged here, without asking anybody; `gather` asks.

mod gather;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use nix::errno::Errno;
use serde::Serialize;

use super::{Finding, Severity};
use crate::cgroup::Layout;
use crate::criu::{Features, Kernel, Version, check, check_inet_sockets};

/// capabilities(7), by number.
const NET_ADMIN: u32 = 12;
const SYS_PTRACE: u32 = 19;
const SYS_ADMIN: u32 = 21;
const SYS_RESOURCE: u32 = 24;
/// The pipes that CRIU moves memory through hold this many bytes where they may.
const PIPE: u64 = 1 << 20;
/// Programs that CRIU starts, and what it needs them for.
const PROGRAMS: [(&str, &str); 4] = [
    ("tar", "the contents of tmpfs mounts (/dev is one)"),
    ("gzip", "the contents of tmpfs mounts (/dev is one)"),
    ("iptables-restore", "a network namespace whose firewall is iptables"),
    ("ip6tables-restore", "a network namespace whose firewall is iptables"),
];
/// How many of them no container can be dumped without.
const NEEDED: usize = 2;

/// What was found out about this host.
#[derive(Debug, Clone, PartialEq)]
pub struct HostFacts {
    pub(super) root: bool,
    pub(super) release: String,
    pub(super) kernel: Option<Kernel>,
    pub(super) criu: Found,
    pub(super) userfaultfd: Result<bool, Errno>,
    pub(super) pagemap_scan: bool,
    pub(super) pipe_max_size: Option<u64>,
    pub(super) capabilities: u64,
    pub(super) run_is_tmpfs: bool,
    pub(super) programs: Vec<(&'static str, bool)>,
    pub(super) lsm: Vec<&'static str>,
    pub(super) cgroups: Option<Layout>,
    pub(super) freezer: bool,
}

/// The CRIU that would be used.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Found {
    /// None, or one that does not answer; the sentence, and what helps.
    Unusable(String, Option<String>),
    /// One that answers.
    Answers {
        path: PathBuf,
        version: Version,
        /// `Err`: why it does not tell.
        features: Result<Features, String>,
        /// Whether it was built with these; `None` where that cannot be seen.
        nftables: Option<bool>,
        bpf: Option<bool>,
    },
}

/// How a fact stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// As it should be.
    Ok,
    /// Something does not work, or is slower.
    Note,
    /// Nothing can be checkpointed.
    Blocker,
}

impl Standing {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Blocker => "BLOCKER",
        }
    }
}

/// One fact of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HostRow {
    /// Which one; stays the same from version to version.
    pub name: &'static str,
    /// How it stands.
    pub standing: Standing,
    /// What was found.
    pub value: String,
    /// What follows, unless it is as it should be.
    pub cause: String,
    /// What helps.
    pub remedy: String,
}

impl HostRow {
    fn ok(name: &'static str, value: impl Into<String>) -> Self {
        let value = value.into();
        Self { name, standing: Standing::Ok, value, cause: String::new(), remedy: String::new() }
    }

    fn note(name: &'static str, value: impl Into<String>, cause: &str, remedy: &str) -> Self {
        Self {
            standing: Standing::Note,
            cause: cause.to_owned(),
            remedy: remedy.to_owned(),
            ..Self::ok(name, value)
        }
    }

    fn blocker(name: &'static str, value: impl Into<String>, cause: &str, remedy: &str) -> Self {
        Self { standing: Standing::Blocker, ..Self::note(name, value, cause, remedy) }
    }
}

impl HostFacts {
    fn has(&self, capability: u32) -> bool {
        self.capabilities >> capability & 1 == 1
    }

    /// Whether processes of any user can be dumped.
    pub(super) fn may_read_any_limits(&self) -> bool {
        self.has(SYS_RESOURCE)
    }

    /// Whether this CRIU carries bpf maps, where that can be seen.
    pub(super) fn carries_bpf(&self) -> Option<bool> {
        match self.criu {
            Found::Answers { bpf, .. } => bpf,
            Found::Unusable(..) => None,
        }
    }
}

/// All facts, one row each.
pub fn judge(facts: &HostFacts) -> Vec<HostRow> {
    let mut rows = vec![caller(facts), kernel(facts), criu(facts)];
    if let Found::Answers { features, nftables, .. } = &facts.criu {
        rows.extend(features_of(features));
        rows.push(nft(*nftables));
    }
    rows.extend([userfaultfd(facts), page_scan(facts), pipes(facts), capabilities(facts), run(facts)]);
    rows.push(programs(facts));
    rows.push(HostRow::ok(
        "lsm",
        if facts.lsm.is_empty() { "none".to_owned() } else { facts.lsm.join(", ") },
    ));
    rows.push(cgroups(facts));
    rows
}

/// Network sockets may need a newer CRIU than the rest.
pub(super) fn judge_sockets(facts: &HostFacts, has_inet_sockets: bool) -> Option<Finding> {
    let Found::Answers { version, .. } = &facts.criu else { return None };
    let error = check_inet_sockets(*version, facts.kernel).err().filter(|_| has_inet_sockets)?;
    let finding = Finding::new(Severity::Blocker, "criu_version", "TCP or UDP sockets");
    Some(finding.because(error.chain(), error.hint().unwrap_or_default()))
}

fn caller(facts: &HostFacts) -> HostRow {
    if facts.root {
        return HostRow::ok("user", "root");
    }
    let cause = "CRIU takes foreign processes apart, which only root may";
    HostRow::blocker("user", "not root", cause, "run migrate as root")
}

fn kernel(facts: &HostFacts) -> HostRow {
    HostRow::ok("kernel", format!("{} {}", facts.release, std::env::consts::ARCH))
}

fn criu(facts: &HostFacts) -> HostRow {
    match &facts.criu {
        Found::Unusable(why, remedy) => {
            HostRow::blocker("criu", "none that works", why, remedy.as_deref().unwrap_or_default())
        }
        Found::Answers { path, version, .. } => {
            let value = format!("{version}, {}", path.display());
            match (check(*version, facts.kernel), check_inet_sockets(*version, facts.kernel)) {
                (Err(error), _) => {
                    HostRow::blocker("criu", value, &error.chain(), error.hint().unwrap_or_default())
                }
                (Ok(()), Err(error)) => {
                    HostRow::note("criu", value, &error.chain(), error.hint().unwrap_or_default())
                }
                (Ok(()), Ok(())) => HostRow::ok("criu", value),
            }
        }
    }
}

fn features_of(features: &Result<Features, String>) -> Vec<HostRow> {
    let features = match features {
        Ok(features) => features,
        Err(why) => return vec![HostRow::note("criu_features", "unknown", why, "")],
    };
    let memory = if features.memory_tracking {
        HostRow::ok("memory_tracking", "soft-dirty")
    } else {
        let cause = "pre-dumps cannot be made: the kernel does not track changed pages for CRIU";
        HostRow::note("memory_tracking", "none", cause, "use a kernel with CONFIG_MEM_SOFT_DIRTY")
    };
    let lazy = if features.lazy_pages {
        HostRow::ok("lazy_pages", "yes")
    } else {
        let cause = "memory cannot be served after the restore";
        HostRow::note("lazy_pages", "no", cause, "use a kernel with CONFIG_USERFAULTFD")
    };
    vec![memory, lazy]
}

fn nft(nftables: Option<bool>) -> HostRow {
    match nftables {
        Some(true) => HostRow::ok("nftables", "in criu and in the kernel"),
        None => HostRow::note(
            "nftables",
            "unknown",
            "whether CRIU can lock TCP connections could not be seen",
            "",
        ),
        Some(false) => {
            let cause = "TCP connections cannot be locked while they are carried (--tcp-established)";
            HostRow::note(
                "nftables",
                "no",
                cause,
                "load nf_tables, or use a CRIU that was built with libnftables",
            )
        }
    }
}

fn userfaultfd(facts: &HostFacts) -> HostRow {
    match facts.userfaultfd {
        Ok(true) => HostRow::ok("userfaultfd", "yes, with WP_ASYNC"),
        Ok(false) => HostRow::ok("userfaultfd", "yes, without WP_ASYNC"),
        Err(errno) => {
            let cause = "memory cannot be served after the restore";
            let remedy = "use a kernel with CONFIG_USERFAULTFD, and run as root";
            HostRow::note("userfaultfd", format!("no ({})", errno.desc().to_lowercase()), cause, remedy)
        }
    }
}

fn page_scan(facts: &HostFacts) -> HostRow {
    HostRow::ok("pagemap_scan", if facts.pagemap_scan { "yes" } else { "no (Linux 6.7 has it)" })
}

fn pipes(facts: &HostFacts) -> HostRow {
    match facts.pipe_max_size {
        Some(size) if size >= PIPE || facts.may_read_any_limits() => {
            HostRow::ok("pipe_max_size", size.to_string())
        }
        Some(size) => {
            let cause = "without CAP_SYS_RESOURCE CRIU cannot make the pipes that memory goes through";
            HostRow::note("pipe_max_size", size.to_string(), cause, "sysctl fs.pipe-max-size=16777216")
        }
        None => HostRow::note("pipe_max_size", "unknown", "/proc/sys/fs/pipe-max-size cannot be read", ""),
    }
}

fn capabilities(facts: &HostFacts) -> HostRow {
    let table = [
        (SYS_ADMIN, "CAP_SYS_ADMIN"),
        (SYS_PTRACE, "CAP_SYS_PTRACE"),
        (NET_ADMIN, "CAP_NET_ADMIN"),
        (SYS_RESOURCE, "CAP_SYS_RESOURCE"),
    ];
    let missing: Vec<&str> =
        table.iter().filter(|(number, _)| !facts.has(*number)).map(|(_, name)| *name).collect();
    let value = format!("without {}", missing.join(", "));
    if !facts.has(SYS_ADMIN) || !facts.has(SYS_PTRACE) {
        let cause = "CRIU can neither stop processes nor make their mounts and namespaces";
        return HostRow::blocker("capabilities", value, cause, "run migrate with every capability");
    }
    if !missing.is_empty() {
        let causes = [
            (NET_ADMIN, "network namespaces cannot be dumped"),
            (
                SYS_RESOURCE,
                "processes of other users can be dumped in a user namespace of the container's own only",
            ),
        ];
        let causes: Vec<&str> =
            causes.into_iter().filter(|(number, _)| !facts.has(*number)).map(|(_, cause)| cause).collect();
        return HostRow::note("capabilities", value, &causes.join("; "), "run migrate with every capability");
    }
    HostRow::ok("capabilities", "all that CRIU needs")
}

fn run(facts: &HostFacts) -> HostRow {
    if facts.run_is_tmpfs {
        return HostRow::ok("run", "/run is a tmpfs");
    }
    let cause = "CRIU does not keep there what it has found out about the kernel; migrate keeps it instead";
    HostRow::note("run", "/run is no tmpfs", cause, "mount a tmpfs on /run")
}

fn programs(facts: &HostFacts) -> HostRow {
    let missing: Vec<&str> =
        facts.programs.iter().filter(|(_, found)| !found).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return HostRow::ok("programs", PROGRAMS.map(|(name, _)| name).join(", "));
    }
    let is_missing = |(name, _): &&(&str, &str)| missing.contains(name);
    let mut purposes: Vec<&str> = PROGRAMS.iter().filter(is_missing).map(|(_, what)| *what).collect();
    purposes.dedup();
    let cause = format!("needed for {}", purposes.join(", "));
    let value = format!("without {}", missing.join(", "));
    let remedy = "install them where CRIU looks: PATH, /usr/sbin, /usr/bin";
    if PROGRAMS[..NEEDED].iter().any(|program| is_missing(&program)) {
        return HostRow::blocker("programs", value, &cause, remedy);
    }
    HostRow::note("programs", value, &cause, remedy)
}

fn cgroups(facts: &HostFacts) -> HostRow {
    let layout = match facts.cgroups {
        None => {
            let cause = "no cgroup hierarchy is mounted";
            return HostRow::note("cgroups", "none", cause, "mount -t cgroup2 none /sys/fs/cgroup");
        }
        Some(Layout::V1) => "v1",
        Some(Layout::Hybrid) => "hybrid",
        Some(Layout::Unified) => "v2",
    };
    if facts.freezer {
        return HostRow::ok("cgroups", format!("{layout}, with a freezer"));
    }
    HostRow::note(
        "cgroups",
        format!("{layout}, without a freezer"),
        "containers cannot be paused",
        "mount the freezer",
    )
}
