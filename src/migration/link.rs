// SPDX-License-Identifier: Apache-2.0
//! The source's connection to the other host, and all that can happen to a migration, in one channel. Must not know what follows from
//! what happens.

use std::io::{PipeWriter, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::endpoint::{Breaker, Connection, Endpoint, Shell};
use super::handoff::Message;
use super::protocol::{Blocker, Frame, Receiver, Said, Sender};
use super::report::Progress;
use crate::{Context, Error, ErrorKind, Result};

/// The size of a `signalfd_siginfo`, in bytes.
const SIGNAL_INFO: usize = 128;

/// What happens.
#[derive(Debug)]
pub(super) enum Happening {
    /// The other side has said something.
    Heard(Message),
    /// It has told why it cannot go on.
    Failed(Blocker),
    /// The connection of this number is gone, for this reason if it was not closed.
    Lost(u32, Option<Error>),
    /// The caller wants to give up.
    Interrupted,
    /// The container of this number is frozen, and all of it was sent.
    Frozen(usize),
    /// Memory or files were sent while the containers run.
    Round(Progress),
    /// The rounds have ended.
    RoundsEnded,
    /// The checkpoint of the container of this number has ended.
    Ended(usize),
}

/// The connection.
#[derive(Debug)]
pub(super) struct Link {
    connection: Connection,
    breaker: Breaker,
    sender: Sender,
    /// As long as nobody listens in the background.
    receiver: Option<Receiver>,
    tell: mpsc::Sender<Happening>,
    /// How many there were before it.
    number: u32,
}

impl Link {
    /// Connects, and tells through which channel it will be told what happens.
    pub(super) fn open(endpoint: &Endpoint, shell: &Shell) -> Result<(Self, mpsc::Receiver<Happening>)> {
        let (tell, happenings) = mpsc::channel();
        Ok((Self::with(Connection::open(endpoint, shell)?, tell, 0)?, happenings))
    }

    fn with(connection: Connection, tell: mpsc::Sender<Happening>, number: u32) -> Result<Self> {
        let (sender, receiver) = connection.split()?;
        let breaker = connection.breaker();
        Ok(Self { connection, breaker, sender, receiver: Some(receiver), tell, number })
    }

    /// Connects anew.
    pub(super) fn reopen(&mut self, endpoint: &Endpoint, shell: &Shell) -> Result<()> {
        *self =
            Self::with(Connection::open(endpoint, shell)?, self.tell.clone(), self.number.wrapping_add(1))?;
        Ok(())
    }

    /// Does this with the connection, which is broken when that takes too long.
    pub(super) fn within<T>(
        &mut self,
        patience: Duration,
        what: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let (done, ends) = mpsc::channel::<()>();
        let breaker = self.breaker.clone();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                if ends.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout) {
                    breaker.cut();
                }
            });
            let came_to = what(self);
            drop(done);
            came_to
        })
    }

    /// Whether this is about an earlier connection.
    pub(super) fn is_past(&self, happening: &Happening) -> bool {
        matches!(happening, Happening::Lost(number, _) if *number != self.number)
    }

    /// Breaks the connection: whoever writes to it or reads from it comes to an end.
    pub(super) fn cut(&self) {
        self.breaker.cut();
    }

    /// Where to write.
    pub(super) fn sender(&self) -> &Sender {
        &self.sender
    }

    /// Whom to tell what happens.
    pub(super) fn tell(&self) -> &mpsc::Sender<Happening> {
        &self.tell
    }

    pub(super) fn say(&self, said: &Said) -> Result<()> {
        self.sender.say(said)
    }

    /// The next message, before anybody listens.
    pub(super) fn said(&mut self) -> Result<Said> {
        let receiver = self.receiver.as_mut();
        receiver
            .ok_or_else(|| Error::new(ErrorKind::System, "somebody else listens to the other host"))?
            .said()
    }

    /// Listens in the background from now on.
    pub(super) fn listen(&mut self) -> Result<()> {
        let Some(mut receiver) = self.receiver.take() else { return Ok(()) };
        let (tell, number) = (self.tell.clone(), self.number);
        let work = move || {
            loop {
                let (happening, last) = match receiver.frame() {
                    Ok(Some(Frame::Said(Said::Handoff(message)))) => (Happening::Heard(message), false),
                    Ok(Some(Frame::Said(Said::Failed(blocker)))) => (Happening::Failed(blocker), false),
                    Ok(Some(_)) => (Happening::Lost(number, Some(super::offering::out_of_turn())), true),
                    Ok(None) => (Happening::Lost(number, None), true),
                    Err(error) => (Happening::Lost(number, Some(error)), true),
                };
                if tell.send(happening).is_err() || last {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("listen".into())
            .spawn(work)
            .map(drop)
            .context(|| "start a thread that listens to the other host")
    }

    /// Tells of signals that are read from this descriptor, as long as the guard is kept.
    pub(super) fn watch_signals(&self, signals: OwnedFd) -> Result<PipeWriter> {
        let (until, guard) = pipe().context(|| "make a pipe")?;
        let tell = self.tell.clone();
        let work = move || {
            while wait(&signals, &until) {
                if tell.send(Happening::Interrupted).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(work)
            .map(|_| guard)
            .context(|| "start a thread that waits for signals")
    }

    /// Closes it in order: what was said arrives.
    pub(super) fn close(self) {
        self.connection.close();
    }
}

/// Waits for a signal; false when there is nothing to wait for any more.
fn wait(signals: &OwnedFd, until: &impl AsFd) -> bool {
    loop {
        let mut fds =
            [PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(until.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(_) => return false,
            Ok(_) => {}
        }
        let [signalled, ended] = fds.map(|fd| fd.any().unwrap_or(true));
        if ended {
            return false;
        }
        if signalled {
            return nix::unistd::read(signals, &mut [0; SIGNAL_INFO]).is_ok();
        }
    }
}

pub(super) fn loss(error: Option<Error>) -> Error {
    let lost = Error::new(ErrorKind::System, "the connection to the other host was lost");
    match error {
        Some(cause) => lost.with_source(cause),
        None => lost,
    }
}

pub(super) fn interrupted() -> Error {
    Error::new(ErrorKind::System, "interrupted")
}
