// SPDX-License-Identifier: Apache-2.0
//! `hold`: traces the CRIU with the number `--pid` and stops it at a notification, `--script post-restore`: when it has been
//! sent, or with `--answered` once CRIU has received the answer. Then there is a file `--held`, and CRIU goes on when this
//! program ends.
//!
//! A file `--traced` tells when it has taken hold: until then nobody may let CRIU go.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::lifecycle::{Checked, During as _};
use crate::options::Options;

/// No message of CRIU's with the name of a script is longer.
const LONGEST: usize = 4096;

pub(crate) fn run(options: &Options) -> Checked {
    let pid = i32::try_from(options.number("pid", 0)?).during("--pid").map(Pid::from_raw)?;
    let path = |name: &str| options.value(name).ok_or_else(|| format!("--{name} FILE is missing"));
    let (traced, held) = (path("traced")?, path("held")?);
    let message = field(options.value("script").unwrap_or_default());
    ptrace::seize(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD).during("PTRACE_SEIZE")?;
    ptrace::interrupt(pid).during("PTRACE_INTERRUPT")?;
    stops(pid)?;
    fs::write(traced, "").during("write a file")?;
    until_call(pid, |call| call.sends(pid, &message))?;
    if options.has("answered") {
        until_call(pid, Call::receives)?;
    }
    fs::write(held, "").during("write a file")?;
    loop {
        nix::unistd::pause();
    }
}

/// How a notification names its script: the first field of `criu_notify`.
fn field(script: &str) -> Vec<u8> {
    [&[0x0a, (script.len() & 0x7f) as u8], script.as_bytes()].concat()
}

/// Lets it go until the end of a system call like this.
fn until_call(pid: Pid, wanted: impl Fn(&Call) -> bool) -> Checked {
    /// `PTRACE_SYSCALL_INFO_EXIT` of ptrace(2).
    const EXIT: u8 = 2;
    let mut signal = None;
    loop {
        ptrace::syscall(pid, signal).during("PTRACE_SYSCALL")?;
        signal = match stops(pid)? {
            WaitStatus::PtraceSyscall(_) => {
                let at_exit = ptrace::syscall_info(pid).during("PTRACE_GET_SYSCALL_INFO")?.op == EXIT;
                if at_exit && Call::of(pid)?.is_some_and(|call| wanted(&call)) {
                    return Ok(());
                }
                None
            }
            WaitStatus::Stopped(_, signal) => Some(signal),
            _ => None,
        };
    }
}

fn stops(pid: Pid) -> Result<WaitStatus, String> {
    match waitpid(pid, Some(WaitPidFlag::__WALL)).during("waitpid")? {
        WaitStatus::Exited(..) | WaitStatus::Signaled(..) => Err("CRIU has ended".to_owned()),
        stopped => Ok(stopped),
    }
}

/// A system call: its number and arguments.
struct Call {
    number: i64,
    arguments: Vec<u64>,
}

impl Call {
    fn of(pid: Pid) -> Result<Option<Self>, String> {
        let line = fs::read_to_string(format!("/proc/{pid}/syscall")).during("read /proc/PID/syscall")?;
        let mut words = line.split_whitespace();
        let Some(number) = words.next().and_then(|word| word.parse().ok()) else { return Ok(None) };
        let hex = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok();
        Ok(Some(Self { number, arguments: words.map_while(hex).collect() }))
    }

    fn receives(&self) -> bool {
        [libc::SYS_read, libc::SYS_recvfrom, libc::SYS_recvmsg].contains(&self.number)
    }

    fn sends(&self, pid: Pid, message: &[u8]) -> bool {
        let [_, first, second, ..] = self.arguments[..] else { return false };
        let sent = match self.number {
            libc::SYS_write | libc::SYS_sendto => read(pid, first, second),
            // The first of the pieces that the header names.
            libc::SYS_sendmsg => {
                let word = |at: u64| Some(u64::from_le_bytes(read(pid, at, 8)?.try_into().ok()?));
                word(first + 16).and_then(|piece| read(pid, word(piece)?, word(piece + 8)?))
            }
            _ => None,
        };
        sent.is_some_and(|sent| sent.windows(message.len()).any(|part| part == message))
    }
}

/// Some of its memory.
fn read(pid: Pid, address: u64, length: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).ok()?.min(LONGEST)];
    File::open(format!("/proc/{pid}/mem")).ok()?.read_exact_at(&mut bytes, address).ok()?;
    Some(bytes)
}
