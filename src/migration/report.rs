// SPDX-License-Identifier: Apache-2.0
//! What a migration came to, in numbers. Must not know how they are shown.

use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use super::id::MigrationId;

/// What a migration is doing, as its source sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Both sides look for what is in the way. The container runs.
    Preflight,
    /// Its memory is sent, round after round. It runs.
    Rounds,
    /// It is stopped, and what is left of its memory, its images and its files are sent.
    Transfer,
    /// All of it was sent; the other side restores it.
    Restore,
    /// The other side has it, frozen; it is decided that it runs there.
    Switch,
}

/// What a caller is told on the way.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// This begins.
    Phase(Phase),
    /// This round was made.
    Round(Round),
    /// Of several containers that move together, this one stands still, and all of it was sent.
    Frozen(String),
    /// This round of files was made.
    FileRound(FileRound),
}

/// Memory that was sent while the container ran.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Round {
    /// Bytes of memory that were found written to since the round before; in the first, all that there were.
    pub dirty: u64,
    /// Bytes of memory that were sent.
    pub bytes: u64,
    /// Bytes of memory that are zero, which was told.
    pub zeros: u64,
    /// How long that took.
    #[serde(serialize_with = "seconds")]
    pub seconds: Duration,
    /// To how many processors' time the container was limited meanwhile, if it was for the migration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processors: Option<f64>,
}

/// Files of the root filesystem that were sent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FileRound {
    /// Files of all kinds that were new or other since the round before; in the first, all that there were.
    pub files: u64,
    /// Files that were gone.
    pub removed: u64,
    /// Bytes of their contents that were sent, before compression.
    pub bytes: u64,
    /// How long that took.
    #[serde(serialize_with = "seconds")]
    pub seconds: Duration,
}

impl FileRound {
    /// Both together; those of several containers are sent at the same time.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            files: self.files + other.files,
            removed: self.removed + other.removed,
            bytes: self.bytes + other.bytes,
            seconds: self.seconds.max(other.seconds),
        }
    }
}

/// What it came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Moved {
    /// The migration.
    pub migration: MigrationId,
    /// The container; of several, all of them, with commas between them.
    pub container: String,
    /// Where it runs now.
    pub destination: String,
    /// How long each phase took, in seconds.
    pub phases: Vec<PhaseTime>,
    /// How long the processes ran nowhere, as the source has measured it: from the first that CRIU stopped until the other side's word
    /// that they run, in seconds. Of several containers, of the one that stood still for the longest time. `None` for a migration that
    /// was continued.
    #[serde(serialize_with = "seconds_if_known")]
    pub downtime: Option<Duration>,
    /// Bytes that were sent.
    pub bytes_sent: u64,
    /// Memory that was sent while it ran.
    pub rounds: Vec<Round>,
    /// Bytes of memory that were sent after those rounds, while it stood still; `None` if CRIU has sent the memory then, all of it.
    pub frozen_bytes: Option<u64>,
    /// Why CRIU has, if not because the caller wanted it so.
    pub without_rounds: Option<String>,
    /// Files of its root filesystem that were sent while it ran; of several containers, one after the other.
    pub file_rounds: Vec<FileRound>,
    /// Those that were sent after these rounds, while it stood still; `None` if all of them were.
    pub frozen_files: Option<FileRound>,
    /// What it came to for each, if there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<MovedMember>,
}

/// What it came to for one of several containers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MovedMember {
    /// The container.
    pub container: String,
    /// As [`Moved::downtime`].
    #[serde(serialize_with = "seconds_if_known")]
    pub downtime: Option<Duration>,
    /// As [`Moved::frozen_bytes`].
    pub frozen_bytes: Option<u64>,
}

/// How long one phase took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PhaseTime {
    /// The phase.
    pub phase: Phase,
    /// How long.
    #[serde(serialize_with = "seconds")]
    pub seconds: Duration,
}

fn seconds<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(time.as_secs_f64())
}

#[allow(clippy::ref_option)] // the form that serde asks for
fn seconds_if_known<S: Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => seconds(time, to),
        None => to.serialize_none(),
    }
}

/// Takes the times.
#[derive(Debug)]
pub(super) struct Clock {
    since: Instant,
    now: Phase,
    times: Vec<PhaseTime>,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { since: Instant::now(), now: Phase::Preflight, times: Vec::new() }
    }

    /// The phase that was ends here, and this one begins.
    pub(super) fn begin(&mut self, next: Phase) {
        self.times.push(PhaseTime { phase: self.now, seconds: self.since.elapsed() });
        (self.since, self.now) = (Instant::now(), next);
    }

    /// All phases, the last one until now.
    pub(super) fn times(&self) -> Vec<PhaseTime> {
        let last = PhaseTime { phase: self.now, seconds: self.since.elapsed() };
        self.times.iter().copied().chain([last]).collect()
    }
}

/// The sum of the phases in which the processes run nowhere.
pub(super) fn downtime(times: &[PhaseTime]) -> Duration {
    times
        .iter()
        .filter(|time| !matches!(time.phase, Phase::Preflight | Phase::Rounds))
        .map(|time| time.seconds)
        .sum()
}
