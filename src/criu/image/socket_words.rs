// SPDX-License-Identifier: Apache-2.0
//! The kernel's numbers of sockets in words, wherever they are from. Pure.

/// An address family: `inet`, `inet6`, `unix`, `netlink`, `packet`, or `unknown`.
pub fn family(number: i32) -> &'static str {
    match number {
        libc::AF_UNIX => "unix",
        libc::AF_INET => "inet",
        libc::AF_INET6 => "inet6",
        libc::AF_NETLINK => "netlink",
        libc::AF_PACKET => "packet",
        _ => "unknown",
    }
}

/// A type: `stream`, `dgram`, `seqpacket`, `raw`, or `unknown`.
pub fn kind(number: u32) -> &'static str {
    match number {
        1 => "stream",
        2 => "dgram",
        3 => "raw",
        5 => "seqpacket",
        _ => "unknown",
    }
}

/// A protocol of the internet's, or its number.
pub fn protocol(number: u32) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        136 => "udplite".to_owned(),
        other => other.to_string(),
    }
}

/// A state of TCP, which the kernel has for other sockets, too.
pub fn state(number: u32) -> &'static str {
    const STATES: [&str; 13] = [
        "unknown",
        "established",
        "syn-sent",
        "syn-recv",
        "fin-wait-1",
        "fin-wait-2",
        "time-wait",
        "close",
        "close-wait",
        "last-ack",
        "listen",
        "closing",
        "new-syn-recv",
    ];
    usize::try_from(number).ok().and_then(|at| STATES.get(at)).unwrap_or(&"unknown")
}
