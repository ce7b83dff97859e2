// SPDX-License-Identifier: Apache-2.0
//! The containers that leave this host together: the memory of each that was sent, the checkpoint that holds its processes, and what
//! becomes of them. Must not know what is decided, nor what the other host says.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::claim::Claim;
use super::files::Files;
use super::handoff::{Owner, Recorded, Side, Tree};
use super::held::Held;
use super::id::Tag;
use super::link::Happening;
use super::members::{each, together};
use super::protocol::Sender;
use super::report::{FileRound, MovedMember};
use super::rounds::{Memory, Sent};
use crate::checkpoint::{CheckpointOptions, Verdict};
use crate::engine::{Container, ContainerId, StateRoot};
use crate::{Error, ErrorKind, Result};

/// All of them.
#[derive(Debug)]
pub(super) struct Departures<'a> {
    root: &'a StateRoot,
    members: Vec<Departing>,
}

/// One of them.
#[derive(Debug)]
struct Departing {
    id: ContainerId,
    /// What was sent of it before it is checkpointed.
    sent: Sent,
    /// Its checkpoint, as long as that is under way.
    held: Option<Held>,
    /// Whether that holds it, and all of it was sent.
    is_frozen: bool,
    /// How long CRIU held the processes.
    stood_still: Option<Duration>,
}

impl<'a> Departures<'a> {
    pub(super) fn new(root: &'a StateRoot, ids: Vec<ContainerId>) -> Self {
        let one =
            |id| Departing { id, sent: Sent::default(), held: None, is_frozen: false, stood_still: None };
        Self { root, members: ids.into_iter().map(one).collect() }
    }

    pub(super) fn ids(&self) -> Vec<ContainerId> {
        self.members.iter().map(|member| member.id.clone()).collect()
    }

    /// What was sent of each before.
    pub(super) fn remember(&mut self, sent: Vec<Sent>) {
        for (member, sent) in self.members.iter_mut().zip(sent) {
            member.sent = sent;
        }
    }

    /// Begins to freeze all of them and to send them: each in a thread of its own, so that they stand still at the same time.
    ///
    /// # Errors
    /// One cannot be begun with. The others are on their way.
    pub(super) fn hold(
        &mut self,
        tag: Tag,
        options: &Arc<CheckpointOptions>,
        sender: &Sender,
        tell: &mpsc::Sender<Happening>,
    ) -> Result<()> {
        let root = self.root;
        for (number, member) in self.members.iter_mut().enumerate() {
            let container = member.container(root, tag)?;
            let told = (number, tell.clone());
            let sender = sender.of_member(number);
            member.held = Some(Held::begin(container, options.clone(), &member.sent, &sender, told)?);
        }
        Ok(())
    }

    /// Whether some of them are being frozen and sent.
    pub(super) fn are_on_their_way(&self) -> bool {
        self.members.iter().any(|member| member.held.is_some() && !member.is_frozen)
    }

    /// Whether all of them are frozen, and all of them were sent.
    pub(super) fn are_held(&self) -> bool {
        self.members.iter().all(|member| member.held.is_some() && member.is_frozen)
    }

    /// The one of this number is frozen, and all of it was sent: which one that is.
    pub(super) fn frozen(&mut self, number: usize) -> Option<&ContainerId> {
        let member = self.members.get_mut(number)?;
        member.is_frozen = true;
        Some(&member.id)
    }

    /// The checkpoint of the one of this number has ended by itself: why.
    pub(super) fn ended(&mut self, number: usize) -> Option<Error> {
        let held = self.members.get_mut(number)?.held.take()?;
        held.join().err()
    }

    /// Freezes those that were sent before. One that is gone needs nothing.
    pub(super) fn freeze(&self, tag: Tag) -> Result<()> {
        each(&self.members, |member| match member.claim(self.root, tag).tree()? {
            Tree::Absent => Ok(()),
            _ => member.container(self.root, tag)?.cgroup()?.freeze(),
        })
    }

    pub(super) fn own(&self, owner: Owner, tag: Tag) -> Result<()> {
        each(&self.members, |member| member.claim(self.root, tag).own(owner))
    }

    /// What they are together for a source that has written this down last.
    pub(super) fn tree(&self, last: Option<Recorded>, tag: Tag) -> Result<Tree> {
        let trees = self.members.iter().map(|member| member.claim(self.root, tag).tree());
        Ok(together(Side::Source, last, &trees.collect::<Result<Vec<_>>>()?))
    }

    /// Lets them go on.
    pub(super) fn thaw(&mut self, tag: Tag) -> Result<()> {
        self.end_checkpoints(|| Verdict::GoOn(reason("the migration was given up")));
        each(&self.members, |member| member.claim(self.root, tag).thaw())
    }

    /// Ends the processes, which are frozen, and removes the containers: they run at the other host.
    pub(super) fn end(&mut self, tag: Tag) -> Result<()> {
        self.end_checkpoints(|| Verdict::End);
        // What has not been removed yet is removed now.
        each(&self.members, |member| member.claim(self.root, tag).end())
    }

    /// Leaves them frozen, without anybody behind them.
    pub(super) fn stay(&mut self) {
        self.end_checkpoints(|| Verdict::Stay(reason("it is not known where the container runs")));
    }

    /// All of them are told before anybody is waited for.
    fn end_checkpoints(&mut self, verdict: impl Fn() -> Verdict) {
        for held in self.members.iter().filter_map(|member| member.held.as_ref()) {
            held.decide(verdict());
        }
        for member in &mut self.members {
            match member.held.take().map(Held::join) {
                Some(Ok(report)) => member.stood_still = report.stood_still,
                // It fails for the reason that it was given, which is known here.
                Some(Err(error)) => tracing::debug!(error = error.chain(), "the checkpoint has ended"),
                None => {}
            }
        }
    }

    /// How long the one that stood still for the longest time did so.
    pub(super) fn stood_still(&self) -> Option<Duration> {
        self.members.iter().filter_map(|member| member.stood_still).max()
    }

    /// Bytes of memory that were sent while they stood still, if most of it was sent before.
    pub(super) fn frozen_bytes(&self) -> Option<u64> {
        self.members.iter().map(|member| member.sent.memory.as_ref().map(Memory::rest)).sum()
    }

    /// The rounds of their files, and what was sent of those while they stood still.
    pub(super) fn files(&self) -> (Vec<FileRound>, Option<FileRound>) {
        let (rounds, rest): (Vec<_>, Vec<_>) =
            self.members.iter().filter_map(|member| member.sent.files.as_ref()).map(Files::report).unzip();
        (rounds.concat(), rest.into_iter().flatten().reduce(FileRound::and))
    }

    /// What is reported of each.
    pub(super) fn report(&self) -> Vec<MovedMember> {
        let report = |member: &Departing| MovedMember {
            container: member.id.to_string(),
            downtime: member.stood_still,
            frozen_bytes: member.sent.memory.as_ref().map(Memory::rest),
        };
        self.members.iter().map(report).collect()
    }
}

impl Departing {
    /// The container, which is held by this migration or free.
    fn container(&self, root: &StateRoot, tag: Tag) -> Result<Container> {
        Ok(root.load(&self.id)?.acting_for(tag.migration.to_string()))
    }

    fn claim<'a>(&'a self, root: &'a StateRoot, tag: Tag) -> Claim<'a> {
        Claim { root, id: &self.id, tag }
    }
}

fn reason(text: &'static str) -> Error {
    Error::new(ErrorKind::System, text)
}
