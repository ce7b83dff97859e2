// SPDX-License-Identifier: Apache-2.0
//! Who is served, and how many at once: a process a connection, which is told at the desk whether it may.
//!
//! ```text
//! serve ── accept ─▶ process: stdin is the connection, stdout leads to the desk
//!       ◀── "MOST NAME\n" ── it knows who that is, and how many connections that one may have
//!       ── 1 or 0 ─────────▶ it serves, or says that there are too many
//!       ◀── the end ──────── it has ended
//! ```
//! Who does not say who he is takes a place among a few for as long as nobody else wants it: of those one gives way that has come from
//! where most have come from, the one that has waited longest. The processes go on when this one ends. Must not know what they do.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{dup2_stdin, dup2_stdout};

use crate::{Context, Error, ErrorKind, Result, sys};

/// The longest line that a process says, in bytes.
const LONGEST: usize = 300;

/// Where connections come from.
#[derive(Debug)]
pub enum Door {
    /// A port.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

impl Door {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }

    /// A connection, and where it has come from.
    fn accept(&self) -> io::Result<(OwnedFd, Option<Origin>)> {
        match self {
            Self::Tcp(listener) => {
                listener.accept().map(|(socket, from)| (socket.into(), Some(origin(from.ip()))))
            }
            Self::Unix(listener) => listener.accept().map(|(socket, _)| (socket.into(), None)),
        }
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => listener.set_nonblocking(true),
            Self::Unix(listener) => listener.set_nonblocking(true),
        }
    }
}

/// What one of the network has to itself: an address, of IPv6 a net of the usual size.
type Origin = [u8; 8];

fn origin(address: IpAddr) -> Origin {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            // No net of IPv6 begins so.
            [0, 0, 0, 0, a, b, c, d]
        }
        IpAddr::V6(address) => {
            let [a, b, c, d, e, f, g, h, ..] = address.octets();
            [a, b, c, d, e, f, g, h]
        }
    }
}

/// How many connections there are at once.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Those that are served.
    pub served: usize,
    /// Those of which it is not known yet who they are.
    pub unknown: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { served: 16, unknown: 32 }
    }
}

/// A process that serves a connection.
#[derive(Debug)]
struct Served {
    child: Child,
    desk: UnixStream,
    said: Vec<u8>,
    from: Option<Origin>,
    /// Whom it serves, once that is known.
    peer: Option<String>,
}

/// Serves whoever connects, for ever: what [`Command`] starts has the connection for its stdin, and asks to be [`admitted`].
///
/// # Errors
/// When nobody can be waited for any more. `report` is told of one that cannot be served.
pub fn serve(
    door: &Door,
    bounds: Bounds,
    command: &dyn Fn() -> Command,
    report: &mut dyn FnMut(&Error),
) -> Result<()> {
    door.set_nonblocking().context(|| "prepare to accept connections")?;
    let mut served: Vec<Served> = Vec::new();
    loop {
        let ready = wait(door, &served)?;
        let (is_somebody_there, ready) = ready.split_first().unwrap_or((&false, &[]));
        let mut i = 0;
        for is_ready in ready {
            match *is_ready && hear(&mut served, i, bounds) {
                true => end(served.remove(i)),
                false => i += 1,
            }
        }
        if *is_somebody_there && let Err(error) = receive(door, &mut served, bounds, command) {
            report(&error);
        }
    }
}

/// Whether somebody is at the door, and which of the processes have something to say.
fn wait(door: &Door, served: &[Served]) -> Result<Vec<bool>> {
    let mut fds = vec![PollFd::new(door.fd(), PollFlags::POLLIN)];
    fds.extend(served.iter().map(|served| PollFd::new(served.desk.as_fd(), PollFlags::POLLIN)));
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            polled => {
                polled.context(|| "wait for connections")?;
                return Ok(fds.iter().map(|fd| fd.any().unwrap_or(true)).collect());
            }
        }
    }
}

fn receive(
    door: &Door,
    served: &mut Vec<Served>,
    bounds: Bounds,
    command: &dyn Fn() -> Command,
) -> Result<()> {
    let (connection, from) = match door.accept() {
        Ok(accepted) => accepted,
        Err(e)
            if [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted, io::ErrorKind::ConnectionAborted]
                .contains(&e.kind()) =>
        {
            return Ok(());
        }
        Err(e) => {
            // One that waits gives its descriptors back.
            evict(served, 0);
            return Err(e).context(|| "accept a connection");
        }
    };
    evict(served, bounds.unknown.saturating_sub(1));
    let (desk, theirs) = UnixStream::pair().context(|| "make a socket pair")?;
    desk.set_nonblocking(true).context(|| "make a socket pair")?;
    let mut command = command();
    command.stdin(Stdio::from(connection)).stdout(Stdio::from(OwnedFd::from(theirs))).process_group(0);
    let child = command.spawn().context(|| "start a process for a connection")?;
    served.push(Served { child, desk, said: Vec::new(), from, peer: None });
    Ok(())
}

/// Ends those that have to give way, until so many do not say who they are.
fn evict(served: &mut Vec<Served>, most: usize) {
    loop {
        let waiting: Vec<(usize, Option<Origin>)> = served
            .iter()
            .enumerate()
            .filter(|(_, served)| served.peer.is_none())
            .map(|(i, served)| (i, served.from))
            .collect();
        let Some(i) = gives_way(&waiting).filter(|_| waiting.len() > most) else { return };
        let mut this = served.remove(i);
        let _ = this.child.kill();
        end(this);
    }
}

/// The first one from where most have come from.
fn gives_way(waiting: &[(usize, Option<Origin>)]) -> Option<usize> {
    let as_many = |from: &Option<Origin>| waiting.iter().filter(|(_, other)| other == from).count();
    let most = waiting.iter().map(|(_, from)| as_many(from)).max()?;
    waiting.iter().find(|(_, from)| as_many(from) == most).map(|(i, _)| *i)
}

/// Whether the process has left the desk.
fn hear(served: &mut [Served], i: usize, bounds: Bounds) -> bool {
    let heard = served.get_mut(i).map(Served::hear);
    let (most, peer) = match heard {
        Some(Heard::Question(most, peer)) => (most, peer),
        Some(Heard::Nothing) | None => return false,
        Some(Heard::End) => return true,
    };
    let known = served.iter().filter(|served| served.peer.is_some()).count();
    let of_peer = served.iter().filter(|served| served.peer.as_deref() == Some(&peer)).count();
    let is_admitted = known < bounds.served && of_peer < most;
    served.get_mut(i).is_none_or(|this| this.answer(is_admitted.then_some(peer)))
}

/// What a process has said.
enum Heard {
    /// Not all of it yet.
    Nothing,
    /// So many connections may this peer have: is there room for it?
    Question(usize, String),
    /// It has left.
    End,
}

impl Served {
    fn hear(&mut self) -> Heard {
        let mut bytes = [0; LONGEST];
        match (&self.desk).read(&mut bytes) {
            Err(e) if [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].contains(&e.kind()) => {
                return Heard::Nothing;
            }
            Ok(read) if read > 0 && self.peer.is_none() && self.said.len() + read <= LONGEST => {
                self.said.extend_from_slice(bytes.get(..read).unwrap_or_default());
            }
            Ok(_) | Err(_) => return Heard::End,
        }
        let Some(line) = self.said.strip_suffix(b"\n") else { return Heard::Nothing };
        let question = std::str::from_utf8(line).ok().and_then(|line| line.split_once(' '));
        match question.and_then(|(most, peer)| Some((most.parse().ok()?, peer.to_owned()))) {
            Some((most, peer)) => Heard::Question(most, peer),
            None => Heard::End,
        }
    }

    /// It serves this peer from now on, or nobody. Whether it has left.
    fn answer(&mut self, peer: Option<String>) -> bool {
        let word = u8::from(peer.is_some());
        self.peer = peer;
        self.said.clear();
        (&self.desk).write_all(&[word]).is_err()
    }
}

/// One that has left the desk comes to its end by itself, and may have something to say before.
fn end(mut served: Served) {
    let _ = served.child.wait();
}

/// The desk, seen from a process that serves a connection.
#[derive(Debug)]
pub struct Desk(UnixStream);

impl Desk {
    /// Asks whether a connection of this host's may be served, of which there may be so many.
    ///
    /// # Errors
    /// When nobody is at the desk.
    pub fn ask(&self, peer: &str, most: u32) -> Result<bool> {
        let mut word = [0];
        let mut desk = &self.0;
        desk.write_all(format!("{most} {peer}\n").as_bytes())
            .and_then(|()| desk.read_exact(&mut word))
            .context(|| "ask whether a connection may be served")?;
        Ok(word != [0])
    }
}

/// The connection that this process was started for, and the desk; neither is anybody else's from now on.
///
/// # Errors
/// It was not started so.
pub fn admitted() -> Result<(OwnedFd, Desk)> {
    let attempt = || "take a connection over";
    let take = |number| sys::fd::above_stdio(sys::fd::stdio(number)).context(attempt);
    let (connection, desk) = (take(0)?, take(1)?);
    let null = File::options().read(true).write(true).open("/dev/null").context(|| "open /dev/null")?;
    dup2_stdin(&null).context(attempt)?;
    dup2_stdout(&null).context(attempt)?;
    let desk = UnixStream::from(desk);
    desk.local_addr().map_err(|error| {
        Error::new(ErrorKind::InvalidInput, "nobody has given a connection to this process")
            .with_source(error)
    })?;
    Ok((connection, Desk(desk)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_come_from_where_most_have_come_from_gives_way() {
        let from = |text: &str| Some(origin(text.parse().expect("an address")));
        let waiting = [
            (0, from("10.0.0.1")),
            (2, from("2001:db8::1")),
            (3, from("10.0.0.2")),
            (5, from("2001:db8::2:2")),
            (6, from("::ffff:10.0.0.2")),
            (7, from("2001:db8::3")),
        ];
        assert_eq!(gives_way(&waiting), Some(2));
        assert_eq!(gives_way(&waiting[..4]), Some(2));
        assert_eq!(gives_way(&waiting[2..5]), Some(3));
        assert_eq!(gives_way(&waiting[..1]), Some(0));
        assert_eq!(gives_way(&[]), None);
    }
}
