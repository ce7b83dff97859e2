// SPDX-License-Identifier: Apache-2.0
//! Unix sockets: all types, what is under way in them, and the names that they have.

use std::fs;
use std::io::{ErrorKind, IoSlice, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, getsockopt, recv, send, sendmsg, setsockopt,
    socketpair, sockopt,
};

use super::held::{Absences, content, same_bytes};
use super::{Child, Made, made, path};
use crate::lifecycle::{Checked, During as _, expect_eq};
use crate::sys;

super::exhibits![
    unix_stream_with_data,
    unix_datagrams_in_flight,
    unix_packets_in_flight,
    unix_descriptor_in_flight,
    unix_connection_that_waits,
    unix_connection_that_waits_with_data,
    unix_abstract_name,
    unix_name_that_is_removed,
    unix_name_of_the_peer,
    unix_half_that_is_shut_down,
    unix_peer_that_is_gone,
    unix_datagrams_by_name,
    unix_datagrams_that_name_their_sender,
    unix_peers_in_two_processes,
    unix_socket_options,
];

fn take(stream: &mut UnixStream, expected: &[u8]) -> Checked {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).during("read")?;
    same_bytes(&bytes, expected)
}

/// Bytes that nobody has read, both ways.
fn unix_stream_with_data() -> Made {
    let (mut one, mut other) = UnixStream::pair().during("socketpair")?;
    let (there, back) = (content(7000), content(90));
    one.write_all(&there).during("write")?;
    other.write_all(&back).during("write")?;
    made(move || {
        take(&mut other, &there)?;
        take(&mut one, &back)?;
        one.write_all(&there).during("write")?;
        other.write_all(&back).during("write")
    })
}

const LENGTHS: [usize; 3] = [1, 900, 17];

/// Messages that nobody has read: each comes as it was sent.
fn messages(kind: SockType) -> Made {
    let (one, other) =
        socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).during("socketpair")?;
    let put = move || {
        LENGTHS.iter().try_for_each(|length| {
            send(one.as_raw_fd(), &content(*length), MsgFlags::empty()).map(drop).during("send")
        })
    };
    put()?;
    made(move || {
        for length in LENGTHS {
            let mut bytes = [0; 2000];
            let got = recv(other.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT).during("recv")?;
            same_bytes(&bytes[..got], &content(length))?;
        }
        put()
    })
}

fn unix_datagrams_in_flight() -> Made {
    messages(SockType::Datagram)
}

fn unix_packets_in_flight() -> Made {
    messages(SockType::SeqPacket)
}

/// A pipe whose reading end is nowhere but in a message.
fn unix_descriptor_in_flight() -> Made {
    let (one, other) = UnixStream::pair().during("socketpair")?;
    let (reader, mut writer) = std::io::pipe().during("pipe")?;
    let put = move |fd: OwnedFd| {
        let rights = [fd.as_raw_fd()];
        let parts = [IoSlice::new(b"d")];
        let control = [ControlMessage::ScmRights(&rights)];
        sendmsg::<()>(one.as_raw_fd(), &parts, &control, MsgFlags::empty(), None).map(drop).during("sendmsg")
    };
    put(reader.into())?;
    made(move || {
        writer.write_all(b"through the message").during("write")?;
        let fds = sys::receive_descriptors(&other).during("recvmsg")?;
        let [fd] = <[OwnedFd; 1]>::try_from(fds).map_err(|fds| format!("{} descriptors came", fds.len()))?;
        let mut bytes = [0; 19];
        let mut reader = fs::File::from(fd);
        reader.read_exact(&mut bytes).during("read")?;
        same_bytes(&bytes, b"through the message")?;
        put(reader.into())
    })
}

/// Connected, and not accepted yet.
fn waiting(said: &'static [u8]) -> Made {
    let at = path("listens");
    let listener = UnixListener::bind(&at).during("bind")?;
    listener.set_nonblocking(true).during("O_NONBLOCK")?;
    let connect = move || {
        let mut stream = UnixStream::connect(&at).during("connect")?;
        stream.write_all(said).during("write").map(|()| stream)
    };
    let mut waiting = connect()?;
    made(move || {
        let (mut accepted, _) = listener.accept().during("accept")?;
        take(&mut accepted, said)?;
        accepted.write_all(b"answer").during("write")?;
        take(&mut waiting, b"answer")?;
        waiting = connect()?;
        Ok(())
    })
}

fn unix_connection_that_waits() -> Made {
    waiting(b"")
}

/// It has said something already.
fn unix_connection_that_waits_with_data() -> Made {
    waiting(b"first words")
}

/// A name that is in no file system.
fn unix_abstract_name() -> Made {
    let name = b"exhibit\0with a zero";
    let address = SocketAddr::from_abstract_name(name).during("name")?;
    let listener = UnixListener::bind_addr(&address).during("bind")?;
    made(move || {
        let own = listener.local_addr().during("getsockname")?;
        expect_eq("name", own.as_abstract_name(), Some(&name[..]))?;
        let mut stream = UnixStream::connect_addr(&address).during("connect")?;
        let (mut accepted, _) = listener.accept().during("accept")?;
        stream.write_all(b"hello").during("write")?;
        take(&mut accepted, b"hello")
    })
}

/// The connection goes on, and who listens knows its name.
fn unix_name_that_is_removed() -> Made {
    let at = path("removed");
    let listener = UnixListener::bind(&at).during("bind")?;
    let mut stream = UnixStream::connect(&at).during("connect")?;
    let (mut accepted, _) = listener.accept().during("accept")?;
    fs::remove_file(&at).during("unlink")?;
    made(move || {
        expect_eq("the name is there", at.exists(), false)?;
        let own = listener.local_addr().during("getsockname")?;
        expect_eq("name", own.as_pathname(), Some(at.as_path()))?;
        stream.write_all(b"still").during("write")?;
        take(&mut accepted, b"still")
    })
}

/// What a connection leads to.
fn unix_name_of_the_peer() -> Made {
    let at = path("listens");
    let listener = UnixListener::bind(&at).during("bind")?;
    let stream = UnixStream::connect(&at).during("connect")?;
    let accepted = listener.accept().during("accept")?;
    made(move || {
        let peer = stream.peer_addr().during("getpeername")?;
        expect_eq("the peer's name", peer.as_pathname(), Some(at.as_path()))?;
        accepted.0.peer_addr().map(drop).during("getpeername")
    })
}

/// One way is at its end, the other is open.
fn unix_half_that_is_shut_down() -> Made {
    let (mut one, mut other) = UnixStream::pair().during("socketpair")?;
    one.shutdown(Shutdown::Write).during("shutdown")?;
    made(move || {
        expect_eq("bytes at the end", other.read(&mut [0; 8]).during("read")?, 0)?;
        expect_eq("write", one.write(b"x").map_err(|e| e.kind()), Err(ErrorKind::BrokenPipe))?;
        other.write_all(b"back").during("write")?;
        take(&mut one, b"back")
    })
}

/// Nobody can hear it any more.
fn unix_peer_that_is_gone() -> Made {
    let (mut one, other) = UnixStream::pair().during("socketpair")?;
    drop(other);
    made(move || {
        expect_eq("bytes at the end", one.read(&mut [0; 8]).during("read")?, 0)?;
        expect_eq("write", one.write(b"x").map_err(|e| e.kind()), Err(ErrorKind::BrokenPipe))
    })
}

/// One that is connected to a name, one that says the name each time.
fn named_datagrams() -> Result<(UnixDatagram, PathBuf, impl Fn() -> Checked), String> {
    let (at, from) = (path("receives"), path("sends"));
    let receiver = UnixDatagram::bind(&at).during("bind")?;
    receiver.set_nonblocking(true).during("O_NONBLOCK")?;
    let sender = UnixDatagram::bind(&from).during("bind")?;
    let connected = UnixDatagram::unbound().during("socket")?;
    connected.connect(&at).during("connect")?;
    let put = move || {
        sender.send_to(b"by name", &at).during("sendto")?;
        connected.send(b"by connection").map(drop).during("send")
    };
    put()?;
    Ok((receiver, from, put))
}

/// Receives a message, which comes from one of this name if it matters.
fn expect_message(receiver: &UnixDatagram, text: &[u8], from: Option<&Path>) -> Checked {
    let mut bytes = [0; 64];
    let (got, address) = receiver.recv_from(&mut bytes).during("recvfrom")?;
    same_bytes(&bytes[..got], text)?;
    if from.is_some() { expect_eq("sender", address.as_pathname(), from) } else { Ok(()) }
}

/// Two messages are always under way, and a new one names its sender.
fn unix_datagrams_by_name() -> Made {
    let (receiver, from, put) = named_datagrams()?;
    let mut absences = Absences::default();
    made(move || {
        expect_message(&receiver, b"by name", None)?;
        expect_message(&receiver, b"by connection", None)?;
        put()?;
        if absences.is_back()? {
            expect_message(&receiver, b"by name", Some(&from))?;
            expect_message(&receiver, b"by connection", None)?;
            put()?;
        }
        Ok(())
    })
}

/// So do those that are under way.
fn unix_datagrams_that_name_their_sender() -> Made {
    let (receiver, from, put) = named_datagrams()?;
    made(move || {
        expect_message(&receiver, b"by name", Some(&from))?;
        expect_message(&receiver, b"by connection", None)?;
        put()
    })
}

/// Each has one end.
fn unix_peers_in_two_processes() -> Made {
    let (mut own, mut theirs) = UnixStream::pair().during("socketpair")?;
    let mut child = Child::start(move || {
        Ok(move |_: &str| {
            take(&mut theirs, b"ping")?;
            theirs.write_all(b"pong").during("write").map(|()| String::new())
        })
    })?;
    own.write_all(b"ping").during("write")?;
    made(move || {
        child.check("answer")?;
        take(&mut own, b"pong")?;
        own.write_all(b"ping").during("write")
    })
}

/// Room, time limits, and that messages name who sent them.
fn unix_socket_options() -> Made {
    let (one, other) = UnixStream::pair().during("socketpair")?;
    setsockopt(&one, sockopt::SndBuf, &50_000).during("SO_SNDBUF")?;
    setsockopt(&one, sockopt::RcvBuf, &30_000).during("SO_RCVBUF")?;
    setsockopt(&one, sockopt::PassCred, &true).during("SO_PASSCRED")?;
    let (reads, writes) = (Some(Duration::from_millis(1240)), Some(Duration::from_secs(9)));
    one.set_read_timeout(reads).during("SO_RCVTIMEO")?;
    one.set_write_timeout(writes).during("SO_SNDTIMEO")?;
    made(move || {
        // The kernel doubles what it is asked for.
        expect_eq("SO_SNDBUF", getsockopt(&one, sockopt::SndBuf).during("SO_SNDBUF")?, 100_000)?;
        expect_eq("SO_RCVBUF", getsockopt(&one, sockopt::RcvBuf).during("SO_RCVBUF")?, 60_000)?;
        expect_eq("SO_PASSCRED", getsockopt(&one, sockopt::PassCred).during("SO_PASSCRED")?, true)?;
        expect_eq("SO_RCVTIMEO", one.read_timeout().during("SO_RCVTIMEO")?, reads)?;
        expect_eq("SO_SNDTIMEO", one.write_timeout().during("SO_SNDTIMEO")?, writes)?;
        // The other end must stay for this one to be connected.
        other.peer_addr().map(drop).during("getpeername")
    })
}
