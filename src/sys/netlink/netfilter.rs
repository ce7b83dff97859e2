// SPDX-License-Identifier: Apache-2.0
//! The tables of nftables in a network namespace, by name, and one that keeps all packets away (`linux/netfilter/nfnetlink.h`,
//! `linux/netfilter/nf_tables.h`).

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
const NEWCHAIN: u16 = NFTABLES | 3;
/// What begins and ends a change.
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;

/// Attributes of a table.
const NAME: u16 = 1;
/// The size of `struct nfgenmsg`.
const FIXED: usize = 4;

/// Attributes of a chain, and of where it hooks in.
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_KIND: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const HOOK_INTERFACE: u16 = 3;
/// `NFPROTO_NETDEV`, its `NF_NETDEV_` hooks, and `NF_DROP`.
const INTERFACES: u8 = 5;
const INGRESS: u32 = 0;
const EGRESS: u32 = 1;
const DROP: u32 = 0;
/// Before everybody else.
const PRIORITY: i32 = -500;

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
        let mut delete = Request::new(DELTABLE, message::ACKNOWLEDGE, &of_family(table.family));
        delete.text(NAME, &table.name);
        match self.change(vec![delete]) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Makes a table that lets no packet of any kind in through these interfaces, nor out where the kernel can tell (Linux 5.16). One
    /// of this name is replaced.
    ///
    /// # Errors
    /// The kernel's number: `EOPNOTSUPP` for one without such tables.
    pub fn bar(&self, name: &str, interfaces: &[String]) -> io::Result<Table> {
        match self.change(barrier(name, interfaces, &[INGRESS, EGRESS])) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
                self.change(barrier(name, interfaces, &[INGRESS]))
            }
            changed => changed,
        }?;
        Ok(Table { family: INTERFACES, name: name.to_owned() })
    }

    /// Makes all of these changes or none.
    fn change(&self, requests: Vec<Request>) -> io::Result<()> {
        let subsystem = (NFTABLES >> 8).to_be_bytes();
        let edge = |kind| Request::new(kind, 0, &[0, 0, subsystem[0], subsystem[1]]);
        let mut bytes = edge(BEGIN).finish(self.0.next());
        let mut numbers = Vec::new();
        for mut request in requests {
            request.add_flags(message::ACKNOWLEDGE);
            let number = self.0.next();
            bytes.extend(request.finish(number));
            numbers.push(number);
        }
        bytes.extend(edge(END).finish(self.0.next()));
        self.0.send(&bytes)?;
        numbers.into_iter().try_for_each(|number| self.0.receive(number, true, |_| {}).map(drop))
    }
}

fn of_family(family: u8) -> [u8; FIXED] {
    [family, 0, 0, 0]
}

/// A table that was there is one that is deleted: there is no moment without.
fn barrier(name: &str, interfaces: &[String], hooks: &[u32]) -> Vec<Request> {
    let table = |kind, flags| {
        let mut request = Request::new(kind, flags, &of_family(INTERFACES));
        request.text(NAME, name);
        request
    };
    let mut requests = vec![
        table(NEWTABLE, message::CREATE_OR_KEEP),
        table(DELTABLE, 0),
        table(NEWTABLE, message::CREATE_OR_KEEP),
    ];
    for (n, interface) in interfaces.iter().enumerate() {
        for hook in hooks {
            let mut chain = Request::new(NEWCHAIN, message::CREATE_OR_KEEP, &of_family(INTERFACES));
            chain.text(CHAIN_TABLE, name).text(CHAIN_NAME, &format!("{n}-{hook}"));
            chain.marked(CHAIN_HOOK, |inner| {
                inner
                    .attribute(HOOK_NUMBER, &hook.to_be_bytes())
                    .attribute(HOOK_PRIORITY, &PRIORITY.to_be_bytes())
                    .text(HOOK_INTERFACE, interface);
            });
            chain.attribute(CHAIN_POLICY, &DROP.to_be_bytes()).text(CHAIN_KIND, "filter");
            requests.push(chain);
        }
    }
    requests
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

    #[test]
    fn nothing_comes_in_through_a_barred_interface_until_the_table_is_deleted() {
        let work = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare needs root");
            let this = std::fs::File::open("/proc/thread-self/ns/net").expect("open");
            let netfilter = Netfilter::in_namespace(&this).expect("open");
            let said = |words: &str| {
                let mut words = words.split_whitespace();
                let output = Command::new(words.next().expect("a word")).args(words).output().expect("run");
                String::from_utf8_lossy(&output.stdout).into_owned()
            };
            said("ip link set lo up");
            said("ip link add e0 type veth peer e1");
            let names = ["e0", "e1"].map(str::to_owned);
            let barrier = netfilter.bar("stands-still", &names).expect("bar");
            assert_eq!(netfilter.bar("stands-still", &names).expect("again"), barrier);
            let rules = said("nft list ruleset");
            for hook in ["hook ingress device \"e0\"", "hook egress device \"e1\""] {
                let chain = format!("type filter {hook} priority -500; policy drop;");
                assert_eq!(rules.matches(&chain).count(), 1, "{rules}");
            }
            assert!(netfilter.delete_table(&barrier).expect("delete"));
            assert_eq!(netfilter.tables().expect("list"), []);
            let missing = netfilter.bar("stands-still", &["none0".to_owned()]);
            // Newer kernels wait for the interface.
            assert!(missing.is_ok() || netfilter.tables().expect("list").is_empty());
        };
        std::thread::scope(|scope| scope.spawn(work).join().expect("the work succeeds"));
    }
}
