// SPDX-License-Identifier: Apache-2.0
//! A root filesystem as it comes, round after round: a thread lays each over what is there while it arrives. Must not know what the
//! rounds are of.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use sha2::{Digest as _, Sha256};

use crate::archive::{UnpackOptions, lay_round};
use crate::{Context, Error, ErrorKind, Result};

/// So many frames may have come that are not laid yet.
const AHEAD: usize = 8;

/// The tree, and the round that is arriving.
#[derive(Debug)]
pub(super) struct Landing {
    root: File,
    options: UnpackOptions,
    arriving: Option<Arriving>,
}

#[derive(Debug)]
struct Arriving {
    frames: SyncSender<Vec<u8>>,
    digest: Sha256,
    thread: JoinHandle<Result<UnpackOptions>>,
}

impl Landing {
    /// In this empty directory, of no more than the limits of the options, all rounds together.
    pub(super) fn new(root: File, options: UnpackOptions) -> Self {
        Self { root, options, arriving: None }
    }

    /// Whether a round has begun and not ended.
    pub(super) fn is_open(&self) -> bool {
        self.arriving.is_some()
    }

    /// Takes bytes of a round.
    ///
    /// # Errors
    /// Why they cannot be laid. The tree is of no use then.
    pub(super) fn take(&mut self, bytes: Vec<u8>) -> Result<()> {
        let arriving = match &mut self.arriving {
            Some(arriving) => arriving,
            none => none.insert(Arriving::begin(&self.root, &self.options)?),
        };
        arriving.digest.update(&bytes);
        if arriving.frames.send(bytes).is_ok() {
            return Ok(());
        }
        // The thread has ended before the round has.
        self.join().and_then(|_| Err(out_of_turn()))
    }

    /// Ends the round.
    ///
    /// # Errors
    /// Why it could not be laid, or it is not the one that was sent.
    pub(super) fn end(&mut self, digest: [u8; 32]) -> Result<()> {
        if self.join()? == digest {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::InvalidInput,
            "a part of the root filesystem is not what the other host has sent",
        )
        .with_hint("try again: something on the way has changed it"))
    }

    /// Waits until what has come of the round is laid; tells the digest of its bytes.
    fn join(&mut self) -> Result<[u8; 32]> {
        let Arriving { frames, digest, thread } = self.arriving.take().ok_or_else(out_of_turn)?;
        drop(frames);
        self.options = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(digest.finalize().into())
    }
}

/// Nobody lays anything any more when this is gone.
impl Drop for Landing {
    fn drop(&mut self) {
        if self.is_open()
            && let Err(error) = self.join()
        {
            tracing::debug!(error = error.chain(), "half a round of files was given up");
        }
    }
}

impl Arriving {
    fn begin(root: &File, options: &UnpackOptions) -> Result<Self> {
        let (frames, arrived) = sync_channel(AHEAD);
        let root = root.try_clone().context(|| "duplicate a descriptor")?;
        let mut options = options.clone();
        let work = move || {
            let frames = Frames { arrived, current: io::Cursor::new(Vec::new()) };
            lay_round(root.as_fd(), frames, &mut options).context(|| "receive the root filesystem")?;
            Ok(options)
        };
        let thread = std::thread::Builder::new().name("files".into()).spawn(work);
        let thread = thread.context(|| "start a thread that writes files")?;
        Ok(Self { frames, digest: Sha256::new(), thread })
    }
}

/// The bytes of a round, in the order in which they come.
struct Frames {
    arrived: Receiver<Vec<u8>>,
    current: io::Cursor<Vec<u8>>,
}

impl Read for Frames {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.current.read(to)?;
            if read > 0 || to.is_empty() {
                return Ok(read);
            }
            match self.arrived.recv() {
                Ok(frame) => self.current = io::Cursor::new(frame),
                Err(_) => return Ok(0),
            }
        }
    }
}

fn out_of_turn() -> Error {
    Error::new(ErrorKind::InvalidInput, "the other host ends a round of files that it has not begun")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::archive::{SentTree, Tree};

    fn round() -> Vec<u8> {
        let from = tempfile::tempdir().expect("a temporary directory");
        fs::write(from.path().join("file"), vec![7; 3 << 20]).expect("write");
        let root = File::open(from.path()).expect("open");
        let mut bytes = Vec::new();
        SentTree::new(false).round(root.as_fd(), Tree::Lives, &mut bytes, &|| Ok(())).expect("a round");
        bytes
    }

    #[test]
    fn a_round_is_laid_as_it_comes_and_compared_with_what_was_sent() {
        let bytes = round();
        for (sent, digest, fits) in [
            (&bytes[..], Sha256::digest(&bytes), true),
            (&bytes[..], Sha256::digest(b"another"), false),
            (&bytes[..bytes.len() / 2], Sha256::digest(&bytes[..bytes.len() / 2]), false),
        ] {
            let to = tempfile::tempdir().expect("a temporary directory");
            let mut landing = Landing::new(File::open(to.path()).expect("open"), UnpackOptions::default());
            for frame in sent.chunks(100) {
                landing.take(frame.to_vec()).expect("room");
            }
            assert!(landing.is_open());
            assert_eq!(landing.end(digest.into()).is_ok(), fits);
            assert!(!landing.is_open());
            landing.end(digest.into()).expect_err("none was begun");
        }
    }

    #[test]
    fn what_is_no_round_is_told_when_more_comes() {
        let to = tempfile::tempdir().expect("a temporary directory");
        let mut landing = Landing::new(File::open(to.path()).expect("open"), UnpackOptions::default());
        let mut taken = (0..1000).map(|_| landing.take(vec![b'x'; 1000]));
        assert!(taken.any(|taken| taken.is_err()), "not a thousand frames of it are taken");
    }
}
