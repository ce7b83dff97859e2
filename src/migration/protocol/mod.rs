// SPDX-License-Identifier: Apache-2.0
//! What two hosts say to each other, and how it stands on the wire.
//!
//! ```text
//! kind u8 · length u32, little endian · so many bytes                     at most 1 MiB a frame
//!
//! Said       JSON of a Said                     MemoryBegin   a name: pages-1.img
//! Archive    bytes of an archive                Memory        bytes of pages
//! ArchiveEnd nothing                            MemoryEnd     nothing
//! Pages      a batch of `pages::store`          Memories      { CRIU's pid u32 · space u32 } …, after the last of them    from version 2 on
//! Files      bytes of a round of files          FilesEnd      SHA-256 of those bytes · 1 if it was the last round         from version 3 on
//!
//! source                                destination
//! Hello ─▶                          ◀─ Hello
//! Offer … ─▶                        ◀─ Answer          what is in the way here, all of it
//! Begin · rounds of files · memory or pages · the last round of files · archive ─▶
//! Handoff(FINAL) ─▶  ...            ◀─ Handoff(READY)  as `handoff` says
//! Settled ─▶
//! ```
//! Whoever continues a migration says Resume instead of Offer. From version 3 on several containers can move together: each has an Offer,
//! and Member says of which one, in the order of those, the memory, pages and archive are that follow; before, they are of the first. Everything that is read may come from anybody: lengths are bounded before
//! anything is made of them. Must not know what follows from a message.

mod wire;

pub use wire::{FilesStream, Frame, MemorySender, Receiver, Sender};

use serde::{Deserialize, Serialize};

use super::handoff::Message;
use super::id::MigrationId;
use crate::engine::MovingAddresses;
use crate::{Error, ErrorKind, Result};

/// The versions of the protocol that this program speaks, the best first.
const SPEAKS: [u32; 3] = [3, 2, 1];

/// The first version in which memory comes as pages, before the processes stand still.
pub(super) const WITH_PAGES: u32 = 2;

/// The first version in which several containers move together.
pub(super) const WITH_MEMBERS: u32 = 3;

/// The first version in which the root filesystem comes in rounds.
pub(super) const WITH_FILES: u32 = 3;

/// So many blockers are told; a container with more of them has enough to begin with.
const BLOCKERS: usize = 64;

/// The first message of either side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The versions that it speaks, the best first.
    pub speaks: Vec<u32>,
    /// The program's version, for people.
    pub program: String,
}

impl Hello {
    /// This program's.
    pub fn own() -> Self {
        Self { speaks: SPEAKS.to_vec(), program: env!("CARGO_PKG_VERSION").to_owned() }
    }

    /// The version that both speak.
    ///
    /// # Errors
    /// `Unsupported` if there is none.
    pub fn common(&self) -> Result<u32> {
        SPEAKS.into_iter().find(|version| self.speaks.contains(version)).ok_or_else(|| {
            let message = format!(
                "the other host's migrate {} speaks versions {:?} of the protocol, this one {SPEAKS:?}",
                self.program.escape_debug(),
                self.speaks
            );
            Error::new(ErrorKind::Unsupported, message)
                .with_hint("install the same version of migrate on both hosts")
        })
    }
}

/// A container that is offered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// The migration.
    pub migration: MigrationId,
    /// The container's id.
    pub container: String,
    /// Its configuration.
    pub config: serde_json::Value,
    /// The processor's architecture.
    pub arch: String,
    /// CRIU's version, as a number.
    pub criu: u32,
    /// How its processes are to be restored.
    pub flags: Flags,
    /// Bytes of memory that its cgroup uses now.
    pub memory: u64,
    /// Addresses that move with it.
    #[serde(default, skip_serializing_if = "MovingAddresses::is_empty")]
    pub addresses: MovingAddresses,
    /// So many offers follow, of containers that move together with this one.
    #[serde(default, skip_serializing_if = "is_none")]
    pub more: u32,
}

impl Offer {
    /// Whether it is of another container that moves together with the one of this offer.
    pub(super) fn goes_with(&self, first: &Self) -> bool {
        (self.migration, self.flags, self.more) == (first.migration, first.flags, 0)
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the form that serde asks for
fn is_none(number: &u32) -> bool {
    *number == 0
}

/// What a dump was made with, and a restore needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Flags {
    /// Established TCP connections come along.
    pub tcp_established: bool,
    /// They come back closed.
    pub tcp_close: bool,
    /// The other end of a unix socket is outside.
    pub ext_unix_sk: bool,
    /// It belongs to a session outside.
    pub shell_job: bool,
    /// There are file locks.
    pub file_locks: bool,
}

/// One thing that is in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocker {
    /// What it is.
    pub what: String,
    /// What to do about it, if that is known.
    pub remedy: Option<String>,
}

impl Blocker {
    /// The same, of a container that is named, for there are several.
    #[must_use]
    pub fn of(self, container: &str) -> Self {
        Self { what: format!("container {container}: {}", self.what), ..self }
    }
}

impl From<&Error> for Blocker {
    fn from(error: &Error) -> Self {
        Self { what: error.chain(), remedy: error.hint().map(str::to_owned) }
    }
}

/// What a destination says of an offer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What is in the way of it there; with none it is welcome.
    pub blockers: Vec<Blocker>,
    /// CRIU's version there, for people.
    pub criu: String,
    /// The kernel there.
    pub kernel: String,
    /// Bytes that are free where a container is kept.
    pub free: u64,
    /// Whether memory may come as pages: it is put into place while the container runs.
    #[serde(default)]
    pub takes_pages: bool,
    /// Whether its root filesystem may come in rounds.
    #[serde(default)]
    pub takes_files: bool,
}

/// What is said, besides memory and archives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// The first message.
    Hello(Hello),
    /// Source: would you take this?
    Offer(Box<Offer>),
    /// Destination: what is in the way.
    Answer(Answer),
    /// Source: it comes.
    Begin,
    /// Source: what follows of memory and archives is of the container of this number.
    Member(usize),
    /// Source: this migration again.
    Resume(MigrationId),
    /// A message of the handoff.
    Handoff(Message),
    /// The side cannot go on, for this reason.
    Failed(Blocker),
    /// Source: it is over on my side, and nobody will ask about this migration any more.
    Settled,
}

/// What the other host has said of itself, as it may be shown.
pub fn told(blocker: &Blocker) -> Error {
    let error = Error::new(ErrorKind::System, format!("the other host: {}", shown(&blocker.what)));
    match &blocker.remedy {
        Some(remedy) => error.with_hint(format!("there: {}", shown(remedy))),
        None => error,
    }
}

/// Text of the other host's without what a terminal would obey.
pub fn shown(text: &str) -> String {
    const MOST: usize = 2000;
    text.chars().take(MOST).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// All blockers as one error.
///
/// # Errors
/// `NotAllowed` if there are any.
pub fn none_in_the_way(blockers: &[Blocker]) -> Result<()> {
    if blockers.is_empty() {
        return Ok(());
    }
    let told: Vec<_> = blockers.iter().take(BLOCKERS).map(|blocker| shown(&blocker.what)).collect();
    let error =
        Error::new(ErrorKind::NotAllowed, format!("in the way of this migration: {}", told.join("; ")));
    let remedies: Vec<_> =
        blockers.iter().take(BLOCKERS).filter_map(|blocker| blocker.remedy.as_deref()).map(shown).collect();
    Err(if remedies.is_empty() { error } else { error.with_hint(remedies.join("; ")) })
}
