// SPDX-License-Identifier: Apache-2.0
//! What a container finds in its network namespace besides `lo`: interfaces of the host that it takes over
//! (`linux.netDevices`, [`devices`]) and pairs that the engine makes for it ([`Network`], [`veth`]).
//!
//! ```text
//!   Setup::new ── judged ──▶ init waits in its namespaces ──▶ Setup::run ──▶ a failure of create: Setup::undo
//!                                                               └─ state.json ──▶ delete: remove_host_ends
//! ```
//! All of it is the runtime's work, by netlink, from its own network namespace into the container's. It happens before
//! init writes kernel parameters, which may be those of an interface.
//!
//! A checkpoint looks at what there is then ([`survey`]) and writes it down ([`saved`]); a restore makes it again
//! ([`rebuild`]).

mod addresses;
mod comparison;
mod config;
mod devices;
mod fence;
mod rebuild;
mod saved;
mod statistics;
mod survey;
mod veth;

use std::fs::File;
use std::os::fd::AsFd;

use nix::sched::CloneFlags;
use nix::unistd::{Pid, geteuid};
use serde::{Deserialize, Serialize};

pub use addresses::AddressedInterface;
pub use config::{Cidr, Network, NetworkRoute, VethNetwork};
pub use devices::TakenDevices;
pub use fence::MovingAddresses;
pub use saved::{NetworkContent, SavedNetwork};
pub use statistics::NetworkInterface;
pub use survey::NetworkSurvey;

use super::Namespaces;
use crate::spec::oci::Spec;
use crate::sys::netlink::Netlink;
use crate::{Context, Error, ErrorKind, Result};
use devices::{Moved, NetDevice};
pub(super) use veth::name_host_ends;

/// What is written down of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NetworkState {
    /// The networks that the container was given.
    #[serde(default)]
    pub networks: Vec<Network>,
    /// The routes that it was given.
    #[serde(default)]
    pub routes: Vec<NetworkRoute>,
    /// The host's ends of the pairs, in the order of the networks.
    #[serde(default)]
    pub host_ends: Vec<HostEnd>,
}

/// The host's end of a pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HostEnd {
    /// Its name.
    pub name: String,
    /// Its number, once it is there: a name can be used again.
    pub index: Option<u32>,
}

/// What is to be done for one container, and what has been.
#[derive(Debug, Default)]
pub(super) struct Setup {
    devices: Vec<NetDevice>,
    moved: Vec<Moved>,
    namespace: Option<File>,
    made: Vec<HostEnd>,
}

/// Whether an interface is to be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Switch {
    On,
    Off,
}

impl Setup {
    /// Judges what the configuration and the caller want.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] and [`ErrorKind::InvalidInput`] name the field.
    pub(super) fn new(spec: &Spec, networks: &[Network], routes: &[NetworkRoute]) -> Result<Self> {
        let devices = devices::from_spec(spec);
        config::check(networks, routes)?;
        let wanted = !networks.is_empty() || !routes.is_empty();
        if devices.is_empty() && !wanted {
            return Ok(Self::default());
        }
        let fail = |what: &str, why: &str| {
            let kind = if wanted { ErrorKind::InvalidInput } else { ErrorKind::InvalidConfig };
            Error::new(kind, format!("{what}: {why}"))
        };
        let what = if devices.is_empty() {
            "give the container its networks"
        } else {
            "invalid configuration: field `linux.netDevices` cannot be done"
        };
        if !geteuid().is_root() {
            return Err(fail(what, "network devices are not supported for rootless containers"));
        }
        let namespaces = Namespaces::from_spec(spec);
        if !namespaces.types().contains(&"net") {
            return Err(fail(what, "unable to apply network settings without a private NET namespace"));
        }
        if let Some(path) = namespaces.joins_ours(CloneFlags::CLONE_NEWNET)? {
            let why = format!(
                "unable to move network devices without a private NET namespace: {} is the host's",
                path.display()
            );
            return Err(fail(what, &why));
        }
        Ok(Self { devices, ..Self::default() })
    }

    /// Whether there is anything to do in the container's namespace.
    pub(super) fn is_needed(&self, state: &NetworkState) -> bool {
        !self.devices.is_empty() || !state.networks.is_empty() || !state.routes.is_empty()
    }

    /// Does it, in the network namespace of this process. `save` writes down what is there as soon as it is.
    ///
    /// # Errors
    /// The interface and the step. What was done is for [`Setup::undo`].
    pub(super) fn run(
        &mut self,
        pid: Pid,
        state: &mut NetworkState,
        save: impl Fn(&NetworkState) -> Result<()>,
    ) -> Result<()> {
        let (here, there) = self.connect(pid)?;
        self.move_devices(&here, &there, Switch::On, |_| None)?;
        let namespace = self.namespace.as_ref().expect("connect() has opened it");
        veth::make_all(&here, &there, namespace.as_fd(), state, &mut self.made, save)?;
        veth::add_routes(&there, state)
    }

    /// Opens the network namespace of this process; one connection to the host's network, and one to the container's.
    fn connect(&mut self, pid: Pid) -> Result<(Netlink, Netlink)> {
        let path = format!("/proc/{pid}/ns/net");
        let namespace = self.namespace.insert(File::open(&path).context(|| format!("open {path}"))?);
        let here = Netlink::open().context(|| "connect to the host's network by netlink")?;
        let there =
            Netlink::in_namespace(namespace).context(|| "connect to the container's network by netlink")?;
        Ok((here, there))
    }

    /// Moves the host's interfaces in; `index` tells which number one had there before.
    fn move_devices(
        &mut self,
        here: &Netlink,
        there: &Netlink,
        switch: Switch,
        index: impl Fn(&str) -> Option<u32>,
    ) -> Result<()> {
        let namespace = self.namespace.as_ref().expect("connect() has opened it");
        for device in &self.devices {
            let moving = device.prepare(here)?;
            self.moved.push(moving);
            let moving = self.moved.last().expect("it was pushed");
            let moved =
                moving.go(here, there, namespace.as_fd(), index(&moving.name_there)).and_then(|link| {
                    let on = switch == Switch::On;
                    if on { there.set_up(link).context(|| "set the link up") } else { Ok(()) }
                });
            moved.context(|| {
                format!(
                    "move network device {} (linux.netDevices) into the container as {}",
                    moving.name, moving.name_there
                )
            })?;
        }
        Ok(())
    }

    /// Undoes it: interfaces of the host come back as they were, pairs go.
    pub(super) fn undo(&mut self) -> Vec<Error> {
        let mut failed = Vec::new();
        if self.made.is_empty() && self.moved.is_empty() {
            return failed;
        }
        let here = match Netlink::open().context(|| "connect to the host's network by netlink") {
            Ok(here) => here,
            Err(error) => return vec![error],
        };
        for end in self.made.drain(..) {
            failed.extend(veth::remove(&here, &end).err());
        }
        if let Some(namespace) = &self.namespace {
            for moved in self.moved.drain(..).rev() {
                let back = moved.come_back(&here, namespace);
                failed.extend(back.context(|| format!("move network device {} back", moved.name)).err());
            }
        }
        failed
    }
}

/// Removes the host's ends of a container's pairs, and the pairs with them. One that is gone, or that another container
/// has made under the same name, is left alone.
///
/// # Errors
/// The first that could not be removed.
pub(super) fn remove_host_ends(state: &NetworkState) -> Result<()> {
    if state.host_ends.is_empty() {
        return Ok(());
    }
    let here = Netlink::open().context(|| "connect to the host's network by netlink")?;
    state.host_ends.iter().try_for_each(|end| veth::remove(&here, end))
}
