// SPDX-License-Identifier: Apache-2.0
//! One container that leaves this host: its memory that was sent, the checkpoint that holds its processes, and what becomes of them. Must
//! not know what is decided, nor what the other host says.

use std::sync::mpsc;
use std::time::Duration;

use super::claim::Claim;
use super::held::Held;
use super::id::Tag;
use super::link::Happening;
use super::protocol::Sender;
use super::rounds::Memory;
use crate::checkpoint::{CheckpointOptions, Verdict};
use crate::engine::{Container, ContainerId, StateRoot};
use crate::{Error, ErrorKind, Result};

/// The container.
#[derive(Debug)]
pub(super) struct Departing {
    pub(super) id: ContainerId,
    /// What was sent of its memory before it is checkpointed.
    pub(super) memory: Option<Memory>,
    /// Its checkpoint, as long as that is under way.
    held: Option<Held>,
    /// How long CRIU held the processes.
    pub(super) stood_still: Option<Duration>,
}

impl Departing {
    pub(super) fn new(id: ContainerId) -> Self {
        Self { id, memory: None, held: None, stood_still: None }
    }

    /// The container, which is held by this migration or free.
    fn container(&self, root: &StateRoot, tag: Tag) -> Result<Container> {
        Ok(root.load(&self.id)?.acting_for(tag.migration.to_string()))
    }

    pub(super) fn claim<'a>(&'a self, root: &'a StateRoot, tag: Tag) -> Claim<'a> {
        Claim { root, id: &self.id, tag }
    }

    /// Begins to freeze it and to send it.
    pub(super) fn hold(
        &mut self,
        (root, tag): (&StateRoot, Tag),
        options: CheckpointOptions,
        sender: &Sender,
        tell: &mpsc::Sender<Happening>,
    ) -> Result<()> {
        let container = self.container(root, tag)?;
        self.held = Some(Held::begin(container, options, self.memory.as_ref(), sender, tell)?);
        Ok(())
    }

    /// Why its checkpoint has ended by itself.
    pub(super) fn failure(&mut self) -> Option<Error> {
        self.held.take().and_then(|held| held.join().err())
    }

    /// Freezes one that was sent before.
    pub(super) fn freeze(&self, root: &StateRoot, tag: Tag) -> Result<()> {
        self.container(root, tag)?.cgroup()?.freeze()
    }

    /// Lets it go on.
    pub(super) fn thaw(&mut self, root: &StateRoot, tag: Tag) -> Result<()> {
        if let Some(held) = self.held.take() {
            let given_up = || Error::new(ErrorKind::System, "the migration was given up");
            // The checkpoint fails for that reason, which is known here.
            if let Err(error) = held.end(Verdict::GoOn(given_up())) {
                tracing::debug!(error = error.chain(), "the checkpoint was given up");
            }
        }
        self.claim(root, tag).thaw()
    }

    /// Ends the processes, which are frozen, and removes the container: it runs at the other host.
    pub(super) fn end(&mut self, root: &StateRoot, tag: Tag) -> Result<()> {
        if let Some(held) = self.held.take() {
            match held.end(Verdict::End) {
                Ok(report) => self.stood_still = report.stood_still,
                // What has not been removed yet is removed now.
                Err(error) => tracing::debug!(error = error.chain(), "the checkpoint has ended"),
            }
        }
        self.claim(root, tag).end()
    }

    /// Leaves it frozen, without anybody behind it.
    pub(super) fn stay(&mut self) {
        let Some(held) = self.held.take() else { return };
        let undecided = || Error::new(ErrorKind::System, "it is not known where the container runs");
        if let Err(error) = held.end(Verdict::Stay(undecided())) {
            tracing::debug!(error = error.chain(), "the checkpoint was left");
        }
    }
}
