// SPDX-License-Identifier: Apache-2.0
//! How much of this host another one may take with the containers that it sends, and which containers are its own to go on with. Must
//! not know where that was written.

use super::agent::{Fingerprint, Peer};
use super::handoff::Side;
use super::journal::{History, migrations};
use crate::engine::StateRoot;
use crate::{Error, ErrorKind, Result};

/// The journal's note of the key of the host that sends.
pub(super) const PEER: &str = "peer";

/// The most journals of one host's migrations, finished ones included.
const JOURNALS: usize = 1024;

/// How much it is.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Limits {
    /// Ids of containers, with `*` for anything; `None`: any.
    pub containers: Option<Vec<String>>,
    /// The most bytes that are kept of a container on its way; `None`: what is free.
    pub disk: Option<u64>,
    /// How many migrations of a host that shows a key may be unfinished.
    pub migrations: u32,
    /// Where more would be granted, for people.
    pub place: String,
}

impl Limits {
    /// Whether a container of this id may come.
    pub(super) fn has_name(&self, id: &str) -> Result<()> {
        let Some(patterns) = &self.containers else { return Ok(()) };
        if patterns.iter().any(|pattern| super::agent::matches(pattern, id)) {
            return Ok(());
        }
        let message =
            format!("no container of the id {:?} may come: containers are {patterns:?}", shortened(id));
        Err(self.refusal(message, &format!("\"containers\": [{:?}]", shortened(id))))
    }

    /// Whether there is disk enough for so much memory.
    pub(super) fn has_disk(&self, memory: u64) -> Result<()> {
        match self.disk {
            Some(disk) if disk < memory => {
                let message =
                    format!("the container's memory is {memory}, and it may take {disk} bytes of disk");
                Err(self.refusal(message, &format!("\"disk\": {memory}")))
            }
            _ => Ok(()),
        }
    }

    /// How much of what is free it may have.
    pub(super) fn room(&self, free: u64) -> u64 {
        self.disk.map_or(free, |disk| disk.min(free))
    }

    /// Whether another migration of this host's may be written down.
    pub(super) fn has_room(&self, root: &StateRoot, peer: &Peer) -> Result<()> {
        let own = peer.fingerprint.to_string();
        let (mut all, mut unfinished) = (0, 0);
        for migration in migrations(root)? {
            // One that goes away meanwhile does not count.
            let Ok(history) = History::read(root, migration) else { continue };
            if history.opened().side == Side::Destination && is_of(history.note(PEER), &own) {
                all += 1;
                unfinished += u32::from(!history.is_over());
            }
        }
        if unfinished < self.migrations && all < JOURNALS {
            return Ok(());
        }
        let message = format!("{} has {unfinished} migrations to here that are not finished", peer.name);
        Err(self.refusal(message, &format!("\"migrations\": {}", unfinished + 1)))
    }

    fn refusal(&self, message: String, line: &str) -> Error {
        Error::new(ErrorKind::NotAllowed, message)
            .with_hint(format!("if it may have that, write in {}: {line}", self.place))
    }
}

/// Whether a migration that was written down belongs to who asks for it. Who shows no key was let in by this host itself.
pub(super) fn require_own(noted: Option<Fingerprint>, peer: Option<&Peer>) -> Result<()> {
    match peer {
        Some(peer) if noted != Some(peer.fingerprint) => {
            Err(Error::new(ErrorKind::PermissionDenied, format!("this migration is none of {}'s", peer.name)))
        }
        _ => Ok(()),
    }
}

/// Notes are JSON.
fn is_of(note: Option<&str>, fingerprint: &str) -> bool {
    note.is_some_and(|note| note.trim_matches('"') == fingerprint)
}

fn shortened(id: &str) -> String {
    id.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_comes_under_a_name_that_may_come() {
        let mut limits = Limits { place: "`default` of p.json".to_owned(), ..Limits::default() };
        limits.has_name("db").expect("any");
        limits.containers = Some(vec!["web-*".to_owned()]);
        limits.has_name("web-1").expect("one of them");
        let error = limits.has_name("db").expect_err("none of them");
        assert_eq!(error.to_string(), "no container of the id \"db\" may come: containers are [\"web-*\"]");
        assert_eq!(
            error.hint(),
            Some("if it may have that, write in `default` of p.json: \"containers\": [\"db\"]")
        );
    }

    #[test]
    fn a_migration_is_gone_on_with_by_who_has_begun_it() {
        let peer =
            |text: &str| Peer { name: "a".to_owned(), fingerprint: text.parse().expect("a fingerprint") };
        let (one, two) =
            (peer(&format!("sha256:{}", "1".repeat(64))), peer(&format!("sha256:{}", "2".repeat(64))));
        require_own(Some(one.fingerprint), Some(&one)).expect("its own");
        require_own(Some(one.fingerprint), None).expect("this host's own user");
        require_own(Some(one.fingerprint), Some(&two)).expect_err("another's");
        require_own(None, Some(&one)).expect_err("not one of a peer's");
    }
}
