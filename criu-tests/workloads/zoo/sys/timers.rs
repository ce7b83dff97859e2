// SPDX-License-Identifier: Apache-2.0
//! Interval timers of all three kinds, and POSIX timers with what nix does not say about them.

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use super::check;

/// Which of the three interval timers.
pub(in crate::zoo) type Which = i32;

/// Arms an interval timer.
pub(in crate::zoo) fn set_interval(which: Which, first: Duration, period: Duration) -> io::Result<()> {
    let time =
        |d: Duration| libc::timeval { tv_sec: d.as_secs().cast_signed(), tv_usec: d.subsec_micros().into() };
    let value = libc::itimerval { it_interval: time(period), it_value: time(first) };
    // SAFETY: the new value is initialised; the old one is not asked for.
    check(unsafe { libc::setitimer(which, &raw const value, std::ptr::null_mut()) }.into()).map(drop)
}

/// What is left of an interval timer, and its period.
pub(in crate::zoo) fn interval(which: Which) -> io::Result<(Duration, Duration)> {
    let mut value = MaybeUninit::<libc::itimerval>::zeroed();
    // SAFETY: getitimer fills the structure, and all-zero is a valid one.
    let value = unsafe {
        check(libc::getitimer(which, value.as_mut_ptr()).into())?;
        value.assume_init()
    };
    let time = |t: libc::timeval| {
        Duration::from_secs(t.tv_sec.cast_unsigned()) + Duration::from_micros(t.tv_usec.cast_unsigned())
    };
    Ok((time(value.it_value), time(value.it_interval)))
}

/// A POSIX timer by its kernel number.
#[derive(Debug, Clone, Copy)]
pub(in crate::zoo) struct Timer(i32);

impl Timer {
    /// `notify` is one of `SIGEV_SIGNAL`, `SIGEV_NONE`, `SIGEV_THREAD_ID`; the thread is the calling one.
    pub(in crate::zoo) fn new(
        clock: libc::clockid_t,
        notify: i32,
        signal: i32,
        value: usize,
    ) -> io::Result<Self> {
        let mut number = -1_i32;
        // SAFETY: an all-zero sigevent is valid; the members that are set are those that the kernel reads for these kinds.
        unsafe {
            let mut event: libc::sigevent = MaybeUninit::zeroed().assume_init();
            event.sigev_notify = notify;
            event.sigev_signo = signal;
            event.sigev_value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(value) };
            event.sigev_notify_thread_id = libc::gettid();
            check(libc::syscall(libc::SYS_timer_create, clock, &raw mut event, &raw mut number))?;
        }
        Ok(Self(number))
    }

    /// Removes it.
    pub(in crate::zoo) fn delete(self) -> io::Result<()> {
        // SAFETY: a plain number.
        check(unsafe { libc::syscall(libc::SYS_timer_delete, self.0) }).map(drop)
    }

    /// Arms it; `flags` may be `TIMER_ABSTIME`.
    pub(in crate::zoo) fn set(self, flags: i32, first: Duration, period: Duration) -> io::Result<()> {
        let value = libc::itimerspec { it_interval: spec(period), it_value: spec(first) };
        let none = std::ptr::null_mut::<libc::itimerspec>();
        // SAFETY: the new value is initialised; the old one is not asked for.
        check(unsafe { libc::syscall(libc::SYS_timer_settime, self.0, flags, &raw const value, none) })
            .map(drop)
    }

    /// What is left, and the period.
    pub(in crate::zoo) fn left(self) -> io::Result<(Duration, Duration)> {
        let mut value = MaybeUninit::<libc::itimerspec>::zeroed();
        // SAFETY: the kernel fills the structure, and all-zero is a valid one.
        let value = unsafe {
            check(libc::syscall(libc::SYS_timer_gettime, self.0, value.as_mut_ptr()))?;
            value.assume_init()
        };
        Ok((duration(value.it_value), duration(value.it_interval)))
    }

    /// How often it expired while its signal was pending.
    pub(in crate::zoo) fn overrun(self) -> io::Result<i64> {
        // SAFETY: a plain number.
        check(unsafe { libc::syscall(libc::SYS_timer_getoverrun, self.0) })
    }
}

fn spec(d: Duration) -> libc::timespec {
    libc::timespec { tv_sec: d.as_secs().cast_signed(), tv_nsec: d.subsec_nanos().into() }
}

fn duration(t: libc::timespec) -> Duration {
    Duration::from_secs(t.tv_sec.cast_unsigned()) + Duration::from_nanos(t.tv_nsec.cast_unsigned())
}

/// Sleeps by the raw call, so that an interruption is seen: true when the whole time has passed.
pub(in crate::zoo) fn sleep(clock: libc::clockid_t, time: Duration) -> io::Result<bool> {
    let time = spec(time);
    // SAFETY: the time lives; what is left is not asked for.
    match unsafe { libc::clock_nanosleep(clock, 0, &raw const time, std::ptr::null_mut()) } {
        0 => Ok(true),
        libc::EINTR => Ok(false),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Waits on a futex that nobody wakes: true when the whole time has passed.
pub(in crate::zoo) fn futex_wait(time: Duration) -> io::Result<bool> {
    let (word, time) = (std::sync::atomic::AtomicU32::new(7), spec(time));
    // SAFETY: the word and the time live until the call is over.
    let result = check(unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            7,
            &raw const time,
        )
    });
    timed_out(result, libc::ETIMEDOUT)
}

/// Waits in `select` with no descriptors.
pub(in crate::zoo) fn select(time: Duration) -> io::Result<bool> {
    let none = std::ptr::null_mut;
    let mut time =
        libc::timeval { tv_sec: time.as_secs().cast_signed(), tv_usec: time.subsec_micros().into() };
    // SAFETY: no sets, and a time that lives.
    check(unsafe { libc::select(0, none(), none(), none(), &raw mut time) }.into()).map(|_| true)
}

fn timed_out(result: io::Result<i64>, errno: i32) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(false),
        Err(e) if e.raw_os_error() == Some(errno) => Ok(true),
        Err(e) => Err(e),
    }
}
