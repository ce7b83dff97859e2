// SPDX-License-Identifier: Apache-2.0
//! The network namespace: CRIU brings an empty one back with its loopback interface down.

use std::fs::File;

use nix::sched::CloneFlags;

use crate::engine::Namespaces;
use crate::sys::namespace::in_network_namespace;
use crate::{Context, Result, sys};

/// Brings `lo` up in a namespace that the container does not share. It must happen before CRIU restores sockets, or
/// a connection over loopback cannot be put back.
pub(in crate::restore) fn network(namespaces: &Namespaces, pid: i32) -> Result<()> {
    if !namespaces.creates(CloneFlags::CLONE_NEWNET) {
        return Ok(());
    }
    let path = format!("/proc/{pid}/ns/net");
    let namespace = File::open(&path).context(|| format!("open {path}"))?;
    in_network_namespace(&namespace, sys::net::bring_loopback_up)
        .context(|| format!("join the network namespace of process {pid}"))?
        .context(|| "bring the loopback interface up")
}
