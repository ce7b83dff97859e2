// SPDX-License-Identifier: Apache-2.0
//! Network interfaces, their addresses and routes: a blocking client of rtnetlink(7), as small as an engine needs it.
//!
//! ```text
//!   Netlink::open() ──▶ link · set_up · move_link · make_veth · addresses · add_address · add_route ...
//!                          each is one request and the kernel's answer: message.rs writes and reads the bytes
//!                       records · put: what a namespace holds as the kernel tells it, and back (record.rs)
//!   Netfilter::open() ─▶ tables · delete_table: the firewall's
//!   unix_sockets()    ─▶ which unix socket is connected to which
//! ```
//! A [`Netlink`] belongs to the network namespace of the thread that opened it, wherever it is used.

mod address;
mod link;
mod message;
mod netfilter;
mod record;
mod unix;

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, socket,
};

pub use address::{Address, Route};
pub use link::{Link, LinkStatistics, Move, Veth};
use message::{Message, Request, messages};
pub use netfilter::{Netfilter, Table};
pub use record::{Record, RecordKind};
pub use unix::{UnixSocket, unix_sockets};

/// The kernel's answers fit (its own limit for one of them is 32 KiB).
const BUFFER: usize = 64 * 1024;

/// How often a listing is repeated that a change has run into.
const ATTEMPTS: usize = 10;

/// A connection to the network of one namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: Cell<u32>,
}

impl Netlink {
    /// Connects to the network namespace of the calling thread.
    ///
    /// # Errors
    /// Those of socket(2) and bind(2).
    pub fn open() -> io::Result<Self> {
        Self::of(SockProtocol::NetlinkRoute)
    }

    fn of(protocol: SockProtocol) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { socket, sequence: Cell::new(0) })
    }

    /// Connects to the network namespace behind the descriptor.
    ///
    /// # Errors
    /// That of setns(2), and as [`Netlink::open`].
    pub fn in_namespace(namespace: &(impl AsFd + Sync)) -> io::Result<Self> {
        super::namespace::in_network_namespace(namespace, Self::open)?
    }

    /// Sends a request that the kernel answers with success or an error number.
    fn execute(&self, mut request: Request) -> io::Result<()> {
        request.add_flags(message::ACKNOWLEDGE);
        self.exchange(request, |_| {}).map(drop)
    }

    /// Sends a request that the kernel answers with one message.
    fn ask<T>(
        &self,
        request: Request,
        mut read: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> io::Result<Option<T>> {
        let mut answer = None;
        self.exchange(request, |message| answer = answer.take().or_else(|| read(message)))?;
        Ok(answer)
    }

    /// Sends a request for a listing. One that a change has run into is asked for again.
    fn list<T>(&self, request: &Request, read: impl Fn(&Message<'_>) -> Option<T>) -> io::Result<Vec<T>> {
        for _ in 0..ATTEMPTS {
            let mut request = request.clone();
            request.add_flags(message::DUMP);
            let mut found = Vec::new();
            if self.exchange(request, |message| found.extend(read(message)))? {
                return Ok(found);
            }
        }
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    }

    /// Sends a request and reads to the end of the answer. Tells whether nothing has changed in between.
    fn exchange(&self, request: Request, each: impl FnMut(&Message<'_>)) -> io::Result<bool> {
        let sequence = self.next();
        let (is_listing, bytes) = (request.is_listing(), request.finish(sequence));
        let to_the_end = is_listing || message::is_acknowledged(&bytes);
        self.send(&bytes)?;
        self.receive(sequence, to_the_end, each)
    }

    /// The number of the next request.
    fn next(&self) -> u32 {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        sequence
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.socket.as_raw_fd(), bytes, &kernel, MsgFlags::empty())?;
        Ok(())
    }

    /// Reads the answer to the request of this number: all of it, or its first message.
    fn receive(
        &self,
        sequence: u32,
        to_the_end: bool,
        mut each: impl FnMut(&Message<'_>),
    ) -> io::Result<bool> {
        let mut buffer = vec![0; BUFFER];
        let mut consistent = true;
        loop {
            let length = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC) {
                Err(nix::errno::Errno::EINTR) => continue,
                other => other?,
            };
            // A longer packet was cut off.
            let packet = buffer.get(..length).ok_or_else(|| io::Error::from_raw_os_error(libc::EMSGSIZE))?;
            for message in messages(packet) {
                let message = message?;
                if message.sequence != sequence {
                    continue;
                }
                consistent &= !message.was_interrupted();
                match message.outcome() {
                    Some(outcome) => return outcome.map(|()| consistent),
                    None => each(&message),
                }
                if !to_the_end {
                    return Ok(consistent);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// Runs on a thread with a network namespace of its own.
    fn in_new_namespace(work: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("unshare needs root");
                work();
            });
            thread.join().expect("the work succeeds");
        });
    }

    fn new_namespace() -> std::fs::File {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("unshare needs root");
                std::fs::File::open("/proc/thread-self/ns/net").expect("open")
            });
            thread.join().expect("the thread ends")
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn what_is_not_there_is_told_by_number() {
        in_new_namespace(|| {
            let netlink = Netlink::open().expect("open");
            assert!(netlink.link("nothing0").expect("ask").is_none());
            let error = netlink.set_up(77).expect_err("there is no such interface");
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
            assert_eq!(netlink.link("lo").expect("ask").expect("it is there").index, 1);
        });
    }

    #[test]
    fn a_veth_reaches_into_another_namespace_with_everything_that_was_asked_for() {
        in_new_namespace(|| {
            let other = new_namespace();
            let (here, there) =
                (Netlink::open().expect("open"), Netlink::in_namespace(&other).expect("open"));
            let mac = [0x02, 0x42, 1, 2, 3, 4];
            here.make_veth(&Veth {
                name: "mnl-host",
                index: None,
                mac: None,
                peer: "eth0",
                peer_namespace: other.as_fd(),
                peer_mac: Some(mac),
                mtu: Some(1400),
                queue_length: Some(77),
            })
            .expect("make a veth");
            let host = here.link("mnl-host").expect("ask").expect("the host's end");
            let peer = there.link("eth0").expect("ask").expect("the container's end");
            assert_eq!((host.kind.as_str(), host.mtu, peer.mtu), ("veth", 1400, 1400));
            assert_eq!((peer.mac, peer.queue_length), (Some(mac), 77));
            for (netlink, link, address) in [(&here, &host, "10.9.0.1"), (&there, &peer, "10.9.0.2")] {
                netlink.set_up(link.index).expect("up");
                netlink.add_address(link.index, &Address::global(ip(address), 24)).expect("add an address");
            }
            let six = Address { unchecked: true, ..Address::global(ip("fd00:9::2"), 64) };
            there.add_address(peer.index, &six).expect("add an address");
            let route = |gateway: &str| Route {
                destination: None,
                gateway: Some(ip(gateway)),
                source: None,
                link: Some(peer.index),
            };
            there.add_route(&route("10.9.0.1")).expect("add a route");
            there.add_route(&route("fd00:9::1")).expect("add a route");
            let error = there.add_route(&route("10.9.0.1")).expect_err("it is there");
            assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
            let found = there.addresses(peer.index).expect("list");
            let global: Vec<_> =
                found.iter().filter(|a| a.is_global() && a.permanent).map(|a| (a.local, a.prefix)).collect();
            assert_eq!(global, [(ip("10.9.0.2"), 24), (ip("fd00:9::2"), 64)]);
            assert!(there.link("eth0").expect("ask").expect("there").is_up());
            here.remove(host.index).expect("remove");
            assert!(there.link("eth0").expect("ask").is_none(), "a pair goes together");
        });
    }

    #[test]
    fn an_interface_moves_and_is_renamed_at_once() {
        in_new_namespace(|| {
            let (this, other) =
                (std::fs::File::open("/proc/thread-self/ns/net").expect("open"), new_namespace());
            let (here, there) =
                (Netlink::open().expect("open"), Netlink::in_namespace(&other).expect("open"));
            here.make_veth(&Veth::plain("mnl0", "mnl1", this.as_fd())).expect("make a veth");
            let index = here.link("mnl1").expect("ask").expect("there").index;
            here.move_link(index, &Move { name: "data0", namespace: other.as_fd(), index: Some(77) })
                .expect("move");
            assert!(here.link("mnl1").expect("ask").is_none());
            assert_eq!(there.link("data0").expect("ask").expect("there").index, 77);
            let names: Vec<_> = there.links().expect("list").into_iter().map(|link| link.name).collect();
            assert!(names.contains(&"lo".to_owned()) && names.contains(&"data0".to_owned()), "{names:?}");
        });
    }

    #[test]
    fn a_bridge_takes_a_port_and_sends_back_where_it_came_from() {
        in_new_namespace(|| {
            let here = Netlink::open().expect("open");
            let this = std::fs::File::open("/proc/thread-self/ns/net").expect("open");
            here.make_bridge("mnlbr").expect("make a bridge");
            here.make_veth(&Veth::plain("mnl0", "mnl1", this.as_fd())).expect("make a veth");
            let bridge = here.link("mnlbr").expect("ask").expect("there");
            let port = here.link("mnl0").expect("ask").expect("there");
            here.set_master(port.index, bridge.index).expect("attach");
            here.set_hairpin(port.index).expect("hairpin");
            let port = here.link("mnl0").expect("ask").expect("there");
            assert_eq!((port.master, port.hairpin), (Some(bridge.index), true));
            assert_eq!(bridge.kind, "bridge");
        });
    }
}
