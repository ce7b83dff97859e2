// SPDX-License-Identifier: Apache-2.0
//! Killing every process of a cgroup, forking ones included.
//!
//! Must not know which process is a container's init. Source: kernel admin-guide/cgroup-v2.rst, `cgroup.kill`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cgroup::{Cgroup, name_pids, require_foreign};
use super::hierarchy::{Hierarchies, Version, self_cgroups};
use crate::{Context, Error, ErrorKind, Result};

/// When killing is given up.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long the killed have to vanish before they are looked for and killed again.
const ROUND: Duration = Duration::from_secs(1);

/// The frozen cgroup that holds a process which was killed: a freezer of v1 does, also one that somebody else has put
/// the process into since. In v2 a frozen process dies.
pub fn kept_frozen(pid: i32) -> Option<PathBuf> {
    let hierarchies = Hierarchies::detect().ok()?;
    let hierarchy = hierarchies.with_controller("freezer").filter(|found| found.version() == Version::V1)?;
    let now = self_cgroups(pid).ok()?.into_iter().find(|now| now.controllers == hierarchy.controllers())?;
    let cgroup = hierarchy.mountpoint().join(now.path.strip_prefix("/").unwrap_or(&now.path));
    let state = std::fs::read_to_string(cgroup.join("freezer.state")).ok()?;
    (state.trim_end() != "THAWED").then_some(cgroup)
}

impl Cgroup {
    /// Kills every process in the cgroup and beneath it, in whichever hierarchy it is, and waits until none is left,
    /// at most 10 s. A frozen cgroup is thawed. A cgroup that is gone has no process.
    ///
    /// # Errors
    /// The calling process is in the cgroup, or a process does not die; the cgroup is thawed.
    pub fn kill_all(&self) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        let mut trouble = Vec::new();
        let mut by_kernel = true;
        loop {
            let pids = self.pids_anywhere()?;
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let message = format!("{} in the cgroup survived SIGKILL", name_pids(&pids));
                return Err(Error::new(ErrorKind::System, message).with_cleanup(trouble));
            }
            // A process may have left the unified cgroup and still be in another: after the first round by hand.
            if !(by_kernel && self.kill_by_kernel()?) {
                self.kill_by_hand(&mut trouble)?;
            }
            by_kernel = false;
            self.thaw_if_present(&mut trouble);
            self.wait_until_empty(deadline.min(Instant::now() + ROUND))?;
        }
    }

    /// Sends SIGKILL to every process and thaws the cgroup: a frozen process dies without having run. Waits for none, since one that
    /// is traced is seen to end only when its tracer lets it.
    ///
    /// # Errors
    /// The calling process is in the cgroup, or a process cannot be killed: nothing was thawed then.
    pub fn doom(&self) -> Result<()> {
        if !self.kill_by_kernel()? {
            let mut trouble = Vec::new();
            self.kill_by_hand(&mut trouble)?;
            if !trouble.is_empty() {
                return Err(trouble.remove(0));
            }
        }
        self.thaw_all()
    }

    /// Every process of the container that some hierarchy still lists; fails if we are among them.
    fn pids_anywhere(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        for node in &self.nodes {
            if let Some(directory) = node.open()? {
                let here = directory.all_pids()?;
                require_foreign(&directory, &here)?;
                pids.extend(here);
            }
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// `cgroup.kill` kills the whole tree at once, forks included (Linux 5.14); false if there is none.
    fn kill_by_kernel(&self) -> Result<bool> {
        for node in &self.nodes {
            if let Some(directory) = node.open()?
                && directory.has("cgroup.kill")
            {
                return match directory.write("cgroup.kill", "1") {
                    // The container has made it a threaded one.
                    Err(e) if e.is_errno(libc::EOPNOTSUPP) => Ok(false),
                    // With its last process.
                    Err(e) if e.kind() == ErrorKind::NotFound => Ok(true),
                    written => written.map(|()| true),
                };
            }
        }
        Ok(false)
    }

    /// Frozen processes neither fork nor exit, so their pids mean what they meant when they were read.
    fn kill_by_hand(&self, trouble: &mut Vec<Error>) -> Result<()> {
        trouble.extend(self.freeze().err());
        for pid in self.pids_anywhere()? {
            match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => {
                    trouble.extend(Err::<(), _>(errno).context(|| format!("kill({pid}, SIGKILL)")).err());
                }
            }
        }
        Ok(())
    }

    fn thaw_if_present(&self, trouble: &mut Vec<Error>) {
        match self.thaw_all() {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => trouble.extend(other.err()),
        }
    }

    fn wait_until_empty(&self, until: Instant) -> Result<()> {
        let mut pause = Duration::from_micros(200);
        while Instant::now() < until && !self.pids_anywhere()?.is_empty() {
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
        Ok(())
    }
}
