// SPDX-License-Identifier: Apache-2.0
//! Finds the line of CRIU's log that tells why it failed. Pure over bytes but for one bounded read; must not know
//! what the caller wanted, nor what the lines mean for people: the table of causes is the layer `diagnose`.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::{Context, Result};

/// Which of the two jobs wrote the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// A dump.
    Dump,
    /// A restore: CRIU's own errors there mostly echo what one of the restored processes met.
    Restore,
}

/// The line that names CRIU's run is one of the first of its log; the rules of iptables are told before the first page of memory is
/// written.
const BEGINNING: u64 = 16 << 20;

/// The beginning of the log at this path; of a missing one, nothing.
///
/// # Errors
/// When it is there and cannot be read.
pub fn beginning(log: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = match File::open(log) {
        Ok(file) if file.metadata().is_ok_and(|metadata| metadata.is_file()) => {
            file.take(BEGINNING).read_to_end(&mut bytes).map(drop)
        }
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    };
    read.context(|| format!("read {}", log.display())).map(|()| bytes)
}

/// How much of the beginning and of the end of a log is looked at.
const HEAD: u64 = 2 << 20;
const TAIL: u64 = 6 << 20;
/// Characters of a line that are shown.
const MAX_LINE: usize = 400;

/// Errors that are in the logs of successful runs too, or that only repeat that something failed.
const NOISE: &[&str] = &[
    "rlimit: Can't setup RLIMIT_NOFILE for self",
    // Of the probing of the kernel, which goes on.
    "tun: Unable to create tun",
    "cgroupd: recv req error",
    "Dumping FAILED",
    "Restoring FAILED",
    "RPC client reported script error",
    "One of more action scripts failed",
    " script failed with ",
    " script ret code ",
];

/// An error that CRIU logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogError {
    sentence: String,
    line: String,
}

impl LogError {
    /// The error that CRIU's answer quotes (`cr_errmsg`), unless it is one that every run has.
    pub(super) fn from_answer(message: &str) -> Option<Self> {
        let line = printable(message.trim().as_bytes());
        let sentence = printable(LogLine::read(message.as_bytes()).text);
        (!sentence.is_empty() && !is_noise(message.as_bytes())).then_some(Self { sentence, line })
    }

    /// The whole line as CRIU wrote it, with time, process and place in CRIU's source; control characters escaped.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Whether the reason is a disk that is full, over quota or read-only.
    pub fn is_about_storage(&self) -> bool {
        ["No space left on device", "Disk quota exceeded", "Read-only file system"]
            .iter()
            .any(|reason| self.line().ends_with(reason))
    }
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for LogError {}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warning,
    /// Anything else.
    Other,
}

/// One line, taken apart: `(00.012345)    123: Error (criu/files.c:12): text`.
#[derive(Debug, Clone, Copy)]
pub struct LogLine<'a> {
    /// As CRIU wrote it.
    pub raw: &'a [u8],
    /// Its weight.
    pub level: Level,
    /// The id, in the container, of the restored or infected process that wrote it.
    pub pid: Option<i32>,
    /// What it says, without time, process, level and place in CRIU's source.
    pub text: &'a [u8],
}

impl<'a> LogLine<'a> {
    fn read(raw: &'a [u8]) -> Self {
        let rest = without_time(raw).trim_ascii_start();
        let rest = rest.strip_prefix(b"pie: ").map_or(rest, <[u8]>::trim_ascii_start);
        let (pid, rest) = without_pid(rest);
        let (level, text) = if let Some(text) = rest.strip_prefix(b"Error") {
            (Level::Error, text)
        } else if let Some(text) = rest.strip_prefix(b"Warn ") {
            (Level::Warning, text)
        } else {
            return Self { raw, level: Level::Other, pid, text: rest.trim_ascii() };
        };
        let text = text.trim_ascii_start();
        let text = match text.strip_prefix(b"(") {
            Some(place) => match place.iter().position(|&b| b == b')') {
                Some(end) => place.get(end + 1..).unwrap_or_default(),
                None => text,
            },
            None => text,
        };
        let text = text.strip_prefix(b":").unwrap_or(text).trim_ascii();
        Self { raw, level, pid, text }
    }

    /// Its text, if it is an error that says something.
    fn error(&self) -> bool {
        self.level == Level::Error && !self.text.is_empty() && !is_noise(self.raw)
    }
}

/// The lines of a log.
pub fn log_lines(log: &[u8]) -> impl Iterator<Item = LogLine<'_>> {
    log.split(|&b| b == b'\n').map(LogLine::read)
}

fn without_time(line: &[u8]) -> &[u8] {
    let Some(inner) = line.trim_ascii_start().strip_prefix(b"(") else { return line };
    match inner.iter().position(|&b| b == b')') {
        Some(end) if inner[..end].iter().all(|b| b.is_ascii_digit() || *b == b'.') => &inner[end + 1..],
        _ => line,
    }
}

fn without_pid(line: &[u8]) -> (Option<i32>, &[u8]) {
    let digits = line.iter().take_while(|b| b.is_ascii_digit()).count();
    let (number, rest) = line.split_at(digits);
    let pid = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
    match (pid, rest.strip_prefix(b":")) {
        (Some(pid), Some(rest)) => (Some(pid), rest.trim_ascii_start()),
        _ => (None, line),
    }
}

/// Whether it is in the logs of successful runs too, or only repeats that something failed.
pub fn is_noise(line: &[u8]) -> bool {
    NOISE.iter().any(|noise| line.windows(noise.len()).any(|window| window == noise.as_bytes()))
}

/// The first true error of a log. In a restore, the first of a restored process goes before CRIU's own.
pub fn first_error(log: &[u8], job: Job) -> Option<LogError> {
    let mut first = None;
    for line in log_lines(log).filter(LogLine::error) {
        let found = || LogError { sentence: printable(line.text), line: printable(line.raw) };
        if job == Job::Dump || line.pid.is_some() {
            return Some(found());
        }
        first.get_or_insert_with(found);
    }
    first
}

/// The beginning of a line, with everything escaped that a terminal might obey: names in it come from the container.
pub fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = String::new();
    for c in text.trim().chars() {
        if shown.len() >= MAX_LINE {
            shown.push('…');
            break;
        }
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Reads the parts of a log that are looked at; a missing log is an empty one.
pub(super) fn read(dir: BorrowedFd<'_>, name: &str) -> std::io::Result<Vec<u8>> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut file = match openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(nix::errno::Errno::ENOENT) => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    let mut log = Vec::new();
    let size = file.metadata()?.len();
    if size > HEAD + TAIL {
        (&mut file).take(HEAD).read_to_end(&mut log)?;
        log.push(b'\n');
        file.seek(SeekFrom::Start(size - TAIL))?;
    }
    file.take(HEAD + TAIL).read_to_end(&mut log)?;
    Ok(log)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    const RLIMIT: &str = "(00.000011) Error (criu/util.c:1530): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n";

    #[test]
    fn the_sentence_without_time_process_and_place() {
        let table = [
            ("", Job::Dump, None),
            ("(00.1) Dumping finished successfully\n", Job::Dump, None),
            (RLIMIT, Job::Dump, None),
            (
                "(00.036) Error (criu/sk-inet.c:191): inet: Connected TCP socket, consider using --tcp-established \
                 option.\n(00.037) Error (criu/cr-dump.c:2111): Dumping FAILED.\n",
                Job::Dump,
                Some("inet: Connected TCP socket, consider using --tcp-established option."),
            ),
            (
                "Error (criu/cr-service.c:1): Can't open images directory: No such file\n",
                Job::Dump,
                Some("Can't open images directory: No such file"),
            ),
            ("(00.1) pie: 12: Error (criu/pie/restorer.c:99): no memory\n", Job::Restore, Some("no memory")),
            (
                "(00.1)      7: Error: Failed to unmap native vdso",
                Job::Restore,
                Some("Failed to unmap native vdso"),
            ),
            ("(00.1) Error without a place", Job::Dump, Some("without a place")),
            ("(00.1) Error (no end", Job::Dump, Some("(no end")),
            ("(00.1) An Error in the middle", Job::Dump, None),
        ];
        for (log, job, expected) in table {
            let log = format!("{RLIMIT}{log}");
            let found = first_error(log.as_bytes(), job).map(|e| e.to_string());
            assert_eq!(found.as_deref(), expected, "{log}");
        }
    }

    #[test]
    fn a_restored_process_is_believed_before_criu_itself() {
        let log = "(00.01) Error (criu/cr-restore.c:1): 3 exited, status=1\n\
                   (00.02)      3: Error (criu/files-reg.c:2): File etc/x has bad size 1 (expect 2)\n\
                   (00.03)      3: Error (criu/files.c:3): Unable to open fd=5 id=0x6\n";
        let restore = first_error(log.as_bytes(), Job::Restore).expect("an error");
        assert_eq!(restore.to_string(), "File etc/x has bad size 1 (expect 2)");
        assert!(restore.line().starts_with("(00.02)      3: Error (criu/files-reg.c:2)"));
        let dump = first_error(log.as_bytes(), Job::Dump).expect("an error");
        assert_eq!(dump.to_string(), "3 exited, status=1");
        let own = first_error(b"(00.01) Error (criu/mount.c:1): mnt: No mapping\n", Job::Restore)
            .expect("an error");
        assert_eq!(own.to_string(), "mnt: No mapping");
    }

    #[test]
    fn a_line_is_taken_apart() {
        let table: [(&str, Level, Option<i32>, &str); 5] = [
            ("(00.1) Error (criu/a.c:1): x: y", Level::Error, None, "x: y"),
            ("(00.1)     17: Warn  (criu/a.c:1): x", Level::Warning, Some(17), "x"),
            ("pie: 3: Error (criu/pie/a.c:1): x", Level::Error, Some(3), "x"),
            ("(00.1) 17 fdinfo 3: pos: 0", Level::Other, None, "17 fdinfo 3: pos: 0"),
            ("", Level::Other, None, ""),
        ];
        for (line, level, pid, text) in table {
            let read = LogLine::read(line.as_bytes());
            assert_eq!((read.level, read.pid, read.text), (level, pid, text.as_bytes()), "{line}");
        }
    }

    #[test]
    fn an_answer_that_quotes_noise_says_nothing() {
        assert_eq!(LogError::from_answer(RLIMIT), None);
        assert_eq!(LogError::from_answer("  "), None);
    }

    #[test]
    fn what_a_container_named_cannot_steer_a_terminal() {
        let error = first_error(b"(00.1) Error (a.c:1): File \x1b[2Jx\r has \xff bad mode\n", Job::Dump)
            .expect("one");
        assert_eq!(error.to_string(), "File \\u{1b}[2Jx\\r has \u{fffd} bad mode");
        let long = format!("Error (a.c:1): {}", "x".repeat(100_000));
        let error = first_error(long.as_bytes(), Job::Dump).expect("one");
        assert!(error.to_string().len() < 500 && error.line().len() < 500);
    }

    #[test]
    fn a_huge_log_is_read_at_both_ends() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let fd = File::open(dir.path()).expect("open it");
        assert!(read(fd.as_fd(), "dump.log").expect("none is fine").is_empty());
        let mut log = File::create(dir.path().join("dump.log")).expect("create");
        let filler = vec![b'.'; 10 << 20];
        log.write_all(RLIMIT.as_bytes()).expect("write");
        log.write_all(&filler).expect("write");
        log.write_all(b"\n(09.1) Error (criu/a.c:1): at the end\n").expect("write");
        let bytes = read(fd.as_fd(), "dump.log").expect("read");
        assert!(bytes.len() <= 9 << 20);
        assert_eq!(first_error(&bytes, Job::Dump).map(|e| e.to_string()).as_deref(), Some("at the end"));
    }
}
