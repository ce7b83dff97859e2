// SPDX-License-Identifier: Apache-2.0
//! The process that runs in a container: what the caller says of it, and what init needs to know to become it.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::unistd::{Gid, Uid, fchown};
use serde::{Deserialize, Serialize};

use super::capabilities::CapabilitySets;
use super::console::Console;
use super::user::UserId;
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
pub struct Process {
    pub(super) spec: oci::Process,
    pub(super) added_capabilities: Vec<String>,
    /// Who it is, by name: for the container to look up.
    pub(super) user: Option<String>,
    pub(super) io: ProcessIo,
    /// Whether user, environment and working directory are the container's where nothing else is said.
    like_first: bool,
}

impl Process {
    /// The process of a configuration.
    pub fn from_spec(spec: oci::Process) -> Self {
        Self { spec, added_capabilities: Vec::new(), user: None, io: ProcessIo::default(), like_first: false }
    }

    /// A process that runs a program with arguments. All else is as for the container's first process, until it is said
    /// otherwise; stdin, stdout and stderr are the caller's own.
    pub fn new(args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut spec = oci::Process::default();
        spec.set_args(Some(args.into_iter().map(Into::into).collect()))
            .set_env(None)
            .set_cwd(PathBuf::new())
            .set_terminal(Some(false))
            .set_capabilities(None)
            .set_no_new_privileges(None)
            .set_rlimits(None)
            .set_oom_score_adj(None);
        Self { like_first: true, ..Self::from_spec(spec) }
    }

    /// Adds a variable to its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.spec.env_mut().get_or_insert_default().push(format!("{name}={value}"));
        self
    }

    /// Who it is: `USER[:GROUP]`, each a number or a name of the container's `/etc/passwd` and `/etc/group`.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Its working directory, in the container.
    #[must_use]
    pub fn cwd(mut self, directory: impl Into<PathBuf>) -> Self {
        self.spec.set_cwd(directory.into());
        self
    }

    /// What it gets as stdin: a file, an end of a pipe, a socket.
    #[must_use]
    pub fn stdin(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.io.stdin = Some(fd.into());
        self
    }

    /// What it gets as stdout.
    #[must_use]
    pub fn stdout(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.io.stdout = Some(fd.into());
        self
    }

    /// What it gets as stderr.
    #[must_use]
    pub fn stderr(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.io.stderr = Some(fd.into());
        self
    }

    /// All three, and who holds its terminal if it has one.
    #[must_use]
    pub fn io(mut self, io: ProcessIo) -> Self {
        self.io = io;
        self
    }

    /// The description, for reading and changing.
    pub fn spec_mut(&mut self) -> &mut oci::Process {
        &mut self.spec
    }

    /// The same process, with what it leaves open taken from the container's configuration (as runc has it).
    pub(super) fn completed_by(mut self, config: &oci::Spec) -> Self {
        let Some(own) = config.process() else { return self };
        if self.like_first {
            self.become_like(own);
        }
        let spec = &mut self.spec;
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
        self
    }

    fn become_like(&mut self, first: &oci::Process) {
        let env = first.env().iter().flatten().chain(self.spec.env().iter().flatten()).cloned().collect();
        self.spec.set_env(Some(env)).set_user(first.user().clone());
        if self.spec.cwd().as_os_str().is_empty() {
            self.spec.set_cwd(first.cwd().clone());
        }
    }

    /// Makes it that user's.
    pub(super) fn set_user(&mut self, found: UserId) {
        let mut user = self.spec.user().clone();
        user.set_uid(found.uid);
        user.set_gid(found.gid.unwrap_or(user.gid()));
        // Those of the first process are another user's.
        user.set_additional_gids(Some(found.additional_gids).filter(|gids| !gids.is_empty()));
        self.spec.set_user(user);
    }

    /// Capabilities on top of the configuration's: bounding, effective and permitted.
    pub fn add_capabilities(&mut self, names: impl IntoIterator<Item = String>) {
        self.added_capabilities.extend(names);
    }
}

/// Without the values of its environment, which may be secrets.
impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("args", self.spec.args())
            .field("env", &names(self.spec.env().as_deref().unwrap_or_default()))
            .field("cwd", self.spec.cwd())
            .field("user", self.spec.user())
            .field("user_name", &self.user)
            .field("io", &self.io)
            .finish_non_exhaustive()
    }
}

/// The names of variables.
pub(super) fn names(environment: &[String]) -> Vec<&str> {
    environment.iter().map(|entry| entry.split_once('=').map_or(entry.as_str(), |(name, _)| name)).collect()
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
#[derive(Serialize, Deserialize)]
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

impl fmt::Debug for ProcessPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.env.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("ProcessPlan")
            .field("args", &self.args)
            .field("env", &names)
            .field("cwd", &self.cwd)
            .finish_non_exhaustive()
    }
}

impl ProcessPlan {
    pub(super) fn new(process: &Process) -> Result<Self> {
        let spec = &process.spec;
        let user = spec.user();
        let mut capabilities = CapabilitySets::from_spec(spec.capabilities().as_ref());
        capabilities.add(&process.added_capabilities);
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

/// A resource limit and, as prlimit(2) takes it, the kernel's number, soft, hard.
pub(super) fn limits(process: &oci::Process) -> Vec<(PosixRlimitType, u32, u64, u64)> {
    process
        .rlimits()
        .iter()
        .flatten()
        .map(|limit| (limit.typ(), limit_number(limit.typ()), limit.soft(), limit.hard()))
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

    #[test]
    fn what_is_printed_of_a_process_tells_no_secret() {
        let process = Process::new(["sh"]).env("TOKEN", "hush").user("daemon");
        let text = format!("{process:?}");
        assert!(text.contains("TOKEN") && text.contains("daemon") && !text.contains("hush"), "{text}");
        let plan = ProcessPlan::new(&process).expect("no capability is unknown");
        let text = format!("{plan:?}");
        assert!(text.contains("TOKEN") && !text.contains("hush"), "{text}");
    }

    #[test]
    fn a_process_is_like_the_first_where_nothing_else_is_said() {
        let mut config = oci::Spec::default();
        let mut first = oci::Process::default();
        first.set_env(Some(vec!["A=1".to_owned(), "B=2".to_owned()])).set_cwd("/srv".into());
        config.set_process(Some(first));
        let own = Process::new(["sh"]).env("B", "3").completed_by(&config);
        let plan = ProcessPlan::new(&own).expect("no capability is unknown");
        let env: Vec<String> = plan.env.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!((env, plan.cwd), (vec!["A=1".to_owned(), "B=3".to_owned()], "/srv".into()));
        let own = Process::new(["sh"]).cwd("/").completed_by(&config);
        assert_eq!(own.spec.cwd(), &PathBuf::from("/"));
    }
}
