// SPDX-License-Identifier: Apache-2.0
//! Makes a container's network again for a restore, from what a checkpoint has written down.
//!
//! ```text
//!   check ──▶ criu makes the namespace ──▶ rebuild: interfaces, switched off
//!             hooks ── criu locks it ──────▶ complete: parameters, addresses, interfaces on, routes
//!             or criu makes the contents ──▶ adopt: the host's ends of pairs, parameters, neighbours
//! ```
//! All of it comes before CRIU restores sockets: a connection can only be put back where its address is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nix::unistd::Pid;

use super::saved::{NetworkContent, Origin, SavedLink, SavedNetwork};
use super::{Network, NetworkState, Setup, Switch, VethNetwork, veth};
use crate::sys::namespace::in_network_namespace;
use crate::sys::netlink::{Netlink, Record, RecordKind};
use crate::sys::network_parameters;
use crate::{Context, Result};

impl SavedNetwork {
    /// What the caller of `create` gave the container, for its record.
    pub(in crate::engine) fn given(&self) -> NetworkState {
        NetworkState {
            networks: self.networks.clone(),
            routes: self.routes.clone(),
            ..NetworkState::default()
        }
    }

    fn link(&self, name: &str) -> Option<&SavedLink> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The pairs that were there, each with the name of its end on the host.
    fn pairs<'a>(
        &'a self,
        state: &NetworkState,
    ) -> Vec<(usize, &'a VethNetwork, Option<&'a SavedLink>, String)> {
        let veths = self.networks.iter().filter_map(|network| match network {
            Network::Veth(veth) => Some(veth),
            Network::Loopback => None,
        });
        veths
            .zip(&state.host_ends)
            .enumerate()
            .map(|(i, (veth, end))| (i, veth, self.link(&veth.name), end.name.clone()))
            .collect()
    }

    /// The pairs as CRIU wants them named: interface in the container, and on the host.
    pub(in crate::engine) fn external_pairs(&self, state: &NetworkState) -> Vec<(String, String)> {
        let pairs = self.pairs(state).into_iter().filter(|(_, _, link, _)| link.is_some());
        pairs.map(|(_, veth, _, host)| (veth.name.clone(), host)).collect()
    }
}

impl Setup {
    /// Whether this host has what the restore will want of it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an interface or bridge that is missing; [`ErrorKind::AlreadyExists`] for a name that is
    /// taken.
    pub(in crate::engine) fn check_host(&self, saved: &SavedNetwork, state: &NetworkState) -> Result<()> {
        let mut pairs = saved.pairs(state);
        let shared = saved.content == NetworkContent::Shared;
        pairs.retain(|(_, _, link, _)| shared || link.is_some());
        // Into a namespace that the container shares nothing is moved again: it has stayed there.
        let devices = if shared { &[][..] } else { &self.devices };
        if devices.is_empty() && pairs.is_empty() {
            return Ok(());
        }
        let here = Netlink::open().context(|| "connect to the host's network by netlink")?;
        for device in devices {
            device.prepare(&here)?;
        }
        for (_, veth, _, host) in pairs {
            veth::require_free(&here, &host)?;
            if let Some(bridge) = &veth.bridge {
                veth::find(&here, bridge).context(|| format!("set up network {}", veth.name))?;
            }
        }
        Ok(())
    }

    /// Puts the interfaces into the empty network namespace of this process, all switched off: packets of a peer must not
    /// come in before CRIU keeps them away.
    ///
    /// # Errors
    /// The interface and the step. What was done is for [`Setup::undo`].
    pub(in crate::engine) fn rebuild(
        &mut self,
        pid: Pid,
        saved: &SavedNetwork,
        state: &mut NetworkState,
        save: impl Fn(&NetworkState) -> Result<()>,
    ) -> Result<()> {
        let (here, there) = self.connect(pid)?;
        self.move_devices(&here, &there, Switch::Off, |name| saved.link(name).map(|link| link.index))?;
        self.make_pairs(&here, saved, state, save)
    }

    /// Makes the pairs anew: each from within, where its number and address count, and then the host's end.
    fn make_pairs(
        &mut self,
        here: &Netlink,
        saved: &SavedNetwork,
        state: &mut NetworkState,
        save: impl Fn(&NetworkState) -> Result<()>,
    ) -> Result<()> {
        let pairs = saved.pairs(state);
        for (_, _, _, host) in &pairs {
            veth::require_free(here, host)?;
        }
        if !pairs.is_empty() {
            // Whoever removes this container finds them, also when this process is killed in between.
            save(state)?;
        }
        let namespace = self.namespace.as_ref().expect("connect() has opened it");
        for (i, network, link, host) in pairs {
            // The container may have removed its end, and with it the pair.
            let Some(link) = link else { continue };
            veth::make(here, network, &host, namespace.as_fd(), Some((link.index, link.mac)))?;
            self.made.push(state.host_ends[i].clone());
            let index = veth::find(here, &host)?;
            state.host_ends[i].index = Some(index);
            self.made.last_mut().expect("it was pushed").index = Some(index);
            save(state)?;
        }
        Ok(())
    }

    /// Sets everything up, once hooks have put further interfaces there and CRIU keeps packets away from what needs it.
    ///
    /// # Errors
    /// The interface, address or route, and the step.
    pub(in crate::engine) fn complete(
        &mut self,
        pid: Pid,
        saved: &SavedNetwork,
        state: &NetworkState,
    ) -> Result<()> {
        let (here, there) = self.connect(pid)?;
        for (i, network, link, _) in saved.pairs(state) {
            if let (Some(_), Some(host)) = (link, state.host_ends[i].index) {
                veth::connect_host(&here, network, host)
                    .context(|| format!("set up network {}", network.name))?;
            }
        }
        let namespace = self.namespace.as_ref().expect("connect() has opened it");
        set_parameters(namespace, saved)?;
        let indexes = indexes(&there, saved)?;
        for link in &saved.links {
            match (link.origin, indexes.get(&link.index)) {
                (Origin::Engine, Some(index)) => {
                    let configured = there.configure(*index, link.mtu, link.queue_length, link.mac);
                    configured.context(|| format!("set up interface {}", link.name))?;
                }
                (Origin::Outside, None) => {
                    tracing::warn!(
                        interface = link.name,
                        "nobody has put this interface into the restored container"
                    );
                }
                _ => {}
            }
        }
        let records: Vec<_> = saved
            .records()?
            .into_iter()
            .filter(|r| r.link().is_none_or(|index| indexes.contains_key(&index)))
            .collect();
        put_back(&there, saved, &records, &indexes)
    }

    /// After CRIU has made the contents: connects the host's ends of pairs, and sets what CRIU loses.
    ///
    /// # Errors
    /// As [`Setup::rebuild`].
    pub(in crate::engine) fn adopt(
        &mut self,
        pid: Pid,
        saved: &SavedNetwork,
        state: &mut NetworkState,
        save: impl Fn(&NetworkState) -> Result<()>,
    ) -> Result<()> {
        let (here, there) = self.connect(pid)?;
        for (i, network, link, host) in saved.pairs(state) {
            let Some(link) = link else { continue };
            let index = veth::find(&here, &host)?;
            state.host_ends[i].index = Some(index);
            self.made.push(state.host_ends[i].clone());
            save(state)?;
            let set_up = || {
                here.configure(index, link.mtu, link.queue_length, None).context(|| "set its sizes")?;
                veth::connect_host(&here, network, index)
            };
            set_up().context(|| format!("set up network {}", network.name))?;
        }
        let namespace = self.namespace.as_ref().expect("connect() has opened it");
        set_parameters(namespace, saved)?;
        let indexes = indexes(&there, saved)?;
        for link in &saved.links {
            if let Some(index) = indexes.get(&link.index) {
                let configured = there.configure(*index, link.mtu, link.queue_length, None);
                configured.context(|| format!("set the sizes of interface {}", link.name))?;
            }
        }
        put_all(&there, &saved.records()?.iter().collect::<Vec<_>>(), &indexes)
    }

    /// Connects the pairs of a container that shares its network namespace with others.
    ///
    /// # Errors
    /// As [`Setup::rebuild`].
    pub(in crate::engine) fn join(
        &mut self,
        pid: Pid,
        state: &mut NetworkState,
        save: impl Fn(&NetworkState) -> Result<()>,
    ) -> Result<()> {
        // Moved interfaces have stayed in the namespace.
        self.devices.clear();
        self.run(pid, state, save)
    }
}

/// Which number each interface has now that had another one where it comes from; none for those that are missing.
fn indexes(there: &Netlink, saved: &SavedNetwork) -> Result<BTreeMap<u32, u32>> {
    let now = there.links().context(|| "list the interfaces of the container")?;
    let pair = |link: &SavedLink| Some((link.index, now.iter().find(|l| l.name == link.name)?.index));
    Ok(saved.links.iter().filter_map(pair).collect())
}

fn set_parameters(namespace: &File, saved: &SavedNetwork) -> Result<()> {
    if saved.parameters.is_empty() {
        return Ok(());
    }
    let refused = in_network_namespace(namespace, || set_in_order(&saved.parameters))
        .context(|| "join the network namespace of the container")?;
    for (name, error) in refused {
        // Another kernel does not have all of them, and the program may do without.
        tracing::warn!(parameter = format!("net/{name}"), %error, "kernel parameter of the container not restored");
    }
    Ok(())
}

/// Sets the calling thread's parameters, those first that set others: forwarding for all, then for those to come, then for
/// each. Gives those that were refused.
fn set_in_order(parameters: &BTreeMap<String, String>) -> Vec<(&String, io::Error)> {
    let rank = |name: &str| match name.split('/').collect::<Vec<_>>()[..] {
        [_, "ip_forward"] => 0,
        [_, "conf" | "neigh", "all", _] => 1,
        [_, "conf" | "neigh", "default", _] => 2,
        _ => 3,
    };
    let mut parameters: Vec<_> = parameters.iter().collect();
    parameters.sort_by_key(|(name, _)| rank(name));
    parameters
        .into_iter()
        .filter_map(|(name, value)| Some((name, network_parameters::write(name, value).err()?)))
        .collect()
}

/// `lo` goes up, which gives it addresses of its own; then come addresses, the other interfaces go up, and the rest.
fn put_back(
    there: &Netlink,
    saved: &SavedNetwork,
    records: &[Record],
    indexes: &BTreeMap<u32, u32>,
) -> Result<()> {
    let (by_kernel, others): (Vec<_>, Vec<_>) =
        saved.links.iter().partition(|link| link.origin == Origin::Kernel);
    let (addresses, rest): (Vec<_>, Vec<_>) =
        records.iter().partition(|record| record.kind == RecordKind::Address);
    switch(there, &by_kernel, indexes)?;
    put_all(there, &addresses, indexes)?;
    switch(there, &others, indexes)?;
    put_all(there, &rest, indexes)
}

fn switch(there: &Netlink, links: &[&SavedLink], indexes: &BTreeMap<u32, u32>) -> Result<()> {
    for link in links {
        let Some(index) = indexes.get(&link.index) else { continue };
        let switched = if link.up { there.set_up(*index) } else { there.set_down(*index) };
        switched.context(|| format!("switch interface {}", link.name))?;
    }
    Ok(())
}

/// Puts records back that are not there yet. A route by way of somebody needs the one to him: what fails is tried again as
/// long as something else succeeds.
pub(super) fn put_all(there: &Netlink, records: &[&Record], indexes: &BTreeMap<u32, u32>) -> Result<()> {
    let mut left = records.to_vec();
    loop {
        let (mut failed, mut first) = (Vec::new(), None);
        let before = left.len();
        for record in left {
            match there.put(record, indexes) {
                Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
                Err(e) => {
                    first.get_or_insert((record, e));
                    failed.push(record);
                }
                Ok(()) => {}
            }
        }
        match first {
            None => return Ok(()),
            Some((record, e)) if failed.len() == before => {
                return Err(e).context(|| format!("put back {record} of the container's network"));
            }
            Some(_) => left = failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::comparison::changed;
    use super::*;
    use crate::sys::namespace::in_new_network_namespace;
    use crate::sys::net::bring_loopback_up;

    /// The parameters of a new namespace, after `set` in it.
    fn parameters_after(set: impl FnOnce() + Send) -> BTreeMap<String, String> {
        let read = || {
            set();
            bring_loopback_up().expect("bring lo up");
            network_parameters::read().expect("read /proc/sys/net")
        };
        let mut all =
            in_new_network_namespace(read).expect("this test needs root: it makes a network namespace");
        all.retain(|name, _| name.contains("/conf/") || name.ends_with("/ip_forward"));
        all
    }

    /// Setting one of these sets others, which somebody has set back since.
    #[test]
    fn parameters_that_follow_others_come_back_as_they_were() {
        let own = parameters_after(|| {
            for (name, value) in [
                ("ipv4/ip_forward", "1"),
                ("ipv4/conf/all/accept_redirects", "1"),
                ("ipv4/conf/lo/forwarding", "0"),
                ("ipv4/conf/default/rp_filter", "2"),
                ("ipv4/conf/lo/rp_filter", "0"),
                ("ipv6/conf/all/disable_ipv6", "1"),
                ("ipv6/conf/lo/disable_ipv6", "0"),
                ("ipv6/conf/all/forwarding", "1"),
                ("ipv6/conf/default/forwarding", "0"),
            ] {
                network_parameters::write(name, value).expect(name);
            }
        });
        let kept = changed(&own, &parameters_after(|| ()));
        let back = parameters_after(|| assert!(set_in_order(&kept).is_empty(), "none is refused"));
        let differ: Vec<_> = own.iter().filter(|(name, value)| back.get(*name) != Some(value)).collect();
        assert!(differ.is_empty(), "{differ:?}");
    }
}
