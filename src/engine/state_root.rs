// SPDX-License-Identifier: Apache-2.0
//! The directory under which containers are written down, and the way from an id to a container.
//!
//! A container that was made under another root is found by its id alone (Podman's clean-up calls `delete` without
//! `--root`): every root that is not the default one leaves its path in `.roots` of the default one, for as long as it
//! holds a container.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::remains::{remove_container_dir, remove_remnants};
use super::rootless::has_own_runtime_directory;
use super::state::State;
use super::{CgroupDriver, Container, ContainerId, Rootless};
use crate::{Context, Error, ErrorKind, Result};

/// The default state root of a privileged caller.
const DEFAULT: &str = "/run/migrate";

/// The directory of links to other roots, beneath the default root.
pub(super) const OTHER_ROOTS: &str = ".roots";

/// Beneath a root: what a layer above keeps of containers that come and go. No container can have that id.
pub(crate) const MIGRATIONS: &str = ".migrations";

/// A state root.
#[derive(Debug, Clone)]
pub struct StateRoot {
    path: PathBuf,
    explicit: bool,
    rootless: Rootless,
    cgroup_driver: CgroupDriver,
    /// What becomes the first process of containers instead of this program.
    init_command: Option<PathBuf>,
}

/// What is said of a state root before it is used.
#[derive(Debug, Clone)]
#[must_use]
pub struct StateRootBuilder {
    path: PathBuf,
    rootless: Rootless,
    cgroup_driver: CgroupDriver,
    init_command: Option<PathBuf>,
}

impl StateRootBuilder {
    /// What new containers under it may do without.
    pub fn rootless(mut self, rootless: Rootless) -> Self {
        self.rootless = rootless;
        self
    }

    /// Who makes the cgroups of new containers under it.
    pub fn cgroup_driver(mut self, driver: CgroupDriver) -> Self {
        self.cgroup_driver = driver;
        self
    }

    /// The program that the engine starts for each container and each `exec`, and that becomes the container's process. It
    /// calls [`init_if_requested`](super::init_if_requested) first thing, as the `migrate` command does. Without one it is
    /// the running program, which must do so; a test of `cargo test` cannot.
    pub fn init_command(mut self, program: impl Into<PathBuf>) -> Self {
        self.init_command = Some(program.into());
        self
    }

    /// The state root. Its directory is made on first use.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such program as is to become init; [`ErrorKind::System`] when a path is
    /// relative and the working directory cannot be found.
    pub fn open(self) -> Result<StateRoot> {
        let root = StateRoot::at(&self.path)?.rootless(self.rootless).cgroup_driver(self.cgroup_driver);
        let absolute = |program: PathBuf| {
            program.canonicalize().map_err(|e| {
                Error::new(ErrorKind::NotFound, format!("find the program {}", program.display()))
                    .with_source(e)
            })
        };
        Ok(StateRoot { init_command: self.init_command.map(absolute).transpose()?, ..root })
    }
}

impl StateRoot {
    /// A state root at a path, with more to be said of it.
    pub fn builder(path: impl Into<PathBuf>) -> StateRootBuilder {
        StateRootBuilder {
            path: path.into(),
            rootless: Rootless::Auto,
            cgroup_driver: CgroupDriver::Files,
            init_command: None,
        }
    }

    /// The root at a path, which is made on first use.
    ///
    /// # Errors
    /// When the path is relative and the working directory cannot be found.
    pub fn at(path: &Path) -> Result<Self> {
        let path =
            std::path::absolute(path).context(|| format!("resolve the state root {}", path.display()))?;
        Ok(Self {
            path,
            explicit: true,
            rootless: Rootless::Auto,
            cgroup_driver: CgroupDriver::Files,
            init_command: None,
        })
    }

    /// The default root: `/run/migrate`, or `migrate` under `XDG_RUNTIME_DIR` for a caller who is not root of the machine. Needs no
    /// environment.
    pub fn default_root() -> Self {
        let own = if has_own_runtime_directory() { runtime_directory() } else { None };
        let path = own.map_or_else(|| PathBuf::from(DEFAULT), |directory| directory.join("migrate"));
        Self {
            path,
            explicit: false,
            rootless: Rootless::Auto,
            cgroup_driver: CgroupDriver::Files,
            init_command: None,
        }
    }

    /// What new containers under it may do without.
    #[must_use]
    pub fn rootless(mut self, rootless: Rootless) -> Self {
        self.rootless = rootless;
        self
    }

    /// Who makes the cgroups of new containers under it.
    #[must_use]
    pub fn cgroup_driver(mut self, driver: CgroupDriver) -> Self {
        self.cgroup_driver = driver;
        self
    }

    /// Who makes cgroups.
    pub(super) fn driver(&self) -> CgroupDriver {
        self.cgroup_driver
    }

    /// Whether a container without limits may do without cgroups.
    pub(super) fn cgroups_are_optional(&self) -> bool {
        self.rootless.applies()
    }

    /// What becomes init, if it is not this program.
    pub(super) fn init_program(&self) -> Option<&Path> {
        self.init_command.as_deref()
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Loads a container. Under the default root the search goes on to every other root that was ever used, and the
    /// id must then be unique.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none of that id; [`ErrorKind::InvalidInput`] when several roots have one.
    pub fn load(&self, id: &ContainerId) -> Result<Container> {
        let container = Container::load(self.find(id)?, id)?;
        container.unthrottle_after_death();
        Ok(container)
    }

    /// The root that has the id; this one when none has.
    pub(super) fn find(&self, id: &ContainerId) -> Result<Self> {
        if self.has(id) || self.explicit {
            return Ok(self.clone());
        }
        let mut found: Vec<Self> = self.others().into_iter().filter(|root| root.has(id)).collect();
        match (found.pop(), found.first()) {
            (Some(root), None) => Ok(root),
            (Some(one), Some(other)) => Err(Error::new(
                ErrorKind::InvalidInput,
                format!("container {id} exists under {} and {}", one.path.display(), other.path.display()),
            )
            .with_hint("say which one with --root")),
            (None, _) => Ok(self.clone()),
        }
    }

    /// The ids that this root holds, sorted. Whether each can be loaded is another question.
    ///
    /// # Errors
    /// When the root cannot be listed. A root that does not exist holds none.
    pub fn ids(&self) -> Result<Vec<ContainerId>> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e).context(|| format!("list the state root {}", self.path.display())),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let entry = entry.context(|| format!("list the state root {}", self.path.display()))?;
            if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                ids.push(id);
            }
        }
        ids.sort();
        Ok(ids)
    }

    /// The directory of a container, whether it exists or not.
    pub(crate) fn dir(&self, id: &ContainerId) -> PathBuf {
        self.path.join(id.as_str())
    }

    /// Makes the directory of a new container. Only one caller can have an id.
    pub(super) fn reserve(&self, id: &ContainerId) -> Result<PathBuf> {
        let dir = self.dir(id);
        let make = |path: &Path, mode: u32| fs::DirBuilder::new().recursive(true).mode(mode).create(path);
        make(&self.path, 0o700).context(|| format!("make the state root {}", self.path.display()))?;
        if !self.explicit && self.path != Path::new(DEFAULT) {
            // Who tidies the user's runtime directory up leaves alone what has the sticky bit (XDG Base Directory
            // Specification). Containers live as long as they run, not as long as somebody looks at them.
            fs::set_permissions(&self.path, fs::Permissions::from_mode(0o1700))
                .context(|| format!("chmod {}", self.path.display()))?;
        }
        match fs::DirBuilder::new().mode(0o711).create(&dir) {
            Ok(()) => {}
            // Whoever has made it was killed before it wrote anything down, or is about to: the lock tells.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && is_empty_directory(&dir) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(self.already_exists(id));
            }
            Err(e) => return Err(e).context(|| format!("make {}", dir.display())),
        }
        if self.explicit {
            self.register();
        }
        Ok(dir)
    }

    pub(super) fn already_exists(&self, id: &ContainerId) -> Error {
        let state = State::load(&self.dir(id)).ok();
        if state.as_ref().is_some_and(State::is_half_restored) {
            let message = format!(
                "container with given ID already exists, and its restore was killed before its processes ran: {id}"
            );
            return Error::new(ErrorKind::AlreadyExists, message)
                .with_hint(State::half_restored_remedy(id.as_str()));
        }
        let held = state.and_then(|state| state.ownership.refusal(id.as_str()));
        if let Some(held) = held {
            let message = format!("container with given ID already exists: {id}");
            return Error::new(ErrorKind::AlreadyExists, message).with_source(held);
        }
        Error::new(ErrorKind::AlreadyExists, format!("container with given ID already exists: {id}"))
            .with_hint(format!("take another id, or remove that one with `migrate delete {id}`"))
    }

    fn has(&self, id: &ContainerId) -> bool {
        self.dir(id).is_dir()
    }

    /// Leaves this root's path where [`StateRoot::load`] looks. Being found without `--root` is a convenience: a
    /// failure is no reason to refuse the container.
    fn register(&self) {
        let Some((links, link)) = self.link() else { return };
        if link.symlink_metadata().is_ok() {
            return;
        }
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&links)
            .and_then(|()| symlink(&self.path, &link));
        if let Err(error) = made {
            tracing::debug!(root = %self.path.display(), %error, "state root not registered");
        }
    }

    /// Removes a container's directory, and the way to this root when that was the last one. The container is there or
    /// gone at each moment: what a command that was killed has left of the directory has a name that no container has,
    /// and goes with the next removal.
    pub(super) fn release(&self, dir: &Path, owns_bundle: bool) -> Result<()> {
        let left = remove_container_dir(dir, &self.path, owns_bundle);
        remove_remnants(&self.path);
        left?;
        self.unregister_if_empty();
        Ok(())
    }

    fn unregister_if_empty(&self) {
        let is_empty = || self.ids().is_ok_and(|ids| ids.is_empty());
        let Some((links, link)) = self.link() else { return };
        if !is_empty() {
            return;
        }
        // Both fail when there is nothing to remove, or when other roots are still registered.
        drop(fs::remove_file(&link));
        drop(fs::remove_dir(&links));
        if !is_empty() {
            // A container was made meanwhile, whose command still saw the link.
            self.register();
        }
    }

    /// The directory of links, and this root's link in it; `None` for the default root, which needs none.
    fn link(&self) -> Option<(PathBuf, PathBuf)> {
        let default = Self::default_root();
        if default.path == self.path {
            return None;
        }
        let links = default.path.join(OTHER_ROOTS);
        let name: String = self.path.as_os_str().as_bytes().iter().map(|b| format!("{b:02x}")).collect();
        let name =
            if name.len() <= 255 { name } else { format!("{:x}", fnv(self.path.as_os_str().as_bytes())) };
        let link = links.join(name);
        Some((links, link))
    }

    fn others(&self) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(self.path.join(OTHER_ROOTS)) else { return Vec::new() };
        let mut roots = Vec::new();
        for link in entries.filter_map(|entry| entry.ok().map(|e| e.path())) {
            match fs::read_link(&link) {
                Ok(path) if path.is_dir() => {
                    roots.push(Self { path, explicit: true, ..self.clone() });
                }
                // A root that is gone needs no link. If it cannot be removed, the next search meets it again.
                _ => drop(fs::remove_file(&link)),
            }
        }
        roots
    }
}

/// The caller's runtime directory, told or by custom. Who acts as root has none by custom.
fn runtime_directory() -> Option<PathBuf> {
    let told =
        std::env::var_os("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty()).map(PathBuf::from);
    let user = nix::unistd::geteuid();
    told.or_else(|| (!user.is_root()).then(|| format!("/run/user/{user}").into()))
}

/// A name for a path that is too long to be one (Fowler–Noll–Vo, 64 bits).
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

fn is_empty_directory(path: &Path) -> bool {
    let is_directory = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    is_directory && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}
