// SPDX-License-Identifier: Apache-2.0
//! Where a dump finds and puts memory: earlier images, a page server, or nowhere until somebody asks for it.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use crate::criu::{CriuClient, DumpRequest, PageServer};
use crate::{Context, Error, ErrorKind, Result, sys};

/// What becomes of the memory.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct MemoryOptions {
    /// Earlier images of the container, made by a pre-dump, relative to the directory of the new ones: what has not changed
    /// since then is left out.
    pub parent_path: Option<PathBuf>,
    /// Remove from earlier images what newer ones hold.
    pub auto_dedup: bool,
    /// A page server's address and port: it takes the memory. With `lazy_pages` CRIU listens on that port instead.
    pub page_server: Option<(String, u16)>,
    /// Hand the memory out on demand, while the restored container runs already; the dump lasts until all of it is gone.
    pub lazy_pages: bool,
    /// Gets one NUL byte when memory can be asked for.
    pub status_fd: Option<OwnedFd>,
    /// With `lazy_pages`: once it can be read, nobody is waited for any more, and the container runs on.
    pub give_up: Option<OwnedFd>,
}

/// What a lazy dump needs of `fs.pipe-max-size`: CRIU moves memory through pipes of this size.
const LAZY_PIPE: u64 = 16 << 20;

impl MemoryOptions {
    /// Whether the images alone hold all memory.
    pub(super) fn are_complete(&self) -> bool {
        self.parent_path.is_none() && self.page_server.is_none() && !self.lazy_pages
    }

    /// The port on which CRIU waits to be asked for memory.
    pub(super) fn lazy_port(&self) -> Option<u16> {
        self.page_server.as_ref().filter(|_| self.lazy_pages).map(|(_, port)| *port)
    }

    /// Judges what does not depend on CRIU.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for what cannot be together, or a parent that is none.
    pub(super) fn check(&self, images: &Path) -> Result<()> {
        if self.lazy_pages && self.page_server.is_none() {
            let message =
                "--lazy-pages needs --page-server ADDRESS:PORT: the port on which memory is asked for";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let Some(parent) = &self.parent_path else { return Ok(()) };
        let refuse = |why: &str| {
            Err(Error::new(ErrorKind::InvalidInput, format!("--parent-path {} {why}", parent.display())))
        };
        if parent.is_absolute() {
            return refuse("is absolute, and must be relative to the image directory");
        }
        if !parent.components().any(|part| matches!(part, Component::Normal(_))) {
            return refuse("names no other directory than the image directory");
        }
        let found = from_directory(images, parent);
        match found.join("inventory.img").symlink_metadata() {
            Ok(_) => Ok(()),
            Err(_) if found.is_dir() => refuse("has no images of CRIU in it"),
            Err(_) => refuse(&format!("is not a directory in {}", images.display())),
        }
    }

    /// Asks CRIU whether the kernel lets it.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`].
    pub(super) fn check_kernel(&self, client: &mut CriuClient, tracks: bool) -> Result<()> {
        if !tracks && !self.lazy_pages {
            return Ok(());
        }
        let features = client.features()?;
        if tracks && !features.memory_tracking {
            let message = "the running kernel does not track changes of memory (CONFIG_MEM_SOFT_DIRTY), which pre-dumps need";
            return Err(Error::new(ErrorKind::Unsupported, message)
                .with_hint("make one checkpoint, without --pre-dump and --parent-path"));
        }
        if self.lazy_pages && !features.lazy_pages {
            let message = "the running kernel lacks what --lazy-pages needs (userfaultfd)";
            return Err(Error::new(ErrorKind::Unsupported, message)
                .with_hint("make a checkpoint without --lazy-pages"));
        }
        if self.lazy_pages && !pipes_can_grow().context(|| "read fs.pipe-max-size")? {
            let message =
                "pipes cannot grow to 16 MiB: CRIU could fail in the middle of a dump with --lazy-pages";
            return Err(Error::new(ErrorKind::Unsupported, message)
                .with_hint("sysctl fs.pipe-max-size=16777216, or run with CAP_SYS_RESOURCE"));
        }
        Ok(())
    }

    /// What CRIU is told.
    pub(super) fn apply(&self, request: &mut DumpRequest<'_>) {
        request.parent_images.clone_from(&self.parent_path);
        request.track_memory = self.parent_path.is_some();
        request.options.auto_dedup = self.auto_dedup;
        request.lazy_pages = self.lazy_pages;
        request.page_server = self
            .page_server
            .as_ref()
            .map(|(address, port)| PageServer::Address { address: address.clone(), port: *port });
    }
}

/// Where `relative` leads from a directory that may not be there yet.
fn from_directory(directory: &Path, relative: &Path) -> PathBuf {
    match (directory.parent(), relative.strip_prefix("..")) {
        (Some(above), Ok(rest)) if !directory.exists() => above.join(rest),
        _ => directory.join(relative),
    }
}

/// Whether CRIU can have pipes of the size that it moves memory through.
pub(super) fn pipes_can_grow() -> std::io::Result<bool> {
    const CAP_SYS_RESOURCE: u32 = 24;
    let privileged = sys::proc::effective_capabilities()? & (1 << CAP_SYS_RESOURCE) != 0;
    Ok(privileged || sys::proc::pipe_max_size()? >= LAZY_PIPE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_a_directory_of_images_beside() {
        let top = tempfile::tempdir().expect("tempdir");
        // Not there yet.
        let images = top.path().join("new");
        let judge = |parent: &str| {
            MemoryOptions { parent_path: Some(parent.into()), ..MemoryOptions::default() }
                .check(&images)
                .map_err(|e| e.to_string())
        };
        assert!(judge("/old").expect_err("absolute").contains("is absolute"));
        assert!(judge(".").expect_err("itself").contains("names no other directory"));
        assert!(judge("../old").expect_err("missing").contains("is not a directory in"));
        std::fs::create_dir(top.path().join("old")).expect("mkdir");
        assert!(judge("../old").expect_err("empty").contains("has no images of CRIU in it"));
        std::fs::write(top.path().join("old/inventory.img"), "").expect("write");
        judge("../old").expect("it is one");
        std::fs::create_dir(&images).expect("mkdir");
        judge("../old").expect("it is one still");
    }

    #[test]
    fn lazy_memory_is_asked_for_somewhere() {
        let lazy = MemoryOptions { lazy_pages: true, ..MemoryOptions::default() };
        let error = lazy.check(Path::new("/images")).expect_err("no port");
        assert!(error.to_string().contains("--page-server ADDRESS:PORT"), "{error}");
    }
}
