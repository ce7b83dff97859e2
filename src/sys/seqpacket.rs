// SPDX-License-Identifier: Apache-2.0
//! Unix sequenced packets: a connected pair, one packet out, one packet with its file descriptors in. Knows sizes
//! and descriptors; must not know what a packet means.

#![allow(unsafe_code)]

use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recv,
    recvmsg, sendmsg, socketpair,
};

/// Descriptors that one packet may carry; a packet with more is refused.
const MAX_FDS: usize = 16;

/// One received packet.
#[derive(Debug)]
pub struct Packet {
    /// The payload.
    pub bytes: Vec<u8>,
    /// What came with it (`SCM_RIGHTS`), close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// A connected pair of `AF_UNIX`/`SOCK_SEQPACKET` sockets, both close-on-exec (socketpair(2)).
///
/// # Errors
/// That of the system call.
pub fn pair() -> nix::Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
}

/// Sends one packet, without a `SIGPIPE` if nobody is there to read it.
///
/// # Errors
/// `EPIPE` when the peer is gone, `EMSGSIZE` when the packet does not fit the socket's buffer, else that of sendmsg(2).
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<()> {
    send_with(socket, bytes, &[])
}

/// [`send`] with descriptors, which the peer gets copies of; at most 16.
///
/// # Errors
/// As [`send`].
pub fn send_with(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> nix::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    loop {
        match sendmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Err(Errno::EINTR) => {}
            other => return other.map(|_| ()),
        }
    }
}

/// Waits for one packet of at most `limit` bytes. `None` says that the peer closed its end.
///
/// # Errors
/// `InvalidData` for a packet above the limit or with too many descriptors (it is consumed), else that of recvmsg(2).
pub fn receive(socket: BorrowedFd<'_>, limit: usize) -> io::Result<Option<Packet>> {
    let Some(size) = next_size(socket)? else { return Ok(None) };
    let mut bytes = vec![0; size.min(limit)];
    let (len, fds, cut) = receive_into(socket, &mut bytes)?;
    if size > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("packet of {size} bytes, more than {limit} were not expected"),
        ));
    }
    if cut {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("packet with more than {MAX_FDS} file descriptors"),
        ));
    }
    bytes.truncate(len);
    Ok(Some(Packet { bytes, fds }))
}

/// The size of the packet at the head of the queue, without taking it (`MSG_PEEK | MSG_TRUNC`, recv(2)).
fn next_size(socket: BorrowedFd<'_>) -> nix::Result<Option<usize>> {
    loop {
        match recv(socket.as_raw_fd(), &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC) {
            // "Reset" is said once, before what is still queued, if the peer closed with a packet of ours unread.
            Err(Errno::EINTR | Errno::ECONNRESET) => {}
            Ok(0) => return Ok(None),
            other => return other.map(Some),
        }
    }
}

/// Waits for bytes of a unix socket of any kind, at most as many as there is room for, and for what came with them. The last value
/// tells of more descriptors than are taken.
///
/// # Errors
/// That of recvmsg(2).
pub fn receive_into(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>, bool)> {
    let mut control = nix::cmsg_space!([RawFd; MAX_FDS]);
    loop {
        let mut slices = [IoSliceMut::new(bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let mut fds = Vec::new();
        let cut = message.flags.contains(MsgFlags::MSG_CTRUNC);
        // After MSG_CTRUNC there is no list: the packet is refused, and what did arrive stays open, unused.
        if let Ok(parts) = message.cmsgs() {
            for part in parts {
                if let ControlMessageOwned::ScmRights(raw) = part {
                    // SAFETY: the kernel has just installed these descriptors for this message in our table; no
                    // other code knows their numbers, so each gets exactly this one owner.
                    fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                }
            }
        }
        return Ok((message.bytes, fds, cut));
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_a_peer_sent_before_it_left_is_received() {
        for unread in [false, true] {
            let (ours, theirs) = pair().expect("socket pair");
            if unread {
                send(ours.as_fd(), b"never read").expect("send");
            }
            send(theirs.as_fd(), b"last words").expect("send");
            drop(theirs);
            let packet = receive(ours.as_fd(), 100).expect("receive").expect("a packet");
            assert_eq!(packet.bytes, b"last words");
            assert!(receive(ours.as_fd(), 100).expect("receive").is_none());
            assert_eq!(send(ours.as_fd(), b"too late"), Err(Errno::EPIPE));
        }
    }

    #[test]
    fn descriptors_travel_with_a_packet() {
        let (ours, theirs) = pair().expect("socket pair");
        let file = tempfile::tempfile().expect("a file");
        send_with(ours.as_fd(), b"it", &[file.as_fd()]).expect("send");
        let packet = receive(theirs.as_fd(), 100).expect("receive").expect("a packet");
        let inode = |fd: BorrowedFd<'_>| nix::sys::stat::fstat(fd).expect("stat").st_ino;
        assert_eq!((packet.bytes.as_slice(), packet.fds.len()), (b"it".as_slice(), 1));
        assert_eq!(inode(packet.fds[0].as_fd()), inode(file.as_fd()));
    }

    #[test]
    fn an_oversize_packet_is_refused_and_the_next_one_is_not() {
        let (ours, theirs) = pair().expect("socket pair");
        send(theirs.as_fd(), &[0; 11]).expect("send");
        send(theirs.as_fd(), &[1; 10]).expect("send");
        let error = receive(ours.as_fd(), 10).expect_err("too large");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(receive(ours.as_fd(), 10).expect("receive").map(|p| p.bytes), Some(vec![1; 10]));
    }
}
