// SPDX-License-Identifier: Apache-2.0
//! The root filesystem of an archive that holds only a difference: a copy of the caller's base, compared with the one of
//! the checkpoint before anything else is done with it, and the difference over that.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::RestoreOptions;
use super::import::is_complete;
use crate::archive::{
    Manifest, Progress, RootfsForm, UnpackOptions, copy_tree, lay_over_base, member, remove_deleted,
    verify_base,
};
use crate::{Context, Error, ErrorKind, Result};

/// How a root filesystem differs, and from what.
pub(super) struct Difference<'a> {
    base: &'a Path,
    digest: String,
}

impl<'a> Difference<'a> {
    /// That of an archive; `None` if it holds all of its root filesystem, or that is not wanted.
    ///
    /// # Errors
    /// `InvalidInput` if the base is not given.
    pub(super) fn of(manifest: &Manifest, options: &'a RestoreOptions) -> Result<Option<Self>> {
        let container = &manifest.container;
        let is_wanted = container.rootfs && container.rootfs_form == RootfsForm::Diff;
        if !is_wanted || options.bundle.as_deref().is_some_and(is_complete) {
            return Ok(None);
        }
        let no_facts =
            || Error::new(ErrorKind::InvalidArchive, "migrate.json names no base of the difference");
        let digest = container.base.as_ref().ok_or_else(no_facts)?.digest.clone();
        let base = options.base_rootfs.as_deref().ok_or_else(|| {
            let message = "the archive holds only how the root filesystem differs from its base";
            Error::new(ErrorKind::InvalidInput, message)
                .with_hint("name a directory with the files of the base with --base-rootfs")
        })?;
        Ok(Some(Self { base, digest }))
    }

    /// Fills the empty `root`. The copy is what is compared with the archive, so nobody changes it afterwards.
    pub(super) fn lay_over_base(
        &self,
        unpacked: &Path,
        root: BorrowedFd<'_>,
        unpack: &UnpackOptions,
        progress: &mut (dyn Progress + Send),
    ) -> Result<()> {
        copy_base(self.base, root, progress)?;
        let marks = unpacked.join(member::BASE);
        let marks = fs::read(&marks).context(|| format!("read {}", marks.display()))?;
        verify_base(root, &self.digest, &marks)
            .context(|| format!("compare the base {} with that of the checkpoint", self.base.display()))?;
        // Before the difference, whose directories have their times set at its end.
        remove_deleted(open(unpacked, member::DELETED)?, root, &unpack.limits)?;
        lay_over_base(open(unpacked, member::ROOTFS_OVER)?, root, unpack, progress)
    }
}

/// Copies the caller's base into the empty `root`.
pub(super) fn copy_base(
    base: &Path,
    root: BorrowedFd<'_>,
    progress: &mut (dyn Progress + Send),
) -> Result<()> {
    let from = File::open(base).context(|| format!("open the base {}", base.display()))?;
    copy_tree(from.as_fd(), root, progress).context(|| format!("copy the base {}", base.display()))
}

/// Opens an unpacked member.
pub(super) fn open(directory: &Path, name: &str) -> Result<File> {
    File::open(directory.join(name)).context(|| format!("open member {name}"))
}
