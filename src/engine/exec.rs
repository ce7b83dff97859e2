// SPDX-License-Identifier: Apache-2.0
//! A further process in a running container.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;
use nix::unistd::geteuid;

use super::attributes::{Attributes, BoundTo};
use super::console::Console;
use super::first_process::set_limits;
use super::hooks::{HookState, InitHooks};
use super::init::outside::FromOutside;
use super::init::parent::{Entry, Launch, Starting, Until, launch};
use super::init::plan::{InitPlan, NetworkPlan};
use super::keyring::KeyringPlan;
use super::lsm::LsmPlan;
use super::namespaces;
use super::process::{Process, ProcessPlan, preserved};
use super::seccomp::{Filter, Listener};
use super::user::{self, UserId};
use super::{Container, InitProcess, RunningProcess, Status, UserNamespace};
use crate::cgroup::{Cgroup, SubCgroups};
use crate::sys::fd::above_stdio;
use crate::sys::spawn::Spawned;
use crate::{Context, Error, ErrorKind, Result};

/// The namespaces of a container, opened.
#[derive(Default)]
struct Joined {
    mount: Option<File>,
    /// For init to join. A caller who is not root needs the rights that this one gives for joining the others.
    user: Option<File>,
    /// The root directory of a container without a mount namespace.
    root: Option<File>,
    others: Vec<(File, CloneFlags)>,
}

impl Joined {
    /// What init inherits.
    fn for_init(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.mount, &self.user, &self.root].into_iter().flatten().map(AsFd::as_fd)
    }
}

/// How a further process is started.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ExecOptions {
    /// Starts it in a paused container too, where it freezes at once.
    pub ignore_paused: bool,
    /// Where beneath the container's cgroup it is.
    pub cgroups: SubCgroups,
    /// How many of the caller's descriptors it gets, from number 3 on and under their numbers. The caller had them
    /// open before it opened anything else.
    pub preserve_fds: u32,
    /// A fifo that the process waits at, before it executes its program, until somebody opens it for reading.
    pub wait_fifo: Option<PathBuf>,
}

impl Container {
    /// Runs a process in the container's namespaces and cgroup. It is a child of the caller, who must wait for it.
    ///
    /// ```no_run
    /// # use migrate::engine::{Container, ExecOptions, Process};
    /// # fn list(container: &Container) -> migrate::Result<()> {
    /// let ls = Process::new(["ls", "-l"]).user("daemon").cwd("/srv").env("LC_ALL", "C");
    /// let code = container.exec(ls, &ExecOptions::default())?.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`] unless the container runs; [`ErrorKind::NotFound`] and
    /// [`ErrorKind::PermissionDenied`] when the program cannot be run, or there is no such user; else the system call that
    /// failed. The container itself is untouched.
    pub fn exec(&self, process: Process, options: &ExecOptions) -> Result<RunningProcess> {
        let started = self.start_process(process, options);
        started.map(RunningProcess::new).map_err(|error| match error.kind() {
            ErrorKind::WrongStatus => error,
            // The words are runc's.
            kind => Error::new(kind, "unable to start container process").with_source(error),
        })
    }

    /// A user of the container's: `USER[:GROUP]`, each a number or a name of its `/etc/passwd` and `/etc/group`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a name that is not there; [`ErrorKind::WrongStatus`] for a name in a container that
    /// has stopped.
    pub fn user(&self, text: &str) -> Result<UserId> {
        let init = self.init().ok_or_else(|| self.stopped())?;
        let root = user::root_of(init.pid)?;
        if !init.is_alive() {
            return Err(self.stopped());
        }
        user::resolve(text, root.as_fd())
    }

    /// The words are runc's, in [`Self::start_process`] too.
    fn stopped(&self) -> Error {
        Error::new(ErrorKind::WrongStatus, format!("cannot exec in a stopped container: {}", self.id()))
    }

    /// A process that enters a cgroup whose parent is frozen stands still before it has begun, and who starts it waits.
    fn require_moving(&self, options: &ExecOptions) -> Result<()> {
        if options.ignore_paused {
            return Ok(());
        }
        match self.cgroup()?.is_frozen_from_above() {
            Ok(true) => {
                let message = "cannot exec in a container whose cgroup is frozen from above";
                Err(Error::new(ErrorKind::WrongStatus, message)
                    .with_hint("thaw the cgroup above it, or pass --ignore-paused"))
            }
            Ok(false) => Ok(()),
            Err(e) if e.kind() == ErrorKind::Unsupported => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn start_process(&self, process: Process, options: &ExecOptions) -> Result<Spawned> {
        let preserved = preserved(options.preserve_fds)?;
        self.require_owned()?;
        let status = self.status()?;
        match status {
            Status::Running | Status::Created => self.require_moving(options)?,
            Status::Paused if options.ignore_paused => {}
            Status::Paused => {
                let message = format!(
                    "cannot exec in a paused container (use --ignore-paused to override): {}",
                    self.id()
                );
                return Err(Error::new(ErrorKind::WrongStatus, message));
            }
            Status::Stopped | Status::Creating => return Err(self.stopped()),
        }
        let saved = self.config()?;
        let config = &saved.spec;
        let mut process = process.completed_by(config);
        if let Some(user) = &process.user {
            process.set_user(self.user(user)?);
        }
        let io = std::mem::take(&mut process.io);
        let process = &process;
        crate::spec::validate_process(&process.spec, "process")?;
        let io = io.resolve(process.spec.terminal() == Some(true))?;
        let joined = self.open_namespaces()?;
        let of_init = |init: InitProcess| UserNamespace::of_process(init.pid(), process.spec.user());
        let user = self.init().map(of_init).transpose()?.flatten();
        if let Some(user) = &user {
            user.check_user(process.spec.user())?;
            io.give_to(user.root()?)?;
        }
        let fifo = options.wait_fifo.as_deref().map(open_fifo).transpose()?;
        let plan = InitPlan {
            rootfs: None,
            mount_namespace: joined.mount.as_ref().map(AsRawFd::as_raw_fd),
            root: joined.root.as_ref().map(AsRawFd::as_raw_fd),
            join_user_namespace: joined.user.as_ref().map(AsRawFd::as_raw_fd),
            hostname: None,
            domainname: None,
            sysctls: Vec::new(),
            network: NetworkPlan::default(),
            fifo: fifo.as_ref().map(AsRawFd::as_raw_fd),
            mount_sources: None,
            preserved: options.preserve_fds,
            console: io.console.as_ref().map(|console| console.plan(&process.spec)).transpose()?,
            user_namespace: user.as_ref().map(UserNamespace::plan),
            hooks: InitHooks::default(),
            attributes: Attributes::of_joining(&process.spec, config.linux().as_ref()),
            keyring: (!self.state().no_new_keyring).then(|| KeyringPlan::of_further(self.id())),
            lsm: LsmPlan::new(&process.spec)?,
            seccomp: Filter::of(config)?,
            process: ProcessPlan::new(process)?,
        };
        let console = io.console.as_ref().map(Console::socket);
        let fifo_fd = fifo.as_ref().map(AsFd::as_fd);
        let inherit: Vec<_> = joined.for_init().chain(console).chain(preserved).chain(fifo_fd).collect();
        let _bound = BoundTo::initial(&process.spec)?;
        let start = |cgroup: &Cgroup| {
            launch(
                &plan,
                &Launch {
                    stdio: io.stdio(),
                    inherit: inherit.clone(),
                    join: &joined.others,
                    namespaces: CloneFlags::empty(),
                    cgroup: &Entry::of(cgroup)?,
                    program: self.root().init_program(),
                    unshare: CloneFlags::empty(),
                    outside: FromOutside {
                        user: user.as_ref().filter(|_| joined.user.is_none()),
                        oom_score_adj: process.spec.oom_score_adj(),
                        ..FromOutside::default()
                    },
                    among_others: user.is_some() && joined.user.is_none(),
                },
            )
        };
        let starting = self.start_in_cgroup(&options.cgroups, start)?;
        self.state().intel_rdt.join(&[starting.pid().as_raw()])?;
        starting.set_up(|_, _| Ok(()))?;
        set_limits(starting.pid(), &process.spec)?;
        let pid = self.init().map(|init| init.pid().as_raw());
        let listener = Listener::of(config, HookState::new(self.state(), &status.to_string(), pid));
        starting.finish(if fifo.is_some() { Until::Waiting } else { Until::Running }, listener.as_ref())
    }

    /// Starts in the container's cgroup or, where that may have no processes any more, in its first process's.
    fn start_in_cgroup(
        &self,
        places: &SubCgroups,
        start: impl Fn(&Cgroup) -> Result<Starting>,
    ) -> Result<Starting> {
        let cgroup = self.cgroup()?.beneath(places)?;
        cgroup.come_near()?;
        let error = match start(&cgroup) {
            Err(error) if places.is_empty() && may_not_enter(&error) => error,
            Err(error) if may_not_enter(&error) => {
                let message = "error adding pid of the new process to cgroups";
                return Err(Error::new(error.kind(), message).with_source(error));
            }
            other => return other,
        };
        let moved = self.init().map(|init| cgroup.where_process_is(init.pid)).transpose()?.flatten();
        moved.map_or(Err(error), |cgroup| start(&cgroup))
    }

    /// The namespaces that the container's configuration lists, from its living init.
    fn open_namespaces(&self) -> Result<Joined> {
        let mut joined = Joined::default();
        for (name, path) in &self.state().namespace_paths {
            let Some(flag) = namespaces::flag_of(name) else { continue };
            let file = namespaces::open(name, Path::new(path))?;
            if flag == CloneFlags::CLONE_NEWNS {
                joined.mount = Some(file);
            } else if flag == CloneFlags::CLONE_NEWUSER && geteuid().is_root() {
                joined.user = Some(file);
            } else {
                joined.others.push((file, flag));
            }
        }
        if let (None, Some(init)) = (&joined.mount, self.init()) {
            let root = format!("/proc/{}/root", init.pid);
            joined.root = Some(File::open(&root).context(|| format!("open {root}"))?);
        }
        // The pid in those paths is init's only if init has lived until now.
        if self.init().is_none() {
            return Err(self.stopped());
        }
        Ok(joined)
    }
}

/// cgroups(7): a cgroup that divides its resources among those beneath it, or with a threaded one there, may have no
/// processes.
fn may_not_enter(error: &Error) -> bool {
    error.is_errno(libc::EBUSY) || error.is_errno(libc::EOPNOTSUPP)
}

/// The words are runc's.
fn open_fifo(path: &Path) -> Result<OwnedFd> {
    let context = || format!("failed to open exec wait fifo {}", path.display());
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let fifo = File::from(open(path, flags, Mode::empty()).context(context)?);
    if !fifo.metadata().context(context)?.file_type().is_fifo() {
        return Err(Error::new(ErrorKind::InvalidInput, format!("{} is not a fifo", path.display())));
    }
    above_stdio(fifo.as_fd()).context(|| "dup")
}
