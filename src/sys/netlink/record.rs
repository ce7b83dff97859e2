// SPDX-License-Identifier: Apache-2.0
//! What a network namespace holds, in the kernel's own form: addresses, routes, rules of routing and neighbours as the
//! kernel lists them, and back. Nothing is lost by a translation, and nothing needs one (rtnetlink(7),
//! `linux/rtnetlink.h`, `linux/fib_rules.h`, `linux/neighbour.h`).
//!
//! A record may come from an archive: of its attributes only those are passed on that name nothing outside of the
//! namespace, neither by a descriptor nor by the number of another namespace.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use super::Netlink;
use super::message::{CREATE, CREATE_OR_REPLACE, Message, Request, attributes, u16_at, u32_at};

const NEWADDR: u16 = 20;
const NEWROUTE: u16 = 24;
const NEWNEIGH: u16 = 28;
const NEWRULE: u16 = 32;

/// Attributes of routes.
const OUTPUT: u16 = 4;
const GATEWAY: u16 = 5;
const MULTIPATH: u16 = 9;
const VIA: u16 = 18;
const FLOW: u16 = 11;
/// The size of `struct rtnexthop`.
const NEXT_HOP: usize = 8;
/// `RTM_F_CLONED`; `RTNH_F_DEAD` and `RTNH_F_LINKDOWN`, which the kernel sets itself and does not take back.
const CLONED: u32 = 0x200;
const NOT_OURS: u32 = 0x11;
/// Made by the kernel itself (`RTPROT_KERNEL`).
const BY_KERNEL: u8 = 2;
/// Told by a router (`RTPROT_RA`): it is told again.
const BY_ROUTER: u8 = 9;

/// The attribute of an address that holds its flags, and that it can be used at once (IPv6).
const ADDRESS_FLAGS: u16 = 8;
const UNCHECKED: u32 = 0x02;
/// That somebody was asked and has not answered yet, and that somebody has it already.
const IN_DOUBT: u32 = 0x40 | 0x08;

/// Of a rule: who has made it.
const RULE_PROTOCOL: u16 = 21;
/// Of a neighbour: set by somebody (`NUD_PERMANENT`); one that is answered for (`NTF_PROXY`).
const PERMANENT: u16 = 0x80;
const PROXY: u8 = 0x08;

/// A record longer than this is none.
const LONGEST: usize = 16 << 10;

/// What kind of thing a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordKind {
    /// An address of an interface.
    Address,
    /// A route of any table.
    Route,
    /// A rule that chooses a table.
    Rule,
    /// A neighbour that somebody has set.
    Neighbour,
}

impl RecordKind {
    /// All, in an order in which they can be put back.
    pub const ALL: [Self; 4] = [Self::Address, Self::Route, Self::Rule, Self::Neighbour];

    fn new_message(self) -> u16 {
        match self {
            Self::Address => NEWADDR,
            Self::Route => NEWROUTE,
            Self::Rule => NEWRULE,
            Self::Neighbour => NEWNEIGH,
        }
    }

    /// The size of the structure at the beginning.
    fn fixed(self) -> usize {
        match self {
            Self::Address => 8,
            Self::Route | Self::Rule | Self::Neighbour => 12,
        }
    }

    /// The attributes that are passed on.
    fn knows(self, attribute: u16) -> bool {
        match self {
            // All but IFA_TARGET_NETNSID.
            Self::Address => matches!(attribute, 1..=6 | 8 | 9 | 11),
            // Neither RTA_ENCAP, which can hold a program by descriptor, nor RTA_NH_ID.
            Self::Route => matches!(attribute, 1 | 2 | 4..=9 | 11 | 15 | 16 | 18 | 20),
            Self::Rule => matches!(attribute, 1..=25),
            Self::Neighbour => matches!(attribute, 1 | 2 | 12 | 15),
        }
    }
}

/// One of them, as the kernel tells it: a structure and attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub kind: RecordKind,
    body: Vec<u8>,
}

impl Record {
    /// A record of these bytes; `None` when they are none.
    pub fn new(kind: RecordKind, body: Vec<u8>) -> Option<Self> {
        let whole = body.len() <= LONGEST && body.len() >= kind.fixed();
        whole.then_some(Self { kind, body })
    }

    /// Its bytes.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The interface that it is of, where it is of one: its number there.
    pub fn link(&self) -> Option<u32> {
        let index = match self.kind {
            RecordKind::Address | RecordKind::Neighbour => u32_at(&self.body, 4),
            RecordKind::Route => self.attribute(OUTPUT).and_then(|value| u32_at(value, 0)),
            RecordKind::Rule => None,
        };
        index.filter(|index| *index != 0)
    }

    fn attribute(&self, kind: u16) -> Option<&[u8]> {
        attributes(&self.body, self.kind.fixed()).find(|(k, _)| *k == kind).map(|(_, value)| value)
    }

    /// Whether all of it is passed on.
    pub fn is_complete(&self) -> bool {
        let hops =
            |value: &[u8]| next_hops(value).all(|hop| attributes(hop, NEXT_HOP).all(|(k, _)| of_hop(k)));
        attributes(&self.body, self.kind.fixed()).all(|(kind, value)| match (self.kind, kind) {
            // What the kernel adds by itself: caches, statistics, preferences that have a default.
            (RecordKind::Address, 7) | (RecordKind::Route, 12 | 19 | 26) | (RecordKind::Neighbour, 3 | 4) => {
                true
            }
            (RecordKind::Route, MULTIPATH) => hops(value),
            _ => self.kind.knows(kind),
        })
    }

    /// Whether it means the same elsewhere: an address that is valid everywhere and stays, a route that no router has told.
    pub fn can_move(&self) -> bool {
        let body = &self.body;
        match self.kind {
            RecordKind::Address => {
                let flags = self.attribute(ADDRESS_FLAGS).and_then(|value| u32_at(value, 0));
                let flags = flags.or_else(|| body.get(2).copied().map(u32::from)).unwrap_or(0);
                body.get(3) == Some(&0) && flags & u32::from(PERMANENT) != 0
            }
            RecordKind::Route => body.get(5) != Some(&BY_ROUTER),
            RecordKind::Rule | RecordKind::Neighbour => true,
        }
    }

    /// Whether somebody has made it, so that it does not come by itself with an interface.
    fn is_somebodys(&self) -> bool {
        let body = &self.body;
        match self.kind {
            RecordKind::Address => true,
            RecordKind::Route => {
                body.get(5) != Some(&BY_KERNEL) && u32_at(body, 8).unwrap_or(0) & CLONED == 0
            }
            RecordKind::Rule => {
                !attributes(body, self.kind.fixed()).any(|(k, v)| k == RULE_PROTOCOL && v == [BY_KERNEL])
            }
            RecordKind::Neighbour => {
                u16_at(body, 8).unwrap_or(0) & PERMANENT != 0 || body.get(10).is_some_and(|f| f & PROXY != 0)
            }
        }
    }

    /// The request of this type about it, with the numbers of interfaces as they are now.
    fn request(&self, message: u16, flags: u16, indexes: &BTreeMap<u32, u32>) -> io::Result<Request> {
        let now = |index: u32| match index {
            0 => Ok(0),
            old => indexes.get(&old).copied().ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV)),
        };
        let size = self.kind.fixed();
        let mut fixed = self.body[..size].to_vec();
        match self.kind {
            RecordKind::Address | RecordKind::Neighbour => {
                let index = now(u32_at(&fixed, 4).unwrap_or(0))?;
                fixed[4..8].copy_from_slice(&index.to_ne_bytes());
            }
            RecordKind::Route => {
                let flags = u32_at(&fixed, 8).unwrap_or(0) & !NOT_OURS;
                fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
            }
            RecordKind::Rule => {}
        }
        let mut request = Request::new(message, flags, &fixed);
        for (kind, value) in attributes(&self.body, size).filter(|(kind, _)| self.kind.knows(*kind)) {
            match (self.kind, kind) {
                (RecordKind::Route, OUTPUT) => {
                    request.number(OUTPUT, now(u32_at(value, 0).unwrap_or(0))?);
                }
                (RecordKind::Route, MULTIPATH) => {
                    request.attribute(MULTIPATH, &renumbered_hops(value, now)?);
                }
                (RecordKind::Address, ADDRESS_FLAGS) => {
                    // Nobody took it while nobody used it: it must be there at once.
                    let flags = u32_at(value, 0).unwrap_or(0) & !IN_DOUBT;
                    request.number(ADDRESS_FLAGS, flags | UNCHECKED);
                }
                _ => {
                    request.attribute(kind, value);
                }
            }
        }
        Ok(request)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, address) = match self.kind {
            RecordKind::Address => ("address", self.attribute(2).or_else(|| self.attribute(1))),
            RecordKind::Route => ("route to", self.attribute(1)),
            RecordKind::Rule => ("routing rule", self.attribute(2)),
            RecordKind::Neighbour => ("neighbour", self.attribute(1)),
        };
        let prefix = self.body.get(1).copied().unwrap_or_default();
        match address.and_then(super::address::ip) {
            Some(address) if self.kind == RecordKind::Neighbour => write!(f, "{what} {address}"),
            Some(address) => write!(f, "{what} {address}/{prefix}"),
            None if self.kind == RecordKind::Route => write!(f, "{what} everywhere"),
            None => f.write_str(what),
        }
    }
}

/// The attributes of one way of several that are passed on.
fn of_hop(attribute: u16) -> bool {
    matches!(attribute, GATEWAY | FLOW | VIA)
}

/// The ways of a route with several: `struct rtnexthop` with attributes, each with its length in front.
fn next_hops(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let hop = rest.get(..length).filter(|hop| hop.len() >= NEXT_HOP)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(hop)
    })
}

fn renumbered_hops(value: &[u8], now: impl Fn(u32) -> io::Result<u32>) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    for hop in next_hops(value) {
        let start = all.len();
        all.extend_from_slice(&hop[..NEXT_HOP]);
        all[start + 2] &= !(NOT_OURS as u8);
        let index = now(u32_at(hop, 4).unwrap_or(0))?;
        all[start + 4..start + 8].copy_from_slice(&index.to_ne_bytes());
        for (kind, value) in attributes(hop, NEXT_HOP).filter(|(kind, _)| of_hop(*kind)) {
            let length = (4 + value.len()) as u16;
            all.extend_from_slice(&length.to_ne_bytes());
            all.extend_from_slice(&kind.to_ne_bytes());
            all.extend_from_slice(value);
            all.resize(all.len().next_multiple_of(4), 0);
        }
        let length = (all.len() - start) as u16;
        all[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }
    Ok(all)
}

impl Netlink {
    /// What there is of a kind that somebody has made.
    ///
    /// # Errors
    /// The kernel's number.
    pub fn records(&self, kind: RecordKind) -> io::Result<Vec<Record>> {
        let read = |message: &Message<'_>| {
            (message.kind == kind.new_message()).then(|| Record::new(kind, message.body.to_vec())).flatten()
        };
        let mut found = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut fixed = vec![0; kind.fixed()];
            fixed[0] = family as u8;
            // The request for a listing has the number of the message for a new one, and two more.
            let request = Request::new(kind.new_message() + 2, 0, &fixed);
            found.extend(self.list(&request, read)?);
            if kind == RecordKind::Neighbour {
                fixed[10] = PROXY;
                found.extend(self.list(&Request::new(kind.new_message() + 2, 0, &fixed), read)?);
            }
        }
        found.retain(Record::is_somebodys);
        Ok(found)
    }

    /// Makes it here; `indexes` tells which number an interface has now that had another one where it comes from.
    ///
    /// # Errors
    /// The kernel's number: `EEXIST` for an address or rule that is there, `ENETUNREACH` for a route by way of who cannot be reached
    /// yet, `ENODEV` for an interface that `indexes` does not know.
    pub fn put(&self, record: &Record, indexes: &BTreeMap<u32, u32>) -> io::Result<()> {
        let flags = match record.kind {
            RecordKind::Route | RecordKind::Neighbour => CREATE_OR_REPLACE,
            RecordKind::Address | RecordKind::Rule => CREATE,
        };
        self.execute(record.request(record.kind.new_message(), flags, indexes)?)
    }

    /// Removes it here.
    ///
    /// # Errors
    /// The kernel's number: `EADDRNOTAVAIL` or `ESRCH` for what is not there, `ENODEV` for an interface that `indexes` does not know.
    pub fn take_away(&self, record: &Record, indexes: &BTreeMap<u32, u32>) -> io::Result<()> {
        // The number of the message for a new one, and one more.
        self.execute(record.request(record.kind.new_message() + 1, 0, indexes)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};
    use proptest::prelude::*;

    use super::*;
    use crate::sys::netlink::Veth;

    fn ip(args: &str) -> String {
        let output = Command::new("ip").args(args.split_whitespace()).output().expect("run ip(8)");
        assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs on a thread with a network namespace of its own, which has `eth0` and `eth1`, a pair.
    fn in_new_namespace<T: Send>(work: impl FnOnce(&Netlink) -> T + Send) -> T {
        let body = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare needs root");
            let this = std::fs::File::open("/proc/thread-self/ns/net").expect("open");
            let netlink = Netlink::open().expect("open");
            netlink.set_up(1).expect("lo");
            netlink.make_veth(&Veth::plain("eth0", "eth1", this.as_fd())).expect("make a veth");
            for link in netlink.links().expect("list").iter().filter(|link| link.kind == "veth") {
                netlink.set_up(link.index).expect("up");
            }
            work(&netlink)
        };
        std::thread::scope(|scope| scope.spawn(body).join().expect("the work succeeds"))
    }

    #[test]
    fn what_one_namespace_holds_another_one_gets() {
        let shown = || {
            [
                "-4 route show table all",
                "-6 route show table 77",
                "rule show",
                "-6 rule show",
                "neigh show nud permanent",
            ]
            .map(|what| ip(what).lines().map(|l| l.trim().replace(" linkdown", "")).collect::<Vec<_>>())
        };
        let (records, before, indexes) = in_new_namespace(|netlink| {
            for command in [
                "addr add 10.7.0.2/24 brd + dev eth0 label eth0:x",
                "addr add 10.7.1.1 peer 10.7.1.2 dev eth0",
                "addr add fd00:7::2/64 nodad dev eth0",
                "route add default via 10.7.0.1",
                "route add 10.8.0.0/16 via 10.7.0.9 metric 7 mtu 1300 table 77",
                "route add 10.9.0.0/16 nexthop via 10.7.0.3 weight 2 nexthop via 10.7.0.4",
                "route add blackhole 10.10.0.0/16",
                "-6 route add fd00:8::/64 via fd00:7::9 table 77",
                "rule add from 10.7.0.2 lookup 77 priority 100",
                "-6 rule add fwmark 7 lookup 77 priority 101",
                "neigh add 10.7.0.1 lladdr 02:00:00:00:00:09 nud permanent dev eth0",
            ] {
                ip(command);
            }
            let records: Vec<_> =
                RecordKind::ALL.iter().flat_map(|k| netlink.records(*k).expect("list")).collect();
            assert!(records.iter().all(Record::is_complete), "{records:?}");
            let said: Vec<_> = records.iter().map(Record::to_string).collect();
            for words in
                ["address 10.7.0.2/24", "route to everywhere", "route to 10.8.0.0/16", "neighbour 10.7.0.1"]
            {
                assert!(said.iter().any(|s| s == words), "{words} should be among {said:?}");
            }
            let indexes: Vec<_> =
                netlink.links().expect("list").iter().map(|l| (l.name.clone(), l.index)).collect();
            (records, shown(), indexes)
        });
        in_new_namespace(|netlink| {
            let now = netlink.links().expect("list");
            let map = indexes
                .iter()
                .filter_map(|(name, old)| Some((*old, now.iter().find(|l| l.name == *name)?.index)))
                .collect();
            for record in &records {
                match netlink.put(record, &map) {
                    // `lo` has its own already.
                    Err(e) if e.raw_os_error() == Some(libc::EEXIST) && record.link() == Some(1) => {}
                    put => put.unwrap_or_else(|e| panic!("{record:?}: {e}")),
                }
            }
            assert_eq!(shown(), before);
            assert!(
                ip("addr show dev eth0").contains("label") || ip("addr show dev eth0").contains("eth0:x")
            );
            // An interface that is not known is not any.
            let unknown = netlink.put(&records[0], &BTreeMap::new()).expect_err("no such interface");
            assert_eq!(unknown.raw_os_error(), Some(libc::ENODEV));
        });
    }

    #[test]
    fn what_leads_outside_is_not_passed_on() {
        let mut body = vec![0; 8];
        body[0] = libc::AF_INET as u8;
        body.extend([8, 0, 10, 0, 1, 0, 0, 0]);
        let record = Record::new(RecordKind::Address, body).expect("a record");
        assert!(!record.is_complete());
        let bytes = record.request(NEWROUTE, CREATE, &BTreeMap::new()).expect("a request").finish(1);
        assert_eq!(bytes.len(), 16 + 8, "the number of a namespace is left out");
        assert_eq!(Record::new(RecordKind::Route, vec![0; 11]), None);
        assert_eq!(Record::new(RecordKind::Route, vec![0; LONGEST + 1]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fall_over(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..4_usize) {
            if let Some(record) = Record::new(RecordKind::ALL[kind], bytes) {
                let _ = (record.is_complete(), record.is_somebodys());
                let _ = record.request(NEWROUTE, CREATE, &(0..300).map(|i| (i, i)).collect()).map(|r| r.finish(1));
            }
        }
    }
}
