// SPDX-License-Identifier: Apache-2.0
//! The body of an answer: where it ends, by the three ways that HTTP/1.1 has for that. A body that ends early is an error,
//! never a short body.

use std::io::{self, BufRead, Read};
use std::time::Instant;

use super::connection::Connection;
use super::{Limits, invalid_answer};
use crate::{Context, Result};

/// Longest line that says how long a chunk is.
const LINE: usize = 256;

/// How the end is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes are left.
    Length(u64),
    /// So many bytes of this chunk are left; `None` before the first chunk.
    Chunked(Option<u64>),
    /// When the connection ends.
    ToTheEnd,
    /// It was read to its end.
    Done,
}

/// A body that is being read.
pub(in crate::registry) struct Body {
    connection: Connection,
    framing: Framing,
    limits: Limits,
    started: Instant,
}

impl Body {
    pub(super) fn new(connection: Connection, framing: Framing, limits: Limits) -> Self {
        let framing = if framing == Framing::Length(0) { Framing::Done } else { framing };
        Self { connection, framing, limits, started: Instant::now() }
    }

    /// The whole body, if it is not larger than `limit`.
    pub(in crate::registry) fn bounded(
        mut self,
        limit: u64,
        what: &str,
    ) -> Result<(Vec<u8>, Option<Connection>)> {
        let mut bytes = Vec::new();
        let mut buffer = [0; 8 << 10];
        loop {
            let read = self.read(&mut buffer).context(|| format!("read {what}"))?;
            if read == 0 {
                return Ok((bytes, self.into_connection()));
            }
            bytes.extend_from_slice(&buffer[..read]);
            if bytes.len() as u64 > limit {
                return Err(invalid_answer(format!("{what} is larger than {limit} bytes")));
            }
            if self.started.elapsed() > self.limits.small_answer() {
                return Err(invalid_answer(format!("{what} comes too slowly")));
            }
        }
    }

    /// The connection, if another request can be made over it.
    pub(super) fn into_connection(self) -> Option<Connection> {
        (self.framing == Framing::Done).then_some(self.connection)
    }

    /// Reads the line before a chunk, and after the last one what follows it.
    fn next_chunk(&mut self, is_first: bool) -> io::Result<u64> {
        if !is_first {
            let end = self.line()?;
            if !end.is_empty() {
                return Err(wrong("a chunk does not end where it should"));
            }
        }
        let line = self.line()?;
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let digits =
            std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
        let size = digits.and_then(|text| u64::from_str_radix(text, 16).ok());
        let size = size.ok_or_else(|| wrong("a chunk has no size"))?;
        if size == 0 {
            for _ in 0..self.limits.headers {
                if self.line()?.is_empty() {
                    return Ok(0);
                }
            }
            return Err(wrong("too much follows the last chunk"));
        }
        Ok(size)
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        (&mut self.connection).take(LINE as u64).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(if line.len() + 1 >= LINE { wrong("a line is too long") } else { early() });
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(line)
    }
}

impl Read for Body {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if to.is_empty() {
            return Ok(0);
        }
        let left = match self.framing {
            Framing::Done => return Ok(0),
            Framing::ToTheEnd => u64::MAX,
            Framing::Length(left) => left,
            Framing::Chunked(left) => match left {
                Some(left @ 1..) => left,
                _ => match self.next_chunk(left.is_none())? {
                    0 => {
                        self.framing = Framing::Done;
                        return Ok(0);
                    }
                    size => size,
                },
            },
        };
        let most = to.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = self.connection.read(&mut to[..most])?;
        match &mut self.framing {
            Framing::ToTheEnd if read == 0 => return Ok(0),
            Framing::ToTheEnd | Framing::Done => {}
            _ if read == 0 => return Err(early()),
            Framing::Length(rest) => *rest = left - read as u64,
            Framing::Chunked(rest) => *rest = Some(left - read as u64),
        }
        if self.framing == Framing::Length(0) {
            self.framing = Framing::Done;
        }
        Ok(read)
    }
}

fn early() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended in the middle of an answer")
}

fn wrong(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
