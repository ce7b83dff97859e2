// SPDX-License-Identifier: Apache-2.0
//! The lines of a log that may tell the cause, the likeliest first, each with where CRIU was when it wrote it.

use crate::criu::{Job, Level, LogLine, is_noise, log_lines, printable};

/// What a diagnosis is seen in, as far as the log and the context tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evidence {
    /// The line of CRIU's log, with time, process and place in its source; control characters escaped.
    pub line: String,
    /// What it says, without those.
    pub sentence: String,
    /// The process's id in the container.
    pub pid: Option<i32>,
    /// The process's name.
    pub command: Option<String>,
    /// The descriptor.
    pub fd: Option<i32>,
    /// The file, mount point or image.
    pub path: Option<String>,
}

/// Bytes of a line that are looked at: a path and some words.
const LENGTH: usize = 2 * 4096;

/// A line of a log.
pub(super) type Line<'a> = LogLine<'a>;

/// A line that may tell the cause.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    /// Where it is among all lines.
    pub(super) index: usize,
    pub(super) raw: &'a [u8],
    pub(super) text: &'a [u8],
    /// The process's id on the host, at a dump.
    pub(super) host: Option<i32>,
    /// The process's id in the container.
    pub(super) pid: Option<i32>,
    /// What the log calls the process.
    pub(super) command: Option<&'a [u8]>,
    pub(super) fd: Option<i32>,
}

pub(super) fn read(log: &[u8]) -> Vec<Line<'_>> {
    log_lines(log).collect()
}

/// The errors of the log in the order in which they are to be believed.
pub(super) fn candidates<'a>(lines: &[Line<'a>], job: Job) -> Vec<Candidate<'a>> {
    let mut place = Place::default();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        place.follow(line);
        if line.level == Level::Error && !line.text.is_empty() && !is_noise(line.raw) {
            found.push(place.candidate(index, line, job));
        }
    }
    if job == Job::Restore {
        // Stable: what the restored processes said comes before what CRIU said of it.
        found.sort_by_key(|candidate| candidate.pid.is_none());
    }
    found
}

/// What CRIU works on while it dumps.
#[derive(Default)]
struct Place<'a> {
    host: Option<i32>,
    pid: Option<i32>,
    command: Option<&'a [u8]>,
    fd: Option<i32>,
}

impl<'a> Place<'a> {
    fn follow(&mut self, line: &Line<'a>) {
        if line.level != Level::Other {
            return;
        }
        let text = line.text;
        if let Some(rest) = text.strip_prefix(b"Dumping task (pid: ") {
            let (host, rest) = number(rest);
            let command = rest.strip_prefix(b" comm: ").and_then(|rest| rest.strip_suffix(b")"));
            *self = Self { host, command, ..Self::default() };
        } else if text.starts_with(b"sid=") {
            self.pid = self.pid.or_else(|| number(after(text, b" pid=")?).0);
        } else if text.starts_with(b"Dumping opened files") || text.starts_with(b"-----") {
            self.fd = None;
        } else if let (Some(_), rest) = number(text)
            && let Some(rest) = rest.strip_prefix(b" fdinfo ")
        {
            self.fd = number(rest).0;
        }
    }

    fn candidate(&self, index: usize, line: &Line<'a>, job: Job) -> Candidate<'a> {
        let none = Self::default();
        let place = if job == Job::Dump { self } else { &none };
        Candidate {
            index,
            raw: line.raw,
            text: line.text.get(..LENGTH).unwrap_or(line.text),
            host: place.host,
            pid: line.pid.or(place.pid),
            command: place.command,
            fd: place.fd,
        }
    }
}

/// The number at the beginning, and what follows.
fn number(text: &[u8]) -> (Option<i32>, &[u8]) {
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    let (number, rest) = text.split_at(digits);
    (std::str::from_utf8(number).ok().and_then(|number| number.parse().ok()), rest)
}

fn after<'a>(text: &'a [u8], words: &[u8]) -> Option<&'a [u8]> {
    let at = text.windows(words.len()).position(|window| window == words)?;
    text.get(at + words.len()..)
}

/// For a sentence: no control characters, no more than a line.
pub(super) fn shown(bytes: &[u8]) -> String {
    printable(bytes)
}
