// SPDX-License-Identifier: Apache-2.0
//! CRIU's lock on a network namespace that is not the container's. The checkpoint has left it there on purpose: a packet
//! of a peer would otherwise be answered by a kernel that does not know the connection any more. A restore removes it;
//! one that fails leaves it for the next, and says so: until then nobody else in the namespace has a network.

use std::fs::File;
use std::io;

use nix::sched::CloneFlags;

use crate::criu::lock_table;
use crate::engine::Namespaces;
use crate::sys::netlink::{Netfilter, Table};

/// After a failure: tells of the locks that are left.
pub(super) fn tell(namespaces: &Namespaces) {
    let Some(path) = namespaces.path(CloneFlags::CLONE_NEWNET) else { return };
    let tables = File::open(path).and_then(|namespace| locks(&namespace)).unwrap_or_else(|error| {
        tracing::warn!(namespace = %path.display(), %error, "cannot see whether criu has locked the network");
        Vec::new()
    });
    for table in tables {
        tracing::warn!(
            "the network namespace stays locked for the connections in the images; to give them up: nsenter --net={} \
             nft delete table inet {}",
            path.display(),
            table.name
        );
    }
}

fn locks(namespace: &File) -> io::Result<Vec<Table>> {
    let netfilter = match Netfilter::in_namespace(namespace) {
        Err(e) if e.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut tables = netfilter.tables()?;
    tables.retain(|table| table.name.starts_with(lock_table::PREFIX));
    Ok(tables)
}
