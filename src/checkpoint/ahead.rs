// SPDX-License-Identifier: Apache-2.0
//! A dump that leaves memory where it is, for somebody who has taken most of it before: CRIU lists it and holds the processes. Must not
//! know what was taken.
//!
//! ```text
//!  ours ── Close, from the beginning ──▶ socket ──▶ criu, which reads it when it is to hand out memory: after post-dump, whatever the answer
//! ```
//! So nobody has to be there when CRIU comes to that, and it never waits.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use super::hand_over::MemoryTaker;
use super::memory::pipes_can_grow;
use super::{Export, options, straight};
use crate::criu::{InheritedFd, SpawnOptions, Version, lazy_socket};
use crate::engine::Container;
use crate::pages::ahead::Left;
use crate::pages::wire::{Form, Message};
use crate::spec::Config;
use crate::{Context, Error, ErrorKind, Result, criu, sys};

/// Whether a checkpoint for another host can leave memory where it is, with this CRIU.
///
/// # Errors
/// [`ErrorKind::Unsupported`] with what is missing.
pub fn can_leave_memory(version: Version) -> Result<()> {
    straight::require_socket(version)?;
    if pipes_can_grow().context(|| "read fs.pipe-max-size")? {
        return Ok(());
    }
    let message = "pipes cannot grow to 16 MiB, which criu needs to leave memory where it is";
    Err(Error::new(ErrorKind::Unsupported, message)
        .with_hint("sysctl fs.pipe-max-size=16777216, or run with CAP_SYS_RESOURCE"))
}

/// Whether somebody has taken most of the memory before.
pub(super) fn suits(export: Option<&Export>) -> bool {
    matches!(export, Some(Export::Peer(peer)) if matches!(peer.memory, MemoryTaker::Ahead(_)))
}

/// Our end of the socket through which CRIU is told to hand out nothing, and what tells CRIU of its own.
pub(super) struct Unasked {
    ours: UnixStream,
    options: InheritedFd,
}

impl Unasked {
    /// Makes the socket, and gives CRIU its end.
    pub(super) fn make(spawn: &mut SpawnOptions, config: &Config) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair().context(|| "make a socket pair for criu")?;
        let socket = spawn.inherit(theirs.as_fd())?;
        let options = lazy_socket(socket, options::further_options(config).as_deref())?;
        let file = sys::fd::sealed_memfd(c"criu.conf", &options).context(|| "make a file of options")?;
        Ok(Self { ours, options: spawn.inherit(file.as_fd())? })
    }

    /// Says what CRIU will read, and tells the file of options that makes it do so. It is said for as long as this is kept.
    ///
    /// # Errors
    /// When nothing can be said.
    pub(super) fn say(&mut self, version: Version) -> Result<PathBuf> {
        Message::Close.write(&mut self.ours, Form::of(version))?;
        Ok(self.options.path())
    }
}

/// What CRIU has left of the container's memory.
pub(super) fn left(container: &Container, images: BorrowedFd<'_>) -> Result<Vec<Left>> {
    let mut processes = HashMap::new();
    for process in container.processes()? {
        let inside =
            sys::proc::innermost_id(process).context(|| format!("ask for the number of {process}"))?;
        processes.extend(inside.and_then(|id| u32::try_from(id).ok()).map(|id| (id, process)));
    }
    let listed = criu::image::left_behind(images)?.into_iter();
    listed
        .map(|(pid, ranges)| {
            let process = processes.get(&pid).copied().ok_or_else(|| {
                let message = format!(
                    "criu has listed memory of process {pid}, which is not in the container's cgroup"
                );
                Error::new(ErrorKind::Unsupported, message)
                    .with_hint("move it there, or migrate with --memory-rounds 0")
            })?;
            Ok(Left { pid, process, ranges })
        })
        .collect()
}
