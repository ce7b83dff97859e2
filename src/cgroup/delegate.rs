// SPDX-License-Identifier: Apache-2.0
//! Giving a container's v2 cgroup to its root: who then makes cgroups beneath it and moves processes there, but does not
//! lift the limits that it has (kernel admin-guide/cgroup-v2.rst, "Delegation"). Must not know user namespaces.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{Uid, fchown, fchownat};

use super::cgroup::Cgroup;
use crate::{Context, Result};

/// Where the kernel lists the files that go with a delegated cgroup, a name a line (Linux 4.15).
const LIST: &str = "/sys/kernel/cgroup/delegate";

/// What it listed at first.
const ALWAYS: &str = "cgroup.procs\ncgroup.threads\ncgroup.subtree_control\n";

impl Cgroup {
    /// Makes a user of this host the owner of the cgroup in the unified hierarchy, and of those of its files that the
    /// kernel means for it.
    ///
    /// # Errors
    /// The cgroup does not exist, or a file cannot be given away.
    pub fn delegate(&self, uid: u32) -> Result<()> {
        let Some(node) = self.v2_node() else { return Ok(()) };
        let directory = node.existing()?.into_fd();
        let list = fs::read_to_string(LIST).unwrap_or_else(|_| ALWAYS.to_owned());
        give(directory.as_fd(), &list, Uid::from_raw(uid))
            .context(|| format!("give cgroup {node} to user {uid}"))
    }
}

fn give(directory: BorrowedFd<'_>, list: &str, uid: Uid) -> Result<()> {
    fchown(directory, Some(uid), None).context(|| "fchown")?;
    for name in list.lines().filter(|name| !name.is_empty() && !name.contains('/')) {
        match fchownat(directory, name, Some(uid), None, AtFlags::AT_SYMLINK_NOFOLLOW) {
            // Its controller is not enabled here.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno).context(|| format!("chown {name}")),
        }
    }
    Ok(())
}
