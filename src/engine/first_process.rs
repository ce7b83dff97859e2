// SPDX-License-Identifier: Apache-2.0
//! A new container's first process: everything that is decided for it, and the way to where it waits for `start`.

use std::fs::{self, Permissions};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

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
use super::init::parent::{Entry, Launch, Step, Until, launch};
use super::init::plan::{InitPlan, NetworkPlan};
use super::keyring::KeyringPlan;
use super::lsm::LsmPlan;
use super::namespaces::{Namespaces, sysctl_path};
use super::process::{Process, ProcessPlan, ResolvedIo, limits, preserved};
use super::rootfs;
use super::rootfs::host::HostMount;
use super::seccomp::{Filter, Listener};
use super::{Network, NewContainer, UserNamespace, time_offsets};
use crate::cgroup::Cgroup;
use crate::spec;
use crate::{Context, Error, ErrorKind, Result, sys};

impl NewContainer {
    /// Starts init and sees it through to the fifo.
    pub(super) fn start_init(&mut self, io: &ResolvedIo, environment: &[String]) -> Result<()> {
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
        let mount_namespace = namespaces.open_mount()?;
        let sources = Server::for_plan(self.rootfs_plan(), self.user.is_some())?;
        let plan = InitPlan {
            rootfs: Some(self.rootfs_plan().clone()),
            mount_namespace: mount_namespace.as_ref().map(AsRawFd::as_raw_fd),
            hostname: spec.hostname().clone().filter(|name| !name.is_empty()),
            domainname: spec.domainname().clone().filter(|name| !name.is_empty()),
            sysctls: sysctls(spec),
            network: self.network_plan(&namespaces),
            fifo: Some(fifo.as_raw_fd()),
            mount_sources: sources.as_ref().map(|server| server.for_init().as_raw_fd()),
            preserved: self.preserve_fds,
            console: io.console.as_ref().map(|console| console.plan(&process)).transpose()?,
            root: None,
            join_user_namespace: None,
            user_namespace: self.user.as_ref().map(UserNamespace::plan),
            hooks: InitHooks::new(spec, &self.state),
            attributes: Attributes::new(&process, spec.linux().as_ref()),
            keyring: (!self.state.no_new_keyring)
                .then(|| KeyringPlan::of_first(&self.id, self.user.is_some())),
            lsm: LsmPlan::new(&process)?,
            seccomp: Filter::of(spec)?,
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
                program: self.root.init_program(),
                unshare: namespaces.unshare_flags(),
                outside: FromOutside {
                    user: self.user.as_ref(),
                    time_offsets: time_offsets::text(spec),
                    oom_score_adj: process.oom_score_adj(),
                },
                among_others: self.user.is_some() && !namespaces.creates(CloneFlags::CLONE_NEWPID),
            },
        )?;
        self.state.intel_rdt.join(&[starting.pid().as_raw()])?;
        let serving = sources.map(|server| server.serve(starting.pidfd())).transpose()?;
        starting
            .set_up(|step, pid| match step {
                Step::Network => self.set_network_up(pid),
                Step::Hooks => self.run_runtime_hooks(pid),
            })
            .context(|| format!("set container {} up", self.id))?;
        drop(serving);
        // It has answered, so it is in all of its cgroups.
        self.release_unit()?;
        set_limits(starting.pid(), &process)?;
        let names = match &io.console {
            Some(_) => descriptors::names_in(starting.pid())?,
            None => descriptors::names(io.stdio())?,
        };
        self.record(starting.pid(), names, &namespaces.types())?;
        let state = HookState::new(&self.state, "creating", Some(starting.pid().as_raw()));
        let listener = Listener::of(&self.config().spec, state);
        starting.finish(Until::Waiting, listener.as_ref()).context(|| "unable to start container process")?;
        Ok(())
    }

    fn network_plan(&self, namespaces: &Namespaces) -> NetworkPlan {
        let network = &self.state.network;
        NetworkPlan {
            loopback: namespaces.creates(CloneFlags::CLONE_NEWNET)
                || network.networks.contains(&Network::Loopback),
            from_outside: self.network.is_needed(network),
        }
    }

    /// Gives the waiting init what it finds in its network namespace.
    fn set_network_up(&mut self, pid: Pid) -> Result<()> {
        self.with_network(|setup, network, save| setup.run(pid, network, save))
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
        let mut known = HostMount::before(&self.state.rootfs)?;
        self.state.host_mount = Some(known);
        self.state.save(&self.dir)?;
        known.own = Some(rootfs::host::bind(&self.state.rootfs)?);
        self.state.host_mount = Some(known);
        self.state.save(&self.dir)
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

    /// The error, or what is behind it: a limit of memory so low that init was killed.
    pub(super) fn blame_memory(&self, error: Error) -> Error {
        match &self.cgroup {
            Some(cgroup) if self.owns_cgroup => blame_memory(cgroup, error),
            _ => error,
        }
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

/// Podman asks for high limits of its own accord, so its users meet this in containers and virtual machines.
const WHAT_LIMITS_NEED: &str = "a hard limit above the caller's own needs CAP_SYS_RESOURCE, and RLIMIT_NOFILE ends at the kernel's fs.nr_open";

pub(super) fn set_limits(pid: Pid, process: &spec::oci::Process) -> Result<()> {
    for (i, (limit, resource, soft, hard)) in limits(process).into_iter().enumerate() {
        let set = sys::process::set_limit(pid, resource, soft, hard);
        set.context(|| format!("set {limit} to {soft}:{hard} (process.rlimits[{i}])")).map_err(|error| {
            if error.is_errno(libc::EPERM) { error.with_hint(WHAT_LIMITS_NEED) } else { error }
        })?;
    }
    Ok(())
}

fn sysctls(spec: &spec::oci::Spec) -> Vec<(String, String)> {
    let map = spec.linux().as_ref().and_then(|l| l.sysctl().as_ref());
    let mut list: Vec<_> =
        map.into_iter().flatten().map(|(name, value)| (sysctl_path(name), value.clone())).collect();
    list.sort();
    list
}
