// SPDX-License-Identifier: Apache-2.0
//! The destination: judges what it is offered, keeps what comes of it, and carries out what [`Destination::step`] says.
//!
//! ```text
//!  Hello ─▶ Offer ─▶ judge ─▶ Answer ─▶ Begin ─▶ rootfs/, memory/, archive ─▶ FINAL ─▶ restore, frozen ─▶ READY ─▶ COMMIT ─▶ thaw ─▶ DONE
//!                                               └ the connection ends before READY: forgotten; after it: stays frozen
//! ```
//! Whoever connects may be anybody who was let as far as this: a configuration may only have of this host what the receiver's own
//! caller has allowed. Must not know where the connection comes from.

use std::path::PathBuf;

use super::agent::Peer;
use super::arriving::{Arrivals, numbered, out_of_turn, require_rootfs};
use super::handoff::{Destination, Effect, Event, Message, Side, Traced, Tree, What};
use super::id::{MigrationId, Tag};
use super::journal::About;
use super::limits::{Limits, PEER, require_own};
use super::members::{MOST, require_group, said, written};
use super::place::Place;
use super::preflight;
use super::protocol::{Blocker, Flags, Frame, Hello, Offer, Receiver, Said, Sender, WITH_MEMBERS};
use crate::criu::TcpConnections;
use crate::engine::StateRoot;
use crate::restore::{MappedMount, RestoreOptions, unpack_options};
use crate::spec::{Grants, HostAccess};
use crate::{Error, ErrorKind, Result};

/// The journal's note of how the container is restored.
const FLAGS: &str = "flags";
/// Its note of the addresses that come with it.
const ADDRESSES: &str = "addresses";

/// What the receiver's caller wants.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ReceiveOptions {
    /// CRIU's executable; `None`: found.
    pub criu: Option<PathBuf>,
    /// What a configuration may have of this host.
    pub allow: Vec<HostAccess>,
    /// What its bind mounts are here.
    pub map_mounts: Vec<MappedMount>,
    /// What of this host it may have one by one.
    pub grants: Grants,
    /// How much of this host it may take.
    pub limits: Limits,
    /// Who sends, if that one has shown a key.
    pub peer: Option<Peer>,
}

impl ReceiveOptions {
    pub(super) fn restore(&self, flags: Flags) -> RestoreOptions {
        let mut options = RestoreOptions::default();
        options.criu.clone_from(&self.criu);
        options.allow.clone_from(&self.allow);
        options.map_mounts.clone_from(&self.map_mounts);
        options.grants.clone_from(&self.grants);
        options.tcp = match flags {
            Flags { tcp_established: true, .. } => TcpConnections::Keep,
            Flags { tcp_close: true, .. } => TcpConnections::Close,
            _ => TcpConnections::Refuse,
        };
        options.ext_unix_sk = flags.ext_unix_sk;
        options.shell_job = flags.shell_job;
        options.file_locks = flags.file_locks;
        options
    }
}

/// Receives one container, or several that move together, or goes on with receiving them. They run before their memory is in place: a program that receives calls
/// [`provide_memory_if_requested`](crate::restore::provide_memory_if_requested) and
/// [`guard_if_requested`](crate::restore::guard_if_requested) first in `main`.
///
/// # Errors
/// What kept them from running here; they never will then, in this attempt. The other host is told.
pub fn receive(
    root: &StateRoot,
    (sender, mut receiver): (Sender, Receiver),
    options: &ReceiveOptions,
) -> Result<()> {
    let begun = begin(root, &sender, &mut receiver, options).inspect_err(|error| {
        // Who has gone away hears nothing.
        let _ = sender.say(&Said::Failed(Blocker::from(error)));
    })?;
    let Some((mut destination, first)) = begun else { return Ok(()) };
    let ended = destination.run(first, &mut receiver);
    destination.close(ended)
}

/// From the first word to a migration. `None` if the source has only asked.
fn begin<'a>(
    root: &'a StateRoot,
    sender: &Sender,
    receiver: &mut Receiver,
    options: &'a ReceiveOptions,
) -> Result<Option<(Receiving<'a>, Option<Event>)>> {
    let Said::Hello(hello) = receiver.said()? else { return Err(out_of_turn()) };
    sender.say(&Said::Hello(Hello::own()))?;
    let version = hello.common()?;
    match receiver.said()? {
        Said::Offer(first) => {
            let offers = offers(*first, receiver, version)?;
            let answer = preflight::judge(root, &offers, options);
            let welcome = answer.blockers.is_empty();
            sender.say(&Said::Answer(answer))?;
            match receiver.frame()? {
                None => Ok(None),
                Some(Frame::Said(Said::Begin)) if welcome => {
                    Receiving::new(root, sender.clone(), options, &offers).map(|new| Some((new, None)))
                }
                Some(_) => Err(out_of_turn()),
            }
        }
        Said::Resume(migration) => Receiving::again(root, sender.clone(), options, migration).map(Some),
        _ => Err(out_of_turn()),
    }
}

/// All offers of the migration that begins with this one.
fn offers(first: Offer, receiver: &mut Receiver, version: u32) -> Result<Vec<Offer>> {
    let more = usize::try_from(first.more).unwrap_or(usize::MAX);
    if more >= MOST || (more > 0 && version < WITH_MEMBERS) {
        return Err(out_of_turn());
    }
    let mut offers = vec![first];
    while offers.len() <= more {
        match receiver.said()? {
            Said::Offer(next) if offers.iter().all(|first| next.goes_with(first)) => offers.push(*next),
            _ => return Err(out_of_turn()),
        }
    }
    let ids = offers.iter().map(|offer| offer.container.parse()).collect::<Result<Vec<_>>>()?;
    require_group(&ids)?;
    Ok(offers)
}

/// Writes down that there is such a migration, and whose it is.
fn open(
    root: &StateRoot,
    options: &ReceiveOptions,
    migration: MigrationId,
    container: &str,
) -> Result<Place> {
    let peer = options.peer.as_ref();
    peer.map_or(Ok(()), |peer| options.limits.has_room(root, peer))?;
    let name = peer.map_or("", |peer| &peer.name);
    let mut place = Place::make(root, &About { migration, side: Side::Destination, container, peer: name })?;
    if let Some(peer) = peer {
        place.note(PEER, &peer.fingerprint.to_string())?;
    }
    Ok(place)
}

/// A migration to here.
struct Receiving<'a> {
    options: &'a ReceiveOptions,
    sender: Sender,
    place: Place,
    group: Arrivals<'a>,
    flags: Flags,
    state: Destination,
    /// How many bytes may still come.
    room: u64,
    /// Why they will not run here.
    trouble: Option<Error>,
    /// Whether nobody will ask any more.
    settled: bool,
}

impl<'a> Receiving<'a> {
    fn new(
        root: &'a StateRoot,
        sender: Sender,
        options: &'a ReceiveOptions,
        offers: &[Offer],
    ) -> Result<Self> {
        let first = offers.first().ok_or_else(out_of_turn)?;
        let ids = offers.iter().map(|offer| offer.container.parse()).collect::<Result<Vec<_>>>()?;
        Place::sweep(root)?;
        let mut place = open(root, options, first.migration, &written(&ids))?;
        place.note(FLAGS, &first.flags)?;
        for (number, offer) in offers.iter().enumerate() {
            place.note(&numbered(ADDRESSES, number), &offer.addresses)?;
        }
        let group = Arrivals::new(root, ids, &place)?;
        let (flags, state) = (first.flags, Destination::new(first.migration));
        let room = options.limits.room(preflight::free_space(root)? / 16 * 15);
        Ok(Self { options, sender, place, group, flags, state, room, trouble: None, settled: false })
    }

    /// One whose connection or process has ended, and what has to be done first.
    fn again(
        root: &'a StateRoot,
        sender: Sender,
        options: &'a ReceiveOptions,
        migration: MigrationId,
    ) -> Result<(Self, Option<Event>)> {
        let place = match Place::open(root, migration, Side::Destination) {
            // Nothing was ever promised: what is asked about it has one answer.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                open(root, options, migration, &migration.to_string())?
            }
            opened => opened?,
        };
        let noted: Option<String> = place.noted(PEER)?;
        require_own(noted.as_deref().map(str::parse).transpose()?, options.peer.as_ref())?;
        let (ids, flags) = (place.containers()?, place.noted(FLAGS)?);
        let group = match flags {
            Some(_) => Arrivals::again(root, ids, &place),
            None => Arrivals::unknown(root, ids, &place),
        };
        let (flags, state) = (flags.unwrap_or_default(), Destination::new(migration));
        let this =
            Self { options, sender, place, group, flags, state, room: 0, trouble: None, settled: false };
        let event = this.place.restart(this.tree()?);
        Ok((this, Some(event)))
    }

    /// Takes what comes until the other side closes the connection. What was promised by then stays promised: a source that cannot
    /// be heard may have decided, or be lost.
    fn run(&mut self, first: Option<Event>, receiver: &mut Receiver) -> Result<()> {
        if let Some(event) = first {
            self.drive(event)?;
        }
        let heard = self.listen(receiver);
        // Nobody may be at work there when what has come is removed.
        self.group.end_landings();
        match self.state {
            Destination::Ready(_) => heard,
            _ => self.drive(Event::Cancel).and(heard),
        }
    }

    fn listen(&mut self, receiver: &mut Receiver) -> Result<()> {
        loop {
            let taken = match receiver.frame() {
                Ok(None) => return Ok(()),
                Ok(Some(frame)) => self.take(frame),
                Err(error) => Err(error),
            };
            taken?;
        }
    }

    fn take(&mut self, frame: Frame) -> Result<()> {
        if let Frame::Said(said) = frame {
            return match said {
                Said::Handoff(message) => self.drive(Event::Message(message)),
                Said::Member(number) => self.group.turn_to(number),
                Said::Failed(blocker) => {
                    self.trouble = Some(super::protocol::told(&blocker));
                    Ok(())
                }
                Said::Settled if matches!(self.state, Destination::Live(_) | Destination::Aborted(_)) => {
                    self.settled = true;
                    Ok(())
                }
                _ => Err(out_of_turn()),
            };
        }
        // Once something is known to be wrong, what still comes is of no use.
        if self.trouble.is_none()
            && let Err(error) = self.keep(frame)
        {
            self.fail(error)?;
        }
        Ok(())
    }

    fn keep(&mut self, frame: Frame) -> Result<()> {
        let (options, flags) = (self.options, self.flags);
        let unpack = || unpack_options(&options.restore(flags));
        self.group.keep(frame, &mut self.room, &mut self.place, &unpack)
    }

    /// It cannot be had: the other side is told, and hears it again when it asks.
    fn fail(&mut self, error: Error) -> Result<()> {
        let _ = self.sender.say(&Said::Failed(Blocker::from(&error)));
        self.trouble = Some(error);
        self.group.end_landings();
        self.drive(Event::Failed)
    }

    fn drive(&mut self, event: Event) -> Result<()> {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            self.trace(|| What::Event(event.clone()));
            let (state, effects) = self.state.step(event);
            self.state = state;
            for effect in effects {
                next = self.perform(effect)?;
            }
        }
        if matches!(self.state, Destination::Live(_) | Destination::Aborted(_)) {
            self.group.drop_stores()?;
        }
        Ok(())
    }

    fn perform(&mut self, effect: Effect) -> Result<Option<Event>> {
        self.trace(|| What::Effect(effect));
        match effect {
            Effect::Journal(record) => {
                let reason = self.trouble.as_ref().map(Error::chain);
                self.place.append(record, reason.as_deref())?;
            }
            Effect::Send(message) => self.send(message),
            Effect::RestoreFrozen(tag) => return Ok(Some(self.restore_frozen(tag))),
            Effect::Own(owner, tag) => self.group.own(owner, tag)?,
            Effect::LookAtTree => return self.tree().map(|tree| Some(Event::Tree(tree))),
            Effect::Thaw => {
                self.thaw()?;
                return self.tree().map(|tree| Some(Event::Tree(tree)));
            }
            Effect::KillTree => self.group.end(self.tag(), &self.place)?,
            Effect::Fence | Effect::Unfence | Effect::Freeze | Effect::DropStore => {}
        }
        Ok(None)
    }

    fn trace(&self, what: impl FnOnce() -> What) {
        Traced::log(Side::Destination, self.state.migration(), what);
    }

    fn send(&self, message: Message) {
        // It is said again when it is asked for.
        if let Err(error) = self.sender.say(&Said::Handoff(message)) {
            tracing::debug!(error = error.chain(), "the other host does not hear");
        }
    }

    fn restore_frozen(&mut self, tag: Tag) -> Event {
        match self
            .group
            .restore(&|number| restore_options(self.options, self.flags, tag, (&self.place, number)))
        {
            Ok(()) => Event::Tree(Tree::Frozen),
            Err(error) => {
                let _ = self.sender.say(&Said::Failed(Blocker::from(&error)));
                self.trouble = Some(error);
                Event::Failed
            }
        }
    }

    fn thaw(&mut self) -> Result<()> {
        let (tag, options, flags) = (self.tag(), self.options, self.flags);
        let restore = |place: &Place, number| restore_options(options, flags, tag, (place, number));
        self.group.thaw(tag, &mut self.place, &restore)
    }

    fn tag(&self) -> Tag {
        self.state.tag().unwrap_or_else(|| Tag::first(self.state.migration()))
    }

    fn tree(&self) -> Result<Tree> {
        self.group.tree(self.tag(), &self.place)
    }

    /// What it has come to.
    fn close(self, ended: Result<()>) -> Result<()> {
        let ids = self.group.ids();
        let message = match self.state {
            Destination::Live(_) | Destination::Aborted(_) | Destination::Idle(_) => {
                said(&ids, "does not run here", "do not run here")
            }
            _ => {
                let waits = "is frozen here, and waits for its source's decision";
                said(&ids, waits, "are frozen here, and wait for their source's decision")
            }
        };
        // Who has promised nothing needs no memory.
        let over = self.settled || matches!(self.state, Destination::Idle(_));
        let cleared = if over { self.place.remove() } else { Ok(()) };
        if let Destination::Live(_) = self.state {
            return cleared;
        }
        Err(match self.trouble.or(ended.err()) {
            Some(cause) => Error::new(cause.kind(), message).with_source(cause),
            None => Error::new(ErrorKind::System, message),
        }
        .with_cleanup(cleared.err()))
    }
}

/// How the container of this number is restored.
fn restore_options(
    own: &ReceiveOptions,
    flags: Flags,
    tag: Tag,
    (place, number): (&Place, usize),
) -> Result<RestoreOptions> {
    require_rootfs(place, number)?;
    let mut options = own.restore(flags);
    options.held = Some((tag.migration.to_string(), tag.epoch.number()));
    options.addresses = place.noted(&numbered(ADDRESSES, number))?.unwrap_or_default();
    Ok(options)
}
