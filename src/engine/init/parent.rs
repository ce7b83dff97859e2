// SPDX-License-Identifier: Apache-2.0
//! The runtime's side of starting a process in a container.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sched::CloneFlags;
use nix::unistd::Pid;

use super::outside::FromOutside;
use super::plan::InitPlan;
use super::{REQUEST, sync};
use crate::cgroup::Cgroup;
use crate::engine::UserNamespace;
use crate::engine::namespaces::name_of;
use crate::engine::seccomp::Listener;
use crate::sys::spawn::{Outside, Program, Session, Signals, Spawn, Spawned};
use crate::{Context, Error, ErrorKind, Result, sys};

/// The way into a container's cgroups: the child takes it by itself, before it does anything else.
pub(in crate::engine) struct Entry {
    unified: Option<OwnedFd>,
    tasks: Vec<OwnedFd>,
}

impl Entry {
    pub(in crate::engine) fn of(cgroup: &Cgroup) -> Result<Self> {
        let above = |fd: &OwnedFd| sys::fd::above_stdio(fd.as_fd()).context(|| "dup");
        Ok(Self {
            unified: cgroup.clone_into_fd()?,
            tasks: cgroup.entry_fds()?.iter().map(|entry| above(&entry.fd)).collect::<Result<_>>()?,
        })
    }
}

/// Where and with what the process starts.
pub(in crate::engine) struct Launch<'a> {
    pub stdio: [BorrowedFd<'a>; 3],
    /// Descriptors that the plan names.
    pub inherit: Vec<BorrowedFd<'a>>,
    pub join: &'a [(File, CloneFlags)],
    pub namespaces: CloneFlags,
    pub cgroup: &'a Entry,
    /// What becomes init: this program, unless the caller has named another.
    pub program: Option<&'a Path>,
    /// Namespaces to make in the cgroup.
    pub unshare: CloneFlags,
    pub outside: FromOutside<'a>,
    /// Whether it becomes visible, while it still is the runtime, to processes that have power over its user namespace.
    pub among_others: bool,
}

/// How far a process is seen through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Until {
    /// It waits at the fifo.
    Waiting,
    /// It executes its program.
    Running,
}

/// What the runtime does while init waits for it, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::engine) enum Step {
    /// Put interfaces into the network namespace.
    Network,
    /// Run its hooks: the root file system is there and not entered.
    Hooks,
}

/// A process that is being started. Dropped before it is [`Starting::finish`]ed, it is killed and reaped.
#[derive(Debug)]
pub(in crate::engine) struct Starting {
    child: Option<Spawned>,
    channel: sync::RuntimeSide,
}

/// Clones the process, into its cgroups.
pub(in crate::engine) fn launch(plan: &InitPlan, launch: &Launch<'_>) -> Result<Starting> {
    // This process was started to become a container's, and has gone on as what it is otherwise.
    if std::env::var_os(REQUEST).is_some() {
        let message = "this program was started as a container's first process and did not become it";
        return Err(Error::new(ErrorKind::InvalidInput, message)
            .with_hint("call migrate::engine::init_if_requested() first in main(), or name another program with init_command"));
    }
    let plan = OwnedFd::from(plan.to_memfd()?);
    let plan = sys::fd::above_stdio(plan.as_fd()).context(|| "dup")?;
    let program = launch.program.unwrap_or(sys::self_exe::path());
    let executable = if launch.among_others {
        sys::self_exe::sealed_and_hidden(program)
    } else {
        sys::self_exe::sealed(program)
    };
    let executable =
        executable.context(|| format!("seal {}, which becomes the container's init", program.display()))?;
    let (channel, report) = sync::pair()?;
    let mut inherit = launch.inherit.clone();
    inherit.push(plan.as_fd());
    inherit.push(report.as_fd());
    let request = format!("{REQUEST}={}:{}", report.as_raw_fd(), plan.as_raw_fd());
    let work = |pid: Pid| launch.outside.write(pid);
    let privileged = nix::unistd::geteuid().is_root();
    let spawn = Spawn {
        program: Program::Fd(executable.as_fd()),
        argv: vec![c"migrate".to_owned(), c"init".to_owned()],
        envp: vec![CString::new(request).context(|| "make a C string")?],
        stdio: launch.stdio,
        report: report.as_fd(),
        inherit,
        third: None,
        join: launch.join.iter().map(|(file, kind)| (file.as_fd(), *kind)).collect(),
        namespaces: launch.namespaces,
        ids: launch.outside.user.map_or((0, 0), UserNamespace::setup_ids),
        outside: launch.outside.is_needed().then_some(Outside { privileged, work: &work }),
        cgroup: launch.cgroup.unified.as_ref().map(AsFd::as_fd),
        unshare: launch.unshare,
        session: Session::Own,
        signals: Signals::Blocked,
        enter: launch.cgroup.tasks.iter().map(AsFd::as_fd).collect(),
    };
    let child = sys::spawn::spawn(&spawn)
        .map_err(|error| explain(error, launch.namespaces))
        .context(|| "start the container's process")?;
    // The words of these and the following lines are runc's: who reads its log looks for them.
    tracing::debug!("nsexec[{}]: nsexec started, nsexec container setup", child.pid);
    if let Ok(affinity) = sys::scheduling::Affinity::now() {
        tracing::debug!("nsexec[{}]: affinity: {:#x}", child.pid, affinity.mask());
    }
    let starting = Starting { child: Some(child), channel };
    verify_joined(starting.pid(), launch.join)?;
    Ok(starting)
}

/// What administrators and distributions set against namespaces, which the kernel tells by a number alone.
fn explain(error: Error, namespaces: CloneFlags) -> Error {
    match error.errno() {
        // The number means a full disk elsewhere.
        Some(libc::ENOSPC | libc::EUSERS) if !namespaces.is_empty() => {
            Error::new(ErrorKind::Unsupported, "make new namespaces").with_source(error).with_hint(
                "this machine allows no more of them: see the limits of `sysctl user`, such as user.max_user_namespaces",
            )
        }
        Some(libc::EPERM) if namespaces.contains(CloneFlags::CLONE_NEWUSER) && error.hint().is_none() => error
            .with_hint(
                "callers who are not root may not make user namespaces where kernel.unprivileged_userns_clone is 0 or \
                 kernel.apparmor_restrict_unprivileged_userns is 1 (sysctl), and nobody may in a chroot",
            ),
        _ => error,
    }
}

/// Makes sure that the process is where it was sent: the steps on the way are many, and a container in a namespace of
/// the host's would run all the same.
fn verify_joined(pid: Pid, join: &[(File, CloneFlags)]) -> Result<()> {
    for (file, kind) in join {
        let Some(name) = name_of(*kind) else { continue };
        let wanted = file.metadata().context(|| format!("stat the {name} namespace to join"))?;
        match std::fs::metadata(format!("/proc/{pid}/ns/{name}")) {
            Ok(found) if (found.dev(), found.ino()) != (wanted.dev(), wanted.ino()) => {
                let message =
                    format!("the container's process is not in the {name} namespace that it joined");
                return Err(Error::new(ErrorKind::System, message));
            }
            // It has died already, which the next look at it tells; or it is not ours to look into.
            _ => {}
        }
    }
    Ok(())
}

impl Starting {
    /// The process's pid on the host.
    pub(in crate::engine) fn pid(&self) -> Pid {
        self.child.as_ref().expect("the child is there until finish() takes it").pid
    }

    /// The process itself.
    pub(in crate::engine) fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.as_ref().expect("the child is there until finish() takes it").pidfd.as_fd()
    }

    /// Waits until everything is set up; `work` does what init was told to wait for.
    ///
    /// # Errors
    /// What init could not do, or that of `work`.
    pub(in crate::engine) fn set_up(&self, mut work: impl FnMut(Step, Pid) -> Result<()>) -> Result<()> {
        let mut next = Some(Step::Network);
        loop {
            let step = match self.channel.answer()? {
                sync::Answer::Ready => {
                    tracing::debug!("child process in init()");
                    return Ok(());
                }
                sync::Answer::Closed => return Err(self.died()),
                sync::Answer::NetworkWanted => Step::Network,
                sync::Answer::RootfsReady => Step::Hooks,
                sync::Answer::Listener(_) | sync::Answer::Waiting => return Err(Self::out_of_order()),
            };
            // Each comes once, and in this order.
            if next.is_none_or(|next| step < next) {
                return Err(Self::out_of_order());
            }
            next = (step == Step::Network).then_some(Step::Hooks);
            work(step, self.pid())?;
            self.go_on()?;
        }
    }

    /// Lets the process go on, and waits until it has come as far as that. If others are asked about its system calls,
    /// `listener` is.
    ///
    /// # Errors
    /// What init could not do, or that of the listener.
    pub(in crate::engine) fn finish(mut self, until: Until, listener: Option<&Listener>) -> Result<Spawned> {
        self.go_on()?;
        let mut answer = self.channel.answer()?;
        if let (sync::Answer::Listener(number), Some(listener)) = (&answer, listener) {
            let questions = sys::pidfd::copy_descriptor(self.pidfd(), *number)
                .context(|| "take the seccomp descriptor of the container's process by pidfd_getfd")?;
            listener.hand_over(self.pid().as_raw(), questions.as_fd())?;
            drop(questions);
            self.go_on()?;
            answer = self.channel.answer()?;
        }
        match (answer, until) {
            (sync::Answer::Waiting, Until::Waiting) => {
                tracing::debug!("init: closing the pipe to signal completion");
            }
            (sync::Answer::Closed, Until::Running) => tracing::debug!("setns_init: about to exec"),
            (sync::Answer::Closed, Until::Waiting) => return Err(self.died()),
            _ => return Err(Self::out_of_order()),
        }
        Ok(self.child.take().expect("the child is there until this call takes it"))
    }

    fn go_on(&self) -> Result<()> {
        self.channel.go_on().map_err(|e| self.died().with_source(e))
    }

    fn out_of_order() -> Error {
        Error::new(ErrorKind::System, "the container's init reported out of order")
    }

    fn died(&self) -> Error {
        Error::new(ErrorKind::System, "the container's init died while it was set up")
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            child.kill();
        }
    }
}
