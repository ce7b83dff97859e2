// SPDX-License-Identifier: Apache-2.0
//! Stopping and continuing every process of a cgroup at once.
//!
//! Must not know which hierarchy was chosen nor why it freezes. Sources: kernel
//! admin-guide/cgroup-v1/freezer-subsystem.rst, admin-guide/cgroup-v2.rst.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;

use super::directory::Directory;
use super::hierarchy::Version;
use crate::{Context, Error, ErrorKind, Result};

/// How long a freeze may take before it is given up and undone.
const DEADLINE: Duration = Duration::from_secs(10);

/// The v1 freezer is asked again after this pause at first, and after twice the last pause from then on: a few
/// processes stop within 0.1 ms, and what is waited here the container stands still.
const V1_FIRST_PAUSE: Duration = Duration::from_micros(50);

/// The longest pause between two looks at the v1 freezer.
const V1_LONGEST_PAUSE: Duration = Duration::from_micros(500);

/// After so many v1 rounds in FREEZING the cgroup is thawed and frozen again: tasks that were forking while the state
/// was written can hold it there for ever.
const V1_ROUNDS: u32 = 50;

/// The name of an [`Anchor`].
pub(super) const ANCHOR: &str = "migrate-freezer";

/// The change of a v2 cgroup is looked for at least this often (milliseconds), notified or not.
const V2_INTERVAL: u16 = 100;

/// What the freezer of a cgroup does to its processes. That a cgroup above is frozen does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreezerState {
    /// Processes run.
    Thawed,
    /// Processes are being stopped; some may run.
    Freezing,
    /// All processes are stopped.
    Frozen,
}

pub(super) fn state(directory: &Directory, version: Version) -> Result<FreezerState> {
    match version {
        Version::V1 => {
            let state = directory.read("freezer.state")?;
            let own = directory.read_if_exists("freezer.self_freezing")?;
            Ok(v1_state(&state, own.as_deref()))
        }
        Version::V2 => {
            if directory.read("cgroup.freeze")? == "0" {
                return Ok(FreezerState::Thawed);
            }
            let events = directory.read("cgroup.events")?;
            Ok(if reports_frozen(&events) { FreezerState::Frozen } else { FreezerState::Freezing })
        }
    }
}

/// A cgroup that a parent has frozen reads FROZEN, too, but is not frozen itself.
fn v1_state(state: &str, self_freezing: Option<&str>) -> FreezerState {
    match (state, self_freezing) {
        (_, Some("0")) | ("THAWED", _) => FreezerState::Thawed,
        ("FROZEN", _) => FreezerState::Frozen,
        _ => FreezerState::Freezing,
    }
}

fn reports_frozen(events: &str) -> bool {
    events.lines().any(|line| line == "frozen 1")
}

/// Freezes and waits until every process is stopped. On an error the cgroup is thawed again.
pub(super) fn freeze(directory: &Directory, version: Version) -> Result<()> {
    let frozen = match version {
        Version::V1 => freeze_v1(directory),
        Version::V2 => freeze_v2(directory),
    };
    frozen.map_err(|error| error.with_cleanup(thaw(directory, version).err()))
}

/// Lets the processes run again.
pub(super) fn thaw(directory: &Directory, version: Version) -> Result<()> {
    match version {
        Version::V1 => directory.write("freezer.state", "THAWED"),
        Version::V2 => directory.write("cgroup.freeze", "0"),
    }
}

/// Lets the processes run again, also those in cgroups beneath that were frozen by themselves. On v1 a frozen process
/// does not even die; on v2 it does.
pub(super) fn thaw_tree(directory: &Directory, version: Version) -> Result<()> {
    match version {
        Version::V1 => directory.walk(&mut |directory| thaw(directory, version)),
        Version::V2 => thaw(directory, version),
    }
}

/// Whether a cgroup above is frozen, so that nothing in this one runs.
pub(super) fn is_frozen_from_above(directory: &Directory, version: Version) -> Result<bool> {
    match version {
        Version::V1 => {
            Ok(directory.read_if_exists("freezer.parent_freezing")?.is_some_and(|text| text != "0"))
        }
        Version::V2 => {
            let own = directory.read_if_exists("cgroup.freeze")?.is_some_and(|text| text != "0");
            let events = directory.read_if_exists("cgroup.events")?.unwrap_or_default();
            Ok(!own && reports_frozen(&events))
        }
    }
}

/// A cgroup beneath that is frozen by itself and has processes.
pub(super) fn frozen_beneath(directory: &Directory, version: Version) -> Result<Option<PathBuf>> {
    let mut found = None;
    directory.walk(&mut |beneath| {
        let is_frozen = || Ok::<_, Error>(state(beneath, version)? != FreezerState::Thawed);
        if found.is_none()
            && beneath.path() != directory.path()
            && is_frozen()?
            && !beneath.pids()?.is_empty()
        {
            found = Some(beneath.path().to_owned());
        }
        Ok(())
    })?;
    Ok(found)
}

fn freeze_v1(directory: &Directory) -> Result<()> {
    let start = Instant::now();
    let mut anchor = None;
    while start.elapsed() < DEADLINE {
        directory.write("freezer.state", "FROZEN")?;
        let mut pause = V1_FIRST_PAUSE;
        for _ in 0..V1_ROUNDS {
            match directory.read("freezer.state")?.as_str() {
                "FROZEN" => return Ok(()),
                // A process in it did that.
                "THAWED" => break,
                _ => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(V1_LONGEST_PAUSE);
        }
        directory.write("freezer.state", "THAWED")?;
        if anchor.is_none() {
            anchor = Some(Anchor::beneath(directory)?);
        }
    }
    Err(timed_out(directory))
}

/// An empty frozen cgroup beneath the one that is to be frozen.
///
/// The first cgroup of a machine to freeze and the last one to thaw have the kernel change its own code (the static key
/// `freezer_active`), under the lock of all freezers. A process that thaws itself all the time comes to wait for that
/// lock meanwhile, before it is told to freeze, and then thaws what was frozen: every time. While another cgroup is
/// frozen too both take no time, and a process is told to freeze between two of its writes.
struct Anchor<'a>(&'a Directory);

impl<'a> Anchor<'a> {
    /// One that a killed command has left is taken over. It goes with the container's cgroup at the latest.
    fn beneath(directory: &'a Directory) -> Result<Self> {
        let (child, _) = directory.make(OsStr::new(ANCHOR))?;
        let anchor = Self(directory);
        child.write("freezer.state", "FROZEN")?;
        Ok(anchor)
    }
}

impl Drop for Anchor<'_> {
    fn drop(&mut self) {
        if let Err(errno) = self.0.remove(OsStr::new(ANCHOR)) {
            tracing::warn!(
                cgroup = %self.0.path().join(ANCHOR).display(),
                error = errno.desc(),
                "cgroup not removed"
            );
        }
    }
}

fn freeze_v2(directory: &Directory) -> Result<()> {
    let start = Instant::now();
    let path = || directory.path().join("cgroup.events");
    let mut events = openat(directory, "cgroup.events", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .map(File::from)
        .context(|| format!("open {}", path().display()))?;
    directory.write("cgroup.freeze", "1")?;
    while start.elapsed() < DEADLINE {
        // Through the polled descriptor itself: kernfs reports changes since that one was last read.
        let mut text = String::new();
        events
            .rewind()
            .and_then(|()| events.read_to_string(&mut text))
            .context(|| format!("read {}", path().display()))?;
        if reports_frozen(&text) {
            return Ok(());
        }
        let mut changed = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
        match poll(&mut changed, PollTimeout::from(V2_INTERVAL)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno).context(|| format!("poll {}", path().display())),
        }
    }
    Err(timed_out(directory))
}

fn timed_out(directory: &Directory) -> Error {
    let message = format!(
        "cgroup {} is not frozen after {} s and was thawed",
        directory.path().display(),
        DEADLINE.as_secs()
    );
    Error::new(ErrorKind::System, message)
        .with_hint("a process in uninterruptible sleep (state D in ps) keeps a cgroup from freezing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frozen_by_a_parent_counts_as_thawed() {
        for (state, own, expected) in [
            ("THAWED", Some("0"), FreezerState::Thawed),
            ("FROZEN", Some("0"), FreezerState::Thawed),
            ("FROZEN", Some("1"), FreezerState::Frozen),
            ("FREEZING", Some("1"), FreezerState::Freezing),
            ("FROZEN", None, FreezerState::Frozen),
        ] {
            assert_eq!(v1_state(state, own), expected, "{state} {own:?}");
        }
    }

    #[test]
    fn v2_states() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let directory = Directory::top(temp.path()).expect("open");
        for (freeze, events, expected) in [
            ("0\n", "populated 1\nfrozen 0\n", FreezerState::Thawed),
            ("0\n", "populated 1\nfrozen 1\n", FreezerState::Thawed),
            ("1\n", "populated 1\nfrozen 0\n", FreezerState::Freezing),
            ("1\n", "populated 1\nfrozen 1\n", FreezerState::Frozen),
        ] {
            std::fs::write(temp.path().join("cgroup.freeze"), freeze).expect("write");
            std::fs::write(temp.path().join("cgroup.events"), events).expect("write");
            assert_eq!(state(&directory, Version::V2).expect("readable"), expected, "{freeze} {events}");
        }
        // "frozen 1" stands in the file, so this returns at once, having written the request.
        std::fs::write(temp.path().join("cgroup.freeze"), "0").expect("write");
        freeze(&directory, Version::V2).expect("frozen");
        assert_eq!(std::fs::read_to_string(temp.path().join("cgroup.freeze")).expect("read"), "1");
        thaw(&directory, Version::V2).expect("thawed");
        assert_eq!(std::fs::read_to_string(temp.path().join("cgroup.freeze")).expect("read"), "0");
    }
}
