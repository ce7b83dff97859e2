// SPDX-License-Identifier: Apache-2.0
//! Pairs of interfaces between the host and a container.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use super::config::{Cidr, Network, VethNetwork};
use super::{HostEnd, NetworkState};
use crate::sys::netlink::{Address, Netlink, Route, Veth};
use crate::{Context, Error, ErrorKind, Result};

/// Gives the host's end of each pair its name: the caller's, or one that depends on the container alone.
pub(in crate::engine) fn name_host_ends(state: &mut NetworkState, container: &str) {
    let veths = state.networks.iter().filter_map(|network| match network {
        Network::Veth(veth) => Some(veth),
        Network::Loopback => None,
    });
    state.host_ends = veths
        .map(|veth| {
            let made = || format!("veth{:08x}", hash(&format!("{container}/{}", veth.name)));
            HostEnd { name: veth.host_interface_name.clone().unwrap_or_else(made), index: None }
        })
        .collect();
}

/// Fowler–Noll–Vo, folded to 32 bits.
fn hash(text: &str) -> u32 {
    let wide = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    (wide >> 32) as u32 ^ wide as u32
}

/// Makes the pairs of all networks; what there is of them is in `made` and written down, whatever happens.
pub(super) fn make_all(
    here: &Netlink,
    there: &Netlink,
    namespace: BorrowedFd<'_>,
    state: &mut NetworkState,
    made: &mut Vec<HostEnd>,
    save: impl Fn(&NetworkState) -> Result<()>,
) -> Result<()> {
    let networks = state.networks.clone();
    let veths = networks.iter().filter_map(|network| match network {
        Network::Veth(veth) => Some(veth),
        Network::Loopback => None,
    });
    for end in &state.host_ends {
        require_free(here, &end.name)?;
    }
    if !state.host_ends.is_empty() {
        // Whoever removes this container finds them, also when this process is killed in between.
        save(state)?;
    }
    for (i, veth) in veths.enumerate() {
        let end = &mut state.host_ends[i];
        make(here, veth, &end.name, namespace, None)?;
        made.push(end.clone());
        let link = find(here, &end.name)?;
        end.index = Some(link);
        made.last_mut().expect("it was pushed").index = end.index;
        connect(here, there, veth, link).context(|| format!("set up network {}", veth.name))?;
        save(state)?;
    }
    Ok(())
}

/// Refuses a name that the host has given already.
pub(super) fn require_free(here: &Netlink, name: &str) -> Result<()> {
    if here.link(name).context(|| format!("look for interface {name}"))?.is_some() {
        let message = format!("the host has an interface {name} already");
        return Err(Error::new(ErrorKind::AlreadyExists, message));
    }
    Ok(())
}

/// Makes a pair. Of one that was there before, the container's end gets its old number, where that is free, and its old
/// hardware address.
pub(super) fn make(
    here: &Netlink,
    veth: &VethNetwork,
    name: &str,
    namespace: BorrowedFd<'_>,
    earlier: Option<(u32, Option<[u8; 6]>)>,
) -> Result<()> {
    let context = || format!("make the interfaces {name} on the host and {} in the container", veth.name);
    let Some((index, mac)) = earlier else {
        let pair = Veth {
            peer_mac: veth.mac()?,
            mtu: veth.mtu,
            queue_length: veth.txqueuelen,
            ..Veth::plain(name, &veth.name, namespace)
        };
        return here.make_veth(&pair).context(context);
    };
    // The kernel takes a number only for the end that is made where it is asked.
    let make_there = || {
        let own = File::open("/proc/thread-self/ns/net")?;
        let there = Netlink::in_namespace(&namespace)?;
        let taken = there.links()?.iter().any(|link| link.index == index);
        there.make_veth(&Veth {
            index: (!taken).then_some(index),
            mac,
            mtu: veth.mtu,
            queue_length: veth.txqueuelen,
            ..Veth::plain(&veth.name, name, own.as_fd())
        })
    };
    make_there().map_err(|e: io::Error| e).context(context)
}

/// Everything but the pair itself. The kernel refuses a route by way of a gateway until there is a way to the gateway.
fn connect(here: &Netlink, there: &Netlink, veth: &VethNetwork, host: u32) -> Result<()> {
    connect_host(here, veth, host)?;
    let inside = find(there, &veth.name)?;
    for Cidr { address, prefix } in [veth.address, veth.ipv6_address].into_iter().flatten() {
        // The engine's caller hands addresses out: to ask around for a second would only keep the program waiting.
        let global = Address { unchecked: address.is_ipv6(), ..Address::global(address, prefix) };
        there.add_address(inside, &global).context(|| format!("give it the address {address}/{prefix}"))?;
    }
    there.set_up(inside).context(|| "set the container's end up")?;
    let gateways = [veth.gateway.map(IpAddr::V4), veth.ipv6_gateway.map(IpAddr::V6)];
    for gateway in gateways.into_iter().flatten() {
        let route = Route { destination: None, gateway: Some(gateway), source: None, link: Some(inside) };
        there.add_route(&route).context(|| format!("make {gateway} the gateway"))?;
    }
    Ok(())
}

/// The host's end: a port of its bridge, and up.
pub(super) fn connect_host(here: &Netlink, veth: &VethNetwork, host: u32) -> Result<()> {
    if let Some(bridge) = &veth.bridge {
        let master = find(here, bridge)?;
        here.set_master(host, master).context(|| format!("make it a port of bridge {bridge}"))?;
        if veth.hairpin {
            here.set_hairpin(host).context(|| format!("set hairpin mode on bridge {bridge}"))?;
        }
    }
    here.set_up(host).context(|| "set the host's end up")
}

/// Adds the routes.
pub(super) fn add_routes(there: &Netlink, state: &NetworkState) -> Result<()> {
    for (i, route) in state.routes.iter().enumerate() {
        let link = route.interface_name.as_deref().map(|name| find(there, name)).transpose();
        let add = |link| {
            let route = Route {
                destination: route.destination.map(|d| (d.address, d.prefix)),
                gateway: route.gateway,
                source: route.source,
                link,
            };
            there.add_route(&route).context(|| "add it")
        };
        link.and_then(add).context(|| format!("set up route {i} of the container"))?;
    }
    Ok(())
}

/// Removes the host's end of a pair, and the pair with it, unless somebody else's has the name by now.
pub(super) fn remove(here: &Netlink, end: &HostEnd) -> Result<()> {
    let context = || format!("remove interface {}", end.name);
    let Some(link) = here.link(&end.name).context(context)? else { return Ok(()) };
    if link.kind != "veth" || end.index.is_some_and(|index| index != link.index) {
        return Ok(());
    }
    match here.remove(link.index) {
        // The kernel removes it too when the container's namespace ends.
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        removed => removed.context(context),
    }
}

pub(super) fn find(netlink: &Netlink, name: &str) -> Result<u32> {
    let found = netlink.link(name).context(|| format!("look for interface {name}"))?;
    found
        .map(|link| link.index)
        .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no interface {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_without_a_name_gets_one_that_only_its_container_has() {
        let names = |container: &str| {
            let mut named = VethNetwork::new("eth1");
            named.host_interface_name = Some("mine0".to_owned());
            let networks =
                vec![Network::Loopback, Network::Veth(VethNetwork::new("eth0")), Network::Veth(named)];
            let mut state = NetworkState { networks, ..NetworkState::default() };
            name_host_ends(&mut state, container);
            state.host_ends.into_iter().map(|end| end.name).collect::<Vec<_>>()
        };
        let web = names("web");
        assert_eq!((web.len(), web[1].as_str()), (2, "mine0"));
        assert!(crate::spec::is_interface_name(&web[0]), "{}", web[0]);
        assert_eq!(web, names("web"));
        assert_ne!(web[0], names("web2")[0]);
    }
}
