// SPDX-License-Identifier: Apache-2.0
//! `migrate events`: one line of JSON per event, in runc's form.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cgroup::Stats;
use crate::cli::{Global, durations, output, parse_id};
use crate::engine::{Container, ContainerId, MemoryNotices, NetworkInterface, Notice, RdtStats};
use crate::{Error, ErrorKind, Result};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The container's id
    #[arg(value_name = "CONTAINER", value_parser = parse_id)]
    id: ContainerId,
    /// Time between two looks at the statistics [default: 5s]
    #[arg(long, value_name = "TIME", default_value = "5s", hide_default_value = true, allow_hyphen_values = true, value_parser = durations::positive)]
    interval: Duration,
    /// Print the statistics once
    #[arg(long)]
    stats: bool,
}

#[derive(Debug, Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data>,
}

#[derive(Debug, Serialize)]
struct Data {
    #[serde(flatten)]
    stats: Stats,
    /// An empty object where there is nothing to tell, as clients expect.
    intel_rdt: RdtStats,
    /// Those that the engine has made, which it does for callers of the library.
    network_interfaces: Option<Vec<NetworkInterface>>,
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<()> {
        let container = global.state_root()?.load(&self.id)?;
        if self.stats {
            return print_stats(&container);
        }
        let mut notices = container.notify_on_oom()?;
        self.follow(&container, &mut notices)
    }

    fn follow(&self, container: &Container, notices: &mut MemoryNotices) -> Result<()> {
        let mut next = Instant::now() + self.interval;
        loop {
            match notices.wait(Some(next.saturating_duration_since(Instant::now())))? {
                Notice::Memory(times) => {
                    for _ in 0..times {
                        output::json_line(&Event { kind: "oom", id: container.id().as_str(), data: None })?;
                    }
                }
                Notice::Ended => return Ok(()),
                Notice::TimedOut => match print_stats(container) {
                    // It has ended meanwhile, which the next notice says.
                    Err(e) if is_about_the_end(&e) => next = Instant::now() + self.interval,
                    other => {
                        other?;
                        next = (next + self.interval).max(Instant::now());
                    }
                },
            }
        }
    }
}

fn is_about_the_end(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::WrongStatus | ErrorKind::NotFound)
}

fn print_stats(container: &Container) -> Result<()> {
    let interfaces = container.network_stats()?;
    let data = Data {
        stats: container.stats()?,
        intel_rdt: container.intel_rdt_stats()?.unwrap_or_default(),
        network_interfaces: (!interfaces.is_empty()).then_some(interfaces),
    };
    output::json_line(&Event { kind: "stats", id: container.id().as_str(), data: Some(data) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_runcs() {
        let print = |event: &Event<'_>| serde_json::to_string(event).expect("it serialises");
        assert_eq!(print(&Event { kind: "oom", id: "web", data: None }), r#"{"type":"oom","id":"web"}"#);
        let data = Data { stats: Stats::default(), intel_rdt: RdtStats::default(), network_interfaces: None };
        assert_eq!(
            print(&Event { kind: "stats", id: "web", data: Some(data) }),
            concat!(
                r#"{"type":"stats","id":"web","data":{"cpu":{"usage":{"kernel":0,"user":0},"throttling":{}},"#,
                r#""cpuset":{"cpu_exclusive":0,"mem_hardwall":0,"mem_exclusive":0,"memory_migrate":0,"#,
                r#""memory_spread_page":0,"memory_spread_slab":0,"memory_pressure":0,"sched_load_balance":0,"#,
                r#""sched_relax_domain_level":0},"memory":{"usage":{"limit":0,"failcnt":0},"#,
                r#""swap":{"limit":0,"failcnt":0},"kernel":{"limit":0,"failcnt":0},"#,
                r#""kernelTCP":{"limit":0,"failcnt":0},"event_count":{}},"#,
                r#""pids":{},"blkio":{},"hugetlb":{},"intel_rdt":{},"network_interfaces":null}}"#
            )
        );
    }
}
