// SPDX-License-Identifier: Apache-2.0
//! The host's network interfaces that a container takes over (runtime specification 1.3, `linux.netDevices`).
//!
//! An interface goes down, moves and is renamed in one step, gets those of its addresses again that are valid everywhere
//! and were set by somebody, and goes up. It does not come back when the container ends: then the kernel gives hardware
//! to the first network namespace and removes the rest. When the container does not come to be it does come back, and
//! after a checkpoint too, so that a restore finds it.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sched::CloneFlags;

use crate::engine::{Container, InitProcess, Namespaces};
use crate::spec::Config;
use crate::spec::oci::Spec;
use crate::sys::netlink::{Address, Link, Move, Netlink};
use crate::{Context, Error, ErrorKind, Result};

/// An interface to move: its names here and there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NetDevice {
    pub(super) name: String,
    pub(super) name_there: String,
}

/// An interface on its way: what it was.
#[derive(Debug)]
pub(super) struct Moved {
    pub(super) name: String,
    pub(super) name_there: String,
    link: Link,
    addresses: Vec<Address>,
}

/// The interfaces of a configuration, in the order of their names.
pub(super) fn from_spec(spec: &Spec) -> Vec<NetDevice> {
    let devices = spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
    let mut found: Vec<_> = devices
        .into_iter()
        .flatten()
        .map(|(name, device)| {
            let there = device.name().as_deref().filter(|name| !name.is_empty()).unwrap_or(name);
            NetDevice { name: name.clone(), name_there: there.to_owned() }
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

impl NetDevice {
    /// Looks at the interface before anything happens to it: an address of IPv6 is gone once it is down.
    pub(super) fn prepare(&self, here: &Netlink) -> Result<Moved> {
        let Self { name, name_there } = self.clone();
        let missing = || {
            let message = format!(
                "field `linux.netDevices[{name}]`: link not found for interface {name} on runtime namespace"
            );
            Error::new(ErrorKind::NotFound, message)
        };
        let link =
            here.link(&name).context(|| format!("look at network device {name}"))?.ok_or_else(missing)?;
        let addresses = here.addresses(link.index).context(|| format!("list the addresses of {name}"))?;
        Ok(Moved { name, name_there, link, addresses })
    }
}

impl Moved {
    /// Moves it into the namespace that `there` speaks to, where it gets this number if that is free. Returns its number;
    /// it is off.
    pub(super) fn go(
        &self,
        here: &Netlink,
        there: &Netlink,
        namespace: BorrowedFd<'_>,
        index: Option<u32>,
    ) -> Result<u32> {
        here.set_down(self.link.index).context(|| "set the link down")?;
        let free =
            |index: &u32| there.links().is_ok_and(|links| links.iter().all(|link| link.index != *index));
        let to = Move { name: &self.name_there, namespace, index: index.filter(free) };
        here.move_link(self.link.index, &to).context(|| "move and rename the link")?;
        let link = self.find(there, &self.name_there)?;
        self.add_addresses(there, link.index, |address| address.is_global() && address.permanent)?;
        Ok(link.index)
    }

    /// Puts it back to where and what it was, wherever it is now.
    pub(super) fn come_back(&self, here: &Netlink, namespace: &File) -> Result<()> {
        // It may have got no further than down.
        let still_here = here.link(&self.name).context(|| "look at the link")?;
        if still_here.is_none_or(|link| link.index != self.link.index) {
            let there = Netlink::in_namespace(namespace).context(|| "connect by netlink")?;
            let own = File::open("/proc/thread-self/ns/net").context(|| "open /proc/thread-self/ns/net")?;
            let link = self.find(&there, &self.name_there)?;
            there.set_down(link.index).context(|| "set the link down")?;
            let to = Move { name: &self.name, namespace: own.as_fd(), index: None };
            there.move_link(link.index, &to).context(|| "move and rename the link")?;
        }
        let link = self.find(here, &self.name)?;
        self.add_addresses(here, link.index, |_| true)?;
        if self.link.is_up() { here.set_up(link.index).context(|| "set the link up") } else { Ok(()) }
    }

    fn find(&self, netlink: &Netlink, name: &str) -> Result<Link> {
        let gone =
            || Error::new(ErrorKind::NotFound, format!("interface {name} is not where it was moved to"));
        netlink.link(name).context(|| "look at the link")?.ok_or_else(gone)
    }

    fn add_addresses(&self, to: &Netlink, index: u32, wanted: impl Fn(&Address) -> bool) -> Result<()> {
        for address in self.addresses.iter().filter(|address| wanted(address)) {
            match to.add_address(index, address) {
                Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
                added => {
                    added.context(|| format!("give it the address {}/{}", address.local, address.prefix))?;
                }
            }
        }
        Ok(())
    }
}

/// The host's interfaces in the network namespace of a container that may end: as long as this is held, so is the
/// namespace, and they can come back.
#[derive(Debug)]
pub struct TakenDevices {
    namespace: File,
    devices: Vec<NetDevice>,
}

impl Container {
    /// The host's interfaces that this container has taken into a namespace of its own; `None` without any.
    ///
    /// # Errors
    /// The namespace cannot be opened.
    pub fn taken_devices(&self, config: &Config, init: InitProcess) -> Result<Option<TakenDevices>> {
        let devices = from_spec(&config.spec);
        if devices.is_empty() || !Namespaces::from_spec(&config.spec).creates(CloneFlags::CLONE_NEWNET) {
            return Ok(None);
        }
        let path = format!("/proc/{}/ns/net", init.pid);
        let namespace = File::open(&path).context(|| format!("open {path}"))?;
        Ok(Some(TakenDevices { namespace, devices }))
    }
}

impl TakenDevices {
    /// Moves them back to this process's namespace, under the names that they had and with the addresses that somebody has
    /// given them. Nothing of the container may run any more. One that is not there any more is left out.
    ///
    /// # Errors
    /// Each that could not be moved.
    pub fn give_back(self) -> Vec<Error> {
        let Self { namespace, devices } = self;
        let give = |device: NetDevice| {
            let here = Netlink::open().context(|| "connect to the host's network by netlink")?;
            let own = File::open("/proc/thread-self/ns/net").context(|| "open /proc/thread-self/ns/net")?;
            let there = Netlink::in_namespace(&namespace).context(|| "connect by netlink")?;
            if there.link(&device.name_there).context(|| "look at the link")?.is_none() {
                return Ok(());
            }
            let back = NetDevice { name: device.name_there, name_there: device.name };
            let index = back.prepare(&there)?.go(&there, &here, own.as_fd(), None)?;
            here.set_up(index).context(|| "set the link up")
        };
        let attempt = |device: NetDevice| {
            let name = device.name.clone();
            give(device).context(|| format!("move network device {name} back to the host")).err()
        };
        devices.into_iter().filter_map(attempt).collect()
    }
}
