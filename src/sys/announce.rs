// SPDX-License-Identifier: Apache-2.0
//! Tells the neighbours of an interface who has an address now: a gratuitous ARP request (RFC 5227, section 2.4) or an unsolicited
//! neighbour advertisement (RFC 4861, section 7.2.6). Whoever knew another hardware address for it, and each switch on the way, learns the new one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Everybody on the link, and all IPv6 nodes of it.
const EVERYBODY: [u8; 6] = [0xff; 6];
const ALL_NODES_ON_LINK: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// ICMPv6, and its neighbour advertisement that shall replace what is known.
const ICMPV6: u8 = 58;
const ADVERTISEMENT: u8 = 136;
const OVERRIDE: u8 = 0x20;
const TARGET_LINK_ADDRESS: u8 = 2;

/// Announces an address of the interface with this number and hardware address, in the calling thread's network namespace.
///
/// # Errors
/// Those of socket(2) and sendto(2): `EPERM` without CAP_NET_RAW, `ENETDOWN` for an interface that is off.
pub fn announce(interface: u32, mac: [u8; 6], address: IpAddr) -> io::Result<()> {
    match address {
        IpAddr::V4(address) => send(interface, libc::ETH_P_ARP, EVERYBODY, &arp(mac, address)),
        IpAddr::V6(address) => {
            send(interface, libc::ETH_P_IPV6, ALL_NODES_ON_LINK, &advertisement(mac, address))
        }
    }
}

fn arp(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    // Ethernet, IPv4, the lengths of their addresses, a request.
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1];
    packet.extend(mac);
    packet.extend(address.octets());
    packet.extend([0; 6]);
    packet.extend(address.octets());
    packet
}

fn advertisement(mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend(address.octets());
    // In units of eight bytes.
    message.extend([TARGET_LINK_ADDRESS, 1]);
    message.extend(mac);
    let length = message.len() as u8;
    let mut pseudo = [address.octets(), ALL_NODES.octets()].concat();
    pseudo.extend([0, 0, 0, length, 0, 0, 0, ICMPV6]);
    let sum = checksum(&[&pseudo[..], &message].concat()).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    // Version 6; 255 hops tell that it is from this link.
    let mut packet = vec![0x60, 0, 0, 0, 0, length, ICMPV6, 255];
    packet.extend(address.octets());
    packet.extend(ALL_NODES.octets());
    packet.extend(message);
    packet
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Sends what follows an Ethernet header, which the kernel writes.
fn send(interface: u32, protocol: libc::c_int, to: [u8; 6], packet: &[u8]) -> io::Result<()> {
    let protocol = (protocol as u16).to_be();
    // SAFETY: takes no pointer.
    let made = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was made just now, and is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(made) };
    let mut address = [0; 8];
    address[..6].copy_from_slice(&to);
    let to = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: interface.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: address,
    };
    // SAFETY: the kernel reads the packet and the address, of these lengths.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const to).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0x42, 1, 2, 3, 4];

    #[test]
    fn a_gratuitous_request_asks_for_its_own_address() {
        let packet = arp(MAC, Ipv4Addr::new(10, 1, 2, 3));
        let expected =
            [0, 1, 8, 0, 6, 4, 0, 1, 2, 0x42, 1, 2, 3, 4, 10, 1, 2, 3, 0, 0, 0, 0, 0, 0, 10, 1, 2, 3];
        assert_eq!(packet, expected);
    }

    #[test]
    fn an_advertisement_has_a_checksum_that_adds_up() {
        let packet = advertisement(MAC, "fd00:7::2".parse().expect("an address"));
        let (header, message) = packet.split_at(40);
        assert_eq!(
            (header[4..8].to_vec(), message.len(), message[0]),
            (vec![0, 32, ICMPV6, 255], 32, ADVERTISEMENT)
        );
        let pseudo = [&header[8..], &[0, 0, 0, 32, 0, 0, 0, ICMPV6], message].concat();
        assert_eq!(checksum(&pseudo), 0);
    }
}
