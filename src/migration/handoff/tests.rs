// SPDX-License-Identifier: Apache-2.0
//! The steps, read one after the other. That they are the right ones is `tests/handoff_model.rs`'s to show.

use super::*;
use crate::migration::id::MigrationId;

const TAG: Tag = Tag::first(MigrationId::from_bytes([1; MigrationId::BYTES]));

fn message(kind: MessageKind) -> Event {
    Event::Message(Message { tag: TAG, kind })
}

fn restart(what: Recorded, tree: Tree) -> Event {
    Event::Restart { records: vec![Record { epoch: TAG.epoch, what }], tree }
}

#[test]
fn a_source_hands_over_in_these_steps() {
    let source = Source::new(TAG.migration);
    let (source, effects) = source.step(Event::Start);
    let held = Effect::Own(Owner::Held, TAG);
    assert_eq!(effects, [journal(TAG, Recorded::Begun), held, Effect::Fence, Effect::Freeze]);
    let (source, effects) = source.step(Event::Tree(Tree::Frozen));
    assert_eq!(effects, [journal(TAG, Recorded::Prepared), send(TAG, MessageKind::Final)]);
    let (source, effects) = source.step(message(MessageKind::Ready));
    assert_eq!(effects, [journal(TAG, Recorded::Committed), send(TAG, MessageKind::Commit)]);
    // Too late.
    assert_eq!(source.step(Event::Cancel), (source, vec![]));
    let (source, effects) = source.step(message(MessageKind::Done));
    let elsewhere = Effect::Own(Owner::Elsewhere, TAG);
    let done = journal(TAG, Recorded::Done);
    assert_eq!(effects, [Effect::KillTree, done, elsewhere, Effect::Unfence, Effect::DropStore]);
    assert_eq!(source, Source::Done(TAG));
    assert_eq!(source.step(Event::Start), (source, vec![]));
}

#[test]
fn a_destination_takes_over_in_these_steps() {
    let destination = Destination::new(TAG.migration);
    let (destination, effects) = destination.step(message(MessageKind::Final));
    assert_eq!(effects, [Effect::RestoreFrozen(TAG)]);
    let (destination, effects) = destination.step(Event::Tree(Tree::Frozen));
    assert_eq!(effects, [journal(TAG, Recorded::Ready), send(TAG, MessageKind::Ready)]);
    let (destination, effects) = destination.step(message(MessageKind::Commit));
    assert_eq!(effects, [journal(TAG, Recorded::Committed), Effect::LookAtTree]);
    let (destination, effects) = destination.step(Event::Tree(Tree::Frozen));
    assert_eq!(effects, [journal(TAG, Recorded::Live), Effect::Unfence, Effect::Thaw]);
    let (destination, effects) = destination.step(Event::Tree(Tree::Running));
    assert_eq!(effects, [Effect::Own(Owner::Here, TAG), send(TAG, MessageKind::Done)]);
    assert_eq!(destination, Destination::Live(TAG));
    // Each time that it is asked.
    assert_eq!(destination.step(message(MessageKind::Commit)).1, [send(TAG, MessageKind::Done)]);
    assert_eq!(destination.step(message(MessageKind::Abort)).1, [send(TAG, MessageKind::Done)]);
}

#[test]
fn a_source_that_takes_over_does_what_the_last_record_asks_for() {
    let back = [send(TAG, MessageKind::Abort), Effect::Unfence, Effect::Thaw];
    let aborted = [&[journal(TAG, Recorded::Aborted)], &back[..]].concat();
    let commit = send(TAG, MessageKind::Commit);
    let table = [
        (Recorded::Begun, Tree::Frozen, Source::Returning(TAG), aborted.clone()),
        (
            Recorded::Prepared,
            Tree::Frozen,
            Source::Prepared(TAG, Kept::Frozen),
            vec![send(TAG, MessageKind::Final)],
        ),
        (
            Recorded::Prepared,
            Tree::Absent,
            Source::Prepared(TAG, Kept::Gone),
            vec![send(TAG, MessageKind::Final)],
        ),
        (Recorded::Prepared, Tree::Running, Source::Returning(TAG), aborted.clone()),
        (Recorded::Committed, Tree::Frozen, Source::Committed(TAG, Kept::Frozen), vec![commit]),
        (
            Recorded::Committed,
            Tree::Running,
            Source::Committed(TAG, Kept::Frozen),
            vec![commit, Effect::Freeze],
        ),
        (Recorded::Aborted, Tree::Frozen, Source::Returning(TAG), back.to_vec()),
        (Recorded::Fenced(Side::Destination), Tree::Frozen, Source::Returning(TAG), back.to_vec()),
    ];
    for (what, tree, state, effects) in table {
        let found = Source::new(TAG.migration).step(restart(what, tree));
        assert_eq!(found, (state, effects), "{what}, {tree:?}");
    }
    // The host has crashed: the destination may have the only copy.
    let (source, _) = Source::new(TAG.migration).step(restart(Recorded::Prepared, Tree::Absent));
    assert_eq!(source.step(Event::Cancel), (source, vec![]));
    // Of several containers others may be there, frozen: those go on when the destination refuses.
    assert_eq!(source.step(message(MessageKind::Nack)), (Source::Returning(TAG), aborted));
}

#[test]
fn a_destination_that_takes_over_does_what_the_last_record_asks_for() {
    let restore = [Effect::KillTree, Effect::RestoreFrozen(TAG)];
    let live = vec![journal(TAG, Recorded::Live), Effect::Unfence, Effect::Thaw];
    let runs = vec![Effect::Own(Owner::Here, TAG), send(TAG, MessageKind::Done)];
    let again = [&[journal(TAG, Recorded::Committed)], &restore[..]].concat();
    let nack = send(TAG, MessageKind::Nack);
    let promised = |promise| Destination::Restoring(TAG, promise);
    let table = [
        (Recorded::Ready, Tree::Frozen, Destination::Ready(TAG), vec![send(TAG, MessageKind::Ready)]),
        (Recorded::Ready, Tree::Absent, promised(Promise::Ready), restore.to_vec()),
        (Recorded::Ready, Tree::Broken, promised(Promise::Ready), restore.to_vec()),
        (
            Recorded::Ready,
            Tree::Running,
            Destination::Aborted(TAG),
            vec![journal(TAG, Recorded::Aborted), Effect::KillTree, nack],
        ),
        (Recorded::Committed, Tree::Frozen, Destination::Thawing(TAG), live),
        (Recorded::Committed, Tree::Absent, promised(Promise::Committed), restore.to_vec()),
        (Recorded::Live, Tree::Frozen, Destination::Thawing(TAG), vec![Effect::Unfence, Effect::Thaw]),
        (Recorded::Live, Tree::Broken, promised(Promise::Committed), again),
        (Recorded::Live, Tree::Running, Destination::Live(TAG), runs.clone()),
        // It ran, and has ended.
        (Recorded::Live, Tree::Absent, Destination::Live(TAG), runs),
        (Recorded::Aborted, Tree::Frozen, Destination::Aborted(TAG), vec![Effect::KillTree, nack]),
    ];
    for (what, tree, state, effects) in table {
        let found = Destination::new(TAG.migration).step(restart(what, tree));
        assert_eq!(found, (state, effects), "{what}, {tree:?}");
    }
}

#[test]
fn what_is_of_another_migration_or_attempt_is_not_heard() {
    let (source, _) = Source::new(TAG.migration).step(restart(Recorded::Committed, Tree::Frozen));
    let (destination, _) = Destination::new(TAG.migration).step(restart(Recorded::Ready, Tree::Frozen));
    let other = Tag::first(MigrationId::from_bytes([2; MigrationId::BYTES]));
    let later = TAG.at(TAG.epoch.next());
    for tag in [other, later] {
        for kind in [MessageKind::Done, MessageKind::Nack] {
            assert_eq!(source.step(Event::Message(Message { tag, kind })), (source, vec![]));
        }
    }
    for kind in [MessageKind::Commit, MessageKind::Abort] {
        let event = Event::Message(Message { tag: other, kind });
        assert_eq!(destination.step(event), (destination, vec![]));
    }
    // A later attempt says that this one is over, and only its FINAL begins it.
    let commit = Event::Message(Message { tag: later, kind: MessageKind::Commit });
    assert_eq!(destination.step(commit).0, Destination::Aborted(later));
}
