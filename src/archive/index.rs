// SPDX-License-Identifier: Apache-2.0
//! Owns `migrate.index`: what every member before it must be.
//!
//! The writer collects entries as it goes and writes them last; the reader collects its own and compares.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::invalid;
use super::member::INDEX;
use crate::{Context, Result};

/// The schema of the index that this version writes, and the only one that it reads.
pub(super) const INDEX_SCHEMA: u32 = 1;

/// The last member of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    pub(super) schema: u32,
    pub(super) members: Vec<IndexEntry>,
    pub(super) total: Totals,
}

/// One member: where its bytes are in the uncompressed stream, and what they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IndexEntry {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) offset: u64,
    pub(super) sha256: Digest,
}

/// What the members add up to, the index itself not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Totals {
    pub(super) members: u64,
    pub(super) bytes: u64,
}

impl Totals {
    fn of(members: &[IndexEntry]) -> Self {
        let bytes = members.iter().fold(0_u64, |sum, member| sum.saturating_add(member.size));
        Self { members: members.len() as u64, bytes }
    }
}

/// A SHA-256, in JSON as 64 lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Digest(String);

impl Digest {
    /// The digest of all that `hasher` has seen.
    pub(super) fn of(hasher: Sha256) -> Self {
        use fmt::Write as _;
        let mut text = String::with_capacity(64);
        for byte in hasher.finalize() {
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Index {
    /// The index of these members.
    pub(super) fn of(members: Vec<IndexEntry>) -> Self {
        let total = Totals::of(&members);
        Self { schema: INDEX_SCHEMA, members, total }
    }

    /// The member's bytes: one line per member, for people and for `grep`.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>> {
        let written = || format!("write {INDEX}");
        let mut bytes = format!("{{\"schema\":{},\"members\":[", self.schema).into_bytes();
        for (i, member) in self.members.iter().enumerate() {
            bytes.extend_from_slice(if i == 0 { b"\n" } else { b",\n" });
            serde_json::to_writer(&mut bytes, member).context(written)?;
        }
        bytes.extend_from_slice(b"\n],\"total\":");
        serde_json::to_writer(&mut bytes, &self.total).context(written)?;
        bytes.extend_from_slice(b"}\n");
        Ok(bytes)
    }

    /// Reads the member's bytes.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let index: Self = serde_json::from_slice(bytes)
            .map_err(|error| invalid(format!("{INDEX} is not an index")).with_source(error))?;
        if index.schema != INDEX_SCHEMA {
            let schema = index.schema;
            return Err(invalid(format!("{INDEX} has schema {schema}, this version reads {INDEX_SCHEMA}")));
        }
        Ok(index)
    }

    /// Compares what the index says with what was `found` while reading: same members, order, sizes, offsets
    /// and digests.
    pub(super) fn verify(&self, found: &[IndexEntry]) -> Result<()> {
        for (listed, found) in self.members.iter().zip(found) {
            if listed.name != found.name {
                return Err(mismatch(&found.name, "name", &listed.name, &found.name));
            }
            if listed.size != found.size {
                return Err(mismatch(&found.name, "size", listed.size, found.size));
            }
            if listed.offset != found.offset {
                return Err(mismatch(&found.name, "offset", listed.offset, found.offset));
            }
            if listed.sha256 != found.sha256 {
                return Err(mismatch(&found.name, "SHA-256", &listed.sha256.0, &found.sha256.0));
            }
        }
        if let Some(missing) = self.members.get(found.len()) {
            return Err(invalid(format!("member {} is listed in {INDEX} but is missing", missing.name)));
        }
        if let Some(extra) = found.get(self.members.len()) {
            return Err(invalid(format!("member {} is not listed in {INDEX}", extra.name)));
        }
        let total = Totals::of(found);
        if self.total != total {
            let (members, bytes) = (self.total.members, self.total.bytes);
            let message = format!(
                "{INDEX} counts {members} members of {bytes} bytes, the archive holds {} of {}",
                total.members, total.bytes
            );
            return Err(invalid(message));
        }
        Ok(())
    }
}

fn mismatch(member: &str, what: &str, listed: impl fmt::Display, found: impl fmt::Display) -> crate::Error {
    invalid(format!("member {member} is damaged: {what} is {found}, {INDEX} says {listed}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<IndexEntry> {
        let entry = |name: &str, size, offset, text: &str| IndexEntry {
            name: name.into(),
            size,
            offset,
            sha256: Digest::of(Sha256::new().chain_update(text)),
        };
        vec![entry("a", 3, 512, "abc"), entry("b", 0, 1536, "")]
    }

    #[test]
    fn an_index_reads_as_written() {
        let index = Index::of(entries());
        let bytes = index.to_bytes().expect("JSON");
        assert_eq!(Index::from_bytes(&bytes).expect("ours"), index);
        index.verify(&entries()).expect("the same");
        let text = String::from_utf8(bytes).expect("text");
        assert!(text.contains("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"), "{text}");
        assert!(text.ends_with("\"total\":{\"members\":2,\"bytes\":3}}\n"), "{text}");
    }

    #[test]
    fn every_difference_is_named() {
        type Change = fn(&mut Index);
        let cases: [(Change, &str); 7] = [
            (|i| i.members[0].size = 4, "member a is damaged: size is 3"),
            (|i| i.members[1].offset = 4, "member b is damaged: offset is 1536"),
            (|i| i.members[0].sha256 = i.members[1].sha256.clone(), "member a is damaged: SHA-256 is ba78"),
            (|i| i.members.swap(0, 1), "name is a"),
            (|i| i.members.truncate(1), "member b is not listed"),
            (|i| i.members.push(i.members[0].clone()), "member a is listed in migrate.index but is missing"),
            (|i| i.total.bytes = 4, "counts 2 members of 4 bytes"),
        ];
        for (change, expected) in cases {
            let mut index = Index::of(entries());
            change(&mut index);
            let error = index.verify(&entries()).expect_err("it was changed");
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
