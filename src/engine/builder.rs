// SPDX-License-Identifier: Apache-2.0
//! From an id and a bundle to a container: what `create` does, and the first half of what `restore` does.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::Flock;
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use super::attributes::Attributes;
use super::console::Console;
use super::container::EXEC_FIFO;
use super::descriptors;
use super::hooks::{self, HookKind, HookState, InitHooks};
use super::init::mount_sources::Server;
use super::init::outside::FromOutside;
use super::init::parent::{Entry, Launch, Until, launch};
use super::init::plan::InitPlan;
use super::lock::lock;
use super::namespaces::{Namespaces, sysctl_path};
use super::process::{Process, ProcessPlan, ResolvedIo, limits, preserved};
use super::remains::{kill_process, remove_host_mounts, remove_unfinished};
use super::rootfs::{self, CgroupBind, CgroupLayout, PlanContext, RootfsPlan};
use super::sd_notify;
use super::state::{Creator, InitProcess, STATE, State, save_config};
use super::{Container, ContainerId, ProcessIo, StateRoot, UserNamespace, rootless, time_offsets};
use crate::cgroup::{Cgroup, CgroupMounts, CgroupState, Hierarchies};
use crate::spec::{self, Config};
use crate::{Context, Error, ErrorKind, Result, sys};

/// Makes a container from a bundle.
#[derive(Debug)]
pub struct ContainerBuilder {
    id: ContainerId,
    bundle: PathBuf,
    io: ProcessIo,
    no_pivot: bool,
    preserve_fds: u32,
    environment: Vec<String>,
    notify_socket: bool,
}

impl ContainerBuilder {
    /// A container of this id from the bundle in this directory.
    pub fn from_bundle(id: ContainerId, bundle: &Path) -> Self {
        Self {
            id,
            bundle: bundle.to_owned(),
            io: ProcessIo::default(),
            no_pivot: false,
            preserve_fds: 0,
            environment: Vec::new(),
            notify_socket: false,
        }
    }

    /// What the container's init gets as stdin, stdout and stderr.
    #[must_use]
    pub fn io(mut self, io: ProcessIo) -> Self {
        self.io = io;
        self
    }

    /// Moves the root file system to `/` instead of pivoting, for a root on a ramdisk. Less safe.
    #[must_use]
    pub fn no_pivot(mut self, no_pivot: bool) -> Self {
        self.no_pivot = no_pivot;
        self
    }

    /// How many of the caller's descriptors init gets, from number 3 on and under their numbers. The caller had them
    /// open before it opened anything else.
    #[must_use]
    pub fn preserve_fds(mut self, count: u32) -> Self {
        self.preserve_fds = count;
        self
    }

    /// Variables (`NAME=value`) on top of the configuration's.
    #[must_use]
    pub fn environment(mut self, variables: Vec<String>) -> Self {
        self.environment = variables;
        self
    }

    /// Gives the program a socket to tell that it is ready, for [`Container::notify_proxy`].
    #[must_use]
    pub fn notify_socket(mut self, wanted: bool) -> Self {
        self.notify_socket = wanted;
        self
    }

    /// Creates the container: its init is set up and waits for [`Container::start`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] and [`ErrorKind::Unsupported`] name the field; [`ErrorKind::AlreadyExists`];
    /// [`ErrorKind::NotFound`] and [`ErrorKind::PermissionDenied`] when the program cannot run; else the system call
    /// that failed. Nothing is left behind.
    pub fn create(self, root: &StateRoot) -> Result<Container> {
        preserved(self.preserve_fds)?;
        let mut new = NewContainer::reserve(root, self.id)?;
        new.preserve_fds = self.preserve_fds;
        new.notify_socket = self.notify_socket;
        let make = || {
            new.configure(&self.bundle, self.no_pivot)?;
            let io = self.io.resolve(new.has_terminal())?;
            new.create_cgroup()?;
            new.start_init(&io, &self.environment)
        };
        match make() {
            Ok(()) => new.into_container(),
            Err(error) => {
                let error = new.blame_memory(error);
                Err(new.roll_back(error))
            }
        }
    }
}

/// A container that is coming to be: it has an id, a directory and a lock, and is undone unless it is finished.
#[derive(Debug)]
pub struct NewContainer {
    root: StateRoot,
    id: ContainerId,
    dir: PathBuf,
    state: State,
    config: Option<Config>,
    rootfs_plan: Option<RootfsPlan>,
    user: Option<UserNamespace>,
    cgroup: Option<Cgroup>,
    /// Whether the cgroup was free and is ours: another container's must not be emptied.
    owns_cgroup: bool,
    /// What a failure removes outside of the directory.
    unfinished: Vec<PathBuf>,
    /// How many of the caller's descriptors init gets.
    preserve_fds: u32,
    /// Whether the program shall find a socket to tell that it is ready.
    notify_socket: bool,
    /// Held until the container is there or gone.
    lock: Flock<File>,
    finished: bool,
}

impl NewContainer {
    /// Takes an id. From here on the directory exists, and `delete` can remove it if this process dies; what is in it is
    /// written down before it is made.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], or the error of making the directory.
    pub fn reserve(root: &StateRoot, id: ContainerId) -> Result<Self> {
        let dir = root.reserve(&id)?;
        // Until it is locked and written to, a `delete` may take the empty directory away, and another `create` may
        // make it again: then it is not ours to remove.
        let lock = lock(&dir)?;
        if dir.join(STATE).exists() {
            return Err(StateRoot::already_exists(&id));
        }
        let prepare = || {
            let state = State {
                schema: State::schema(),
                id: id.to_string(),
                init: None,
                creator: Creator::this()?,
                created: sys::clock::rfc3339_utc(SystemTime::now()),
                bundle: dir.join("bundle"),
                rootfs: dir.join("bundle/rootfs"),
                owns_bundle: false,
                unfinished: Vec::new(),
                mount_below: None,
                cgroup: CgroupState::default(),
                namespace_paths: BTreeMap::new(),
                external_descriptors: Default::default(),
                poststop_due: false,
                annotations: BTreeMap::new(),
            };
            state.save(&dir)?;
            Ok(state)
        };
        match prepare() {
            Ok(state) => Ok(Self {
                root: root.clone(),
                id,
                dir,
                state,
                config: None,
                rootfs_plan: None,
                user: None,
                cgroup: None,
                owns_cgroup: false,
                unfinished: Vec::new(),
                preserve_fds: 0,
                notify_socket: false,
                lock,
                finished: false,
            }),
            Err(error) => Err(Error::with_cleanup(error, root.release(&dir, false).err())),
        }
    }

    /// Its id.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Its directory under the state root.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Declares that the bundle lives in the container's directory and goes with it; returns where it must be made.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn own_bundle(&mut self) -> Result<PathBuf> {
        self.state.owns_bundle = true;
        self.state.save(&self.dir)?;
        Ok(self.dir.join("bundle"))
    }

    /// Declares what is about to be made outside of the container's directory: it is removed again if the container
    /// does not come to be, also by `delete` after this process was killed. An empty list declares it complete.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn set_unfinished(&mut self, paths: Vec<PathBuf>) -> Result<()> {
        self.state.unfinished.clone_from(&paths);
        self.unfinished = paths;
        self.state.save(&self.dir)
    }

    /// Reads and judges the bundle's configuration and decides on everything that follows from it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] and [`ErrorKind::Unsupported`] name the field.
    pub fn configure(&mut self, bundle: &Path, no_pivot: bool) -> Result<()> {
        let bundle =
            std::path::absolute(bundle).context(|| format!("resolve the bundle {}", bundle.display()))?;
        let mut config = Config::load(&bundle)?;
        if self.notify_socket || sd_notify::is_prepared(&config.spec) {
            config = config.changed(|value| sd_notify::prepare(&self.dir, value))?;
        }
        spec::validate(&config.spec)?;
        if let Some(field) = spec::unsupported(&config.spec) {
            return Err(Error::new(ErrorKind::Unsupported, format!("field `{field}` is not supported yet"))
                .with_hint("remove the field from config.json, or run this container with another runtime"));
        }
        rootless::check(&config.spec)?;
        Namespaces::from_spec(&config.spec).require_kernel()?;
        let user = UserNamespace::from_spec(&config.spec)?;
        if let (Some(user), Some(process)) = (&user, config.spec.process()) {
            user.check_user(process.user())?;
        }
        let rootfs = root_path(&config, &bundle)?;
        let linux = config.spec.linux().as_ref();
        let hierarchies = Hierarchies::detect()?;
        let cgroups_path = linux.and_then(|l| l.cgroups_path().as_deref());
        let cgroup = Cgroup::plan(&hierarchies, cgroups_path, self.id.as_str())?;
        let plan = RootfsPlan::from_spec(&config.spec, &bundle, &rootfs, &plan_context(&cgroup, no_pivot)?)?;
        save_config(&self.dir, &config.bytes)?;
        self.state.annotations =
            config.spec.annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        self.state.bundle = bundle;
        self.state.rootfs = rootfs;
        self.state.save(&self.dir)?;
        self.config = Some(config);
        self.user = user;
        self.rootfs_plan = Some(plan);
        self.cgroup = Some(cgroup);
        Ok(())
    }

    /// The configuration, once [`NewContainer::configure`] has read it.
    pub fn config(&self) -> &Config {
        self.config.as_ref().expect("configure() comes before whatever asks for the configuration")
    }

    /// Whether the container's process has a terminal.
    pub fn has_terminal(&self) -> bool {
        self.config().spec.process().as_ref().is_some_and(|process| process.terminal() == Some(true))
    }

    /// What is decided about the root file system.
    pub fn rootfs_plan(&self) -> &RootfsPlan {
        self.rootfs_plan.as_ref().expect("configure() comes before whatever asks for the plan")
    }

    /// The root file system's directory on the host.
    pub fn rootfs(&self) -> &Path {
        &self.state.rootfs
    }

    /// Its user namespace, unless it shares ours.
    pub fn user_namespace(&self) -> Option<&UserNamespace> {
        self.user.as_ref()
    }

    /// The container's cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        self.cgroup.as_ref().expect("configure() comes before whatever asks for the cgroup")
    }

    /// Makes the cgroups and sets their limits.
    ///
    /// # Errors
    /// The cgroup that could not be made, or the field of the limit that could not be set.
    pub fn create_cgroup(&mut self) -> Result<()> {
        let cgroup = self.cgroup.as_ref().expect("configure() has planned the cgroup");
        // Who undoes this kills what is in the cgroup: it is written down once nobody else is there, and before it is
        // made.
        cgroup.require_unused()?;
        self.owns_cgroup = true;
        self.state.cgroup = cgroup.state();
        self.state.save(&self.dir)?;
        if self.root.cgroups_are_optional() && !rootless::needs_cgroup(&self.config().spec) {
            return self.create_permitted_cgroups();
        }
        cgroup.create()?;
        let resources =
            self.config.as_ref().and_then(|c| c.spec.linux().as_ref()).and_then(|l| l.resources().as_ref());
        if let Some(resources) = resources {
            cgroup.set(resources)?;
            for field in cgroup.unenforced(resources)? {
                tracing::warn!(field, "limit not enforced on cgroup v2");
            }
        }
        let devices = resources.and_then(|r| r.devices().as_deref()).unwrap_or_default();
        cgroup.restrict_devices(devices)?;
        let is_own = || Namespaces::from_spec(&self.config().spec).creates(CloneFlags::CLONE_NEWCGROUP);
        match &self.user {
            Some(user) if self.rootfs_plan().has_writable_cgroup() && is_own() => {
                self.cgroup().delegate(user.root()?.0)
            }
            _ => Ok(()),
        }
    }

    /// Makes those cgroups that this caller may make, and leaves the others out.
    fn create_permitted_cgroups(&mut self) -> Result<()> {
        let made = self.cgroup().create_where_permitted()?;
        if let Some(plan) = &mut self.rootfs_plan {
            plan.set_cgroups(&cgroup_layout(&made));
        }
        self.state.cgroup = made.state();
        self.state.save(&self.dir)?;
        let resources = self.config().spec.linux().as_ref().and_then(|l| l.resources().as_ref());
        let devices = resources.and_then(|r| r.devices().as_deref()).unwrap_or_default();
        let restricted = made.restrict_devices(devices);
        self.cgroup = Some(made);
        match restricted {
            // Who may not make rules may not make devices either.
            Err(e) if matches!(e.errno(), Some(libc::EPERM | libc::EACCES | libc::EROFS)) => Ok(()),
            other => other,
        }
    }

    /// Starts init and sees it through to the fifo.
    fn start_init(&mut self, io: &ResolvedIo, environment: &[String]) -> Result<()> {
        self.mount_on_host()?;
        self.owe_poststop()?;
        let spec = &self.config().spec;
        let mut process = spec.process().clone().ok_or_else(|| {
            Error::new(ErrorKind::InvalidConfig, "invalid configuration: field `process` is required")
        })?;
        process.env_mut().get_or_insert_default().extend_from_slice(environment);
        let fifo = self.make_fifo()?;
        if let Some(user) = &self.user {
            io.give_to(user.root()?)?;
        }
        let namespaces = Namespaces::from_spec(spec);
        let joined = namespaces.open()?;
        let mount_namespace = match namespaces.mount_path() {
            Some(path) => {
                Some(File::open(path).context(|| format!("open the mount namespace {}", path.display()))?)
            }
            None => None,
        };
        let sources = match &mount_namespace {
            // What is mounted there is another's.
            Some(_) => None,
            None => Server::for_plan(self.rootfs_plan(), self.user.is_some())?,
        };
        let plan = InitPlan {
            rootfs: mount_namespace.is_none().then(|| self.rootfs_plan().clone()),
            mount_namespace: mount_namespace.as_ref().map(AsRawFd::as_raw_fd),
            hostname: spec.hostname().clone().filter(|name| !name.is_empty()),
            domainname: spec.domainname().clone().filter(|name| !name.is_empty()),
            sysctls: sysctls(spec),
            new_network: namespaces.creates(CloneFlags::CLONE_NEWNET),
            fifo: Some(fifo.as_raw_fd()),
            mount_sources: sources.as_ref().map(|server| server.for_init().as_raw_fd()),
            preserved: self.preserve_fds,
            console: io.console.as_ref().map(|console| console.plan(&process)).transpose()?,
            root: None,
            join_user_namespace: None,
            user_namespace: self.user.as_ref().map(UserNamespace::plan),
            hooks: InitHooks::new(spec, &self.state),
            attributes: Attributes::new(&process, spec.linux().as_ref()),
            process: ProcessPlan::new(&Process::from_spec(process.clone()))?,
        };
        let mut inherit = vec![fifo.as_fd()];
        inherit.extend(mount_namespace.as_ref().map(AsFd::as_fd));
        inherit.extend(sources.as_ref().map(Server::for_init));
        inherit.extend(io.console.as_ref().map(Console::socket));
        inherit.extend(preserved(self.preserve_fds)?);
        let entry = Entry::of(self.cgroup())?;
        let starting = launch(
            &plan,
            &Launch {
                stdio: io.stdio(),
                inherit,
                join: &joined,
                namespaces: namespaces.clone_flags(),
                cgroup: &entry,
                unshare: namespaces.unshare_flags(),
                outside: FromOutside {
                    user: self.user.as_ref(),
                    time_offsets: time_offsets::text(spec),
                    oom_score_adj: process.oom_score_adj(),
                },
                among_others: self.user.is_some() && !namespaces.creates(CloneFlags::CLONE_NEWPID),
            },
        )?;
        let serving = sources.map(|server| server.serve(starting.pidfd())).transpose()?;
        starting
            .set_up(|pid| self.run_runtime_hooks(pid))
            .context(|| format!("set container {} up", self.id))?;
        drop(serving);
        set_limits(starting.pid(), &process)?;
        let names = match &io.console {
            Some(_) => descriptors::names_in(starting.pid())?,
            None => descriptors::names(io.stdio())?,
        };
        self.record(starting.pid(), names, &namespaces.types())?;
        starting.finish(Until::Waiting).context(|| "unable to start container process")?;
        Ok(())
    }

    /// Writes down that from now on the container's end has hooks.
    fn owe_poststop(&mut self) -> Result<()> {
        if hooks::of_kind(&self.config().spec, HookKind::Poststop).is_empty() {
            return Ok(());
        }
        self.state.poststop_due = true;
        self.state.save(&self.dir)
    }

    /// Runs the hooks that the runtime runs before a container's processes do.
    ///
    /// # Errors
    /// [`ErrorKind::HookFailed`].
    fn run_runtime_hooks(&self, pid: Pid) -> Result<()> {
        let (spec, state) =
            (&self.config().spec, HookState::new(&self.state, "creating", Some(pid.as_raw())));
        hooks::run_in_runtime(HookKind::Prestart, spec, &state)?;
        hooks::run_in_runtime(HookKind::CreateRuntime, spec, &state)
    }

    /// The same for processes that come out of a checkpoint: the root file system is prepared, and they do not run yet.
    ///
    /// # Errors
    /// [`ErrorKind::HookFailed`]; the container must not come to be.
    pub fn run_restore_hooks(&mut self, pid: Pid) -> Result<()> {
        self.owe_poststop()?;
        self.run_runtime_hooks(pid)
    }

    /// Makes the one mount below which a container without a mount namespace has its own.
    fn mount_on_host(&mut self) -> Result<()> {
        if self.rootfs_plan().entry != rootfs::Entry::Chroot {
            return Ok(());
        }
        self.state.mount_below = Some(rootfs::host::mount_below(&self.state.rootfs)?);
        self.state.save(&self.dir)?;
        rootfs::host::bind(&self.state.rootfs)
    }

    fn make_fifo(&self) -> Result<std::os::fd::OwnedFd> {
        let path = self.dir.join(EXEC_FIFO);
        mkfifo(&path, Mode::from_bits_truncate(0o622)).context(|| format!("mkfifo {}", path.display()))?;
        // The process may have become another user before it opens the fifo, and our umask is in the mode.
        fs::set_permissions(&path, Permissions::from_mode(0o622))
            .context(|| format!("chmod {}", path.display()))?;
        if let Some(user) = &self.user {
            let (uid, gid) = user.root()?;
            match std::os::unix::fs::chown(&path, Some(uid), Some(gid)) {
                // A caller who is not root can give nothing away; everybody may write to it as it is.
                Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {}
                done => done.context(|| format!("chown {} to {uid}:{gid}", path.display()))?,
            }
        }
        let fifo = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_CLOEXEC | libc::O_NOFOLLOW)
            .open(&path)
            .context(|| format!("open {}", path.display()))?;
        sys::fd::above_stdio(fifo.as_fd()).context(|| "dup")
    }

    /// Writes down the container's first process, with the namespaces (by `/proc/PID/ns` name) that belong to it.
    ///
    /// # Errors
    /// When the process is gone or the record cannot be written.
    pub fn record(&mut self, pid: Pid, descriptors: [String; 3], namespaces: &[&str]) -> Result<()> {
        self.state.init = Some(InitProcess::of(pid)?);
        // Whoever comes after us meets a container. Only this process may still find that it did not come to be.
        self.state.unfinished.clear();
        self.state.created = sys::clock::rfc3339_utc(SystemTime::now());
        self.state.external_descriptors = descriptors;
        self.state.namespace_paths = namespaces
            .iter()
            .map(|name| ((*name).to_owned(), PathBuf::from(format!("/proc/{pid}/ns/{name}"))))
            .collect();
        self.state.save(&self.dir)
    }

    /// The finished container.
    ///
    /// # Errors
    /// When the record cannot be read back.
    pub fn into_container(mut self) -> Result<Container> {
        self.finished = true;
        Container::load(self.root.clone(), &self.id)
    }

    /// Undoes everything and returns the cause, with what could not be undone.
    pub fn roll_back(mut self, cause: Error) -> Error {
        self.finished = true;
        cause.with_cleanup(self.undo())
    }

    /// The error, or what is behind it: a limit of memory so low that init was killed.
    fn blame_memory(&self, error: Error) -> Error {
        match &self.cgroup {
            Some(cgroup) if self.owns_cgroup => blame_memory(cgroup, error),
            _ => error,
        }
    }

    fn undo(&mut self) -> Vec<Error> {
        let mut failed = Vec::new();
        if let Some(init) = self.state.init.filter(InitProcess::is_alive)
            && let Err(e) = kill_process(init)
        {
            failed.push(e);
        }
        if let (true, Some(cgroup)) = (self.owns_cgroup, &self.cgroup) {
            failed.extend(cgroup.kill_all().err());
            failed.extend(cgroup.destroy().err());
        }
        failed.extend(remove_host_mounts(&self.state).err());
        failed.extend(remove_unfinished(&self.unfinished));
        failed.extend(self.root.release(&self.dir, self.state.owns_bundle).err());
        if let (true, true, Some(config)) = (failed.is_empty(), self.state.poststop_due, &self.config) {
            failed.extend(hooks::run_poststop(&config.spec, &self.state).err());
        }
        failed
    }
}

impl Drop for NewContainer {
    fn drop(&mut self) {
        if !self.finished {
            for error in self.undo() {
                tracing::warn!(id = %self.id, error = error.chain(), "clean-up after a failed create");
            }
        }
        // The lock goes last, with the file.
        let _ = &self.lock;
    }
}

/// The error of a container's first process, or what is behind it: the kernel killed it for want of memory.
pub(super) fn blame_memory(cgroup: &Cgroup, error: Error) -> Error {
    match cgroup.oom_kills() {
        Ok(1..) => Error::new(error.kind(), "container init was OOM-killed (memory limit too low?)")
            .with_source(error)
            .with_hint("raise linux.resources.memory.limit in config.json"),
        _ => error,
    }
}

pub(super) fn set_limits(pid: Pid, process: &spec::oci::Process) -> Result<()> {
    for (i, (resource, soft, hard)) in limits(process).into_iter().enumerate() {
        sys::process::set_limit(pid, resource, soft, hard)
            .context(|| format!("prlimit(process.rlimits[{i}], soft {soft}, hard {hard})"))?;
    }
    Ok(())
}

fn root_path(config: &Config, bundle: &Path) -> Result<PathBuf> {
    let root = config.spec.root().as_ref().expect("validate() demands a root");
    let path = bundle.join(root.path());
    let resolved = fs::canonicalize(&path).map_err(|e| {
        Error::new(ErrorKind::InvalidConfig, format!("field `root.path` leads to {}", path.display()))
            .with_source(e)
    })?;
    if !resolved.is_dir() {
        return Err(Error::new(
            ErrorKind::InvalidConfig,
            format!("field `root.path` leads to {}, which is not a directory", resolved.display()),
        ));
    }
    Ok(resolved)
}

/// What the plan of a root filesystem depends on besides the configuration.
pub(super) fn plan_context(cgroup: &Cgroup, no_pivot: bool) -> Result<PlanContext> {
    Ok(PlanContext {
        cgroups: cgroup_layout(cgroup),
        no_pivot,
        selinux: sys::selinux::is_enabled().context(|| "find out whether SELinux is enabled")?,
        rootless: !nix::unistd::geteuid().is_root(),
    })
}

/// The container's cgroups, as a mount of type `cgroup` needs to know them.
fn cgroup_layout(cgroup: &Cgroup) -> CgroupLayout {
    match cgroup.container_mounts() {
        CgroupMounts::PerHierarchy(mounts) => CgroupLayout::V1(
            mounts
                .into_iter()
                .map(|m| CgroupBind {
                    name: m.name,
                    host_path: m.host_path,
                    fs_data: m.data,
                    symlinks: m.links,
                })
                .collect(),
        ),
        CgroupMounts::Unified(mount) => {
            CgroupLayout::V2 { host_mount: mount.host_mountpoint, host_path: mount.host_path }
        }
    }
}

fn sysctls(spec: &spec::oci::Spec) -> Vec<(String, String)> {
    let map = spec.linux().as_ref().and_then(|l| l.sysctl().as_ref());
    let mut list: Vec<_> =
        map.into_iter().flatten().map(|(name, value)| (sysctl_path(name), value.clone())).collect();
    list.sort();
    list
}
