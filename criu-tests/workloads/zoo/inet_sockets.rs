// SPDX-License-Identifier: Apache-2.0
//! Sockets of the network within the container, and those to the kernel: UDP, UDP-Lite, TCP, raw, packet, netlink.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, SockaddrIn, bind, getsockname,
    getsockopt, recv, sendto, setsockopt, socket, sockopt,
};

use super::held::{same_bytes, when_back};
use super::sys::net::{self, number_of, set_number};
use super::{Made, made};
use crate::lifecycle::{Checked, During as _, PATIENCE, expect_eq};

super::exhibits![
    tcp_listener,
    tcp_connection_within,
    tcp_that_the_peer_has_closed,
    tcp_that_is_closed_with_bytes_to_send,
    tcp_that_both_have_closed,
    udp_bound,
    udp_connected,
    udp_of_ipv6,
    udp_lite,
    udp_with_unread_datagrams,
    udp_in_a_group,
    raw_socket,
    packet_socket,
    netlink_socket,
    vsock_socket,
    options_of_sockets,
    options_of_connections,
    options_of_addresses,
    address_that_nobody_has,
    bound_to_an_interface,
];

fn new(family: AddressFamily, kind: SockType, protocol: i32) -> Result<OwnedFd, String> {
    net::socket(family as i32, kind as i32, protocol).during("socket")
}

fn bound() -> Result<(UdpSocket, SocketAddr), String> {
    let socket = UdpSocket::bind("127.0.0.1:0").during("bind")?;
    socket.set_nonblocking(true).during("O_NONBLOCK")?;
    let address = socket.local_addr().during("getsockname")?;
    Ok((socket, address))
}

fn takes(socket: &UdpSocket, text: &[u8]) -> Checked {
    let mut bytes = [0; 64];
    let (got, _) = socket.recv_from(&mut bytes).during("recvfrom")?;
    same_bytes(&bytes[..got], text)
}

/// It listens, and whoever comes is let in.
fn tcp_listener() -> Made {
    let listener = TcpListener::bind("127.0.0.1:4711").during("bind")?;
    made(when_back(move || {
        expect_eq("port", listener.local_addr().during("getsockname")?.port(), 4711)?;
        let mut stream = TcpStream::connect("127.0.0.1:4711").during("connect")?;
        let (mut accepted, _) = listener.accept().during("accept")?;
        stream.write_all(b"in").during("write")?;
        drop(stream);
        let mut text = String::new();
        accepted.read_to_string(&mut text).during("read")?;
        expect_eq("text", text.as_str(), "in")
    }))
}

/// Both ends, with bytes under way.
fn tcp_connection_within() -> Made {
    let listener = TcpListener::bind("127.0.0.1:0").during("bind")?;
    let mut one = TcpStream::connect(listener.local_addr().during("getsockname")?).during("connect")?;
    let (mut other, _) = listener.accept().during("accept")?;
    drop(listener);
    one.write_all(b"under way").during("write")?;
    made(move || {
        let mut bytes = [0; 9];
        other.read_exact(&mut bytes).during("read")?;
        same_bytes(&bytes, b"under way")?;
        one.write_all(b"under way").during("write")
    })
}

/// Two ends of a connection.
fn connected() -> Result<(TcpStream, TcpStream), String> {
    let listener = TcpListener::bind("127.0.0.1:0").during("bind")?;
    let one = TcpStream::connect(listener.local_addr().during("getsockname")?).during("connect")?;
    let (other, _) = listener.accept().during("accept")?;
    Ok((one, other))
}

/// It has seen the end of what the peer says (`CLOSE_WAIT`), and goes on saying something itself; the peer listens (`FIN_WAIT2`).
fn tcp_that_the_peer_has_closed() -> Made {
    let (mut one, mut other) = connected()?;
    other.shutdown(Shutdown::Write).during("shutdown")?;
    one.write_all(b"under way").during("write")?;
    made(move || {
        expect_eq("bytes after the end", one.read(&mut [0; 1]).during("read")?, 0)?;
        let mut bytes = [0; 9];
        other.read_exact(&mut bytes).during("read")?;
        same_bytes(&bytes, b"under way")?;
        one.write_all(b"under way").during("write")
    })
}

/// It has said that it has no more to say, after more than its peer takes at a time: the end has to wait (`FIN_WAIT1`).
fn tcp_that_is_closed_with_bytes_to_send() -> Made {
    let (one, other) = connected()?;
    closes_with_bytes_to_send(one, other)
}

/// As above, after the peer has said the same (`LAST_ACK`).
fn tcp_that_both_have_closed() -> Made {
    let (one, other) = connected()?;
    other.shutdown(Shutdown::Write).during("shutdown")?;
    closes_with_bytes_to_send(one, other)
}

fn closes_with_bytes_to_send(mut one: TcpStream, mut other: TcpStream) -> Made {
    one.set_nonblocking(true).during("O_NONBLOCK")?;
    let mut sent = 0_usize;
    loop {
        let next: Vec<u8> = (sent..sent + 1000).map(|n| (n % 251) as u8).collect();
        match one.write(&next) {
            Ok(taken) => sent += taken,
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(e) => return Err(e).during("write"),
        }
    }
    one.shutdown(Shutdown::Write).during("shutdown")?;
    let mut looks = 0;
    made(when_back(move || {
        looks += 1;
        // The first is before it was away, and once everything is read nothing more comes.
        if looks != 2 {
            return one.local_addr().map(drop).during("getsockname");
        }
        let mut bytes = Vec::new();
        other.set_read_timeout(Some(PATIENCE)).during("SO_RCVTIMEO")?;
        other.read_to_end(&mut bytes).during("read")?;
        expect_eq("bytes", bytes.len(), sent)?;
        expect_eq(
            "they are the same",
            bytes.iter().enumerate().all(|(n, byte)| *byte == (n % 251) as u8),
            true,
        )
    }))
}

fn udp_bound() -> Made {
    let (socket, address) = bound()?;
    made(when_back(move || {
        expect_eq("address", socket.local_addr().during("getsockname")?, address)?;
        let (other, from) = bound()?;
        other.send_to(b"hello", address).during("sendto")?;
        let mut bytes = [0; 8];
        let (got, sender) = socket.recv_from(&mut bytes).during("recvfrom")?;
        expect_eq("sender", sender, from)?;
        same_bytes(&bytes[..got], b"hello")
    }))
}

/// Two that know each other: they hear nobody else.
fn udp_connected() -> Made {
    let ((one, first), (other, second)) = (bound()?, bound()?);
    one.connect(second).during("connect")?;
    other.connect(first).during("connect")?;
    made(when_back(move || {
        expect_eq("peer", one.peer_addr().during("getpeername")?, second)?;
        bound()?.0.send_to(b"stranger", second).during("sendto")?;
        one.send(b"friend").during("send")?;
        takes(&other, b"friend")
    }))
}

fn udp_of_ipv6() -> Made {
    let socket = UdpSocket::bind("[::1]:0").during("bind")?;
    let address = socket.local_addr().during("getsockname")?;
    made(when_back(move || {
        expect_eq("address", socket.local_addr().during("getsockname")?, address)?;
        socket.set_nonblocking(true).during("O_NONBLOCK")?;
        socket.send_to(b"to itself", address).during("sendto")?;
        takes(&socket, b"to itself")
    }))
}

fn udp_lite() -> Made {
    let fd = new(AddressFamily::Inet, SockType::Datagram, libc::IPPROTO_UDPLITE)?;
    // The standard library's type does not ask which protocol it is.
    let address = SockaddrIn::new(127, 0, 0, 1, 4712);
    bind(fd.as_raw_fd(), &address).during("bind")?;
    let socket = UdpSocket::from(fd);
    socket.connect("127.0.0.1:4712").during("connect")?;
    made(when_back(move || {
        let protocol = number_of(&socket, libc::SOL_SOCKET, libc::SO_PROTOCOL).during("SO_PROTOCOL")?;
        expect_eq("protocol", protocol, libc::IPPROTO_UDPLITE)?;
        socket.set_nonblocking(true).during("O_NONBLOCK")?;
        socket.send(b"light").during("send")?;
        takes(&socket, b"light")
    }))
}

/// Datagrams may get lost, and these do.
fn udp_with_unread_datagrams() -> Made {
    let (socket, address) = bound()?;
    socket.send_to(b"unread", address).during("sendto")?;
    made(move || {
        takes(&socket, b"unread")?;
        socket.send_to(b"unread", address).map(drop).during("sendto")
    })
}

/// It has joined a group of hosts.
fn udp_in_a_group() -> Made {
    let (socket, _) = bound()?;
    socket
        .join_multicast_v4(&Ipv4Addr::new(224, 1, 2, 3), &Ipv4Addr::LOCALHOST)
        .during("IP_ADD_MEMBERSHIP")?;
    made(move || {
        let groups = std::fs::read_to_string("/proc/net/igmp").during("/proc/net/igmp")?;
        expect_eq("the group is joined", groups.contains("030201E0"), true)?;
        socket.local_addr().map(drop).during("getsockname")
    })
}

/// It makes its own packets.
fn raw_socket() -> Made {
    const PROTOCOL: i32 = 200;
    let fd = new(AddressFamily::Inet, SockType::Raw, PROTOCOL)?;
    let address = SockaddrIn::new(127, 0, 0, 1, 0);
    made(when_back(move || {
        let protocol = number_of(&fd, libc::SOL_SOCKET, libc::SO_PROTOCOL).during("SO_PROTOCOL")?;
        expect_eq("protocol", protocol, PROTOCOL)?;
        sendto(fd.as_raw_fd(), b"raw", &address, MsgFlags::empty()).during("sendto")?;
        let mut bytes = [0; 64];
        let got = recv(fd.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT).during("recv")?;
        // There is a header of 20 bytes before it.
        same_bytes(&bytes[20..got.max(20)], b"raw")
    }))
}

/// It sees what goes over one interface.
fn packet_socket() -> Made {
    let fd = net::packet_socket(1).during("packet socket")?;
    let name = net::packet_name(&fd).during("getsockname")?;
    let (other, address) = bound()?;
    made(when_back(move || {
        expect_eq("protocol and interface", net::packet_name(&fd).during("getsockname")?, name)?;
        let mut bytes = [0; 256];
        // What was seen so far is of no interest.
        while recv(fd.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT).is_ok() {}
        other.send_to(b"seen by all", address).during("sendto")?;
        takes(&other, b"seen by all")?;
        let got = recv(fd.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT).during("recv")?;
        expect_eq("the datagram is seen", bytes[..got].ends_with(b"seen by all"), true)
    }))
}

/// Bound, with nothing unread in it: the kernel answers.
fn netlink_socket() -> Made {
    let fd =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute);
    let fd = fd.during("socket")?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).during("bind")?;
    let name: NetlinkAddr = getsockname(fd.as_raw_fd()).during("getsockname")?;
    made(when_back(move || {
        expect_eq("name", getsockname(fd.as_raw_fd()).during("getsockname")?, name)?;
        // `struct nlmsghdr` of RTM_GETLINK with REQUEST, and a `struct ifinfomsg` of interface 1.
        let mut message = [0u8; 32];
        message[0] = 32;
        message[4] = 18;
        message[6] = 1;
        message[20] = 1;
        sendto(fd.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty()).during("sendto")?;
        let mut answer = [0; 8192];
        let got = recv(fd.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT).during("recv")?;
        // RTM_NEWLINK.
        expect_eq("answer", (got > 32, answer[4]), (true, 16))
    }))
}

/// To a host or guest of this machine.
fn vsock_socket() -> Made {
    let fd = net::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0).during("socket")?;
    made(move || number_of(&fd, libc::SOL_SOCKET, libc::SO_PROTOCOL).map(drop).during("SO_PROTOCOL"))
}

/// Numbers that a socket was given: level, name, value as it is set and as the kernel tells it.
type Numbers = &'static [(i32, i32, i32, i32)];

fn keeps(fd: OwnedFd, numbers: Numbers) -> Made {
    for (level, name, set, _) in numbers {
        set_number(&fd, *level, *name, *set).during(&format!("set option {name} of level {level}"))?;
    }
    made(move || {
        for (level, name, _, must_be) in numbers {
            let what = format!("option {name} of level {level}");
            expect_eq(&what, number_of(&fd, *level, *name).during(&what)?, *must_be)?;
        }
        Ok(())
    })
}

/// What every socket has.
fn options_of_sockets() -> Made {
    const LEVEL: i32 = libc::SOL_SOCKET;
    keeps(
        new(AddressFamily::Inet, SockType::Datagram, 0)?,
        &[
            (LEVEL, libc::SO_SNDBUF, 40_000, 80_000),
            (LEVEL, libc::SO_RCVBUF, 50_000, 100_000),
            (LEVEL, libc::SO_PRIORITY, 5, 5),
            (LEVEL, libc::SO_RCVLOWAT, 3, 3),
            (LEVEL, libc::SO_REUSEADDR, 1, 1),
            (LEVEL, libc::SO_REUSEPORT, 1, 1),
            (LEVEL, libc::SO_BROADCAST, 1, 1),
            (LEVEL, libc::SO_NO_CHECK, 1, 1),
            (LEVEL, libc::SO_DONTROUTE, 1, 1),
        ],
    )
}

/// What is of connections, in a socket that listens.
fn options_of_connections() -> Made {
    let listener = TcpListener::bind("127.0.0.1:0").during("bind")?;
    setsockopt(&listener, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 7 }).during("SO_LINGER")?;
    let copy = listener.try_clone().during("dup")?;
    let mut check = keeps(
        listener.into(),
        &[
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1, 1),
            (libc::SOL_SOCKET, libc::SO_OOBINLINE, 1, 1),
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 77, 77),
            (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 11, 11),
            (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 4, 4),
        ],
    )?;
    made(move || {
        let linger = getsockopt(&copy, sockopt::Linger).during("SO_LINGER")?;
        expect_eq("SO_LINGER", (linger.l_onoff, linger.l_linger), (1, 7))?;
        check.check()
    })
}

/// What is of IP.
fn options_of_addresses() -> Made {
    const LEVEL: i32 = libc::IPPROTO_IP;
    keeps(
        new(AddressFamily::Inet, SockType::Datagram, 0)?,
        &[
            (LEVEL, libc::IP_FREEBIND, 1, 1),
            (LEVEL, libc::IP_PKTINFO, 1, 1),
            (LEVEL, libc::IP_TOS, 0x10, 0x10),
            (LEVEL, libc::IP_TTL, 33, 33),
        ],
    )
}

/// `IP_FREEBIND` allows it.
fn address_that_nobody_has() -> Made {
    let fd = new(AddressFamily::Inet, SockType::Datagram, 0)?;
    set_number(&fd, libc::IPPROTO_IP, libc::IP_FREEBIND, 1).during("IP_FREEBIND")?;
    let address = SockaddrIn::new(10, 98, 76, 54, 4713);
    bind(fd.as_raw_fd(), &address).during("bind")?;
    made(move || {
        let name: SockaddrIn = getsockname(fd.as_raw_fd()).during("getsockname")?;
        expect_eq("address", name, address)
    })
}

/// Only what comes over this interface.
fn bound_to_an_interface() -> Made {
    let (socket, address) = bound()?;
    let name = std::ffi::OsString::from("lo");
    setsockopt(&socket, sockopt::BindToDevice, &name).during("SO_BINDTODEVICE")?;
    made(when_back(move || {
        let is = number_of(&socket, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX).during("SO_BINDTOIFINDEX")?;
        expect_eq("interface", is, 1)?;
        socket.send_to(b"over lo", address).during("sendto")?;
        takes(&socket, b"over lo")
    }))
}
