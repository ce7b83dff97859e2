// SPDX-License-Identifier: Apache-2.0
//! Signals: those that wait, those that are blocked, and what is to be done with them.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal, kill, raise};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::gettid;

use super::sys::memory::Map;
use super::sys::signals;
use super::{Child, Made, made};
use crate::lifecycle::{Checked, During as _, PATIENCE, expect_eq};
use crate::sys;

super::exhibits![
    blocked_signals,
    signal_masks_of_threads,
    pending_signal,
    queued_signals,
    queued_signals_of_a_thread,
    pending_signal_of_a_stopped_process,
    signal_handlers,
    ignored_signals,
    alternate_stack,
    alternate_stacks_of_threads,
    ended_process_that_nobody_has_waited_for,
];

/// The mask of the only thread.
fn blocked_signals() -> Made {
    sys::block(&[libc::SIGHUP, libc::SIGWINCH, libc::SIGRTMIN() + 9, libc::SIGRTMAX()])
        .during("block signals")?;
    let mask = line_of_status("self", "SigBlk")?;
    made(move || expect_eq("mask", &line_of_status("self", "SigBlk")?, &mask))
}

fn line_of_status(process: &str, key: &str) -> Result<String, String> {
    let text = super::proc::text(&format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.map(|value| value.trim().to_owned()).ok_or_else(|| format!("there is no {key} in status"))
}

/// A thread that does what it is told to.
struct Thread<A> {
    ask: Sender<()>,
    answer: Receiver<Result<A, String>>,
}

impl<A: Send + 'static> Thread<A> {
    fn start(mut body: impl FnMut() -> Result<A, String> + Send + 'static) -> Result<Self, String> {
        let (ask, asked) = channel();
        let (answering, answer) = channel();
        let run = move || while asked.recv().is_ok() && answering.send(body()).is_ok() {};
        std::thread::Builder::new().spawn(run).during("spawn")?;
        Ok(Self { ask, answer })
    }

    fn ask(&self) -> Result<A, String> {
        self.ask.send(()).during("ask the thread")?;
        self.answer.recv_timeout(PATIENCE).during("hear the thread")?
    }
}

/// Each thread has its own.
fn signal_masks_of_threads() -> Made {
    let own = [Signal::SIGUSR2, Signal::SIGWINCH, Signal::SIGURG];
    let threads = own.map(|signal| {
        let mut first = true;
        Thread::start(move || {
            if std::mem::take(&mut first) {
                SigSet::from(signal).thread_block().during("pthread_sigmask")?;
            }
            SigSet::thread_get_mask().during("pthread_sigmask")
        })
    });
    let threads = threads.into_iter().collect::<Result<Vec<_>, _>>()?;
    made(move || {
        for (thread, own_one) in threads.iter().zip(own) {
            let mask = thread.ask()?;
            for signal in own {
                expect_eq(signal.as_str(), mask.contains(signal), signal == own_one)?;
            }
        }
        Ok(())
    })
}

/// One of those that are not queued, and waits to be let through.
fn pending_signal() -> Made {
    sys::block(&[libc::SIGUSR2, libc::SIGHUP]).during("block signals")?;
    kill(nix::unistd::getpid(), Signal::SIGUSR2).and_then(|()| raise(Signal::SIGHUP)).during("kill")?;
    made(move || {
        let pending = signals::pending().during("sigpending")?;
        expect_eq("SIGUSR2 waits", pending.contains(Signal::SIGUSR2), true)?;
        expect_eq("SIGHUP waits", pending.contains(Signal::SIGHUP), true)?;
        expect_eq("SIGQUIT waits", pending.contains(Signal::SIGQUIT), false)?;
        let taken = sys::take(&[libc::SIGUSR2], Duration::ZERO).during("sigtimedwait")?;
        expect_eq("signal", taken.map(|t| t.number), Some(libc::SIGUSR2))?;
        kill(nix::unistd::getpid(), Signal::SIGUSR2).during("kill")
    })
}

/// Realtime signals, in their order and with their values.
fn queued_signals() -> Made {
    let queued = [libc::SIGRTMIN() + 7, libc::SIGRTMIN() + 8];
    sys::block(&queued).during("block signals")?;
    let queue = |signal, value| sys::queue_to_self(signal, value).during("sigqueue");
    (0..20).try_for_each(|value| queue(queued[0], value).and_then(|()| queue(queued[1], value + 100)))?;
    let mut first = 0;
    made(move || {
        // One of each is taken, and put to the end.
        for (signal, offset) in [(queued[0], 0), (queued[1], 100)] {
            let taken = sys::take(&[signal], Duration::ZERO).during("sigtimedwait")?;
            expect_eq("value", taken.map(|t| t.value), Some(first + offset))?;
            queue(signal, first + offset)?;
        }
        first = (first + 1) % 20;
        Ok(())
    })
}

/// Those that only one thread may take.
fn queued_signals_of_a_thread() -> Made {
    let signal = libc::SIGRTMIN() + 7;
    sys::block(&[signal]).during("block a signal")?;
    let mut first = true;
    let thread = Thread::start(move || {
        if !std::mem::take(&mut first) {
            for value in [30, 10, 20] {
                let taken = sys::take(&[signal], Duration::ZERO).during("sigtimedwait")?;
                expect_eq("value", taken.map(|t| t.value), Some(value))?;
            }
        }
        [30, 10, 20]
            .into_iter()
            .try_for_each(|value| signals::queue_to_thread(gettid().as_raw(), signal, value))
            .during("rt_tgsigqueueinfo")
    })?;
    thread.ask()?;
    made(move || {
        expect_eq("the process's own", sys::take(&[signal], Duration::ZERO).during("sigtimedwait")?, None)?;
        thread.ask()
    })
}

/// Stopped, with a signal that it will only get when it goes on.
fn pending_signal_of_a_stopped_process() -> Made {
    let mut child = Child::start(|| {
        signals::handle(libc::SIGUSR2, Some(libc::SA_RESTART), &[]).during("sigaction")?;
        Ok(|_: &str| Ok(signals::caught(libc::SIGUSR2).to_string()))
    })?;
    let stop = move |child: &Child| {
        kill(child.pid(), Signal::SIGSTOP).during("kill")?;
        waitid(Id::Pid(child.pid()), WaitPidFlag::WSTOPPED).during("waitid")?;
        kill(child.pid(), Signal::SIGUSR2).during("kill")
    };
    stop(&child)?;
    let (mut round, mut looks) = (0, 0);
    made(move || {
        let bit = 1_u64 << (libc::SIGUSR2 - 1);
        let waits = line_of_status(&child.pid().to_string(), "ShdPnd")?;
        let waits = u64::from_str_radix(&waits, 16).during("ShdPnd")?;
        expect_eq("SIGUSR2 waits", waits & bit, bit)?;
        looks += 1;
        if looks % 64 != 0 {
            return Ok(());
        }
        round += 1;
        kill(child.pid(), Signal::SIGCONT).during("kill")?;
        child.expect("caught", &round.to_string())?;
        stop(&child)
    })
}

/// With flags and masks of their own.
fn signal_handlers() -> Made {
    let table = [
        (libc::SIGUSR2, libc::SA_RESTART, vec![libc::SIGHUP]),
        (libc::SIGHUP, libc::SA_NODEFER, vec![]),
        (libc::SIGWINCH, libc::SA_NOCLDSTOP | libc::SA_SIGINFO, vec![libc::SIGUSR2, libc::SIGRTMIN() + 1]),
        (libc::SIGRTMAX(), 0, vec![libc::SIGQUIT]),
    ];
    let mut held = Vec::new();
    for (signal, flags, blocked) in table {
        signals::handle(signal, Some(flags), &blocked).during("sigaction")?;
        held.push((signal, signals::disposition(signal).during("sigaction")?));
    }
    let mut round = 0;
    made(move || {
        round += 1;
        for (signal, disposition) in &held {
            expect_eq("disposition", &signals::disposition(*signal).during("sigaction")?, disposition)?;
            sys::queue_to_self(*signal, 0).during("sigqueue")?;
            expect_eq("caught", signals::caught(*signal), round)?;
        }
        expect_eq(
            "an untouched one",
            signals::disposition(libc::SIGQUIT).during("sigaction")?.0,
            libc::SIG_DFL,
        )
    })
}

/// What is ignored does not even wait.
fn ignored_signals() -> Made {
    for signal in [libc::SIGHUP, libc::SIGTSTP, libc::SIGRTMIN() + 6] {
        signals::handle(signal, None, &[]).during("sigaction")?;
    }
    let ignored = line_of_status("self", "SigIgn")?;
    made(move || {
        expect_eq("ignored", &line_of_status("self", "SigIgn")?, &ignored)?;
        sys::queue_to_self(libc::SIGRTMIN() + 6, 0).during("sigqueue")?;
        raise(Signal::SIGHUP).during("raise")
    })
}

fn new_stack() -> Result<Map, String> {
    let flags = libc::MAP_PRIVATE | libc::MAP_STACK;
    Map::anonymous(64 << 10, libc::PROT_READ | libc::PROT_WRITE, flags).during("mmap")
}

fn runs_on(stack: &Map) -> Checked {
    let (at, length, flags) = signals::stack().during("sigaltstack")?;
    expect_eq("stack", (at, length, flags), (stack.at(), stack.length(), 0))?;
    raise(Signal::SIGUSR2).during("raise")?;
    expect_eq("the handler ran on it", signals::ran_on(stack), true)
}

/// A handler runs on the stack that was made for it.
fn alternate_stack() -> Made {
    signals::handle(libc::SIGUSR2, Some(libc::SA_ONSTACK), &[]).during("sigaction")?;
    let stack = new_stack()?;
    signals::set_stack(&stack).during("sigaltstack")?;
    made(move || runs_on(&stack))
}

/// Each thread has its own.
fn alternate_stacks_of_threads() -> Made {
    signals::handle(libc::SIGUSR2, Some(libc::SA_ONSTACK), &[]).during("sigaction")?;
    let thread = || {
        let stack = new_stack()?;
        let mut first = true;
        Thread::start(move || {
            if std::mem::take(&mut first) {
                signals::set_stack(&stack).during("sigaltstack")?;
            }
            runs_on(&stack)
        })
    };
    let threads = [thread()?, thread()?];
    made(move || threads.iter().try_for_each(Thread::ask))
}

/// Its exit code waits to be read.
fn ended_process_that_nobody_has_waited_for() -> Made {
    let pid = sys::fork(|| 42).during("fork")?;
    super::child::keep(pid);
    let look = move || waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
    look().during("waitid")?;
    made(move || expect_eq("waitid", look(), Ok(WaitStatus::Exited(pid, 42))))
}
