// SPDX-License-Identifier: Apache-2.0
//! Interfaces (rtnetlink(7), `linux/if_link.h`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::Netlink;
use super::message::{CREATE, Message, Request, attributes, text_of, u32_at, u64_at};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;

/// Attributes of an interface.
const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const MASTER: u16 = 10;
const PROTOCOL: u16 = 12;
const QUEUE_LENGTH: u16 = 13;
const INFO: u16 = 18;
const STATISTICS: u16 = 23;
const NAMESPACE: u16 = 28;
const LINK_NAMESPACE: u16 = 37;
const NEW_INDEX: u16 = 49;
/// Within `INFO`.
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_PORT_KIND: u16 = 4;
const INFO_PORT_DATA: u16 = 5;
/// Within the data of a veth.
const VETH_PEER: u16 = 1;
/// Within the data of a bridge's port.
const PORT_HAIRPIN: u16 = 4;

/// The size of `struct ifinfomsg`.
const FIXED: usize = 16;

/// What the kernel says of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `veth`, `bridge`, `macvlan` and so on; empty for hardware.
    pub kind: String,
    /// `IFF_` flags (netdevice(7)).
    pub flags: u32,
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// How many packets may wait to be sent.
    pub queue_length: u32,
    /// Its hardware address, if it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// The number of the bridge or bond that it belongs to.
    pub master: Option<u32>,
    /// For a port of a bridge: whether packets may go back where they came from.
    pub hairpin: bool,
    /// Whether its other end, or what it stands on, is in another network namespace.
    pub reaches_out: bool,
    /// What has gone through it.
    pub statistics: LinkStatistics,
}

/// What has gone through an interface, from its own side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LinkStatistics {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Bad packets received.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets received and dropped.
    pub rx_dropped: u64,
    /// Packets dropped instead of being sent.
    pub tx_dropped: u64,
}

/// Where an interface goes, and under which name.
#[derive(Debug, Clone, Copy)]
pub struct Move<'a> {
    /// Its name there.
    pub name: &'a str,
    /// The network namespace.
    pub namespace: BorrowedFd<'a>,
    /// Its number there (Linux 5.10); the kernel's choice without one.
    pub index: Option<u32>,
}

/// A pair of interfaces to make, one in this namespace and one in another.
#[derive(Debug, Clone, Copy)]
pub struct Veth<'a> {
    /// The name here.
    pub name: &'a str,
    /// The number here; the kernel's choice without one.
    pub index: Option<u32>,
    /// The hardware address here; the kernel's choice without one.
    pub mac: Option<[u8; 6]>,
    /// The name there.
    pub peer: &'a str,
    /// The other network namespace.
    pub peer_namespace: BorrowedFd<'a>,
    /// The hardware address there; the kernel's choice without one.
    pub peer_mac: Option<[u8; 6]>,
    /// The largest packet on both, in bytes.
    pub mtu: Option<u32>,
    /// How many packets may wait to be sent on each.
    pub queue_length: Option<u32>,
}

impl<'a> Veth<'a> {
    /// A pair as the kernel makes it.
    pub fn plain(name: &'a str, peer: &'a str, peer_namespace: BorrowedFd<'a>) -> Self {
        Self {
            name,
            index: None,
            mac: None,
            peer,
            peer_namespace,
            peer_mac: None,
            mtu: None,
            queue_length: None,
        }
    }
}

impl Link {
    /// Whether it is switched on.
    pub fn is_up(&self) -> bool {
        self.flags & libc::IFF_UP as u32 != 0
    }

    /// Whether it is the one that every namespace has, under its usual name.
    pub fn is_loopback(&self) -> bool {
        self.flags & libc::IFF_LOOPBACK as u32 != 0 && self.name == "lo"
    }

    fn read(message: &Message<'_>) -> Option<Self> {
        let body = message.body;
        if message.kind != NEWLINK {
            return None;
        }
        let mut link = Self {
            index: u32_at(body, 4)?,
            name: String::new(),
            kind: String::new(),
            flags: u32_at(body, 8)?,
            mtu: 0,
            queue_length: 0,
            mac: None,
            master: None,
            hairpin: false,
            reaches_out: false,
            statistics: LinkStatistics::default(),
        };
        for (kind, value) in attributes(body, FIXED) {
            match kind {
                NAME => link.name = text_of(value),
                MTU => link.mtu = u32_at(value, 0).unwrap_or_default(),
                QUEUE_LENGTH => link.queue_length = u32_at(value, 0).unwrap_or_default(),
                ADDRESS => link.mac = value.try_into().ok(),
                MASTER => link.master = u32_at(value, 0),
                INFO => link.read_info(value),
                LINK_NAMESPACE => link.reaches_out = true,
                STATISTICS => link.statistics = LinkStatistics::read(value),
                _ => {}
            }
        }
        Some(link)
    }

    fn read_info(&mut self, info: &[u8]) {
        let mut of_bridge = false;
        for (kind, value) in attributes(info, 0) {
            match kind {
                INFO_KIND => self.kind = text_of(value),
                INFO_PORT_KIND => of_bridge = text_of(value) == "bridge",
                INFO_PORT_DATA if of_bridge => {
                    self.hairpin = attributes(value, 0).any(|(kind, on)| kind == PORT_HAIRPIN && on == [1]);
                }
                _ => {}
            }
        }
    }
}

impl LinkStatistics {
    fn read(value: &[u8]) -> Self {
        let at = |index: usize| u64_at(value, index * 8).unwrap_or_default();
        Self {
            rx_packets: at(0),
            tx_packets: at(1),
            rx_bytes: at(2),
            tx_bytes: at(3),
            rx_errors: at(4),
            tx_errors: at(5),
            rx_dropped: at(6),
            tx_dropped: at(7),
        }
    }
}

/// `struct ifinfomsg` for this interface; `mask` says which of the flags count.
fn fixed(family: u8, index: u32, flags: u32, mask: u32) -> [u8; FIXED] {
    let mut bytes = [0; FIXED];
    bytes[0] = family;
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&mask.to_ne_bytes());
    bytes
}

const ANY: u8 = libc::AF_UNSPEC as u8;

impl Netlink {
    /// The interface of this name, if there is one.
    ///
    /// # Errors
    /// The kernel's number; that there is none is no error.
    pub fn link(&self, name: &str) -> io::Result<Option<Link>> {
        let mut request = Request::new(GETLINK, 0, &fixed(ANY, 0, 0, 0));
        request.text(NAME, name);
        match self.ask(request, Link::read) {
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            other => other,
        }
    }

    /// All interfaces.
    ///
    /// # Errors
    /// The kernel's number.
    pub fn links(&self) -> io::Result<Vec<Link>> {
        self.list(&Request::new(GETLINK, 0, &fixed(ANY, 0, 0, 0)), Link::read)
    }

    /// Gives an interface these settings of another one: the largest packet, the length of its queue, and, where it
    /// has one, its hardware address.
    ///
    /// # Errors
    /// The kernel's number.
    pub fn configure(&self, index: u32, mtu: u32, queue_length: u32, mac: Option<[u8; 6]>) -> io::Result<()> {
        let mut request = Request::new(NEWLINK, 0, &fixed(ANY, index, 0, 0));
        request.number(MTU, mtu).number(QUEUE_LENGTH, queue_length);
        if let Some(mac) = mac {
            request.attribute(ADDRESS, &mac);
        }
        self.execute(request)
    }

    /// Switches an interface on.
    ///
    /// # Errors
    /// The kernel's number.
    pub fn set_up(&self, index: u32) -> io::Result<()> {
        let up = libc::IFF_UP as u32;
        self.execute(Request::new(NEWLINK, 0, &fixed(ANY, index, up, up)))
    }

    /// Switches an interface off.
    ///
    /// # Errors
    /// The kernel's number.
    pub fn set_down(&self, index: u32) -> io::Result<()> {
        self.execute(Request::new(NEWLINK, 0, &fixed(ANY, index, 0, libc::IFF_UP as u32)))
    }

    /// Moves an interface into another namespace and renames it, both or neither. Its addresses are gone then, and it
    /// is off.
    ///
    /// # Errors
    /// The kernel's number: `EEXIST` when the name is taken there, `EINVAL` for one that may not leave.
    pub fn move_link(&self, index: u32, to: &Move<'_>) -> io::Result<()> {
        let mut request = Request::new(NEWLINK, 0, &fixed(ANY, index, 0, 0));
        request.text(NAME, to.name).attribute(NAMESPACE, &to.namespace.as_raw_fd().to_ne_bytes());
        if let Some(index) = to.index {
            request.number(NEW_INDEX, index);
        }
        self.execute(request)
    }

    /// Makes a pair of interfaces, both off.
    ///
    /// # Errors
    /// The kernel's number: `EEXIST` when one of the names is taken.
    pub fn make_veth(&self, veth: &Veth<'_>) -> io::Result<()> {
        let both = |request: &mut Request| {
            if let Some(mtu) = veth.mtu {
                request.number(MTU, mtu);
            }
            if let Some(length) = veth.queue_length {
                request.number(QUEUE_LENGTH, length);
            }
        };
        let mut request = Request::new(NEWLINK, CREATE, &fixed(ANY, veth.index.unwrap_or(0), 0, 0));
        request.text(NAME, veth.name);
        if let Some(mac) = veth.mac {
            request.attribute(ADDRESS, &mac);
        }
        both(&mut request);
        request.marked(INFO, |info| {
            info.text(INFO_KIND, "veth").marked(INFO_DATA, |data| {
                data.nested(VETH_PEER, &fixed(ANY, 0, 0, 0), |peer| {
                    peer.text(NAME, veth.peer);
                    peer.attribute(NAMESPACE, &veth.peer_namespace.as_raw_fd().to_ne_bytes());
                    if let Some(mac) = veth.peer_mac {
                        peer.attribute(ADDRESS, &mac);
                    }
                    both(peer);
                });
            });
        });
        self.execute(request)
    }

    /// Makes a bridge, which is off.
    ///
    /// # Errors
    /// The kernel's number.
    pub fn make_bridge(&self, name: &str) -> io::Result<()> {
        let mut request = Request::new(NEWLINK, CREATE, &fixed(ANY, 0, 0, 0));
        request.text(NAME, name).marked(INFO, |info| {
            info.text(INFO_KIND, "bridge");
        });
        self.execute(request)
    }

    /// Makes an interface a port of a bridge or a part of a bond.
    ///
    /// # Errors
    /// The kernel's number.
    pub fn set_master(&self, index: u32, master: u32) -> io::Result<()> {
        let mut request = Request::new(NEWLINK, 0, &fixed(ANY, index, 0, 0));
        request.number(MASTER, master);
        self.execute(request)
    }

    /// Lets packets of a bridge's port go back where they came from.
    ///
    /// # Errors
    /// The kernel's number.
    pub fn set_hairpin(&self, index: u32) -> io::Result<()> {
        let mut request = Request::new(SETLINK, 0, &fixed(libc::AF_BRIDGE as u8, index, 0, 0));
        request.marked(PROTOCOL, |port| {
            port.attribute(PORT_HAIRPIN, &[1]);
        });
        self.execute(request)
    }

    /// Removes an interface, with its peer if it is one of a pair.
    ///
    /// # Errors
    /// The kernel's number.
    pub fn remove(&self, index: u32) -> io::Result<()> {
        self.execute(Request::new(DELLINK, 0, &fixed(ANY, index, 0, 0)))
    }
}
