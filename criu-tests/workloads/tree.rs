// SPDX-License-Identifier: Apache-2.0
//! `tree`: a family of processes that count in memory they share.
//!
//! ```text
//!   pid 1 ┬─ worker ── grandchild
//!         ├─ leader (setsid) ── member (own process group in the leader's session)
//!         ├─ zombie (exited with ZOMBIE_EXIT, not reaped until SIGUSR1 or the end)
//!         └─ stopped (only with --stopped)
//! ```
//! Each process checks its own ids on every step and leaves its verdict in its slot of the shared memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpgrp, getpid, getppid, getsid, setpgid, setsid};

use crate::lifecycle::{Checked, During as _, PATIENCE, Workload, expect_alive, expect_eq};
use crate::options::Options;
use crate::report::Fields;
use crate::sys;

/// The exit code that the zombie holds.
const ZOMBIE_EXIT: i32 = 42;
const STEP: Duration = Duration::from_millis(10);

const NAMES: [&str; 5] = ["worker", "grandchild", "leader", "member", "stopped"];
const WORKER: usize = 0;
const GRANDCHILD: usize = 1;
const LEADER: usize = 2;
const MEMBER: usize = 3;
const STOPPED: usize = 4;

/// The shared words of one process.
#[derive(Debug, Clone, Copy)]
struct Slot {
    steps: &'static AtomicU64,
    pid: &'static AtomicU64,
    /// 0 is good, else the number of the check that failed.
    verdict: &'static AtomicU64,
}

#[derive(Debug)]
pub(crate) struct Tree {
    slots: Vec<Slot>,
    seen: Vec<(u64, Instant)>,
    worker: Pid,
    leader: Pid,
    zombie: Option<Pid>,
    stopped: Option<Pid>,
    zombie_exit: Option<i32>,
    session: Pid,
}

impl Tree {
    pub(crate) fn new(options: &Options) -> Result<Self, String> {
        let words: &'static [AtomicU64] = sys::shared_words(3 * NAMES.len()).during("mmap")?;
        let slots: Vec<Slot> =
            words.chunks(3).map(|w| Slot { steps: &w[0], pid: &w[1], verdict: &w[2] }).collect();

        let worker = start(&slots, WORKER, |slots| start(slots, GRANDCHILD, |_| Ok(())).map(drop))?;
        let leader = start(&slots, LEADER, |slots| {
            setsid().during("setsid")?;
            let own_group = |_: &[Slot]| setpgid(Pid::from_raw(0), Pid::from_raw(0)).during("setpgid");
            start(slots, MEMBER, own_group).map(drop)
        })?;
        let zombie = sys::fork(|| ZOMBIE_EXIT).during("fork")?;
        waitid(Id::Pid(zombie), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).during("waitid")?;
        let stopped = options.has("stopped").then(|| start(&slots, STOPPED, |_| Ok(()))).transpose()?;
        if let Some(pid) = stopped {
            kill(pid, Signal::SIGSTOP).during("kill")?;
            waitpid(pid, Some(WaitPidFlag::WUNTRACED)).during("waitpid")?;
        }
        let seen = vec![(0, Instant::now()); slots.len()];
        let session = getsid(None).during("getsid")?;
        Ok(Self { slots, seen, worker, leader, zombie: Some(zombie), stopped, zombie_exit: None, session })
    }

    fn check_progress(&mut self) -> Checked {
        let last = if self.stopped.is_some() { STOPPED } else { MEMBER };
        for ((slot, seen), name) in self.slots.iter().zip(&mut self.seen).zip(NAMES).take(last + 1) {
            expect_eq(name, slot.verdict.load(Ordering::Acquire), 0)?;
            let steps = slot.steps.load(Ordering::Acquire);
            if steps < seen.0 {
                return Err(format!("{name} went from {} steps back to {steps}", seen.0));
            }
            if steps > seen.0 {
                *seen = (steps, Instant::now());
            } else if seen.1.elapsed() > PATIENCE && name != NAMES[STOPPED] {
                return Err(format!("{name} stays at {steps} steps"));
            }
        }
        Ok(())
    }

    fn check_zombie(&self) -> Checked {
        let Some(pid) = self.zombie else { return Ok(()) };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).during("zombie's stat")?;
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let mut fields = after_name.split_whitespace();
        expect_eq("zombie's state", fields.next(), Some("Z"))?;
        expect_eq("zombie's parent", fields.next(), Some(getpid().to_string().as_str()))
    }

    fn reap_zombie(&mut self) -> Checked {
        if let Some(pid) = self.zombie.take() {
            match waitpid(pid, None).during("wait for the zombie")? {
                WaitStatus::Exited(_, code) => self.zombie_exit = Some(code),
                other => return Err(format!("zombie: {other:?}")),
            }
            expect_eq("zombie's exit code", self.zombie_exit, Some(ZOMBIE_EXIT))?;
        }
        Ok(())
    }

    fn pid_of(&self, place: usize) -> Pid {
        pid_in(self.slots[place])
    }
}

impl Workload for Tree {
    fn tick(&mut self, _tick: u64) -> Checked {
        expect_alive(self.worker)?;
        expect_alive(self.leader)?;
        self.check_progress()?;
        self.check_zombie()?;
        expect_eq("own session", getsid(None).during("getsid")?, self.session)?;
        // Seen from outside, too: these hold as soon as the two processes have begun to count.
        if self.seen[LEADER].0 > 0 && self.seen[MEMBER].0 > 0 {
            let member = self.pid_of(MEMBER);
            expect_eq("leader's session", getsid(Some(self.leader)).during("getsid")?, self.leader)?;
            expect_eq("member's session", getsid(Some(member)).during("getsid")?, self.leader)?;
            expect_eq("member's group", nix::unistd::getpgid(Some(member)).during("getpgid")?, member)?;
        }
        Ok(())
    }

    fn fields(&self, fields: &mut Fields) {
        for (place, name) in NAMES.into_iter().enumerate() {
            if place != STOPPED || self.stopped.is_some() {
                fields.put(name, self.slots[place].steps.load(Ordering::Acquire));
            }
        }
        match (self.zombie, self.zombie_exit) {
            (Some(pid), _) => fields.put("zombie", pid),
            (None, Some(code)) => fields.put("zombie_exit", code),
            (None, None) => fields.put("zombie_exit", "unknown"),
        }
    }

    fn children(&self) -> Vec<Pid> {
        [Some(self.worker), Some(self.leader), self.zombie, self.stopped].into_iter().flatten().collect()
    }

    fn poke(&mut self) -> Checked {
        self.reap_zombie()
    }

    fn finish(&mut self) -> Checked {
        // The grandchildren die with their parents (PR_SET_PDEATHSIG, which a restore must bring back).
        for pid in [Some(self.worker), Some(self.leader), self.stopped].into_iter().flatten() {
            kill(pid, Signal::SIGKILL).during("kill")?;
            let status = waitpid(pid, None).during("waitpid")?;
            expect_eq("child's end", status, WaitStatus::Signaled(pid, Signal::SIGKILL, false))?;
        }
        self.reap_zombie()
    }
}

fn pid_in(slot: Slot) -> Pid {
    Pid::from_raw(i32::try_from(slot.pid.load(Ordering::Acquire)).unwrap_or(0))
}

/// Forks the process of a slot, which prepares itself and then counts for ever.
fn start(slots: &[Slot], place: usize, prepare: impl FnOnce(&[Slot]) -> Checked) -> Result<Pid, String> {
    let parent = getpid();
    let begin = || {
        prctl::set_pdeathsig(Signal::SIGKILL).during("PR_SET_PDEATHSIG")?;
        prepare(slots)?;
        Ids::now()
    };
    sys::fork(|| match begin() {
        Ok(ids) if ids.parent == parent => count(slots[place], ids),
        Ok(_) => 3,
        Err(why) => {
            crate::complain(&format!("tree: {}: {why}", NAMES[place]));
            slots[place].verdict.store(100, Ordering::Release);
            2
        }
    })
    .during("fork")
}

/// What must never change about a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ids {
    pid: Pid,
    parent: Pid,
    group: Pid,
    session: Pid,
    death_signal: Option<Signal>,
}

impl Ids {
    fn now() -> Result<Self, String> {
        Ok(Self {
            pid: getpid(),
            parent: getppid(),
            group: getpgrp(),
            session: getsid(None).during("getsid")?,
            death_signal: prctl::get_pdeathsig().during("PR_GET_PDEATHSIG")?,
        })
    }
}

fn count(slot: Slot, ids: Ids) -> i32 {
    slot.pid.store(u64::from(ids.pid.as_raw().cast_unsigned()), Ordering::Release);
    let mut steps = 0;
    loop {
        // The number of the first check that fails, kept for ever.
        let verdict = match Ids::now() {
            Ok(now) if now == ids => 0,
            Ok(now) if now.parent != ids.parent => 1,
            Ok(now) if now.group != ids.group || now.session != ids.session => 2,
            Ok(_) => 3,
            Err(_) => 4,
        };
        if slot.steps.load(Ordering::Acquire) != steps || pid_in(slot) != ids.pid {
            slot.verdict.store(5, Ordering::Release);
        }
        if verdict != 0 {
            slot.verdict.store(verdict, Ordering::Release);
        }
        steps += 1;
        slot.steps.store(steps, Ordering::Release);
        std::thread::sleep(STEP);
    }
}
