// SPDX-License-Identifier: Apache-2.0
//! From an id and a bundle to a container that waits for `start`.

use std::path::{Path, PathBuf};

use super::process::preserved;
use super::{Container, ContainerId, NewContainer, ProcessIo, StateRoot};
use crate::Result;

/// Makes a container from a bundle.
#[derive(Debug)]
pub struct ContainerBuilder {
    id: ContainerId,
    bundle: PathBuf,
    io: ProcessIo,
    no_pivot: bool,
    preserve_fds: u32,
    environment: Vec<String>,
    notify_socket: bool,
    no_new_keyring: bool,
}

impl ContainerBuilder {
    /// A container of this id from the bundle in this directory.
    pub fn from_bundle(id: ContainerId, bundle: &Path) -> Self {
        Self {
            id,
            bundle: bundle.to_owned(),
            io: ProcessIo::default(),
            no_pivot: false,
            preserve_fds: 0,
            environment: Vec::new(),
            notify_socket: false,
            no_new_keyring: false,
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

    /// Creates the container: its init is set up and waits for [`Container::start`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] and [`ErrorKind::Unsupported`] name the field; [`ErrorKind::AlreadyExists`];
    /// [`ErrorKind::NotFound`] and [`ErrorKind::PermissionDenied`] when the program cannot run; else the system call
    /// that failed. Nothing is left behind.
    pub fn create(self, root: &StateRoot) -> Result<Container> {
        preserved(self.preserve_fds)?;
        let mut new = NewContainer::reserve(root, self.id)?;
        new.preserve_fds = self.preserve_fds;
        new.notify_socket = self.notify_socket;
        new.state.no_new_keyring = self.no_new_keyring;
        let make = || {
            new.configure(&self.bundle, self.no_pivot)?;
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
