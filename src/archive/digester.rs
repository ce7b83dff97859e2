// SPDX-License-Identifier: Apache-2.0
//! Owns a thread that hashes what is being compressed at the same time.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use sha2::{Digest as _, Sha256};

use super::frames::Chunk;
use super::index::Digest;

/// Chunks that wait to be hashed, at most.
const WAITING: usize = 2;

enum Message {
    Data(Arc<Chunk>, Range<usize>),
    End(SyncSender<Digest>),
}

/// One member's data after the other. The thread starts with the first of them: what is small needs none.
#[derive(Default)]
pub(super) struct Digester {
    thread: Option<(SyncSender<Message>, JoinHandle<()>)>,
}

impl Digester {
    /// More of the member's data: this part of a chunk.
    pub(super) fn update(&mut self, chunk: Arc<Chunk>, part: Range<usize>) -> io::Result<()> {
        self.send(Message::Data(chunk, part))
    }

    /// The digest of all the data; what comes next is another member's.
    pub(super) fn finish(&mut self) -> io::Result<Digest> {
        let (answer, digest) = sync_channel(1);
        self.send(Message::End(answer))?;
        digest.recv().map_err(|_| ended())
    }

    fn send(&mut self, message: Message) -> io::Result<()> {
        let (messages, _) = match &mut self.thread {
            Some(started) => started,
            none => none.insert(started()?),
        };
        messages.send(message).map_err(|_| ended())
    }
}

impl Drop for Digester {
    fn drop(&mut self) {
        if let Some((messages, thread)) = self.thread.take() {
            drop(messages);
            // One that panicked has been missed already.
            let _ = thread.join();
        }
    }
}

fn started() -> io::Result<(SyncSender<Message>, JoinHandle<()>)> {
    let (messages, received) = sync_channel(WAITING);
    let thread = thread::Builder::new().name("hash".into()).spawn(move || hash(&received))?;
    Ok((messages, thread))
}

fn ended() -> io::Error {
    io::Error::other("the thread that hashes has ended")
}

fn hash(received: &Receiver<Message>) {
    let mut hasher = Sha256::new();
    for message in received {
        match message {
            Message::Data(chunk, part) => hasher.update(&chunk.content()[part]),
            Message::End(answer) => {
                // Nobody waits any more after an error.
                let _ = answer.send(Digest::of(std::mem::take(&mut hasher)));
            }
        }
    }
}
