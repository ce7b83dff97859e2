// SPDX-License-Identifier: Apache-2.0
//! Sockets in the image of open files, in the words of socket(2) and of the kernel's headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::proto::criu_images::{InetSkEntry, NetlinkSkEntry, PacketSkEntry, UnixSkEntry};
use super::socket_words;

/// A socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// `inet`, `inet6`, `unix`, `netlink`, `packet`.
    pub family: &'static str,
    /// `stream`, `dgram`, `seqpacket`, `raw`.
    pub kind: &'static str,
    /// `tcp`, `udp` …; of a netlink or packet socket the protocol's number.
    pub protocol: String,
    /// `listen`, `established`, `close` …
    pub state: &'static str,
    /// Its inode on the source.
    pub inode: u32,
    /// What it is bound to.
    pub local: Option<Address>,
    /// What it is connected to.
    pub remote: Option<Address>,
    /// Of a unix socket: its peer's inode, unless that is 0.
    pub peer: Option<u32>,
}

/// Where a socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An address and a port.
    Internet(SocketAddr),
    /// A path.
    Path(Vec<u8>),
    /// An abstract name, without the zero byte before it.
    Abstract(Vec<u8>),
    /// A port of netlink.
    Port(u32),
}

fn kind(number: Option<u32>) -> &'static str {
    socket_words::kind(number.unwrap_or(0))
}

fn state(number: Option<u32>) -> &'static str {
    socket_words::state(number.unwrap_or(0))
}

impl Socket {
    pub(super) fn inet(entry: &InetSkEntry) -> Self {
        let is_v6 = entry.family == Some(10);
        let address = |words: &[u32], port: Option<u32>| internet(words, is_v6, port).map(Address::Internet);
        Self {
            family: if is_v6 { "inet6" } else { "inet" },
            kind: kind(entry.type_),
            protocol: socket_words::protocol(entry.proto.unwrap_or(0)),
            state: state(entry.state),
            inode: entry.ino.unwrap_or(0),
            local: address(&entry.src_addr, entry.src_port),
            remote: address(&entry.dst_addr, entry.dst_port).filter(is_somewhere),
            peer: None,
        }
    }

    pub(super) fn unix(entry: &UnixSkEntry) -> Self {
        let local = match entry.name.as_deref() {
            None | Some([]) => None,
            Some([0, name @ ..]) => Some(Address::Abstract(name.to_vec())),
            Some(name) => Some(Address::Path(path(name, entry.name_dir.as_deref()))),
        };
        Self {
            family: "unix",
            kind: kind(entry.type_),
            protocol: "0".to_owned(),
            state: state(entry.state),
            inode: entry.ino.unwrap_or(0),
            local,
            remote: None,
            peer: entry.peer.filter(|peer| *peer != 0),
        }
    }

    pub(super) fn netlink(entry: &NetlinkSkEntry) -> Self {
        Self {
            family: "netlink",
            kind: "raw",
            protocol: entry.protocol.unwrap_or(0).to_string(),
            state: state(entry.state),
            inode: 0,
            local: entry.portid.filter(|port| *port != 0).map(Address::Port),
            remote: None,
            peer: None,
        }
    }

    pub(super) fn packet(entry: &PacketSkEntry) -> Self {
        Self {
            family: "packet",
            kind: kind(entry.type_),
            protocol: entry.protocol.unwrap_or(0).to_string(),
            state: "close",
            inode: 0,
            local: None,
            remote: None,
            peer: None,
        }
    }
}

/// The words are in the order of the network, as they lie in memory.
fn internet(words: &[u32], is_v6: bool, port: Option<u32>) -> Option<SocketAddr> {
    let bytes: Vec<u8> = words.iter().take(4).flat_map(|word| word.to_le_bytes()).collect();
    let address = if is_v6 {
        IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))
    } else {
        IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))
    };
    Some(SocketAddr::new(address, u16::try_from(port.unwrap_or(0)).ok()?))
}

fn is_somewhere(address: &Address) -> bool {
    !matches!(address, Address::Internet(at) if at.ip().is_unspecified() && at.port() == 0)
}

/// The name as it would be seen from the root, without the zero bytes that may end it.
fn path(name: &[u8], directory: Option<&[u8]>) -> Vec<u8> {
    let end = name.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    match directory {
        Some(directory) if !directory.is_empty() && !name.starts_with(b"/") => {
            [directory, b"/", &name[..end]].concat()
        }
        _ => name[..end].to_vec(),
    }
}
