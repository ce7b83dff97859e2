// SPDX-License-Identifier: Apache-2.0
//! The destination's half: it obeys, or refuses for good.
//!
//! ```text
//! Idle ── FINAL ──▶ Restoring ── restored ──▶ Ready ── COMMIT ──▶ Looking ── whole ──▶ Thawing ── runs ──▶ Live
//!                       │  ▲                    │                    │                    │
//!                       │  └─ broken or gone ───┴────────────────────┴── still frozen ────┘
//!                       └─ failed, or ABORT before COMMIT ──▶ Aborted ── FINAL of a later attempt ──▶ Restoring
//! ```

use super::{Effect, Event, MessageKind, Owner, Record, Recorded, Side, Step, Tree, journal, send};
use crate::migration::id::{MigrationId, Tag};

/// What has been said of a container that is being restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Promise {
    /// Nothing yet.
    Nothing,
    /// That it can run.
    Ready,
    /// The source has said that it shall run.
    Committed,
}

/// Where the destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// Nothing has been said.
    Idle(MigrationId),
    /// The container is being restored.
    Restoring(Tag, Promise),
    /// It is restored and frozen, and waits for the source, for ever.
    Ready(Tag),
    /// It shall run; whether it still can is being looked at.
    Looking(Tag),
    /// It is about to be thawed.
    Thawing(Tag),
    /// It runs here, or has ended here.
    Live(Tag),
    /// It will never run here in this attempt.
    Aborted(Tag),
}

impl Destination {
    /// Before the first attempt.
    pub const fn new(migration: MigrationId) -> Self {
        Self::Idle(migration)
    }

    /// The attempt that this is about, once there is one.
    pub const fn tag(self) -> Option<Tag> {
        match self {
            Self::Idle(_) => None,
            Self::Restoring(tag, _)
            | Self::Ready(tag)
            | Self::Looking(tag)
            | Self::Thawing(tag)
            | Self::Live(tag)
            | Self::Aborted(tag) => Some(tag),
        }
    }

    /// The migration.
    pub const fn migration(self) -> MigrationId {
        match self {
            Self::Idle(migration) => migration,
            Self::Restoring(tag, _)
            | Self::Ready(tag)
            | Self::Looking(tag)
            | Self::Thawing(tag)
            | Self::Live(tag)
            | Self::Aborted(tag) => tag.migration,
        }
    }

    /// What follows from an event. Events that mean nothing in a state change nothing.
    #[must_use]
    pub fn step(self, event: Event) -> (Self, Vec<Effect>) {
        match event {
            Event::Message(message) if message.tag.migration == self.migration() => {
                self.heard(message.tag, message.kind)
            }
            Event::Start | Event::Message(_) => (self, vec![]),
            Event::Tree(tree) => self.seen(tree),
            Event::Failed => self.failed(),
            Event::Cancel => self.cancelled(),
            Event::Resend => self.again(),
            Event::Fenced(side) => self.fenced(side),
            Event::Restart { records, tree } => restarted(self.migration(), &records, tree),
        }
    }

    fn heard(self, about: Tag, kind: MessageKind) -> Step<Self> {
        let Some(tag) = self.tag() else { return self.heard_first(about, kind) };
        if about.epoch < tag.epoch {
            return (self, vec![]);
        }
        if about.epoch > tag.epoch {
            return self.superseded(about, kind);
        }
        match (self, kind) {
            (Self::Restoring(_, Promise::Nothing | Promise::Ready), MessageKind::Commit) => {
                (Self::Restoring(tag, Promise::Committed), vec![journal(tag, Recorded::Committed)])
            }
            (Self::Ready(_), MessageKind::Commit) => {
                (Self::Looking(tag), vec![journal(tag, Recorded::Committed), Effect::LookAtTree])
            }
            (Self::Restoring(_, Promise::Nothing | Promise::Ready) | Self::Ready(_), MessageKind::Abort) => {
                aborted(tag, Recorded::Aborted)
            }
            (
                Self::Ready(_) | Self::Live(_) | Self::Aborted(_),
                MessageKind::Final | MessageKind::Commit | MessageKind::Abort,
            ) => self.again(),
            _ => (self, vec![]),
        }
    }

    fn heard_first(self, about: Tag, kind: MessageKind) -> Step<Self> {
        match kind {
            MessageKind::Final => {
                (Self::Restoring(about, Promise::Nothing), vec![Effect::RestoreFrozen(about)])
            }
            // The source has READY of a destination whose journal is lost.
            MessageKind::Commit | MessageKind::Abort => aborted(about, Recorded::Aborted),
            _ => (self, vec![]),
        }
    }

    /// The source is at a later attempt: it has aborted the one before, even if that was never heard here. Where the
    /// source cannot have done so, the message is not the source's.
    fn superseded(self, about: Tag, kind: MessageKind) -> Step<Self> {
        let promised = match self {
            Self::Restoring(tag, Promise::Ready) | Self::Ready(tag) => Some(tag),
            Self::Restoring(_, Promise::Nothing) | Self::Aborted(_) => None,
            _ => return (self, vec![]),
        };
        let (next, then) = self.heard_first(about, kind);
        if then.is_empty() {
            return (self, vec![]);
        }
        let mut effects: Vec<Effect> =
            promised.map(|tag| journal(tag, Recorded::Aborted)).into_iter().collect();
        effects.push(Effect::KillTree);
        effects.extend(then);
        (next, effects)
    }

    fn seen(self, tree: Tree) -> Step<Self> {
        match (self, tree) {
            (Self::Restoring(tag, promise), Tree::Frozen) => match promise {
                Promise::Nothing => {
                    (Self::Ready(tag), vec![journal(tag, Recorded::Ready), send(tag, MessageKind::Ready)])
                }
                Promise::Ready => (Self::Ready(tag), vec![send(tag, MessageKind::Ready)]),
                Promise::Committed => thawing(tag),
            },
            (Self::Restoring(..), _) => self.failed(),
            (Self::Ready(tag), Tree::Absent | Tree::Broken) => restoring(tag, Promise::Ready),
            // Somebody has thawed it, without a right to.
            (Self::Ready(tag), Tree::Running) => aborted(tag, Recorded::Aborted),
            (Self::Looking(tag), Tree::Frozen | Tree::Running) => thawing(tag),
            (Self::Looking(tag), Tree::Absent | Tree::Broken) => restoring(tag, Promise::Committed),
            (Self::Thawing(tag), Tree::Running | Tree::Absent) => live(tag),
            // It has not run, for it is still frozen.
            (Self::Thawing(tag), Tree::Broken) => {
                let (next, mut effects) = restoring(tag, Promise::Committed);
                effects.insert(0, journal(tag, Recorded::Committed));
                (next, effects)
            }
            // A restore that came to its end late.
            (Self::Aborted(_), Tree::Frozen | Tree::Broken) => (self, vec![Effect::KillTree]),
            _ => (self, vec![]),
        }
    }

    /// It cannot be restored here.
    fn failed(self) -> Step<Self> {
        match self {
            Self::Restoring(tag, _) => aborted(tag, Recorded::Aborted),
            _ => (self, vec![]),
        }
    }

    fn cancelled(self) -> Step<Self> {
        match self {
            Self::Restoring(tag, Promise::Nothing | Promise::Ready) | Self::Ready(tag) => {
                aborted(tag, Recorded::Aborted)
            }
            _ => (self, vec![]),
        }
    }

    /// What the source may not have heard.
    fn again(self) -> Step<Self> {
        let effects = match self {
            Self::Ready(tag) => vec![send(tag, MessageKind::Ready)],
            Self::Restoring(tag, Promise::Ready) => vec![send(tag, MessageKind::Query)],
            Self::Looking(_) => vec![Effect::LookAtTree],
            Self::Thawing(_) => vec![Effect::Unfence, Effect::Thaw],
            Self::Live(tag) => vec![send(tag, MessageKind::Done)],
            Self::Aborted(tag) => vec![send(tag, MessageKind::Nack)],
            Self::Idle(_) | Self::Restoring(..) => vec![],
        };
        (self, effects)
    }

    fn fenced(self, side: Side) -> Step<Self> {
        let record = |tag| journal(tag, Recorded::Fenced(side));
        match (side, self) {
            (Side::Source, Self::Restoring(tag, Promise::Nothing | Promise::Ready)) => {
                (Self::Restoring(tag, Promise::Committed), vec![record(tag)])
            }
            (Side::Source, Self::Ready(tag)) => (Self::Looking(tag), vec![record(tag), Effect::LookAtTree]),
            // What was being restored when both sides died.
            (Side::Destination, Self::Idle(migration)) => {
                aborted(Tag::first(migration), Recorded::Fenced(side))
            }
            // Once it may have run it is not killed by a word.
            (Side::Destination, Self::Restoring(tag, _) | Self::Ready(tag) | Self::Looking(tag)) => {
                aborted(tag, Recorded::Fenced(side))
            }
            _ => (self, vec![]),
        }
    }
}

/// It will never run here: written down before anybody is told.
fn aborted(tag: Tag, record: Recorded) -> Step<Destination> {
    let effects = vec![journal(tag, record), Effect::KillTree, send(tag, MessageKind::Nack)];
    (Destination::Aborted(tag), effects)
}

/// Once more from what has been made durable. What is there of a tree is worthless.
fn restoring(tag: Tag, promise: Promise) -> Step<Destination> {
    (Destination::Restoring(tag, promise), vec![Effect::KillTree, Effect::RestoreFrozen(tag)])
}

fn thawing(tag: Tag) -> Step<Destination> {
    (Destination::Thawing(tag), vec![journal(tag, Recorded::Live), Effect::Unfence, Effect::Thaw])
}

fn live(tag: Tag) -> Step<Destination> {
    (Destination::Live(tag), vec![Effect::Own(Owner::Here, tag), send(tag, MessageKind::Done)])
}

fn restarted(migration: MigrationId, records: &[Record], tree: Tree) -> Step<Destination> {
    let Some(last) = records.last() else {
        // A restore that nobody has been told of; what runs is not of this migration.
        let frozen = matches!(tree, Tree::Frozen | Tree::Broken);
        return (Destination::Idle(migration), frozen.then_some(Effect::KillTree).into_iter().collect());
    };
    let tag = Tag { migration, epoch: last.epoch };
    match last.what {
        Recorded::Ready => match tree {
            Tree::Frozen => (Destination::Ready(tag), vec![send(tag, MessageKind::Ready)]),
            other => Destination::Ready(tag).seen(other),
        },
        Recorded::Committed | Recorded::Fenced(Side::Source) => Destination::Looking(tag).seen(tree),
        Recorded::Live => match tree {
            Tree::Frozen => (Destination::Thawing(tag), vec![Effect::Unfence, Effect::Thaw]),
            other => Destination::Thawing(tag).seen(other),
        },
        Recorded::Aborted | Recorded::Fenced(Side::Destination) => {
            (Destination::Aborted(tag), vec![Effect::KillTree, send(tag, MessageKind::Nack)])
        }
        // Records of the other side: this journal is not a destination's.
        Recorded::Begun | Recorded::Prepared | Recorded::Done => (Destination::Idle(migration), vec![]),
    }
}
