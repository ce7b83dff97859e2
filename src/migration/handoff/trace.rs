// SPDX-License-Identifier: Apache-2.0
//! What a side of a handoff was told and what it did, as lines of the log (`--debug`) that a program can read again: whoever has all of
//! them can carry out the same steps, and see whether they come to the same. Must not know where the lines go.

use serde::{Deserialize, Serialize};

use super::{Effect, Event, Side};
use crate::migration::id::MigrationId;
use crate::{Context, Result};

/// What is before the text of a [`Traced`] in a message of the log.
const MARK: &str = "handoff trace=";

/// One event of a side, or one effect, which is about to be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traced {
    /// The process, by its number on its host.
    pub process: u32,
    /// The side.
    pub side: Side,
    /// The migration.
    pub migration: MigrationId,
    /// What it is.
    pub what: What,
}

/// What is traced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// This has happened.
    Event(Event),
    /// This follows from what has happened last.
    Effect(Effect),
}

impl Traced {
    /// Logs something, if anybody wants to know.
    pub fn log(side: Side, migration: MigrationId, what: impl FnOnce() -> What) {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let traced = Self { process: std::process::id(), side, migration, what: what() };
        match serde_json::to_string(&traced) {
            Ok(trace) => tracing::debug!(%trace, "handoff"),
            Err(error) => tracing::debug!(%error, "handoff"),
        }
    }

    /// The one that a message of the log tells, if it tells one.
    ///
    /// # Errors
    /// When it is one of another version's.
    pub fn of(message: &str) -> Result<Option<Self>> {
        let text = message.strip_prefix(MARK);
        text.map(serde_json::from_str).transpose().context(|| "understand a trace of a handoff")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::handoff::{Record, Recorded, Tree};
    use crate::migration::id::Epoch;

    #[test]
    fn a_trace_is_read_as_it_is_written() {
        let record = Record { epoch: Epoch::FIRST, what: Recorded::Fenced(Side::Source) };
        for what in [
            What::Event(Event::Restart { records: vec![record], tree: Tree::Broken }),
            What::Effect(Effect::Journal(record)),
        ] {
            let migration = MigrationId::from_bytes([7; MigrationId::BYTES]);
            let traced = Traced { process: 1, side: Side::Destination, migration, what };
            let text = serde_json::to_string(&traced).expect("JSON");
            assert_eq!(Traced::of(&format!("{MARK}{text}")).expect("its own"), Some(traced));
        }
        assert_eq!(Traced::of("something else").expect("no trace"), None);
        Traced::of(&format!("{MARK}{{}}")).expect_err("not one of this version's");
    }
}
