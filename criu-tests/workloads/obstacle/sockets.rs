// SPDX-License-Identifier: Apache-2.0
//! Sockets that are in the way.

use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};

use super::{Held, Make, Place};
use crate::lifecycle::During as _;
use crate::sys;

pub(super) const KINDS: &[(&str, Make)] = &[
    ("tcp-connection", tcp_connection),
    ("tcp-half-closed", tcp_half_closed),
    ("tcp-not-accepted", tcp_not_accepted),
    ("tcp-connecting", tcp_connecting),
    ("tcp-listener", tcp_listener),
    ("udp-corked", udp_corked),
    ("mptcp", |_| socket(libc::AF_INET, libc::SOCK_STREAM, 262)),
    ("icmp", |_| socket(libc::AF_INET, libc::SOCK_RAW, 1)),
    ("ping", ping),
    ("vsock", |_| socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
    ("crypto", |_| socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)),
    ("netlink-unread", netlink_unread),
    ("unix-stream-outside", unix_stream_outside),
    ("unix-dgram-outside", unix_dgram_outside),
    ("unix-dgram-bound", |place| Ok(Box::new(UnixDatagram::bind(place.at()?).during("bind")?))),
    ("unix-credentials", unix_credentials),
];

/// Two ends of a connection over the loopback device.
fn connected() -> Result<(TcpListener, TcpStream, TcpStream), String> {
    let listener = TcpListener::bind("127.0.0.1:0").during("bind")?;
    let address = listener.local_addr().during("getsockname")?;
    let one = TcpStream::connect(address).during("connect")?;
    let (other, _) = listener.accept().during("accept")?;
    Ok((listener, one, other))
}

fn tcp_connection(_: &Place) -> Held {
    Ok(Box::new(connected()?))
}

fn tcp_half_closed(_: &Place) -> Held {
    let ends = connected()?;
    ends.1.shutdown(Shutdown::Write).during("shutdown")?;
    Ok(Box::new(ends))
}

/// A connection that the listener has not taken yet.
fn tcp_not_accepted(_: &Place) -> Held {
    let listener = TcpListener::bind("127.0.0.1:0").during("bind")?;
    let stream = TcpStream::connect(listener.local_addr().during("getsockname")?).during("connect")?;
    Ok(Box::new((listener, stream)))
}

/// A connection to a listener whose queue is full: it stays half open.
fn tcp_connecting(_: &Place) -> Held {
    let listener = TcpListener::bind("127.0.0.1:0").during("bind")?;
    let address = listener.local_addr().during("getsockname")?;
    sys::call([libc::SYS_listen, listener.as_raw_fd().into(), 0, 0, 0, 0, 0]).during("listen")?;
    let first = TcpStream::connect(address).during("connect")?;
    let libc_address = nix::sys::socket::SockaddrIn::from(match address {
        std::net::SocketAddr::V4(v4) => v4,
        std::net::SocketAddr::V6(_) => return Err("an IPv6 address".to_owned()),
    });
    let waiting = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Stream,
        nix::sys::socket::SockFlag::SOCK_NONBLOCK,
        None,
    )
    .during("socket")?;
    match nix::sys::socket::connect(waiting.as_raw_fd(), &libc_address) {
        Err(nix::errno::Errno::EINPROGRESS) => {}
        other => return Err(format!("the connection does not wait: {other:?}")),
    }
    Ok(Box::new((listener, first, waiting)))
}

/// Listens at `--at ADDRESS:PORT`.
fn tcp_listener(place: &Place) -> Held {
    Ok(Box::new(TcpListener::bind(place.at()?).during("bind")?))
}

/// A datagram that is not complete yet.
fn udp_corked(_: &Place) -> Held {
    let socket = UdpSocket::bind("127.0.0.1:0").during("bind")?;
    socket.connect(socket.local_addr().during("getsockname")?).during("connect")?;
    nix::sys::socket::send(
        socket.as_raw_fd(),
        b"part",
        nix::sys::socket::MsgFlags::from_bits_retain(libc::MSG_MORE),
    )
    .during("send")?;
    Ok(Box::new(socket))
}

fn socket(family: i32, kind: i32, protocol: i32) -> Held {
    let call = [libc::SYS_socket, family.into(), kind.into(), protocol.into(), 0, 0, 0];
    let number = i32::try_from(sys::call(call).during("socket")?).during("socket")?;
    let fd: OwnedFd = sys::inherited(number).during("socket")?;
    Ok(Box::new(fd))
}

/// A socket for echo requests; the group may have been denied it.
fn ping(_: &Place) -> Held {
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").ok();
    socket(libc::AF_INET, libc::SOCK_DGRAM, 1)
}

/// An answer of the kernel's that nobody has read.
fn netlink_unread(_: &Place) -> Held {
    use nix::sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, socket,
    };
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::empty(), SockProtocol::NetlinkRoute)
        .during("socket")?;
    nix::sys::socket::bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).during("bind")?;
    // `struct nlmsghdr` of RTM_GETLINK with REQUEST and DUMP, and an empty `struct ifinfomsg`.
    let mut message = [0u8; 32];
    message[0] = 32;
    message[4] = 18;
    message[6..8].copy_from_slice(&0x301_u16.to_ne_bytes());
    sendto(fd.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty()).during("sendto")?;
    Ok(Box::new(fd))
}

/// Connected to `--at`, on which somebody outside listens.
fn unix_stream_outside(place: &Place) -> Held {
    Ok(Box::new(UnixStream::connect(place.at()?).during("connect")?))
}

fn unix_dgram_outside(place: &Place) -> Held {
    let socket = UnixDatagram::unbound().during("socket")?;
    socket.connect(place.at()?).during("connect")?;
    Ok(Box::new(socket))
}

/// A message in a queue that tells who sent it.
fn unix_credentials(_: &Place) -> Held {
    let (one, other) = UnixDatagram::pair().during("socketpair")?;
    nix::sys::socket::setsockopt(&other, nix::sys::socket::sockopt::PassCred, &true).during("SO_PASSCRED")?;
    one.send(b"from whom").during("send")?;
    Ok(Box::new((one, other)))
}
