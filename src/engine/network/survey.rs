// SPDX-License-Identifier: Apache-2.0
//! Looks at a running container's network before it is checkpointed, and decides who is to make it again.
//!
//! What nearly every container has, and what the engine itself has put there, the engine makes again: that is faster
//! than CRIU, which starts `ip` and `iptables-save` for it, and nothing is lost. What only CRIU knows (bridges and other
//! interfaces made inside, firewall rules, further network namespaces) CRIU dumps; of what it loses, the engine keeps
//! record.

use std::fs::{self, File};

use super::comparison::Comparison;
use super::devices;
use super::saved::{NetworkContent, Origin, SavedLink, SavedNetwork, SavedRecord};
use super::{Network, NetworkState};
use crate::engine::{Container, InitProcess, Namespaces};
use crate::spec::Config;
use crate::sys::netlink::{Netfilter, Netlink, RecordKind};
use crate::sys::proc;
use crate::{Context, Error, ErrorKind, Result};

/// Where the kernel names the tables that iptables, ip6tables and arptables have made (the old kind).
const TABLE_NAMES: [&str; 3] = ["ip_tables_names", "ip6_tables_names", "arp_tables_names"];

/// What is seen at one moment.
struct Seen {
    links: Vec<SavedLink>,
    records: Vec<SavedRecord>,
    /// Why only CRIU can make it again.
    reasons: Vec<String>,
}

/// A first look at a container's network, which is looked at again once the container stands still.
#[derive(Debug)]
pub struct NetworkSurvey {
    saved: SavedNetwork,
    /// `None` where the namespace is not the container's.
    comparison: Option<Comparison>,
}

impl NetworkSurvey {
    /// What a restore must know, so far.
    pub fn saved(&self) -> &SavedNetwork {
        &self.saved
    }
}

impl Container {
    /// What a restore must know of the network of this container; `None` when that is nothing. Tables of nftables whose
    /// name begins with `lock` are not the container's but keep packets away from it.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a network that nobody could bring back; when it cannot be looked at.
    pub fn survey_network(
        &self,
        config: &Config,
        init: InitProcess,
        lock: &str,
    ) -> Result<Option<NetworkSurvey>> {
        let state = &self.state().network;
        let new = |content| SavedNetwork::new(content, &state.networks, &state.routes);
        let own = Namespaces::from_spec(&config.spec).creates(nix::sched::CloneFlags::CLONE_NEWNET);
        if !own {
            let shared = || NetworkSurvey { saved: new(NetworkContent::Shared), comparison: None };
            return Ok((!state.networks.is_empty() || !state.routes.is_empty()).then(shared));
        }
        let namespace = namespace_of(init)?;
        let comparison = Comparison::begin(&namespace)?;
        let seen = self.see(config, init, &namespace, &comparison, lock)?;
        let content = if seen.reasons.is_empty() { NetworkContent::Engine } else { NetworkContent::Criu };
        check(config, &seen)?;
        let mut saved = new(content);
        saved.take(seen);
        Ok(Some(NetworkSurvey { saved, comparison: Some(comparison) }))
    }

    /// Looks again, once the container stands still: addresses and routes may have changed since.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`] when the network has become one that must be made again in another way.
    pub fn survey_network_again(
        &self,
        survey: NetworkSurvey,
        config: &Config,
        init: InitProcess,
        lock: &str,
    ) -> Result<SavedNetwork> {
        let NetworkSurvey { mut saved, comparison } = survey;
        let Some(comparison) = comparison else { return Ok(saved) };
        let namespace = namespace_of(init)?;
        let seen = self.see(config, init, &namespace, &comparison, lock)?;
        if saved.content == NetworkContent::Engine && !seen.reasons.is_empty() {
            let message = format!(
                "the container's network has changed while it was checkpointed: it has {} now",
                seen.reasons.join(" and ")
            );
            return Err(Error::new(ErrorKind::WrongStatus, message).with_hint("checkpoint it again"));
        }
        saved.take(seen);
        saved.parameters = comparison.changed_parameters().context(|| looking_at(init))?;
        Ok(saved)
    }

    fn see(
        &self,
        config: &Config,
        init: InitProcess,
        namespace: &File,
        new: &Comparison,
        lock: &str,
    ) -> Result<Seen> {
        self.see_all(config, init, namespace, new, lock).context(|| looking_at(init))
    }

    fn see_all(
        &self,
        config: &Config,
        init: InitProcess,
        namespace: &File,
        new: &Comparison,
        lock: &str,
    ) -> Result<Seen> {
        let netlink = Netlink::in_namespace(namespace).context(|| "connect by netlink")?;
        let ours = names_of_ours(&self.state().network, config);
        let mut reasons = Vec::new();
        let mut links = Vec::new();
        for link in netlink.links().context(|| "list the interfaces")? {
            let origin = if link.is_loopback() || (!link.is_up() && new.has_link(&link)?) {
                Origin::Kernel
            } else if ours.contains(&link.name) {
                Origin::Engine
            } else if link.reaches_out || link.kind.is_empty() {
                Origin::Outside
            } else {
                reasons.push(format!("an interface {} ({})", link.name, link.kind));
                Origin::Inside
            };
            links.push(SavedLink {
                name: link.name.clone(),
                index: link.index,
                up: link.is_up(),
                mtu: link.mtu,
                queue_length: link.queue_length,
                mac: link.mac.filter(|_| link.name != "lo"),
                origin,
            });
        }
        reasons.extend(firewall(init, namespace, lock)?);
        if self.has_further_namespaces(init)? {
            reasons.push("a further network namespace".to_owned());
        }
        let kinds = match reasons.is_empty() {
            true => &RecordKind::ALL[..],
            // CRIU has the others.
            false => &[RecordKind::Neighbour],
        };
        let mut records = Vec::new();
        for kind in kinds {
            for record in netlink.records(*kind).context(|| "list addresses and routes")? {
                if !record.is_complete() {
                    tracing::warn!(%record, "part of it does not come back at a restore");
                }
                records.push(SavedRecord::of(&record));
            }
        }
        Ok(Seen { links, records, reasons })
    }

    /// Whether a process of the container has a network namespace that is not the container's.
    fn has_further_namespaces(&self, init: InitProcess) -> Result<bool> {
        let inode = |pid: i32| proc::namespace_inode(nix::unistd::Pid::from_raw(pid), "net").ok();
        let own = inode(init.pid);
        // A process that is gone has none.
        Ok(self.cgroup()?.all_pids()?.into_iter().filter_map(inode).any(|other| Some(other) != own))
    }
}

impl SavedNetwork {
    fn take(&mut self, seen: Seen) {
        self.links = seen.links;
        self.records = seen.records;
    }
}

pub(super) fn namespace_of(init: InitProcess) -> Result<File> {
    let path = format!("/proc/{}/ns/net", init.pid);
    File::open(&path).context(|| format!("open {path}"))
}

fn looking_at(init: InitProcess) -> String {
    format!("look at the network of process {}", init.pid)
}

/// The interfaces that the engine has made for it or moved into it.
fn names_of_ours(state: &NetworkState, config: &Config) -> Vec<String> {
    let veths = state.networks.iter().filter_map(|network| match network {
        Network::Veth(veth) => Some(veth.name.clone()),
        Network::Loopback => None,
    });
    veths.chain(devices::from_spec(&config.spec).into_iter().map(|device| device.name_there)).collect()
}

/// What there is of firewalls.
fn firewall(init: InitProcess, namespace: &File, lock: &str) -> Result<Option<String>> {
    let old = TABLE_NAMES.iter().any(|name| {
        // Without the kernel's part there are none.
        fs::read(format!("/proc/{}/net/{name}", init.pid)).is_ok_and(|names| !names.is_empty())
    });
    let tables = match Netfilter::in_namespace(namespace) {
        Err(e) if e.raw_os_error() == Some(libc::EPROTONOSUPPORT) => Vec::new(),
        opened => opened.and_then(|n| n.tables()).context(|| "list the tables of nftables")?,
    };
    let any = tables.iter().any(|table| !table.name.starts_with(lock));
    Ok((old || any).then(|| "firewall rules".to_owned()))
}

/// Refuses what no one could put together again.
fn check(config: &Config, seen: &Seen) -> Result<()> {
    if seen.reasons.is_empty() {
        for link in seen.links.iter().filter(|link| link.origin == Origin::Outside) {
            tracing::warn!(
                interface = link.name,
                "somebody has put this interface into the container: after a restore somebody must again, a hook for \
                 example; its addresses and routes come back then"
            );
        }
        return Ok(());
    }
    let moved = devices::from_spec(&config.spec);
    let mut stuck = seen
        .links
        .iter()
        .filter(|l| l.origin == Origin::Outside || moved.iter().any(|device| device.name_there == l.name));
    let Some(link) = stuck.next() else { return Ok(()) };
    let message = format!(
        "the container has an interface of the host's ({}) and {}: criu could not connect the first again, and nobody \
         else can make the second",
        link.name,
        seen.reasons.join(" and ")
    );
    Err(Error::new(ErrorKind::Unsupported, message)
        .with_hint("make a network namespace with these, and give its path in linux.namespaces"))
}
