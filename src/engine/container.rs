// SPDX-License-Identifier: Apache-2.0
//! An existing container: what it is, what it does, and the way it ends.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use nix::fcntl::Flock;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::unistd::{Pid, Uid, User};

use super::first_process::blame_memory;
use super::hooks::{self, HookKind, HookState};
use super::init::sync::Failure;
use super::lock::lock;
use super::network::remove_host_ends;
use super::new_container::plan_context;
use super::remains::{remove_host_mounts, remove_remnants, remove_unfinished};
use super::rootfs::RootfsPlan;
use super::running_process::reap;
use super::saved_config::SavedConfig;
use super::state::replace_file;
use super::{ContainerId, InitProcess, Namespaces, NotifyProxy, State, StateRoot, Status};
use crate::cgroup::{Cgroup, FreezerState, Hierarchies};
use crate::spec::Config;
use crate::{Context, Error, ErrorKind, Result, sys};

/// The fifo that a created container's init waits at; its presence is what makes it created.
pub(super) const EXEC_FIFO: &str = "exec.fifo";

/// How many processes are signalled with one look at the cgroup: a descriptor each.
const SIGNAL_AT_A_TIME: usize = 256;

/// A container, as it is written down. What it does now is asked each time.
#[derive(Debug)]
pub struct Container {
    root: StateRoot,
    id: ContainerId,
    dir: PathBuf,
    state: State,
    config: SavedConfig,
    /// The host's, as seen from this process: looked at once.
    hierarchies: OnceLock<Hierarchies>,
    /// Whom this value acts for, if not for the host's commands.
    holder: Option<String>,
}

/// The right to change a container. Other commands wait; it ends with the value, or with the process.
#[derive(Debug)]
pub struct ContainerLock(#[allow(dead_code)] Flock<File>);

impl Container {
    pub(super) fn load(root: StateRoot, id: &ContainerId) -> Result<Self> {
        let dir = root.dir(id);
        let state = State::load(&dir).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::new(ErrorKind::NotFound, format!("container does not exist: {id}"))
                .with_hint(format!("`migrate list` shows what is under {}", root.path().display())),
            kind => Error::new(kind, format!("load container {id}")).with_source(e),
        })?;
        Ok(Self::new(root, id.clone(), state, OnceLock::new()))
    }

    /// The container that this record is of, with the host's hierarchies if they are known.
    pub(super) fn new(
        root: StateRoot,
        id: ContainerId,
        state: State,
        hierarchies: OnceLock<Hierarchies>,
    ) -> Self {
        let dir = root.dir(&id);
        Self { root, id, dir, state, config: SavedConfig::default(), hierarchies, holder: None }
    }

    /// Its id.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Its first process's pid on the host, as long as that lives.
    pub fn init_pid(&self) -> Option<i32> {
        self.init().map(|init| init.pid)
    }

    /// Where its namespaces are, by type (`pid`, `net`, `mnt` and so on), as long as it lives.
    pub fn namespaces(&self) -> &BTreeMap<String, PathBuf> {
        &self.state.namespace_paths
    }

    /// The state root that it is under.
    pub fn root(&self) -> &StateRoot {
        &self.root
    }

    /// Its directory under the state root.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is written down of it.
    pub fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    pub(super) fn holder(&self) -> Option<&str> {
        self.holder.as_deref()
    }

    pub(super) fn set_holder(&mut self, holder: String) {
        self.holder = Some(holder);
    }

    /// The configuration as it was at create.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn config(&self) -> Result<Arc<Config>> {
        self.config.read(&self.dir)
    }

    /// The name of the user who made it, or `#` and the number of one without a name.
    ///
    /// # Errors
    /// When its directory cannot be looked at.
    pub fn owner(&self) -> Result<String> {
        let uid = fs::metadata(&self.dir).context(|| format!("stat {}", self.dir.display()))?.uid();
        Ok(match User::from_uid(Uid::from_raw(uid)) {
            Ok(Some(user)) => user.name,
            _ => format!("#{uid}"),
        })
    }

    /// What its configuration says of its root file system.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] and [`ErrorKind::Unsupported`], as at create.
    pub fn rootfs_plan(&self, config: &Config) -> Result<RootfsPlan> {
        let context = plan_context(&config.spec, &self.cgroup()?, false)?;
        RootfsPlan::from_spec(&config.spec, &self.state.bundle, &self.state.rootfs, &context)
    }

    /// Writes a small file into its directory: a reader sees the old one or the new one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        replace_file(&self.dir.join(name), bytes)
    }

    /// Its cgroup.
    ///
    /// # Errors
    /// When this machine's hierarchies cannot be found.
    pub fn cgroup(&self) -> Result<Cgroup> {
        let hierarchies = match self.hierarchies.get() {
            Some(known) => known,
            None => {
                let found = Hierarchies::detect()?;
                self.hierarchies.get_or_init(|| found)
            }
        };
        let cgroup = Cgroup::from_state(&self.state.cgroup, hierarchies)?;
        Ok(cgroup.with_unit(self.state.cgroup_unit.clone()))
    }

    /// Its first process, as long as it lives.
    pub fn init(&self) -> Option<InitProcess> {
        self.state.init.filter(InitProcess::is_alive)
    }

    /// What it does now: derived from its first process, the fifo and the freezer.
    ///
    /// # Errors
    /// When the freezer cannot be read.
    pub fn status(&self) -> Result<Status> {
        if self.state.init.is_none() && self.state.creator.is_alive() {
            return Ok(Status::Creating);
        }
        let Some(init) = self.init() else { return Ok(Status::Stopped) };
        match self.cgroup()?.freezer_state() {
            Ok(FreezerState::Frozen) => return Ok(Status::Paused),
            Ok(_) => {}
            // Without a freezer, as of a caller who may not make cgroups, nothing freezes.
            Err(e) if e.kind() == ErrorKind::Unsupported => {}
            // It went away with its last process, as this looked.
            Err(e) if e.kind() == ErrorKind::NotFound && !init.is_alive() => return Ok(Status::Stopped),
            Err(e) => return Err(e),
        }
        Ok(if self.waits_for_start(init)? { Status::Created } else { Status::Running })
    }

    /// Whether the first process still waits at the fifo. It has that open until it has gone past it: a `start` that
    /// was killed may have left the file.
    pub(super) fn waits_for_start(&self, init: InitProcess) -> Result<bool> {
        let path = self.dir.join(EXEC_FIFO);
        let fifo = match fs::symlink_metadata(&path) {
            Ok(fifo) => fifo,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e).context(|| format!("stat {}", path.display())),
        };
        match sys::proc::has_open(init.pid(), &fifo) {
            // Who may not look into the process takes the file's word.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(true),
            Err(_) if !init.is_alive() => Ok(false),
            other => other.context(|| format!("list /proc/{}/fd", init.pid)),
        }
    }

    /// Takes the right to change the container, and reads its record anew.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`] when another command keeps it for long; [`ErrorKind::NotFound`] when it went away,
    /// also if another one has its id by now.
    pub fn lock(&mut self) -> Result<ContainerLock> {
        let missing = |attempt: &str, error: Error| match error.kind() {
            ErrorKind::NotFound => {
                Error::new(ErrorKind::NotFound, format!("container does not exist: {}", self.id))
                    .with_source(error)
            }
            kind => Error::new(kind, format!("{attempt} container {}", self.id)).with_source(error),
        };
        let file = lock(&self.dir).map_err(|error| missing("lock", error))?;
        let state = State::load(&self.dir).map_err(|error| missing("load", error))?;
        if !state.is_of_the_same(&self.state) {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("container {} went away, and another one has its id now", self.id),
            ));
        }
        self.state = state;
        Ok(ContainerLock(file))
    }

    /// Lets a created container's program run.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`] unless it is created. When init died meanwhile, the container is stopped.
    pub fn start(&mut self) -> Result<()> {
        let id = self.id.clone();
        self.start_created().context(|| format!("start container {id}"))
    }

    fn start_created(&mut self) -> Result<()> {
        let lock = self.lock()?;
        self.require_owned()?;
        match self.status()? {
            Status::Created => {}
            Status::Stopped => return Err(self.wrong_status("cannot start a container that has stopped")),
            Status::Creating => {
                return Err(self.wrong_status("cannot start a container that is being created"));
            }
            Status::Paused => return Err(self.wrong_status("cannot start a container in the paused state")),
            Status::Running => {
                return Err(self.wrong_status("cannot start an already running container"));
            }
        }
        let init =
            self.state.init.ok_or_else(|| self.wrong_status("cannot start a container without a process"))?;
        let pidfd = sys::pidfd::open(init.pid()).context(|| format!("pidfd_open({})", init.pid))?;
        if !init.is_alive() {
            return Err(self.wrong_status("cannot start a container that has stopped"));
        }
        let path = self.dir.join(EXEC_FIFO);
        let fifo = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&path)
            .context(|| format!("open {}", path.display()))?;
        wait_for_program(&fifo, &pidfd).map_err(|error| match self.cgroup() {
            Ok(cgroup) if !init.is_alive() => blame_memory(&cgroup, error),
            _ => error,
        })?;
        fs::remove_file(&path).context(|| format!("remove {}", path.display()))?;
        // Hooks may look at the container, and more.
        drop(lock);
        self.run_poststart(init)
    }

    /// What passes the readiness of its program on, to the address in `NOTIFY_SOCKET`; `None` when it was not created
    /// for this. To be made before it is started.
    ///
    /// # Errors
    /// When nobody is at that address.
    pub fn notify_proxy(&self, address: &OsStr) -> Result<Option<NotifyProxy>> {
        NotifyProxy::listen(&self.dir, address)
    }

    /// Runs the hooks that follow the start of the program. When one fails the container is ended.
    fn run_poststart(&self, init: InitProcess) -> Result<()> {
        let state = HookState::new(&self.state, "running", Some(init.pid));
        hooks::run_in_runtime(HookKind::Poststart, &self.config()?.spec, &state).map_err(|error| {
            let ended = self.cgroup().and_then(|cgroup| self.end_processes(&cgroup));
            error.with_cleanup(ended.err())
        })
    }

    /// Sends a signal, by the kernel's number, to the container's first process. SIGKILL goes to all its processes: in
    /// a pid namespace of its own they end with the first, and in a shared one they must not stay behind. One that is
    /// handed over is not signalled: the tree that goes on may be another.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`] when it does not run, or is handed over.
    pub fn signal(&self, signal: i32) -> Result<()> {
        if signal != 0 {
            self.require_owned()?;
        }
        let not_running =
            || self.wrong_status(&format!("signal container {}: container not running", self.id));
        if signal == libc::SIGKILL && !self.has_own_pids() {
            if self.init().is_none() && self.processes().is_ok_and(|pids| pids.is_empty()) {
                return Err(not_running());
            }
            return self
                .end_processes(&self.cgroup()?)
                .context(|| format!("kill all processes of container {}", self.id));
        }
        let init = self.init().ok_or_else(not_running)?;
        let pidfd = sys::pidfd::open(init.pid()).context(|| format!("pidfd_open({})", init.pid))?;
        if !init.is_alive() {
            return Err(not_running());
        }
        sys::pidfd::send_signal(pidfd.as_fd(), signal)
            .context(|| format!("send signal {signal} to process {} of container {}", init.pid, self.id))?;
        self.let_die(signal)
    }

    /// Sends a signal to all its processes, those that were started by `exec` too. A stopped container may still have
    /// some when it shares another's pid namespace.
    ///
    /// # Errors
    /// The first process that could not be signalled; one that has just ended is no error. As [`Container::signal`] for
    /// one that is handed over.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        if signal != 0 {
            self.require_owned()?;
        }
        if self.cgroup()?.is_nowhere() {
            // Its processes are known to its pid namespace alone, whose first one they end with.
            return match self.signal(signal) {
                Err(error) if error.kind() == ErrorKind::WrongStatus => Ok(()),
                sent => sent,
            };
        }
        let context = |pid: i32| format!("send signal {signal} to process {pid} of container {}", self.id);
        let gone = |e: &io::Error| e.raw_os_error() == Some(libc::ESRCH);
        for pids in self.processes()?.chunks(SIGNAL_AT_A_TIME) {
            let mut opened = Vec::new();
            for &pid in pids {
                match sys::pidfd::open(Pid::from_raw(pid)) {
                    Err(e) if gone(&e) => {}
                    pidfd => opened.push((pid, pidfd.context(|| context(pid))?)),
                }
            }
            // A number may have passed on to a stranger before it was opened: then it is not in the cgroup now.
            let still_there: HashSet<i32> = self.processes()?.into_iter().collect();
            for (pid, pidfd) in opened.into_iter().filter(|(pid, _)| still_there.contains(pid)) {
                match sys::pidfd::send_signal(pidfd.as_fd(), signal) {
                    Err(e) if gone(&e) => {}
                    sent => sent.context(|| context(pid))?,
                }
            }
        }
        self.let_die(signal)
    }

    /// The pids on the host of all its processes.
    ///
    /// # Errors
    /// When its cgroup cannot be read.
    pub fn processes(&self) -> Result<Vec<i32>> {
        self.cgroup()?.all_pids()
    }

    /// Ends its processes and removes every trace of it. With `force` a running container is killed first.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`] when it runs and `force` is not given, or it is handed over; else as
    /// [`Container::destroy`].
    pub fn delete(mut self, force: bool) -> Result<()> {
        let _lock = self.lock()?;
        self.require_owned()?;
        match self.status()? {
            Status::Stopped | Status::Created => {}
            other if !force => {
                let message = format!("cannot delete container {} that is not stopped: {other}", self.id);
                return Err(Error::new(ErrorKind::WrongStatus, message)
                    .with_hint("stop it first with `migrate kill`, or pass --force"));
            }
            _ => {}
        }
        self.destroy()
    }

    /// [`Container::delete`] for a caller who holds the lock and has judged the status: a checkpoint that ended it.
    ///
    /// # Errors
    /// A process that does not die: nothing is removed, and it can be tried again. [`ErrorKind::HookFailed`] when
    /// everything is gone and a poststop hook failed. Otherwise what could not be removed; the rest is gone.
    pub fn destroy(&self) -> Result<()> {
        let context = || format!("remove container {}", self.id);
        let cgroup = self.cgroup().context(context)?;
        if self.may_have_processes() {
            self.end_processes(&cgroup).context(context)?;
        }
        if let Some(init) = self.state.init {
            reap(init);
        }
        self.abolish_fence().context(context)?;
        let mut failed = Vec::new();
        failed.extend(cgroup.destroy().err());
        failed.extend(self.state.intel_rdt.remove().err());
        failed.extend(remove_host_mounts(&self.state).err());
        failed.extend(remove_host_ends(&self.state.network).err());
        failed.extend(remove_unfinished(&self.state.unfinished));
        // What the hooks after the end are is written down in the directory that must go before them.
        let config = self.config();
        failed.extend(self.root.release(&self.dir, self.state.owns_bundle).err());
        if !failed.is_empty() {
            let first = failed.remove(0);
            return Err(first).context(context).map_err(|error: Error| error.with_cleanup(failed));
        }
        match config {
            Ok(config) if self.state.poststop_due => {
                hooks::run_poststop(&config.spec, &self.state).context(context)
            }
            _ => Ok(()),
        }
    }

    /// Nothing of a container with a pid namespace of its own outlives its first process: what is in its cgroup then
    /// belongs to another container, which took the empty cgroup over.
    fn may_have_processes(&self) -> bool {
        self.state.init.is_none() || self.init().is_some() || !self.has_own_pids()
    }

    fn has_own_pids(&self) -> bool {
        self.config()
            .is_ok_and(|config| Namespaces::from_spec(&config.spec).creates(CloneFlags::CLONE_NEWPID))
    }

    /// Removes what is left of a container whose record was never written or cannot be read.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is nothing of it either.
    pub fn remove_remains(root: &StateRoot, id: &ContainerId) -> Result<()> {
        let dir = root.dir(id);
        if !dir.is_dir() {
            // It may have been removed in part.
            remove_remnants(root.path());
            return Err(Error::new(ErrorKind::NotFound, format!("container does not exist: {id}")));
        }
        let _lock = lock(&dir)?;
        root.release(&dir, false)
    }

    pub(super) fn wrong_status(&self, message: &str) -> Error {
        Error::new(ErrorKind::WrongStatus, message.to_owned())
            .with_hint(format!("`migrate state {}` tells what it does", self.id))
    }
}

/// Waits until init has come past the fifo and executed its program, which closes it.
fn wait_for_program(mut fifo: &File, pidfd: &std::os::fd::OwnedFd) -> Result<()> {
    let mut said = Vec::new();
    loop {
        let mut fds =
            [PollFd::new(fifo.as_fd(), PollFlags::POLLIN), PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other.context(|| "poll the exec fifo")?,
        };
        let readable = fds[0].any().unwrap_or(false);
        let ended = fds[1].any().unwrap_or(false);
        let mut chunk = [0; 4096];
        match if readable { fifo.read(&mut chunk) } else { Err(io::ErrorKind::WouldBlock.into()) } {
            Ok(0) if !said.is_empty() => break,
            Ok(n) => said.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock || e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e).context(|| "read the exec fifo"),
        }
        if ended && said.is_empty() {
            return Err(Error::new(ErrorKind::WrongStatus, "container process is already dead"));
        }
    }
    // One byte says that init has met this reader; what follows is why it did not come further.
    match &said[1..] {
        [] => Ok(()),
        failure => {
            let failure: Failure =
                serde_json::from_slice(failure).context(|| "understand the container's init")?;
            Err(failure.into())
        }
    }
}
