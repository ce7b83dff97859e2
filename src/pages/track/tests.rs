// SPDX-License-Identifier: Apache-2.0
//! What must hold for any tracker, on processes that the standard library starts.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};

use super::*;

/// A process that waits. Dropped, it is gone.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        Self::of("echo; read x")
    }

    /// A shell that writes a line before it waits.
    fn of(script: &str) -> Self {
        let mut child = Command::new("/bin/sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        child.stdout.as_mut().expect("piped").read_exact(&mut [0]).expect("it has begun");
        Self(child)
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("a pid")
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn processes_come_and_go() {
    if supported().is_err() {
        return;
    }
    let (one, other) = (Sleeper::start(), Sleeper::start());
    let mut tracker = DirtyTracker::default();
    let first = tracker.round(&[one.pid()]).expect("tracked");
    let [process] = first.processes.as_slice() else { panic!("{first:?}") };
    assert!(process.adopted.is_some() && process.dirty_bytes() >= 8192, "{process:?}");
    let both = tracker.round(&[one.pid(), other.pid(), i32::MAX]).expect("tracked");
    let pids: Vec<_> =
        both.processes.iter().map(|process| (process.pid, process.adopted.is_some())).collect();
    assert_eq!(pids, [(one.pid(), false), (other.pid(), true)]);
    let waits = tracker.round(&[one.pid(), other.pid()]).expect("tracked");
    assert_eq!(waits.dirty_bytes(), 0, "they wait: {waits:?}");
    let gone = other.pid();
    drop(other);
    let left = tracker.round(&[one.pid(), gone]).expect("one is left");
    assert_eq!(left.processes.len(), 1);
    assert!(tracker.round(&[]).expect("nobody").processes.is_empty());
    let again = tracker.round(&[one.pid()]).expect("tracked anew");
    assert!(again.processes.first().is_some_and(|process| process.adopted.is_some()), "{again:?}");
}

#[test]
fn another_program_is_another_memory() {
    if supported().is_err() {
        return;
    }
    let mut shell = Sleeper::of("echo; read x; exec sh -c 'echo; read y'");
    let mut tracker = DirtyTracker::default();
    let pids = [shell.pid()];
    tracker.round(&pids).expect("tracked");
    let stdin = shell.0.stdin.as_mut().expect("piped");
    std::io::Write::write_all(stdin, b"x\n").expect("it reads");
    shell.0.stdout.as_mut().expect("piped").read_exact(&mut [0]).expect("it has begun");
    let round = tracker.round(&pids).expect("tracked");
    let [process] = round.processes.as_slice() else { panic!("{round:?}") };
    assert!(process.adopted.is_some() && process.dirty_bytes() >= 8192, "{process:?}");
}

#[test]
fn pages_of_a_tracked_process_are_those_it_has() {
    if supported().is_err() {
        return;
    }
    let sleeper = Sleeper::start();
    let mut tracker = DirtyTracker::default();
    let round = tracker.round(&[sleeper.pid()]).expect("tracked");
    let process = round.processes.first().expect("it is there");
    let populated = tracker.populated(sleeper.pid()).expect("listed").expect("it is tracked");
    assert!(tracker.populated(i32::MAX).expect("nobody").is_none());
    let within =
        |range: &Range<u64>| populated.iter().any(|all| all.start <= range.start && range.end <= all.end);
    assert!(process.dirty.iter().all(within), "{process:?} {populated:?}");
    let mut reader = process.reader().expect("ours");
    let mut told = 0;
    let mut count = |_, contents: Contents<'_>| {
        told += match contents {
            Contents::Bytes(bytes) => bytes.len() as u64,
            Contents::Zeros(length) => length,
        };
        Ok(())
    };
    let totals = reader.read(&process.dirty, &mut count).expect("read");
    assert_eq!((told, totals.gone), (process.dirty_bytes(), 0));
    assert!(totals.bytes > 0);
}
