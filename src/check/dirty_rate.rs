// SPDX-License-Identifier: Apache-2.0
//! How fast the processes of a container write to their memory: the basis for telling how many rounds of copying it while it runs would
//! come to an end. Of all that `check` does this alone touches processes: a thread of each stands still for some 0.1 ms, once, and
//! the first write to a page after each look costs it a fault.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::engine::{Container, Status};
use crate::pages::track::{self, DirtyProcess, DirtyRound, DirtyTracker};
use crate::sys::proc;
use crate::{Error, ErrorKind, Result};

/// The version of the JSON form: fields may be added to it without another number.
const SCHEMA: u32 = 1;
/// Between two looks. A page that is written to a hundred times between counts once, as for one round of copying.
const BETWEEN: Duration = Duration::from_secs(1);

/// What was measured.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct DirtyRates {
    schema: u32,
    /// For how long.
    pub seconds: f64,
    /// What the processes have in private memory together when they are first seen, in bytes.
    pub memory_bytes: u64,
    /// What they dirty together.
    pub dirty_bytes_per_second: u64,
    /// Each of them; processes with one memory are one.
    pub processes: Vec<ProcessRate>,
}

/// What was measured of one process.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct ProcessRate {
    /// Its pid on the host.
    pub pid: i32,
    /// Its name, of its own choice.
    pub command: String,
    /// For how long it was there.
    pub seconds: f64,
    /// What it had in private memory when it was first seen, in bytes.
    pub memory_bytes: u64,
    /// What it has dirtied, on an average.
    pub dirty_bytes_per_second: u64,
    /// The most in one look.
    pub peak_bytes_per_second: u64,
    /// The size of mappings whose changes are not seen, most of all shared ones, in bytes.
    pub untracked_bytes: u64,
    /// How long a thread of it stood still.
    pub stood_microseconds: u64,
    #[serde(skip)]
    dirty_bytes: u64,
}

/// Measures for so long. The container runs on, on `Err` too.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for a kernel before Linux 6.7; [`ErrorKind::WrongStatus`] when the container does not run, its memory is not
/// whole, or a process does not stop; [`ErrorKind::PermissionDenied`] when somebody traces one.
pub fn dirty_rate(container: &mut Container, length: Duration) -> Result<DirtyRates> {
    track::supported()?;
    let mut tracker = DirtyTracker::default();
    let mut rates = DirtyRates { schema: SCHEMA, ..DirtyRates::default() };
    rates.add(&look(container, &mut tracker)?, Duration::ZERO);
    let begin = Instant::now();
    let mut before = begin;
    while begin.elapsed() < length {
        std::thread::sleep(BETWEEN.min(length.saturating_sub(begin.elapsed())));
        let round = look(container, &mut tracker)?;
        let now = Instant::now();
        rates.add(&round, now - before);
        before = now;
    }
    rates.seconds = begin.elapsed().as_secs_f64();
    rates.conclude();
    Ok(rates)
}

/// One round. No other command changes the container meanwhile: a checkpoint traces its processes, too.
fn look(container: &mut Container, tracker: &mut DirtyTracker) -> Result<DirtyRound> {
    let _lock = container.lock()?;
    match container.status()? {
        Status::Running => {}
        other => {
            let message = format!("container {} does not run: {other}", container.id());
            return Err(Error::new(ErrorKind::WrongStatus, message)
                .with_hint("what it dirties can be measured while it runs only"));
        }
    }
    container.require_whole()?;
    tracker.round(&container.processes()?)
}

impl DirtyRates {
    fn add(&mut self, round: &DirtyRound, took: Duration) {
        for process in &round.processes {
            if process.adopted.is_some() {
                self.processes.push(ProcessRate::new(process));
            } else if let Some(rate) = self.processes.iter_mut().rev().find(|rate| rate.pid == process.pid) {
                rate.add(process, took);
            }
        }
    }

    fn conclude(&mut self) {
        let per_second = |bytes: u64, seconds: f64| {
            if seconds > 0.0 { (bytes as f64 / seconds).round() as u64 } else { 0 }
        };
        for rate in &mut self.processes {
            rate.dirty_bytes_per_second = per_second(rate.dirty_bytes, rate.seconds);
        }
        self.memory_bytes = self.processes.iter().map(|rate| rate.memory_bytes).sum();
        let dirty = self.processes.iter().map(|rate| rate.dirty_bytes).sum();
        self.dirty_bytes_per_second = per_second(dirty, self.seconds);
    }
}

impl ProcessRate {
    fn new(process: &DirtyProcess) -> Self {
        // One that has ended by now has no name.
        let command = proc::command(nix::unistd::Pid::from_raw(process.pid)).unwrap_or_default();
        let stood = process.adopted.unwrap_or_default().as_micros();
        Self {
            pid: process.pid,
            command,
            memory_bytes: process.dirty_bytes(),
            untracked_bytes: untracked(process),
            stood_microseconds: u64::try_from(stood).unwrap_or(u64::MAX),
            ..Self::default()
        }
    }

    fn add(&mut self, process: &DirtyProcess, took: Duration) {
        let dirty = process.dirty_bytes();
        self.dirty_bytes += dirty;
        self.seconds += took.as_secs_f64();
        self.untracked_bytes = untracked(process);
        let rate = if took.is_zero() { 0 } else { (dirty as f64 / took.as_secs_f64()).round() as u64 };
        self.peak_bytes_per_second = self.peak_bytes_per_second.max(rate);
    }
}

fn untracked(process: &DirtyProcess) -> u64 {
    process.untracked.iter().map(|range| range.end - range.start).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_time_that_a_process_was_there() {
        let old = ProcessRate {
            pid: 1,
            seconds: 4.0,
            memory_bytes: 9,
            dirty_bytes: 4096,
            ..ProcessRate::default()
        };
        let young = ProcessRate { pid: 2, seconds: 1.0, dirty_bytes: 8192, ..ProcessRate::default() };
        let unseen = ProcessRate { pid: 3, memory_bytes: 5, ..ProcessRate::default() };
        let mut rates =
            DirtyRates { seconds: 4.0, processes: vec![old, young, unseen], ..DirtyRates::default() };
        rates.conclude();
        let each: Vec<u64> = rates.processes.iter().map(|rate| rate.dirty_bytes_per_second).collect();
        assert_eq!((each, rates.dirty_bytes_per_second, rates.memory_bytes), (vec![1024, 8192, 0], 3072, 14));
    }
}
