// SPDX-License-Identifier: Apache-2.0
//! A short-lived program beside the container: input on its stdin, what it says kept within a limit, a deadline, and
//! nothing of the caller inherited but what is given. Must not know what the program is for.
//!
//! For callers with any number of threads: the standard library forks and executes, and nothing else runs between.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How much of what a program writes is kept, in bytes of each stream; the rest is read and dropped.
const KEPT: usize = 32 * 1024;

/// What to run.
#[derive(Debug)]
pub struct ShortCommand<'a> {
    /// The program's file.
    pub path: PathBuf,
    /// All arguments, the program's name first; when there are none, the path.
    pub args: Vec<OsString>,
    /// The whole environment; the caller's when `None`.
    pub environment: Option<Vec<(OsString, OsString)>>,
    /// The working directory; the caller's when `None`.
    pub directory: Option<PathBuf>,
    /// What it reads on stdin: a memory file, so that no program that does not read can block anybody.
    pub input: &'a [u8],
    /// After this time it is killed, with all its process group.
    pub timeout: Option<Duration>,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With this exit code.
    Exit(i32),
    /// By this signal.
    Signal(i32),
    /// Killed because its time was up.
    TimedOut,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// The beginning of what it wrote to stdout.
    pub stdout: Vec<u8>,
    /// The beginning of what it wrote to stderr.
    pub stderr: Vec<u8>,
}

/// Runs a program to its end. A descendant that outlives it and holds its output open is not waited for.
///
/// # Errors
/// When it cannot be started: that of execve(2), among others.
pub fn run(command: &ShortCommand<'_>) -> io::Result<Outcome> {
    let input = super::fd::sealed_memfd(c"input", command.input)?;
    let mut program = Command::new(&command.path);
    if let Some((name, rest)) = command.args.split_first() {
        program.arg0(name).args(rest);
    }
    if let Some(environment) = &command.environment {
        program.env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
    }
    if let Some(directory) = &command.directory {
        program.current_dir(directory);
    }
    program.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    // SAFETY: the closure runs between fork and exec and makes one raw system call, without allocation or lock.
    unsafe { program.pre_exec(|| super::fd::cloexec_from(3)) };
    let mut child = program.spawn()?;
    let watched = watch(&mut child, command.timeout);
    if !matches!(watched, Ok((_, true))) {
        // The group is the program's own and the program is not reaped, so the number is nobody else's.
        let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    }
    let status = wait(&mut child)?;
    let ([stdout, stderr], in_time) = watched?;
    let ending = if in_time { ending(status) } else { Ending::TimedOut };
    Ok(Outcome { ending, stdout, stderr })
}

fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    match child.wait() {
        // The caller has SIGCHLD ignored: the kernel has reaped it, and nobody will know how it ended.
        Err(e) if e.raw_os_error() == Some(libc::ECHILD) => {
            Err(io::Error::new(e.kind(), "its exit status is lost: SIGCHLD is ignored"))
        }
        other => other,
    }
}

fn ending(status: ExitStatus) -> Ending {
    match status.code() {
        Some(code) => Ending::Exit(code),
        None => Ending::Signal(status.signal().unwrap_or_default()),
    }
}

/// Reads what the program writes until it has ended (`true`) or its time is up (`false`).
fn watch(child: &mut Child, timeout: Option<Duration>) -> io::Result<([Vec<u8>; 2], bool)> {
    let deadline = timeout.and_then(|time| Instant::now().checked_add(time));
    let pidfd = super::pidfd::open(Pid::from_raw(child.id() as i32))?;
    let mut streams = [
        Stream::new(child.stdout.take().map(OwnedFd::from))?,
        Stream::new(child.stderr.take().map(OwnedFd::from))?,
    ];
    let ended = loop {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            break false;
        }
        let mut fds = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        fds.extend(
            streams.iter().filter_map(|s| Some(PollFd::new(s.fd.as_ref()?.as_fd(), PollFlags::POLLIN))),
        );
        let time = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::from(left.as_millis().saturating_add(1).min(60_000) as u16)
        });
        match poll(&mut fds, time) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other?,
        };
        let ended = fds[0].any().unwrap_or(false);
        // Everything that it wrote is in the pipes once it has ended.
        streams.iter_mut().try_for_each(Stream::read_available)?;
        if ended {
            break true;
        }
    };
    Ok((streams.map(|s| s.kept), ended))
}

/// One of the program's outputs.
struct Stream {
    /// `None` once it has been closed by all who had it.
    fd: Option<std::fs::File>,
    kept: Vec<u8>,
}

impl Stream {
    fn new(fd: Option<OwnedFd>) -> io::Result<Self> {
        if let Some(fd) = &fd {
            fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Self { fd: fd.map(Into::into), kept: Vec::new() })
    }

    fn read_available(&mut self) -> io::Result<()> {
        let mut chunk = [0; 8192];
        // A writer that never stops must not keep us from the clock.
        for _ in 0..64 {
            let Some(fd) = &mut self.fd else { return Ok(()) };
            match fd.read(&mut chunk) {
                Ok(0) => self.fd = None,
                Ok(n) => {
                    let room = KEPT.saturating_sub(self.kept.len());
                    self.kept.extend_from_slice(&chunk[..n.min(room)]);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, FromRawFd};

    fn shell(script: &str, input: &[u8], timeout: Option<Duration>) -> Outcome {
        run(&ShortCommand {
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), script.into()],
            environment: Some(vec![("PATH".into(), "/usr/bin:/bin".into()), ("GIVEN".into(), "yes".into())]),
            directory: Some("/tmp".into()),
            input,
            timeout,
        })
        .expect("a shell")
    }

    #[test]
    fn input_output_environment_directory_and_code() {
        let outcome = shell("cat; echo $GIVEN$HOME >&2; pwd; exit 3", b"in\n", None);
        assert_eq!(outcome.ending, Ending::Exit(3));
        assert_eq!(outcome.stdout, b"in\n/tmp\n");
        assert_eq!(outcome.stderr, b"yes\n");
        assert_eq!(shell("kill -9 $$", b"", None).ending, Ending::Signal(9));
    }

    #[test]
    fn neither_an_unread_input_nor_a_long_output_blocks() {
        let outcome = shell("head -c 1000000 /dev/zero", &vec![b'x'; 1 << 20], None);
        assert_eq!(outcome.ending, Ending::Exit(0));
        assert_eq!(outcome.stdout.len(), KEPT);
    }

    #[test]
    fn time_is_up_for_its_children_too() {
        let begin = Instant::now();
        let outcome =
            shell("cat /dev/zero >/dev/null & echo $!; wait", b"", Some(Duration::from_millis(200)));
        assert_eq!(outcome.ending, Ending::TimedOut);
        assert!(begin.elapsed() < Duration::from_secs(20));
        let pid: i32 = String::from_utf8_lossy(&outcome.stdout).trim().parse().expect("a pid");
        let deadline = Instant::now() + Duration::from_secs(20);
        let gone = || super::super::proc::Stat::of(Pid::from_raw(pid)).is_ok_and(|s| !s.ended());
        while gone() {
            assert!(Instant::now() < deadline, "process {pid} was not killed");
            std::thread::yield_now();
        }
    }

    #[test]
    fn who_stays_behind_is_not_waited_for() {
        let outcome = shell("cat <>/dev/ptmx & echo $!", b"", None);
        assert_eq!(outcome.ending, Ending::Exit(0));
        let pid: i32 = String::from_utf8_lossy(&outcome.stdout).trim().parse().expect("a pid");
        nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it was left running");
    }

    #[test]
    fn nothing_is_inherited() {
        let file = std::fs::File::open("/").expect("open");
        // SAFETY: fcntl with numbers; dup without close-on-exec makes a descriptor that the test closes below.
        let leaky = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, 200) };
        assert!(leaky >= 200);
        // SAFETY: it was just made, for nobody else.
        let _leaky = unsafe { OwnedFd::from_raw_fd(leaky) };
        let outcome = shell(&format!("test -e /proc/self/fd/{leaky} && echo leaked"), b"", None);
        assert_eq!(outcome.stdout, b"");
    }

    #[test]
    fn what_cannot_be_executed_says_why() {
        let command = ShortCommand {
            path: "/nonexistent".into(),
            args: vec![],
            environment: None,
            directory: None,
            input: b"",
            timeout: None,
        };
        assert_eq!(run(&command).expect_err("there is none").kind(), io::ErrorKind::NotFound);
    }
}
