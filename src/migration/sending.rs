// SPDX-License-Identifier: Apache-2.0
//! The source: offers a container, sends it while CRIU holds it, and carries out what [`Handoff::step`] says.
//!
//! ```text
//!  main thread     offer · answer · memory, as it runs ─▶ Freeze ─▶ frozen ─▶ FINAL · READY · COMMIT · DONE ─▶ End, or GoOn, or Stay
//!  a second one    checkpoint: memory, or the rest of it ─▶ archive ─▶ [held in post-dump] ◀───────────┘
//!  a third one     what the other side says            a fourth: SIGINT, SIGTERM
//! ```
//! All of them tell the first one, over one channel, what has happened. Whatever ends this process in the hold leaves the container
//! frozen, and its journal tells [`super::proceed`] how to go on. Must not know how the other side restores.

use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::departing::Departing;
use super::endpoint::{Endpoint, Shell};
use super::handoff::{Effect, Event, MessageKind, Side, Source as Handoff, Tree};
use super::id::MigrationId;
use super::journal::About;
use super::link::{Happening, Link};
use super::offering::{greet, offer};
use super::place::Place;
use super::predictor::RoundLimits;
use super::protocol::{Said, none_in_the_way, told};
use super::report::{Clock, Moved, Phase, Progress, downtime};
use super::rounds::{self, Memory};
use crate::checkpoint::CheckpointOptions;
use crate::engine::{ContainerId, StateRoot};
use crate::{Error, ErrorKind, Result};

/// The journal's note of where the other host is.
const WAY: &str = "way";

/// How often and how long apart the other side is looked for when the connection was lost after the decision.
const RECONNECTS: [Duration; 4] =
    [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(6)];

/// How often it is looked for before the decision, when all was sent: the container stands still meanwhile, and can go on here.
const RECONNECTS_BEFORE: usize = 2;

/// How long the other side may take to greet one who comes back.
const GREETING: Duration = Duration::from_secs(5);

/// How long the other side may take to say that it has refused.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the caller wants of a migration.
#[derive(Debug)]
#[non_exhaustive]
pub struct MoveOptions {
    /// Where to.
    pub destination: Endpoint,
    /// The way there.
    pub shell: Shell,
    /// How the container is checkpointed.
    pub checkpoint: CheckpointOptions,
    /// How much of its memory is sent before it is.
    pub rounds: RoundLimits,
    /// Readable when it shall be given up: [`crate::checkpoint::signals_to_give_up`].
    pub give_up: Option<OwnedFd>,
}

impl MoveOptions {
    /// With nothing out of the ordinary.
    pub fn new(destination: Endpoint) -> Self {
        Self {
            destination,
            shell: Shell::default(),
            checkpoint: CheckpointOptions::default(),
            rounds: RoundLimits::default(),
            give_up: None,
        }
    }
}

/// Moves a container. On success it is gone here and runs there.
///
/// # Errors
/// Before the decision: the reason, and the container goes on here. After it: that it is not known where the container runs; it stays
/// frozen here, and [`proceed`] goes on.
pub fn to(
    root: &StateRoot,
    id: &ContainerId,
    options: MoveOptions,
    tell: &mut dyn FnMut(Progress),
) -> Result<Moved> {
    tell(Progress::Phase(Phase::Preflight));
    let mut clock = Clock::start();
    let container = root.load(id)?;
    let migration = MigrationId::random()?;
    let (mut link, happenings) = Link::open(&options.destination, &options.shell)?;
    let offered = offer(&mut link, &container, &options, migration)?;
    none_in_the_way(&offered.blockers)?;
    link.say(&Said::Begin)?;
    let _signals = options.give_up.map(|fd| link.watch_signals(fd)).transpose()?;
    link.listen()?;
    let (mut member, mut without_rounds) = (Departing::new(id.clone()), None);
    if options.rounds.most > 0 {
        match rounds::possible(offered.criu, &offered.answer) {
            Err(reason) => without_rounds = Some(reason.chain()),
            Ok(()) => {
                clock.begin(Phase::Rounds);
                tell(Progress::Phase(Phase::Rounds));
                match rounds::run(&link, &happenings, container, options.rounds, tell) {
                    Ok(sent) => member.memory = Some(sent),
                    // Nothing is promised and nothing written down: the other side forgets it when the connection ends.
                    Err(reason) => {
                        link.close();
                        let message = format!("container {id} was not moved: it goes on here");
                        return Err(Error::new(reason.kind(), message).with_source(reason));
                    }
                }
            }
        }
    }
    let peer = options.destination.to_string();
    let about = About { migration, side: Side::Source, container: id.as_str(), peer: &peer };
    let mut place = Place::make(root, &about)?;
    place.note(WAY, &(&options.destination, &options.shell))?;
    let way = (options.destination, options.shell);
    let sending = Sending {
        checkpoint: Some(options.checkpoint),
        without_rounds,
        fresh: true,
        clock,
        ..Sending::new(root, member, way, (migration, place), (link, happenings), tell)
    };
    sending.run(Event::Start)
}

/// Goes on with a migration whose `migrate to` has ended before it was known where the container runs, or before the other side
/// knew that it stays here.
///
/// # Errors
/// As [`to`].
pub fn proceed(
    root: &StateRoot,
    migration: MigrationId,
    give_up: Option<OwnedFd>,
    tell: &mut dyn FnMut(Progress),
) -> Result<Moved> {
    let place = Place::open(root, migration, Side::Source)?;
    let way: Option<(Endpoint, Shell)> = place.noted(WAY)?;
    let unknown = || {
        Error::new(
            ErrorKind::System,
            format!("the journal of migration {migration} tells no way to the other host"),
        )
    };
    let (destination, shell) = way.ok_or_else(unknown)?;
    let (mut link, happenings) = Link::open(&destination, &shell)?;
    greet(&mut link)?;
    link.say(&Said::Resume(migration))?;
    let _signals = give_up.map(|fd| link.watch_signals(fd)).transpose()?;
    link.listen()?;
    let member = Departing::new(place.container()?);
    let sending =
        Sending::new(root, member, (destination, shell), (migration, place), (link, happenings), tell);
    let event = sending.place.restart(sending.tree()?);
    sending.run(event)
}

/// A migration from here.
struct Sending<'a> {
    root: &'a StateRoot,
    member: Departing,
    destination: Endpoint,
    shell: Shell,
    /// `None` for one that is continued, which is not checkpointed again.
    checkpoint: Option<CheckpointOptions>,
    /// Why nothing was, if the caller wanted it.
    without_rounds: Option<String>,
    /// Whether it was begun by this process.
    fresh: bool,
    place: Place,
    state: Handoff,
    link: Link,
    happenings: mpsc::Receiver<Happening>,
    /// Why it stays here.
    reason: Option<Error>,
    /// Whether the other side may not have heard that.
    deaf: bool,
    /// How often it was looked for since it was heard last.
    unheard: usize,
    clock: Clock,
    tell: &'a mut dyn FnMut(Progress),
}

impl<'a> Sending<'a> {
    /// One that is continued.
    fn new(
        root: &'a StateRoot,
        member: Departing,
        (destination, shell): (Endpoint, Shell),
        (migration, place): (MigrationId, Place),
        (link, happenings): (Link, mpsc::Receiver<Happening>),
        tell: &'a mut dyn FnMut(Progress),
    ) -> Self {
        Self {
            root,
            member,
            destination,
            shell,
            checkpoint: None,
            without_rounds: None,
            fresh: false,
            place,
            state: Handoff::new(migration),
            link,
            happenings,
            reason: None,
            deaf: false,
            unheard: 0,
            clock: Clock::start(),
            tell,
        }
    }
}

impl Sending<'_> {
    /// Begins so, and listens until it is decided, and known to be.
    fn run(mut self, first: Event) -> Result<Moved> {
        if let Err(error) = self.drive(first) {
            return Err(self.stay(error));
        }
        while !matches!(self.state, Handoff::Done(_) | Handoff::Aborted(_)) {
            let happening = self.next();
            if let Err(error) = self.happened(happening) {
                return Err(self.stay(error));
            }
        }
        if let Handoff::Aborted(_) = self.state {
            return Err(self.remained());
        }
        let phases = self.clock.times();
        let (rounds, frozen_bytes) = self.member.memory.as_ref().map(Memory::report).unzip();
        let moved = Moved {
            migration: self.state.tag().migration,
            container: self.member.id.to_string(),
            destination: self.destination.to_string(),
            downtime: self.member.stood_still.or_else(|| self.fresh.then(|| downtime(&phases))),
            phases,
            bytes_sent: self.link.sender().bytes(),
            rounds: rounds.unwrap_or_default(),
            frozen_bytes,
            without_rounds: self.without_rounds,
        };
        // Whoever does not hear it keeps a few bytes more.
        let _ = self.link.say(&Said::Settled);
        self.place.remove()?;
        self.link.close();
        Ok(moved)
    }

    fn next(&mut self) -> Happening {
        loop {
            // The link tells through the same channel, so that it has an end no sooner than this.
            let Ok(happening) = self.happenings.recv() else { return Happening::Interrupted };
            if !self.link.is_past(&happening) {
                return happening;
            }
        }
    }

    fn happened(&mut self, happening: Happening) -> Result<()> {
        match happening {
            Happening::Heard(message) => {
                self.unheard = 0;
                self.drive(Event::Message(message))
            }
            Happening::Failed(blocker) => {
                self.reason.get_or_insert_with(|| told(&blocker));
                Ok(())
            }
            Happening::Interrupted => match self.state {
                Handoff::Committed(..) => {
                    tracing::warn!("too late: it is decided that the container runs at the other host");
                    Ok(())
                }
                _ => {
                    self.reason.get_or_insert_with(interrupted);
                    self.drive(Event::Cancel)
                }
            },
            Happening::Lost(_, error) => self.lost(error),
            // It has ended with the verdict, or has none to wait for.
            Happening::Frozen | Happening::Ended | Happening::Round(_) => Ok(()),
        }
    }

    /// The connection is gone. Once all was sent the other side is looked for, which may be about to have the container ready;
    /// if it is not found before the decision, that is the end of the attempt.
    fn lost(&mut self, error: Option<Error>) -> Result<()> {
        let lost = loss(error);
        let decided = matches!(self.state, Handoff::Committed(..));
        let most = match self.state {
            Handoff::Committed(..) => RECONNECTS.len(),
            Handoff::Prepared(..) => RECONNECTS_BEFORE,
            _ => 0,
        };
        // One that answers and says nothing is looked for no more often than one that does not answer.
        for pause in RECONNECTS.into_iter().take(most).skip(self.unheard) {
            self.unheard += 1;
            if let Ok(Happening::Interrupted) = self.happenings.recv_timeout(pause) {
                break;
            }
            match self.reconnect() {
                Ok(()) => return self.drive(Event::Resend),
                Err(error) => tracing::warn!(error = error.chain(), "the other host cannot be reached"),
            }
        }
        self.deaf = true;
        if decided {
            return Err(lost);
        }
        self.reason.get_or_insert(lost);
        self.drive(Event::Cancel)
    }

    fn reconnect(&mut self) -> Result<()> {
        self.link.reopen(&self.destination, &self.shell)?;
        self.link.within(GREETING, greet)?;
        self.link.say(&Said::Resume(self.state.tag().migration))?;
        self.link.listen()
    }

    fn drive(&mut self, event: Event) -> Result<()> {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            tracing::debug!(?event, "migration");
            let (state, effects) = self.state.step(event);
            self.state = state;
            for effect in effects {
                next = self.perform(effect)?;
            }
        }
        Ok(())
    }

    fn perform(&mut self, effect: Effect) -> Result<Option<Event>> {
        tracing::debug!(?effect, "migration");
        match effect {
            Effect::Journal(record) => {
                let reason = self.reason.as_ref().map(Error::chain);
                self.place.append(record, reason.as_deref())?;
            }
            Effect::Send(message) => {
                self.begin_phase(message.kind);
                // It is said again when it is asked for.
                if let Err(error) = self.link.say(&Said::Handoff(message)) {
                    tracing::debug!(error = error.chain(), "the other host does not hear");
                }
            }
            Effect::Freeze => return self.freeze().map(Some),
            Effect::Thaw => {
                self.member.thaw(self.root, self.state.tag())?;
                return self.tree().map(|tree| Some(Event::Tree(tree)));
            }
            Effect::KillTree => self.member.end(self.root, self.state.tag())?,
            Effect::LookAtTree => return self.tree().map(|tree| Some(Event::Tree(tree))),
            Effect::Own(owner, _) => self.member.claim(self.root, self.state.tag()).own(owner)?,
            Effect::Fence | Effect::Unfence | Effect::RestoreFrozen(_) | Effect::DropStore => {}
        }
        Ok(None)
    }

    fn begin_phase(&mut self, said: MessageKind) {
        let phase = match said {
            MessageKind::Final => Phase::Restore,
            MessageKind::Commit => Phase::Switch,
            _ => return,
        };
        self.begin(phase);
    }

    fn begin(&mut self, phase: Phase) {
        self.clock.begin(phase);
        (self.tell)(Progress::Phase(phase));
    }

    /// Freezes the container and sends it. One that is continued was sent before.
    fn freeze(&mut self) -> Result<Event> {
        let Some(options) = self.checkpoint.take() else {
            self.member.freeze(self.root, self.state.tag())?;
            return self.tree().map(Event::Tree);
        };
        self.begin(Phase::Transfer);
        let of = (self.root, self.state.tag());
        self.member.hold(of, options, self.link.sender(), self.link.tell())?;
        loop {
            let reason = match self.next() {
                Happening::Frozen => return Ok(Event::Tree(Tree::Frozen)),
                Happening::Ended => break,
                Happening::Heard(_) | Happening::Round(_) => continue,
                Happening::Failed(blocker) => told(&blocker),
                Happening::Interrupted => interrupted(),
                Happening::Lost(_, error) => loss(error),
            };
            self.reason.get_or_insert(reason);
            // The checkpoint fails as soon as it has something to send.
            self.deaf = true;
            self.link.cut();
        }
        if let Some(error) = self.member.failure() {
            self.reason = Some(match self.reason.take() {
                Some(reason) => reason.with_cleanup(error.cleanup_failures().is_empty().then_some(error)),
                None => error,
            });
        }
        Ok(Event::Failed)
    }

    fn tree(&self) -> Result<Tree> {
        self.member.claim(self.root, self.state.tag()).tree()
    }

    /// It is not known where it runs.
    fn stay(&mut self, error: Error) -> Error {
        let migration = self.state.tag().migration;
        let message = match self.state {
            Handoff::Committed(..) => {
                format!("it is not known whether container {} runs at {}", self.member.id, self.destination)
            }
            _ => {
                format!("the migration of container {} to {} was cut short", self.member.id, self.destination)
            }
        };
        self.member.stay();
        Error::new(error.kind(), message).with_source(error).with_hint(format!(
            "what is frozen here stays so; go on with `migrate to --continue {migration}`"
        ))
    }

    /// It goes on here: the other side is told once more, if it may not have heard.
    fn remained(mut self) -> Error {
        let migration = self.state.tag().migration;
        let message = format!("container {} was not moved: it goes on here", self.member.id);
        let reason = self.reason.take();
        let error = match reason {
            Some(reason) => Error::new(reason.kind(), message).with_source(reason),
            None => Error::new(ErrorKind::System, message),
        };
        let heard = self.forget().and_then(|()| self.place.remove());
        self.link.close();
        match heard {
            Ok(()) => error,
            Err(_) if error.hint().is_some() => error,
            Err(unheard) => error.with_cleanup([unheard]).with_hint(format!(
                "the other host may not know, and keep what it has: `migrate to --continue {migration}` tells it"
            )),
        }
    }
}

impl Sending<'_> {
    /// Has the other side's word that it has refused for good, after which nothing needs to be kept.
    fn forget(&mut self) -> Result<()> {
        if self.deaf {
            self.reconnect().and_then(|()| self.drive(Event::Resend))?;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.happenings.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Happening::Heard(message)) if message.kind == MessageKind::Nack => break,
                Ok(happening) if self.link.is_past(&happening) => {}
                Ok(Happening::Lost(_, error)) => return Err(loss(error)),
                Ok(_) => {}
                Err(_) => return Err(Error::new(ErrorKind::System, "the other host does not answer")),
            }
        }
        self.link.say(&Said::Settled)
    }
}

pub(super) fn loss(error: Option<Error>) -> Error {
    let lost = Error::new(ErrorKind::System, "the connection to the other host was lost");
    match error {
        Some(cause) => lost.with_source(cause),
        None => lost,
    }
}

pub(super) fn interrupted() -> Error {
    Error::new(ErrorKind::System, "interrupted")
}
