// SPDX-License-Identifier: Apache-2.0
//! A checkpoint that is on its way to another host, in a thread of its own, until somebody says what becomes of the processes. Must not
//! know what the other host says.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use super::link::Happening;
use super::protocol::{MemorySender, Sender};
use super::rounds::Sent;
use crate::checkpoint::{
    CheckpointOptions, CheckpointReport, Export, HandOver, MemoryTaker, Verdict, checkpoint,
};
use crate::engine::Container;
use crate::{Context, Error, ErrorKind, Result};

/// The checkpoint, and who ends it.
#[derive(Debug)]
pub(super) struct Held {
    verdict: mpsc::Sender<Verdict>,
    thread: JoinHandle<Result<CheckpointReport>>,
}

impl Held {
    /// Begins it, without what of it was `sent` before. [`Happening::Frozen`] tells that the processes are frozen and all of them
    /// was sent, [`Happening::Ended`] that the checkpoint has ended, both with this number.
    pub(super) fn begin(
        mut container: Container,
        options: Arc<CheckpointOptions>,
        sent: &Sent,
        sender: &Sender,
        (number, tell): (usize, mpsc::Sender<Happening>),
    ) -> Result<Self> {
        let (verdict, decided) = mpsc::channel();
        let export = HandOver {
            memory: match &sent.memory {
                Some(memory) => MemoryTaker::Ahead(memory.take_rest(sender)),
                None => MemoryTaker::OfCriu(Box::new(MemorySender::new(sender.clone()))),
            },
            rootfs: sent.files.as_ref().map(|files| files.take_rest(sender)),
            stream: sender.archive(),
            decide: decide(sender.clone(), (number, tell.clone()), decided),
        };
        let work = move || {
            let ended = checkpoint(&mut container, &options, Some(Export::Peer(export)), &mut ());
            // Whoever does not listen any more joins this thread.
            let _ = tell.send(Happening::Ended(number));
            ended
        };
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(work);
        Ok(Self { verdict, thread: thread.context(|| "start a thread for the checkpoint")? })
    }

    /// It shall end so.
    pub(super) fn decide(&self, verdict: Verdict) {
        // One that has ended by itself waits for none.
        let _ = self.verdict.send(verdict);
    }

    /// What it came to, when it has ended by itself or it was decided.
    pub(super) fn join(self) -> Result<CheckpointReport> {
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn decide(
    sender: Sender,
    (number, tell): (usize, mpsc::Sender<Happening>),
    decided: mpsc::Receiver<Verdict>,
) -> crate::checkpoint::Decide {
    Box::new(move || {
        if let Err(error) = sender.end_archive() {
            return Verdict::GoOn(error);
        }
        let _ = tell.send(Happening::Frozen(number));
        decided.recv().unwrap_or_else(|_| {
            Verdict::Stay(Error::new(ErrorKind::System, "nobody has decided what becomes of the container"))
        })
    })
}
