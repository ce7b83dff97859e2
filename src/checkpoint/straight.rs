// SPDX-License-Identifier: Apache-2.0
//! Memory on its way from CRIU straight into the archive, without a copy of it on the disk.
//!
//! ```text
//!  criu ── socket ──▶ a thread: pages::receive ──▶ Exporter: checkpoint/pages-1.img, …       until CRIU says post-dump
//!                                             └──▶ directory of images: pagemap-*.img
//! ```
//! CRIU waits while the archive is compressed, in the time that the processes stand still for it anyway. Must not know what comes
//! before and after the memory.

use std::io::Read;
use std::net::Shutdown;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread::{Scope, ScopedJoinHandle};

use super::export::Exporter;
use super::{ArchiveLayout, CheckpointOptions, Export, ahead};
use crate::criu::{InheritedFd, SpawnOptions, Version};
use crate::pages::receive::{Keeper, receive};
use crate::pages::wire::Form;
use crate::{Context, Error, ErrorKind, Result};

/// The oldest CRIU that was seen to send its memory so.
const SINCE: Version = Version::new(4, 1, 0);

/// Whether memory can go straight into the archive, or to whoever takes the checkpoint over: what is in an archive must be written
/// again when its size is known, which no envelope and no packed archive allows, and the caller must not want it among the images.
pub(super) fn suits(options: &CheckpointOptions, export: Option<&Export>) -> bool {
    let takes = matches!(export, Some(Export::File(_) | Export::Passed(_) | Export::Peer(_)));
    let takes = takes && !ahead::suits(export);
    let is_full = matches!(options.archive.layout, ArchiveLayout::Full);
    takes && is_full && options.archive.recipients.is_none() && options.image_path.is_none()
}

/// Whether this CRIU goes through a socket at all.
///
/// # Errors
/// `Unsupported` if it is too old.
pub(super) fn require_socket(version: Version) -> Result<()> {
    if version >= SINCE {
        return Ok(());
    }
    let message = format!("criu {version} was not seen to send memory through a socket, {SINCE} was");
    Err(Error::new(ErrorKind::Unsupported, message).with_hint("install a newer criu"))
}

/// Both ends of the socket: CRIU's by its number there, and ours.
pub(super) struct Socket {
    pub(super) criu: InheritedFd,
    ours: UnixStream,
}

impl Socket {
    /// Makes the socket, and gives CRIU its end.
    pub(super) fn make(spawn: &mut SpawnOptions) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair().context(|| "make a socket pair for memory")?;
        Ok(Self { criu: spawn.inherit(theirs.as_fd())?, ours })
    }

    /// Itself, unless this CRIU is too old.
    pub(super) fn suits(self, version: Version) -> Option<Self> {
        (version >= SINCE).then_some(self)
    }
}

/// The thread that takes the memory.
pub(super) struct Receiving<'scope, 'a> {
    ours: UnixStream,
    thread: ScopedJoinHandle<'scope, (Exporter<'a>, Result<u64>)>,
}

impl<'scope, 'a: 'scope> Receiving<'scope, 'a> {
    /// Begins to take what this CRIU sends.
    pub(super) fn begin(
        scope: &'scope Scope<'scope, '_>,
        socket: Socket,
        mut exporter: Exporter<'a>,
        images: BorrowedFd<'scope>,
        version: Version,
    ) -> Result<Self> {
        let Socket { ours, .. } = socket;
        let socket = ours.try_clone().context(|| "duplicate a socket for memory")?;
        let builder = std::thread::Builder::new().name("memory".into());
        let thread = builder.spawn_scoped(scope, move || {
            let mut keeper = Straight { exporter: &mut exporter, version };
            let received = receive(&socket, Form::of(version), images, &mut keeper);
            if received.is_err() {
                // Only so does CRIU see at once that nobody takes any more.
                let _ = socket.shutdown(Shutdown::Both);
            }
            (exporter, received)
        });
        let thread = thread.context(|| "start a thread that takes memory")?;
        Ok(Self { ours, thread })
    }

    /// What has become of it, when CRIU has sent all, or sends nothing any more. What was sent is taken still.
    pub(super) fn end(self) -> Result<Exporter<'a>> {
        // What CRIU has forked may hold its end still, and a file of options may have sent the memory elsewhere.
        let _ = self.ours.shutdown(Shutdown::Read);
        let (mut exporter, received) =
            self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        exporter.memory = Some(received?);
        Ok(exporter)
    }

    /// Why the dump has failed: because the memory could not be taken, or for that reason of CRIU's.
    pub(super) fn reason(self, of_criu: Error) -> Error {
        match self.end() {
            Err(error) if error.kind() != ErrorKind::CriuFailed => error,
            _ => of_criu,
        }
    }
}

/// Puts the pages into the archive, which begins with the first.
struct Straight<'k, 'a> {
    exporter: &'k mut Exporter<'a>,
    version: Version,
}

impl Keeper for Straight<'_, '_> {
    fn begin(&mut self, name: &str) -> Result<()> {
        self.exporter.begin_memory(self.version, name)
    }

    fn take(&mut self, from: &mut dyn Read, bytes: u64) -> Result<()> {
        self.exporter.memory(from, bytes)
    }

    fn end(&mut self) -> Result<()> {
        self.exporter.end_memory()
    }
}
