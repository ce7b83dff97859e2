// SPDX-License-Identifier: Apache-2.0
//! The cgroups that the container has made beneath its own, written down beside CRIU's images while nobody runs: in mode
//! `ignore` CRIU does not look at cgroups.

use std::os::fd::BorrowedFd;

use super::CheckpointOptions;
use crate::Result;
use crate::criu::ManageCgroups;
use crate::engine::{Container, UserNamespace, image_files};
use crate::spec::Config;

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
