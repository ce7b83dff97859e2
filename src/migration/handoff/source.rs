// SPDX-License-Identifier: Apache-2.0
//! The source's half: it decides.
//!
//! ```text
//! Idle ─▶ Freezing ─▶ Prepared ── READY ──▶ Committed ── DONE ──▶ Done
//!             │           │ cancel, NACK        │ NACK
//!             └───────────┴─────────────────────┴──▶ Returning ── thawed ──▶ Aborted ── start ──▶ Freezing of the next attempt
//! ```

use super::{Effect, Event, MessageKind, Owner, Record, Recorded, Side, Step, Tree, journal, send};
use crate::migration::id::{MigrationId, Tag};

/// What a source has of a container that it has frozen. Of several it has all or, if one is missing, nothing that it could go on with
/// by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kept {
    /// Its tree.
    Frozen,
    /// Nothing: the tree has gone, with its host.
    Gone,
}

/// Where the source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The container runs; the attempt that is named would be the next.
    Idle(Tag),
    /// The container is being frozen, and the rest of it sent.
    Freezing(Tag),
    /// It is frozen. This can still be taken back, unless nothing is kept.
    Prepared(Tag, Kept),
    /// The destination shall run it. Only a refusal of the destination's brings it back.
    Committed(Tag, Kept),
    /// The attempt is over, the container is about to be thawed.
    Returning(Tag),
    /// The attempt is over, the container runs here, or has ended here.
    Aborted(Tag),
    /// The container runs at the destination.
    Done(Tag),
}

impl Source {
    /// Before the first attempt.
    pub const fn new(migration: MigrationId) -> Self {
        Self::Idle(Tag::first(migration))
    }

    /// The attempt that this is about.
    pub const fn tag(self) -> Tag {
        match self {
            Self::Idle(tag)
            | Self::Freezing(tag)
            | Self::Prepared(tag, _)
            | Self::Committed(tag, _)
            | Self::Returning(tag)
            | Self::Aborted(tag)
            | Self::Done(tag) => tag,
        }
    }

    /// What follows from an event. Events that mean nothing in a state change nothing.
    #[must_use]
    pub fn step(self, event: Event) -> (Self, Vec<Effect>) {
        match event {
            Event::Start => self.start(),
            Event::Message(message) if message.tag.migration == self.tag().migration => {
                self.heard(message.tag, message.kind)
            }
            Event::Message(_) => (self, vec![]),
            Event::Tree(tree) => self.seen(tree),
            Event::Failed | Event::Cancel => self.cancelled(),
            Event::Resend => self.again(),
            Event::Fenced(side) => self.fenced(side),
            Event::Restart { records, tree } => restarted(self.tag(), &records, tree),
        }
    }

    fn start(self) -> Step<Self> {
        let tag = match self {
            Self::Idle(tag) => tag,
            Self::Aborted(tag) => tag.at(tag.epoch.next()),
            _ => return (self, vec![]),
        };
        let effects =
            vec![journal(tag, Recorded::Begun), Effect::Own(Owner::Held, tag), Effect::Fence, Effect::Freeze];
        (Self::Freezing(tag), effects)
    }

    fn heard(self, about: Tag, kind: MessageKind) -> Step<Self> {
        if about != self.tag() {
            return (self, self.of_another_attempt(about, kind));
        }
        match (self, kind) {
            (Self::Prepared(tag, kept), MessageKind::Ready) => {
                let effects = vec![journal(tag, Recorded::Committed), send(tag, MessageKind::Commit)];
                (Self::Committed(tag, kept), effects)
            }
            (Self::Prepared(tag, _) | Self::Committed(tag, _), MessageKind::Nack) => {
                returning(tag, Some(Recorded::Aborted))
            }
            // In Prepared: an operator has let the destination run, which has written it down.
            (Self::Prepared(tag, _) | Self::Committed(tag, _), MessageKind::Done) => handed_over(tag),
            (Self::Prepared(..), MessageKind::Query) | (_, MessageKind::Ready | MessageKind::Query) => {
                self.again()
            }
            _ => (self, vec![]),
        }
    }

    /// An earlier attempt has been aborted, or there would be no later one.
    fn of_another_attempt(self, about: Tag, kind: MessageKind) -> Vec<Effect> {
        let over = about.epoch < self.tag().epoch;
        let asks = matches!(kind, MessageKind::Ready | MessageKind::Query);
        if over && asks { vec![send(about, MessageKind::Abort)] } else { vec![] }
    }

    fn seen(self, tree: Tree) -> Step<Self> {
        match (self, tree) {
            (Self::Freezing(tag), Tree::Frozen) => {
                let effects = vec![journal(tag, Recorded::Prepared), send(tag, MessageKind::Final)];
                (Self::Prepared(tag, Kept::Frozen), effects)
            }
            (Self::Freezing(tag), _) => returning(tag, Some(Recorded::Aborted)),
            (Self::Prepared(tag, _), Tree::Absent) => (Self::Prepared(tag, Kept::Gone), vec![]),
            (Self::Committed(tag, _), Tree::Absent) => (Self::Committed(tag, Kept::Gone), vec![]),
            // Somebody has thawed it: what the destination has is not what runs here.
            (Self::Prepared(tag, _), Tree::Running) => returning(tag, Some(Recorded::Aborted)),
            (Self::Committed(..), Tree::Running) => (self, vec![Effect::Freeze]),
            (Self::Returning(tag), Tree::Running | Tree::Absent) => {
                (Self::Aborted(tag), vec![Effect::Own(Owner::Here, tag)])
            }
            _ => (self, vec![]),
        }
    }

    fn cancelled(self) -> Step<Self> {
        match self {
            Self::Freezing(tag) | Self::Prepared(tag, Kept::Frozen) => {
                returning(tag, Some(Recorded::Aborted))
            }
            // The destination may have the only copy.
            Self::Prepared(_, Kept::Gone) => (self, vec![]),
            _ => (self, vec![]),
        }
    }

    /// What the destination may not have heard.
    fn again(self) -> Step<Self> {
        let effects = match self {
            Self::Prepared(tag, _) => vec![send(tag, MessageKind::Final)],
            Self::Committed(tag, _) => vec![send(tag, MessageKind::Commit)],
            Self::Returning(tag) => vec![send(tag, MessageKind::Abort), Effect::Unfence, Effect::Thaw],
            Self::Aborted(tag) => vec![send(tag, MessageKind::Abort)],
            Self::Idle(_) | Self::Freezing(_) | Self::Done(_) => vec![],
        };
        (self, effects)
    }

    fn fenced(self, side: Side) -> Step<Self> {
        let (Self::Prepared(tag, _) | Self::Committed(tag, _)) = self else { return (self, vec![]) };
        match side {
            Side::Destination => returning(tag, Some(Recorded::Fenced(side))),
            Side::Source => {
                let (next, mut effects) = handed_over(tag);
                effects.insert(0, journal(tag, Recorded::Fenced(side)));
                (next, effects)
            }
        }
    }
}

/// The container goes on here: what is left of it is thawed. `record` is not written again by whoever has found it in the journal.
fn returning(tag: Tag, record: Option<Recorded>) -> Step<Source> {
    let mut effects: Vec<Effect> = record.map(|what| journal(tag, what)).into_iter().collect();
    effects.extend([send(tag, MessageKind::Abort), Effect::Unfence, Effect::Thaw]);
    (Source::Returning(tag), effects)
}

/// The destination runs it: what is frozen here goes.
fn handed_over(tag: Tag) -> Step<Source> {
    let effects = vec![
        Effect::KillTree,
        journal(tag, Recorded::Done),
        Effect::Own(Owner::Elsewhere, tag),
        Effect::Unfence,
        Effect::DropStore,
    ];
    (Source::Done(tag), effects)
}

fn restarted(tag: Tag, records: &[Record], tree: Tree) -> Step<Source> {
    let Some(last) = records.last() else { return (Source::Idle(tag), vec![]) };
    let tag = tag.at(last.epoch);
    let kept = if tree == Tree::Absent { Kept::Gone } else { Kept::Frozen };
    match last.what {
        Recorded::Begun => returning(tag, Some(Recorded::Aborted)),
        Recorded::Prepared if tree == Tree::Running => returning(tag, Some(Recorded::Aborted)),
        Recorded::Prepared => (Source::Prepared(tag, kept), vec![send(tag, MessageKind::Final)]),
        Recorded::Committed => {
            let mut effects = vec![send(tag, MessageKind::Commit)];
            effects.extend((tree == Tree::Running).then_some(Effect::Freeze));
            (Source::Committed(tag, kept), effects)
        }
        Recorded::Aborted | Recorded::Fenced(Side::Destination) => returning(tag, None),
        Recorded::Fenced(Side::Source) => handed_over(tag),
        Recorded::Done => {
            let effects = vec![Effect::Own(Owner::Elsewhere, tag), Effect::Unfence, Effect::DropStore];
            (Source::Done(tag), effects)
        }
        // Records of the other side: this journal is not a source's.
        Recorded::Ready | Recorded::Live => (Source::Idle(tag), vec![]),
    }
}
