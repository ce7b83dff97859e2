// SPDX-License-Identifier: Apache-2.0
//! The cgroups that the container had made beneath its own. In mode `ignore` CRIU leaves every process in the container's.

use std::os::fd::BorrowedFd;

use crate::cgroup::CgroupTree;
use crate::criu::ManageCgroups;
use crate::engine::{NewContainer, image_files};
use crate::{Context, Result};

/// Makes them again, empty: processes may have their files open. Returns what goes into them, for
/// [`fill_cgroups`]; nothing when CRIU is asked to see to cgroups.
pub(in crate::restore) fn make_cgroups(
    new: &NewContainer,
    images: BorrowedFd<'_>,
    mode: ManageCgroups,
) -> Result<Option<CgroupTree>> {
    if mode != ManageCgroups::Ignore {
        return Ok(None);
    }
    let bytes = image_files::read(images, image_files::CGROUPS, image_files::CGROUPS_LIMIT)?;
    let parse =
        |bytes: Vec<u8>| CgroupTree::parse(&bytes).context(|| format!("read {}", image_files::CGROUPS));
    let tree = bytes.map(parse).transpose()?;
    if let Some(tree) = &tree {
        let user = new.user_namespace();
        new.cgroup().make_tree(tree, &|ids| user.map_or(Some(ids), |user| user.to_host(ids)))?;
    }
    Ok(tree)
}

/// Puts the restored processes, which do not run yet, where they were. `criu` is not one of them.
pub(in crate::restore) fn fill_cgroups(new: &NewContainer, tree: &CgroupTree, criu: i32) -> Result<()> {
    new.cgroup().fill_tree(tree, criu)
}
