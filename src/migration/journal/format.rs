// SPDX-License-Identifier: Apache-2.0
//! The bytes of a journal. Pure: from entries to bytes and back.
//!
//! ```text
//! entry   length of the text: u32 | CRC-32 of length and text: u32 | text: JSON          (numbers in little endian)
//! ```
//!
//! An entry is written when all before it are on the disk, so that only the last one can be torn. Bytes at the end that
//! are no entry are its beginning, if there are no more of them than an entry has and no entry begins among them; all else
//! is damage, and is never cut off: what has been promised must not be forgotten.

use serde::{Deserialize, Serialize};

use crate::archive::crc32;
use crate::migration::handoff::{Record, Side};
use crate::migration::id::MigrationId;
use crate::{Context, Error, ErrorKind, Result};

/// The version that is written.
pub(super) const SCHEMA: u32 = 1;

/// The longest text of an entry.
pub(super) const LONGEST: usize = 4096;

/// The longest journal.
pub(super) const LARGEST: usize = 1 << 20;

/// Length and checksum.
const HEADER: usize = 8;

/// One line of a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub(super) enum Entry {
    /// The first one.
    Opened(Opened),
    /// Something of the handoff.
    Handoff {
        /// When, RFC 3339 in UTC.
        at: String,
        #[serde(flatten)]
        record: Record,
        /// For people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// What else whoever takes over must know.
    Note { at: String, key: String, value: String },
}

/// What a journal is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The version of the journal.
    pub schema: u32,
    /// The migration.
    pub migration: MigrationId,
    /// The side that this host is.
    pub side: Side,
    /// The container's id here; of several, all of them, with commas between them.
    pub container: String,
    /// The other host, as this one was told of it.
    pub peer: String,
    /// Since when, RFC 3339 in UTC.
    pub at: String,
}

/// What of the bytes of a journal is good.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) entries: Vec<Entry>,
    /// How many bytes they are; a torn entry follows if there are more.
    pub(super) length: usize,
}

/// The bytes of an entry.
pub(super) fn encode(entry: &Entry) -> Result<Vec<u8>> {
    let text = serde_json::to_vec(entry).context(|| "serialise an entry of a migration's journal")?;
    let length = u32::try_from(text.len()).ok().filter(|_| text.len() <= LONGEST).ok_or_else(|| {
        let message = format!("an entry of {} bytes is too long for a migration's journal", text.len());
        Error::new(ErrorKind::InvalidInput, message)
    })?;
    let length = length.to_le_bytes();
    Ok([&length[..], &checksum(length, &text).to_le_bytes(), &text].concat())
}

/// Reads a journal.
///
/// # Errors
/// [`ErrorKind::System`] for damage, which names the byte; [`ErrorKind::Unsupported`] for another version.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed> {
    if bytes.len() > LARGEST {
        return Err(Error::new(ErrorKind::System, format!("it has more than {LARGEST} bytes")));
    }
    let mut parsed = Parsed { entries: Vec::new(), length: 0 };
    while parsed.length < bytes.len() {
        let rest = bytes.get(parsed.length..).unwrap_or_default();
        let Some(text) = text(rest) else {
            if is_torn(rest) {
                break;
            }
            return Err(damaged(parsed.length));
        };
        if parsed.entries.is_empty() {
            require_known_schema(text)?;
        }
        let entry: Entry = serde_json::from_slice(text).map_err(|e| damaged(parsed.length).with_source(e))?;
        if parsed.entries.is_empty() != matches!(entry, Entry::Opened(_)) {
            return Err(damaged(parsed.length));
        }
        parsed.entries.push(entry);
        parsed.length += HEADER + text.len();
    }
    Ok(parsed)
}

/// The text of the entry that begins here, if one does.
fn text(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let size =
        usize::try_from(u32::from_le_bytes(*length)).ok().filter(|size| (1..=LONGEST).contains(size))?;
    let text = rest.get(..size)?;
    (checksum(*length, text) == u32::from_le_bytes(*sum)).then_some(text)
}

/// Whether these bytes can be of one entry whose writing was cut short.
fn is_torn(bytes: &[u8]) -> bool {
    bytes.len() <= HEADER + LONGEST && (1..bytes.len()).all(|at| bytes.get(at..).and_then(text).is_none())
}

/// A later version may say in other words what it is about, but not which version it is.
fn require_known_schema(text: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    struct Version {
        schema: u32,
    }
    match serde_json::from_slice(text) {
        Ok(Version { schema }) if schema != SCHEMA => Err(Error::new(
            ErrorKind::Unsupported,
            format!("it has schema {schema}, this program knows {SCHEMA}"),
        )),
        Ok(_) => Ok(()),
        Err(e) => Err(damaged(0).with_source(e)),
    }
}

fn damaged(at: usize) -> Error {
    Error::new(ErrorKind::System, format!("it is damaged at byte {at}"))
        .with_hint("keep the file: it tells who may run the container. Look at both hosts before anything is done with it")
}

fn checksum(length: [u8; 4], text: &[u8]) -> u32 {
    crc32(&[&length[..], text].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::migration::handoff::Recorded;
    use crate::migration::id::Epoch;

    fn opened() -> Entry {
        Entry::Opened(Opened {
            schema: SCHEMA,
            migration: MigrationId::from_bytes([3; MigrationId::BYTES]),
            side: Side::Source,
            container: "web".to_owned(),
            peer: "ssh://far".to_owned(),
            at: "2026-11-23T17:20:30Z".to_owned(),
        })
    }

    fn recorded() -> impl Strategy<Value = Recorded> {
        prop_oneof![
            Just(Recorded::Begun),
            Just(Recorded::Prepared),
            Just(Recorded::Ready),
            Just(Recorded::Committed),
            Just(Recorded::Live),
            Just(Recorded::Done),
            Just(Recorded::Aborted),
            Just(Recorded::Fenced(Side::Source)),
            Just(Recorded::Fenced(Side::Destination)),
        ]
    }

    fn later() -> impl Strategy<Value = Entry> {
        prop_oneof![
            ("[0-9TZ:.-]{0,30}", any::<u64>(), recorded(), proptest::option::of(".{0,40}")).prop_map(
                |(at, epoch, what, reason)| Entry::Handoff {
                    at,
                    record: Record { epoch: Epoch::new(epoch), what },
                    reason
                }
            ),
            (".{0,20}", ".{0,20}", ".{0,60}").prop_map(|(at, key, value)| Entry::Note { at, key, value }),
        ]
    }

    fn journal() -> impl Strategy<Value = Vec<Entry>> {
        proptest::collection::vec(later(), 0..8).prop_map(|mut entries| {
            entries.insert(0, opened());
            entries
        })
    }

    fn bytes(entries: &[Entry]) -> Vec<u8> {
        entries.iter().flat_map(|entry| encode(entry).expect("a short entry")).collect()
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(entries in journal()) {
            let bytes = bytes(&entries);
            prop_assert_eq!(parse(&bytes).expect("its own bytes"), Parsed { entries, length: bytes.len() });
        }

        #[test]
        fn a_torn_entry_is_left_out_and_nothing_else(entries in journal(), cut in any::<prop::sample::Index>()) {
            let whole = bytes(&entries);
            let last = encode(entries.last().expect("the first one is there")).expect("a short entry").len();
            let kept = whole.len() - 1 - cut.index(last);
            let parsed = parse(&whole[..kept]).expect("only torn");
            prop_assert_eq!(parsed.length, whole.len() - last);
            prop_assert_eq!(&parsed.entries[..], &entries[..entries.len() - 1]);
        }

        #[test]
        fn a_flipped_bit_before_the_last_entry_is_damage(
            entries in journal().prop_filter("two or more", |entries| entries.len() > 1),
            place in any::<prop::sample::Index>(), bit in 0_u8..8,
        ) {
            let mut damaged = bytes(&entries);
            let last = encode(entries.last().expect("there are two")).expect("a short entry").len();
            let place = place.index(damaged.len() - last);
            damaged[place] ^= 1 << bit;
            let error = parse(&damaged).expect_err("damage");
            prop_assert!(error.to_string().starts_with("it is damaged at byte "), "{}", error);
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(parsed) = parse(&bytes) {
                prop_assert!(parsed.length <= bytes.len());
            }
        }
    }

    #[test]
    fn what_is_not_a_journal_says_so() {
        let later_schema = br#"{"entry":"opened","schema":2,"migrant":"x"}"#;
        let framed = |text: &[u8]| {
            let length = u32::try_from(text.len()).expect("short").to_le_bytes();
            [&length[..], &checksum(length, text).to_le_bytes(), text].concat()
        };
        let cases = [
            (framed(later_schema), ErrorKind::Unsupported),
            (framed(b"{}"), ErrorKind::System),
            (framed(br#"{"entry":"note","schema":1,"at":"","key":"","value":""}"#), ErrorKind::System),
            ([bytes(&[opened()]), bytes(&[opened()])].concat(), ErrorKind::System),
            (vec![0; HEADER + LONGEST + 1], ErrorKind::System),
            (vec![b' '; LARGEST + 1], ErrorKind::System),
        ];
        for (bytes, kind) in cases {
            assert_eq!(parse(&bytes).expect_err("no journal").kind(), kind);
        }
    }

    #[test]
    fn an_entry_that_is_too_long_is_refused_before_it_is_written() {
        let entry = Entry::Note { at: String::new(), key: String::new(), value: "x".repeat(LONGEST) };
        assert_eq!(encode(&entry).expect_err("too long").kind(), ErrorKind::InvalidInput);
    }
}
