// SPDX-License-Identifier: Apache-2.0
//! What is in the processor when a thread is stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use nix::unistd::gettid;

use super::sys::registers::{self, Vectors, spin_with};
use super::threads::Asked;
use super::{Made, made};
use crate::lifecycle::{Checked, During as _, PATIENCE, expect_eq};

super::exhibits![vector_registers, float_control, signal_handler_entered];

fn vectors(seed: u64) -> Vectors {
    let word = |register: usize, part: usize| {
        (seed + 4 * register as u64 + part as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    };
    std::array::from_fn(|register| std::array::from_fn(|part| word(register, part)))
}

/// A thread that holds numbers in registers nearly all of its time.
struct Spinner {
    rounds: Arc<AtomicU64>,
    damaged: Arc<AtomicBool>,
}

impl Spinner {
    fn start() -> (Self, Arc<AtomicU64>) {
        let new = Self { rounds: Arc::default(), damaged: Arc::default() };
        let (rounds, damaged) = (Arc::clone(&new.rounds), Arc::clone(&new.damaged));
        let id = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&id);
        std::thread::spawn(move || {
            told.store(u64::from(gettid().as_raw().cast_unsigned()), Ordering::SeqCst);
            let mut round = 0;
            loop {
                let values = vectors(round);
                if spin_with(&values) != values {
                    damaged.store(true, Ordering::SeqCst);
                }
                round += 1;
                rounds.store(round, Ordering::SeqCst);
            }
        });
        (new, id)
    }

    /// It finishes what it is at, and what it held was right.
    fn goes_on(&self) -> Checked {
        let (before, begun) = (self.rounds.load(Ordering::SeqCst), Instant::now());
        while self.rounds.load(Ordering::SeqCst) < before + 2 {
            if begun.elapsed() > PATIENCE {
                return Err("the thread does not go on".to_owned());
            }
            std::thread::yield_now();
        }
        expect_eq("whether a register was changed", self.damaged.load(Ordering::SeqCst), false)
    }
}

/// A thread that is never anywhere but in a loop with all vector registers full.
fn vector_registers() -> Made {
    let (spinner, _) = Spinner::start();
    made(move || spinner.goes_on())
}

/// Threads that round up, and that round to zero and flush what is too small.
fn float_control() -> Made {
    let own = registers::float_control();
    let mut threads = Vec::new();
    for way in registers::ROUNDINGS {
        threads.push(Asked::start("rounds", move || {
            registers::set_float_control(way);
            Ok(|_: &str| Ok(format!("{:x?}", registers::float_control())))
        })?);
    }
    made(move || {
        for (thread, way) in threads.iter_mut().zip(registers::ROUNDINGS) {
            thread.expect("control words", &format!("{way:x?}"))?;
        }
        expect_eq("own control words", registers::float_control(), own)
    })
}

/// A thread that was interrupted with its registers full, and is in the handler of a signal when it is stopped.
fn signal_handler_entered() -> Made {
    registers::stay_in_handler(libc::SIGUSR2).during("sigaction")?;
    let (spinner, id) = Spinner::start();
    spinner.goes_on()?;
    let thread = nix::unistd::Pid::from_raw(i32::try_from(id.load(Ordering::SeqCst)).during("thread id")?);
    let enter = move |round: u64| -> Checked {
        registers::signal_thread(thread, libc::SIGUSR2).during("tgkill")?;
        let begun = Instant::now();
        while registers::entered() < round {
            if begun.elapsed() > PATIENCE {
                return Err("the handler is not entered".to_owned());
            }
            std::thread::yield_now();
        }
        Ok(())
    };
    let mut round = 1;
    enter(round)?;
    made(move || {
        expect_eq("how often a handler was entered", registers::entered(), round)?;
        registers::leave(round);
        spinner.goes_on()?;
        round += 1;
        enter(round)
    })
}
