// SPDX-License-Identifier: Apache-2.0
//! A checkpoint whose file is taken somewhere else while CRIU holds the processes: they end when it has arrived, and go on if it does
//! not. Must not know where it goes.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use super::hand_over::{Decide, Verdict};
use crate::{Context, Error, ErrorKind, Result, sys};

/// Takes the file away; the path is its own affair.
pub type Take = Box<dyn FnOnce() -> Result<()> + Send>;

/// A file, and who takes it away when it is complete.
pub struct Passed {
    /// Where the file is written.
    pub file: PathBuf,
    /// Takes it away.
    pub take: Take,
    /// Readable when it shall be given up: [`super::signals_to_give_up`].
    pub give_up: OwnedFd,
}

impl fmt::Debug for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passed").field("file", &self.file).finish_non_exhaustive()
    }
}

/// The verdict of whoever takes the file.
pub(super) fn decide(take: Take, give_up: OwnedFd) -> Decide {
    Box::new(move || match taken(take, &give_up) {
        Ok(()) => Verdict::End,
        Err(error) => Verdict::GoOn(error),
    })
}

/// Waits for the file to be taken, in a thread that nobody waits for any more when that is given up.
fn taken(take: Take, give_up: &OwnedFd) -> Result<()> {
    let (until, done) = std::io::pipe().context(|| "make a pipe")?;
    let work = move || {
        let taken = take();
        drop(done);
        taken
    };
    let thread = std::thread::Builder::new().name("passing".into()).spawn(work);
    let thread = thread.context(|| "start a thread that takes the checkpoint away")?;
    let arrived = sys::fd::wait_for_first(until.as_fd(), give_up.as_fd());
    if !arrived.context(|| "wait until the checkpoint has been taken away")? {
        let message = "the checkpoint was given up on its way: the container runs on";
        return Err(Error::new(ErrorKind::WrongStatus, message));
    }
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn what_has_arrived_ends_the_processes_and_nothing_else_does() {
        let (given_up, mut give_up) = std::io::pipe().expect("a pipe");
        let quiet = || OwnedFd::from(given_up.try_clone().expect("dup"));
        assert!(matches!(decide(Box::new(|| Ok(())), quiet())(), Verdict::End));
        let refused = || Err(Error::new(ErrorKind::Registry, "the registry is away"));
        let Verdict::GoOn(why) = decide(Box::new(refused), quiet())() else { panic!("it did not arrive") };
        assert_eq!(why.kind(), ErrorKind::Registry);
        // One that is on its way for ever.
        let (_keep, never) = mpsc::channel::<()>();
        give_up.write_all(b"x").expect("write");
        let hangs = move || {
            let _ = never.recv();
            Ok(())
        };
        let Verdict::GoOn(why) = decide(Box::new(hangs), quiet())() else { panic!("it was given up") };
        assert!(why.to_string().contains("given up"), "{why}");
    }
}
