// SPDX-License-Identifier: Apache-2.0
//! Owns a thread that reads and decompresses ahead of the thread that hashes and writes.
//!
//! ```text
//!  source ──read──▶ [chunk] ─full─▶ ReadAhead (BufRead)
//!            ▲───────────── empty ◀──────┘      CHUNKS buffers go round, no more
//! ```

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::{Context, Result};

const CHUNK: usize = 256 << 10;
const CHUNKS: usize = 6;

/// What the thread has read, in order.
#[derive(Debug)]
pub(super) struct ReadAhead {
    full: Receiver<io::Result<Vec<u8>>>,
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
}

/// Runs `consume` while a thread reads `source` ahead of it, and returns what it returned. The thread ends when
/// `consume` does, at the latest when a `read` that it is blocked in returns.
pub(super) fn reading_ahead<R: Read + Send, T>(
    source: R,
    consume: impl FnOnce(ReadAhead) -> Result<T>,
) -> Result<T> {
    let (full_to, full) = channel();
    let (empty, empty_from) = channel();
    for _ in 0..CHUNKS {
        empty.send(Vec::new()).context(|| "prepare buffers")?;
    }
    thread::scope(|scope| {
        thread::Builder::new()
            .name("read archive".into())
            .spawn_scoped(scope, move || produce(source, &empty_from, &full_to))
            .context(|| "start a thread that reads the archive")?;
        consume(ReadAhead { full, empty, current: Vec::new(), position: 0 })
    })
}

/// Fills buffers until the source ends or nobody takes them any more.
fn produce<R: Read>(mut source: R, empty: &Receiver<Vec<u8>>, full: &Sender<io::Result<Vec<u8>>>) {
    while let Ok(mut buffer) = empty.recv() {
        buffer.resize(CHUNK, 0);
        let mut length = 0;
        let mut failed = None;
        while length < CHUNK {
            match source.read(&mut buffer[length..]) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        buffer.truncate(length);
        let at_end = length < CHUNK;
        let taken = length == 0 || full.send(Ok(buffer)).is_ok();
        if let (true, Some(error)) = (taken, failed) {
            // A receiver that has gone needs no error: it has its own.
            let _ = full.send(Err(error));
        }
        if !taken || at_end {
            return;
        }
    }
}

impl BufRead for ReadAhead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.current.len() {
            let used = std::mem::take(&mut self.current);
            self.position = 0;
            if used.capacity() > 0 {
                // A thread that has ended needs no buffers.
                let _ = self.empty.send(used);
            }
            if let Ok(next) = self.full.recv() {
                self.current = next?;
            }
        }
        Ok(&self.current[self.position..])
    }

    fn consume(&mut self, amount: usize) {
        self.position += amount;
    }
}

impl Read for ReadAhead {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let length = available.read(to)?;
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_errors_arrive_in_order() {
        struct Failing(usize);
        impl Read for Failing {
            fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
                if self.0 == 0 {
                    return Err(io::Error::from_raw_os_error(libc::EIO));
                }
                let length = to.len().min(self.0).min(1000);
                to[..length].fill(7);
                self.0 -= length;
                Ok(length)
            }
        }
        let length = 3 * CHUNK + 17;
        let (bytes, error) = reading_ahead(Failing(length), |mut ahead| {
            let mut bytes = Vec::new();
            let error = ahead.read_to_end(&mut bytes).expect_err("it fails at the end");
            Ok((bytes, error))
        })
        .expect("the consumer succeeded");
        assert_eq!(bytes, vec![7; length]);
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }

    #[test]
    fn a_consumer_may_stop_early() {
        let first = reading_ahead(io::repeat(3), |mut ahead| {
            let mut byte = [0];
            ahead.read_exact(&mut byte).context(|| "read")?;
            Ok(byte[0])
        });
        assert_eq!(first.expect("one byte"), 3);
    }
}
