// SPDX-License-Identifier: Apache-2.0
//! `timers`: a timerfd, a POSIX timer and an interval timer that must keep their periods, an eventfd with a value in it,
//! queued realtime signals that nobody has taken, and an epoll set over all of it.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId as TimerfdClock, TimerFd, TimerFlags};
use nix::time::ClockId;

use crate::lifecycle::{Checked, During as _, PATIENCE, Workload, expect_eq};
use crate::options::Options;
use crate::report::Fields;
use crate::sys;

const TIMERFD_PERIOD: Duration = Duration::from_millis(25);
const POSIX_PERIOD: Duration = Duration::from_millis(40);
const INTERVAL: Duration = Duration::from_millis(60);
/// How many signals stay queued.
const QUEUED: usize = 3;

/// What a member of the epoll set is registered as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    Timer = 11,
    Event = 22,
    Signals = 33,
    Silent = 44,
}

#[derive(Debug)]
pub(crate) struct Timers {
    timerfd: TimerFd,
    posix: Timer,
    event: EventFd,
    signals: OwnedFd,
    _silent: (OwnedFd, OwnedFd),
    epoll: Epoll,
    registered: Vec<String>,
    pending: i32,
    value: u64,
    timerfd_pace: Pace,
    posix_pace: Pace,
    interval_pace: Pace,
}

impl Timers {
    pub(crate) fn new(_options: &Options) -> Result<Self, String> {
        let pending = libc::SIGRTMIN() + 3;
        sys::block(&[libc::SIGALRM, libc::SIGUSR2, pending]).during("block signals")?;
        for value in 0..QUEUED {
            sys::queue_to_self(pending, value).during("sigqueue")?;
        }
        let signals = sys::signalfd(&[libc::SIGALRM, libc::SIGUSR2]).during("signalfd")?;

        let timerfd =
            TimerFd::new(TimerfdClock::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)
                .during("timerfd_create")?;
        let event = EventFd::from_value_and_flags(5, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .during("eventfd")?;
        let (silent, other_end) = std::io::pipe().during("pipe")?;
        let silent = (OwnedFd::from(silent), OwnedFd::from(other_end));

        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).during("epoll_create1")?;
        let members = [
            (timerfd.as_fd(), Member::Timer, EpollFlags::empty()),
            (event.as_fd(), Member::Event, EpollFlags::empty()),
            (signals.as_fd(), Member::Signals, EpollFlags::empty()),
            (silent.0.as_fd(), Member::Silent, EpollFlags::EPOLLET),
        ];
        for (fd, member, flags) in members {
            epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN | flags, member as u64)).during("epoll_ctl")?;
        }
        let registered = members_of(&epoll)?;

        let notify = SigEvent::new(SigevNotify::SigevSignal { signal: Signal::SIGUSR2, si_value: 77 });
        let mut posix = Timer::new(ClockId::CLOCK_MONOTONIC, notify).during("timer_create")?;
        posix.set(every(POSIX_PERIOD), TimerSetTimeFlags::empty()).during("timer_settime")?;
        timerfd.set(every(TIMERFD_PERIOD), TimerSetTimeFlags::empty()).during("timerfd_settime")?;
        sys::set_interval(INTERVAL).during("setitimer")?;
        Ok(Self {
            timerfd,
            posix,
            event,
            signals,
            _silent: silent,
            epoll,
            registered,
            pending,
            value: 5,
            timerfd_pace: Pace::new("timerfd", TIMERFD_PERIOD),
            posix_pace: Pace::new("POSIX timer", POSIX_PERIOD),
            interval_pace: Pace::new("interval timer", INTERVAL),
        })
    }

    fn periods(&self) -> Checked {
        let armed = |what, expiration: Option<Expiration>, period: Duration| match expiration {
            Some(Expiration::IntervalDelayed(_, every) | Expiration::Interval(every)) => {
                expect_eq(what, Duration::from(every), period)
            }
            other => Err(format!("{what} is {other:?}")),
        };
        armed("period of the timerfd", self.timerfd.get().during("timerfd_gettime")?, TIMERFD_PERIOD)?;
        armed("period of the POSIX timer", self.posix.get().during("timer_gettime")?, POSIX_PERIOD)?;
        expect_eq("interval timer", sys::interval().during("getitimer")?, INTERVAL)
    }

    /// The event counter always has a value, so it is ready; the silent pipe never is.
    fn ready(&self) -> Result<Vec<u64>, String> {
        let mut events = [EpollEvent::empty(); 8];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).during("epoll_wait")?;
        Ok(events[..count].iter().map(EpollEvent::data).collect())
    }

    fn expirations(&mut self, ready: &[u64]) -> Checked {
        let mut ticks = 0;
        if ready.contains(&(Member::Timer as u64)) {
            let mut bytes = [0; 8];
            let mut reader = File::from(self.timerfd.as_fd().try_clone_to_owned().during("dup")?);
            reader.read_exact(&mut bytes).during("read the timerfd")?;
            ticks = u64::from_ne_bytes(bytes);
        }
        let (mut posix, mut interval) = (0, 0);
        while let Some(taken) = sys::read_signalfd(self.signals.as_fd()).during("read the signalfd")? {
            match taken.number {
                libc::SIGALRM => interval += 1,
                libc::SIGUSR2 => {
                    expect_eq("value of the POSIX timer", taken.value, 77)?;
                    posix += 1 + u64::from(self.posix.overruns().cast_unsigned());
                }
                other => return Err(format!("signalfd: signal {other}")),
            }
        }
        self.timerfd_pace.count(ticks)?;
        self.posix_pace.count(posix)?;
        self.interval_pace.count(interval)
    }

    fn event_value(&mut self, tick: u64) -> Checked {
        expect_eq("value of the eventfd", self.event.read().during("read the eventfd")?, self.value)?;
        self.value = 1 + tick % 1000;
        self.event.write(self.value).during("write the eventfd").map(drop)
    }

    /// Takes the queued signals, which must come in order, and queues them again.
    fn queue(&self) -> Checked {
        for value in 0..QUEUED {
            let taken = sys::take(&[self.pending], Duration::ZERO).during("sigtimedwait")?;
            expect_eq("queued signal", taken.map(|t| t.value), Some(value))?;
            sys::queue_to_self(self.pending, value).during("sigqueue")?;
        }
        Ok(())
    }
}

impl Workload for Timers {
    fn tick(&mut self, tick: u64) -> Checked {
        self.periods()?;
        let ready = self.ready()?;
        expect_eq("eventfd is ready", ready.contains(&(Member::Event as u64)), true)?;
        expect_eq("silent pipe is ready", ready.contains(&(Member::Silent as u64)), false)?;
        self.expirations(&ready)?;
        self.event_value(tick)?;
        self.queue()?;
        expect_eq("members of the epoll set", &members_of(&self.epoll)?, &self.registered)
    }

    fn fields(&self, fields: &mut Fields) {
        fields.put("timerfd_expirations", self.timerfd_pace.total);
        fields.put("posix_expirations", self.posix_pace.total);
        fields.put("interval_expirations", self.interval_pace.total);
    }
}

fn every(period: Duration) -> Expiration {
    Expiration::Interval(TimeSpec::from(period))
}

/// What the kernel says is registered: descriptor, events and data; the inode numbers behind may change in a restore.
fn members_of(epoll: &Epoll) -> Result<Vec<String>, String> {
    let info =
        std::fs::read_to_string(format!("/proc/self/fdinfo/{}", epoll.0.as_raw_fd())).during("fdinfo")?;
    let mut members: Vec<String> = info
        .lines()
        .filter(|line| line.starts_with("tfd:"))
        .map(|line| line.split_whitespace().take(6).collect::<Vec<_>>().join(" "))
        .collect();
    members.sort();
    Ok(members)
}

/// Counts expirations: they go on, and never come faster than their period.
#[derive(Debug)]
struct Pace {
    what: &'static str,
    period: Duration,
    total: u64,
    checked: Instant,
    expired: Instant,
}

impl Pace {
    fn new(what: &'static str, period: Duration) -> Self {
        let now = Instant::now();
        Self { what, period, total: 0, checked: now, expired: now }
    }

    fn count(&mut self, expirations: u64) -> Checked {
        // CLOCK_MONOTONIC, which CRIU continues.
        let now = Instant::now();
        let elapsed = now.duration_since(self.checked);
        self.checked = now;
        self.total += expirations;
        if expirations > 0 {
            self.expired = now;
        } else if now.duration_since(self.expired) > PATIENCE {
            return Err(format!("{} has stopped", self.what));
        }
        // One may have been due before the window, one may have been late in it.
        let most = elapsed.as_nanos() / self.period.as_nanos() + 2;
        if u128::from(expirations) > most {
            return Err(format!("{} expired {expirations} times in {elapsed:?}", self.what));
        }
        Ok(())
    }
}
