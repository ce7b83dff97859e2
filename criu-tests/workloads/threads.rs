// SPDX-License-Identifier: Apache-2.0
//! `threads`: threads that hand a token around under a mutex and a condition variable (futexes below), each with its own
//! name, thread-local counter, signal mask and thread id; one more thread sleeps in a `read` all the time.

use std::cell::Cell;
use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, gettid};

use crate::lifecycle::{Checked, During as _, PATIENCE, Workload, expect_eq};
use crate::options::Options;
use crate::report::Fields;

/// The signal that only the thread at this place blocks.
const OWN_SIGNALS: [Signal; 4] = [Signal::SIGUSR2, Signal::SIGWINCH, Signal::SIGURG, Signal::SIGIO];

thread_local! {
    static TURNS: Cell<u64> = const { Cell::new(0) };
}

/// Whose turn it is; the place behind the last thread is the main thread's.
#[derive(Debug, Default)]
struct Ring {
    turn: usize,
    turns: [u64; OWN_SIGNALS.len()],
    mismatch: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    ring: Mutex<Ring>,
    moved: Condvar,
    /// How often the sleeping thread woke.
    wakes: Mutex<u64>,
    woke: Condvar,
}

#[derive(Debug)]
pub(crate) struct Threads {
    shared: Arc<Shared>,
    waker: PipeWriter,
    wakes: u64,
}

impl Threads {
    pub(crate) fn new(_options: &Options) -> Result<Self, String> {
        let ring = Ring { turn: OWN_SIGNALS.len(), ..Ring::default() };
        let shared = Arc::new(Shared { ring: Mutex::new(ring), ..Shared::default() });
        for place in 0..OWN_SIGNALS.len() {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name(name(place))
                .spawn(move || take_turns(&shared, place))
                .during("spawn")?;
        }
        let (reader, waker) = std::io::pipe().during("pipe")?;
        let sleeper = Arc::clone(&shared);
        thread::Builder::new()
            .name("sleeper".into())
            .spawn(move || sleep(&sleeper, reader))
            .during("spawn")?;
        Ok(Self { shared, waker, wakes: 0 })
    }
}

impl Workload for Threads {
    fn tick(&mut self, tick: u64) -> Checked {
        // One lap: every thread takes one turn.
        let mut ring = locked(&self.shared.ring);
        ring.turn = 0;
        self.shared.moved.notify_all();
        let waiting = |ring: &mut Ring| ring.turn != OWN_SIGNALS.len() && ring.mismatch.is_none();
        let (ring, timeout) = self
            .shared
            .moved
            .wait_timeout_while(ring, PATIENCE, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(mismatch) = &ring.mismatch {
            return Err(mismatch.clone());
        }
        if timeout.timed_out() {
            return Err(format!("thread {} does not take its turn", ring.turn));
        }
        expect_eq("turns", ring.turns, [tick; OWN_SIGNALS.len()])?;
        drop(ring);

        let threads = std::fs::read_dir("/proc/self/task").during("/proc/self/task")?.count();
        expect_eq("number of threads", threads, OWN_SIGNALS.len() + 2)?;
        if tick.is_multiple_of(16) { self.wake_the_sleeper() } else { Ok(()) }
    }

    fn fields(&self, fields: &mut Fields) {
        fields.put("threads", OWN_SIGNALS.len() + 2);
        fields.put("wakes", self.wakes);
    }
}

impl Threads {
    fn wake_the_sleeper(&mut self) -> Checked {
        self.waker.write_all(&[1]).during("wake the sleeper")?;
        self.wakes += 1;
        let expected = self.wakes;
        let (wakes, _) = self
            .shared
            .woke
            .wait_timeout_while(locked(&self.shared.wakes), PATIENCE, |wakes| *wakes != expected)
            .unwrap_or_else(PoisonError::into_inner);
        expect_eq("wakes of the sleeper", *wakes, expected)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name(place: usize) -> String {
    format!("turn-{place}")
}

fn take_turns(shared: &Shared, place: usize) {
    let mut mask = SigSet::empty();
    mask.add(OWN_SIGNALS[place]);
    let mut born = mask.thread_block().during("pthread_sigmask").map(|()| gettid());
    let mut ring = locked(&shared.ring);
    while ring.mismatch.is_none() {
        ring = shared
            .moved
            .wait_while(ring, |ring| ring.turn != place && ring.mismatch.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        TURNS.set(TURNS.get() + 1);
        ring.turns[place] += 1;
        match born.and_then(|id| check_self(place, id, ring.turns[place]).map(|()| id)) {
            Ok(id) => born = Ok(id),
            Err(why) => {
                ring.mismatch.get_or_insert(format!("thread {place}: {why}"));
                break;
            }
        }
        ring.turn = place + 1;
        shared.moved.notify_all();
    }
    shared.moved.notify_all();
}

fn check_self(place: usize, id: Pid, turns: u64) -> Checked {
    expect_eq("thread-local counter", TURNS.get(), turns)?;
    expect_eq("thread id", gettid(), id)?;
    let comm = std::fs::read_to_string("/proc/thread-self/comm").during("comm")?;
    expect_eq("name", comm.trim_end(), &name(place))?;
    let mask = SigSet::thread_get_mask().during("pthread_sigmask")?;
    for (other, signal) in OWN_SIGNALS.into_iter().enumerate() {
        expect_eq(signal.as_str(), mask.contains(signal), other == place)?;
    }
    Ok(())
}

fn sleep(shared: &Shared, mut reader: PipeReader) {
    // Ends when the main thread is gone; an error looks to the main thread like a sleeper that does not wake.
    while reader.read_exact(&mut [0]).is_ok() {
        *locked(&shared.wakes) += 1;
        shared.woke.notify_all();
    }
}
