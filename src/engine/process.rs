// SPDX-License-Identifier: Apache-2.0
//! The process that runs in a container: what the caller says of it, and what init needs to know to become it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::unistd::{Gid, Uid, fchown};
use serde::{Deserialize, Serialize};

use super::capabilities::CapabilitySets;
use super::console::Console;
use crate::spec::oci::{self, PosixRlimitType};
use crate::sys;
use crate::{Context, Error, ErrorKind, Result};

/// The mask of file modes when the configuration gives none (runc's).
const DEFAULT_UMASK: u32 = 0o022;

/// What becomes the container's stdin, stdout and stderr. Where nothing is given, the caller's own.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ProcessIo {
    /// Descriptor 0.
    pub stdin: Option<OwnedFd>,
    /// Descriptor 1.
    pub stdout: Option<OwnedFd>,
    /// Descriptor 2.
    pub stderr: Option<OwnedFd>,
    /// Who holds the terminal of a process that has one; the three others are then not used.
    pub console: Option<Console>,
    /// Whether the three are pipes of our own making, which shall belong to the container.
    pub own_pipes: bool,
}

/// What a process is started with.
#[derive(Debug)]
pub(crate) struct ResolvedIo {
    /// The three descriptors, none of them in the place of another.
    pub stdio: [OwnedFd; 3],
    /// Who holds the terminal, if the process has one.
    pub console: Option<Console>,
    own_pipes: bool,
}

impl ResolvedIo {
    /// The three descriptors, borrowed.
    pub(crate) fn stdio(&self) -> [BorrowedFd<'_>; 3] {
        self.stdio.each_ref().map(AsFd::as_fd)
    }

    /// Gives pipes of our own making to the root of a user namespace, who may then pass them on to another user there.
    ///
    /// # Errors
    /// That of fchown(2).
    pub(crate) fn give_to(&self, (uid, gid): (u32, u32)) -> Result<()> {
        for fd in self.stdio.iter().filter(|_| self.own_pipes) {
            match fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
                // A caller who is not root can give nothing away.
                Err(nix::errno::Errno::EPERM) => {}
                done => done.context(|| format!("fchown a pipe of the container to {uid}:{gid}"))?,
            }
        }
        Ok(())
    }
}

impl ProcessIo {
    /// All three on `/dev/null`.
    ///
    /// # Errors
    /// When `/dev/null` cannot be opened.
    pub fn null() -> Result<Self> {
        let open = || {
            std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/null")
                .map(OwnedFd::from)
                .context(|| "open /dev/null")
        };
        Ok(Self { stdin: Some(open()?), stdout: Some(open()?), stderr: Some(open()?), ..Self::default() })
    }

    /// What a process with or without a terminal is started with.
    ///
    /// # Errors
    /// When there is a terminal and nobody to hold it, or the reverse.
    pub(crate) fn resolve(self, terminal: bool) -> Result<ResolvedIo> {
        let own_pipes = self.own_pipes;
        let console = Console::choose(self.console, terminal)?;
        let place = |given: Option<OwnedFd>, number: usize| {
            let fd = given.as_ref().map_or_else(|| sys::fd::stdio(number), OwnedFd::as_fd);
            sys::fd::above_stdio(fd).context(|| format!("duplicate descriptor {number} for the container"))
        };
        let stdio = [place(self.stdin, 0)?, place(self.stdout, 1)?, place(self.stderr, 2)?];
        Ok(ResolvedIo { stdio, console, own_pipes })
    }
}

/// A process to run in an existing container (libcontainer's `Process`).
#[derive(Debug, Clone)]
pub struct Process {
    pub(super) spec: oci::Process,
    pub(super) added_capabilities: Vec<String>,
}

impl Process {
    /// The process of a configuration.
    pub fn from_spec(spec: oci::Process) -> Self {
        Self { spec, added_capabilities: Vec::new() }
    }

    /// The description, for reading and changing.
    pub fn spec_mut(&mut self) -> &mut oci::Process {
        &mut self.spec
    }

    /// The same process, with what it leaves open taken from the container's configuration (as runc has it).
    pub(super) fn completed_by(&self, config: &oci::Spec) -> Self {
        let mut completed = self.clone();
        let Some(own) = config.process() else { return completed };
        let spec = &mut completed.spec;
        let is_empty = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
        if spec.capabilities().is_none() {
            spec.set_capabilities(own.capabilities().clone());
        }
        if spec.no_new_privileges().is_none() {
            spec.set_no_new_privileges(own.no_new_privileges());
        }
        if is_empty(spec.apparmor_profile()) {
            spec.set_apparmor_profile(own.apparmor_profile().clone());
        }
        if is_empty(spec.selinux_label()) {
            spec.set_selinux_label(own.selinux_label().clone());
        }
        if spec.rlimits().as_ref().is_none_or(Vec::is_empty) {
            spec.set_rlimits(own.rlimits().clone());
        }
        if spec.oom_score_adj().is_none() {
            spec.set_oom_score_adj(own.oom_score_adj());
        }
        if spec.io_priority().is_none() {
            spec.set_io_priority(*own.io_priority());
        }
        if spec.scheduler().is_none() {
            spec.set_scheduler(own.scheduler().clone());
        }
        if spec.exec_cpu_affinity().is_none() {
            spec.set_exec_cpu_affinity(own.exec_cpu_affinity().clone());
        }
        if spec.user().umask().is_none() {
            let mut user = spec.user().clone();
            user.set_umask(own.user().umask());
            spec.set_user(user);
        }
        completed
    }

    /// Capabilities on top of the configuration's: bounding, effective and permitted.
    pub fn add_capabilities(&mut self, names: impl IntoIterator<Item = String>) {
        self.added_capabilities.extend(names);
    }
}

/// The caller's descriptors from number 3 on that a process gets.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] with the first number that is not open.
pub(super) fn preserved(count: u32) -> Result<Vec<BorrowedFd<'static>>> {
    let open = |i: u32| {
        let number = i32::try_from(i).ok().and_then(|i| i.checked_add(3)).unwrap_or(i32::MAX);
        sys::fd::inherited(number).map_err(|e| {
            let message = format!("unable to stat preserved-fd {i} (of {count})");
            Error::new(ErrorKind::InvalidInput, message)
                .with_source(e)
                .with_hint(format!("descriptor {number} must be open when the command starts"))
        })
    };
    (0..count).map(open).collect()
}

/// Everything init must know to become the process, decided before the clone.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ProcessPlan {
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: PathBuf,
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
    pub umask: u32,
    pub capabilities: CapabilitySets,
    pub no_new_privileges: bool,
    pub oom_score_adj: Option<i32>,
}

impl ProcessPlan {
    pub(super) fn new(process: &Process) -> Result<Self> {
        let spec = &process.spec;
        let user = spec.user();
        let mut capabilities = CapabilitySets::from_spec(spec.capabilities().as_ref());
        capabilities.add(&process.added_capabilities)?;
        Ok(Self {
            args: spec.args().clone().unwrap_or_default(),
            env: environment(spec.env().as_deref().unwrap_or_default()),
            cwd: spec.cwd().clone(),
            uid: user.uid(),
            gid: user.gid(),
            additional_gids: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask().unwrap_or(DEFAULT_UMASK),
            capabilities,
            no_new_privileges: spec.no_new_privileges().unwrap_or(false),
            oom_score_adj: spec.oom_score_adj(),
        })
    }
}

/// `NAME=value` pairs in order, the last of each name only, at the place of the last.
fn environment(entries: &[String]) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = Vec::with_capacity(entries.len());
    for entry in entries {
        if let Some((name, value)) = entry.split_once('=') {
            pairs.retain(|(n, _)| n != name);
            pairs.push((name.to_owned(), value.to_owned()));
        }
    }
    pairs
}

/// A resource limit as prlimit(2) takes it: the kernel's number, soft, hard.
pub(super) fn limits(process: &oci::Process) -> Vec<(u32, u64, u64)> {
    process
        .rlimits()
        .iter()
        .flatten()
        .map(|limit| (limit_number(limit.typ()), limit.soft(), limit.hard()))
        .collect()
}

fn limit_number(limit: PosixRlimitType) -> u32 {
    let number = match limit {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    };
    // The type of these constants differs between C libraries.
    #[allow(clippy::unnecessary_cast)]
    {
        number as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_a_variable_counts() {
        let entries = ["A=1", "B=2", "A=3", "C=x=y"].map(str::to_owned);
        let pairs = environment(&entries);
        let text: Vec<String> = pairs.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(text, ["B=2", "A=3", "C=x=y"]);
    }
}
