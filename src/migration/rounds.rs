// SPDX-License-Identifier: Apache-2.0
//! What goes to the other host while its containers run, round after round, in a thread of its own: files, then memory, then what has
//! changed of either meanwhile; and what is left of the memory, when the processes stand still. A round of memory is of all containers
//! that move together, which stand still together. Nothing is written down of it, and whoever ends it leaves nothing behind. Must not know
//! what comes after.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::brake::Brake;
use super::files::Files;
use super::link::{Happening, Link, interrupted, loss};
use super::pace::Pace;
use super::predictor::{Advice, Measured, RoundLimits, advice};
use super::protocol::{Answer, Sender, told};
use super::report::{Progress, Round};
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

/// What of one container goes ahead, and has been sent of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Sent {
    /// Unless it is CRIU that sends it.
    pub(super) memory: Option<Memory>,
    /// Unless the root filesystem is in the archive.
    pub(super) files: Option<Files>,
}

/// What has been sent of its memory, for the rounds and for what follows them.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory(Arc<Mutex<SentMemory>>);

#[derive(Debug, Default)]
struct SentMemory {
    /// Dropped only when the container does not stand still any more: that takes some time.
    ahead: Ahead,
    /// Bytes that were sent while it stood still.
    rest: u64,
    /// What slows the container down, if anything does.
    brake: Option<Brake>,
}

impl Memory {
    fn with<T>(&self, work: impl FnOnce(&mut SentMemory) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many bytes were sent after the rounds.
    pub(super) fn rest(&self) -> u64 {
        self.with(|sent| sent.rest)
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

/// A container that is being sent.
struct Member {
    brake: Brake,
    sent: Sent,
    sender: Sender,
}

/// The rounds that are being made.
#[derive(Debug)]
struct Rounds {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Rounds {
    /// Begins them. [`Happening::Round`] tells of each, [`Happening::RoundsEnded`] of the end.
    fn begin(members: Vec<Member>, tell: &mpsc::Sender<Happening>, limits: RoundLimits) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, stopped) = (tell.clone(), stop.clone());
        let work = move || {
            let pace = RefCell::new(Pace::new(limits.bandwidth));
            let ended = Making { members, tell: &tell, stop: &stopped, limits, pace }.all();
            let _ = tell.send(Happening::RoundsEnded);
            ended
        };
        let thread = std::thread::Builder::new().name("rounds".into()).spawn(work);
        Ok(Self { stop, thread: thread.context(|| "start a thread that sends rounds")? })
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

/// Who makes them.
struct Making<'a> {
    members: Vec<Member>,
    tell: &'a mpsc::Sender<Happening>,
    stop: &'a AtomicBool,
    limits: RoundLimits,
    pace: RefCell<Pace>,
}

impl Making<'_> {
    fn all(mut self) -> Result<()> {
        for member in &self.members {
            while member.sent.files.as_ref().is_some_and(|files| !files.is_enough(self.limits.files)) {
                self.files(member)?;
            }
        }
        if self.members.iter().all(|member| member.sent.memory.is_some()) {
            self.memory()?;
            // What was written to files while memory was sent, and to memory meanwhile.
            if self.members.iter().any(|member| member.sent.files.is_some()) {
                self.members.iter().try_for_each(|member| self.files(member))?;
                match self.round() {
                    Err(Stopped::Unsent(error)) => return Err(error),
                    Ok(_) | Err(Stopped::Untracked(_)) => {}
                }
            }
        }
        for Member { brake, sent, .. } in self.members {
            if let Some(memory) = sent.memory {
                memory.with(|sent| sent.brake = Some(brake));
            }
        }
        Ok(())
    }

    /// A round of one container's files.
    fn files(&self, member: &Member) -> Result<()> {
        let Some(files) = &member.sent.files else { return Ok(()) };
        let before = std::cell::Cell::new(member.sender.bytes());
        let go_on = || {
            let now = member.sender.bytes();
            self.go_on(usize::try_from(now - before.replace(now)).unwrap_or(usize::MAX))
        };
        let round = files.round(&member.sender, &go_on)?;
        let _ = self.tell.send(Happening::Round(Progress::FileRound(round)));
        Ok(())
    }

    /// The rounds of memory, until it is enough.
    fn memory(&mut self) -> Result<()> {
        let (mut measured, mut failures) = (Vec::new(), 0);
        // Those before the containers were slowed down tell nothing of what comes.
        let mut since = 0;
        loop {
            let recent = measured.get(since..).unwrap_or_default();
            let more = (measured.len() as u64) < self.limits.most.into();
            match advice(recent, self.limits) {
                Advice::Again if more => {}
                Advice::StopLate if more && self.limits.auto_converge => {
                    if !slow_down(&mut self.members, recent) {
                        return Ok(());
                    }
                    since = measured.len();
                }
                _ => return Ok(()),
            }
            match self.round() {
                Ok(round) => measured.push(round),
                Err(Stopped::Unsent(error)) => return Err(error),
                Err(Stopped::Untracked(error)) => {
                    failures += 1;
                    tracing::warn!(error = error.chain(), "the memory of a process cannot be tracked");
                    if failures >= FAILURES {
                        // What is not known to be there is sent when the processes stand still.
                        return Ok(());
                    }
                }
            }
        }
    }

    /// One round of the memory of all of them.
    fn round(&mut self) -> std::result::Result<Measured, Stopped> {
        let mut round = Round { dirty: 0, bytes: 0, zeros: 0, seconds: Duration::ZERO, processors: None };
        self.members.iter_mut().for_each(|member| member.brake.look());
        for Member { brake, sent, sender } in &self.members {
            let Some(memory) = &sent.memory else { continue };
            memory.with(|memory| {
                let found = processes(brake.container()).and_then(|processes| memory.ahead.look(&processes));
                let found = found.map_err(Stopped::Untracked)?;
                round.dirty += found.dirty_bytes();
                let begin = Instant::now();
                let (bytes, zeros) = self.send(memory, &found, sender).map_err(Stopped::Unsent)?;
                round.bytes += bytes;
                round.zeros += zeros;
                round.seconds += begin.elapsed();
                Ok(())
            })?;
            if let Some(processors) = brake.processors() {
                round.processors = Some(round.processors.unwrap_or_default() + processors);
            }
        }
        let _ = self.tell.send(Happening::Round(Progress::Round(round)));
        Ok(Measured { dirty: round.dirty, sent: round.bytes, took: round.seconds })
    }

    /// Bytes that were sent, and bytes that were told to be zero.
    fn send(&self, memory: &mut SentMemory, round: &DirtyRound, sender: &Sender) -> Result<(u64, u64)> {
        let totals = memory.ahead.send(round, &mut |batch| {
            sender.pages(batch)?;
            self.go_on(batch.len())
        })?;
        Ok((totals.bytes, totals.zeros))
    }

    /// So many bytes were sent: whether more of them may be.
    fn go_on(&self, bytes: usize) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::System, "the migration was given up"));
        }
        self.pace.borrow_mut().keep(bytes);
        Ok(())
    }
}

/// Slows down those that can be; whether there are any.
fn slow_down(members: &mut [Member], rounds: &[Measured]) -> bool {
    members.iter_mut().fold(false, |slower, member| member.brake.slow_down(rounds) | slower)
}

/// What ends a round before its end.
enum Stopped {
    /// A process whose memory cannot be tracked.
    Untracked(Error),
    /// The connection, or the caller.
    Unsent(Error),
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

/// Makes the rounds of what goes ahead of each container, until it is enough; tells those of memory. They run, whatever becomes of that.
///
/// # Errors
/// What has ended them: the caller wants to give up, the connection or the other side is lost.
pub(super) fn run(
    link: &Link,
    happenings: &mpsc::Receiver<Happening>,
    containers: Vec<Container>,
    sent: &[Sent],
    limits: RoundLimits,
    tell: &mut dyn FnMut(Progress),
) -> Result<Vec<Round>> {
    let members = containers.into_iter().zip(sent).enumerate().map(|(number, (container, sent))| Member {
        brake: Brake::of(container),
        sent: sent.clone(),
        sender: link.sender().of_member(number),
    });
    let members: Vec<Member> = members.collect();
    let mut made = Vec::new();
    let rounds = Rounds::begin(members, link.tell(), limits)?;
    let (mut reason, mut deadline) = (None, None);
    loop {
        let happening = match deadline {
            None => happenings.recv().ok(),
            Some(deadline) => {
                happenings.recv_timeout(Instant::now().max(deadline).duration_since(Instant::now())).ok()
            }
        };
        let why = match happening {
            Some(Happening::RoundsEnded) => break,
            Some(Happening::Round(round)) => {
                if let Progress::Round(round) = round {
                    made.push(round);
                }
                tell(round);
                continue;
            }
            Some(Happening::Heard(_) | Happening::Frozen(_) | Happening::Ended(_)) => continue,
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
    reason.map_or(ended, Err).map(|()| made)
}
