// SPDX-License-Identifier: Apache-2.0
//! Being told when a cgroup runs out of memory, or is about to: a descriptor to wait on, and what it means that it
//! became readable. Must not know whose cgroup it is.
//!
//! | | out of memory | pressure |
//! |---|---|---|
//! | v1 | eventfd on `memory.oom_control` | eventfd on `memory.pressure_level` |
//! | v2 | inotify on `memory.events`, and on `cgroup.events` for the end | trigger on `memory.pressure` |
//!
//! Sources: kernel admin-guide/cgroup-v1/memory.rst (9, 10, 11), admin-guide/cgroup-v2.rst, accounting/psi.rst.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::Mode;

use super::cgroup::{Cgroup, Node};
use super::directory::Directory;
use super::hierarchy::Version;
use super::oom;
use crate::{Context, Error, ErrorKind, Result};

/// How hard it is to get memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PressureLevel {
    /// v1: memory is being reclaimed. v2: for 7 % of two seconds some task waited for memory.
    Low,
    /// v1: reclaiming has become hard. v2: for 15 % of two seconds some task waited.
    Medium,
    /// v1: about to run out. v2: for 15 % of two seconds all tasks waited at once.
    Critical,
}

impl PressureLevel {
    fn v1(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::Critical => "critical",
        }
    }

    /// Microseconds of waiting in microseconds of time. Callers without CAP_SYS_RESOURCE may have multiples of two
    /// seconds only.
    fn v2(self) -> &'static str {
        match self {
            Self::Low => "some 140000 2000000",
            Self::Medium => "some 300000 2000000",
            Self::Critical => "full 300000 2000000",
        }
    }
}

/// What has happened since one looked last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryNews {
    /// Nothing.
    None,
    /// What is watched for, so many times.
    Happened(u64),
    /// The cgroup is gone or has no process any more.
    Ended,
}

/// A watch over a cgroup's memory. The descriptor becomes readable ([`MemoryWatch::interest`]) when there is news.
#[derive(Debug)]
pub struct MemoryWatch(Source);

#[derive(Debug)]
enum Source {
    Event { event: EventFd, directory: Directory },
    Kills { inotify: Inotify, directory: Directory, seen: u64 },
    Trigger(File),
}

impl Cgroup {
    /// Watches for the kernel killing for want of memory (v1: for memory being used up).
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] without the memory controller; the cgroup does not exist.
    pub fn watch_oom(&self) -> Result<MemoryWatch> {
        let node = self.memory_node()?;
        let directory = node.existing()?;
        let source = match node.version {
            Version::V1 => event(directory, "memory.oom_control", "")?,
            Version::V2 => kills(directory)?,
        };
        Ok(MemoryWatch(source))
    }

    /// Watches for memory being hard to get.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] without the memory controller, or on v2 where the kernel does not account pressure;
    /// the cgroup does not exist.
    pub fn watch_memory_pressure(&self, level: PressureLevel) -> Result<MemoryWatch> {
        let node = self.memory_node()?;
        let directory = node.existing()?;
        let source = match node.version {
            Version::V1 => event(directory, "memory.pressure_level", level.v1())?,
            Version::V2 => trigger(&directory, level)?,
        };
        Ok(MemoryWatch(source))
    }

    fn memory_node(&self) -> Result<&Node> {
        self.node_of("memory").ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "the container has no cgroup of the memory controller")
        })
    }
}

impl MemoryWatch {
    /// What to wait for on the descriptor: `POLLIN`, or `POLLPRI`.
    pub fn interest(&self) -> PollFlags {
        match self.0 {
            Source::Event { .. } | Source::Kills { .. } => PollFlags::POLLIN,
            Source::Trigger(_) => PollFlags::POLLPRI,
        }
    }

    /// What has happened; does not wait.
    ///
    /// # Errors
    /// The descriptor or the cgroup cannot be read.
    pub fn news(&mut self) -> Result<MemoryNews> {
        match &mut self.0 {
            Source::Event { event, directory } => match event.read() {
                // Its removal is announced as well.
                Ok(_) if !directory.has("cgroup.event_control") => Ok(MemoryNews::Ended),
                Ok(count) => Ok(MemoryNews::Happened(count)),
                Err(Errno::EAGAIN | Errno::EINTR) => Ok(MemoryNews::None),
                Err(errno) => Err(errno).context(|| "read the eventfd of a cgroup"),
            },
            Source::Kills { inotify, directory, seen } => {
                match inotify.read_events() {
                    Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                    Err(errno) => return Err(errno).context(|| "read the inotify descriptor of a cgroup"),
                }
                let before = *seen;
                match kill_count(directory)? {
                    Some(now) => *seen = now,
                    None => return Ok(MemoryNews::Ended),
                }
                match seen.saturating_sub(before) {
                    0 if !is_populated(directory)? => Ok(MemoryNews::Ended),
                    0 => Ok(MemoryNews::None),
                    kills => Ok(MemoryNews::Happened(kills)),
                }
            }
            Source::Trigger(file) => {
                let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
                match poll(&mut fds, PollTimeout::ZERO) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno).context(|| "poll memory.pressure"),
                }
                let found = fds[0].revents().unwrap_or(PollFlags::empty());
                Ok(if found.contains(PollFlags::POLLERR) {
                    MemoryNews::Ended
                } else if found.contains(PollFlags::POLLPRI) {
                    MemoryNews::Happened(1)
                } else {
                    MemoryNews::None
                })
            }
        }
    }
}

impl AsFd for MemoryWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Source::Event { event, .. } => event.as_fd(),
            Source::Kills { inotify, .. } => inotify.as_fd(),
            Source::Trigger(file) => file.as_fd(),
        }
    }
}

/// v1: the kernel writes to an eventfd that is registered with the file.
fn event(directory: Directory, file: &str, argument: &str) -> Result<Source> {
    let watched = openat(&directory, file, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .context(|| format!("open {}", directory.path().join(file).display()))?;
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let event = EventFd::from_value_and_flags(0, flags).context(|| "eventfd")?;
    let line = format!("{} {} {argument}", event.as_fd().as_raw_fd(), watched.as_raw_fd());
    directory.write("cgroup.event_control", &line)?;
    Ok(Source::Event { event, directory })
}

fn kills(directory: Directory) -> Result<Source> {
    let inotify =
        Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).context(|| "inotify_init1")?;
    for file in ["memory.events", "cgroup.events"] {
        let path = directory.path().join(file);
        inotify.add_watch(&path, AddWatchFlags::IN_MODIFY).context(|| format!("watch {}", path.display()))?;
    }
    let seen = kill_count(&directory)?.unwrap_or_default();
    Ok(Source::Kills { inotify, directory, seen })
}

/// How often the kernel has killed; `None` when the cgroup is gone.
fn kill_count(directory: &Directory) -> Result<Option<u64>> {
    match directory.read_if_exists("memory.events") {
        Err(e) if e.is_errno(libc::ENODEV) => Ok(None),
        other => Ok(other?.as_deref().map(oom::count)),
    }
}

fn is_populated(directory: &Directory) -> Result<bool> {
    match directory.read_if_exists("cgroup.events") {
        Err(e) if e.is_errno(libc::ENODEV) => Ok(false),
        other => Ok(other?.is_some_and(|text| text.lines().any(|line| line == "populated 1"))),
    }
}

fn trigger(directory: &Directory, level: PressureLevel) -> Result<Source> {
    let path = || directory.path().join("memory.pressure");
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let unaccounted = |error: Error| match error.errno() {
        Some(libc::ENOENT | libc::EOPNOTSUPP) => {
            Error::new(ErrorKind::Unsupported, "this kernel does not account pressure")
                .with_source(error)
                .with_hint("boot it with psi=1")
        }
        _ => error,
    };
    let mut file = openat(directory, "memory.pressure", flags, Mode::empty())
        .map(File::from)
        .context(|| format!("open {}", path().display()))
        .map_err(unaccounted)?;
    let written: io::Result<()> = file.write_all(level.v2().as_bytes());
    written.context(|| format!("write a trigger to {}", path().display())).map_err(unaccounted)?;
    Ok(Source::Trigger(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_counts_kills_and_ends_with_the_last_process() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let write = |file: &str, text: &str| std::fs::write(temp.path().join(file), text).expect("write");
        write("memory.events", "oom 1\noom_kill 1\n");
        write("cgroup.events", "populated 1\nfrozen 0\n");
        let mut watch = MemoryWatch(kills(Directory::top(temp.path()).expect("open")).expect("watched"));
        assert_eq!(watch.news().expect("readable"), MemoryNews::None, "what was before does not count");
        write("memory.events", "oom 9\noom_kill 1\n");
        assert_eq!(watch.news().expect("readable"), MemoryNews::None);
        write("memory.events", "oom 9\noom_kill 3\n");
        let mut fds = [PollFd::new(watch.as_fd(), watch.interest())];
        assert_eq!(poll(&mut fds, PollTimeout::from(1000_u16)).expect("poll"), 1);
        assert_eq!(watch.news().expect("readable"), MemoryNews::Happened(2));
        write("memory.events", "oom 9\noom_kill 4\n");
        write("cgroup.events", "populated 0\nfrozen 0\n");
        assert_eq!(watch.news().expect("readable"), MemoryNews::Happened(1), "the last one is not lost");
        assert_eq!(watch.news().expect("readable"), MemoryNews::Ended);
    }
}
