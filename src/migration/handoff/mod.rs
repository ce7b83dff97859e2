// SPDX-License-Identifier: Apache-2.0
//! The handoff: which of two hosts may run a container, when messages are lost, come twice or late, and either side can
//! die at any instruction. The source alone decides, and the destination never runs because time has passed.
//!
//! ```text
//! source                                                      destination
//! freeze, fence          BEGUN
//! frozen                 PREPARED ── FINAL ──▶
//!                                                             restored, its cgroup frozen      READY
//!                                 ◀── READY ──
//! the decision           COMMITTED ── COMMIT ─▶                                                COMMITTED
//!                                                             the tree is whole                LIVE
//!                                 ◀── DONE ───                unfenced, thawed
//! kill the frozen tree   DONE
//! ```
//!
//! (Capitals between the lines are messages, those beside them records, each durable before what follows it.)
//!
//! * The source thaws only from PREPARED, or when the destination has refused (NACK): ABORTED first, then the thaw. Who
//!   asks about an aborted attempt is told ABORT.
//! * The destination refuses only before LIVE: ABORTED is its durable promise never to run this attempt, then NACK.
//! * In READY, when the source is silent, the destination stays frozen and asks, for ever.
//! * DONE is said when the container has been thawed, and not before: until then a frozen tree can turn out to be
//!   worthless, and must be made again or refused. So the source keeps its copy until DONE or NACK.
//! * A source in PREPARED whose tree is gone (its host has crashed) does not abort any more: the destination may have the
//!   only copy.
//!
//! Each side is one pure function, [`Source::step`] and [`Destination::step`], from a state and an [`Event`] to the next
//! state and [`Effect`]s. Nothing here reads a clock, a file or a socket. Whoever carries the effects out
//!
//! 1. does so in their order, one event's before the next event;
//! 2. has a [`Effect::Journal`] record on the disk before what follows it;
//! 3. answers the last effect with [`Event::Tree`] if it is one of [`Effect::Freeze`], [`Effect::RestoreFrozen`],
//!    [`Effect::LookAtTree`], [`Effect::Thaw`]; or with [`Event::Failed`] if a freeze or a restore has failed;
//! 4. when another effect fails, leaves the rest undone, and begins anew with [`Event::Restart`];
//! 5. looks only at a tree that is this migration's: one that the container's state says is held by it. What somebody
//!    has started since under the same id is absent to it.
//!
//! `tests/handoff_model.rs` drives these same functions through every order of messages, deaths and crashes within
//! bounds.

mod destination;
mod source;
mod trace;

pub use destination::{Destination, Promise};
pub use source::{Kept, Source};
pub use trace::{Traced, What};

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::id::{Epoch, Tag};
use crate::{Error, ErrorKind, Result};

/// One of the two hosts of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Where the container comes from.
    Source,
    /// Where it goes.
    Destination,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
        })
    }
}

impl FromStr for Side {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "source" => Ok(Self::Source),
            "destination" => Ok(Self::Destination),
            _ => {
                let message = format!("{text:?} is no side of a migration");
                Err(Error::new(ErrorKind::InvalidInput, message).with_hint("it is source or destination"))
            }
        }
    }
}

/// What one side tells the other. Each may be sent and may come any number of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Message {
    /// The migration and the attempt that it is about.
    pub tag: Tag,
    /// What it says.
    pub kind: MessageKind,
}

/// What a [`Message`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MessageKind {
    /// Source: the container is frozen, and all of it has been sent. Whoever sends it again after a broken connection
    /// first sends what of the attempt's data the other side lacks.
    Final,
    /// Destination: it is restored here and frozen, and can run.
    Ready,
    /// Source: run it.
    Commit,
    /// Destination: it runs here.
    Done,
    /// Source: this attempt is over, the container stays with me.
    Abort,
    /// Destination: this attempt will never run here.
    Nack,
    /// Destination: what about this attempt?
    Query,
}

/// What a side has written down, never to be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Record {
    /// The attempt.
    pub epoch: Epoch,
    /// What has happened in it.
    pub what: Recorded,
}

/// What a [`Record`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recorded {
    /// Source: about to freeze.
    Begun,
    /// Source: frozen.
    Prepared,
    /// Destination: restored and frozen.
    Ready,
    /// Source: the destination shall run it. Destination: it was told so, but has not let it run.
    Committed,
    /// Destination: it may have run here.
    Live,
    /// Source: it runs at the destination, and not here.
    Done,
    /// It will not run at the destination in this attempt.
    Aborted,
    /// An operator has seen to it that this side does not run it.
    Fenced(Side),
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Begun => "begun",
            Self::Prepared => "prepared",
            Self::Ready => "ready",
            Self::Committed => "committed",
            Self::Live => "live",
            Self::Done => "done",
            Self::Aborted => "aborted",
            Self::Fenced(Side::Source) => "source fenced",
            Self::Fenced(Side::Destination) => "destination fenced",
        })
    }
}

/// What the container's processes are like on this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tree {
    /// There are none.
    Absent,
    /// They are there, frozen and whole.
    Frozen,
    /// They are frozen and cannot go on, since what brings their memory has died.
    Broken,
    /// They run, or are not held by the migration any more.
    Running,
}

/// What happens to a side.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Event {
    /// Source: freeze, and hand over.
    Start,
    /// A message has come.
    Message(Message),
    /// What the tree is like: the answer to an effect, or news.
    Tree(Tree),
    /// A freeze or a restore has failed.
    Failed,
    /// The attempt shall end. This is not done any more once the source has decided.
    Cancel,
    /// The connection is there again, or some time has passed: say again what the other side may not have heard.
    Resend,
    /// An operator vouches that this side does not run the container, and will not.
    Fenced(Side),
    /// A new process takes over.
    Restart {
        /// What the journal holds, oldest first.
        records: Vec<Record>,
        /// What the tree is like.
        tree: Tree,
    },
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Effect {
    /// Write this down; go on when it is durable.
    Journal(Record),
    /// Send this, if there is a connection; it is not an error when there is none.
    Send(Message),
    /// Set who owns the container.
    Own(Owner, Tag),
    /// Keep packets away from the container, and the container's from everybody.
    Fence,
    /// Take the fence away. Nothing to do without one.
    Unfence,
    /// Source: freeze the tree and send the rest of it. Answered.
    Freeze,
    /// Destination: make what has come durable and restore it, with the tree frozen at the end. The container is held by
    /// the migration from its first moment. Answered.
    RestoreFrozen(Tag),
    /// Look whether the tree is there and whole. Answered.
    LookAtTree,
    /// Let a frozen tree run. Nothing to do if it is not frozen by the migration. Answered.
    Thaw,
    /// Kill the tree, which is frozen, without letting it run, and at the destination remove the container; what has been
    /// received of it stays. Nothing to do if it is gone.
    KillTree,
    /// Source: forget what has been kept for a return of the container.
    DropStore,
}

/// Who owns the container, as [`Effect::Own`] sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Owner {
    /// This host.
    Here,
    /// The migration, until it is decided.
    Held,
    /// The other host.
    Elsewhere,
}

/// A state and what is to be done.
type Step<S> = (S, Vec<Effect>);

fn journal(tag: Tag, what: Recorded) -> Effect {
    Effect::Journal(Record { epoch: tag.epoch, what })
}

fn send(tag: Tag, kind: MessageKind) -> Effect {
    Effect::Send(Message { tag, kind })
}

#[cfg(test)]
mod tests;
