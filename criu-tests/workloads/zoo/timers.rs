// SPDX-License-Identifier: Apache-2.0
//! Timers: what is left of them, their period, and that they expire.

use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId as FdClock, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId, clock_gettime};

use super::held::{Absences, fdinfo};
use super::sys::timers::{self, Timer};
use super::{Child, Made, made};
use crate::lifecycle::{Checked, During as _, PATIENCE, expect_eq};
use crate::sys;

super::exhibits![
    interval_timer_real,
    interval_timer_virtual,
    interval_timer_of_all_processor_time,
    alarm_far_away,
    timer_with_a_value,
    timer_of_a_thread,
    timer_that_tells_nobody,
    timer_at_a_time_of_day,
    timer_of_boot_time,
    timers_that_overrun,
    timer_that_is_not_armed,
    timerfd_with_a_period,
    timerfd_that_expires_meanwhile,
    timerfd_at_a_time_of_day,
    timerfd_that_has_expired,
    monotonic_time,
    timer_of_processor_time,
    timer_at_an_absolute_time,
    timerfd_of_two_processes,
];

const PERIOD: Duration = Duration::from_millis(7);
const HOUR: Duration = Duration::from_secs(3600);

/// Counts up the processor time of this process until the signal comes.
fn expect_signal(signal: i32) -> Checked {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        // Some system calls and some work in between, for the timers that count only one of them.
        for n in 0..20_000_u64 {
            std::hint::black_box(n);
        }
        if sys::take(&[signal], Duration::ZERO).during("sigtimedwait")?.is_some() {
            return Ok(());
        }
    }
    Err(format!("signal {signal} does not come"))
}

fn interval_timer(which: i32, signal: i32) -> Made {
    sys::block(&[signal]).during("block a signal")?;
    timers::set_interval(which, PERIOD, PERIOD).during("setitimer")?;
    let set = timers::interval(which).during("getitimer")?.1;
    made(move || {
        let (left, period) = timers::interval(which).during("getitimer")?;
        expect_eq("period", period, set)?;
        expect_eq("more is left than the period", left > PERIOD + PERIOD, false)?;
        expect_signal(signal)
    })
}

/// Time as it passes.
fn interval_timer_real() -> Made {
    interval_timer(libc::ITIMER_REAL, libc::SIGALRM)
}

/// Processor time in the program.
fn interval_timer_virtual() -> Made {
    interval_timer(libc::ITIMER_VIRTUAL, libc::SIGVTALRM)
}

/// Processor time in the program and in the kernel.
fn interval_timer_of_all_processor_time() -> Made {
    interval_timer(libc::ITIMER_PROF, libc::SIGPROF)
}

/// What is left goes down, and not while the process is not there.
fn alarm_far_away() -> Made {
    nix::unistd::alarm::set(3600);
    let mut left = timers::interval(libc::ITIMER_REAL).during("getitimer")?.0;
    made(move || {
        let (now, period) = timers::interval(libc::ITIMER_REAL).during("getitimer")?;
        expect_eq("period", period, Duration::ZERO)?;
        within(now, left)?;
        left = now;
        Ok(())
    })
}

/// Less than before, but not by much: some seconds may have passed.
fn within(now: Duration, before: Duration) -> Checked {
    if now <= before && before - now < Duration::from_secs(120) {
        Ok(())
    } else {
        Err(format!("{now:?} are left, were {before:?}"))
    }
}

/// Waits for a signal, whatever interrupts that.
fn take(signal: i32) -> Result<Option<(i32, usize)>, String> {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        if let Some(taken) = sys::take(&[signal], PATIENCE).during("sigtimedwait")? {
            return Ok(Some((taken.number, taken.value)));
        }
    }
    Ok(None)
}

fn posix_timer(clock: libc::clockid_t, notify: i32, value: usize) -> Result<(Timer, i32), String> {
    let signal = libc::SIGRTMIN() + 4;
    sys::block(&[signal]).during("block a signal")?;
    Timer::new(clock, notify, signal, value).during("timer_create").map(|timer| (timer, signal))
}

fn periodic(clock: libc::clockid_t, notify: i32) -> Made {
    let (timer, signal) = posix_timer(clock, notify, 4711)?;
    timer.set(0, PERIOD, PERIOD).during("timer_settime")?;
    let described = description()?;
    made(move || {
        expect_eq("period", timer.left().during("timer_gettime")?.1, PERIOD)?;
        expect_eq("description", &description()?, &described)?;
        expect_eq("signal and value", take(signal)?, Some((signal, 4711)))
    })
}

/// What proc says of the timers, but for pointers.
fn description() -> Result<Vec<String>, String> {
    let text = super::proc::text("/proc/self/timers")?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// A signal to the process, with a value.
fn timer_with_a_value() -> Made {
    periodic(libc::CLOCK_MONOTONIC, libc::SIGEV_SIGNAL)
}

/// A signal to one thread.
fn timer_of_a_thread() -> Made {
    periodic(libc::CLOCK_MONOTONIC, libc::SIGEV_THREAD_ID)
}

/// No signal: who wants to know asks.
fn timer_that_tells_nobody() -> Made {
    let (timer, signal) = posix_timer(libc::CLOCK_MONOTONIC, libc::SIGEV_NONE, 0)?;
    timer.set(0, HOUR, HOUR).during("timer_settime")?;
    let mut left = timer.left().during("timer_gettime")?.0;
    made(move || {
        let (now, period) = timer.left().during("timer_gettime")?;
        expect_eq("period", period, HOUR)?;
        expect_eq("signal", sys::take(&[signal], Duration::ZERO).during("sigtimedwait")?, None)?;
        within(now, left)?;
        left = now;
        Ok(())
    })
}

/// On the clock that people read.
fn timer_at_a_time_of_day() -> Made {
    periodic(libc::CLOCK_REALTIME, libc::SIGEV_SIGNAL)
}

/// On the clock that goes on while the machine sleeps.
fn timer_of_boot_time() -> Made {
    periodic(libc::CLOCK_BOOTTIME, libc::SIGEV_SIGNAL)
}

/// Nobody takes the signal, and the timer counts on.
fn timers_that_overrun() -> Made {
    let (timer, signal) = posix_timer(libc::CLOCK_MONOTONIC, libc::SIGEV_SIGNAL, 1)?;
    let period = Duration::from_micros(100);
    timer.set(0, period, period).during("timer_settime")?;
    made(move || {
        expect_eq("period", timer.left().during("timer_gettime")?.1, period)?;
        // The first, and after a dump in this very moment the second as well, may have waited since before the dump: such a
        // signal says nothing about the timer as it is now.
        take(signal)?;
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(2));
            expect_eq("signal and value", take(signal)?, Some((signal, 1)))?;
            if timer.overrun().during("timer_getoverrun")? > 0 {
                return Ok(());
            }
        }
        Err("the timer did not overrun".to_owned())
    })
}

/// Three timers, the second of which was removed: the numbers of the others stay.
fn timer_that_is_not_armed() -> Made {
    let (first, _) = posix_timer(libc::CLOCK_MONOTONIC, libc::SIGEV_SIGNAL, 1)?;
    let (second, _) = posix_timer(libc::CLOCK_MONOTONIC, libc::SIGEV_SIGNAL, 2)?;
    let (third, signal) = posix_timer(libc::CLOCK_MONOTONIC, libc::SIGEV_SIGNAL, 3)?;
    second.delete().during("timer_delete")?;
    made(move || {
        expect_eq("first", first.left().during("timer_gettime")?, (Duration::ZERO, Duration::ZERO))?;
        expect_eq("second", second.left().err().and_then(|e| e.raw_os_error()), Some(libc::EINVAL))?;
        third.set(0, Duration::from_micros(10), Duration::ZERO).during("timer_settime")?;
        expect_eq("signal and value", take(signal)?, Some((signal, 3)))
    })
}

fn timerfd(clock: FdClock) -> Result<TimerFd, String> {
    TimerFd::new(clock, TimerFlags::TFD_CLOEXEC).during("timerfd_create")
}

fn expirations(timer: &TimerFd) -> Result<u64, String> {
    let mut bytes = [0; 8];
    let mut file = std::fs::File::from(timer.as_fd().try_clone_to_owned().during("dup")?);
    file.read_exact(&mut bytes).during("read")?;
    Ok(u64::from_ne_bytes(bytes))
}

/// It will expire every hour.
fn timerfd_with_a_period() -> Made {
    let timer = timerfd(FdClock::CLOCK_BOOTTIME)?;
    let every = Expiration::Interval(TimeSpec::from(HOUR));
    timer.set(every, TimerSetTimeFlags::empty()).during("timerfd_settime")?;
    let clock = fdinfo(&timer, "clockid")?;
    let mut left = HOUR;
    made(move || {
        expect_eq("clock", &fdinfo(&timer, "clockid")?, &clock)?;
        let Some(Expiration::IntervalDelayed(now, period)) = timer.get().during("timerfd_gettime")? else {
            return Err("the timer is not armed".to_owned());
        };
        expect_eq("period", Duration::from(period), HOUR)?;
        within(Duration::from(now), left)?;
        left = Duration::from(now);
        Ok(())
    })
}

/// It expires all the time, and so between the moment in which the process is stopped and the one in which CRIU looks at it.
fn timerfd_that_expires_meanwhile() -> Made {
    let timer = timerfd(FdClock::CLOCK_MONOTONIC)?;
    let every = Expiration::Interval(TimeSpec::from(Duration::from_micros(500)));
    timer.set(every, TimerSetTimeFlags::empty()).during("timerfd_settime")?;
    made(move || {
        let mut polled = [PollFd::new(timer.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(PATIENCE / 4).during("poll")?;
        let ready = poll(&mut polled, timeout);
        if ready == Ok(0) {
            return Err("the timer has stopped".to_owned());
        }
        if ready == Ok(1) {
            expect_eq("it expired", expirations(&timer)? > 0, true)?;
        }
        Ok(())
    })
}

/// Armed for tomorrow by the clock that people read, to be cancelled when that is set, and by one that nobody sets: CRIU adds
/// the whole seconds of the clock to what was left, which in some moments is nearly right, but not for both.
fn timerfd_at_a_time_of_day() -> Made {
    let cancelled = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
    let clocks = [
        (FdClock::CLOCK_REALTIME, ClockId::CLOCK_REALTIME, cancelled),
        (FdClock::CLOCK_MONOTONIC, ClockId::CLOCK_MONOTONIC, TimerSetTimeFlags::TFD_TIMER_ABSTIME),
    ];
    let mut timers = Vec::new();
    for (of_timer, clock, flags) in clocks {
        let timer = timerfd(of_timer)?;
        let tomorrow = Duration::from(clock_gettime(clock).during("clock_gettime")?) + 24 * HOUR;
        timer.set(Expiration::OneShot(TimeSpec::from(tomorrow)), flags).during("timerfd_settime")?;
        timers.push((timer, clock, tomorrow));
    }
    made(move || {
        for (timer, clock, tomorrow) in &timers {
            // The clock is read a little before the timer, and on a busy machine a little more.
            let apart: Result<Vec<Duration>, String> = (0..20)
                .map(|_| {
                    let now = clock_gettime(*clock).during("clock_gettime")?;
                    match timer.get().during("timerfd_gettime")? {
                        Some(Expiration::OneShot(left)) => Ok(Duration::from(left + now).abs_diff(*tomorrow)),
                        other => Err(format!("the timer is {other:?}")),
                    }
                })
                .collect();
            let apart = apart?.into_iter().min().unwrap_or_default();
            if apart > Duration::from_millis(5) {
                return Err(format!("the timer is off by {apart:?}"));
            }
        }
        // Absolute, and cancelled when the clock is set.
        let flags = timers.iter().map(|(timer, ..)| fdinfo(timer, "settime flags"));
        let flags: Vec<String> = flags.collect::<Result<Vec<_>, _>>()?.concat();
        expect_eq("flags", flags, vec!["03".to_owned(), "01".to_owned()])
    })
}

/// Nobody has read that it expired; one is read whenever the process comes back.
fn timerfd_that_has_expired() -> Made {
    let mut timers = Vec::new();
    for _ in 0..8 {
        let timer = timerfd(FdClock::CLOCK_MONOTONIC)?;
        let soon = Expiration::OneShot(TimeSpec::from(Duration::from_micros(10)));
        timer.set(soon, TimerSetTimeFlags::empty()).during("timerfd_settime")?;
        timers.push(timer);
    }
    let mut absences = Absences::default();
    made(move || {
        for timer in &timers {
            let mut polled = [PollFd::new(timer.as_fd(), PollFlags::POLLIN)];
            poll(&mut polled, PollTimeout::from(100_u16)).during("poll")?;
            expect_eq("there is something to read", polled[0].any(), Some(true))?;
            expect_eq("armed", timer.get().during("timerfd_gettime")?.is_some(), false)?;
        }
        if !absences.is_back()? {
            return Ok(());
        }
        let timer = timers.pop().ok_or("the process was away too often")?;
        expect_eq("expirations", expirations(&timer)?, 1)
    })
}

/// Clocks that must not go backwards, nor far ahead, whatever machine the process comes to.
fn monotonic_time() -> Made {
    let clocks = [ClockId::CLOCK_MONOTONIC, ClockId::CLOCK_BOOTTIME, ClockId::CLOCK_MONOTONIC_RAW];
    let now = move || -> Result<Vec<Duration>, String> {
        clocks.iter().map(|clock| clock_gettime(*clock).map(Duration::from).during("clock_gettime")).collect()
    };
    let mut before = now()?;
    made(move || {
        let is = now()?;
        let backwards = is.iter().zip(&before).any(|(is, before)| is < before || *is - *before > PATIENCE);
        expect_eq("a clock jumps", backwards, false)
            .map_err(|why| format!("{why}: {before:?} then {is:?}"))?;
        before = is;
        Ok(())
    })
}

/// On the clock of the processor time that this process uses.
fn timer_of_processor_time() -> Made {
    let (timer, signal) = posix_timer(libc::CLOCK_PROCESS_CPUTIME_ID, libc::SIGEV_SIGNAL, 3)?;
    timer.set(0, PERIOD, PERIOD).during("timer_settime")?;
    made(move || {
        expect_eq("period", timer.left().during("timer_gettime")?.1, PERIOD)?;
        expect_signal(signal)
    })
}

/// Armed for a time of the clock that goes on, tomorrow.
fn timer_at_an_absolute_time() -> Made {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).during("clock_gettime")?);
    let (timer, _) = posix_timer(libc::CLOCK_MONOTONIC, libc::SIGEV_SIGNAL, 3)?;
    let tomorrow = now + 24 * HOUR;
    timer.set(libc::TIMER_ABSTIME, tomorrow, Duration::ZERO).during("timer_settime")?;
    made(move || {
        let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).during("clock_gettime")?);
        let (left, period) = timer.left().during("timer_gettime")?;
        expect_eq("period", period, Duration::ZERO)?;
        let apart = (now + left).abs_diff(tomorrow);
        if apart < Duration::from_secs(2) { Ok(()) } else { Err(format!("the timer is off by {apart:?}")) }
    })
}

/// Armed by one process, looked at by the other.
fn timerfd_of_two_processes() -> Made {
    let timer = timerfd(FdClock::CLOCK_MONOTONIC)?;
    let mut theirs = std::fs::File::from(timer.as_fd().try_clone_to_owned().during("dup")?);
    let mut child = Child::start(move || {
        Ok(move |_: &str| {
            let mut bytes = [0; 8];
            theirs.read_exact(&mut bytes).during("read")?;
            Ok(u64::from_ne_bytes(bytes).to_string())
        })
    })?;
    made(move || {
        let soon = Expiration::OneShot(TimeSpec::from(Duration::from_micros(100)));
        timer.set(soon, TimerSetTimeFlags::empty()).during("timerfd_settime")?;
        child.expect("expirations", "1")
    })
}
