// SPDX-License-Identifier: Apache-2.0
//! Whether a container may be worked with on this host: while it is handed over to another, and afterwards, it may not.
//!
//! Knows that somebody has a right to the container, under a name, and not what they do with it.

use serde::{Deserialize, Serialize};

use super::Container;
use super::container::ContainerLock;
use super::state::State;
use crate::{Error, ErrorKind, Result};

/// Who has the right to a container, as its record says. A record that says nothing says `Here`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "owner", rename_all = "snake_case")]
pub enum Ownership {
    /// This host's commands.
    #[default]
    Here,
    /// Nobody but whoever hands it over, until that is decided.
    Held {
        /// The name under which it is handed over.
        by: String,
        /// The attempt, counted from 1.
        epoch: u64,
    },
    /// Another host: it has been handed over, and what is left here is not to be used any more.
    Elsewhere {
        /// The name under which it was handed over.
        by: String,
        /// The attempt.
        epoch: u64,
    },
}

impl Ownership {
    /// Whether this host's commands have the right to it.
    pub fn is_here(&self) -> bool {
        *self == Self::Here
    }

    /// The name under which it is or was handed over.
    pub fn by(&self) -> Option<&str> {
        match self {
            Self::Here => None,
            Self::Held { by, .. } | Self::Elsewhere { by, .. } => Some(by),
        }
    }

    /// Why a command may not touch a container of this ownership; nothing if it may.
    pub(super) fn refusal(&self, id: &str) -> Option<Error> {
        let (message, hint) = match self {
            Self::Here => return None,
            Self::Held { by, .. } => (
                format!("container {id} is being handed over to or from another host by migration {by}"),
                format!(
                    "`migrate migrations {by}` tells how far it is; if the other host will never answer again, decide \
                     with `migrate resolve {by}` who keeps the container"
                ),
            ),
            Self::Elsewhere { by, .. } => (
                format!("container {id} has been handed over to another host by migration {by}"),
                format!(
                    "work with it there; `migrate migrations {by}` tells where that is. If that host is lost, `migrate \
                     resolve {by}` tells what can be done"
                ),
            ),
        };
        Some(Error::new(ErrorKind::WrongStatus, message).with_hint(hint))
    }
}

impl Container {
    /// This value acts for whoever holds the container under this name: to it the container is its own.
    #[must_use]
    pub fn acting_for(mut self, holder: impl Into<String>) -> Self {
        self.set_holder(holder.into());
        self
    }

    /// Who has the right to it, as it is written down now.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn ownership(&self) -> Result<Ownership> {
        match State::load(self.dir()) {
            Ok(state) => Ok(state.ownership),
            // What went away is nobody's.
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Ownership::Here),
            Err(e) => Err(e),
        }
    }

    /// Makes sure that it may be touched.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`] when it is held or has been handed over, by another than this value acts for.
    pub fn require_owned(&self) -> Result<()> {
        let ownership = self.ownership()?;
        if let (Ownership::Held { by, .. }, Some(holder)) = (&ownership, self.holder())
            && by == holder
        {
            return Ok(());
        }
        ownership.refusal(self.id().as_str()).map_or(Ok(()), Err)
    }

    /// Gives the right to it to somebody else, if it is still as the caller thinks.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`] when it is not; nothing has changed then. When the record cannot be written.
    pub fn swap_ownership(&mut self, expected: &Ownership, next: Ownership) -> Result<()> {
        let lock = self.lock()?;
        self.swap_ownership_locked(&lock, expected, next)
    }

    /// [`Container::swap_ownership`] for a caller who has the container's lock.
    ///
    /// # Errors
    /// As there.
    pub fn swap_ownership_locked(
        &mut self,
        _lock: &ContainerLock,
        expected: &Ownership,
        next: Ownership,
    ) -> Result<()> {
        let mut state = State::load(self.dir())?;
        if state.ownership != *expected {
            let message =
                format!("the right to container {} has changed: it is {:?} now", self.id(), state.ownership);
            return Err(Error::new(ErrorKind::WrongStatus, message));
        }
        state.ownership = next;
        state.save(self.dir())?;
        *self.state_mut() = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::state::STATE;
    use crate::engine::{ContainerId, NewContainer, StateRoot};

    fn held() -> Ownership {
        Ownership::Held { by: "m1".to_owned(), epoch: 1 }
    }

    /// A record of a container that has stopped, and its directory.
    fn stopped() -> (tempfile::TempDir, Container) {
        let directory = tempfile::tempdir().expect("a directory");
        let root = StateRoot::at(directory.path()).expect("a state root");
        let id: ContainerId = "web".parse().expect("an id");
        let mut new = NewContainer::reserve(&root, id.clone()).expect("the id is free");
        // A creator that has died: the container has stopped.
        new.state.creator.start_time += 1;
        new.state.save(&new.dir).expect("saved");
        new.finished = true;
        drop(new);
        let container = root.load(&id).expect("a container");
        (directory, container)
    }

    fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
        result.expect_err("refused").kind()
    }

    #[test]
    fn a_record_without_a_word_of_it_is_ours_and_stays_readable_by_older_programs() {
        let (_directory, mut container) = stopped();
        let record = || std::fs::read_to_string(container.dir().join(STATE)).expect("readable");
        assert!(!record().contains("ownership"), "{}", record());
        assert!(record().contains(r#""schema":1"#), "{}", record());
        assert_eq!(container.ownership().expect("readable"), Ownership::Here);
        let dir = container.dir().to_owned();
        container.swap_ownership(&Ownership::Here, held()).expect("it is ours");
        // A program that knows nothing of it must not take the container for its own.
        let record = std::fs::read_to_string(dir.join(STATE)).expect("readable");
        assert!(record.contains(r#""schema":2"#), "{record}");
        container.swap_ownership(&held(), Ownership::Here).expect("it is held");
        let record = std::fs::read_to_string(dir.join(STATE)).expect("readable");
        assert!(record.contains(r#""schema":1"#) && !record.contains("ownership"), "{record}");
    }

    #[test]
    fn the_right_is_given_only_by_who_knows_who_has_it() {
        let (_directory, mut container) = stopped();
        let elsewhere = Ownership::Elsewhere { by: "m1".to_owned(), epoch: 1 };
        assert_eq!(kind(container.swap_ownership(&held(), elsewhere.clone())), ErrorKind::WrongStatus);
        assert_eq!(container.ownership().expect("readable"), Ownership::Here);
        container.swap_ownership(&Ownership::Here, held()).expect("it is ours");
        let later = Ownership::Held { by: "m1".to_owned(), epoch: 2 };
        assert_eq!(kind(container.swap_ownership(&later, elsewhere.clone())), ErrorKind::WrongStatus);
        container.swap_ownership(&held(), elsewhere.clone()).expect("it is held");
        assert_eq!(container.ownership().expect("readable"), elsewhere);
    }

    #[test]
    fn nothing_touches_a_container_that_is_held_or_elsewhere() {
        for next in [held(), Ownership::Elsewhere { by: "m1".to_owned(), epoch: 1 }] {
            let (_directory, mut container) = stopped();
            let root = container.root().clone();
            let id = container.id().clone();
            container.swap_ownership(&Ownership::Here, next.clone()).expect("it is ours");
            let load = || root.load(&id).expect("a container");
            for refused in [
                load().start(),
                load().pause(),
                load().resume(),
                load().update(&crate::spec::ResourceChange::default()),
                load().signal(libc::SIGKILL),
                load().signal_all(libc::SIGTERM),
                load().delete(false),
                load().delete(true),
                load().exec(crate::engine::Process::new(["true"]), &Default::default()).map(drop),
                NewContainer::reserve(&root, id.clone()).map(drop),
            ] {
                let error = refused.expect_err("refused");
                assert!(error.chain().contains("by migration m1"), "{}", error.chain());
                assert!(error.hint().is_some_and(|hint| hint.contains("migrate resolve m1")), "{error:?}");
            }
            assert_eq!(load().ownership().expect("it is there still"), next);
        }
    }

    #[test]
    fn who_holds_it_may_touch_it() {
        let (_directory, mut container) = stopped();
        let root = container.root().clone();
        let id = container.id().clone();
        container.swap_ownership(&Ownership::Here, held()).expect("it is ours");
        let load = |holder: &str| root.load(&id).expect("a container").acting_for(holder);
        assert_eq!(kind(load("m2").require_owned()), ErrorKind::WrongStatus);
        load("m1").require_owned().expect("its holder");
        load("m1").delete(true).expect("its holder");
        assert_eq!(kind(root.load(&id)), ErrorKind::NotFound);
    }
}
