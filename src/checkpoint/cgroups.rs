// SPDX-License-Identifier: Apache-2.0
//! The cgroups that the container has made beneath its own, written down beside CRIU's images while nobody runs: in mode
//! `ignore` CRIU does not look at cgroups.

use std::os::fd::BorrowedFd;
use std::path::Path;

use super::CheckpointOptions;
use crate::cgroup::self_cgroups;
use crate::criu::ManageCgroups;
use crate::engine::{Container, InitProcess, UserNamespace, image_files};
use crate::spec::Config;
use crate::{Error, ErrorKind, Result};

/// Refuses to let CRIU manage cgroups where it would take those of the whole host along: it dumps every cgroup beneath the
/// container's.
///
/// # Errors
/// [`ErrorKind::Unsupported`], naming the hierarchy.
pub(super) fn check_mode(options: &CheckpointOptions, init: InitProcess) -> Result<()> {
    if matches!(options.manage_cgroups, None | Some(ManageCgroups::Ignore)) {
        return Ok(());
    }
    match self_cgroups(init.pid)?.into_iter().find(|cgroup| cgroup.path == Path::new("/")) {
        Some(top) => Err(at_the_top(&top.controller_list())),
        None => Ok(()),
    }
}

fn at_the_top(controllers: &str) -> Error {
    let hierarchy = if controllers.is_empty() { "unified" } else { controllers };
    let message = format!(
        "the container is at the top of the {hierarchy} cgroup hierarchy: criu would dump all cgroups of the host"
    );
    Error::new(ErrorKind::Unsupported, message).with_hint("leave --manage-cgroups-mode out")
}

/// Writes them into the image directory.
///
/// # Errors
/// They cannot be read, are too many, or cannot be written.
pub(super) fn write(
    container: &Container,
    config: &Config,
    options: &CheckpointOptions,
    images: BorrowedFd<'_>,
) -> Result<()> {
    let is_ours = matches!(options.manage_cgroups, None | Some(ManageCgroups::Ignore));
    let user = UserNamespace::from_spec(&config.spec)?;
    let owners = |ids| user.as_ref().map_or(Some(ids), |user| user.to_container(ids));
    let tree = if is_ours { container.cgroup()?.tree(&owners)? } else { None };
    match tree {
        Some(tree) => image_files::write(images, image_files::CGROUPS, &tree.to_bytes()?),
        // That of an earlier checkpoint in the same directory must not be taken for this one's.
        None => image_files::remove(images, image_files::CGROUPS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_named() {
        for (controllers, name) in [("", "unified"), ("cpu,cpuacct", "cpu,cpuacct")] {
            let error = at_the_top(controllers);
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(&format!("top of the {name} cgroup")), "{error}");
        }
    }
}
