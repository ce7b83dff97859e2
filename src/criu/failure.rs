// SPDX-License-Identifier: Apache-2.0
//! A dump or restore that CRIU did not bring to an end: how it ended, what it said, where its log is. It is the source
//! of the error that a [`CriuClient`](super::CriuClient) returns, and quotes; what it means is not this module's.

use std::fmt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use super::log::{self, Job, LogError};

/// How CRIU ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It answered no.
    Refused,
    /// A signal killed it.
    Killed(Signal),
    /// It ended by itself, without an answer.
    Exited(i32),
    /// It is gone, nobody knows how.
    Gone,
}

/// Why a job failed, as far as CRIU tells.
#[derive(Clone)]
pub struct Failure {
    pub(super) job: Job,
    pub(super) end: End,
    /// The log, or its beginning and its end; empty when there is none.
    pub(super) log: Vec<u8>,
    pub(super) log_path: Option<PathBuf>,
    /// What CRIU's answer quotes, or what it printed last.
    pub(super) said: Option<String>,
    /// The error number of CRIU's answer.
    pub(super) errno: Option<i32>,
}

impl Failure {
    /// Which job failed.
    pub fn job(&self) -> Job {
        self.job
    }

    /// How CRIU ended.
    pub fn end(&self) -> End {
        self.end
    }

    /// CRIU's log, if it has begun one.
    pub fn log_path(&self) -> Option<&Path> {
        self.log_path.as_deref()
    }

    /// Everything that tells why, as lines of a log: CRIU's end if it was none of its own, what it said, its log.
    pub fn words(&self) -> Vec<u8> {
        let line = |text: String| {
            let text = text.lines().next().unwrap_or_default();
            let prefix = if text.contains("Error (") { "" } else { "Error: " };
            format!("{prefix}{text}\n").into_bytes()
        };
        let mut words = self.death().map(line).unwrap_or_default();
        words.extend_from_slice(&self.log);
        // Mostly the first error of the log once more.
        words.push(b'\n');
        words.extend(self.said.clone().map(line).unwrap_or_default());
        words
    }

    /// The first true error: of the log, else of CRIU's answer.
    pub fn error(&self) -> Option<LogError> {
        log::first_error(&self.log, self.job).or_else(|| LogError::from_answer(self.said.as_deref()?))
    }

    /// This failure as the source of an error that tells its cause: `sentence` is the one it is seen in.
    pub fn quoted(&self, sentence: &str) -> Quoted {
        match self.death() {
            Some(death) if death == sentence => Quoted(death),
            Some(death) => Quoted(format!("{death}: {sentence}")),
            None => Quoted(format!("criu: {sentence}")),
        }
    }

    fn death(&self) -> Option<String> {
        match self.end {
            End::Refused => None,
            End::Killed(signal) => Some(format!("criu was killed by {signal}")),
            End::Exited(code) => Some(format!("criu ended without an answer (exit status {code})")),
            End::Gone => Some("criu ended without an answer".to_owned()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = self.error();
        match (self.death(), error, self.errno) {
            (Some(death), Some(error), _) => write!(f, "{death}: {error}"),
            (Some(death), None, _) => f.write_str(&death),
            (None, Some(error), _) => write!(f, "{error}"),
            (None, None, Some(errno)) => {
                write!(f, "{}", nix::errno::Errno::from_raw(errno.saturating_abs()).desc().to_lowercase())
            }
            (None, None, None) => f.write_str("criu gave no reason"),
        }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("job", &self.job)
            .field("end", &self.end)
            .field("log_path", &self.log_path)
            .field("said", &self.said)
            .field("errno", &self.errno)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Failure {}

/// CRIU's own words, quoted in an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted(String);

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Quoted {}
