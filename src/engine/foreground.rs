// SPDX-License-Identifier: Apache-2.0
//! Staying with a process until it ends: signals are passed on, stdio is copied, children are reaped, and the exit
//! code comes back.
//!
//! The container gets pipes and not the caller's own stdio, so that its descriptors can be checkpointed. If its process
//! has a terminal, that terminal's master arrives here instead:
//!
//! ```text
//!   without: caller's stdin ─▶ pipe ─▶ process        with: caller's stdin ──▶ master ⇄ terminal of the process
//!            caller's stdout, stderr ◀─ pipes ◀─┘           caller's stdout ◀──┘
//! ```

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, isatty, pipe2};

use super::{Console, NotifyProxy, ProcessIo};
use crate::sys::tty::{self, RawMode, Size};
use crate::{Context, Error, ErrorKind, Result, sys};

/// The place of the notify socket after those of the three copiers.
const NOTIFY: usize = 3;

/// How many bytes are copied at a time.
const CHUNK: usize = 64 * 1024;

/// No name of a terminal is longer, in bytes.
const LONGEST_NAME: usize = 256;

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
    /// Where the master of the process's terminal arrives, if it has one.
    console: Option<OwnedFd>,
    terminal: Option<Terminal>,
    notify: Option<NotifyProxy>,
}

/// The terminal of the process, which shows on the caller's.
#[derive(Debug)]
struct Terminal {
    master: OwnedFd,
    _raw: Option<RawMode>,
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
        sys::process::keep_ended_children().context(|| "sigaction(SIGCHLD, SIG_DFL)")?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context(|| "signalfd()")?;
        if subreaper {
            sys::process::become_subreaper().context(|| "prctl(PR_SET_CHILD_SUBREAPER)")?;
        }
        let pipe = || pipe2(OFlag::O_CLOEXEC).context(|| "pipe2()");
        let (in_read, in_write) = pipe()?;
        let (out_read, out_write) = pipe()?;
        let (err_read, err_write) = pipe()?;
        for fd in [&in_write, &out_read, &err_read] {
            fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context(|| "fcntl(O_NONBLOCK)")?;
        }
        let (console, sends_master) = sys::seqpacket::pair().context(|| "socketpair()")?;
        let foreground = Self {
            signals,
            stdin: Some(Copier::new(own(0)?, in_write)),
            stdout: Some(Copier::new(out_read, own(1)?)),
            stderr: Some(Copier::new(err_read, own(2)?)),
            console: Some(console),
            terminal: None,
            notify: None,
        };
        let sends_master = sys::fd::above_stdio(sends_master.as_fd()).context(|| "dup")?;
        let io = ProcessIo {
            stdin: Some(in_read),
            stdout: Some(out_write),
            stderr: Some(err_write),
            console: Some(Console::foreground(sends_master, callers_size())),
            own_pipes: true,
        };
        Ok((foreground, io))
    }

    /// Passes the readiness of the container's program on, too. The service manager is to watch this process.
    pub fn notify(&mut self, proxy: Option<NotifyProxy>) {
        self.notify = proxy;
    }

    /// Takes the terminal over, if the process has one: the caller's, if it is one, becomes raw until the end.
    fn take_terminal(&mut self) -> Result<()> {
        let Some(console) = self.console.take() else { return Ok(()) };
        // The other end is closed by now: what was sent is here, or nothing was.
        let received = sys::seqpacket::receive(console.as_fd(), LONGEST_NAME)
            .context(|| "receive the container's terminal")?;
        let Some(packet) = received else { return Ok(()) };
        let master = packet.fds.into_iter().next().ok_or_else(|| {
            Error::new(ErrorKind::System, "the container's terminal came without its descriptor")
        })?;
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context(|| "fcntl(O_NONBLOCK)")?;
        let copy = || master.try_clone().context(|| "dup");
        self.stdin = Some(Copier::new(own(0)?, copy()?));
        self.stdout = Some(Copier::new(copy()?, own(1)?));
        self.stderr = None;
        let raw = if isatty(sys::fd::stdio(0)).unwrap_or(false) {
            Some(RawMode::enter(own(0)?).context(|| "switch the terminal to raw mode")?)
        } else {
            None
        };
        let terminal = Terminal { master, _raw: raw };
        terminal.resize()?;
        self.terminal = Some(terminal);
        Ok(())
    }

    /// Stays until the process, a child of the caller, has ended.
    ///
    /// # Errors
    /// The system call that failed; the process may still run.
    pub fn wait(mut self, pid: Pid, pidfd: &OwnedFd) -> Result<ExitCode> {
        self.take_terminal()?;
        // It may have ended before anybody listened.
        let mut code = reap(pid)?;
        while code.is_none() {
            self.turn(pidfd)?;
            code = reap(pid)?;
        }
        // Its last words may have come in the same moment.
        self.pass_readiness_on();
        for mut copier in [self.stdout.take(), self.stderr.take()].into_iter().flatten() {
            copier.drain();
        }
        Ok(code.unwrap_or_default())
    }

    /// Once: a program is ready or not.
    fn pass_readiness_on(&mut self) {
        match self.notify.as_ref().map(|notify| notify.pass_on(std::process::id() as i32)) {
            Some(Ok(false)) => {}
            Some(Ok(true)) | None => self.notify = None,
            Some(Err(error)) => {
                tracing::warn!(error = error.chain(), "readiness not passed on");
                self.notify = None;
            }
        }
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
            if let Some(notify) = &self.notify {
                whose.push(NOTIFY);
                fds.push(PollFd::new(notify.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => return Ok(()),
                other => other.context(|| "poll()")?,
            };
            let happened = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
            if happened(&fds[0]) {
                forward(&self.signals, pidfd.as_fd(), self.terminal.as_ref())?;
            }
            whose
                .into_iter()
                .zip(&fds[2..])
                .filter(|(_, fd)| happened(fd))
                .map(|(i, _)| i)
                .collect::<Vec<_>>()
        };
        for i in ready {
            if i == NOTIFY {
                self.pass_readiness_on();
                continue;
            }
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

impl Terminal {
    /// Gives it the size of the caller's window.
    fn resize(&self) -> Result<()> {
        callers_size()
            .map_or(Ok(()), |size| tty::set_size(self.master.as_fd(), size))
            .context(|| "ioctl(TIOCSWINSZ)")
    }
}

/// The size of the terminal that the caller's stdio leads to, if one of the three does and knows its size.
fn callers_size() -> Option<Size> {
    (0..3)
        .find_map(|number| tty::size(sys::fd::stdio(number)).ok())
        .filter(|size| size.rows > 0 && size.columns > 0)
}

fn own(number: usize) -> Result<OwnedFd> {
    sys::fd::above_stdio(sys::fd::stdio(number)).context(|| "dup")
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
fn forward(signals: &SignalFd, pidfd: BorrowedFd<'_>, terminal: Option<&Terminal>) -> Result<()> {
    while let Some(info) = signals.read_signal().context(|| "read a signal")? {
        let signal = info.ssi_signo as i32;
        if let (libc::SIGWINCH, Some(terminal)) = (signal, terminal) {
            terminal.resize()?;
        }
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
