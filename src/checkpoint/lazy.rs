// SPDX-License-Identifier: Apache-2.0
//! The time in which CRIU keeps the memory until somebody asks for it, with the processes frozen. CRIU itself would wait for ever,
//! and would take one who connects and goes away for the end of the work. So the wait is ended by a request on its port that is none:
//! CRIU then fails, and lets the processes run on.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::MemoryOptions;
use crate::{Context, Error, ErrorKind, Result};

/// How often it is looked whether the wait shall end.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// How long CRIU may take to answer on its port.
const ANSWER: Duration = Duration::from_secs(2);

/// As long as a request of any CRIU, and in none the number of a command.
const NO_REQUEST: [u8; 32] = [0xff; 32];

/// From now on `SIGINT`, `SIGTERM` and `SIGHUP` do not end this process, nor threads that it makes later, but make the descriptor readable:
/// for [`MemoryOptions::give_up`].
///
/// # Errors
/// When the kernel refuses.
pub fn signals_to_give_up() -> Result<OwnedFd> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().context(|| "block SIGINT, SIGTERM and SIGHUP")?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).map(OwnedFd::from).context(|| "signalfd()")
}

/// The wait for a client.
pub(super) struct LazyWait<'a> {
    memory: &'a MemoryOptions,
    limit: Option<Duration>,
    since: Option<Instant>,
    /// Why it has ended.
    gave_up: Option<Error>,
    /// Whether a client has come, and the wait cannot end any more.
    too_late: bool,
}

impl<'a> LazyWait<'a> {
    pub(super) fn new(memory: &'a MemoryOptions, limit: Option<Duration>) -> Self {
        Self { memory, limit, since: None, gave_up: None, too_late: false }
    }

    /// Memory can be asked for.
    pub(super) fn begin(&mut self) {
        self.since = self.memory.lazy_pages.then(Instant::now);
    }

    pub(super) fn patience(&self) -> Option<Duration> {
        (self.since.is_some() && self.gave_up.is_none() && !self.too_late).then_some(BETWEEN_LOOKS)
    }

    /// Ends the wait if it has lasted too long, or shall not go on.
    pub(super) fn look(&mut self) {
        let Some(since) = self.since else { return };
        let reason = match self.limit {
            _ if self.is_interrupted() => interrupted("while nobody had asked for the memory yet"),
            Some(limit) if since.elapsed() >= limit => timed_out(limit),
            _ => return,
        };
        match self.memory.lazy_port().map(end) {
            Some(Ok(true)) => self.gave_up = Some(reason),
            Some(Ok(false)) => {
                self.too_late = true;
                tracing::warn!("the memory is being handed over: the checkpoint goes on to its end");
            }
            // It is tried again.
            Some(Err(error)) => tracing::debug!(%error, "criu's port does not answer"),
            None => {}
        }
    }

    /// Refuses to go on when the caller has given up.
    pub(super) fn require_patience(&self) -> Result<()> {
        if self.is_interrupted() { Err(interrupted("before it was complete")) } else { Ok(()) }
    }

    /// Why CRIU has failed, if that was our doing: the processes run on.
    pub(super) fn gave_up(&mut self) -> Option<Error> {
        self.gave_up.take()
    }

    fn is_interrupted(&self) -> bool {
        let Some(fd) = &self.memory.give_up else { return false };
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

fn interrupted(when: &str) -> Error {
    Error::new(ErrorKind::WrongStatus, format!("the checkpoint was given up {when}: the container runs on"))
}

fn timed_out(limit: Duration) -> Error {
    let message = format!("nobody has asked for the memory for {} s: the container runs on", limit.as_secs());
    Error::new(ErrorKind::WrongStatus, message)
        .with_hint("start `criu lazy-pages` and the restore sooner, or give them more time with --timeout")
}

/// Has a CRIU that waits on this port for a client fail. Tells whether it waited: with a client it does not listen any more.
pub(super) fn end(port: u16) -> io::Result<bool> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = match TcpStream::connect_timeout(&address, ANSWER) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(false),
        connected => connected?,
    };
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(&NO_REQUEST)?;
    // It closes the connection when it has understood; with a client it has no ear for another.
    match stream.read(&mut [0]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        _ => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn memory(port: u16, give_up: Option<OwnedFd>) -> MemoryOptions {
        let page_server = Some(("127.0.0.1".to_owned(), port));
        MemoryOptions { lazy_pages: true, page_server, give_up, ..MemoryOptions::default() }
    }

    /// Plays the CRIU that closes a connection with a request that it does not know.
    fn criu() -> (u16, std::thread::JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let port = listener.local_addr().expect("an address").port();
        let served = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client");
            let mut request = vec![0; 32];
            client.read_exact(&mut request).expect("a request");
            request
        });
        (port, served)
    }

    #[test]
    fn the_wait_ends_in_time_or_when_it_is_told() {
        let (port, served) = criu();
        let bounded = memory(port, None);
        let mut wait = LazyWait::new(&bounded, Some(Duration::ZERO));
        wait.look();
        assert!(wait.patience().is_none() && wait.gave_up.is_none(), "nobody waits yet");
        wait.begin();
        assert_eq!(wait.patience(), Some(BETWEEN_LOOKS));
        wait.look();
        let told = wait.gave_up.take().expect("the time is over").to_string();
        assert!(told.contains("nobody has asked for the memory for 0 s"), "{told}");
        assert_eq!(served.join().expect("served"), NO_REQUEST);

        let (port, served) = criu();
        let (reader, writer) = std::io::pipe().expect("pipe");
        let told = memory(port, Some(reader.into()));
        let mut wait = LazyWait::new(&told, None);
        wait.begin();
        wait.look();
        wait.require_patience().expect("nobody has given up");
        assert!(wait.gave_up.is_none());
        drop(writer);
        wait.require_patience().expect_err("somebody has");
        wait.look();
        assert!(wait.gave_up.is_some() && wait.patience().is_none());
        served.join().expect("served");
    }

    #[test]
    fn with_a_client_the_wait_is_over() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let bounded = memory(port, None);
        let mut wait = LazyWait::new(&bounded, Some(Duration::ZERO));
        wait.begin();
        wait.look();
        assert!(wait.gave_up.is_none() && wait.patience().is_none());
    }
}
