// SPDX-License-Identifier: Apache-2.0
//! Networks as a caller of the library asks for them: data, in libcontainer's form, and its judgement. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::spec::is_interface_name;
use crate::{Error, ErrorKind, Result};

/// A network that a container gets besides what its configuration says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Network {
    /// `lo`, switched on. A new network namespace has it anyway; one that is joined may not.
    Loopback,
    /// A pair of interfaces, one on the host and one in the container.
    Veth(VethNetwork),
}

/// A pair of interfaces, one on the host and one in the container. Made by [`VethNetwork::new`]; all else is optional.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct VethNetwork {
    /// The name in the container, as `eth0`.
    pub name: String,
    /// The name on the host. Without one it is made from the container's id, and is in
    /// [`NetworkState::host_ends`](super::NetworkState::host_ends).
    pub host_interface_name: Option<String>,
    /// The bridge on the host that the host's end becomes a port of. It must exist.
    pub bridge: Option<String>,
    /// The hardware address in the container: six bytes in hexadecimal, with colons.
    pub mac_address: Option<String>,
    /// The IPv4 address in the container, and its network.
    pub address: Option<Cidr>,
    /// Who leads out of that network: the container's default route.
    pub gateway: Option<Ipv4Addr>,
    /// The IPv6 address in the container, and its network.
    pub ipv6_address: Option<Cidr>,
    /// The default route for IPv6.
    pub ipv6_gateway: Option<Ipv6Addr>,
    /// The largest packet, in bytes, on both ends.
    pub mtu: Option<u32>,
    /// How many packets may wait to be sent, on both ends.
    pub txqueuelen: Option<u32>,
    /// Whether the bridge sends packets back to the port that they came from.
    #[serde(rename = "hairpin_mode")]
    pub hairpin: bool,
}

impl VethNetwork {
    /// A pair whose end in the container has this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// The bytes of the hardware address, if one is asked for.
    pub(super) fn mac(&self) -> Result<Option<[u8; 6]>> {
        let Some(text) = self.mac_address.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
        let bytes: Vec<u8> = text
            .split(':')
            .map(|part| if part.len() == 2 { u8::from_str_radix(part, 16).ok() } else { None })
            .collect::<Option<_>>()
            .unwrap_or_default();
        <[u8; 6]>::try_from(bytes).map(Some).map_err(|_| {
            invalid(&self.name, &format!("mac_address {text:?} is not six hexadecimal bytes with colons"))
        })
    }

    fn check(&self) -> Result<()> {
        if !is_interface_name(&self.name) || self.name == "lo" {
            return Err(invalid(&self.name, "name is not one for an interface in a container"));
        }
        for (field, name) in [("host_interface_name", &self.host_interface_name), ("bridge", &self.bridge)] {
            if let Some(name) = name.as_deref().filter(|name| !is_interface_name(name)) {
                return Err(invalid(
                    &self.name,
                    &format!("{field} {name:?} is not the name of an interface"),
                ));
            }
        }
        self.mac()?;
        if self.address.is_some_and(|a| !a.address.is_ipv4()) {
            return Err(invalid(&self.name, "address is not one of IPv4"));
        }
        if self.ipv6_address.is_some_and(|a| !a.address.is_ipv6()) {
            return Err(invalid(&self.name, "ipv6_address is not one of IPv6"));
        }
        if self.hairpin && self.bridge.is_none() {
            return Err(invalid(&self.name, "hairpin_mode needs a bridge"));
        }
        Ok(())
    }
}

/// A route that a container gets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct NetworkRoute {
    /// Where it leads; everywhere without one.
    pub destination: Option<Cidr>,
    /// The address to send from.
    pub source: Option<IpAddr>,
    /// Who passes the packets on.
    pub gateway: Option<IpAddr>,
    /// The interface in the container.
    pub interface_name: Option<String>,
}

impl NetworkRoute {
    /// A route to this network by way of this gateway.
    pub fn new(destination: Cidr, gateway: IpAddr) -> Self {
        Self { destination: Some(destination), gateway: Some(gateway), ..Self::default() }
    }

    fn check(&self, number: usize) -> Result<()> {
        let fail = |rule: &str| Err(Error::new(ErrorKind::InvalidInput, format!("route {number}: {rule}")));
        if self.gateway.is_none() && self.interface_name.is_none() {
            return fail("it has neither a gateway nor an interface_name");
        }
        let families = [self.destination.map(|d| d.address), self.source, self.gateway];
        let mut families = families.iter().flatten().map(IpAddr::is_ipv4);
        let first = families.next();
        if families.any(|other| Some(other) != first) {
            return fail("its addresses are of IPv4 and of IPv6");
        }
        Ok(())
    }
}

/// An address and how many of its bits name the network: `10.0.0.2/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// The bits.
    pub prefix: u8,
}

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let (address, prefix): (IpAddr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
            (prefix <= if address.is_ipv4() { 32 } else { 128 }).then_some(Self { address, prefix })
        };
        parse().ok_or_else(|| {
            let message =
                format!("{text:?} is not an address with the length of its network, as 10.0.0.2/24");
            Error::new(ErrorKind::InvalidInput, message)
        })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Serialize for Cidr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Judges all that a container is to get.
pub(super) fn check(networks: &[Network], routes: &[NetworkRoute]) -> Result<()> {
    let mut names = Vec::new();
    for network in networks {
        let Network::Veth(veth) = network else { continue };
        veth.check()?;
        if names.contains(&&veth.name) {
            return Err(invalid(&veth.name, "name is that of an earlier network too"));
        }
        names.push(&veth.name);
    }
    routes.iter().enumerate().try_for_each(|(number, route)| route.check(number))
}

fn invalid(name: &str, rule: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("network {name:?}: its {rule}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_libcontainers() {
        let json = concat!(
            r#"[{"type":"loopback"},{"type":"veth","name":"eth0","bridge":"br0","mac_address":"02:42:ac:11:00:02","#,
            r#""address":"172.17.0.2/16","gateway":"172.17.42.1","ipv6_address":"fd00::2/64","ipv6_gateway":"fd00::1","#,
            r#""mtu":1500,"txqueuelen":100,"host_interface_name":"veth101","hairpin_mode":true}]"#
        );
        let networks: Vec<Network> = serde_json::from_str(json).expect("it parses");
        check(&networks, &[]).expect("valid");
        let [Network::Loopback, Network::Veth(veth)] = &networks[..] else { panic!("{networks:?}") };
        assert_eq!(veth.mac().expect("valid"), Some([0x02, 0x42, 0xac, 0x11, 0, 2]));
        assert_eq!(veth.address.expect("there").to_string(), "172.17.0.2/16");
        let back = serde_json::to_string(&networks).expect("it serialises");
        assert_eq!(serde_json::from_str::<Vec<Network>>(&back).expect("it parses"), networks);
    }

    #[test]
    fn what_cannot_be_is_named() {
        type Change = fn(&mut VethNetwork);
        let veth = |change: Change| {
            let mut veth = VethNetwork::new("eth0");
            change(&mut veth);
            check(&[Network::Veth(veth)], &[]).map_err(|e| e.to_string())
        };
        let cidr = |text: &str| text.parse::<Cidr>().expect("a network");
        assert_eq!(veth(|_| {}), Ok(()));
        let table: [(Change, &str); 7] = [
            (|v| v.name = "a b".into(), "name"),
            (|v| v.name = "lo".into(), "name"),
            (|v| v.bridge = Some(String::new()), "bridge"),
            (|v| v.mac_address = Some("02:42:ac".into()), "mac_address"),
            (|v| v.address = "fd00::1/64".parse().ok(), "address"),
            (|v| v.ipv6_address = "10.0.0.1/8".parse().ok(), "ipv6_address"),
            (|v| v.hairpin = true, "hairpin_mode"),
        ];
        for (change, field) in table {
            let error = veth(change).expect_err(field);
            assert!(error.contains(field), "{error} should name {field}");
        }
        let twice = [Network::Veth(VethNetwork::new("a")), Network::Veth(VethNetwork::new("a"))];
        check(&twice, &[]).expect_err("one name, two interfaces");
        check(&[], &[NetworkRoute::default()]).expect_err("it leads nowhere");
        check(&[], &[NetworkRoute::new(cidr("10.0.0.0/8"), "fd00::1".parse().expect("an address"))])
            .expect_err("two families");
        for bad in ["10.0.0.1", "10.0.0.1/33", "x/8", "fd00::/129", "10.0.0.1/-1"] {
            bad.parse::<Cidr>().expect_err(bad);
        }
    }
}
