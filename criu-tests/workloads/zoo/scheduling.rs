// SPDX-License-Identifier: Apache-2.0
//! How threads are scheduled: nice values, policies, processors, I/O priorities, timer slack.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::prctl;
use nix::unistd::{Pid, gettid};

use super::proc::of_a_child;
use super::threads::Asked;
use super::{Made, made, proc, sys};
use crate::lifecycle::{Checked, During as _, expect_eq};

super::exhibits![nice, policies, real_time, processors, processors_of_a_thread, io_priority, timer_slack];

/// A process, and a thread of it, that others go before.
fn nice() -> Made {
    let set = |value: i32| sys::process::set_nice(0, value).during("setpriority");
    set(3)?;
    let mut thread = Asked::start("nice", move || {
        set(9)?;
        Ok(|_: &str| sys::process::nice(0).map(|value| value.to_string()).during("getpriority"))
    })?;
    made(move || {
        expect_eq("own", sys::process::nice(0).during("getpriority")?, 3)?;
        thread.expect("the thread's", "9")
    })
}

/// A thread's own policy and priority, as the kernel and `/proc` tell them.
fn scheduled(policy: i32, priority: i32) -> Result<Asked, String> {
    Asked::start("scheduled", move || {
        sys::process::set_scheduler(policy, priority).during("sched_setscheduler")?;
        Ok(move |_: &str| {
            let (is, priority) = sys::process::scheduler().during("sched_getscheduler")?;
            let stat = proc::stat(gettid())?;
            Ok(format!("{is} {priority} {}", stat[38]))
        })
    })
}

fn each_is_scheduled(wanted: &'static [(i32, i32)]) -> Made {
    let mut threads = wanted
        .iter()
        .map(|(policy, priority)| scheduled(*policy, *priority))
        .collect::<Result<Vec<_>, _>>()?;
    made(move || {
        for (thread, (policy, priority)) in threads.iter_mut().zip(wanted) {
            thread.expect("policy, priority, policy in /proc", &format!("{policy} {priority} {policy}"))?;
        }
        let (own, _) = sys::process::scheduler().during("sched_getscheduler")?;
        expect_eq("own policy", own, libc::SCHED_OTHER)
    })
}

/// Batch and idle threads in one process.
fn policies() -> Made {
    each_is_scheduled(&[(libc::SCHED_BATCH, 0), (libc::SCHED_IDLE, 0), (libc::SCHED_OTHER, 0)])
}

/// Real-time threads.
fn real_time() -> Made {
    each_is_scheduled(&[(libc::SCHED_FIFO, 7), (libc::SCHED_RR, 3)])
}

fn processors_of_this_thread() -> Result<String, String> {
    let set = sched_getaffinity(Pid::from_raw(0)).during("sched_getaffinity")?;
    let numbers = (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false));
    Ok(numbers.map(|cpu| cpu.to_string()).collect::<Vec<_>>().join(" "))
}

fn bind_to_the_first() -> Checked {
    let mut one = CpuSet::new();
    one.set(0).during("CPU_SET")?;
    sched_setaffinity(Pid::from_raw(0), &one).during("sched_setaffinity")
}

/// A process that wants to run on the first processor only.
fn processors() -> Made {
    of_a_child(bind_to_the_first, processors_of_this_thread, "0")
}

/// So does one thread of several.
fn processors_of_a_thread() -> Made {
    let own = processors_of_this_thread()?;
    let mut thread = Asked::start("bound", || {
        bind_to_the_first()?;
        Ok(|_: &str| processors_of_this_thread())
    })?;
    made(move || {
        thread.expect("the thread's", "0")?;
        expect_eq("own", processors_of_this_thread()?, own.clone())
    })
}

/// Idle reads and writes.
fn io_priority() -> Made {
    const IDLE: i64 = 3 << 13;
    of_a_child(
        || sys::process::set_io_priority(IDLE).during("ioprio_set"),
        || sys::process::io_priority().map(|class| class.to_string()).during("ioprio_get"),
        "24576",
    )
}

/// Timers that may come later.
fn timer_slack() -> Made {
    of_a_child(
        || prctl::set_timerslack(123_456).during("PR_SET_TIMERSLACK"),
        || prctl::get_timerslack().map(|slack| slack.to_string()).during("PR_GET_TIMERSLACK"),
        "123456",
    )
}
