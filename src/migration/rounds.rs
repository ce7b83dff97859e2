// SPDX-License-Identifier: Apache-2.0
//! Memory that goes to the other host while the container runs, round after round, in a thread of its own; and what is left of it, when
//! the processes stand still. Nothing is written down of it, and whoever ends it leaves nothing behind. Must not know what comes after.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::brake::Brake;
use super::link::{Happening, Link};
use super::pace::Pace;
use super::predictor::{Advice, Measured, RoundLimits, advice};
use super::protocol::{Answer, Sender, told};
use super::report::{Progress, Round};
use super::sending::{interrupted, loss};
use crate::checkpoint::{TakeRest, can_leave_memory};
use crate::criu::Version;
use crate::criu::image::PAGE;
use crate::engine::Container;
use crate::pages::ahead::{Ahead, Left};
use crate::pages::track::{self, DirtyRound};
use crate::sys::ancestry::Ancestry;
use crate::{Context, Error, ErrorKind, Result};

/// Rounds that fail, because a process cannot be tracked at the moment: after so many of them the others do without it.
const FAILURES: u32 = 3;

/// How long rounds that shall end may take to do so before the connection is broken.
const PATIENCE: Duration = Duration::from_secs(2);

/// What has been sent, for the rounds and for what follows them.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory(Arc<Mutex<Sent>>);

#[derive(Debug, Default)]
struct Sent {
    /// Dropped only when the container does not stand still any more: that takes some time.
    ahead: Ahead,
    rounds: Vec<Round>,
    /// Bytes that were sent while it stood still.
    rest: u64,
    /// What slows the container down, if anything does.
    brake: Option<Brake>,
}

impl Memory {
    fn with<T>(&self, work: impl FnOnce(&mut Sent) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The rounds that were made, and how many bytes were sent after them.
    pub(super) fn report(&self) -> (Vec<Round>, u64) {
        self.with(|sent| (sent.rounds.clone(), sent.rest))
    }

    /// Sends what is left of it, once CRIU has listed it, and which process has which memory.
    pub(super) fn take_rest(&self, sender: &Sender) -> TakeRest {
        let (memory, sender) = (self.clone(), sender.clone());
        Box::new(move |left: &[Left]| {
            memory.with(|sent| {
                // They stand still: nothing has to slow them down any more.
                sent.brake = None;
                let rest = sent.ahead.rest(left, &mut |batch| sender.pages(batch))?;
                sent.rest = rest.totals.bytes;
                sender.memory_is_complete(&rest.processes)
            })
        })
    }
}

/// The rounds that are being made.
#[derive(Debug)]
struct Rounds {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Rounds {
    /// Begins them. [`Happening::Round`] tells of each, [`Happening::Ended`] of the end.
    fn begin(
        memory: &Memory,
        container: Container,
        sender: &Sender,
        tell: &mpsc::Sender<Happening>,
        limits: RoundLimits,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (memory, sender, tell, stopped) = (memory.clone(), sender.clone(), tell.clone(), stop.clone());
        let work = move || {
            let ended = memory.with(|sent| make(sent, container, &sender, &tell, &stopped, limits));
            let _ = tell.send(Happening::Ended);
            ended
        };
        let thread = std::thread::Builder::new().name("rounds".into()).spawn(work);
        Ok(Self { stop, thread: thread.context(|| "start a thread that sends memory")? })
    }

    /// Has them end with the next batch.
    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// What they came to, when they have ended.
    fn join(self) -> Result<()> {
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn make(
    sent: &mut Sent,
    container: Container,
    sender: &Sender,
    tell: &mpsc::Sender<Happening>,
    stop: &AtomicBool,
    limits: RoundLimits,
) -> Result<()> {
    let (mut measured, mut failures) = (Vec::new(), 0);
    let (mut brake, mut pace) = (Brake::of(container), Pace::new(limits.bandwidth));
    // Those before the container was slowed down tell nothing of what comes.
    let mut since = 0;
    loop {
        let recent = measured.get(since..).unwrap_or_default();
        let more = (measured.len() as u64) < limits.most.into();
        match advice(recent, limits) {
            Advice::Again if more => {}
            Advice::StopLate if more && limits.auto_converge => {
                if !brake.slow_down(recent) {
                    break;
                }
                since = measured.len();
            }
            _ => break,
        }
        brake.look();
        let looked = processes(brake.container()).and_then(|processes| sent.ahead.look(&processes));
        let round = match looked {
            Ok(round) => round,
            Err(error) => {
                failures += 1;
                tracing::warn!(error = error.chain(), "the memory of a process cannot be tracked");
                if failures >= FAILURES {
                    // What is not known to be there is sent when the processes stand still.
                    break;
                }
                continue;
            }
        };
        let dirty = round.dirty_bytes();
        let begin = Instant::now();
        let totals = send(sent, &round, sender, stop, &mut pace)?;
        let took = begin.elapsed();
        measured.push(Measured { dirty, sent: totals.0, took });
        let round =
            Round { dirty, bytes: totals.0, zeros: totals.1, seconds: took, processors: brake.processors() };
        sent.rounds.push(round);
        let _ = tell.send(Happening::Round(round));
    }
    sent.brake = Some(brake);
    Ok(())
}

/// Bytes that were sent, and bytes that were told to be zero.
fn send(
    sent: &mut Sent,
    round: &DirtyRound,
    sender: &Sender,
    stop: &AtomicBool,
    pace: &mut Pace,
) -> Result<(u64, u64)> {
    let totals = sent.ahead.send(round, &mut |batch| {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::System, "the migration was given up"));
        }
        sender.pages(batch)?;
        pace.keep(batch.len());
        Ok(())
    })?;
    Ok((totals.bytes, totals.zeros))
}

/// Those that CRIU will dump: the first one and who descends from it.
fn processes(container: &Container) -> Result<Vec<i32>> {
    let init =
        container.init().ok_or_else(|| Error::new(ErrorKind::WrongStatus, "the container has ended"))?;
    let mut ancestry = Ancestry::default();
    let mut seen = HashSet::new();
    let all = container.processes()?;
    Ok(all.into_iter().filter(|pid| ancestry.descends(*pid, init.pid) && seen.insert(*pid)).collect())
}

/// Whether memory can be sent while the container runs.
///
/// # Errors
/// Why not.
pub(super) fn possible(criu: Option<Version>, answer: &Answer) -> Result<()> {
    let refuse = |why: &str| Err(Error::new(ErrorKind::Unsupported, why.to_owned()));
    if !answer.takes_pages {
        return refuse("the other host cannot put memory into place while the container runs");
    }
    match nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE) {
        Ok(Some(size)) if u64::try_from(size) == Ok(PAGE) => {}
        _ => return refuse("pages of memory are not of 4096 bytes here"),
    }
    track::supported()?;
    criu.map_or(Ok(()), can_leave_memory)
}

/// Makes the rounds, until it is enough. The container runs, whatever becomes of them.
///
/// # Errors
/// What has ended them: the caller wants to give up, the connection or the other side is lost.
pub(super) fn run(
    link: &Link,
    happenings: &mpsc::Receiver<Happening>,
    container: Container,
    limits: RoundLimits,
    tell: &mut dyn FnMut(Progress),
) -> Result<Memory> {
    let memory = Memory::default();
    let rounds = Rounds::begin(&memory, container, link.sender(), link.tell(), limits)?;
    let (mut reason, mut deadline) = (None, None);
    loop {
        let happening = match deadline {
            None => happenings.recv().ok(),
            Some(deadline) => {
                happenings.recv_timeout(Instant::now().max(deadline).duration_since(Instant::now())).ok()
            }
        };
        let why = match happening {
            Some(Happening::Ended) => break,
            Some(Happening::Round(round)) => {
                tell(Progress::Round(round));
                continue;
            }
            Some(Happening::Heard(_) | Happening::Frozen) => continue,
            Some(Happening::Failed(blocker)) => told(&blocker),
            Some(Happening::Interrupted) => interrupted(),
            Some(Happening::Lost(_, error)) => loss(error),
            None => {
                // They write to a connection that takes nothing.
                link.cut();
                deadline = None;
                continue;
            }
        };
        reason.get_or_insert(why);
        rounds.stop();
        deadline = Some(Instant::now() + PATIENCE);
    }
    let ended = rounds.join();
    reason.map_or(ended, Err).map(|()| memory)
}
