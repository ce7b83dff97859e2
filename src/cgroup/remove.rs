// SPDX-License-Identifier: Apache-2.0
//! Removing a container's cgroup with all that the container made beneath it.
//!
//! Must not know whether the container is done: it never kills.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::cgroup::{Cgroup, Node, name_pids};
use super::directory::Directory;
use crate::{Context, Result};

/// How long removal waits for processes that are about to vanish.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(2);

impl Cgroup {
    /// Removes the cgroup and all beneath it in every hierarchy, and its unit; directories above it stay, whoever made them.
    /// Waits up to 2 s for processes that are about to vanish. That it is gone already is success.
    ///
    /// # Errors
    /// A directory still holds processes or cannot be removed; all others are gone.
    pub fn destroy(&self) -> Result<()> {
        self.stop_unit();
        let deadline = Instant::now() + REMOVAL_DEADLINE;
        let mut failures = self.nodes.iter().filter_map(|node| remove_tree(node, deadline).err());
        match failures.next() {
            None => Ok(()),
            Some(first) => Err(first.with_cleanup(failures)),
        }
    }
}

/// Removes a directory and everything beneath it, leaves first, with two directories open at any depth.
fn remove_tree(node: &Node, deadline: Instant) -> Result<()> {
    let (Some(above), Some(name)) = (node.relative.parent(), node.relative.file_name()) else {
        return Ok(());
    };
    let top = Directory::top(&node.mountpoint)?;
    let above = if above.as_os_str().is_empty() { Some(top) } else { top.descend(above)? };
    let Some(above) = above else { return Ok(()) };
    // Most containers make no cgroups of their own and have left this one: then nothing need be looked at.
    if above.remove(name).is_ok() {
        return Ok(());
    }
    while let Some(target) = above.descend(Path::new(name))? {
        match target.first_subdirectory()? {
            None => remove_leaf(&above, name, &target, deadline)?,
            Some((mut leaf_name, mut leaf)) => {
                let mut parent = target;
                while let Some((child_name, child)) = leaf.first_subdirectory()? {
                    parent = std::mem::replace(&mut leaf, child);
                    leaf_name = child_name;
                }
                remove_leaf(&parent, OsStr::from_bytes(leaf_name.as_bytes()), &leaf, deadline)?;
            }
        }
    }
    Ok(())
}

fn remove_leaf(parent: &Directory, name: &OsStr, leaf: &Directory, deadline: Instant) -> Result<()> {
    let mut pause = Duration::from_millis(1);
    loop {
        match parent.remove(name) {
            Ok(()) => return Ok(()),
            Err(Errno::EBUSY) if Instant::now() < deadline => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            Err(errno) => {
                let holds = match leaf.pids() {
                    Ok(pids) if !pids.is_empty() => format!(", which holds {}", name_pids(&pids)),
                    _ => String::new(),
                };
                return Err(errno).context(|| format!("rmdir cgroup {}{holds}", leaf.path().display()));
            }
        }
    }
}
