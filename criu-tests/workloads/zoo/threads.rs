// SPDX-License-Identifier: Apache-2.0
//! Threads and what each has of its own; threads that wait for each other.

use std::io::{BufRead as _, BufReader, PipeReader, PipeWriter, Write as _};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{getpid, gettid};

use super::child::Answer;
use super::{Made, made, proc};
use crate::lifecycle::{Checked, During as _, PATIENCE, expect_eq};

super::exhibits![many_threads, thread_end, thread_names];

/// A thread that answers questions. It blocks in a read between them.
pub(super) struct Asked {
    questions: PipeWriter,
    answers: Receiver<Answer>,
    thread: Option<JoinHandle<()>>,
}

impl Asked {
    /// Starts it; `make` runs in the thread and gives what answers there. Comes back when it has.
    pub(super) fn start<F: FnMut(&str) -> Answer>(
        name: &str,
        make: impl FnOnce() -> Result<F, String> + Send + 'static,
    ) -> Result<Self, String> {
        let (asked, questions) = std::io::pipe().during("pipe")?;
        let (answering, answers) = channel();
        let body = move || serve(make, asked, &answering);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(body).during("start a thread")?;
        let new = Self { questions, answers, thread: Some(thread) };
        new.hear().map(|_| new)
    }

    fn hear(&self) -> Answer {
        self.answers.recv_timeout(PATIENCE).during("hear the thread").flatten()
    }

    /// Asks, and gives the answer.
    pub(super) fn ask(&mut self, question: &str) -> Answer {
        writeln!(self.questions, "{question}").during("ask the thread")?;
        self.hear().map_err(|why| format!("{question}: {why}"))
    }

    /// Asks, and compares the answer.
    pub(super) fn expect(&mut self, question: &str, answer: &str) -> Checked {
        expect_eq(question, self.ask(question)?.as_str(), answer)
    }

    /// Asks for the last time and waits for the thread's end.
    fn end(mut self) -> Checked {
        drop(self.questions);
        let thread = self.thread.take().ok_or("it has no thread")?;
        thread.join().map_err(|_| "the thread panicked".to_owned())
    }
}

fn serve<F: FnMut(&str) -> Answer>(
    make: impl FnOnce() -> Result<F, String>,
    asked: PipeReader,
    answering: &Sender<Answer>,
) {
    let made = make();
    let told = answering.send(made.as_ref().map(|_| String::new()).map_err(String::clone));
    let (Ok(mut answer), Ok(())) = (made, told) else { return };
    for question in BufReader::new(asked).lines() {
        let said = question.during("hear").and_then(|question| answer(&question));
        if answering.send(said).is_err() {
            return;
        }
    }
}

/// Each with its own id, mask of signals and stack.
fn many_threads() -> Made {
    const SIGNALS: [Signal; 4] = [Signal::SIGUSR2, Signal::SIGWINCH, Signal::SIGURG, Signal::SIGIO];
    let blocked = |number: usize| SIGNALS[number % SIGNALS.len()];
    let mut threads = Vec::new();
    for number in 0..40 {
        threads.push(Asked::start(&format!("one-{number}"), move || {
            let mut mask = SigSet::empty();
            mask.add(blocked(number));
            mask.thread_block().during("pthread_sigmask")?;
            let (id, mut asked) = (gettid(), 0);
            Ok(move |_: &str| {
                asked += 1;
                expect_eq("thread id", gettid(), id)?;
                let mask = SigSet::thread_get_mask().during("pthread_sigmask")?;
                let blocked = SIGNALS.iter().filter(|signal| mask.contains(**signal));
                Ok(format!("{asked} {}", blocked.map(|signal| signal.as_str()).collect::<String>()))
            })
        })?);
    }
    let count = threads.len();
    let mut round = 0;
    made(move || {
        round += 1;
        for (number, thread) in threads.iter_mut().enumerate() {
            thread.expect("rounds and mask", &format!("{round} {}", blocked(number).as_str()))?;
        }
        expect_eq("threads", proc::status(getpid(), "Threads")?, (count + 1).to_string())
    })
}

/// The end of a thread wakes who waits for it (`set_tid_address`): one thread shows it on every tick.
fn thread_end() -> Made {
    let start = || Asked::start("ends", || Ok(|_: &str| Ok(gettid().to_string())));
    let mut held = Some(start()?);
    made(move || {
        let mut thread = held.take().ok_or("the last thread could not be started")?;
        let id = thread.ask("id")?;
        thread.end()?;
        let still = std::fs::exists(format!("/proc/self/task/{id}")).during("look")?;
        // The kernel writes the word before it takes the thread out of /proc.
        let begun = std::time::Instant::now();
        while still && std::fs::exists(format!("/proc/self/task/{id}")).during("look")? {
            if begun.elapsed() > PATIENCE {
                return Err(format!("thread {id} does not go"));
            }
            thread::yield_now();
        }
        held = Some(start()?);
        Ok(())
    })
}

/// Names of threads, with characters that names seldom have.
fn thread_names() -> Made {
    const NAMES: [&str; 4] = ["a) (b", "", "fifteen letters", "\u{e9}\n\t"];
    let mut threads = Vec::new();
    for name in NAMES {
        let named = move || {
            let text = std::ffi::CString::new(name).during("name")?;
            nix::sys::prctl::set_name(&text).during("PR_SET_NAME")?;
            Ok(|_: &str| {
                std::fs::read_to_string("/proc/thread-self/comm").during("comm").map(|c| format!("{c:?}"))
            })
        };
        threads.push(Asked::start("unnamed", named)?);
    }
    made(move || {
        for (thread, name) in threads.iter_mut().zip(NAMES) {
            thread.expect("name", &format!("{:?}", format!("{name}\n")))?;
        }
        expect_eq("own name", proc::read(getpid(), "comm")?.trim_end(), "workload")
    })
}
