// SPDX-License-Identifier: Apache-2.0
//! A checkpoint that somebody else takes over while CRIU holds the processes, and the end of that hold.
//!
//! ```text
//!  criu ── memory ──▶ HandOver.memory ┐
//!  images, root filesystem ─▶ .stream ┴─ all of it given ─▶ .decide ─▶ Verdict
//!                                        (the cgroup is frozen underneath from post-dump on)
//! ```
//! Whoever has been given memory before, while the processes ran ([`MemoryTaker::Ahead`]), is asked to take what it still needs; CRIU then
//! only lists it. So it is with the root filesystem.
//!
//! | verdict | the processes |
//! | --- | --- |
//! | `End` | are killed while they are frozen: they execute nothing any more |
//! | `GoOn` | go on as before |
//! | `Stay` | stay frozen, without CRIU or anybody else behind them |
//!
//! When the caller or CRIU is killed in the hold, that is as if the verdict had been `Stay`. Must not know who takes the checkpoint
//! over, nor why the verdict is what it is.

use std::fmt;
use std::io::Write;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, PoisonError};

use crate::engine::Container;
use crate::pages::ahead::Left;
use crate::pages::receive::Keeper;
use crate::{Error, Result};

/// What becomes of processes whose checkpoint is complete and in other hands.
#[derive(Debug)]
pub enum Verdict {
    /// They end: they run elsewhere.
    End,
    /// They go on, for this reason.
    GoOn(Error),
    /// It is not known: they must neither run nor end, for this reason.
    Stay(Error),
}

/// Asks for the verdict, for as long as that takes. It is not asked unless everything was given.
pub type Decide = Box<dyn FnOnce() -> Verdict + Send>;

/// Takes what it still needs of processes that stand still, out of their memory.
pub type TakeRest = Box<dyn FnOnce(&[Left]) -> Result<()> + Send>;

/// Takes what it still needs of a root filesystem that nobody writes to, which is open.
pub type TakeRootfs = Box<dyn FnOnce(BorrowedFd<'_>) -> Result<()> + Send>;

/// Whoever takes the memory of a checkpoint over.
pub enum MemoryTaker {
    /// This, while CRIU dumps it.
    OfCriu(Box<dyn Keeper + Send>),
    /// This, when CRIU has listed it: it has taken most of it before. See [`can_leave_memory`](super::can_leave_memory).
    Ahead(TakeRest),
}

/// Whoever takes a checkpoint over.
pub struct HandOver {
    /// Takes the memory.
    pub memory: MemoryTaker,
    /// Takes the root filesystem, of which it has most; `None`: as the archive's options say.
    pub rootfs: Option<TakeRootfs>,
    /// Takes all else, as an archive, when the memory is complete.
    pub stream: Box<dyn Write + Send>,
    /// Decides.
    pub decide: Decide,
}

impl fmt::Debug for MemoryTaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OfCriu(_) => "OfCriu(..)",
            Self::Ahead(_) => "Ahead(..)",
        })
    }
}

impl fmt::Debug for HandOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandOver").finish_non_exhaustive()
    }
}

/// What has become of the processes by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Fate {
    /// They are as CRIU leaves them.
    #[default]
    Open,
    /// They were killed.
    Ended,
    /// They stay frozen.
    Stays,
}

/// Keeps the fate of the processes for whoever comes after CRIU's end.
#[derive(Debug, Default)]
pub(super) struct Custody(Mutex<Fate>);

impl Custody {
    pub(super) fn fate(&self) -> Fate {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, fate: Fate) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = fate;
    }

    /// Has the verdict, and does what must be done before CRIU is answered. Of an `Err` CRIU learns that it shall let the
    /// processes go.
    pub(super) fn end(&self, container: &Container, decide: Decide) -> Result<()> {
        // Until the verdict is known, whatever happens: they stay.
        self.set(Fate::Stays);
        match decide() {
            Verdict::End => {
                // Frozen ones that are killed die as they are thawed; CRIU, which traces them, could not kill them before.
                container.cgroup()?.doom()?;
                self.set(Fate::Ended);
                Ok(())
            }
            Verdict::GoOn(reason) => {
                self.set(Fate::Open);
                Err(reason)
            }
            Verdict::Stay(reason) => Err(reason),
        }
    }
}

/// Lets a container go on whose checkpoint nobody has taken over, when CRIU has let it go.
pub(super) fn release(container: &Container) -> Result<()> {
    if container.init().is_none() {
        return Ok(());
    }
    container.cgroup()?.thaw()
}
