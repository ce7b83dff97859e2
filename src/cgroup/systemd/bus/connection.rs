// SPDX-License-Identifier: Apache-2.0
//! One connection to a bus, or to the service itself: authentication, calls, signals. Blocking, with a deadline.
//!
//! ```text
//! \0 AUTH EXTERNAL · DATA · BEGIN  ──▶      who we are is what the kernel says of the socket: that also holds
//!                  ◀── DATA · OK guid       in a user namespace, where our own number means nothing outside
//! Hello            ──▶                      only to a bus; the service itself has no names
//! call             ──▶
//!                  ◀── signals, the answer
//! ```

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

use super::address::Address;
use super::message::{FIXED, Kind, Message};
use super::value::{Value, damaged};
use crate::{Context, Error, ErrorKind, Result};

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(30);

const BUS: &str = "org.freedesktop.DBus";

/// Where a method is.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Method<'a> {
    pub(in super::super) destination: &'a str,
    pub(in super::super) path: &'a str,
    pub(in super::super) interface: &'a str,
    pub(in super::super) member: &'a str,
}

/// A call that has come to no good end.
#[derive(Debug)]
pub(in super::super) enum Failure {
    /// The other side said no.
    Refused { name: String, message: String },
    /// The connection is of no use any more.
    Broken(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused { name, message } => {
                let kind = match name.as_str() {
                    "org.freedesktop.DBus.Error.AccessDenied"
                    | "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired" => {
                        ErrorKind::PermissionDenied
                    }
                    "org.freedesktop.systemd1.UnitExists" => ErrorKind::AlreadyExists,
                    "org.freedesktop.systemd1.NoSuchUnit" => ErrorKind::NotFound,
                    _ => ErrorKind::System,
                };
                Self::new(kind, format!("{message} ({name})"))
            }
            Failure::Broken(error) => error,
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(in super::super) struct Connection {
    socket: UnixStream,
    address: Address,
    serial: u32,
    signals: VecDeque<Message>,
    /// Whether there is a bus in between, with names and rules.
    is_bus: bool,
}

impl Connection {
    /// Connects to a bus.
    ///
    /// # Errors
    /// Nobody listens, or who listens does not let us in.
    pub(in super::super) fn to_bus(address: &Address) -> Result<Self> {
        let mut connection = Self::open(address, true)?;
        let hello =
            Method { destination: BUS, path: "/org/freedesktop/DBus", interface: BUS, member: "Hello" };
        connection.call(hello, Vec::new())?;
        Ok(connection)
    }

    /// Connects to a service that listens by itself.
    ///
    /// # Errors
    /// As [`Connection::to_bus`].
    pub(in super::super) fn to_service(address: &Address) -> Result<Self> {
        Self::open(address, false)
    }

    fn open(address: &Address, is_bus: bool) -> Result<Self> {
        let attempted = || format!("connect to D-Bus at {address}");
        let socket = address.connect().context(attempted)?;
        let mut connection =
            Self { socket, address: address.clone(), serial: 0, signals: VecDeque::new(), is_bus };
        connection.authenticate().context(attempted)?;
        Ok(connection)
    }

    fn authenticate(&mut self) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        self.send(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n", deadline).context(|| "authenticate")?;
        loop {
            let line = self.line(deadline)?;
            match line.split(' ').next() {
                Some("DATA") => {}
                Some("OK") => return Ok(()),
                _ => {
                    let message = format!("who we are is not accepted: {line:?}");
                    return Err(Error::new(ErrorKind::PermissionDenied, message));
                }
            }
        }
    }

    /// A line of the authentication. What follows it is a message, of which nothing may be read here.
    fn line(&mut self, deadline: Instant) -> Result<String> {
        const LONGEST: usize = 1024;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.receive(&mut byte, deadline).context(|| "authenticate")?;
            line.push(byte[0]);
            if line.len() > LONGEST {
                return Err(damaged());
            }
        }
        line.truncate(line.len() - 2);
        String::from_utf8(line).map_err(|_| damaged())
    }

    /// The process that has made the other side's socket, as this one numbers processes; `None` where the two have no
    /// numbers in common.
    ///
    /// # Errors
    /// The kernel does not say.
    pub(in super::super) fn peer(&self) -> Result<Option<i32>> {
        let credentials = getsockopt(&self.socket, PeerCredentials);
        let pid = credentials.context(|| format!("getsockopt(SO_PEERCRED) of {}", self.address))?.pid();
        Ok((pid > 0).then_some(pid))
    }

    /// Whether there is a bus in between.
    pub(in super::super) fn is_bus(&self) -> bool {
        self.is_bus
    }

    /// Asks the bus for signals; a service that listens by itself sends them unasked.
    ///
    /// # Errors
    /// [`Failure`].
    pub(in super::super) fn listen(&mut self, rule: &str) -> std::result::Result<(), Failure> {
        if !self.is_bus {
            return Ok(());
        }
        let add =
            Method { destination: BUS, path: "/org/freedesktop/DBus", interface: BUS, member: "AddMatch" };
        self.call(add, vec![Value::text(rule)]).map(drop)
    }

    /// Calls a method and waits for what it returns. Signals that come before are kept.
    ///
    /// # Errors
    /// [`Failure`].
    pub(in super::super) fn call(
        &mut self,
        method: Method<'_>,
        arguments: Vec<Value>,
    ) -> std::result::Result<Vec<Value>, Failure> {
        let deadline = Instant::now() + DEADLINE;
        self.serial = self.serial.wrapping_add(1).max(1);
        let mut call = Message::new(Kind::Call, self.serial);
        call.path = Some(method.path.to_owned());
        call.interface = Some(method.interface.to_owned());
        call.member = Some(method.member.to_owned());
        call.destination = self.is_bus.then(|| method.destination.to_owned());
        call.body = arguments;
        let address = self.address.clone();
        let attempted = || format!("call {} by D-Bus at {address}", method.member);
        let sent = self.send(&call.to_bytes(), deadline);
        sent.context(attempted).map_err(Failure::Broken)?;
        loop {
            let message = self.message(deadline).context(attempted).map_err(Failure::Broken)?;
            match (message.kind, message.reply_to == Some(call.serial)) {
                (Kind::Signal, _) => self.signals.push_back(message),
                (Kind::Return, true) => return Ok(message.body),
                (Kind::Error, true) => {
                    let name = message.error.unwrap_or_default();
                    let text = message.body.first().and_then(Value::as_text).unwrap_or("it does not say why");
                    return Err(Failure::Refused { name, message: text.to_owned() });
                }
                _ => {}
            }
        }
    }

    /// Waits for a signal that satisfies; others are forgotten.
    ///
    /// # Errors
    /// The connection broke, or the signal has not come in 30 s ([`io::ErrorKind::TimedOut`]).
    pub(in super::super) fn wait_for<T>(
        &mut self,
        mut satisfies: impl FnMut(&Message) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let signal = match self.signals.pop_front() {
                Some(kept) => kept,
                None => self
                    .message(deadline)
                    .context(|| format!("wait for a signal of D-Bus at {}", self.address))?,
            };
            if signal.kind == Kind::Signal
                && let Some(found) = satisfies(&signal)
            {
                return Ok(found);
            }
        }
    }

    fn message(&mut self, deadline: Instant) -> Result<Message> {
        loop {
            let mut fixed = [0; FIXED];
            self.receive(&mut fixed, deadline).context(|| "read")?;
            let mut bytes = fixed.to_vec();
            bytes.resize(Message::length(fixed)?, 0);
            self.receive(&mut bytes[FIXED..], deadline).context(|| "read")?;
            if let Some(message) = Message::parse(&bytes)? {
                return Ok(message);
            }
        }
    }

    fn send(&mut self, bytes: &[u8], deadline: Instant) -> io::Result<()> {
        self.socket.set_write_timeout(Some(left(deadline)?))?;
        self.socket.write_all(bytes).map_err(timed_out)
    }

    fn receive(&mut self, bytes: &mut [u8], deadline: Instant) -> io::Result<()> {
        let mut filled = 0;
        while filled < bytes.len() {
            self.socket.set_read_timeout(Some(left(deadline)?))?;
            match self.socket.read(&mut bytes[filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(timed_out(e)),
            }
        }
        Ok(())
    }
}

/// The time to a deadline, which must not be zero: that would be none.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(timed_out(io::ErrorKind::WouldBlock.into())) } else { Ok(left) }
}

fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        return io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {} s", DEADLINE.as_secs()));
    }
    error
}
