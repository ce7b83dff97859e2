// SPDX-License-Identifier: Apache-2.0
//! The root filesystem, which goes to the other host in rounds while the container runs; and what is left of it, when it stands still.
//! Must not know what else is sent.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::protocol::Sender;
use super::report::FileRound;
use crate::archive::{SentTree, Tree, tells_of_writes};
use crate::checkpoint::{TakeRootfs, written_to};
use crate::engine::Container;
use crate::{Context, Result};

/// When no more than so many bytes were other, they are not sent ahead again: the last round is short.
const FEW: u64 = 1 << 20;

/// What has been sent of it, for the rounds and for what follows them.
#[derive(Debug, Clone)]
pub(super) struct Files(Arc<Mutex<Sent>>);

#[derive(Debug)]
struct Sent {
    path: PathBuf,
    tree: SentTree,
    rounds: Vec<FileRound>,
    /// What was sent while the container stood still.
    rest: Option<FileRound>,
}

impl Files {
    /// Nothing of this container's yet.
    ///
    /// # Errors
    /// When its root filesystem cannot be looked at.
    pub(super) fn of(container: &Container) -> Result<Self> {
        let path = container.state().rootfs.clone();
        let told = written_to(&path)?.is_some_and(|directory| tells_of_writes(directory.as_fd()));
        let tree = SentTree::new(told);
        Ok(Self(Arc::new(Mutex::new(Sent { path, tree, rounds: Vec::new(), rest: None }))))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Sent) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a round, unless `go_on` fails on the way.
    pub(super) fn round(&self, sender: &Sender, go_on: &dyn Fn() -> Result<()>) -> Result<FileRound> {
        self.with(|sent| {
            let root = File::open(&sent.path).context(|| format!("open {}", sent.path.display()))?;
            let round = sent.round(root.as_fd(), Tree::Lives, sender, go_on)?;
            sent.rounds.push(round);
            Ok(round)
        })
    }

    /// Whether a further round is of use, of at most so many.
    pub(super) fn is_enough(&self, most: u32) -> bool {
        self.with(|sent| enough(&sent.rounds, most))
    }

    /// The rounds that were made, and what was sent after them.
    pub(super) fn report(&self) -> (Vec<FileRound>, Option<FileRound>) {
        self.with(|sent| (sent.rounds.clone(), sent.rest))
    }

    /// Sends what is left when nobody writes any more.
    pub(super) fn take_rest(&self, sender: &Sender) -> TakeRootfs {
        let (files, sender) = (self.clone(), sender.clone());
        Box::new(move |root: BorrowedFd<'_>| {
            files.with(|sent| {
                sent.rest = Some(sent.round(root, Tree::StandsStill, &sender, &|| Ok(()))?);
                Ok(())
            })
        })
    }
}

impl Sent {
    fn round(
        &mut self,
        root: BorrowedFd<'_>,
        tree: Tree,
        sender: &Sender,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<FileRound> {
        let begin = Instant::now();
        let mut stream = sender.files();
        let sent = self.tree.round(root, tree, &mut stream, go_on).context(|| "send the root filesystem")?;
        stream.end(tree == Tree::StandsStill)?;
        Ok(FileRound {
            files: sent.files,
            removed: sent.removed,
            bytes: sent.bytes,
            seconds: begin.elapsed(),
        })
    }
}

/// Whether these rounds were enough: what will be left is little, or does not get less.
fn enough(rounds: &[FileRound], most: u32) -> bool {
    if rounds.len() as u64 >= most.into() {
        return true;
    }
    match rounds {
        [] => false,
        [.., last] if last.bytes <= FEW => true,
        [.., before, last] => last.bytes.saturating_mul(2) > before.bytes,
        [_] => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rounds_end_when_little_is_left_or_it_does_not_get_less() {
        const MIB: u64 = 1 << 20;
        for (bytes, most, expected) in [
            (&[][..], 5, false),
            (&[], 0, true),
            (&[100 * MIB], 5, false),
            (&[100 * MIB], 1, true),
            (&[MIB / 2], 5, true),
            (&[100 * MIB, 40 * MIB], 5, false),
            (&[100 * MIB, 60 * MIB], 5, true),
            (&[100 * MIB, 40 * MIB, MIB], 5, true),
        ] {
            let round =
                |bytes: &u64| FileRound { files: 1, removed: 0, bytes: *bytes, seconds: Duration::ZERO };
            let rounds: Vec<_> = bytes.iter().map(round).collect();
            assert_eq!(enough(&rounds, most), expected, "{bytes:?} of {most}");
        }
    }
}
