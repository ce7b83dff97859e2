// SPDX-License-Identifier: Apache-2.0
//! The tables of nftables in a network namespace, by name (`linux/netfilter/nfnetlink.h`, `linux/netfilter/nf_tables.h`).

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::SockProtocol;

use super::Netlink;
use super::message::{self, Message, Request, attributes, text_of};

/// `NFNL_SUBSYS_NFTABLES` and its messages.
const NFTABLES: u16 = 10 << 8;
const NEWTABLE: u16 = NFTABLES;
const GETTABLE: u16 = NFTABLES | 1;
const DELTABLE: u16 = NFTABLES | 2;
/// What begins and ends a change.
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;

/// Attributes of a table.
const NAME: u16 = 1;
/// The size of `struct nfgenmsg`.
const FIXED: usize = 4;

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// `NFPROTO_`: 1 for `inet`, 2 for `ip`, 10 for `ip6`, and so on.
    pub family: u8,
    /// Its name.
    pub name: String,
}

/// A connection to the firewall of one network namespace.
#[derive(Debug)]
pub struct Netfilter(Netlink);

impl Netfilter {
    /// Connects to the network namespace behind the descriptor.
    ///
    /// # Errors
    /// That of setns(2), those of socket(2): `EPROTONOSUPPORT` for a kernel without.
    pub fn in_namespace(namespace: &(impl AsFd + Sync)) -> io::Result<Self> {
        let open = || Netlink::of(SockProtocol::NetlinkNetFilter);
        crate::sys::namespace::in_network_namespace(namespace, open)?.map(Self)
    }

    /// All tables; none in a kernel without nftables.
    ///
    /// # Errors
    /// The kernel's number.
    pub fn tables(&self) -> io::Result<Vec<Table>> {
        let read = |message: &Message<'_>| {
            let name = attributes(message.body, FIXED).find(|(kind, _)| *kind == NAME)?.1;
            (message.kind == NEWTABLE).then(|| Table { family: message.body[0], name: text_of(name) })
        };
        match self.0.list(&Request::new(GETTABLE, 0, &[0; FIXED]), read) {
            // The part of the kernel that would answer is not there.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => Ok(Vec::new()),
            listed => listed,
        }
    }

    /// Deletes a table with all that is in it. Tells whether it was there.
    ///
    /// # Errors
    /// The kernel's number.
    pub fn delete_table(&self, table: &Table) -> io::Result<bool> {
        let subsystem = (NFTABLES >> 8).to_be_bytes();
        let edge = |kind| Request::new(kind, 0, &[0, 0, subsystem[0], subsystem[1]]);
        let mut delete = Request::new(DELTABLE, message::ACKNOWLEDGE, &[table.family, 0, 0, 0]);
        delete.text(NAME, &table.name);
        let (first, number, last) = (self.0.next(), self.0.next(), self.0.next());
        let bytes = [edge(BEGIN).finish(first), delete.finish(number), edge(END).finish(last)].concat();
        self.0.send(&bytes)?;
        match self.0.receive(number, true, |_| {}) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn a_table_is_found_and_deleted_and_others_stay() {
        let work = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare needs root");
            let this = std::fs::File::open("/proc/thread-self/ns/net").expect("open");
            let netfilter = Netfilter::in_namespace(&this).expect("open");
            assert_eq!(netfilter.tables().expect("list"), []);
            let rules = "add table inet CRIU-x; add chain inet CRIU-x input { type filter hook input priority 0; }; \
                         add table ip mine";
            let done = Command::new("nft").arg(rules).output().expect("run nft(8)");
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            let tables = netfilter.tables().expect("list");
            let [ours, mine] =
                [(1, "CRIU-x"), (2, "mine")].map(|(family, name)| Table { family, name: name.to_owned() });
            assert_eq!(tables, [ours.clone(), mine.clone()]);
            assert!(netfilter.delete_table(&ours).expect("delete"));
            assert!(!netfilter.delete_table(&ours).expect("it is gone"));
            assert_eq!(netfilter.tables().expect("list"), [mine]);
        };
        std::thread::scope(|scope| scope.spawn(work).join().expect("the work succeeds"));
    }
}
