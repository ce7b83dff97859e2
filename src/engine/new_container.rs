// SPDX-License-Identifier: Apache-2.0
//! A container that is coming to be: what `create` and `restore` have in common, from an id to a record, and back to
//! nothing when it does not.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

use nix::fcntl::Flock;
use nix::sched::CloneFlags;
use nix::unistd::Pid;

use super::hooks;
use super::intel_rdt::{RdtGroups, RdtPlan};
use super::lock::lock;
use super::namespaces::Namespaces;
use super::network::{self, NetworkState, SavedNetwork};
use super::remains::{kill_process, remove_host_mounts, remove_unfinished};
use super::rootfs::{CgroupBind, CgroupLayout, PlanContext, RootfsPlan};
use super::sd_notify;
use super::state::{Creator, InitProcess, STATE, State, replace_file, save_config};
use super::{Container, ContainerId, Ownership, Rootless, StateRoot, UserNamespace, rootless};
use crate::cgroup::{Cgroup, CgroupMounts, CgroupState, Hierarchies, NewUnit, UnitHolder};
use crate::spec::oci::LinuxDeviceCgroup;
use crate::spec::{self, Config};
use crate::{Context, Error, ErrorKind, Result, sys};

/// A container that is coming to be: it has an id, a directory and a lock, and is undone unless it is finished.
#[derive(Debug)]
pub struct NewContainer {
    pub(super) root: StateRoot,
    pub(super) id: ContainerId,
    pub(super) dir: PathBuf,
    pub(super) state: State,
    pub(super) config: Option<Config>,
    pub(super) rootfs_plan: Option<RootfsPlan>,
    pub(super) user: Option<UserNamespace>,
    pub(super) cgroup: Option<Cgroup>,
    /// The unit of systemd's that the cgroup is going to be.
    pub(super) unit: Option<NewUnit>,
    /// What keeps it from ending until the first process is in it.
    pub(super) unit_holder: Option<UnitHolder>,
    /// What the cgroup was planned in.
    pub(super) hierarchies: OnceLock<Hierarchies>,
    intel_rdt: Option<RdtPlan>,
    /// Whether limits that a restore could not live under are not set yet.
    pub(super) spared: bool,
    /// Whether the cgroup was free and is ours: another container's must not be emptied.
    pub(super) owns_cgroup: bool,
    /// What a failure removes outside of the directory.
    pub(super) unfinished: Vec<PathBuf>,
    /// How many of the caller's descriptors init gets.
    pub(super) preserve_fds: u32,
    /// Whether the program shall find a socket to tell that it is ready.
    pub(super) notify_socket: bool,
    /// What it finds in its network namespace.
    pub(super) network: network::Setup,
    /// Held until the container is there or gone.
    pub(super) lock: Flock<File>,
    pub(super) finished: bool,
}

impl NewContainer {
    /// Takes an id. From here on the directory exists, and `delete` can remove it if this process dies; what is in it is
    /// written down before it is made.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], or the error of making the directory.
    pub fn reserve(root: &StateRoot, id: ContainerId) -> Result<Self> {
        Self::reserve_owned(root, id, Ownership::Here)
    }

    /// [`NewContainer::reserve`] of one that somebody has the right to from its first moment on.
    ///
    /// # Errors
    /// As there.
    pub fn reserve_owned(root: &StateRoot, id: ContainerId, ownership: Ownership) -> Result<Self> {
        let dir = root.reserve(&id)?;
        // Until it is locked and written to, a `delete` may take the empty directory away, and another `create` may
        // make it again: then it is not ours to remove.
        let lock = lock(&dir)?;
        if dir.join(STATE).exists() {
            return Err(root.already_exists(&id));
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
                host_mount: None,
                network: NetworkState::default(),
                cgroup: CgroupState::default(),
                cgroup_unit: None,
                intel_rdt: RdtGroups::default(),
                namespace_paths: BTreeMap::new(),
                external_descriptors: Default::default(),
                poststop_due: false,
                resuming: None,
                no_new_keyring: false,
                ownership,
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
                unit: None,
                unit_holder: None,
                hierarchies: OnceLock::new(),
                intel_rdt: None,
                spared: false,
                owns_cgroup: false,
                unfinished: Vec::new(),
                preserve_fds: 0,
                notify_socket: false,
                network: network::Setup::default(),
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

    /// The path of the state root.
    pub fn root_path(&self) -> &Path {
        self.root.path()
    }

    /// What is started for it, if that is not this program.
    pub fn own_program(&self) -> Option<&Path> {
        self.root.init_program()
    }

    /// Its directory under the state root.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a small file into its directory: a reader sees the old one or the new one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        replace_file(&self.dir.join(name), bytes)
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

    /// Gives it networks besides what its configuration says.
    pub(super) fn give_networks(&mut self, network: NetworkState) {
        self.state.network = network;
        network::name_host_ends(&mut self.state.network, self.id.as_str());
    }

    /// Gives it what it had when it was checkpointed; before it is configured.
    pub fn give_saved_network(&mut self, saved: &SavedNetwork) {
        self.give_networks(saved.given());
    }

    /// Reads and judges the bundle's configuration and decides on everything that follows from it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] and [`ErrorKind::Unsupported`] name the field.
    pub fn configure(&mut self, bundle: &Path, no_pivot: bool) -> Result<()> {
        let bundle =
            std::path::absolute(bundle).context(|| format!("resolve the bundle {}", bundle.display()))?;
        let config = Config::load(&bundle)?;
        self.configure_with(config, bundle, no_pivot)
    }

    /// [`NewContainer::configure`] for a container that goes on from images: where another one, of which it may be a copy,
    /// holds the cgroup of the configuration, it gets one beside that.
    ///
    /// # Errors
    /// As [`NewContainer::configure`].
    pub fn configure_copy(&mut self, bundle: &Path) -> Result<()> {
        let bundle =
            std::path::absolute(bundle).context(|| format!("resolve the bundle {}", bundle.display()))?;
        let config = Config::load(&bundle)?;
        // What is wrong with it is told first.
        spec::validate(&config.spec)?;
        let config = self.with_free_cgroup(config)?;
        self.configure_with(config, bundle, false)
    }

    /// [`NewContainer::configure`] with a configuration that was read already.
    pub(super) fn configure_with(
        &mut self,
        mut config: Config,
        bundle: PathBuf,
        no_pivot: bool,
    ) -> Result<()> {
        if self.notify_socket || sd_notify::is_prepared(&config.spec) {
            config = config.changed(|value| sd_notify::prepare(&self.dir, value))?;
        }
        spec::validate(&config.spec)?;
        rootless::check(&config.spec)?;
        let namespaces = Namespaces::from_spec(&config.spec);
        namespaces.require_kernel()?;
        namespaces.check_parameters(&config.spec)?;
        let user = UserNamespace::from_spec(&config.spec)?;
        if let (Some(user), Some(process)) = (&user, config.spec.process()) {
            user.check_user(process.user())?;
        }
        self.intel_rdt = RdtPlan::from_spec(&config.spec, &self.id)?;
        self.network =
            network::Setup::new(&config.spec, &self.state.network.networks, &self.state.network.routes)?;
        let rootfs = root_path(&config, &bundle)?;
        let cgroup = self.plan_cgroup(&config)?;
        let plan = RootfsPlan::from_spec(
            &config.spec,
            &bundle,
            &rootfs,
            &plan_context(&config.spec, &cgroup, no_pivot)?,
        )?;
        save_config(&self.dir, &config.bytes)?;
        self.state.annotations =
            config.spec.annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        self.state.bundle = bundle;
        // This is on record with the cgroup, before anything is made that it would take to undo.
        self.state.rootfs = rootfs;
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
        let mut cgroup = self.cgroup.take().expect("configure() has planned the cgroup");
        let can_do_without = cgroup.unit().is_none()
            && self.root.cgroups_are_optional()
            && !rootless::needs_cgroup(&self.config().spec);
        if can_do_without {
            cgroup = cgroup.without_those_of_others()?;
        }
        // Who undoes this kills what is in the cgroup: it is written down once nobody else is there, and before it is
        // made.
        cgroup.require_unused()?;
        self.owns_cgroup = true;
        self.state.cgroup = cgroup.state();
        self.state.save(&self.dir)?;
        self.cgroup = Some(cgroup);
        self.start_unit()?;
        if can_do_without {
            return self.create_permitted_cgroups();
        }
        if self.root.cgroups_are_optional() {
            let made = self.cgroup().create_with_optional_unified();
            self.take_cgroups(made.map_err(|error| self.explain_cgroup(error))?)?;
        } else {
            self.cgroup().create().map_err(|error| self.explain_cgroup(error))?;
        }
        let cgroup = self.cgroup();
        let resources = self.first_resources();
        let resources = resources.as_ref();
        if let Some(resources) = resources {
            cgroup.set(resources)?;
            for field in cgroup.unenforced(resources)? {
                tracing::warn!(field, "limit not enforced on cgroup v2");
            }
        }
        let devices = resources.and_then(|r| r.devices().as_deref()).unwrap_or_default();
        restrict_devices(cgroup, devices)?;
        if let Some(held) = &mut self.unit_holder {
            held.make_room()?;
        }
        let is_own = || Namespaces::from_spec(&self.config().spec).creates(CloneFlags::CLONE_NEWCGROUP);
        match &self.user {
            Some(user) if self.rootfs_plan().has_writable_cgroup() && is_own() => {
                self.cgroup().delegate(user.root()?.0)
            }
            _ => Ok(()),
        }
    }

    /// Makes the groups of `linux.intelRdt`, if there are any.
    ///
    /// # Errors
    /// The group that could not be made or set.
    pub fn create_intel_rdt(&mut self) -> Result<()> {
        let Some(plan) = self.intel_rdt.take() else { return Ok(()) };
        let (state, dir) = (&mut self.state, &self.dir);
        plan.create(|groups| {
            state.intel_rdt.clone_from(groups);
            state.save(dir)
        })
    }

    /// Puts all of the container's processes into the groups of `linux.intelRdt`, if there are any: those that came out
    /// of a checkpoint.
    ///
    /// # Errors
    /// The group that cannot be joined.
    pub fn join_intel_rdt(&self) -> Result<()> {
        if self.state.intel_rdt.joined.is_empty() {
            return Ok(());
        }
        self.state.intel_rdt.join(&self.cgroup().all_pids()?)
    }

    /// Makes those cgroups that this caller may make, and leaves the others out.
    fn create_permitted_cgroups(&mut self) -> Result<()> {
        self.take_cgroups(self.cgroup().create_where_permitted()?)?;
        let resources = self.config().spec.linux().as_ref().and_then(|l| l.resources().as_ref());
        let devices = resources.and_then(|r| r.devices().as_deref()).unwrap_or_default();
        restrict_devices(self.cgroup(), devices)
    }

    /// What was made is the container's cgroup, whatever was planned.
    fn take_cgroups(&mut self, made: Cgroup) -> Result<()> {
        if let Some(plan) = &mut self.rootfs_plan {
            let planned = self.cgroup.as_ref().expect("a plan comes before what is made of it");
            plan.set_cgroups(&cgroup_layout(planned.container_mounts_where_made(&made)?));
        }
        self.state.cgroup = made.state();
        self.cgroup = Some(made);
        self.state.save(&self.dir)
    }

    /// The words are runc's.
    fn explain_cgroup(&self, error: Error) -> Error {
        let not_permitted = is_no_permission(&error) && self.root.cgroups_are_optional();
        let error = if not_permitted {
            let message =
                "rootless needs no limits + no cgrouppath when no permission is granted for cgroups";
            Error::new(error.kind(), message).with_source(error)
        } else {
            error
        };
        Error::new(error.kind(), "unable to apply cgroup configuration").with_source(error)
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
    pub fn into_container(mut self) -> Container {
        self.finished = true;
        let known = mem::take(&mut self.hierarchies);
        Container::new(self.root.clone(), self.id.clone(), self.state.clone(), known)
    }

    /// Undoes everything and returns the cause, with what could not be undone.
    pub fn roll_back(mut self, cause: Error) -> Error {
        self.finished = true;
        cause.with_cleanup(self.undo())
    }

    fn undo(&mut self) -> Vec<Error> {
        let mut failed = Vec::new();
        if let Some(init) = self.state.init.filter(InitProcess::is_alive)
            && let Err(e) = kill_process(init, || ())
        {
            failed.push(e);
        }
        failed.extend(self.network.undo());
        drop(self.unit_holder.take());
        if let (true, Some(cgroup)) = (self.owns_cgroup, &self.cgroup) {
            failed.extend(cgroup.kill_all().err());
            failed.extend(cgroup.destroy().err());
        }
        failed.extend(self.state.intel_rdt.remove().err());
        failed.extend(remove_host_mounts(&self.state).err());
        failed.extend(remove_unfinished(&self.unfinished));
        failed.extend(self.abolish_fence().err());
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

fn is_no_permission(error: &Error) -> bool {
    matches!(error.errno(), Some(libc::EPERM | libc::EACCES | libc::EROFS))
}

/// Who is root of a user namespace at most may not make rules for devices, and may not make or open devices either.
fn restrict_devices(cgroup: &Cgroup, rules: &[LinuxDeviceCgroup]) -> Result<()> {
    match cgroup.restrict_devices(rules) {
        Err(error) if is_no_permission(&error) && Rootless::Auto.applies() => {
            tracing::debug!(error = error.chain(), "the container does without rules for devices");
            Ok(())
        }
        other => other,
    }
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
pub(super) fn plan_context(spec: &spec::oci::Spec, cgroup: &Cgroup, no_pivot: bool) -> Result<PlanContext> {
    let label = spec.linux().as_ref().and_then(|linux| linux.mount_label().as_deref()).unwrap_or_default();
    let selinux = || sys::selinux::is_enabled().context(|| "find out whether SELinux is enabled");
    Ok(PlanContext {
        cgroups: cgroup_layout(cgroup.container_mounts()),
        no_pivot,
        // Most configurations need no answer.
        selinux: !label.is_empty() && selinux()?,
        rootless: !nix::unistd::geteuid().is_root(),
    })
}

/// The container's cgroups, as a mount of type `cgroup` needs to know them.
fn cgroup_layout(mounts: CgroupMounts) -> CgroupLayout {
    match mounts {
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
