// SPDX-License-Identifier: Apache-2.0
//! From an id and a bundle to a container that waits for `start`.

use std::fmt;
use std::path::{Path, PathBuf};

use super::process::{names, preserved};
use super::{
    Container, ContainerId, Network, NetworkRoute, NetworkState, NewContainer, ProcessIo, StateRoot,
};
use crate::spec::Config;
use crate::spec::oci::{Root, Spec};
use crate::{Context, Result};

/// Makes a container from a bundle, or from a configuration and a root file system.
pub struct ContainerBuilder {
    id: ContainerId,
    origin: Origin,
    io: ProcessIo,
    no_pivot: bool,
    preserve_fds: u32,
    environment: Vec<String>,
    notify_socket: bool,
    no_new_keyring: bool,
    network: NetworkState,
}

/// Where the configuration comes from.
enum Origin {
    Bundle(PathBuf),
    Spec { spec: Box<Spec>, rootfs: PathBuf },
}

/// Without the values of environments, which may be secrets.
impl fmt::Debug for ContainerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directory = match &self.origin {
            Origin::Bundle(directory) => directory,
            Origin::Spec { rootfs, .. } => rootfs,
        };
        f.debug_struct("ContainerBuilder")
            .field("id", &self.id)
            .field("directory", directory)
            .field("environment", &names(&self.environment))
            .finish_non_exhaustive()
    }
}

impl ContainerBuilder {
    /// A container of this id from the bundle in this directory.
    pub fn from_bundle(id: ContainerId, bundle: &Path) -> Self {
        Self::new(id, Origin::Bundle(bundle.to_owned()))
    }

    /// A container of this id with this configuration, whose root file system is this directory instead of the one that the
    /// configuration names. There is no bundle: the configuration is kept in the container's directory under the state root,
    /// and relative sources of mounts start there.
    pub fn from_spec(id: ContainerId, spec: Spec, rootfs: &Path) -> Self {
        Self::new(id, Origin::Spec { spec: Box::new(spec), rootfs: rootfs.to_owned() })
    }

    fn new(id: ContainerId, origin: Origin) -> Self {
        Self {
            id,
            origin,
            io: ProcessIo::default(),
            no_pivot: false,
            preserve_fds: 0,
            environment: Vec::new(),
            notify_socket: false,
            no_new_keyring: false,
            network: NetworkState::default(),
        }
    }

    /// What the container's init gets as stdin, stdout and stderr.
    #[must_use]
    pub fn io(mut self, io: ProcessIo) -> Self {
        self.io = io;
        self
    }

    /// Moves the root file system to `/` instead of pivoting, for a root on a ramdisk. Less safe.
    #[must_use]
    pub fn no_pivot(mut self, no_pivot: bool) -> Self {
        self.no_pivot = no_pivot;
        self
    }

    /// How many of the caller's descriptors init gets, from number 3 on and under their numbers. The caller had them
    /// open before it opened anything else.
    #[must_use]
    pub fn preserve_fds(mut self, count: u32) -> Self {
        self.preserve_fds = count;
        self
    }

    /// Variables (`NAME=value`) on top of the configuration's.
    #[must_use]
    pub fn environment(mut self, variables: Vec<String>) -> Self {
        self.environment = variables;
        self
    }

    /// Gives the program a socket to tell that it is ready, for [`Container::notify_proxy`].
    #[must_use]
    pub fn notify_socket(mut self, wanted: bool) -> Self {
        self.notify_socket = wanted;
        self
    }

    /// Leaves the container's processes the session keyring of whoever starts them.
    #[must_use]
    pub fn no_new_keyring(mut self, no_new_keyring: bool) -> Self {
        self.no_new_keyring = no_new_keyring;
        self
    }

    /// Gives the container a network besides what its configuration says. It must have a network namespace.
    #[must_use]
    pub fn network(mut self, network: Network) -> Self {
        self.network.networks.push(network);
        self
    }

    /// Gives the container a route, once its networks are there.
    #[must_use]
    pub fn route(mut self, route: NetworkRoute) -> Self {
        self.network.routes.push(route);
        self
    }

    /// Creates the container: its init is set up and waits for [`Container::start`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) and [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) name the field; [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists) when the
    /// id is taken; [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) and [`ErrorKind::PermissionDenied`](crate::ErrorKind::PermissionDenied) when the program cannot run;
    /// [`ErrorKind::HookFailed`](crate::ErrorKind::HookFailed); else the system call that failed. Nothing is left behind.
    pub fn create(self, root: &StateRoot) -> Result<Container> {
        preserved(self.preserve_fds)?;
        let mut new = NewContainer::reserve(root, self.id)?;
        new.preserve_fds = self.preserve_fds;
        new.notify_socket = self.notify_socket;
        new.state.no_new_keyring = self.no_new_keyring;
        new.give_networks(self.network);
        let make = || {
            match self.origin {
                Origin::Bundle(bundle) => new.configure(&bundle, self.no_pivot)?,
                Origin::Spec { spec, rootfs } => {
                    let config = from_values(*spec, &rootfs)?;
                    let directory = new.dir().to_owned();
                    new.configure_with(config, directory, self.no_pivot)?;
                }
            }
            let io = self.io.resolve(new.has_terminal())?;
            new.create_cgroup()?;
            new.create_intel_rdt()?;
            new.start_init(&io, &self.environment)
        };
        match make() {
            Ok(()) => Ok(new.into_container()),
            Err(error) => {
                let error = new.blame_memory(error);
                Err(new.roll_back(error))
            }
        }
    }
}

fn from_values(mut spec: Spec, rootfs: &Path) -> Result<Config> {
    let mut root = spec.root().clone().unwrap_or_else(|| {
        let mut root = Root::default();
        root.set_readonly(None);
        root
    });
    root.set_path(std::path::absolute(rootfs).context(|| format!("resolve {}", rootfs.display()))?);
    spec.set_root(Some(root));
    Config::from_spec(&spec)
}
