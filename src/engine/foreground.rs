// SPDX-License-Identifier: Apache-2.0
//! Staying with a process until it ends: signals are passed on, stdio is copied through pipes, children are reaped,
//! and the exit code comes back.
//!
//! The container gets pipes and not the caller's own stdio, so that its descriptors can be checkpointed.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};

use super::ProcessIo;
use crate::{Context, Result, sys};

/// How many bytes are copied at a time.
const CHUNK: usize = 64 * 1024;

/// What a process left: its code, or 128 and the signal that ended it.
pub type ExitCode = i32;

/// The caller's end of a process in the foreground. Made before the process, so that no signal is missed.
///
/// For single-threaded programs: the signals are blocked in the calling thread.
#[derive(Debug)]
pub struct Foreground {
    signals: SignalFd,
    stdin: Option<Copier>,
    stdout: Option<Copier>,
    stderr: Option<Copier>,
}

#[derive(Debug)]
struct Copier {
    from: OwnedFd,
    to: OwnedFd,
    pending: VecDeque<u8>,
    ended: bool,
}

impl Foreground {
    /// Blocks the signals that will be passed on, becomes the reaper of the container's orphans unless told not to,
    /// and makes the pipes; returns the container's ends of them.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn new(subreaper: bool) -> Result<(Self, ProcessIo)> {
        let mut mask = SigSet::all();
        for keep in [
            Signal::SIGKILL,
            Signal::SIGSTOP,
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGILL,
            Signal::SIGFPE,
            Signal::SIGABRT,
            Signal::SIGPIPE,
            Signal::SIGTTIN,
            Signal::SIGTTOU,
        ] {
            mask.remove(keep);
        }
        mask.thread_block().context(|| "block the signals to pass on")?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context(|| "signalfd()")?;
        if subreaper {
            sys::process::become_subreaper().context(|| "prctl(PR_SET_CHILD_SUBREAPER)")?;
        }
        let pipe = || pipe2(OFlag::O_CLOEXEC).context(|| "pipe2()");
        let own = |number| sys::fd::above_stdio(sys::fd::stdio(number)).context(|| "dup");
        let (in_read, in_write) = pipe()?;
        let (out_read, out_write) = pipe()?;
        let (err_read, err_write) = pipe()?;
        for fd in [&in_write, &out_read, &err_read] {
            fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context(|| "fcntl(O_NONBLOCK)")?;
        }
        let foreground = Self {
            signals,
            stdin: Some(Copier::new(own(0)?, in_write)),
            stdout: Some(Copier::new(out_read, own(1)?)),
            stderr: Some(Copier::new(err_read, own(2)?)),
        };
        let io = ProcessIo { stdin: Some(in_read), stdout: Some(out_write), stderr: Some(err_write) };
        Ok((foreground, io))
    }

    /// Stays until the process, a child of the caller, has ended.
    ///
    /// # Errors
    /// The system call that failed; the process may still run.
    pub fn wait(mut self, pid: Pid, pidfd: &OwnedFd) -> Result<ExitCode> {
        // It may have ended before anybody listened.
        let mut code = reap(pid)?;
        while code.is_none() {
            self.turn(pidfd)?;
            code = reap(pid)?;
        }
        for mut copier in [self.stdout.take(), self.stderr.take()].into_iter().flatten() {
            copier.drain();
        }
        Ok(code.unwrap_or_default())
    }

    /// Waits for something to happen and deals with it.
    fn turn(&mut self, pidfd: &OwnedFd) -> Result<()> {
        let ready = {
            let mut fds = vec![
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(pidfd.as_fd(), PollFlags::POLLIN),
            ];
            let mut whose = Vec::new();
            for (i, copier) in [&self.stdin, &self.stdout, &self.stderr].into_iter().enumerate() {
                if let Some(copier) = copier {
                    whose.push(i);
                    fds.push(copier.interest());
                }
            }
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => return Ok(()),
                other => other.context(|| "poll()")?,
            };
            let happened = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
            if happened(&fds[0]) {
                forward(&self.signals, pidfd.as_fd())?;
            }
            whose
                .into_iter()
                .zip(&fds[2..])
                .filter(|(_, fd)| happened(fd))
                .map(|(i, _)| i)
                .collect::<Vec<_>>()
        };
        for i in ready {
            let slot = [&mut self.stdin, &mut self.stdout, &mut self.stderr]
                .into_iter()
                .nth(i)
                .expect("three slots");
            if let Some(copier) = slot {
                copier.step();
                if copier.ended && copier.pending.is_empty() {
                    *slot = None;
                }
            }
        }
        Ok(())
    }
}

impl Copier {
    fn new(from: OwnedFd, to: OwnedFd) -> Self {
        Self { from, to, pending: VecDeque::new(), ended: false }
    }

    /// Bytes that wait go out before new ones come in.
    fn interest(&self) -> PollFd<'_> {
        if self.pending.is_empty() {
            PollFd::new(self.from.as_fd(), PollFlags::POLLIN)
        } else {
            PollFd::new(self.to.as_fd(), PollFlags::POLLOUT)
        }
    }

    /// One read or one write. A side that is gone ends the copying: the container sees what a closed pipe is.
    fn step(&mut self) {
        if self.pending.is_empty() {
            let mut chunk = [0; CHUNK];
            match read(self.from.as_fd(), &mut chunk) {
                Ok(0) => self.ended = true,
                Ok(n) => self.pending.extend(&chunk[..n]),
                Err(e) if retry(&e) => return,
                Err(_) => self.ended = true,
            }
        }
        let (front, _) = self.pending.as_slices();
        if front.is_empty() {
            return;
        }
        match write(self.to.as_fd(), front) {
            Ok(n) => drop(self.pending.drain(..n)),
            Err(e) if retry(&e) => {}
            Err(_) => {
                self.pending.clear();
                self.ended = true;
            }
        }
    }

    /// Everything that is in the pipe already. What a surviving descendant writes later is not waited for.
    fn drain(&mut self) {
        loop {
            let mut chunk = [0; CHUNK];
            while !self.pending.is_empty() {
                self.step();
            }
            match read(self.from.as_fd(), &mut chunk) {
                Ok(0) => return,
                Ok(n) => self.pending.extend(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(nix::unistd::read(fd, buffer)?)
}

fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    Ok(nix::unistd::write(fd, bytes)?)
}

fn retry(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Passes pending signals on, but for those that speak of the caller's own children and terminal.
fn forward(signals: &SignalFd, pidfd: BorrowedFd<'_>) -> Result<()> {
    while let Some(info) = signals.read_signal().context(|| "read a signal")? {
        let signal = info.ssi_signo as i32;
        if matches!(signal, libc::SIGCHLD | libc::SIGURG | libc::SIGWINCH) {
            continue;
        }
        match sys::pidfd::send_signal(pidfd, signal) {
            // It has just ended: there is nobody to pass the signal on to.
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
            other => other.context(|| format!("pass signal {signal} on to the container"))?,
        }
    }
    Ok(())
}

/// Reaps every child that has ended; the code of the one that counts, if it is among them.
fn reap(pid: Pid) -> Result<Option<ExitCode>> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(child, status)) if child == pid => code = Some(status),
            Ok(WaitStatus::Signaled(child, signal, _)) if child == pid => code = Some(128 + signal as i32),
            Ok(WaitStatus::StillAlive) => return Ok(code),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::ECHILD) => return Ok(code.or(Some(255))),
            Err(e) => return Err(e).context(|| "waitpid(-1)"),
        }
    }
}
