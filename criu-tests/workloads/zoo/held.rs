// SPDX-License-Identifier: Apache-2.0
//! What exhibits that hold descriptors have in common: making files, content that tells its own place, flags.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::Mode;
use nix::time::{ClockId, clock_gettime};

use crate::lifecycle::{Checked, During as _};

/// Creates an empty file, open to read and write.
pub(super) fn new_file(at: &Path) -> Result<File, String> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    options.open(at).during(&at.display().to_string())
}

/// Opens what is there with exactly these flags, and close-on-exec.
pub(super) fn open(at: &Path, flags: OFlag) -> Result<File, String> {
    let fd = nix::fcntl::open(at, flags | OFlag::O_CLOEXEC, Mode::empty());
    fd.map(File::from).during(&at.display().to_string())
}

/// Bytes of which no two neighbourhoods look alike.
pub(super) fn content(length: usize) -> Vec<u8> {
    let words = (0..length as u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (n >> 3));
    words.map(|word| word.to_le_bytes()[6]).collect()
}

/// The file is [`content`] and nothing else.
pub(super) fn same_content(file: &File, length: usize) -> Checked {
    let mut bytes = vec![0; length + 1];
    let mut got = 0;
    while let more @ 1.. = file.read_at(&mut bytes[got..], got as u64).during("pread")? {
        got += more;
    }
    same_bytes(&bytes[..got], &content(length))
}

/// Compares without printing kilobytes.
pub(super) fn same_bytes(is: &[u8], must_be: &[u8]) -> Checked {
    if is.len() != must_be.len() {
        return Err(format!("there are {} bytes, must be {}", is.len(), must_be.len()));
    }
    let differs = is.iter().zip(must_be).position(|(is, must_be)| is != must_be);
    differs.map_or(Ok(()), |at| Err(format!("byte {at} is {}, must be {}", is[at], must_be[at])))
}

/// The file status flags.
pub(super) fn flags_of(file: &impl AsFd) -> Result<i32, String> {
    // Set by the kernel on 64 bits whatever the caller asks for, and of no meaning.
    const O_LARGEFILE: i32 = 0o100_000;
    fcntl(file, FcntlArg::F_GETFL).map(|flags| flags & !O_LARGEFILE).during("F_GETFL")
}

/// A line of the descriptor's `fdinfo`, after its name.
pub(super) fn fdinfo(file: &impl AsFd, key: &str) -> Result<Vec<String>, String> {
    let at = format!("/proc/self/fdinfo/{}", file.as_fd().as_raw_fd());
    let text = super::proc::text(&at)?;
    let lines = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    Ok(lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect())
}

/// Notices that the process was away: then the time of day has gone on, and its monotonic clock has not.
#[derive(Debug, Default)]
pub(super) struct Absences {
    ahead: Option<Duration>,
}

impl Absences {
    /// Whether this is the first call, or the first one after the process was away.
    pub(super) fn is_back(&mut self) -> Result<bool, String> {
        let now = |clock| clock_gettime(clock).map(Duration::from).during("clock_gettime");
        let ahead = now(ClockId::CLOCK_REALTIME)?.saturating_sub(now(ClockId::CLOCK_MONOTONIC)?);
        let was_away = self.ahead.is_none_or(|before| ahead > before + Duration::from_millis(20));
        if was_away {
            self.ahead = Some(ahead);
        }
        Ok(was_away)
    }
}

/// A check that is made at once and whenever the process has come back. It is for what a checkpoint in the middle of it would
/// not carry: whoever makes one waits until the first check is over.
pub(super) fn when_back(mut check: impl FnMut() -> Checked) -> impl FnMut() -> Checked {
    let mut absences = Absences::default();
    move || if absences.is_back()? { check() } else { Ok(()) }
}
