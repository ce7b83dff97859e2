// SPDX-License-Identifier: Apache-2.0
//! Owns the compression of a stream in pieces: each becomes a Zstandard frame of its own, several threads work at once,
//! and the frames are written in order.
//!
//! ```text
//!                ┌─▶ thread ─┐
//!  chunk ─ jobs ─┼─▶ thread ─┼─ one channel per chunk, oldest first ─▶ output ─▶ table of the frames
//! ```
//! No more chunks are on their way than there are threads, and one. Must not know what is in them.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, compress_bound};

use super::seek_table::SeekTable;

/// Threads that compress, at most.
const WORKERS: usize = 4;

/// The lowest level of which the tables are large, and how many threads have such.
const LARGE_TABLES: i32 = 4;
const LARGE_WORKERS: usize = 2;

/// Largest tables that keep an export below its memory goal at the highest levels: log2 of entries.
const TABLE_LOG_MAX: u32 = 21;

/// A piece of the stream, the first `filled` of its bytes.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) bytes: Box<[u8]>,
    pub(super) filled: usize,
}

impl Chunk {
    pub(super) fn new(size: usize) -> Self {
        Self { bytes: vec![0; size].into(), filled: 0 }
    }

    pub(super) fn content(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

struct Job {
    chunk: Arc<Chunk>,
    frame: Vec<u8>,
    done: SyncSender<io::Result<Vec<u8>>>,
}

/// A frame that is on its way, and how long it is uncompressed.
struct Pending {
    frame: Making,
    length: usize,
}

/// A frame that a thread makes, or one that is made.
enum Making {
    Compressed(Receiver<io::Result<Vec<u8>>>),
    Stored(Vec<u8>),
}

/// The threads, and what they are at.
pub(super) struct Frames {
    /// `None` only while the threads are told to end.
    jobs: Option<Sender<Job>>,
    workers: Vec<JoinHandle<()>>,
    pending: VecDeque<Pending>,
    spare: Vec<Vec<u8>>,
    table: SeekTable,
}

impl Frames {
    /// Starts the threads. The output has these frames already.
    pub(super) fn new(level: i32, table: SeekTable) -> io::Result<Self> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let workers = processors.min(if level < LARGE_TABLES { WORKERS } else { LARGE_WORKERS });
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let mut frames = Self {
            jobs: Some(jobs),
            workers: Vec::new(),
            pending: VecDeque::new(),
            spare: Vec::new(),
            table,
        };
        for _ in 0..workers {
            let mut compressor = compressor(level)?;
            let queue = Arc::clone(&queue);
            let thread = thread::Builder::new().name("compress".into());
            frames.workers.push(thread.spawn(move || work(&mut compressor, &queue))?);
        }
        Ok(frames)
    }

    /// Has a chunk compressed, and writes what is complete if enough are on their way.
    pub(super) fn compress(&mut self, chunk: Arc<Chunk>, output: &mut impl Write) -> io::Result<()> {
        let (done, frame) = sync_channel(1);
        let pending = Pending { frame: Making::Compressed(frame), length: chunk.filled };
        let job = Job { chunk, frame: self.spare.pop().unwrap_or_default(), done };
        self.jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).ok_or_else(ended)?;
        self.enqueue(pending, output)
    }

    /// Has a frame written as it is, whose content has this length. Returns which one it is, for [`Frames::position`].
    pub(super) fn stored(
        &mut self,
        frame: Vec<u8>,
        length: usize,
        output: &mut impl Write,
    ) -> io::Result<usize> {
        let number = self.table.len() + self.pending.len();
        self.enqueue(Pending { frame: Making::Stored(frame), length }, output)?;
        Ok(number)
    }

    /// Where in the output that frame is, once it is written.
    pub(super) fn position(&self, number: usize) -> Option<u64> {
        self.table.position(number)
    }

    /// The frames that were written until now.
    pub(super) fn table(&self) -> &SeekTable {
        &self.table
    }

    fn enqueue(&mut self, pending: Pending, output: &mut impl Write) -> io::Result<()> {
        self.pending.push_back(pending);
        while self.pending.len() > self.workers.len() + 1 {
            self.write_oldest(output)?;
        }
        Ok(())
    }

    /// Writes all that is on its way.
    pub(super) fn flush(&mut self, output: &mut impl Write) -> io::Result<()> {
        while !self.pending.is_empty() {
            self.write_oldest(output)?;
        }
        Ok(())
    }

    /// Writes all that is on its way, and after it the table.
    pub(super) fn finish(mut self, output: &mut impl Write) -> io::Result<()> {
        self.flush(output)?;
        output.write_all(&self.table.to_bytes()?)
    }

    fn write_oldest(&mut self, output: &mut impl Write) -> io::Result<()> {
        let Some(pending) = self.pending.pop_front() else { return Ok(()) };
        let frame = match pending.frame {
            Making::Compressed(frame) => frame.recv().map_err(|_| ended())??,
            Making::Stored(frame) => frame,
        };
        output.write_all(&frame)?;
        self.table.push(frame.len(), pending.length)?;
        self.spare.push(frame);
        Ok(())
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.jobs = None;
        for worker in self.workers.drain(..) {
            // One that panicked has been missed already.
            let _ = worker.join();
        }
    }
}

fn ended() -> io::Error {
    io::Error::other("a thread that compresses has ended")
}

/// With a checksum of each frame.
fn compressor(level: i32) -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(level)?;
    compressor.set_parameter(CParameter::ChecksumFlag(true))?;
    if level >= LARGE_TABLES {
        compressor.set_parameter(CParameter::HashLog(TABLE_LOG_MAX))?;
        compressor.set_parameter(CParameter::ChainLog(TABLE_LOG_MAX))?;
    }
    Ok(compressor)
}

/// What a thread does until no jobs come any more.
fn work(compressor: &mut Compressor<'_>, queue: &Mutex<Receiver<Job>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { chunk, mut frame, done }) = next else { return };
        frame.clear();
        frame.reserve(compress_bound(chunk.filled));
        let compressed = compressor.compress_to_buffer(chunk.content(), &mut frame).map(|_| frame);
        // Before the answer: whoever has it may use the chunk again.
        drop(chunk);
        // Nobody waits any more after an error.
        let _ = done.send(compressed);
    }
}
