// SPDX-License-Identifier: Apache-2.0
//! The unix sockets of a network namespace, and which is connected to which (sock_diag(7)).

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::SockProtocol;

use super::Netlink;
use super::message::{Message, Request, attributes, u32_at};

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// The size of `struct unix_diag_msg`.
const FIXED: usize = 16;
/// `UDIAG_SHOW_NAME` and `UDIAG_SHOW_PEER`.
const SHOW: u32 = 1 | 4;
/// `UNIX_DIAG_NAME` and `UNIX_DIAG_PEER`.
const NAME: u16 = 0;
const PEER: u16 = 2;

/// One unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixSocket {
    /// What identifies it, as in `socket:[7]`.
    pub inode: u32,
    /// The other end's; 0 when the connection is not accepted yet.
    pub peer: Option<u32>,
    /// Whether it is bound to a name.
    pub named: bool,
}

/// All unix sockets of the network namespace behind the descriptor.
///
/// # Errors
/// That of setns(2); `ENOENT` for a kernel without this (`CONFIG_UNIX_DIAG`).
pub fn unix_sockets(namespace: &(impl AsFd + Sync)) -> io::Result<Vec<UnixSocket>> {
    let open = || Netlink::of(SockProtocol::NetlinkSockDiag);
    let netlink = crate::sys::namespace::in_network_namespace(namespace, open)??;
    // `struct unix_diag_req`: family, protocol, padding, states, inode, what to show, cookie.
    let mut request = [0; 24];
    request[0] = libc::AF_UNIX as u8;
    request[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    request[12..16].copy_from_slice(&SHOW.to_ne_bytes());
    netlink.list(&Request::new(BY_FAMILY, 0, &request), read)
}

fn read(message: &Message<'_>) -> Option<UnixSocket> {
    if message.kind != BY_FAMILY {
        return None;
    }
    let inode = u32_at(message.body, 4)?;
    let mut socket = UnixSocket { inode, peer: None, named: false };
    for (kind, value) in attributes(message.body, FIXED) {
        match kind {
            NAME => socket.named = !value.is_empty(),
            PEER => socket.peer = u32_at(value, 0),
            _ => {}
        }
    }
    Some(socket)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    fn inode(socket: &impl AsRawFd) -> u32 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).expect("readlink");
        let link = link.to_string_lossy().into_owned();
        link.trim_start_matches("socket:[").trim_end_matches(']').parse().expect("a number")
    }

    #[test]
    fn both_ends_of_a_pair_name_each_other() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let (one, other) = UnixStream::pair().expect("a pair");
        let directory = tempfile::tempdir().expect("tempdir");
        let named = UnixDatagram::bind(directory.path().join("name")).expect("bind");
        let list = unix_sockets(&File::open("/proc/self/ns/net").expect("open")).expect("a listing");
        let find = |inode| list.iter().find(|s| s.inode == inode).copied().expect("it is listed");
        assert_eq!(
            find(inode(&one)),
            UnixSocket { inode: inode(&one), peer: Some(inode(&other)), named: false }
        );
        assert_eq!(find(inode(&other)).peer, Some(inode(&one)));
        assert_eq!(find(inode(&named)), UnixSocket { inode: inode(&named), peer: None, named: true });
    }
}
