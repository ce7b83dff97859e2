// SPDX-License-Identifier: Apache-2.0
//! An operator's decision who keeps a container, or all of several that move together, when one of the two hosts will never answer again.
//!
//! The operator vouches that one side does not run the container and will not: its host is off, its disk is gone. That is
//! written down, with the reason, and carried out on this host, by the same steps as if the other one had spoken. Must not
//! be used by any program in an operator's stead: who only supposes that a host is gone may run a container twice.

use super::claim::Claim;
use super::handoff::{Destination, Effect, Event, Promise, Recorded, Side, Source, Tree};
use super::id::{Epoch, MigrationId, Tag};
use super::journal::{History, Journal, directory};
use super::members::{each, read, said, together};
use super::place::stored;
use crate::engine::{ContainerId, StateRoot};
use crate::{Error, ErrorKind, Result};

/// What became of the container on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolved {
    /// It goes on here, or is here to be started or removed.
    Here,
    /// It is not here any more, and will not be by this migration.
    NotHere,
}

/// Decides, on this host, that the side which is not `fenced` keeps the container.
///
/// # Errors
/// [`ErrorKind::NotFound`] without such a migration here; [`ErrorKind::WrongStatus`] while another process is at work on it,
/// when it has been decided otherwise, when there was nothing to decide, or when the copy that is to run is not restored.
/// Nothing is written down then. Otherwise what could not be done after it was decided: the same decision can be made
/// again, and goes on.
pub fn resolve(
    root: &StateRoot,
    migration: MigrationId,
    fenced: Side,
    reason: Option<&str>,
) -> Result<Resolved> {
    let journal = Journal::open(root, migration)?;
    let ids = read(&journal.history().opened().container)?;
    let epoch = journal.history().last().map_or(Epoch::FIRST, |(_, record, _)| record.epoch);
    let tag = Tag { migration, epoch };
    let claims = ids.iter().map(|id| Claim { root, id, tag }).collect();
    let mut half = AtRest { state: half_of(journal.history()), journal, ids: &ids, claims, reason };
    let restart = half.journal.history().restart(half.tree()?);
    let (state, again) = half.state.step(restart);
    let (_, decided) = state.step(Event::Fenced(fenced));
    if decided.is_empty() {
        half.require_same(state, fenced)?;
        half.state = state;
        half.perform(again)?;
    } else {
        half.require_copy(fenced)?;
        half.state = state;
        half.drive(Event::Fenced(fenced))?;
    }
    if half.state.runs().is_some() {
        each(0..ids.len(), |number| stored(&directory(root, migration), number).drop_store())?;
    }
    Ok(if half.state.runs() == Some(half.state.side()) { Resolved::Here } else { Resolved::NotHere })
}

fn half_of(history: &History) -> Half {
    let opened = history.opened();
    match opened.side {
        Side::Source => Half::Source(Source::new(opened.migration)),
        Side::Destination => Half::Destination(Destination::new(opened.migration)),
    }
}

/// Either side.
#[derive(Debug, Clone, Copy)]
enum Half {
    Source(Source),
    Destination(Destination),
}

impl Half {
    fn step(self, event: Event) -> (Self, Vec<Effect>) {
        match self {
            Self::Source(state) => {
                let (next, effects) = state.step(event);
                (Self::Source(next), effects)
            }
            Self::Destination(state) => {
                let (next, effects) = state.step(event);
                (Self::Destination(next), effects)
            }
        }
    }

    fn side(self) -> Side {
        match self {
            Self::Source(_) => Side::Source,
            Self::Destination(_) => Side::Destination,
        }
    }

    /// Where the container runs, once that is decided.
    fn runs(self) -> Option<Side> {
        match self {
            Self::Source(Source::Returning(_) | Source::Aborted(_))
            | Self::Destination(Destination::Aborted(_)) => Some(Side::Source),
            Self::Source(Source::Done(_)) => Some(Side::Destination),
            Self::Destination(
                Destination::Restoring(_, Promise::Committed)
                | Destination::Looking(_)
                | Destination::Thawing(_)
                | Destination::Live(_),
            ) => Some(Side::Destination),
            _ => None,
        }
    }
}

/// A side without a connection, and without what makes a container anew.
struct AtRest<'a> {
    state: Half,
    journal: Journal,
    ids: &'a [ContainerId],
    claims: Vec<Claim<'a>>,
    reason: Option<&'a str>,
}

impl AtRest<'_> {
    /// What the containers are together.
    fn tree(&self) -> Result<Tree> {
        let trees = self.claims.iter().map(Claim::tree).collect::<Result<Vec<_>>>()?;
        let last = self.journal.history().last().map(|(_, record, _)| record.what);
        Ok(together(self.state.side(), last, &trees))
    }

    /// A decision that was made before is carried out again, and not made again.
    fn require_same(&self, state: Half, fenced: Side) -> Result<()> {
        let id = self.journal.history().opened().migration;
        let Some(runs) = state.runs() else {
            let message = format!("there is nothing to decide in migration {id}: it has not come so far");
            return Err(Error::new(ErrorKind::WrongStatus, message).with_hint(said(
                self.ids,
                "is as it was",
                "are as they were",
            )));
        };
        if runs != fenced {
            return Ok(());
        }
        let (kept, hint) = match fenced {
            Side::Source => {
                ("the source keeps the container", "at the source it can be moved again, or removed")
            }
            Side::Destination => {
                ("the container runs at the destination", "there it can be moved again, or removed")
            }
        };
        Err(Error::new(ErrorKind::WrongStatus, format!("migration {id} has been decided: {kept}"))
            .with_hint(hint))
    }

    /// This host can keep only what it has.
    fn require_copy(&self, fenced: Side) -> Result<()> {
        if self.state.side() != Side::Destination || fenced != Side::Source {
            return Ok(());
        }
        let mut missing = Vec::new();
        for (id, claim) in self.ids.iter().zip(&self.claims) {
            if !matches!(claim.tree()?, Tree::Frozen | Tree::Running) {
                missing.push(id.clone());
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let (one, several) =
            ("is not restored on this host, so that it", "are not restored on this host, so that they");
        let message = format!("{} cannot run here", said(&missing, one, several));
        Err(Error::new(ErrorKind::WrongStatus, message)
            .with_hint("as long as the source has it, go on with the migration there"))
    }

    fn drive(&mut self, event: Event) -> Result<()> {
        let (state, effects) = self.state.step(event);
        self.state = state;
        self.perform(effects)
    }

    fn perform(&mut self, effects: Vec<Effect>) -> Result<()> {
        for effect in effects {
            match effect {
                Effect::Journal(record) => {
                    let reason = self.reason.filter(|_| matches!(record.what, Recorded::Fenced(_)));
                    self.journal.append(record, reason)?;
                }
                Effect::Own(owner, _) => each(&self.claims, |claim| claim.own(owner))?,
                Effect::KillTree => each(&self.claims, Claim::end)?,
                Effect::Thaw => {
                    each(&self.claims, Claim::thaw)?;
                    let tree = self.tree()?;
                    self.drive(Event::Tree(tree))?;
                }
                Effect::LookAtTree => {
                    let tree = self.tree()?;
                    self.drive(Event::Tree(tree))?;
                }
                Effect::RestoreFrozen(_) | Effect::Freeze => {
                    let (one, several) = ("has to be", "have to be");
                    let message = format!("{} made anew by the migration", said(self.ids, one, several));
                    return Err(Error::new(ErrorKind::WrongStatus, message)
                        .with_hint("go on with the migration at its source"));
                }
                // Nobody is connected, and nothing but the freezer keeps packets away.
                Effect::Send(_) | Effect::Fence | Effect::Unfence | Effect::DropStore => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{NewContainer, Ownership};
    use crate::migration::handoff::{Owner, Record};
    use crate::migration::journal::About;

    const MIGRATION: MigrationId = MigrationId::from_bytes([5; MigrationId::BYTES]);

    /// A host with the record of a container that has stopped, which a migration holds, and that one's journal.
    struct Host {
        _directory: tempfile::TempDir,
        root: StateRoot,
        id: ContainerId,
    }

    fn host(side: Side, records: &[Recorded]) -> Host {
        let directory = tempfile::tempdir().expect("a directory");
        let root = StateRoot::at(directory.path()).expect("a state root");
        let id: ContainerId = "web".parse().expect("an id");
        drop(NewContainer::reserve(&root, id.clone()).expect("the id is free").into_container());
        let about = About { migration: MIGRATION, side, container: "web", peer: "far" };
        let mut journal = Journal::create(&root, &about).expect("a journal");
        for what in records {
            journal.append(Record { epoch: Epoch::FIRST, what: *what }, None).expect("a record");
        }
        let host = Host { _directory: directory, root, id };
        host.claim().own(Owner::Held).expect("it was free");
        host
    }

    impl Host {
        fn claim(&self) -> Claim<'_> {
            Claim { root: &self.root, id: &self.id, tag: Tag::first(MIGRATION) }
        }

        fn resolve(&self, fenced: Side) -> Result<Resolved> {
            resolve(&self.root, MIGRATION, fenced, Some("it burned"))
        }

        fn records(&self) -> Vec<Recorded> {
            let history = History::read(&self.root, MIGRATION).expect("a journal");
            history.records().into_iter().map(|record| record.what).collect()
        }

        fn ownership(&self) -> Option<Ownership> {
            self.root.load(&self.id).ok().map(|container| container.ownership().expect("readable"))
        }
    }

    #[test]
    fn a_source_in_doubt_gets_its_container_back_when_the_destination_is_fenced() {
        let host = host(Side::Source, &[Recorded::Begun, Recorded::Prepared, Recorded::Committed]);
        assert_eq!(host.resolve(Side::Destination).expect("decided"), Resolved::Here);
        assert_eq!(host.records().last(), Some(&Recorded::Fenced(Side::Destination)));
        assert_eq!(host.ownership(), Some(Ownership::Here));
        let history = History::read(&host.root, MIGRATION).expect("a journal");
        assert_eq!(history.last().and_then(|(_, _, reason)| reason), Some("it burned"));
        // Once more, and the other way round.
        assert_eq!(host.resolve(Side::Destination).expect("as before"), Resolved::Here);
        assert_eq!(host.resolve(Side::Source).expect_err("too late").kind(), ErrorKind::WrongStatus);
        assert_eq!(host.records().len(), 4);
    }

    #[test]
    fn a_source_gives_its_container_up_when_it_is_fenced() {
        let host = host(Side::Source, &[Recorded::Begun, Recorded::Prepared, Recorded::Committed]);
        assert_eq!(host.resolve(Side::Source).expect("decided"), Resolved::NotHere);
        assert_eq!(host.records()[3..], [Recorded::Fenced(Side::Source), Recorded::Done]);
        assert_eq!(host.ownership(), None, "it was removed");
        assert_eq!(host.resolve(Side::Destination).expect_err("too late").kind(), ErrorKind::WrongStatus);
    }

    #[test]
    fn a_decision_whose_command_was_killed_is_carried_out_by_the_next() {
        let host = host(Side::Source, &[Recorded::Begun, Recorded::Prepared, Recorded::Fenced(Side::Source)]);
        assert_eq!(host.resolve(Side::Source).expect("decided"), Resolved::NotHere);
        assert_eq!(host.records().last(), Some(&Recorded::Done));
        assert_eq!(host.ownership(), None);
    }

    #[test]
    fn a_destination_refuses_for_good_when_it_is_fenced() {
        let host = host(Side::Destination, &[Recorded::Ready]);
        assert_eq!(host.resolve(Side::Destination).expect("decided"), Resolved::NotHere);
        assert_eq!(host.records(), [Recorded::Ready, Recorded::Fenced(Side::Destination)]);
        assert_eq!(host.ownership(), None);
    }

    #[test]
    fn what_was_being_restored_when_both_sides_died_can_be_removed() {
        let host = host(Side::Destination, &[]);
        let store = directory(&host.root, MIGRATION).join("memory");
        std::fs::create_dir(&store).expect("a directory");
        assert_eq!(host.resolve(Side::Source).expect_err("there is none").kind(), ErrorKind::WrongStatus);
        assert_eq!(host.resolve(Side::Destination).expect("decided"), Resolved::NotHere);
        assert_eq!((host.ownership(), store.exists()), (None, false));
        assert_eq!(host.records(), [Recorded::Fenced(Side::Destination)]);
    }

    #[test]
    fn a_destination_does_not_promise_to_run_what_it_has_not() {
        let host = host(Side::Destination, &[Recorded::Ready]);
        let error = host.resolve(Side::Source).expect_err("there is no tree");
        assert_eq!(error.kind(), ErrorKind::WrongStatus);
        assert!(error.to_string().contains("is not restored on this host"), "{error}");
        assert_eq!(host.records(), [Recorded::Ready]);
    }

    #[test]
    fn what_runs_is_not_ended_by_a_word() {
        let host = host(Side::Destination, &[Recorded::Ready, Recorded::Committed, Recorded::Live]);
        let error = host.resolve(Side::Destination).expect_err("it runs here");
        assert!(
            error.to_string().contains("has been decided: the container runs at the destination"),
            "{error}"
        );
        assert_eq!(host.resolve(Side::Source).expect("as it is"), Resolved::Here);
        assert_eq!(host.ownership(), Some(Ownership::Here));
    }

    #[test]
    fn before_the_freeze_there_is_nothing_to_decide() {
        let host = host(Side::Source, &[]);
        let error = host.resolve(Side::Destination).expect_err("nothing was begun");
        assert!(error.to_string().contains("nothing to decide"), "{error}");
        let missing = resolve(&host.root, MigrationId::from_bytes([1; 16]), Side::Source, None);
        assert_eq!(missing.expect_err("there is none").kind(), ErrorKind::NotFound);
    }
}
