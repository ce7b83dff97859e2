// SPDX-License-Identifier: Apache-2.0
//! Addresses of interfaces, and routes (rtnetlink(7), `linux/if_addr.h`, `linux/rtnetlink.h`).

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use super::Netlink;
use super::message::{CREATE, Message, Request, attributes, u32_at};

const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;

/// Attributes of an address.
const PEER: u16 = 1;
const LOCAL: u16 = 2;
const BROADCAST: u16 = 4;
const TIMES: u16 = 6;
const FLAGS: u16 = 8;
const PERMANENT: u32 = 0x80;
const UNCHECKED: u32 = 0x02;
/// The sizes of `struct ifaddrmsg` and `struct rtmsg`.
const FIXED: usize = 8;
const FIXED_ROUTE: usize = 12;

/// Attributes of a route.
const DESTINATION: u16 = 1;
const OUTPUT: u16 = 4;
const GATEWAY: u16 = 5;
const SOURCE: u16 = 7;

/// `RT_SCOPE_`: everywhere, on this link.
const GLOBAL: u8 = 0;
const LINK: u8 = 253;
/// The table that everybody means, who put a route there, and that it leads somewhere.
const MAIN: u8 = 254;
const BOOT: u8 = 3;
const UNICAST: u8 = 1;

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Address {
    /// The address itself.
    pub local: IpAddr,
    /// Who is at the other end, where that is one address.
    pub peer: Option<IpAddr>,
    /// How many bits name the network.
    pub prefix: u8,
    /// The address that reaches all.
    pub broadcast: Option<Ipv4Addr>,
    /// How far it is valid (`RT_SCOPE_`).
    pub scope: u8,
    /// Whether somebody has set it; otherwise it ends by itself.
    pub permanent: bool,
    /// For one that ends by itself: the seconds until it is not preferred any more, and until it ends.
    pub lifetime: Option<(u32, u32)>,
    /// Whether it can be used at once: nobody was asked whether he has it already (IPv6).
    pub unchecked: bool,
}

impl Address {
    /// An address for everywhere, with the usual broadcast address.
    pub fn global(local: IpAddr, prefix: u8) -> Self {
        let broadcast = match local {
            IpAddr::V4(address) if prefix < 31 => {
                Some(Ipv4Addr::from(u32::from(address) | (u32::MAX >> prefix.min(31))))
            }
            _ => None,
        };
        Self {
            local,
            peer: None,
            prefix,
            broadcast,
            scope: GLOBAL,
            permanent: true,
            lifetime: None,
            unchecked: false,
        }
    }

    /// Whether it is valid everywhere.
    pub fn is_global(&self) -> bool {
        self.scope == GLOBAL
    }

    fn read(message: &Message<'_>, index: u32) -> Option<Self> {
        let body = message.body;
        if message.kind != NEWADDR || u32_at(body, 4) != Some(index) {
            return None;
        }
        let (mut local, mut peer, mut broadcast, mut lifetime) = (None, None, None, None);
        let mut flags = u32::from(*body.get(2)?);
        for (kind, value) in attributes(body, FIXED) {
            match kind {
                LOCAL => local = ip(value),
                PEER => peer = ip(value),
                BROADCAST => broadcast = <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from),
                TIMES => lifetime = u32_at(value, 0).zip(u32_at(value, 4)),
                FLAGS => flags = u32_at(value, 0).unwrap_or(flags),
                _ => {}
            }
        }
        let local_or_peer = local.or(peer)?;
        Some(Self {
            local: local_or_peer,
            peer: peer.filter(|peer| *peer != local_or_peer),
            prefix: *body.get(1)?,
            broadcast,
            scope: *body.get(3)?,
            permanent: flags & PERMANENT != 0,
            lifetime: lifetime.filter(|_| flags & PERMANENT == 0),
            unchecked: flags & UNCHECKED != 0,
        })
    }
}

/// A way for packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where it leads, and how many bits of that count; everywhere without one.
    pub destination: Option<(IpAddr, u8)>,
    /// Who passes the packets on.
    pub gateway: Option<IpAddr>,
    /// The address to send from.
    pub source: Option<IpAddr>,
    /// The number of the interface.
    pub link: Option<u32>,
}

pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let four = || <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    four().or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn family(address: IpAddr) -> u8 {
    (if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

impl Netlink {
    /// The addresses of an interface.
    ///
    /// # Errors
    /// The kernel's number.
    pub fn addresses(&self, index: u32) -> io::Result<Vec<Address>> {
        let request = Request::new(GETADDR, 0, &[0; FIXED]);
        self.list(&request, |message| Address::read(message, index))
    }

    /// Gives an interface an address.
    ///
    /// # Errors
    /// The kernel's number: `EEXIST` when it has it.
    pub fn add_address(&self, index: u32, address: &Address) -> io::Result<()> {
        let mut fixed = [0; FIXED];
        fixed[..4].copy_from_slice(&[family(address.local), address.prefix, 0, address.scope]);
        fixed[4..].copy_from_slice(&index.to_ne_bytes());
        let mut request = Request::new(NEWADDR, CREATE, &fixed);
        request.attribute(LOCAL, &octets(address.local));
        request.attribute(PEER, &octets(address.peer.unwrap_or(address.local)));
        if let Some(broadcast) = address.broadcast {
            request.attribute(BROADCAST, &broadcast.octets());
        }
        if let Some((preferred, valid)) = address.lifetime {
            let times = [preferred, valid, 0, 0].map(u32::to_ne_bytes).concat();
            request.attribute(TIMES, &times);
        }
        if address.unchecked {
            request.number(FLAGS, UNCHECKED);
        }
        self.execute(request)
    }

    /// Adds a route. One without any address is IPv4's.
    ///
    /// # Errors
    /// The kernel's number: `EEXIST` when it is there, `ENETUNREACH` when the gateway is on no network of an interface
    /// that is on.
    pub fn add_route(&self, route: &Route) -> io::Result<()> {
        let known = route.gateway.or(route.destination.map(|(address, _)| address)).or(route.source);
        let scope = if route.gateway.is_some() || known.is_some_and(|a| a.is_ipv6()) { GLOBAL } else { LINK };
        let mut fixed = [0; FIXED_ROUTE];
        fixed[0] = known.map_or(libc::AF_INET as u8, family);
        fixed[1] = route.destination.map_or(0, |(_, prefix)| prefix);
        fixed[4..8].copy_from_slice(&[MAIN, BOOT, scope, UNICAST]);
        let mut request = Request::new(NEWROUTE, CREATE, &fixed);
        let mut address = |kind: u16, address: Option<IpAddr>| {
            if let Some(address) = address {
                request.attribute(kind, &octets(address));
            }
        };
        address(DESTINATION, route.destination.map(|(address, _)| address));
        address(GATEWAY, route.gateway);
        address(SOURCE, route.source);
        if let Some(link) = route.link {
            request.number(OUTPUT, link);
        }
        self.execute(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_broadcast_address_is_the_last_of_the_network() {
        let of =
            |address: &str, prefix| Address::global(address.parse().expect("an address"), prefix).broadcast;
        assert_eq!(of("10.1.2.3", 24), Some(Ipv4Addr::new(10, 1, 2, 255)));
        assert_eq!(of("10.1.2.3", 0), Some(Ipv4Addr::BROADCAST));
        assert_eq!(of("10.1.2.3", 31), None);
        assert_eq!(of("fd00::1", 64), None);
    }
}
