// SPDX-License-Identifier: Apache-2.0
//! The network namespace: who fills it, and what is missing in it when CRIU has come to sockets.
//!
//! | in the images | the namespace |
//! | --- | --- |
//! | `network.json`, content `engine` | CRIU makes an empty one, the engine fills it |
//! | `network.json`, content `criu` | CRIU fills it, the engine adds what CRIU loses |
//! | no `network.json`, interfaces of CRIU's (crun) | CRIU fills it |
//! | no `network.json` otherwise (runc) | CRIU makes an empty one, `lo` goes up |

use std::fs::File;
use std::os::fd::BorrowedFd;

use nix::sched::CloneFlags;
use nix::unistd::Pid;

use crate::criu::{Options, has_image};
use crate::engine::{Namespaces, NetworkContent, NewContainer, SavedNetwork};
use crate::sys::namespace::in_network_namespace;
use crate::{Context, Result, sys};

/// What the images say of the network.
pub(in crate::restore) struct RestoredNetwork {
    saved: Option<SavedNetwork>,
    /// Whether CRIU has dumped interfaces.
    dumped: bool,
}

impl RestoredNetwork {
    /// Looks into the images.
    pub(in crate::restore) fn read(images: BorrowedFd<'_>) -> Result<Self> {
        Ok(Self { saved: SavedNetwork::read(images)?, dumped: has_image(images, "netdev-")? })
    }

    /// Gives the new container the networks that it had.
    pub(in crate::restore) fn give(&self, new: &mut NewContainer) {
        if let Some(saved) = &self.saved {
            new.give_saved_network(saved);
        }
    }

    /// Whether this host has what is wanted of it.
    pub(in crate::restore) fn check(&self, new: &NewContainer) -> Result<()> {
        self.saved.as_ref().map_or(Ok(()), |saved| new.check_network(saved))
    }

    /// Tells CRIU what is its part.
    pub(in crate::restore) fn ask(
        &self,
        new: &NewContainer,
        namespaces: &Namespaces,
        options: &mut Options<'_>,
    ) {
        options.empty_netns = namespaces.creates(CloneFlags::CLONE_NEWNET) && !self.is_filled_by_criu();
        if let Some(saved) = &self.saved {
            let pairs = new.external_pairs(saved).into_iter();
            options.external.extend(pairs.map(|(inside, host)| format!("veth[{inside}]:{host}")));
        }
    }

    /// The namespaces are there and empty.
    pub(in crate::restore) fn prepare(
        &self,
        new: &mut NewContainer,
        namespaces: &Namespaces,
        pid: Pid,
    ) -> Result<()> {
        match &self.saved {
            Some(saved) => new.prepare_network(pid, saved),
            None if namespaces.creates(CloneFlags::CLONE_NEWNET) && !self.dumped => loopback_up(pid),
            None => Ok(()),
        }
    }

    /// The hooks have run, and CRIU has done its part: it has filled the namespace, or locked the empty one.
    pub(in crate::restore) fn complete(&self, new: &mut NewContainer, pid: Pid) -> Result<()> {
        self.saved.as_ref().map_or(Ok(()), |saved| new.complete_network(pid, saved))
    }

    fn is_filled_by_criu(&self) -> bool {
        self.saved.as_ref().map_or(self.dumped, |saved| saved.content() == NetworkContent::Criu)
    }
}

/// Brings `lo` up, or a connection over it cannot be put back.
fn loopback_up(pid: Pid) -> Result<()> {
    let path = format!("/proc/{pid}/ns/net");
    let namespace = File::open(&path).context(|| format!("open {path}"))?;
    in_network_namespace(&namespace, sys::net::bring_loopback_up)
        .context(|| format!("join the network namespace of process {pid}"))?
        .context(|| "bring the loopback interface up")
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn images_of_other_programs_tell_who_fills_the_namespace() {
        let dir = tempfile::tempdir().expect("tempdir");
        let images = File::open(dir.path()).expect("open");
        let filled = || RestoredNetwork::read(images.as_fd()).expect("read").is_filled_by_criu();
        std::fs::write(dir.path().join("netns-9.img"), "").expect("write");
        assert!(!filled(), "as of runc");
        std::fs::write(dir.path().join("netdev-9.img"), "").expect("write");
        assert!(filled(), "as of crun");
        let ours = r#"{"schema":1,"content":"engine"}"#;
        std::fs::write(dir.path().join("network.json"), ours).expect("write");
        assert!(!filled());
    }
}
