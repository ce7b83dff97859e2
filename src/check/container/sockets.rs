// SPDX-License-Identifier: Apache-2.0
//! Rules about sockets: families and protocols, connections, and who has the other end.

use std::collections::HashSet;

use nix::libc::{
    AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_IP,
    IPPROTO_MPTCP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE, SOCK_DGRAM, SOCK_RAW,
};

use super::ContainerFacts;
use super::gather::inode;
use super::process::Descriptor;
use crate::check::{Finding, Flag, Severity};
use crate::sys::netlink::UnixSocket;
use crate::sys::socket::{SocketFacts, Tcp};

/// States of TCP, as the kernel numbers them: those of a connection, and of one that listens.
const CONNECTED: [u8; 7] = [1, 2, 4, 5, 8, 9, 11];
const LISTENS: u8 = 10;
/// Families that CRIU carries.
const FAMILIES: [i32; 5] = [AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET];

pub(super) fn judge(facts: &ContainerFacts) -> Vec<Finding> {
    let own: HashSet<u32> =
        facts.processes.iter().flat_map(|process| process.descriptors.iter().filter_map(inode)).collect();
    let namespaces: HashSet<u64> = facts.processes.iter().map(|process| process.namespace("net")).collect();
    let mut found = Vec::new();
    for process in &facts.processes {
        for descriptor in &process.descriptors {
            let Some(socket) = &descriptor.socket else { continue };
            let is_given = inode(descriptor).is_some_and(|inode| facts.given_sockets.contains(&inode));
            let finding = protocol(descriptor, socket)
                .or_else(|| elsewhere(descriptor, socket, &namespaces).filter(|_| !is_given))
                .or_else(|| connection(descriptor, socket.tcp?))
                .or_else(|| other_end(descriptor, socket, facts, &own).filter(|_| !is_given));
            found.extend(finding.map(|finding| finding.of(process.pid, &process.command)));
        }
    }
    found
}

fn seen(descriptor: &Descriptor, what: &str) -> String {
    format!("descriptor {}, {what}", descriptor.number)
}

fn protocol(descriptor: &Descriptor, socket: &SocketFacts) -> Option<Finding> {
    let blocker = |what: &str, cause: &str, remedy_of: &str| {
        let finding = Finding::new(Severity::Blocker, "socket_protocol", seen(descriptor, what));
        Some(finding.told_in(cause, remedy_of))
    };
    match (socket.family, socket.protocol) {
        (AF_INET | AF_INET6, IPPROTO_IP | IPPROTO_TCP | IPPROTO_UDP | IPPROTO_UDPLITE) => None,
        // Some versions of CRIU know these.
        (AF_INET | AF_INET6, IPPROTO_ICMP | IPPROTO_ICMPV6) => None,
        (AF_INET | AF_INET6, _) if socket.kind == SOCK_RAW => None,
        (AF_INET | AF_INET6, IPPROTO_MPTCP) => {
            blocker("a socket of multipath TCP", "criu carries TCP, but not multipath TCP", "multipath-tcp")
        }
        (AF_INET | AF_INET6, protocol) => blocker(
            &format!("a socket of protocol {protocol}"),
            "criu does not carry this protocol",
            "internet-protocol",
        ),
        (family, _) if FAMILIES.contains(&family) => None,
        (family, _) => blocker(
            &format!("a socket of family {family}"),
            "criu does not carry sockets of this family",
            "socket-family",
        ),
    }
}

fn elsewhere(descriptor: &Descriptor, socket: &SocketFacts, own: &HashSet<u64>) -> Option<Finding> {
    let namespace = socket.namespace.filter(|namespace| !own.contains(namespace) && !own.contains(&0))?;
    let what = format!("a socket of network namespace {namespace}");
    let finding = Finding::new(Severity::Blocker, "socket_outside", seen(descriptor, &what));
    let cause = "it was made in a network namespace that is not the container's, where criu does not see it";
    Some(finding.told_in(cause, "unix-socket-of-another-network"))
}

fn connection(descriptor: &Descriptor, tcp: Tcp) -> Option<Finding> {
    if CONNECTED.contains(&tcp.state) {
        let finding =
            Finding::new(Severity::NeedsFlag, "tcp_connection", seen(descriptor, "a TCP connection"));
        let cause = "the connection is open";
        return Some(finding.needs(Flag::TcpEstablished).told_in(cause, "tcp-connection"));
    }
    if tcp.state == LISTENS && tcp.waiting > 0 {
        let what = format!("a listening TCP socket with {} connections not yet accepted", tcp.waiting);
        let finding = Finding::new(Severity::NeedsFlag, "tcp_in_flight", seen(descriptor, &what));
        let cause = "criu does not carry connections that are being set up";
        return Some(finding.needs(Flag::TcpSkipInFlight).told_in(cause, "tcp-connection-being-set-up"));
    }
    None
}

/// The other end of a unix socket belongs to somebody outside.
fn other_end(
    descriptor: &Descriptor,
    socket: &SocketFacts,
    facts: &ContainerFacts,
    own: &HashSet<u32>,
) -> Option<Finding> {
    if socket.family != AF_UNIX {
        return None;
    }
    let UnixSocket { peer, .. } = facts.unix.get(&inode(descriptor)?)?;
    let peer = peer.filter(|peer| *peer != 0 && !own.contains(peer))?;
    let evidence = seen(descriptor, &format!("a unix socket that is connected to {peer}"));
    if facts.in_flight || facts.cut_short {
        let cause =
            "the other end was not found in the container, where it may be on its way through another socket";
        return Some(Finding::new(Severity::Note, "unix_outside", evidence).because(cause, ""));
    }
    let is_named = facts.unix.get(&peer).is_some_and(|peer| peer.named);
    if socket.kind == SOCK_DGRAM && is_named {
        let finding = Finding::new(Severity::NeedsFlag, "unix_outside", evidence).needs(Flag::ExtUnixSk);
        return Some(finding.told_in("the other end is outside of the container", "unix-socket-outside"));
    }
    let cause =
        "the other end is outside of the container, and criu only carries datagram sockets to a name there";
    Some(Finding::new(Severity::Blocker, "unix_outside", evidence).told_in(cause, "unix-stream-outside"))
}
