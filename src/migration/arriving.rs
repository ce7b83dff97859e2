// SPDX-License-Identifier: Apache-2.0
//! One container that comes to this host: what of it has come, its restore, and its processes once there are any. Must not know what is
//! decided, nor whom to tell.

use std::fs::File;
use std::io::Write;

use super::claim::Claim;
use super::handoff::Tree;
use super::id::Tag;
use super::protocol::Frame;
use super::stored::Stored;
use crate::engine::{ContainerId, ProcessIo, StateRoot};
use crate::pages::store::StoreWriter;
use crate::restore::{RestoreOptions, Source, restore};
use crate::{Context, Error, ErrorKind, Result};

/// The container.
pub(super) struct Arriving {
    pub(super) id: ContainerId,
    pub(super) stored: Stored,
    /// A file of memory that is coming.
    memory: Option<File>,
    /// Until all of them have come.
    pages: Option<StoreWriter>,
    archive: Option<File>,
    complete: bool,
}

impl Arriving {
    /// One of which nothing has come.
    pub(super) fn new(id: ContainerId, stored: Stored) -> Self {
        Self { id, stored, memory: None, pages: None, archive: None, complete: false }
    }

    /// One of which all has come that will, in an earlier connection.
    pub(super) fn again(id: ContainerId, stored: Stored) -> Self {
        let complete = stored.archive().is_ok();
        Self { complete, ..Self::new(id, stored) }
    }

    /// Keeps what comes of it, of which there may be no more than `room` has bytes.
    ///
    /// # Errors
    /// There is no room; it is not its turn; it cannot be written.
    pub(super) fn keep(&mut self, frame: Frame, room: &mut u64) -> Result<()> {
        if self.complete {
            return Err(out_of_turn());
        }
        if let Frame::Memory(bytes) | Frame::Archive(bytes) = &frame {
            *room = room.checked_sub(bytes.len() as u64).ok_or_else(full)?;
        }
        match frame {
            Frame::MemoryBegin(name) if self.memory.is_none() => {
                self.memory = Some(self.stored.create_memory(&name)?);
            }
            Frame::Memory(bytes) => write(self.memory.as_mut(), &bytes)?,
            Frame::MemoryEnd => sync(self.memory.take())?,
            Frame::Pages(batch) => {
                if self.pages.is_none() {
                    self.pages = Some(StoreWriter::create(&self.stored.pages())?);
                }
                let pages = self.pages.as_mut().ok_or_else(out_of_turn)?;
                pages.take(&batch, room)?;
            }
            Frame::Memories(processes) => {
                let mut pages = self.pages.take().ok_or_else(out_of_turn)?;
                pages.seal(&processes)?;
            }
            Frame::Archive(bytes) => {
                if self.archive.is_none() {
                    self.archive = Some(self.stored.create_archive()?);
                }
                write(self.archive.as_mut(), &bytes)?;
            }
            Frame::ArchiveEnd if self.memory.is_none() && self.pages.is_none() => {
                sync(self.archive.take())?;
                self.complete = true;
            }
            _ => return Err(out_of_turn()),
        }
        Ok(())
    }

    /// Restores it from what has come, with its processes frozen at the end.
    ///
    /// # Errors
    /// Not all has come; why it cannot be restored.
    pub(super) fn restore(&self, root: &StateRoot, options: &RestoreOptions) -> Result<()> {
        if !self.complete {
            return Err(Error::new(ErrorKind::InvalidArchive, "not all of the container has come"));
        }
        let source = Source::Peer {
            name: "what the other host has sent".to_owned(),
            bytes: Box::new(self.stored.archive()?),
            memory: self.stored.memory()?,
            store: self.stored.store(),
        };
        let [stdout, stderr] = self.stored.output()?;
        let null = File::open("/dev/null").context(|| "open /dev/null")?;
        let io = ProcessIo {
            stdin: Some(null.into()),
            stdout: Some(stdout.into()),
            stderr: Some(stderr.into()),
            ..ProcessIo::default()
        };
        let container = restore(root, self.id.clone(), source, options, io, &mut ())?;
        self.stored.leave_output(container.dir())
    }

    pub(super) fn claim<'a>(&'a self, root: &'a StateRoot, tag: Tag) -> Claim<'a> {
        Claim { root, id: &self.id, tag }
    }

    /// What there is of it. What runs before this side has written down that it `may_run` is none of it, or was let go by a CRIU when
    /// everybody was killed who could have frozen it: that one must not go on.
    pub(super) fn tree(&self, root: &StateRoot, tag: Tag, may_run: bool) -> Result<Tree> {
        let tree = self.claim(root, tag).tree()?;
        if tree != Tree::Running || may_run {
            return Ok(tree);
        }
        let held = root.load(&self.id)?.ownership()?;
        Ok(if held.is_here() { Tree::Absent } else { Tree::Broken })
    }
}

pub(super) fn out_of_turn() -> Error {
    Error::new(ErrorKind::InvalidInput, "the other host says something out of turn")
}

fn full() -> Error {
    Error::new(ErrorKind::Storage, "there is no room for more of the container here")
        .with_hint("choose a state root on a larger file system with --root")
}

fn write(to: Option<&mut File>, bytes: &[u8]) -> Result<()> {
    let to = to.ok_or_else(out_of_turn)?;
    to.write_all(bytes).context(|| "keep what the other host sends")
}

fn sync(file: Option<File>) -> Result<()> {
    let file = file.ok_or_else(out_of_turn)?;
    file.sync_all().context(|| "keep what the other host sends")
}
