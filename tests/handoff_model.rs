// SPDX-License-Identifier: Apache-2.0
//! The handoff of a container, or of several together, checked in every order of events within bounds: the functions that the program
//! runs, over a
//! network that loses, repeats and reorders, with agents that die between any two effects, memory daemons that die, hosts
//! that crash, for a moment or for good, and an operator who tells the truth.
//!
//! A check is worth what it can find: each mistake that others have made, or that we might, is made here on purpose, and
//! must be caught.

use std::hash::Hash;

use migrate::migration::handoff::{
    Destination, Effect, Event, Message, MessageKind, Owner, Record, Recorded, Side, Source, Tree,
};
use migrate::migration::members::together;
use migrate::migration::{Epoch, MigrationId, Tag};
use stateright::{Checker, HasDiscoveries, Model, Property};

const MIGRATION: MigrationId = MigrationId::from_bytes([7; MigrationId::BYTES]);

/// How many attempts there are.
const LAST: Epoch = Epoch::new(2);

const KINDS: [MessageKind; 7] = [
    MessageKind::Final,
    MessageKind::Ready,
    MessageKind::Commit,
    MessageKind::Done,
    MessageKind::Abort,
    MessageKind::Nack,
    MessageKind::Query,
];

/// What may go wrong in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Faults {
    deaths: u8,
    breaks: u8,
    crashes: u8,
    disk: Disk,
}

/// What a host has after a crash of what it has written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Disk {
    Kept,
    /// The state root was in memory. The connection has ended with the host, and what was on its way with it.
    Lost,
}

/// A mistake, made on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    SourceTimeoutResumes,
    DestinationTimeoutRuns,
    CommitBeforeFsync,
    DoneBeforeResume,
    KillOnCommit,
    DoneBeforeLive,
    StaleEpochAccepted,
}

/// Of so many containers that move together.
struct Handoff<const N: usize> {
    faults: Faults,
    mutant: Mutant,
}

/// One host. Its agent is dead when there is no state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Host<S, const N: usize> {
    side: Side,
    agent: Option<S>,
    todo: Vec<Effect>,
    /// The container that the first of those is about to be carried out for.
    at: usize,
    journal: Vec<Record>,
    trees: [Tree; N],
    owners: [Owner; N],
    /// It has crashed and is never switched on again.
    fenced: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World<const N: usize> {
    source: Host<Source, N>,
    destination: Host<Destination, N>,
    /// Messages that have been sent. Each can come at any later time, again and again, or never: that is loss.
    network: u16,
    left: Faults,
    /// A crash has hit the only copy, or one was spared and the last one has met with a second misfortune.
    excused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Start,
    Cancel(Side),
    Deliver(MessageKind, Epoch),
    Work(Side),
    /// The next effect, a freeze or a restore, fails.
    Fail(Side),
    Resend(Side),
    Notice(Side),
    Die(Side),
    Restart(Side),
    /// What brings the memory of the restored tree of this container dies.
    Break(usize),
    Crash(Side),
    CrashForGood(Side),
    /// The operator tells the other side of a host that is off for good.
    Decide(Side),
    Timeout(Side),
}

impl<S: Copy, const N: usize> Host<S, N> {
    fn new(side: Side, agent: S, tree: Tree, owner: Owner) -> Self {
        let (trees, owners) = ([tree; N], [owner; N]);
        Self { side, agent: Some(agent), todo: vec![], at: 0, journal: vec![], trees, owners, fenced: false }
    }

    /// An agent that is at nothing.
    fn idle(&self) -> Option<S> {
        self.agent.filter(|_| self.todo.is_empty())
    }

    fn die(&mut self) {
        self.agent = None;
        self.todo.clear();
        self.at = 0;
    }

    fn crash(&mut self, fenced: bool, disk: Disk) {
        self.die();
        self.trees = [Tree::Absent; N];
        if disk == Disk::Lost {
            self.journal.clear();
            self.owners = [Owner::Held; N];
        }
        self.fenced = fenced;
    }

    fn all(&self, tree: Tree) -> bool {
        self.trees == [tree; N]
    }

    /// The trees as far as they are the migration's, together.
    fn seen(&self) -> Tree {
        let mut trees = self.trees;
        for (tree, owner) in trees.iter_mut().zip(self.owners) {
            if owner == Owner::Here && matches!(tree, Tree::Frozen | Tree::Broken) {
                *tree = Tree::Running;
            }
        }
        together(self.side, self.journal.last().map(|record| record.what), &trees)
    }

    fn restart(&self) -> Event {
        Event::Restart { records: self.journal.clone(), tree: self.seen() }
    }

    /// Carries the first effect out, for one of the containers if it is about them, and returns the answer to it, if there is one.
    fn work(&mut self, network: &mut u16, fails: bool) -> Option<Event> {
        let effect = self.todo.first().copied()?;
        let is_of_containers = matches!(
            effect,
            Effect::Own(..) | Effect::KillTree | Effect::Freeze | Effect::RestoreFrozen(_) | Effect::Thaw
        );
        let refused = matches!(effect, Effect::Freeze | Effect::RestoreFrozen(_)) && fails;
        // All of them have to be made anew: none is let go.
        let is_broken = effect == Effect::Thaw && self.at == 0 && self.seen() == Tree::Broken;
        match effect {
            Effect::Journal(record) => self.journal.push(record),
            Effect::Send(message) => *network |= bit(message.kind, message.tag.epoch),
            _ if is_of_containers && !refused && !is_broken => {
                self.work_on(effect);
                self.at += 1;
                if self.at < N {
                    return None;
                }
            }
            _ => {}
        }
        self.at = 0;
        self.todo.remove(0);
        let answer = match effect {
            _ if refused => Some(Event::Failed),
            Effect::Freeze | Effect::RestoreFrozen(_) | Effect::LookAtTree | Effect::Thaw => {
                Some(Event::Tree(self.seen()))
            }
            _ => None,
        };
        assert!(answer.is_none() || self.todo.is_empty(), "{effect:?} is answered, and not the last");
        answer
    }

    fn work_on(&mut self, effect: Effect) {
        let (tree, owner) = (&mut self.trees[self.at], &mut self.owners[self.at]);
        match effect {
            Effect::Own(new, _) => *owner = new,
            Effect::KillTree if *owner != Owner::Here => *tree = Tree::Absent,
            Effect::Freeze if *tree != Tree::Absent => *tree = Tree::Frozen,
            Effect::RestoreFrozen(_) => (*tree, *owner) = (Tree::Frozen, Owner::Held),
            // One that is broken while others run is made anew.
            Effect::Thaw if matches!(tree, Tree::Frozen | Tree::Broken) && *owner == Owner::Held => {
                *tree = Tree::Running;
            }
            _ => {}
        }
    }
}

/// A message's place in the network.
fn bit(kind: MessageKind, epoch: Epoch) -> u16 {
    let kind = KINDS.iter().position(|other| *other == kind).expect("all kinds are listed");
    let epoch = usize::try_from(epoch.number()).expect("few attempts") - 1;
    1 << (epoch * KINDS.len() + kind)
}

/// Who is told it.
fn receiver(kind: MessageKind) -> Side {
    match kind {
        MessageKind::Final | MessageKind::Commit | MessageKind::Abort => Side::Destination,
        MessageKind::Ready | MessageKind::Done | MessageKind::Nack | MessageKind::Query => Side::Source,
    }
}

fn other(side: Side) -> Side {
    if side == Side::Source { Side::Destination } else { Side::Source }
}

fn message(kind: MessageKind, epoch: Epoch) -> Event {
    Event::Message(Message { tag: Tag { migration: MIGRATION, epoch }, kind })
}

fn all_messages() -> impl Iterator<Item = (MessageKind, Epoch)> {
    [Epoch::FIRST, LAST].into_iter().flat_map(|epoch| KINDS.map(|kind| (kind, epoch)))
}

impl<const N: usize> World<N> {
    fn new(faults: Faults) -> Self {
        Self {
            source: Host::new(Side::Source, Source::new(MIGRATION), Tree::Running, Owner::Here),
            destination: Host::new(Side::Destination, Destination::new(MIGRATION), Tree::Absent, Owner::Held),
            network: 0,
            left: faults,
            excused: false,
        }
    }

    /// Whether the other host has a copy, and a right to it.
    fn spared_by_crash_of(&self, side: Side) -> bool {
        let (Some(source), Some(destination)) = (self.source.journal.last(), self.destination.journal.last())
        else {
            return side == Side::Destination;
        };
        match side {
            Side::Source => {
                let gone = matches!(source.what, Recorded::Prepared | Recorded::Committed | Recorded::Done);
                let there =
                    matches!(destination.what, Recorded::Ready | Recorded::Committed | Recorded::Live);
                let whole =
                    self.destination.trees.iter().all(|tree| matches!(tree, Tree::Frozen | Tree::Running));
                let refused = matches!(self.destination.agent, Some(Destination::Aborted(_)));
                gone && there && whole && !refused && source.epoch == destination.epoch
            }
            Side::Destination => destination.what != Recorded::Live,
        }
    }

    fn is_idle(&self, side: Side) -> bool {
        match side {
            Side::Source => self.source.idle().is_some(),
            Side::Destination => self.destination.idle().is_some(),
        }
    }

    fn is_dead(&self, side: Side) -> bool {
        match side {
            Side::Source => self.source.agent.is_none(),
            Side::Destination => self.destination.agent.is_none(),
        }
    }

    fn is_fenced(&self, side: Side) -> bool {
        match side {
            Side::Source => self.source.fenced,
            Side::Destination => self.destination.fenced,
        }
    }

    fn first_todo(&self, side: Side) -> Option<Effect> {
        match side {
            Side::Source => self.source.todo.first().copied(),
            Side::Destination => self.destination.todo.first().copied(),
        }
    }

    /// One side's step.
    fn step(&mut self, side: Side, event: Event, mutant: Mutant) {
        match side {
            Side::Source => {
                let (next, effects) = self.source.agent.expect("it lives").step(event);
                self.source.agent = Some(next);
                self.source.todo.extend(mutated(effects, mutant));
            }
            Side::Destination => {
                let (next, effects) = self.destination.agent.expect("it lives").step(event);
                self.destination.agent = Some(next);
                self.destination.todo.extend(mutated(effects, mutant));
            }
        }
    }

    fn work(&mut self, side: Side, fails: bool, mutant: Mutant) {
        let answer = match side {
            Side::Source => self.source.work(&mut self.network, fails),
            Side::Destination => self.destination.work(&mut self.network, fails),
        };
        if let Some(answer) = answer {
            self.step(side, answer, mutant);
        }
        // What nobody sees is no step of its own.
        while let Some(Effect::Fence | Effect::Unfence | Effect::DropStore) = self.first_todo(side) {
            self.work(side, false, mutant);
        }
    }

    fn restart(&mut self, side: Side, mutant: Mutant) {
        let event = match side {
            Side::Source => {
                self.source.agent = Some(Source::new(MIGRATION));
                self.source.restart()
            }
            Side::Destination => {
                self.destination.agent = Some(Destination::new(MIGRATION));
                self.destination.restart()
            }
        };
        self.step(side, event, mutant);
    }

    fn deliver(&mut self, kind: MessageKind, epoch: Epoch, mutant: Mutant) {
        let side = receiver(kind);
        let current = match side {
            Side::Source => self.source.agent.map(Source::tag),
            Side::Destination => self.destination.agent.and_then(Destination::tag),
        };
        let stale_accepted = mutant == Mutant::StaleEpochAccepted;
        let epoch =
            current.filter(|_| stale_accepted && kind != MessageKind::Final).map_or(epoch, |tag| tag.epoch);
        self.step(side, message(kind, epoch), mutant);
    }

    /// The source has forgotten that there was an attempt: nobody answers the destination.
    fn waits_for_an_operator(&self) -> bool {
        self.left.disk == Disk::Lost && self.source.journal.is_empty() && self.source.all(Tree::Absent)
    }

    fn both_run(&self) -> bool {
        self.trees().any(|trees| trees == (Tree::Running, Tree::Running))
    }

    fn a_copy_exists(&self) -> bool {
        self.trees()
            .all(|(here, there)| here != Tree::Absent || matches!(there, Tree::Frozen | Tree::Running))
    }

    /// Each container's, here and there.
    fn trees(&self) -> impl Iterator<Item = (Tree, Tree)> {
        self.source.trees.into_iter().zip(self.destination.trees)
    }

    /// Whether it comes to an end once nothing goes wrong any more: all that was on its way is lost, dead agents come
    /// back, and messages arrive.
    fn settles(&self) -> bool {
        let mut world = self.clone();
        world.network = 0;
        for _ in 0..12 {
            for side in [Side::Source, Side::Destination] {
                if world.is_fenced(side) {
                    continue;
                }
                if world.is_dead(side) {
                    world.restart(side, Mutant::None);
                }
                while world.first_todo(side).is_some() {
                    world.work(side, false, Mutant::None);
                }
                let event =
                    if world.is_fenced(other(side)) { Event::Fenced(other(side)) } else { Event::Resend };
                world.step(side, event, Mutant::None);
                while world.first_todo(side).is_some() {
                    world.work(side, false, Mutant::None);
                }
                for (kind, epoch) in all_messages().filter(|(kind, _)| receiver(*kind) == side) {
                    if world.network & bit(kind, epoch) != 0 {
                        world.network &= !bit(kind, epoch);
                        world.step(side, message(kind, epoch), Mutant::None);
                        while world.first_todo(side).is_some() {
                            world.work(side, false, Mutant::None);
                        }
                    }
                }
            }
            if world.is_settled() {
                break;
            }
        }
        world.is_settled() && (world.runs_once() || self.excused)
    }

    /// All of them, and at the same host.
    fn runs_once(&self) -> bool {
        let none = |trees: &[Tree]| !trees.contains(&Tree::Running);
        (self.source.all(Tree::Running) && none(&self.destination.trees))
            || (self.destination.all(Tree::Running) && none(&self.source.trees))
    }

    /// Whether each side that is there has come to an end, and the same one.
    fn is_settled(&self) -> bool {
        let source = match self.source.agent {
            Some(Source::Idle(_) | Source::Aborted(_)) => Some(Side::Source),
            Some(Source::Done(_)) => Some(Side::Destination),
            _ => None,
        };
        let destination = match self.destination.agent {
            Some(Destination::Idle(_) | Destination::Aborted(_)) => Some(Side::Source),
            Some(Destination::Live(_)) => Some(Side::Destination),
            _ => None,
        };
        match (self.source.fenced, self.destination.fenced) {
            (true, true) => true,
            (true, false) => destination.is_some(),
            (false, true) => source.is_some(),
            // A destination that has forgotten what ran there cannot agree.
            (false, false) if self.left.disk == Disk::Lost && self.excused => {
                source.is_some() && destination.is_some()
            }
            (false, false) => source.is_some() && source == destination,
        }
    }
}

/// The effects as a program with the mistake would have them.
fn mutated(mut effects: Vec<Effect>, mutant: Mutant) -> Vec<Effect> {
    let place = |effects: &[Effect], what: Recorded| {
        effects.iter().position(|effect| matches!(effect, Effect::Journal(record) if record.what == what))
    };
    let says = |kind| move |effect: &Effect| matches!(effect, Effect::Send(message) if message.kind == kind);
    match mutant {
        Mutant::CommitBeforeFsync => {
            if let (Some(record), Some(sent)) =
                (place(&effects, Recorded::Committed), effects.iter().position(says(MessageKind::Commit)))
            {
                effects.swap(record, sent);
            }
        }
        Mutant::KillOnCommit => {
            if let Some(sent) = effects.iter().position(says(MessageKind::Commit)) {
                effects.insert(sent + 1, Effect::KillTree);
            }
        }
        Mutant::DoneBeforeResume | Mutant::DoneBeforeLive => {
            if let Some(live) = place(&effects, Recorded::Live)
                && let Effect::Journal(record) = effects[live]
            {
                let tag = Tag { migration: MIGRATION, epoch: record.epoch };
                let done = Effect::Send(Message { tag, kind: MessageKind::Done });
                let before = mutant == Mutant::DoneBeforeLive;
                effects.insert(if before { live } else { live + 1 }, done);
            }
        }
        _ => {}
    }
    effects
}

impl<const N: usize> Model for Handoff<N> {
    type State = World<N>;
    type Action = Action;

    fn init_states(&self) -> Vec<World<N>> {
        vec![World::new(self.faults)]
    }

    fn actions(&self, world: &World<N>, actions: &mut Vec<Action>) {
        match world.source.idle() {
            Some(Source::Idle(_)) if world.source.all(Tree::Running) => actions.push(Action::Start),
            Some(Source::Aborted(tag)) if tag.epoch < LAST => actions.push(Action::Start),
            _ => {}
        }
        for side in [Side::Source, Side::Destination] {
            self.actions_of(world, side, actions);
        }
        for (kind, epoch) in all_messages().filter(|(kind, epoch)| world.network & bit(*kind, *epoch) != 0) {
            if world.is_idle(receiver(kind)) {
                actions.push(Action::Deliver(kind, epoch));
            }
        }
        if world.left.breaks > 0 {
            let frozen = (0..N).filter(|number| world.destination.trees[*number] == Tree::Frozen);
            actions.extend(frozen.map(Action::Break));
        }
    }

    fn next_state(&self, world: &World<N>, action: Action) -> Option<World<N>> {
        let mut next = world.clone();
        let mutant = self.mutant;
        let crashed = world.left.crashes < self.faults.crashes;
        match action {
            Action::Crash(side) | Action::CrashForGood(side) => {
                next.excused |= crashed || !world.spared_by_crash_of(side);
            }
            Action::Cancel(_) | Action::Fail(_) | Action::Break(_) => next.excused |= crashed,
            _ => {}
        }
        match action {
            Action::Start => next.step(Side::Source, Event::Start, mutant),
            Action::Cancel(side) => next.step(side, Event::Cancel, mutant),
            Action::Deliver(kind, epoch) => next.deliver(kind, epoch, mutant),
            Action::Work(side) => next.work(side, false, mutant),
            Action::Fail(side) => next.work(side, true, mutant),
            Action::Resend(side) => next.step(side, Event::Resend, mutant),
            Action::Notice(Side::Source) => {
                next.step(Side::Source, Event::Tree(world.source.seen()), mutant);
            }
            Action::Notice(Side::Destination) => {
                next.step(Side::Destination, Event::Tree(world.destination.seen()), mutant);
            }
            Action::Die(side) => {
                next.left.deaths -= 1;
                match side {
                    Side::Source => next.source.die(),
                    Side::Destination => next.destination.die(),
                }
            }
            Action::Restart(side) => next.restart(side, mutant),
            Action::Break(number) => {
                next.left.breaks -= 1;
                next.destination.trees[number] = Tree::Broken;
            }
            Action::Crash(side) | Action::CrashForGood(side) => {
                next.left.crashes -= 1;
                let fenced = matches!(action, Action::CrashForGood(_));
                match side {
                    Side::Source => next.source.crash(fenced, self.faults.disk),
                    Side::Destination => next.destination.crash(fenced, self.faults.disk),
                }
                if self.faults.disk == Disk::Lost {
                    next.network = 0;
                }
            }
            Action::Decide(side) => next.step(side, Event::Fenced(other(side)), mutant),
            Action::Timeout(Side::Source) => {
                let tag = world.source.agent?.tag();
                next.step(Side::Source, message(MessageKind::Nack, tag.epoch), mutant);
            }
            Action::Timeout(Side::Destination) => {
                let tag = world.destination.agent?.tag()?;
                next.step(Side::Destination, message(MessageKind::Commit, tag.epoch), mutant);
            }
        }
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("never both", |_: &Self, world: &World<N>| !world.both_run()),
            Property::always("a copy exists", |_: &Self, world: &World<N>| {
                world.a_copy_exists() || world.excused
            }),
            Property::always("one owner", |_: &Self, world: &World<N>| {
                let owners = world.source.owners.into_iter().zip(world.destination.owners);
                let fenced = world.source.fenced || world.destination.fenced;
                fenced || !owners.into_iter().any(|owners| owners == (Owner::Here, Owner::Here))
            }),
            Property::always("it settles", |model: &Self, world: &World<N>| {
                model.mutant != Mutant::None || world.waits_for_an_operator() || world.settles()
            }),
            Property::sometimes("it runs at the destination", |_: &Self, world: &World<N>| {
                world.destination.all(Tree::Running) && world.source.owners == [Owner::Elsewhere; N]
            }),
            Property::sometimes(
                "the second attempt succeeds",
                |_: &Self, world: &World<N>| matches!(world.source.agent, Some(Source::Done(tag)) if tag.epoch == LAST),
            ),
            Property::sometimes("it comes back", |_: &Self, world: &World<N>| {
                matches!(world.source.agent, Some(Source::Aborted(_))) && world.source.all(Tree::Running)
            }),
        ]
    }
}

impl<const N: usize> Handoff<N> {
    fn actions_of(&self, world: &World<N>, side: Side, actions: &mut Vec<Action>) {
        if world.is_dead(side) {
            if !world.is_fenced(side) {
                actions.push(Action::Restart(side));
            }
        } else {
            if world.left.deaths > 0 {
                actions.push(Action::Die(side));
            }
            match world.first_todo(side) {
                Some(Effect::Freeze | Effect::RestoreFrozen(_)) => {
                    actions.extend([Action::Work(side), Action::Fail(side)]);
                }
                Some(_) => actions.push(Action::Work(side)),
                None => self.actions_of_idle(world, side, actions),
            }
        }
        // Both hosts gone for good is nothing to be decided.
        if world.left.crashes > 0 && !world.is_fenced(side) {
            actions.push(Action::Crash(side));
            if !world.is_fenced(other(side)) {
                actions.push(Action::CrashForGood(side));
            }
        }
    }

    fn actions_of_idle(&self, world: &World<N>, side: Side, actions: &mut Vec<Action>) {
        actions.extend([Action::Resend(side), Action::Cancel(side), Action::Notice(side)]);
        if world.is_fenced(other(side)) {
            actions.push(Action::Decide(side));
        }
        let in_doubt = match side {
            Side::Source => {
                self.mutant == Mutant::SourceTimeoutResumes
                    && matches!(world.source.agent, Some(Source::Committed(..)))
            }
            Side::Destination => {
                self.mutant == Mutant::DestinationTimeoutRuns
                    && matches!(world.destination.agent, Some(Destination::Ready(_)))
            }
        };
        if in_doubt {
            actions.push(Action::Timeout(side));
        }
    }
}

/// Two processors, as on the machines that check this.
const THREADS: usize = 2;

fn check<const N: usize>(faults: Faults) {
    let checker = Handoff::<N> { faults, mutant: Mutant::None }.checker().threads(THREADS).spawn_bfs().join();
    checker.assert_properties();
    let states = checker.unique_state_count();
    // For whoever runs this with --no-capture.
    #[expect(clippy::print_stdout)]
    {
        println!("{N} of them, {faults:?}: {states} states, at most {} steps", checker.max_depth());
    }
    assert!(states > 1000, "only {states} states: what is checked here?");
}

#[test]
fn agents_and_memory_daemons_that_die_cost_nothing() {
    check::<1>(Faults { deaths: 2, breaks: 1, crashes: 0, disk: Disk::Kept });
}

#[test]
fn crashes_of_hosts_cost_at_most_their_copies() {
    check::<1>(Faults { deaths: 1, breaks: 1, crashes: 2, disk: Disk::Kept });
}

#[test]
fn a_crash_that_takes_the_journal_along_costs_no_more() {
    check::<1>(Faults { deaths: 1, breaks: 1, crashes: 1, disk: Disk::Lost });
}

#[test]
fn of_two_containers_neither_is_left_behind() {
    check::<2>(Faults { deaths: 2, breaks: 1, crashes: 0, disk: Disk::Kept });
}

#[test]
fn crashes_of_hosts_cost_at_most_their_copies_of_two_containers() {
    check::<2>(Faults { deaths: 1, breaks: 0, crashes: 1, disk: Disk::Kept });
    check::<2>(Faults { deaths: 0, breaks: 0, crashes: 1, disk: Disk::Lost });
}

fn caught(mutant: Mutant, property: &'static str) {
    let faults = Faults { deaths: 2, breaks: 1, crashes: 0, disk: Disk::Kept };
    let checker = Handoff::<1> { faults, mutant }
        .checker()
        .threads(THREADS)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let found = checker.discovery(property);
    assert!(found.is_some(), "{mutant:?} was not caught: {} states", checker.unique_state_count());
}

#[test]
fn a_source_that_resumes_after_a_while_runs_it_twice() {
    caught(Mutant::SourceTimeoutResumes, "never both");
}

#[test]
fn a_destination_that_runs_after_a_while_runs_it_twice() {
    caught(Mutant::DestinationTimeoutRuns, "never both");
}

#[test]
fn a_commit_before_its_record_runs_it_twice() {
    caught(Mutant::CommitBeforeFsync, "never both");
}

#[test]
fn done_before_the_thaw_loses_it() {
    caught(Mutant::DoneBeforeResume, "a copy exists");
}

#[test]
fn a_kill_when_the_commit_is_sent_loses_it() {
    caught(Mutant::KillOnCommit, "a copy exists");
}

#[test]
fn done_before_its_record_loses_it() {
    caught(Mutant::DoneBeforeLive, "a copy exists");
}

#[test]
fn messages_of_an_earlier_attempt_run_it_twice() {
    caught(Mutant::StaleEpochAccepted, "never both");
}
