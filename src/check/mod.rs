// SPDX-License-Identifier: Apache-2.0
//! What stands in the way of a checkpoint, said before anything is frozen: what this host lacks, what a configuration asks
//! for, and what the processes of a container hold.
//!
//! ```text
//!  /proc, CRIU's answers ──gather──▶ HostFacts, ContainerFacts ──judge (pure)──▶ Finding ──▶ Report ──▶ Verdict
//!                                    Config ─────────────────────judge (pure)──▶   "
//! ```
//! A [`Finding`] is a [`Severity::Blocker`] only where CRIU is known to fail; what it may be able to do is a note. All
//! findings are told, not the first. A remedy that `diagnose` has for the same, when CRIU refuses, is taken from there.
//! Nothing here stops a process or changes one, but [`dirty_rate`], for a moment and when it is asked to. Must not know how a dump is made.

mod bundle;
mod container;
mod dirty_rate;
mod finding;
mod host;
mod report;

pub use bundle::{judge as judge_config, judge_namespaces};
pub use container::{ContainerFacts, Limits, judge as judge_container};
pub use dirty_rate::{DirtyRates, ProcessRate, dirty_rate};
pub use finding::{Finding, Flag, Given, Severity};
pub use host::{HostFacts, HostRow, Standing, judge as judge_host};
pub use report::{Report, Verdict, refuse};

use std::path::Path;

use crate::Result;
use crate::engine::Container;
use crate::spec::Config;
use crate::sys::proc::has_inet_sockets;

/// Judges the host alone. `criu` is the caller's choice of CRIU, as everywhere.
pub fn host(criu: Option<&Path>) -> Report {
    Report::new(host::judge(&HostFacts::gather(criu)), Vec::new())
}

/// Judges the host and a configuration that runs nowhere yet.
pub fn config(criu: Option<&Path>, config: &Config) -> Report {
    let facts = HostFacts::gather(criu);
    Report::new(host::judge(&facts), bundle::judge(config, facts.may_read_any_limits()))
}

/// Judges the host and a container: its configuration and what its processes hold now.
///
/// # Errors
/// The container does not run, or its record or cgroup cannot be read.
pub fn container(criu: Option<&Path>, container: &Container) -> Result<Report> {
    let facts = HostFacts::gather(criu);
    let config = container.config()?;
    let held = ContainerFacts::gather(container, &config, Limits::default())?;
    let mut findings = bundle::judge(&config, true);
    findings.extend(container::judge(&held, facts.carries_bpf()));
    // As `checkpoint` asks, which no flag keeps from it.
    let init = container.init().map(|init| init.pid());
    let has_sockets = init.is_some_and(|pid| has_inet_sockets(pid).unwrap_or(false));
    findings.extend(host::judge_sockets(&facts, has_sockets));
    Ok(Report::new(host::judge(&facts), findings))
}
