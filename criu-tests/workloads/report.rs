// SPDX-License-Identifier: Apache-2.0
//! What a workload tells the world: a file of `key=value` lines, replaced as a whole on every tick.
//!
//! Owns the identity (drawn once), the verdict (sticky), the counter and the largest gap between two ticks.

use std::fmt::{self, Write as _};
use std::fs;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The report of one workload.
#[derive(Debug)]
pub(crate) struct Report {
    path: PathBuf,
    temporary: PathBuf,
    name: &'static str,
    boot: String,
    counter: Counter,
    mismatch: Option<String>,
    last: Option<Duration>,
    largest_gap: Duration,
}

/// The extra lines of a workload.
#[derive(Debug, Default)]
pub(crate) struct Fields(String);

impl Fields {
    /// Adds one line.
    pub(crate) fn put(&mut self, key: &str, value: impl fmt::Display) {
        // Writing into a String cannot fail.
        let _ = writeln!(self.0, "{key}={value}");
    }
}

/// A number that knows whether it was damaged: the complement is kept in another allocation.
#[derive(Debug)]
struct Counter {
    value: Box<u64>,
    complement: Box<u64>,
}

impl Counter {
    fn advance(&mut self) -> Result<u64, String> {
        if *self.value != !*self.complement {
            return Err(format!("counter {} but complement {:x}", self.value, *self.complement));
        }
        *self.value += 1;
        *self.complement = !*self.value;
        Ok(*self.value)
    }
}

impl Report {
    /// A report to `path`, with a new identity.
    pub(crate) fn new(name: &'static str, path: PathBuf) -> io::Result<Self> {
        let mut id = [0; 8];
        fs::File::open("/dev/urandom")?.read_exact(&mut id)?;
        Ok(Self {
            temporary: path.with_extension("tmp"),
            path,
            name,
            boot: format!("{:016x}", u64::from_ne_bytes(id)),
            counter: Counter { value: Box::new(0), complement: Box::new(!0) },
            mismatch: None,
            last: None,
            largest_gap: Duration::ZERO,
        })
    }

    /// Begins a tick: measures the gap since the last one and gives the tick's number.
    pub(crate) fn tick(&mut self) -> u64 {
        // CRIU restores into a time namespace in which this clock goes on where it stopped.
        match clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from) {
            Ok(now) => {
                match self.last.map(|last| now.checked_sub(last)) {
                    Some(Some(gap)) => self.largest_gap = self.largest_gap.max(gap),
                    Some(None) => self.judge(Err("the monotonic clock went backwards".to_owned())),
                    None => {}
                }
                self.last = Some(now);
            }
            Err(errno) => self.judge(Err(format!("clock_gettime: {errno}"))),
        }
        match self.counter.advance() {
            Ok(tick) => tick,
            Err(mismatch) => {
                self.judge(Err(mismatch));
                *self.counter.value
            }
        }
    }

    /// Takes the result of a check; the first mismatch stays for ever.
    pub(crate) fn judge(&mut self, result: Result<(), String>) {
        if let Err(mismatch) = result {
            self.mismatch.get_or_insert(mismatch.replace('\n', " "));
        }
    }

    /// Whether every check so far passed.
    pub(crate) fn is_ok(&self) -> bool {
        self.mismatch.is_none()
    }

    /// Replaces the file.
    pub(crate) fn publish(&mut self, extra: &Fields) {
        let ok = self.mismatch.as_ref().map_or_else(|| "yes".to_owned(), |why| format!("no: {why}"));
        let text = format!(
            "workload={}\npid={}\nboot={}\ncounter={}\nok={ok}\nlargest_gap_ms={}\n{}",
            self.name,
            std::process::id(),
            self.boot,
            self.counter.value,
            self.largest_gap.as_millis(),
            extra.0,
        );
        let written = fs::write(&self.temporary, text).and_then(|()| fs::rename(&self.temporary, &self.path));
        self.judge(written.map_err(|e| format!("write {}: {e}", self.path.display())));
    }
}
