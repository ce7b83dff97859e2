// SPDX-License-Identifier: Apache-2.0
//! Memory that is sent while its processes run, and what is left of it to be sent once they stand still.
//!
//! ```text
//!  running   look ─▶ what was written ─▶ send ─▶ batches      as often as the caller likes
//!  frozen    rest: what CRIU lists, but for what has been sent and not written to since ─▶ batches, and whose memory is which
//! ```
//! CRIU's list decides what there is: what was unmapped since it was sent is not in it, and what nobody has seen is sent then. Must not
//! know where batches go.

use std::collections::HashMap;
use std::ops::Range;

use super::store::{Batch, Place, Run, Runs};
use super::track::{Contents, DirtyRound, DirtyTracker, PageReader, ReadTotals};
use crate::{Error, ErrorKind, Result};

/// Takes a batch; an error ends the work.
pub type Send<'a> = &'a mut dyn FnMut(&[u8]) -> Result<()>;

/// Bytes of a batch.
const BATCH: usize = 256 << 10;

/// Which memory the other side has, as it is.
#[derive(Debug, Default)]
pub struct Ahead {
    tracker: DirtyTracker,
    /// By the process's pid here.
    spaces: HashMap<i32, Space>,
    /// The number of the next one.
    next: u32,
}

/// One memory.
#[derive(Debug)]
struct Space {
    number: u32,
    /// What the other side has as it is.
    current: Runs,
}

/// A process that stands still, and what CRIU has left where it is of its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The number by which CRIU lists it.
    pub pid: u32,
    /// Its pid here.
    pub process: i32,
    /// Whole pages, in order.
    pub ranges: Vec<Range<u64>>,
}

/// What was sent of memory that stands still.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rest {
    /// Which memory each process has, by CRIU's number of it.
    pub processes: Vec<(u32, u32)>,
    /// What was sent.
    pub totals: ReadTotals,
}

impl Ahead {
    /// What these processes have written to since the last look; all that they have at the first one.
    ///
    /// # Errors
    /// As [`DirtyTracker::round`].
    pub fn look(&mut self, processes: &[i32]) -> Result<DirtyRound> {
        let looked = self.tracker.round(processes);
        let round = self.note(looked)?;
        self.spaces.retain(|pid, _| round.processes.iter().any(|process| process.pid == *pid));
        Ok(round)
    }

    /// What was found is not as the other side has it.
    fn note(&mut self, looked: Result<DirtyRound>) -> Result<DirtyRound> {
        // Of what was found and is not told nobody knows any more.
        let round = looked.inspect_err(|_| self.spaces.clear())?;
        for process in &round.processes {
            let next = &mut self.next;
            let mut new = || {
                let number = *next;
                *next = next.wrapping_add(1);
                Space { number, current: Runs::default() }
            };
            let space = self.spaces.entry(process.pid).or_insert_with(&mut new);
            if process.adopted.is_some() && space.current.count() > 0 {
                *space = new();
            }
            for range in process.dirty.iter().chain(&process.untracked) {
                space.current.remove(range);
            }
        }
        Ok(round)
    }

    /// Sends what was found.
    ///
    /// # Errors
    /// Those of `send`. What was not sent is sent when it stands still.
    pub fn send(&mut self, round: &DirtyRound, send: Send<'_>) -> Result<ReadTotals> {
        let mut totals = ReadTotals::default();
        for process in &round.processes {
            // One that has ended is missed by nobody.
            let Ok(mut reader) = process.reader() else { continue };
            let Some(space) = self.spaces.get_mut(&process.pid) else { continue };
            add(&mut totals, space.send(&mut reader, &process.dirty, send)?);
        }
        Ok(totals)
    }

    /// Sends what the other side does not have as it is, of processes that stand still.
    ///
    /// # Errors
    /// Those of `send`; `System` if a page that CRIU has listed cannot be read.
    pub fn rest(&mut self, left: &[Left], send: Send<'_>) -> Result<Rest> {
        let processes: Vec<i32> = left.iter().map(|left| left.process).collect();
        let looked = self.tracker.last_round(&processes);
        match self.note(looked) {
            Ok(round) => {
                self.spaces.retain(|pid, _| round.processes.iter().any(|process| process.pid == *pid));
            }
            Err(error) => {
                tracing::warn!(
                    error = error.chain(),
                    "all memory is sent again: what was written to is not known"
                );
            }
        }
        let mut rest = Rest::default();
        for Left { pid, process, ranges } in left {
            let next = &mut self.next;
            let space = self.spaces.entry(*process).or_insert_with(|| {
                let number = *next;
                *next = next.wrapping_add(1);
                Space { number, current: Runs::default() }
            });
            let missing: Vec<Range<u64>> = ranges.iter().flat_map(|range| space.missing(range)).collect();
            rest.processes.push((*pid, space.number));
            if missing.is_empty() {
                continue;
            }
            let sent = space.send(&mut PageReader::of(*process)?, &missing, send)?;
            if sent.gone > 0 {
                let message = format!(
                    "{} bytes of process {process} that criu has listed cannot be read while it stands still",
                    sent.gone
                );
                return Err(Error::new(ErrorKind::System, message));
            }
            add(&mut rest.totals, sent);
        }
        Ok(rest)
    }
}

impl Space {
    /// What of this range the other side does not have as it is.
    fn missing(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut missing = Vec::new();
        let mut at = range.start;
        for (start, run) in self.current.within(range) {
            if at < start {
                missing.push(at..start);
            }
            at = start + run.length;
        }
        if at < range.end {
            missing.push(at..range.end);
        }
        missing
    }

    fn send(&mut self, reader: &mut PageReader, ranges: &[Range<u64>], send: Send<'_>) -> Result<ReadTotals> {
        let mut batch = Batch::new(self.number, BATCH);
        let Self { number, current } = self;
        let totals = reader.read(ranges, &mut |address, contents| {
            let (mut at, mut contents) = (address, contents);
            loop {
                let added = batch.add(at, contents);
                if added > 0 {
                    current.put(at, Run { length: added, place: Place::Zeros });
                    at += added;
                }
                contents = match contents {
                    Contents::Zeros(length) if added < length => Contents::Zeros(length - added),
                    Contents::Bytes(bytes) if added < bytes.len() as u64 => {
                        Contents::Bytes(bytes.get(added as usize..).unwrap_or_default())
                    }
                    _ => return Ok(()),
                };
                send(batch.bytes())?;
                batch.begin(*number);
            }
        })?;
        if !batch.is_empty() {
            send(batch.bytes())?;
        }
        Ok(totals)
    }
}

fn add(totals: &mut ReadTotals, more: ReadTotals) {
    totals.bytes += more.bytes;
    totals.zeros += more.zeros;
    totals.gone += more.gone;
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::{Child, Command, Stdio};

    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    use nix::unistd::Pid;

    use super::super::store::{StoreReader, StoreWriter};
    use super::super::track;
    use super::*;
    use crate::criu::image::PAGE;

    /// A shell that waits. Dropped, it is gone.
    struct Shell(Child);

    impl Shell {
        fn start() -> Self {
            let mut command = Command::new("/bin/sh");
            command.args([
                "-c",
                "a=$(head -c 4000000 /dev/zero | tr '\\0' y); echo; while read x; do b=$x$x; echo; done",
            ]);
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
            child.stdout.as_mut().expect("piped").read_exact(&mut [0]).expect("it has begun");
            Self(child)
        }

        /// It writes to its memory.
        fn work(&mut self) {
            use std::io::Write as _;
            let line = format!("{}\n", "x".repeat(5000));
            self.0.stdin.as_mut().expect("piped").write_all(line.as_bytes()).expect("write");
            self.0.stdout.as_mut().expect("piped").read_exact(&mut [0]).expect("it has worked");
        }

        /// It stands still from now on.
        fn stop(&self) {
            let pid = Pid::from_raw(self.pid());
            kill(pid, Signal::SIGSTOP).expect("it lives");
            let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("ours");
            assert_eq!(stopped, WaitStatus::Stopped(pid, Signal::SIGSTOP));
        }

        fn pid(&self) -> i32 {
            i32::try_from(self.0.id()).expect("a pid")
        }
    }

    impl Drop for Shell {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// What its memory is, by another way.
    fn compared(reader: &mut StoreReader, left: &Left) {
        let mut own = PageReader::of(left.process).expect("it lives");
        let page = PAGE as usize;
        own.read(&left.ranges, &mut |address, contents| {
            let bytes = match contents {
                Contents::Zeros(length) => vec![0; length as usize],
                Contents::Bytes(bytes) => bytes.to_vec(),
            };
            for (n, expected) in bytes.chunks(page).enumerate() {
                let at = address + n as u64 * PAGE;
                let found = match reader.pages(left.pid, at, PAGE).expect("readable") {
                    Some(Contents::Bytes(found)) => found.to_vec(),
                    Some(Contents::Zeros(_)) => vec![0; page],
                    None => panic!("{at:#x} has not come"),
                };
                assert!(found == expected, "{at:#x} is another");
            }
            Ok(())
        })
        .expect("readable");
    }

    #[test]
    fn what_is_sent_while_it_runs_and_at_the_end_is_its_memory() {
        if track::supported().is_err() {
            return;
        }
        let mut shell = Shell::start();
        let top = tempfile::tempdir().expect("tempdir");
        let directory = top.path().join("store");
        let mut writer = StoreWriter::create(&directory).expect("a new one");
        let mut take = |batch: &[u8]| writer.take(batch, &mut u64::MAX.clone());
        let mut ahead = Ahead::default();
        let round = ahead.look(&[shell.pid()]).expect("tracked");
        let all = ahead.send(&round, &mut take).expect("sent");
        assert!(all.bytes > 0);
        shell.work();
        let round = ahead.look(&[shell.pid()]).expect("tracked");
        let again = ahead.send(&round, &mut take).expect("sent");
        assert!(again.bytes > 0 && again.bytes < all.bytes / 2, "{again:?} of {all:?}");
        shell.work();
        shell.stop();
        let ranges = ahead.tracker.populated(shell.pid()).expect("listed").expect("tracked");
        let left = Left { pid: 1, process: shell.pid(), ranges };
        let rest = ahead.rest(std::slice::from_ref(&left), &mut take).expect("sent");
        assert!(rest.totals.bytes > 0 && rest.totals.bytes < all.bytes / 2, "{rest:?} of {all:?}");
        assert_eq!(rest.processes.len(), 1);
        writer.seal(&rest.processes).expect("written");
        compared(&mut StoreReader::open(&directory).expect("complete"), &left);

        // Without anything before, all of it is sent at the end, and a page that is not there is an error.
        let directory = top.path().join("other");
        let mut writer = StoreWriter::create(&directory).expect("a new one");
        let mut take = |batch: &[u8]| writer.take(batch, &mut u64::MAX.clone());
        let mut ahead = Ahead::default();
        let rest = ahead.rest(std::slice::from_ref(&left), &mut take).expect("sent");
        assert!(rest.totals.bytes >= all.bytes / 2, "{rest:?} of {all:?}");
        let nothing = 0..PAGE;
        let hole = Left { ranges: vec![nothing], ..left.clone() };
        ahead.rest(&[hole], &mut take).expect_err("nothing is there");
        writer.seal(&rest.processes).expect("written");
        compared(&mut StoreReader::open(&directory).expect("complete"), &left);
    }
}
