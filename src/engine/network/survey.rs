// SPDX-License-Identifier: Apache-2.0
//! Looks at a running container's network before it is checkpointed, and decides who is to make it again.
//!
//! What nearly every container has, and what the engine itself has put there, the engine makes again: that is faster
//! than CRIU, which starts `ip` and `iptables-save` for it, and nothing is lost. What only CRIU knows (bridges and other
//! interfaces made inside, firewall rules, further network namespaces) CRIU dumps; of what it loses, the engine keeps
//! record.

use std::collections::BTreeMap;
use std::fs::{self, File};

use super::devices;
use super::saved::{NetworkContent, Origin, SavedLink, SavedNetwork, SavedRecord};
use super::{Network, NetworkState};
use crate::engine::{Container, InitProcess, Namespaces};
use crate::spec::Config;
use crate::sys::namespace::{in_network_namespace, in_new_network_namespace};
use crate::sys::netlink::{Link, Netfilter, Netlink, RecordKind};
use crate::sys::{net, network_parameters, proc};
use crate::{Context, Error, ErrorKind, Result};

/// Where the kernel names the tables that iptables, ip6tables and arptables have made (the old kind).
const TABLE_NAMES: [&str; 3] = ["ip_tables_names", "ip6_tables_names", "arp_tables_names"];

/// A new namespace, to compare with.
struct Reference {
    links: Vec<Link>,
    parameters: BTreeMap<String, String>,
}

/// What is seen at one moment.
struct Seen {
    links: Vec<SavedLink>,
    records: Vec<SavedRecord>,
    /// Why only CRIU can make it again.
    reasons: Vec<String>,
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
    ) -> Result<Option<SavedNetwork>> {
        let state = &self.state().network;
        let own = Namespaces::from_spec(&config.spec).creates(nix::sched::CloneFlags::CLONE_NEWNET);
        if !own {
            let saved = || SavedNetwork::new(NetworkContent::Shared, &state.networks, &state.routes);
            return Ok((!state.networks.is_empty() || !state.routes.is_empty()).then(saved));
        }
        let context = || format!("look at the network of process {}", init.pid);
        let namespace = namespace_of(init)?;
        let (reference, parameters) = std::thread::scope(|scope| {
            let own = scope.spawn(|| in_network_namespace(&namespace, network_parameters::read).flatten());
            let reference = in_new_network_namespace(reference).flatten();
            (reference, own.join().expect("reading files does not panic"))
        });
        let reference = reference.context(|| "make a network namespace to compare with")?;
        let parameters = parameters.context(context)?;
        let seen = self.see(config, init, &namespace, &reference.links, lock).context(context)?;
        let content = if seen.reasons.is_empty() { NetworkContent::Engine } else { NetworkContent::Criu };
        check(config, &seen)?;
        let mut saved = SavedNetwork::new(content, &state.networks, &state.routes);
        saved.parameters = changed(&parameters, &reference.parameters);
        saved.take(seen);
        Ok(Some(saved))
    }

    /// Looks again, once the container stands still: addresses and routes may have changed since.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`] when the network has become one that must be made again in another way.
    pub fn survey_network_again(
        &self,
        saved: &mut SavedNetwork,
        config: &Config,
        init: InitProcess,
        lock: &str,
    ) -> Result<()> {
        if saved.content == NetworkContent::Shared {
            return Ok(());
        }
        let namespace = namespace_of(init)?;
        let links =
            || in_new_network_namespace(|| Netlink::open().and_then(|netlink| netlink.links())).flatten();
        let links = links().context(|| "make a network namespace to compare with")?;
        let seen = self
            .see(config, init, &namespace, &links, lock)
            .context(|| format!("look at the network of process {}", init.pid))?;
        if saved.content == NetworkContent::Engine && !seen.reasons.is_empty() {
            let message = format!(
                "the container's network has changed while it was checkpointed: it has {} now",
                seen.reasons.join(" and ")
            );
            return Err(Error::new(ErrorKind::WrongStatus, message).with_hint("checkpoint it again"));
        }
        saved.take(seen);
        Ok(())
    }

    fn see(
        &self,
        config: &Config,
        init: InitProcess,
        namespace: &File,
        new: &[Link],
        lock: &str,
    ) -> Result<Seen> {
        let netlink = Netlink::in_namespace(namespace).context(|| "connect by netlink")?;
        let ours = names_of_ours(&self.state().network, config);
        let mut reasons = Vec::new();
        let mut links = Vec::new();
        for link in netlink.links().context(|| "list the interfaces")? {
            let fallback = new.iter().any(|n| n.name == link.name && n.kind == link.kind);
            let origin = if fallback && (link.name == "lo" || !link.is_up()) {
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

fn namespace_of(init: InitProcess) -> Result<File> {
    let path = format!("/proc/{}/ns/net", init.pid);
    File::open(&path).context(|| format!("open {path}"))
}

fn reference() -> std::io::Result<Reference> {
    // Some parameters of `lo` depend on it.
    net::bring_loopback_up()?;
    Ok(Reference { links: Netlink::open()?.links()?, parameters: network_parameters::read()? })
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

/// The parameters that are not as in a new namespace. Those of an interface that a new one does not have are compared
/// with the ones for new interfaces.
fn changed(
    parameters: &BTreeMap<String, String>,
    reference: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let usual = |name: &str| {
        reference.get(name).or_else(|| {
            let mut parts: Vec<&str> = name.split('/').collect();
            if let [_, "conf" | "neigh", interface, _] = &mut parts[..] {
                *interface = "default";
            }
            reference.get(&parts.join("/"))
        })
    };
    let differs = |(name, value): &(&String, &String)| usual(name) != Some(value);
    parameters.iter().filter(differs).map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_somebody_has_changed_is_kept() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let new = map(&[
            ("core/somaxconn", "4096"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/lo/rp_filter", "0"),
        ]);
        let own = map(&[
            ("core/somaxconn", "777"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/lo/rp_filter", "0"),
            ("ipv4/conf/eth0/rp_filter", "2"),
            ("ipv4/conf/eth1/rp_filter", "0"),
            ("other/new", "1"),
        ]);
        let expected =
            map(&[("core/somaxconn", "777"), ("ipv4/conf/eth0/rp_filter", "2"), ("other/new", "1")]);
        assert_eq!(changed(&own, &new), expected);
    }
}
