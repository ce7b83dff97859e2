// SPDX-License-Identifier: Apache-2.0
//! Being told of a container's memory, and of its end.
//!
//! Two descriptors behind one: the watch over the cgroup, and the first process, since a cgroup of v1 tells nothing
//! when its last process goes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::Container;
use crate::cgroup::{MemoryNews, MemoryWatch, PressureLevel};
use crate::{Context, Result, sys};

/// What one is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// What was asked for happened, so many times since the last notice.
    Memory(u64),
    /// The container has ended; nothing follows.
    Ended,
    /// Nothing happened in the time that was given.
    TimedOut,
}

/// Notices about a container's memory. Its descriptor becomes readable (`POLLIN`) when [`MemoryNotices::wait`] has
/// something to tell.
#[derive(Debug)]
pub struct MemoryNotices {
    watch: MemoryWatch,
    first_process: OwnedFd,
    epoll: Epoll,
}

/// What an event of the epoll is about.
const MEMORY: u64 = 0;
const END: u64 = 1;

impl Container {
    /// Is told when the kernel kills in the container for want of memory.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`](crate::ErrorKind::WrongStatus) when it has stopped;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when its memory is not accounted.
    pub fn notify_on_oom(&self) -> Result<MemoryNotices> {
        self.notices(|| self.cgroup()?.watch_oom())
            .context(|| format!("watch the memory of container {}", self.id()))
    }

    /// Is told when memory becomes hard to get in the container.
    ///
    /// # Errors
    /// As [`Container::notify_on_oom`].
    pub fn notify_on_memory_pressure(&self, level: PressureLevel) -> Result<MemoryNotices> {
        self.notices(|| self.cgroup()?.watch_memory_pressure(level))
            .context(|| format!("watch the memory pressure of container {}", self.id()))
    }

    fn notices(&self, watch: impl FnOnce() -> Result<MemoryWatch>) -> Result<MemoryNotices> {
        self.require_running()?;
        let Some(init) = self.init() else {
            return self.require_running().and_then(|()| self.notices(watch));
        };
        let first_process = sys::pidfd::open(init.pid()).context(|| format!("pidfd_open({})", init.pid))?;
        // The number was init's when the descriptor was opened if init lives now.
        self.require_running()?;
        let watch = watch()?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context(|| "epoll_create1")?;
        let interest = if watch.interest().contains(PollFlags::POLLPRI) {
            EpollFlags::EPOLLPRI
        } else {
            EpollFlags::EPOLLIN
        };
        epoll.add(&watch, EpollEvent::new(interest, MEMORY)).context(|| "epoll_ctl")?;
        epoll.add(&first_process, EpollEvent::new(EpollFlags::EPOLLIN, END)).context(|| "epoll_ctl")?;
        Ok(MemoryNotices { watch, first_process, epoll })
    }
}

impl MemoryNotices {
    /// Waits for the next notice, at most for `timeout`; without one for as long as it takes. What happened before the
    /// end is told before the end.
    ///
    /// # Errors
    /// The descriptors cannot be read.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Notice> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let mut events = [EpollEvent::empty(); 2];
            let found = match self.epoll.wait(&mut events, left(deadline)) {
                Err(Errno::EINTR) => continue,
                other => other.context(|| "epoll_wait")?,
            };
            match self.watch.news()? {
                MemoryNews::Happened(times) => return Ok(Notice::Memory(times)),
                MemoryNews::Ended => return Ok(Notice::Ended),
                MemoryNews::None if events[..found].iter().any(|event| event.data() == END) => {
                    return Ok(Notice::Ended);
                }
                MemoryNews::None => {}
            }
            if found == 0 && deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Notice::TimedOut);
            }
        }
    }

    /// A descriptor of the first process, readable when that has ended.
    pub fn first_process(&self) -> BorrowedFd<'_> {
        self.first_process.as_fd()
    }
}

impl AsFd for MemoryNotices {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

/// Whole milliseconds, rounded up: waking too early would turn the wait into a busy one.
fn left(deadline: Option<Instant>) -> EpollTimeout {
    let Some(deadline) = deadline else { return EpollTimeout::NONE };
    let left = deadline.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
    EpollTimeout::from(u16::try_from(left).unwrap_or(u16::MAX))
}
