// SPDX-License-Identifier: Apache-2.0
//! What the kernel tells about a socket that is at hand: family, type, protocol, state, names, and where it was made.

use std::fs::File;
use std::io;
use std::mem::size_of_val;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt;

use nix::sys::socket::{SockaddrStorage, getpeername, getsockname};

/// `SIOCGSKNS` of linux/sockios.h.
const SIOCGSKNS: libc::Ioctl = 0x894c;
/// Offset of `tcpi_unacked` in `struct tcp_info`: of a listening socket it is how many wait to be accepted.
const UNACKNOWLEDGED: usize = 24;

/// One socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketFacts {
    /// `AF_UNIX`, `AF_INET` and so on.
    pub family: i32,
    /// `SOCK_STREAM`, `SOCK_DGRAM` and so on.
    pub kind: i32,
    /// `IPPROTO_TCP` and so on; 0 for families that have one only.
    pub protocol: i32,
    /// Of a TCP socket.
    pub tcp: Option<Tcp>,
    /// The inode of the network namespace that it was made in, where the caller may know.
    pub namespace: Option<u64>,
}

/// The state of a TCP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp {
    /// `TCP_ESTABLISHED` (1) to `TCP_NEW_SYN_RECV` (12) of the kernel's.
    pub state: u8,
    /// Connections that wait to be accepted.
    pub waiting: u32,
}

impl SocketFacts {
    /// Asks the kernel.
    ///
    /// # Errors
    /// `ENOTSOCK` when it is none.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let number = |option| {
            let mut value = [0; 4];
            get(socket, libc::SOL_SOCKET, option, &mut value)?;
            Ok::<_, io::Error>(i32::from_ne_bytes(value))
        };
        let (family, kind, protocol) =
            (number(libc::SO_DOMAIN)?, number(libc::SO_TYPE)?, number(libc::SO_PROTOCOL)?);
        let is_tcp = matches!(family, libc::AF_INET | libc::AF_INET6) && protocol == libc::IPPROTO_TCP;
        let tcp = if is_tcp { tcp(socket)? } else { None };
        Ok(Self { family, kind, protocol, tcp, namespace: namespace(socket).ok() })
    }
}

/// What a socket is called, or what it is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// An address and a port.
    Internet(SocketAddr),
    /// A path.
    Path(Vec<u8>),
    /// An abstract name, without the zero byte before it.
    Abstract(Vec<u8>),
    /// A port of netlink.
    Port(u32),
    /// That of another family.
    Other,
}

/// The name of a socket, and of what it is connected to.
pub fn names(socket: BorrowedFd<'_>) -> (Option<Name>, Option<Name>) {
    let number = socket.as_raw_fd();
    let local = getsockname::<SockaddrStorage>(number).ok().and_then(|address| name(&address));
    let remote = getpeername::<SockaddrStorage>(number).ok().and_then(|address| name(&address));
    (local, remote)
}

fn name(address: &SockaddrStorage) -> Option<Name> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(Name::Internet(SocketAddr::V4((*v4).into())));
    }
    if let Some(v6) = address.as_sockaddr_in6() {
        return Some(Name::Internet(SocketAddr::V6((*v6).into())));
    }
    if let Some(unix) = address.as_unix_addr() {
        let path = unix.path().map(|path| Name::Path(path.as_os_str().as_bytes().to_vec()));
        return path.or_else(|| unix.as_abstract().map(|name| Name::Abstract(name.to_vec())));
    }
    Some(address.as_netlink_addr().map_or(Name::Other, |netlink| Name::Port(netlink.pid())))
}

/// Whether connections come to a socket (`SO_ACCEPTCONN`).
pub fn listens(socket: BorrowedFd<'_>) -> bool {
    let mut value = [0; 4];
    let asked = get(socket, libc::SOL_SOCKET, libc::SO_ACCEPTCONN, &mut value);
    asked.is_ok() && i32::from_ne_bytes(value) != 0
}

fn tcp(socket: BorrowedFd<'_>) -> io::Result<Option<Tcp>> {
    let mut info = [0; 104];
    let length = get(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    let waiting = info[UNACKNOWLEDGED..UNACKNOWLEDGED + 4].try_into().map(u32::from_ne_bytes);
    let waiting = if length < UNACKNOWLEDGED + 4 { 0 } else { waiting.unwrap_or(0) };
    Ok((length > 0).then_some(Tcp { state: info[0], waiting }))
}

fn get(socket: BorrowedFd<'_>, level: i32, option: i32, value: &mut [u8]) -> io::Result<usize> {
    let mut length = size_of_val(value) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of what `value` borrows.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, value.as_mut_ptr().cast(), &raw mut length)
    };
    if done == 0 { Ok(length as usize) } else { Err(io::Error::last_os_error()) }
}

fn namespace(socket: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: SIOCGSKNS takes no argument and makes a new descriptor.
    let fd = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it, close-on-exec, and nobody else knows its number.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(File::from(fd).metadata()?.ino())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn sockets_are_told_apart() {
        let of = |socket: BorrowedFd<'_>| SocketFacts::of(socket).expect("it is a socket");
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let listening = of(listener.as_fd());
        assert_eq!(listening.tcp, Some(Tcp { state: 10, waiting: 0 }));
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        assert_eq!(of(client.as_fd()).tcp.map(|tcp| tcp.state), Some(1));
        assert_eq!(of(listener.as_fd()).tcp, Some(Tcp { state: 10, waiting: 1 }));
        let udp = of(UdpSocket::bind("127.0.0.1:0").expect("bind").as_fd());
        assert_eq!((udp.family, udp.kind, udp.tcp), (libc::AF_INET, libc::SOCK_DGRAM, None));
        let unix = of(UnixDatagram::unbound().expect("socket").as_fd());
        assert_eq!((unix.family, unix.protocol), (libc::AF_UNIX, 0));
        let file = tempfile::tempfile().expect("a file");
        assert!(SocketFacts::of(file.as_fd()).is_err());
        if nix::unistd::geteuid().is_root() {
            let own = std::fs::metadata("/proc/self/ns/net").expect("stat").ino();
            assert_eq!(unix.namespace, Some(own));
        }
    }
}
