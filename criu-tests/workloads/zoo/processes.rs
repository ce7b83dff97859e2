// SPDX-License-Identifier: Apache-2.0
//! Trees of processes, groups, sessions, orphans, the dead and the stopped.

use std::time::Instant;

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpid, setpgid, setsid};

use super::clan::Clan;
use super::{Child, Made, child, made, proc};
use crate::lifecycle::{Checked, During as _, PATIENCE, expect_eq};
use crate::sys;

super::exhibits![
    deep_tree,
    wide_tree,
    orphan,
    orphan_of_a_subreaper,
    daemon,
    session_without_leader,
    group_without_leader,
    groups_and_sessions,
    zombies,
    zombie_with_high_code,
    stopped_child,
    pids_far_apart,
    death_signal,
];

/// How to look at the end of a process and leave it.
const LOOK: WaitPidFlag = WaitPidFlag::WEXITED.union(WaitPidFlag::WNOHANG).union(WaitPidFlag::WNOWAIT);

fn stays_the_same(clan: Clan) -> Made {
    let known = clan.members()?;
    made(move || clan.same(&known))
}

fn grow(clan: Clan, place: usize, depth: usize) -> Checked {
    if place + 1 < depth { clan.fork(place + 1, || grow(clan, place + 1, depth)).map(drop) } else { Ok(()) }
}

/// Each process has one child.
fn deep_tree() -> Made {
    const DEPTH: usize = 25;
    let clan = Clan::new(DEPTH)?;
    clan.fork(0, || grow(clan, 0, DEPTH))?;
    let members = clan.members()?;
    for pair in members.windows(2) {
        expect_eq("parent", pair[1][1], pair[0][0])?;
    }
    stays_the_same(clan)
}

/// One process has all the children.
fn wide_tree() -> Made {
    const WIDTH: usize = 40;
    let clan = Clan::new(WIDTH)?;
    for place in 0..WIDTH {
        clan.fork(place, || Ok(()))?;
    }
    for member in clan.members()? {
        expect_eq("parent", member[1], getpid())?;
    }
    stays_the_same(clan)
}

/// Forks a process that forks and ends, and gives the one that is left.
fn left_alone(clan: Clan, place: usize, between: fn() -> Checked) -> Result<Pid, String> {
    let gone = sys::fork(|| {
        let left = between().and_then(|()| clan.fork(place, || Ok(())));
        i32::from(left.is_err())
    })
    .during("fork")?;
    let status = waitpid(gone, None).during("waitpid")?;
    expect_eq("end of the parent", status, WaitStatus::Exited(gone, 0))?;
    clan.goes_on()?;
    let left = clan.member(place)[0];
    child::keep(left);
    Ok(left)
}

/// Its parent ended, and the first process of the container has it now.
fn orphan() -> Made {
    let clan = Clan::new(1)?;
    left_alone(clan, 0, || Ok(()))?;
    expect_eq("parent", clan.members()?[0][1], getpid())?;
    stays_the_same(clan)
}

/// Its parent ended, and a process that asked for orphans has it now. It goes on to get others.
fn orphan_of_a_subreaper() -> Made {
    let (clan, other) = (Clan::new(1)?, Clan::new(1)?);
    let mut reaper = Child::start(move || {
        prctl::set_child_subreaper(true).during("PR_SET_CHILD_SUBREAPER")?;
        left_alone(clan, 0, || Ok(()))?;
        Ok(move |_: &str| {
            let orphan = left_alone(other, 0, || Ok(()))?;
            let [_, parent, ..] = other.members()?[0];
            kill(orphan, Signal::SIGKILL).during("kill")?;
            waitpid(orphan, None).during("waitpid")?;
            let flag = prctl::get_child_subreaper().during("PR_GET_CHILD_SUBREAPER")?;
            Ok(format!("{flag} {parent}"))
        })
    })?;
    expect_eq("parent", clan.members()?[0][1], reaper.pid())?;
    let known = clan.members()?;
    made(move || {
        reaper.expect("flag, and parent of another orphan", &format!("true {}", reaper.pid()))?;
        clan.same(&known)
    })
}

/// Forked twice, with a session between.
fn daemon() -> Made {
    let clan = Clan::new(1)?;
    left_alone(clan, 0, || setsid().map(drop).during("setsid"))?;
    let [pid, parent, _, session] = clan.members()?[0];
    expect_eq("parent", parent, getpid())?;
    expect_eq("whether it leads its session", pid == session, false)?;
    stays_the_same(clan)
}

/// Two processes of a session whose leader was reaped, in groups of their own.
fn session_without_leader() -> Made {
    let clan = Clan::new(2)?;
    let leader = sys::fork(|| {
        let lead = || {
            setsid().during("setsid")?;
            let own_group = || setpgid(Pid::from_raw(0), Pid::from_raw(0)).during("setpgid");
            clan.fork(0, own_group)?;
            clan.fork(1, own_group)?;
            // Left with their places taken.
            clan.goes_on()
        };
        i32::from(lead().is_err())
    })
    .during("fork")?;
    waitpid(leader, None).during("waitpid")?;
    for [pid, parent, group, session] in clan.members()? {
        child::keep(pid);
        expect_eq("relations", [parent, group, session], [getpid(), pid, leader])?;
    }
    stays_the_same(clan)
}

/// A group whose first process was reaped, in a session that goes on.
fn group_without_leader() -> Made {
    let clan = Clan::new(1)?;
    let between = || setpgid(Pid::from_raw(0), Pid::from_raw(0)).during("setpgid");
    let left = left_alone(clan, 0, between)?;
    let [_, _, group, session] = clan.members()?[0];
    expect_eq("whether it leads its group", group == left, false)?;
    expect_eq("session", session, nix::unistd::getsid(None).during("getsid")?)?;
    stays_the_same(clan)
}

/// Two sessions with two groups each. A signal to a group reaches its members and nobody else.
fn groups_and_sessions() -> Made {
    let clan = Clan::new(6)?;
    for session in 0..2 {
        clan.fork(session * 3, || {
            setsid().during("setsid")?;
            let leader =
                clan.fork(session * 3 + 1, || setpgid(Pid::from_raw(0), Pid::from_raw(0)).during("setpgid"))?;
            // Both may be first; the second finds it done.
            setpgid(leader, leader).during("setpgid")?;
            clan.fork(session * 3 + 2, || setpgid(Pid::from_raw(0), leader).during("setpgid")).map(drop)
        })?;
    }
    let known = clan.members()?;
    for session in known.chunks(3) {
        let (first, second) = (session[0][0], session[1][0]);
        expect_eq("groups", [session[0][2], session[1][2], session[2][2]], [first, second, second])?;
        expect_eq("sessions", [session[0][3], session[1][3], session[2][3]], [first; 3])?;
    }
    made(move || {
        clan.same(&known)?;
        // The group of the second session stops as one, and nobody else.
        let group = known[4][0];
        kill(Pid::from_raw(-group.as_raw()), Signal::SIGSTOP).during("kill")?;
        let stopped = [4, 5].map(|place: usize| known[place][0]).map(|pid| reaches(pid, "T"));
        let others = [0, 1, 2, 3].map(|place: usize| proc::stat(known[place][0]).map(|stat| stat[0] == "T"));
        kill(Pid::from_raw(-group.as_raw()), Signal::SIGCONT).during("kill")?;
        stopped.into_iter().collect::<Result<Vec<()>, _>>()?;
        for other in others {
            expect_eq("whether another is stopped", other?, false)?;
        }
        Ok(())
    })
}

/// Waits until a process is in this state.
fn reaches(pid: Pid, state: &str) -> Checked {
    let begun = Instant::now();
    loop {
        let is = proc::stat(pid)?.swap_remove(0);
        if is == state {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("{pid} stays in state {is}, must come to {state}"));
        }
        std::thread::yield_now();
    }
}

/// A process that has ended in this way and was not waited for.
fn zombie(end: i32) -> Result<(Pid, WaitStatus), String> {
    let pid = sys::fork(|| {
        if end >= 0 {
            return end;
        }
        let signal = Signal::try_from(-end).unwrap_or(Signal::SIGKILL);
        // Nothing can be done but to end with a code that nobody expects.
        let _ = kill(getpid(), signal);
        99
    })
    .during("fork")?;
    child::keep(pid);
    waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).during("waitid")?;
    let status = if end >= 0 {
        WaitStatus::Exited(pid, end)
    } else {
        WaitStatus::Signaled(pid, Signal::try_from(-end).during("signal")?, false)
    };
    Ok((pid, status))
}

/// An exit code above 127, which is not asked for but in a way that leaves it.
fn zombie_with_high_code() -> Made {
    let (pid, status) = zombie(255)?;
    made(move || expect_eq("end", waitid(Id::Pid(pid), LOOK).during("waitid")?, status))
}

/// Exit codes and deadly signals that nobody has asked for yet. One is reaped on every tick.
fn zombies() -> Made {
    const ENDS: [i32; 5] = [0, 7, 127, -libc::SIGKILL, -libc::SIGUSR2];
    let mut held = ENDS.iter().map(|end| zombie(*end)).collect::<Result<Vec<_>, _>>()?;
    let mut round = 0;
    made(move || {
        for (pid, status) in &held {
            expect_eq("state and parent", &proc::stat(*pid)?[..2], &["Z".to_owned(), getpid().to_string()])?;
            expect_eq("end", waitid(Id::Pid(*pid), LOOK).during("waitid")?, *status)?;
        }
        let (pid, status) = held[round];
        expect_eq("end when reaped", waitpid(pid, None).during("waitpid")?, status)?;
        held[round] = zombie(ENDS[round])?;
        round = (round + 1) % ENDS.len();
        Ok(())
    })
}

/// It stays stopped, runs when it is told to, and stops again.
fn stopped_child() -> Made {
    let clan = Clan::new(1)?;
    let pid = clan.fork(0, || Ok(()))?;
    let known = clan.members()?;
    kill(pid, Signal::SIGSTOP).during("kill")?;
    reaches(pid, "T")?;
    made(move || {
        // A restore lets it run until the signal that stops it comes.
        reaches(pid, "T")?;
        kill(pid, Signal::SIGCONT).during("kill")?;
        clan.same(&known)?;
        kill(pid, Signal::SIGSTOP).during("kill")?;
        let stopped = waitid(Id::Pid(pid), WaitPidFlag::WSTOPPED).during("waitid")?;
        expect_eq("end of the wait", stopped, WaitStatus::Stopped(pid, Signal::SIGSTOP))
    })
}

/// Process ids with large gaps between them.
fn pids_far_apart() -> Made {
    let clan = Clan::new(4)?;
    for place in 0..4 {
        for _ in 0..200 {
            waitpid(sys::fork(|| 0).during("fork")?, None).during("waitpid")?;
        }
        clan.fork(place, || Ok(()))?;
    }
    for pair in clan.members()?.windows(2) {
        expect_eq("whether there is a gap", pair[1][0].as_raw() > pair[0][0].as_raw() + 100, true)?;
    }
    stays_the_same(clan)
}

/// The signal that comes with the parent's death: one pair of processes shows it on every tick.
fn death_signal() -> Made {
    let clan = Clan::new(1)?;
    let pair = move || {
        let parent = Child::start(move || {
            clan.fork(0, || prctl::set_pdeathsig(Signal::SIGUSR2).during("PR_SET_PDEATHSIG"))?;
            clan.goes_on()?;
            Ok(|_: &str| Ok(String::new()))
        })?;
        child::keep(clan.member(0)[0]);
        Ok::<_, String>((parent.pid(), clan.member(0)[0], parent))
    };
    let mut held = pair()?;
    made(move || {
        clan.goes_on()?;
        let (parent, pid, _) = held;
        kill(parent, Signal::SIGKILL).during("kill")?;
        waitpid(parent, None).during("waitpid")?;
        // It is this process's child from now on.
        let begun = Instant::now();
        while waitid(Id::Pid(pid), LOOK).during("waitid")? == WaitStatus::StillAlive {
            if begun.elapsed() > PATIENCE {
                return Err("the child outlives its parent".to_owned());
            }
            std::thread::yield_now();
        }
        let end = waitpid(pid, None).during("wait for the child")?;
        expect_eq("end", end, WaitStatus::Signaled(pid, Signal::SIGUSR2, false))?;
        held = pair()?;
        Ok(())
    })
}
