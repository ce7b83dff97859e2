// SPDX-License-Identifier: Apache-2.0
//! System calls that are being waited in: another process is in one all the time, and it must end when its time is up,
//! neither early nor with an interruption.

use std::io::Read as _;
use std::time::{Duration, Instant};

use nix::poll::PollTimeout;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollTimeout};

use super::sys::timers;
use super::{Child, Made, made};
use crate::lifecycle::{During as _, expect_eq};

super::exhibits![
    in_nanosleep,
    in_nanosleep_of_boot_time,
    in_a_wait_for_a_futex,
    in_select,
    in_poll,
    in_epoll_wait,
    in_a_read_of_a_pipe,
];

/// A time that passes while the process is looked at.
const SHORT: Duration = Duration::from_millis(400);
/// A time that does not.
const LONG: Duration = Duration::from_secs(3600);

/// The child waits for that `time` in the call and tells how that ended; it is asked again as soon as it has answered, and only
/// looked at in between.
fn waiting(time: Duration, wait: fn(Duration) -> Result<bool, String>) -> Made {
    let mut child = Child::start(move || {
        Ok(move |_: &str| {
            let begin = Instant::now();
            let whole = wait(time)?;
            let took = begin.elapsed();
            Ok(format!("whole time: {whole}, early: {}", took + Duration::from_millis(1) < time))
        })
    })?;
    child.put("wait")?;
    made(move || {
        if child.has_answered()? {
            expect_eq("end of the call", child.hear()?.as_str(), "whole time: true, early: false")?;
            child.put("wait")?;
        }
        Ok(())
    })
}

/// Restarted by the kernel with what is left of the time.
fn in_nanosleep() -> Made {
    waiting(LONG, |time| timers::sleep(libc::CLOCK_MONOTONIC, time).during("clock_nanosleep"))
}

/// On another clock.
fn in_nanosleep_of_boot_time() -> Made {
    waiting(LONG, |time| timers::sleep(libc::CLOCK_BOOTTIME, time).during("clock_nanosleep"))
}

/// A mutex that nobody gives up.
fn in_a_wait_for_a_futex() -> Made {
    waiting(LONG, |time| timers::futex_wait(time).during("futex"))
}

/// No descriptors.
fn in_select() -> Made {
    waiting(SHORT, |time| timers::select(time).during("select"))
}

/// A pipe that stays empty.
fn in_poll() -> Made {
    waiting(LONG, |time| {
        let (reader, _writer) = std::io::pipe().during("pipe")?;
        let mut polled =
            [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&reader), nix::poll::PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(time).during("poll")?;
        nix::poll::poll(&mut polled, timeout).during("poll").map(|ready| ready == 0)
    })
}

/// An empty set. This call is not restarted: the kernel ends it with an interruption, which programs expect.
fn in_epoll_wait() -> Made {
    waiting(SHORT, |time| {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).during("epoll_create1")?;
        let begin = Instant::now();
        loop {
            let left = time.saturating_sub(begin.elapsed()) + Duration::from_millis(1);
            let timeout = EpollTimeout::try_from(left).during("epoll_wait")?;
            match epoll.wait(&mut [EpollEvent::empty()], timeout) {
                Err(nix::errno::Errno::EINTR) => {}
                Ok(ready) => return Ok(ready == 0),
                Err(errno) => return Err(format!("epoll_wait: {errno}")),
            }
        }
    })
}

/// It waits for data, and gets it.
fn in_a_read_of_a_pipe() -> Made {
    let (mut reader, mut writer) = std::io::pipe().during("pipe")?;
    let mut child = Child::start(move || {
        Ok(move |_: &str| {
            let mut byte = [0];
            reader.read_exact(&mut byte).during("read")?;
            Ok(byte[0].to_string())
        })
    })?;
    let mut next = 0_u8;
    child.put("read")?;
    made(move || {
        expect_eq("the child has answered", child.has_answered()?, false)?;
        next = next.wrapping_add(1);
        std::io::Write::write_all(&mut writer, &[next]).during("write")?;
        expect_eq("byte", child.hear()?, next.to_string())?;
        child.put("read")
    })
}
