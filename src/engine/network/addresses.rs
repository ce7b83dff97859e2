// SPDX-License-Identifier: Apache-2.0
//! The addresses of a running container, for those who only want to know them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use nix::sched::CloneFlags;

use super::Network;
use super::survey::namespace_of;
use crate::engine::{Container, InitProcess, Namespaces};
use crate::spec::Config;
use crate::sys::netlink::Netlink;
use crate::{Context, Result};

/// An interface of a container that has addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddressedInterface {
    /// Its name in the container.
    pub name: String,
    /// Its hardware address, if it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// Its addresses that are valid everywhere, with the bits that name the network.
    pub addresses: Vec<(std::net::IpAddr, u8)>,
    /// The bridge on the host that it is connected with, if the engine has made it.
    pub bridge: Option<String>,
    /// Who leads out of its networks, as far as the engine was told.
    pub gateways: Vec<std::net::IpAddr>,
}

impl Container {
    /// The interfaces that have addresses, in a network namespace that is not the caller's own.
    ///
    /// # Errors
    /// When they cannot be looked at.
    pub fn addressed_interfaces(
        &self,
        config: &Config,
        init: InitProcess,
    ) -> Result<Vec<AddressedInterface>> {
        let context = || format!("look at the addresses of process {}", init.pid);
        let namespaces = Namespaces::from_spec(&config.spec);
        let namespace = namespace_of(init)?;
        let inode = |found: fs::Metadata| (found.dev(), found.ino());
        let of_caller = fs::metadata("/proc/thread-self/ns/net").map(inode).context(context)?;
        let of_container = namespace.metadata().map(inode).context(context)?;
        if !namespaces.creates(CloneFlags::CLONE_NEWNET) && of_caller == of_container {
            return Ok(Vec::new());
        }
        let netlink = Netlink::in_namespace(&namespace).context(context)?;
        let mut found = Vec::new();
        for link in netlink.links().context(context)? {
            let addresses = netlink.addresses(link.index).context(context)?;
            let addresses: Vec<_> = addresses
                .iter()
                .filter(|address| address.is_global())
                .map(|address| (address.local, address.prefix))
                .collect();
            if link.name == "lo" || addresses.is_empty() {
                continue;
            }
            let made = self.state().network.networks.iter().find_map(|network| match network {
                Network::Veth(veth) if veth.name == link.name => Some(veth),
                _ => None,
            });
            let gateways = made.map(|veth| [veth.gateway.map(Into::into), veth.ipv6_gateway.map(Into::into)]);
            found.push(AddressedInterface {
                name: link.name,
                mac: link.mac,
                addresses,
                bridge: made.and_then(|veth| veth.bridge.clone()),
                gateways: gateways.into_iter().flatten().flatten().collect(),
            });
        }
        Ok(found)
    }
}
