// SPDX-License-Identifier: Apache-2.0
//! The network of a container that comes out of a checkpoint, at the moments of a restore.

use nix::unistd::Pid;

use super::network::{NetworkState, SavedNetwork, Setup};
use super::{NetworkContent, NewContainer, State};
use crate::Result;

impl NewContainer {
    /// Whether this host has what the container's network wants of it, before anything is made.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] for an interface or bridge that is missing;
    /// [`crate::ErrorKind::AlreadyExists`] for a name that is taken.
    pub fn check_network(&self, saved: &SavedNetwork) -> Result<()> {
        self.network.check_host(saved, &self.state.network)
    }

    /// The pairs that CRIU is to make, as it names them: interface in the container, and on the host.
    pub fn external_pairs(&self, saved: &SavedNetwork) -> Vec<(String, String)> {
        match saved.content() {
            NetworkContent::Criu => saved.external_pairs(&self.state.network),
            NetworkContent::Engine | NetworkContent::Shared => Vec::new(),
        }
    }

    /// The restored first process has its namespaces, and nothing is in them yet.
    ///
    /// # Errors
    /// The interface, address or route, and the step.
    pub fn prepare_network(&mut self, pid: Pid, saved: &SavedNetwork) -> Result<()> {
        self.with_network(|setup, network, save| match saved.content() {
            NetworkContent::Engine => setup.rebuild(pid, saved, network, save),
            NetworkContent::Shared => setup.join(pid, network, save),
            NetworkContent::Criu => Ok(()),
        })
    }

    /// The hooks have run, and CRIU has filled and locked the namespaces; processes come next.
    ///
    /// # Errors
    /// As [`NewContainer::prepare_network`].
    pub fn complete_network(&mut self, pid: Pid, saved: &SavedNetwork) -> Result<()> {
        self.with_network(|setup, network, save| match saved.content() {
            NetworkContent::Engine => setup.complete(pid, saved, network),
            NetworkContent::Criu => setup.adopt(pid, saved, network, save),
            NetworkContent::Shared => Ok(()),
        })
    }

    /// Works on the network with a means to write down what is there as soon as it is.
    pub(super) fn with_network(
        &mut self,
        work: impl FnOnce(&mut Setup, &mut NetworkState, &dyn Fn(&NetworkState) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        let mut network = std::mem::take(&mut self.state.network);
        let (state, dir) = (&self.state, &self.dir);
        let save = |network: &NetworkState| State { network: network.clone(), ..state.clone() }.save(dir);
        let done = work(&mut self.network, &mut network, &save);
        self.state.network = network;
        done
    }
}
