// SPDX-License-Identifier: Apache-2.0
//! A container that stands still, and the packets for it: the kernel would answer them in its place. The fence keeps them away from its
//! network namespace, whoever dies, until the container goes on or ends; and addresses of a namespace that is not the container's own can come
//! and go with it.
//!
//! ```text
//!  raise ──▶ network-fence.json, then the table ─┬─▶ lower: the table goes, the neighbours are told, the file goes
//!                                                └─▶ the container ends: its addresses go, the table goes, the file goes
//! ```
//! Nothing is done in the namespace of the caller, which is the host's. Must not know why the container stands still.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::saved::SavedRecord;
use super::survey::namespace_of;
use crate::engine::state::{read_record, remove_record, replace_file};
use crate::engine::{Container, Namespaces, NewContainer};
use crate::spec::Config;
use crate::sys::announce::announce;
use crate::sys::namespace::in_network_namespace;
use crate::sys::netlink::{Address, Link, Netfilter, Netlink, Record, RecordKind, Table};
use crate::{Context, Error, ErrorKind, Result};

const FILE: &str = "network-fence.json";

/// What the name of the table begins with; the container's id follows.
const PREFIX: &str = "migrate-fence-";

/// A table's name is not longer (`NFT_NAME_MAXLEN`).
const LONGEST: usize = 255;

/// No container has more of them.
const MOST: usize = 4096;

/// The addresses of a network namespace that somebody else has made, and the routes by way of their interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MovingAddresses {
    /// The interfaces by their number where the records are from.
    interfaces: BTreeMap<u32, String>,
    records: Vec<SavedRecord>,
}

impl MovingAddresses {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The names of their interfaces.
    pub fn interfaces(&self) -> impl Iterator<Item = &str> {
        self.interfaces.values().map(String::as_str)
    }

    fn found(netlink: &Netlink) -> io::Result<Self> {
        let mut interfaces: BTreeMap<u32, String> = netlink
            .links()?
            .into_iter()
            .filter(|link| !link.is_loopback())
            .map(|link| (link.index, link.name))
            .collect();
        let mut records = Vec::new();
        for kind in [RecordKind::Address, RecordKind::Route] {
            let of_theirs =
                |record: &Record| record.link().is_some_and(|link| interfaces.contains_key(&link));
            records.extend(netlink.records(kind)?.into_iter().filter(|r| of_theirs(r) && r.can_move()));
        }
        interfaces.retain(|index, _| records.iter().any(|record| record.link() == Some(*index)));
        Ok(Self { interfaces, records: records.iter().map(SavedRecord::of).collect() })
    }

    /// What a record is about, whatever number its interface has.
    fn name(&self, saved: &SavedRecord) -> Option<String> {
        let record = saved.record()?;
        Some(format!("{} {record}", self.interfaces.get(&record.link()?)?))
    }

    fn names(&self) -> Vec<String> {
        self.records.iter().filter_map(|saved| self.name(saved)).collect()
    }

    /// Which number each interface has here.
    fn indexes(&self, here: &Netlink) -> Result<BTreeMap<u32, u32>> {
        let links = here.links().context(|| "list the interfaces")?;
        let find = |name: &str| links.iter().find(|link| link.name == name).map(|link| link.index);
        self.interfaces
            .iter()
            .map(|(old, name)| Ok((*old, find(name).ok_or_else(|| missing(name))?)))
            .collect()
    }

    /// Records of nobody else's making.
    fn records(&self) -> Result<Vec<Record>> {
        let malformed = || Error::new(ErrorKind::InvalidInput, "an address that is none");
        if self.records.len() > MOST {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("more than {MOST} addresses and routes"),
            ));
        }
        let read = |saved: &SavedRecord| {
            let record = saved
                .record()
                .filter(|record| record.link().is_some_and(|l| self.interfaces.contains_key(&l)));
            record
                .filter(|record| matches!(record.kind, RecordKind::Address | RecordKind::Route))
                .ok_or_else(malformed)
        };
        self.records.iter().map(read).collect()
    }

    /// Whether the namespace at this path has the interfaces for them.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] names the one that is missing.
    pub fn require_interfaces(&self, namespace: &Path) -> Result<()> {
        let context = || format!("look at the network namespace {}", namespace.display());
        let netlink = File::open(namespace).and_then(|file| Netlink::in_namespace(&file)).context(context)?;
        self.records().and_then(|_| self.indexes(&netlink)).map(drop).context(context)
    }

    fn put(&self, here: &Netlink) -> Result<()> {
        let indexes = self.indexes(here)?;
        super::rebuild::put_all(here, &self.records()?.iter().collect::<Vec<_>>(), &indexes)
    }

    /// What an interface that is gone had is gone with it.
    fn take_away(&self, here: &Netlink) -> Result<()> {
        let links = here.links().context(|| "list the interfaces")?;
        let find = |name: &str| links.iter().find(|link| link.name == name).map(|link| link.index);
        let indexes = self.interfaces.iter().filter_map(|(old, name)| Some((*old, find(name)?))).collect();
        for record in self.records()?.iter().rev() {
            match here.take_away(record, &indexes) {
                Err(e)
                    if matches!(e.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ESRCH | libc::ENODEV)) => {
                }
                taken => taken.context(|| format!("take away {record}"))?,
            }
        }
        Ok(())
    }
}

fn missing(interface: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("there is no interface {interface:?} for the container's addresses"),
    )
    .with_hint("make the interface first, without the addresses, or do not have them moved")
}

/// What is written down of a fence.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Fence {
    table: String,
    /// The namespace, where it is not the container's own.
    #[serde(default)]
    path: Option<PathBuf>,
    /// What goes when the container ends behind the fence.
    #[serde(default)]
    leaving: MovingAddresses,
}

impl Fence {
    fn new(id: &str, config: &Config, leaving: MovingAddresses) -> Self {
        let mut table = format!("{PREFIX}{id}");
        table.truncate(LONGEST);
        Self { table, path: path(config), leaving }
    }

    fn read(dir: &Path) -> Result<Option<Self>> {
        read_record(&dir.join(FILE))
    }

    fn write(&self, dir: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(self).context(|| "serialise the record of a fence")?;
        replace_file(&dir.join(FILE), &bytes)
    }

    fn remove(dir: &Path) -> Result<()> {
        remove_record(&dir.join(FILE))
    }

    fn raise(&self, namespace: &File) -> Result<()> {
        let raised = Netlink::in_namespace(namespace).and_then(|netlink| {
            let outward = |link: Link| (!link.is_loopback()).then_some(link.name);
            let interfaces: Vec<_> = netlink.links()?.into_iter().filter_map(outward).collect();
            Netfilter::in_namespace(namespace)?.bar(&self.table, &interfaces)
        });
        match raised {
            // CRIU's own lock is all that there is then.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EPROTONOSUPPORT | libc::EOPNOTSUPP)) => {
                tracing::warn!(error = %e, "the kernel cannot keep packets from a container that stands still");
                Ok(())
            }
            raised => raised.map(drop).context(|| "keep packets from the container"),
        }
    }

    fn lower(&self, namespace: &File) -> Result<()> {
        let lowered = Netfilter::in_namespace(namespace).and_then(|netfilter| {
            let own = |table: &Table| table.name == self.table;
            netfilter
                .tables()?
                .iter()
                .filter(|table| own(table))
                .try_for_each(|t| netfilter.delete_table(t).map(drop))
        });
        match lowered {
            Err(e) if e.raw_os_error() == Some(libc::EPROTONOSUPPORT) => Ok(()),
            lowered => lowered.context(|| "let packets through to the container again"),
        }
    }

    /// The container that stood behind it has ended.
    fn abolish(&self, dir: &Path) -> Result<()> {
        // A namespace of the container's own has ended with it.
        if let Some(namespace) = self.path.as_deref().and_then(|path| File::open(path).ok()) {
            if !self.leaving.is_empty() {
                let netlink = Netlink::in_namespace(&namespace).context(|| "connect by netlink")?;
                self.leaving.take_away(&netlink)?;
            }
            self.lower(&namespace)?;
        }
        Self::remove(dir)
    }
}

/// The path of a namespace that is not the container's own.
fn path(config: &Config) -> Option<PathBuf> {
    let namespaces = Namespaces::from_spec(&config.spec);
    let network = namespaces.external().into_iter().find(|(name, ..)| *name == "net");
    network.map(|(.., path)| path.to_owned())
}

fn is_callers(namespace: &File) -> Result<bool> {
    let context = || "look at the network namespace";
    let inode = |found: fs::Metadata| (found.dev(), found.ino());
    let own = fs::metadata("/proc/thread-self/ns/net").map(inode).context(context)?;
    Ok(namespace.metadata().map(inode).context(context)? == own)
}

impl Container {
    /// The addresses that can move with it: those of a network namespace by path. `None` where the namespace is another one.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn moving_addresses(&self) -> Result<Option<MovingAddresses>> {
        let Some(path) = path(self.config()?.as_ref()) else { return Ok(None) };
        let context = || format!("look at the network namespace {}", path.display());
        let namespace = File::open(&path).context(context)?;
        if is_callers(&namespace)? {
            return Ok(None);
        }
        let netlink = Netlink::in_namespace(&namespace).context(context)?;
        MovingAddresses::found(&netlink).map(Some).context(context)
    }

    /// Keeps packets from it until it goes on or ends. If its addresses leave, they go when it ends.
    ///
    /// # Errors
    /// When that cannot be written down, or done.
    pub fn raise_fence(&self, addresses_leave: bool) -> Result<()> {
        let Some(init) = self.init() else { return Ok(()) };
        let namespace = namespace_of(init)?;
        if is_callers(&namespace)? {
            return Ok(());
        }
        let leaving = if addresses_leave { self.moving_addresses()? } else { None };
        let fence = Fence::new(self.id().as_str(), self.config()?.as_ref(), leaving.unwrap_or_default());
        fence.write(self.dir())?;
        fence.raise(&namespace)
    }

    /// Whether packets are kept from it.
    pub fn is_fenced(&self) -> bool {
        self.dir().join(FILE).exists()
    }

    /// Lets packets through again, and tells the neighbours that its addresses are here.
    ///
    /// # Errors
    /// When it is still fenced.
    pub fn lower_fence(&self) -> Result<()> {
        let Some(fence) = Fence::read(self.dir())? else { return Ok(()) };
        if let Some(init) = self.init() {
            let namespace = namespace_of(init)?;
            fence.lower(&namespace)?;
            // Who does not hear it asks sooner or later.
            if let Err(error) = tell_neighbours(&namespace) {
                tracing::warn!(
                    error = error.chain(),
                    "the container's neighbours have not been told where it is"
                );
            }
        }
        Fence::remove(self.dir())
    }

    /// It has no processes any more.
    pub(in crate::engine) fn abolish_fence(&self) -> Result<()> {
        Fence::read(self.dir())?.map_or(Ok(()), |fence| fence.abolish(self.dir()))
    }
}

impl NewContainer {
    /// Keeps packets from a container that is about to be restored into a network namespace by path, and gives that one these
    /// addresses: those that it has not yet go again if the container ends before its fence is lowered.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] names an interface that is missing; when it cannot be written down, or done.
    pub fn prepare_fence(&self, addresses: &MovingAddresses) -> Result<()> {
        let Some(path) = path(self.config()) else { return Ok(()) };
        let context = || format!("prepare the network namespace {}", path.display());
        let namespace = File::open(&path).context(context)?;
        if is_callers(&namespace)? {
            return Ok(());
        }
        let netlink = Netlink::in_namespace(&namespace).context(context)?;
        let there = MovingAddresses::found(&netlink).context(context)?.names();
        let mut coming = addresses.clone();
        coming.records.retain(|saved| addresses.name(saved).is_none_or(|name| !there.contains(&name)));
        let fence = Fence::new(self.id().as_str(), self.config(), coming);
        fence.write(self.dir())?;
        fence.raise(&namespace).and_then(|()| fence.leaving.put(&netlink)).context(context)
    }

    /// The same for one in a network namespace of its own, which its first process has and which is complete.
    ///
    /// # Errors
    /// When it cannot be written down, or done.
    pub fn raise_fence(&self, init: Pid) -> Result<()> {
        if !Namespaces::from_spec(&self.config().spec).creates(CloneFlags::CLONE_NEWNET) {
            return Ok(());
        }
        let name = format!("/proc/{init}/ns/net");
        let namespace = File::open(&name).context(|| format!("open {name}"))?;
        let fence = Fence::new(self.id().as_str(), self.config(), MovingAddresses::default());
        fence.write(self.dir())?;
        fence.raise(&namespace)
    }

    /// It is not to be.
    pub(in crate::engine) fn abolish_fence(&self) -> Result<()> {
        Fence::read(self.dir())?.map_or(Ok(()), |fence| fence.abolish(self.dir()))
    }
}

fn tell_neighbours(namespace: &File) -> Result<()> {
    let context = || "tell the neighbours";
    let netlink = Netlink::in_namespace(namespace).context(context)?;
    let mut addresses = Vec::new();
    for link in
        netlink.links().context(context)?.into_iter().filter(|link| link.is_up() && !link.is_loopback())
    {
        let Some(mac) = link.mac else { continue };
        let own = netlink.addresses(link.index).context(context)?.into_iter();
        addresses.extend(own.filter(Address::is_global).map(|address| (link.index, mac, address.local)));
    }
    let tell = || addresses.iter().try_for_each(|(link, mac, address)| announce(*link, *mac, *address));
    in_network_namespace(namespace, tell).context(context)?.context(context)
}
