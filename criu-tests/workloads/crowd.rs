// SPDX-License-Identifier: Apache-2.0
//! `crowd`: a service with many connections at once, and its clients.
//!
//! ```text
//!   crowd-clients                                   crowd
//!     each of `--connections`: number of the request ──▶
//!         ◀── the same, and how many this connection has asked
//! ```
//! A client asks again when it has its answer. A connection that ends or breaks, an answer that is another's, and one that has forgotten
//! how often it was asked are faults.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::lifecycle::{Checked, During as _, Workload, expect_eq};
use crate::options::Options;
use crate::report::Fields;

/// Bytes of a request.
const REQUEST: usize = 8;
/// Bytes of an answer.
const ANSWER: usize = 16;

/// So many of the clients that wait for nothing ask at each tick.
const AT_ONCE: usize = 40;

fn address(options: &Options, name: &str) -> Result<SocketAddr, String> {
    options.value(name).ok_or(format!("--{name} ADDRESS is missing"))?.parse().during(name)
}

/// A connection, and what has come of a message.
#[derive(Debug)]
struct Line<const LENGTH: usize> {
    stream: TcpStream,
    bytes: [u8; LENGTH],
    filled: usize,
    /// How many messages have come.
    count: u64,
}

impl<const LENGTH: usize> Line<LENGTH> {
    fn new(stream: TcpStream) -> Result<Self, String> {
        stream.set_nodelay(true).during("TCP_NODELAY")?;
        stream.set_nonblocking(true).during("O_NONBLOCK")?;
        Ok(Self { stream, bytes: [0; LENGTH], filled: 0, count: 0 })
    }

    /// The next message, if all of it is there.
    fn next(&mut self) -> Result<Option<[u8; LENGTH]>, String> {
        match self.stream.read(&mut self.bytes[self.filled..]) {
            Ok(0) => return Err("a connection has ended".to_owned()),
            Ok(read) => self.filled += read,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(None),
            Err(e) => return Err(format!("read from a connection: {e}")),
        }
        if self.filled < LENGTH {
            return Ok(None);
        }
        self.filled = 0;
        self.count += 1;
        Ok(Some(self.bytes))
    }
}

/// Those of the connections that have something to be read, by their numbers.
fn ready(lines: &[Line<REQUEST>]) -> Result<Vec<usize>, String> {
    let mut fds: Vec<_> =
        lines.iter().map(|line| PollFd::new(line.stream.as_fd(), PollFlags::POLLIN)).collect();
    poll(&mut fds, PollTimeout::ZERO).during("poll")?;
    Ok(fds.iter().enumerate().filter(|(_, fd)| fd.any() == Some(true)).map(|(n, _)| n).collect())
}

/// The service.
#[derive(Debug)]
pub(crate) struct Crowd {
    listener: TcpListener,
    lines: Vec<Line<REQUEST>>,
}

impl Crowd {
    pub(crate) fn new(options: &Options) -> Result<Self, String> {
        let listener = TcpListener::bind(address(options, "listen")?).during("listen")?;
        listener.set_nonblocking(true).during("O_NONBLOCK")?;
        Ok(Self { listener, lines: Vec::new() })
    }
}

impl Workload for Crowd {
    fn tick(&mut self, _: u64) -> Checked {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.lines.push(Line::new(stream)?),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(format!("accept: {e}")),
            }
        }
        for n in ready(&self.lines)? {
            let line = &mut self.lines[n];
            if let Some(request) = line.next()? {
                let answer = [request, line.count.to_le_bytes()].concat();
                line.stream.write_all(&answer).during("answer")?;
            }
        }
        Ok(())
    }

    fn fields(&self, fields: &mut Fields) {
        fields.put("connections", self.lines.len());
    }
}

/// Its clients.
#[derive(Debug)]
pub(crate) struct Clients {
    lines: Vec<Client>,
    next: usize,
    longest: Duration,
}

#[derive(Debug)]
struct Client {
    line: Line<ANSWER>,
    /// What was asked, and when, as long as there is no answer.
    asked: Option<(u64, SystemTime)>,
}

impl Clients {
    pub(crate) fn new(options: &Options) -> Result<Self, String> {
        let service = address(options, "connect")?;
        let connect = |_| {
            let stream = TcpStream::connect(service).during("connect")?;
            Ok(Client { line: Line::new(stream)?, asked: None })
        };
        let lines = (0..options.number("connections", 1000)?).map(connect).collect::<Result<_, String>>()?;
        Ok(Self { lines, next: 0, longest: Duration::ZERO })
    }
}

impl Workload for Clients {
    fn tick(&mut self, tick: u64) -> Checked {
        for client in &mut self.lines {
            let Some((asked, since)) = client.asked else { continue };
            let Some(answer) = client.line.next()? else { continue };
            let expected = [asked.to_le_bytes(), client.line.count.to_le_bytes()].concat();
            expect_eq("answer", &answer[..], &expected[..])?;
            self.longest = self.longest.max(since.elapsed().unwrap_or_default());
            client.asked = None;
        }
        for _ in 0..AT_ONCE.min(self.lines.len()) {
            self.next = (self.next + 1) % self.lines.len();
            let client = &mut self.lines[self.next];
            if client.asked.is_none() {
                client.line.stream.write_all(&tick.to_le_bytes()).during("ask")?;
                client.asked = Some((tick, SystemTime::now()));
            }
        }
        Ok(())
    }

    fn fields(&self, fields: &mut Fields) {
        fields.put("connections", self.lines.len());
        fields.put("answers", self.lines.iter().map(|client| client.line.count).sum::<u64>());
        fields.put("fewest", self.lines.iter().map(|client| client.line.count).min().unwrap_or_default());
        fields.put("longest_wait_ms", self.longest.as_millis());
    }
}
