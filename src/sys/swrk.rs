// SPDX-License-Identifier: Apache-2.0
//! Starts a worker process that must outlive a crash of ours: own session, no parent-death signal, and exactly the
//! file descriptors that it is given. Also opens a pidfd. Knows processes and descriptors; must not know CRIU.
//!
//! `posix_spawn` is used, not `fork`: callers may be multi-threaded and large, and its file actions give the child
//! exact descriptor numbers without a status pipe of our own that could sit on one of them.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// The number that the first descriptor of [`Launch::fds`] gets in the worker.
pub const FIRST_FD: RawFd = 3;

/// Which session (setsid(2)) the worker lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Session {
    /// Its own: a signal to our process group or the end of our terminal does not reach it.
    #[default]
    Own,
    /// The caller's.
    Callers,
}

/// What to start and with what.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The program, by path; `PATH` is not searched.
    pub program: &'a Path,
    /// The arguments after the program's name.
    pub args: &'a [&'a str],
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// The session.
    pub session: Session,
    /// Its standard input, output and error.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Its further descriptors: they become [`FIRST_FD`], `FIRST_FD + 1`, …; nothing else of ours stays open in it.
    pub fds: &'a [BorrowedFd<'a>],
}

/// A started worker, to be waited for once.
#[derive(Debug)]
pub struct Worker {
    pid: Pid,
    ended: Option<WaitStatus>,
}

/// Starts a worker. Every signal has its default action in it and none is blocked but `SIGPIPE`, so that a write to
/// a caller that has died is an error for the worker and not its death, unless it decides otherwise itself.
///
/// # Errors
/// That of posix_spawn(3), which includes "no such program"; `InvalidInput` for a NUL byte in a string.
pub fn spawn(launch: &Launch<'_>) -> io::Result<Worker> {
    let given: Vec<BorrowedFd<'_>> = launch.stdio.iter().chain(launch.fds).copied().collect();
    let end = FIRST_FD + RawFd::try_from(launch.fds.len()).map_err(|_| Errno::EMFILE)?;
    // Copies above every target number first: then no dup2 can overwrite a descriptor that is still to be copied.
    let mut copies = Vec::with_capacity(given.len());
    for fd in given {
        copies.push(duplicate_above(fd, end)?);
    }
    let mut actions = PosixSpawnFileActions::init()?;
    for (copy, target) in copies.iter().zip(0..) {
        actions.add_dup2(copy.as_raw_fd(), target)?;
    }
    for fd in inheritable_from(end)? {
        actions.add_close(fd)?;
    }
    let program = CString::new(launch.program.as_os_str().as_bytes())?;
    let mut args = vec![program.clone()];
    for arg in launch.args {
        args.push(CString::new(*arg)?);
    }
    let mut env = Vec::with_capacity(launch.env.len());
    for (name, value) in &launch.env {
        let mut entry = name.clone().into_vec();
        entry.push(b'=');
        entry.extend_from_slice(value.as_bytes());
        env.push(CString::new(entry)?);
    }
    let pid = posix_spawn::<CStr, _, _>(&program, &actions, &attributes(launch.session)?, &args, &env)?;
    Ok(Worker { pid, ended: None })
}

fn attributes(session: Session) -> nix::Result<PosixSpawnAttr> {
    let mut flags = PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK;
    if session == Session::Own {
        flags |= PosixSpawnFlags::from_bits_retain(libc::POSIX_SPAWN_SETSID.into());
    }
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGPIPE);
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_sigdefault(&SigSet::all())?;
    attributes.set_sigmask(&blocked)?;
    attributes.set_flags(flags)?;
    Ok(attributes)
}

fn duplicate_above(fd: BorrowedFd<'_>, lowest: RawFd) -> nix::Result<OwnedFd> {
    let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(lowest))?;
    // SAFETY: F_DUPFD_CLOEXEC has just made this descriptor; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Descriptors from `first` up that would survive an exec: a caller started us with some, as conmon does.
fn inheritable_from(first: RawFd) -> io::Result<Vec<RawFd>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else {
            continue;
        };
        if number < first {
            continue;
        }
        // SAFETY: borrowed for one fcntl; a number that another thread has closed since gives EBADF.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        match fcntl(fd, FcntlArg::F_GETFD) {
            Ok(flags) if !FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC) => found.push(number),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(found)
}

impl Worker {
    /// Its process id, valid until [`Worker::wait`] has returned.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for its end and reaps it; further calls tell the same again.
    ///
    /// # Errors
    /// `ECHILD` when somebody else in this process has reaped it.
    pub fn wait(&mut self) -> nix::Result<WaitStatus> {
        if let Some(ended) = self.ended {
            return Ok(ended);
        }
        loop {
            match waitpid(self.pid, None) {
                Err(Errno::EINTR) => {}
                other => {
                    let ended = other?;
                    self.ended = Some(ended);
                    return Ok(ended);
                }
            }
        }
    }
}

/// A pidfd for a process, close-on-exec (pidfd_open(2)).
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn pidfd_open(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek};
    use std::os::fd::AsFd;

    use super::*;

    /// Runs a shell script with its output in a file and returns that.
    fn run(script: &str, session: Session, fds: &[BorrowedFd<'_>]) -> String {
        run_program("/bin/sh", &["-c", script], session, fds)
    }

    fn run_program(program: &str, args: &[&str], session: Session, fds: &[BorrowedFd<'_>]) -> String {
        let mut output = tempfile::tempfile().expect("temporary file");
        let null = File::open("/dev/null").expect("/dev/null");
        let copy = output.try_clone().expect("duplicate");
        let mut worker = spawn(&Launch {
            program: Path::new(program),
            args,
            env: vec![("PATH".into(), "/usr/bin:/bin".into())],
            session,
            stdio: [null.as_fd(), copy.as_fd(), null.as_fd()],
            fds,
        })
        .expect("spawn the program");
        assert_eq!(worker.wait(), Ok(WaitStatus::Exited(worker.pid(), 0)), "{args:?}");
        let mut text = String::new();
        output.rewind().expect("rewind");
        output.read_to_string(&mut text).expect("read the output");
        text
    }

    #[test]
    fn descriptors_arrive_at_their_numbers_even_when_they_cross() {
        let (a, b) = (tempfile::tempfile().expect("a"), tempfile::tempfile().expect("b"));
        // Whatever numbers the two have, one of the orders makes a target number collide with a source.
        for (first, second) in [(&a, &b), (&b, &a)] {
            let script = "echo one >&3; echo two >&4; ls /proc/self/fd";
            let seen = run(script, Session::Own, &[first.as_fd(), second.as_fd()]);
            // `ls` itself opens the directory.
            assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3", "4", "5"]);
            for (mut file, text) in [(first, "one\n"), (second, "two\n")] {
                let mut found = String::new();
                file.rewind().expect("rewind");
                file.read_to_string(&mut found).expect("read");
                assert_eq!(found, text);
                file.set_len(0).expect("truncate");
                file.rewind().expect("rewind");
            }
        }
    }

    #[test]
    fn a_descriptor_without_close_on_exec_stays_behind() {
        let leaky = tempfile::tempfile().expect("temporary file");
        let fd = fcntl(&leaky, FcntlArg::F_DUPFD_CLOEXEC(200)).expect("duplicate");
        // SAFETY: just made.
        let high = unsafe { OwnedFd::from_raw_fd(fd) };
        fcntl(&high, FcntlArg::F_SETFD(FdFlag::empty())).expect("clear close-on-exec");
        let seen = run(&format!("[ ! -e /proc/self/fd/{fd} ] && echo gone"), Session::Own, &[]);
        assert_eq!(seen, "gone\n");
    }

    #[test]
    fn the_session_is_as_asked_and_only_sigpipe_is_blocked() {
        let script = "cut -d' ' -f6 /proc/$$/stat; echo $$";
        let own = run(script, Session::Own, &[]);
        let lines: Vec<&str> = own.lines().collect();
        assert_eq!(lines.first(), lines.get(1), "leads its session: {own}");
        let callers = run(script, Session::Callers, &[]);
        let ours = nix::unistd::getsid(None).expect("getsid").to_string();
        assert_eq!(callers.lines().next(), Some(ours.as_str()));
        // Not by a shell: it empties its mask.
        let blocked = run_program("/bin/grep", &["SigBlk", "/proc/self/status"], Session::Own, &[]);
        assert_eq!(blocked, "SigBlk:\t0000000000001000\n");
    }

    #[test]
    fn a_missing_program_is_an_error_of_spawn() {
        let null = File::open("/dev/null").expect("/dev/null");
        let error = spawn(&Launch {
            program: Path::new("/nonexistent/criu"),
            args: &[],
            env: Vec::new(),
            session: Session::Own,
            stdio: [null.as_fd(); 3],
            fds: &[],
        })
        .expect_err("there is no such program");
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
