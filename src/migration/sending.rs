// SPDX-License-Identifier: Apache-2.0
//! The source: offers containers, sends them while CRIU holds them, and carries out what [`Handoff::step`] says.
//!
//! ```text
//!  main thread       offer · answer · memory, as they run ─▶ Freeze ─▶ frozen ─▶ FINAL · READY · COMMIT · DONE ─▶ End, or GoOn, or Stay
//!  one a container   checkpoint: memory, or the rest of it ─▶ archive ─▶ [held in post-dump] ◀─────────┘
//!  another one       what the other side says            another one: SIGINT, SIGTERM
//! ```
//! All of them tell the first one, over one channel, what has happened. Whatever ends this process in the hold leaves the containers
//! frozen, and their journal tells [`super::proceed`] how to go on. Must not know how the other side restores.

use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::departing::Departures;
use super::endpoint::{Endpoint, Shell};
use super::files::Files;
use super::handoff::{Effect, Event, MessageKind, Owner, Side, Source as Handoff, Traced, Tree, What};
use super::id::MigrationId;
use super::journal::About;
use super::link::{Happening, Link, interrupted, loss};
use super::members::{require_group, said, written};
use super::offering::{MoveOptions, greet, offer};
use super::place::Place;
use super::protocol::{Said, none_in_the_way, told};
use super::report::{Clock, Moved, Phase, Progress, Round, downtime};
use super::rounds::{self, Memory, Sent};
use crate::checkpoint::{ArchivedRootfs, CheckpointOptions};
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

/// Moves a container, or several together, of which all arrive or none does. On success they are gone here and run there.
///
/// # Errors
/// Before the decision: the reason, and they go on here. After it: that it is not known where they run; they stay frozen here, and
/// [`proceed`] goes on.
pub fn to(
    root: &StateRoot,
    ids: &[ContainerId],
    mut options: MoveOptions,
    tell: &mut dyn FnMut(Progress),
) -> Result<Moved> {
    tell(Progress::Phase(Phase::Preflight));
    let mut clock = Clock::start();
    require_group(ids)?;
    let containers = ids.iter().map(|id| root.load(id)).collect::<Result<Vec<_>>>()?;
    let migration = MigrationId::random()?;
    let (mut link, happenings) = Link::open(&options.destination, &options.shell)?;
    let offered = offer(&mut link, &containers, &options, migration)?;
    none_in_the_way(&offered.blockers)?;
    link.say(&Said::Begin)?;
    let _signals = options.give_up.map(|fd| link.watch_signals(fd)).transpose()?;
    link.listen()?;
    let mut group = Departures::new(root, ids.to_vec());
    let (mut sent, mut made, mut without_rounds) = (vec![Sent::default(); ids.len()], Vec::new(), None);
    if options.rounds.most > 0 {
        match rounds::possible(offered.criu, &offered.answer) {
            Err(reason) => without_rounds = Some(reason.chain()),
            Ok(()) => sent.iter_mut().for_each(|sent| sent.memory = Some(Memory::default())),
        }
    }
    let files_go_ahead = options.rounds.files > 0 && offered.answer.takes_files;
    if files_go_ahead {
        for (sent, container) in sent.iter_mut().zip(&containers) {
            sent.files = Some(Files::of(container)?);
        }
        options.checkpoint.archive.rootfs = ArchivedRootfs::None;
    }
    if files_go_ahead || sent.iter().any(|sent| sent.memory.is_some()) {
        clock.begin(Phase::Rounds);
        tell(Progress::Phase(Phase::Rounds));
        match rounds::run(&link, &happenings, containers, &sent, options.rounds, tell) {
            Ok(rounds) => made = rounds,
            // Nothing is promised and nothing written down: the other side forgets it when the connection ends.
            Err(reason) => {
                link.close();
                return Err(Error::new(reason.kind(), not_moved(ids)).with_source(reason));
            }
        }
    }
    group.remember(sent);
    let peer = options.destination.to_string();
    let about = About { migration, side: Side::Source, container: &written(ids), peer: &peer };
    let mut place = Place::make(root, &about)?;
    place.note(WAY, &(&options.destination, &options.shell))?;
    let way = (options.destination, options.shell);
    let sending = Sending {
        checkpoint: Some(Arc::new(options.checkpoint)),
        rounds: made,
        without_rounds,
        fresh: true,
        clock,
        ..Sending::new(group, way, (migration, place), (link, happenings), tell)
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
    let group = Departures::new(root, place.containers()?);
    let sending = Sending::new(group, (destination, shell), (migration, place), (link, happenings), tell);
    let event = sending.place.restart(sending.tree()?);
    sending.run(event)
}

/// A migration from here.
struct Sending<'a> {
    group: Departures<'a>,
    destination: Endpoint,
    shell: Shell,
    /// `None` for one that is continued, which is not checkpointed again.
    checkpoint: Option<Arc<CheckpointOptions>>,
    /// The rounds of memory that were made.
    rounds: Vec<Round>,
    /// Why there were none, if the caller wanted it.
    without_rounds: Option<String>,
    /// Whether it was begun by this process.
    fresh: bool,
    place: Place,
    state: Handoff,
    link: Link,
    happenings: mpsc::Receiver<Happening>,
    /// Why they stay here.
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
        group: Departures<'a>,
        (destination, shell): (Endpoint, Shell),
        (migration, place): (MigrationId, Place),
        (link, happenings): (Link, mpsc::Receiver<Happening>),
        tell: &'a mut dyn FnMut(Progress),
    ) -> Self {
        Self {
            group,
            destination,
            shell,
            checkpoint: None,
            rounds: Vec::new(),
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
        let ids = self.group.ids();
        let (file_rounds, frozen_files) = self.group.files();
        let moved = Moved {
            migration: self.state.tag().migration,
            container: written(&ids),
            destination: self.destination.to_string(),
            downtime: self.group.stood_still().or_else(|| self.fresh.then(|| downtime(&phases))),
            phases,
            bytes_sent: self.link.sender().bytes(),
            rounds: self.rounds,
            frozen_bytes: self.group.frozen_bytes(),
            without_rounds: self.without_rounds,
            file_rounds,
            frozen_files,
            members: if ids.len() > 1 { self.group.report() } else { Vec::new() },
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
                    let what = said(&self.group.ids(), "runs", "run");
                    tracing::warn!("too late: it is decided that {what} at the other host");
                    Ok(())
                }
                _ => {
                    self.reason.get_or_insert_with(interrupted);
                    self.drive(Event::Cancel)
                }
            },
            Happening::Lost(_, error) => self.lost(error),
            // It has ended with the verdict, or has none to wait for.
            Happening::Frozen(_) | Happening::Ended(_) | Happening::Round(_) | Happening::RoundsEnded => {
                Ok(())
            }
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
            self.trace(|| What::Event(event.clone()));
            let (state, effects) = self.state.step(event);
            self.state = state;
            for effect in effects {
                next = self.perform(effect)?;
                if next.is_some() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The answer, if there is one: to the last effect, or that what follows cannot be done.
    fn perform(&mut self, effect: Effect) -> Result<Option<Event>> {
        self.trace(|| What::Effect(effect));
        let tag = self.state.tag();
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
                self.group.thaw(tag)?;
                return self.tree().map(|tree| Some(Event::Tree(tree)));
            }
            Effect::KillTree => self.group.end(tag)?,
            Effect::LookAtTree => return self.tree().map(|tree| Some(Event::Tree(tree))),
            // One that somebody else has got hold of since it was offered does not come along; those before it are given back.
            Effect::Own(Owner::Held, _) => {
                if let Err(error) = self.group.own(Owner::Held, tag) {
                    self.reason.get_or_insert(error);
                    return Ok(Some(Event::Failed));
                }
            }
            Effect::Own(owner, _) => self.group.own(owner, tag)?,
            Effect::Fence | Effect::Unfence | Effect::RestoreFrozen(_) | Effect::DropStore => {}
        }
        Ok(None)
    }

    fn trace(&self, what: impl FnOnce() -> What) {
        Traced::log(Side::Source, self.state.tag().migration, what);
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

    /// Freezes the containers and sends them. Those of a migration that is continued were sent before.
    fn freeze(&mut self) -> Result<Event> {
        let tag = self.state.tag();
        let Some(options) = self.checkpoint.take() else {
            self.group.freeze(tag)?;
            return self.tree().map(Event::Tree);
        };
        self.begin(Phase::Transfer);
        if let Err(error) = self.group.hold(tag, &options, self.link.sender(), self.link.tell()) {
            self.give_up(error);
        }
        while self.group.are_on_their_way() {
            match self.next() {
                Happening::Frozen(number) => self.frozen(number),
                Happening::Ended(number) => self.ended(number),
                Happening::Heard(_) | Happening::Round(_) | Happening::RoundsEnded => {}
                Happening::Failed(blocker) => self.give_up(told(&blocker)),
                Happening::Interrupted => self.give_up(interrupted()),
                Happening::Lost(_, error) => self.give_up(loss(error)),
            }
        }
        // When it was given up meanwhile, the connection is cut: nobody would ever tell that once more.
        let goes_on = self.reason.is_none() && self.group.are_held();
        Ok(if goes_on { Event::Tree(Tree::Frozen) } else { Event::Failed })
    }

    /// For this reason: the checkpoints fail as soon as they have something to send.
    fn give_up(&mut self, reason: Error) {
        self.reason.get_or_insert(reason);
        self.deaf = true;
        self.link.cut();
    }

    fn frozen(&mut self, number: usize) {
        let id = self.group.frozen(number).map(ToString::to_string);
        if let Some(id) = id.filter(|_| self.group.ids().len() > 1) {
            (self.tell)(Progress::Frozen(id));
        }
    }

    /// A checkpoint has failed: so shall the others, if there are any.
    fn ended(&mut self, number: usize) {
        let Some(error) = self.group.ended(number) else { return };
        self.reason = Some(match self.reason.take() {
            Some(reason) => reason.with_cleanup(error.cleanup_failures().is_empty().then_some(error)),
            None => error,
        });
        if self.group.are_on_their_way() {
            self.deaf = true;
            self.link.cut();
        }
    }

    fn tree(&self) -> Result<Tree> {
        self.group.tree(self.place.last(), self.state.tag())
    }

    /// It is not known where they run.
    fn stay(&mut self, error: Error) -> Error {
        let (migration, destination) = (self.state.tag().migration, &self.destination);
        let ids = self.group.ids();
        let message = match self.state {
            Handoff::Committed(..) => {
                let (runs, run) = (format!("runs at {destination}"), format!("run at {destination}"));
                format!("it is not known whether {}", said(&ids, &runs, &run))
            }
            _ => {
                let cut = format!("to {destination} was cut short");
                format!("the migration of {}", said(&ids, &cut, &cut))
            }
        };
        self.group.stay();
        Error::new(error.kind(), message).with_source(error).with_hint(format!(
            "what is frozen here stays so; go on with `migrate to --continue {migration}`"
        ))
    }

    /// They go on here: the other side is told once more, if it may not have heard.
    fn remained(mut self) -> Error {
        let migration = self.state.tag().migration;
        let message = not_moved(&self.group.ids());
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

fn not_moved(ids: &[ContainerId]) -> String {
    said(ids, "was not moved: it goes on here", "were not moved: they go on here")
}
