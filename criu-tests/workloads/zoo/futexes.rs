// SPDX-License-Identifier: Apache-2.0
//! Processes that wait for each other in memory that they share.

use std::sync::atomic::Ordering;
use std::time::Instant;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::sys::futex::{self, Kind, Locked, Mutex};
use super::threads::Asked;
use super::{Child, Made, child, made};
use crate::lifecycle::{During as _, PATIENCE, expect_alive, expect_eq};
use crate::sys;

super::exhibits![robust_mutex, futex_waiters, inheriting_mutex, restartable_sequence];

/// Who waits for a mutex learns that its owner died: one owner shows it on every tick.
fn robust_mutex() -> Made {
    let mutex = Mutex::new(Kind::Robust).during("pthread_mutex_init")?;
    let owner = move || {
        Child::start(move || {
            expect_eq("lock", mutex.lock(PATIENCE).during("lock")?, Locked::Yes)?;
            Ok(|_: &str| Ok(String::new()))
        })
    };
    let mut held = owner()?;
    made(move || {
        held.check("are you there?")?;
        kill(held.pid(), Signal::SIGKILL).during("kill")?;
        expect_eq("lock", mutex.lock(PATIENCE).during("lock")?, Locked::OwnerDied)?;
        waitpid(held.pid(), None).during("waitpid")?;
        mutex.mend().during("pthread_mutex_consistent")?;
        mutex.unlock().during("unlock")?;
        held = owner()?;
        Ok(())
    })
}

/// Processes and a thread that sleep in FUTEX_WAIT, and all wake.
fn futex_waiters() -> Made {
    const WAITERS: usize = 3;
    let words = futex::shared_words(WAITERS + 1).during("mmap")?;
    let wait_for_ever = move |place: usize| -> i32 {
        let mut seen = 0;
        while futex::wait_while(&words[WAITERS], seen).is_ok() {
            seen = words[WAITERS].load(Ordering::SeqCst);
            words[place].store(seen, Ordering::SeqCst);
        }
        1
    };
    let mut processes = Vec::new();
    for place in 1..WAITERS {
        let pid = sys::fork(|| wait_for_ever(place)).during("fork")?;
        child::keep(pid);
        processes.push(pid);
    }
    std::thread::spawn(move || wait_for_ever(0));
    let mut round = 0;
    made(move || {
        round += 1;
        words[WAITERS].store(round, Ordering::SeqCst);
        futex::wake(&words[WAITERS]).during("FUTEX_WAKE")?;
        let begun = Instant::now();
        for (place, word) in words[..WAITERS].iter().enumerate() {
            while word.load(Ordering::SeqCst) != round {
                if begun.elapsed() > PATIENCE {
                    return Err(format!("waiter {place} does not wake"));
                }
                std::thread::yield_now();
            }
        }
        processes.iter().try_for_each(|pid| expect_alive(*pid))
    })
}

/// A mutex of the kernel's own (`FUTEX_LOCK_PI`) that two processes and this one want all the time.
fn inheriting_mutex() -> Made {
    const RIVALS: usize = 2;
    let mutex = Mutex::new(Kind::Inheriting).during("pthread_mutex_init")?;
    let words = sys::shared_words(RIVALS + 2).during("mmap")?;
    // The two last words are equal whenever the mutex is free.
    let in_turn = move || -> Result<(), String> {
        expect_eq("lock", mutex.lock(PATIENCE).during("lock")?, Locked::Yes)?;
        let one = words[RIVALS].load(Ordering::Relaxed);
        expect_eq("the other word", words[RIVALS + 1].load(Ordering::Relaxed), one)?;
        words[RIVALS].store(one + 1, Ordering::Relaxed);
        std::thread::sleep(std::time::Duration::from_micros(300));
        words[RIVALS + 1].store(one + 1, Ordering::Relaxed);
        mutex.unlock().during("unlock")
    };
    let mut rivals = Vec::new();
    for turns in &words[..RIVALS] {
        let rival = sys::fork(|| {
            while in_turn().is_ok() {
                turns.fetch_add(1, Ordering::SeqCst);
            }
            1
        })
        .during("fork")?;
        child::keep(rival);
        rivals.push(rival);
    }
    made(move || {
        in_turn()?;
        for (turns, rival) in words.iter().zip(&rivals) {
            let (before, begun) = (turns.load(Ordering::SeqCst), Instant::now());
            while turns.load(Ordering::SeqCst) == before {
                expect_alive(*rival)?;
                if begun.elapsed() > PATIENCE {
                    return Err(format!("process {rival} does not get the mutex"));
                }
                std::thread::yield_now();
            }
        }
        Ok(())
    })
}

/// The kernel goes on to tell each thread where it runs (rseq(2), registered by the C library).
fn restartable_sequence() -> Made {
    let told = || -> Result<String, String> {
        // It may be moved between the two looks, but not always.
        for _ in 0..1000 {
            let (told, is) = futex::processors().during("rseq")?;
            if told == is {
                return Ok(is.to_string());
            }
        }
        Err(format!("told and real processor are {:?}", futex::processors()))
    };
    let to = |cpu: usize| {
        let mut set = CpuSet::new();
        set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)).during("sched_setaffinity")
    };
    let start = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(2);
    let mut thread = Asked::start("rseq", move || {
        Ok(move |cpu: &str| {
            to(cpu.parse().during("number")?)?;
            told()
        })
    })?;
    let mut round = 0;
    made(move || {
        round += 1;
        let cpu = round % start;
        to(cpu)?;
        expect_eq("own processor", told()?, cpu.to_string())?;
        thread.expect(&((cpu + 1) % start).to_string(), &((cpu + 1) % start).to_string())
    })
}
