// SPDX-License-Identifier: Apache-2.0
//! Everything about the root filesystem that can be decided before the container's first process exists.
//!
//! Pure: configuration in, [`RootfsPlan`] out; each error names the field of `config.json`. The plan travels as
//! JSON to the re-executed init, which only carries it out. Must not touch the filesystem.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use crate::spec::oci::{Linux, LinuxNamespaceType, Mount, Root, Spec};
use serde::{Deserialize, Serialize};

use super::devices::{self, DevicePlan};
use super::id_map::IdMap;
use super::options::{self, MountOptions, Propagation, PropagationKind};
use crate::{Error, ErrorKind, Result};

/// What the plan depends on besides the configuration.
#[derive(Debug, Clone, Default)]
pub struct PlanContext {
    /// What a mount of type `cgroup` shows.
    pub cgroups: CgroupLayout,
    /// Enter the root filesystem with `MS_MOVE` and chroot(2) instead of pivot_root(2) (`--no-pivot`: for a root
    /// filesystem on initramfs).
    pub no_pivot: bool,
    /// Whether the kernel enforces SELinux's rules, so that `linux.mountLabel` means something.
    pub selinux: bool,
    /// Whether the caller is not root: ids of mounts can then not be mapped.
    pub rootless: bool,
}

/// The host's cgroup hierarchies, as a mount of type `cgroup` needs to know them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CgroupLayout {
    /// Version 1 hierarchies, one directory each.
    V1(Vec<CgroupBind>),
    /// The unified hierarchy.
    V2 {
        /// Where the host mounts it, usually `/sys/fs/cgroup`.
        host_mount: PathBuf,
        /// The container's own cgroup directory below `host_mount`.
        host_path: PathBuf,
    },
}

impl Default for CgroupLayout {
    /// No hierarchies at all.
    fn default() -> Self {
        CgroupLayout::V1(Vec::new())
    }
}

/// One version 1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CgroupBind {
    /// Directory name below the mount's destination: the base name of the host's mount point, such as
    /// `cpu,cpuacct`.
    pub name: String,
    /// The container's own cgroup directory on the host.
    pub host_path: PathBuf,
    /// Options that select this hierarchy when it is mounted anew, such as `cpu,cpuacct` or `name=systemd`.
    pub fs_data: String,
    /// Further names for it, made as symbolic links, such as `cpu` and `cpuacct`.
    pub symlinks: Vec<String>,
}

/// How the container's init enters the root filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Entry {
    /// pivot_root(2), and the old root is detached.
    PivotRoot,
    /// The root filesystem is moved over `/`.
    MoveMount,
    /// chroot(2) alone: there is no mount namespace, and what is mounted is mounted on the host.
    Chroot,
}

/// The container's root filesystem, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RootfsPlan {
    /// Absolute host path of the root filesystem, without symbolic links.
    pub rootfs: PathBuf,
    /// How init enters it.
    pub entry: Entry,
    /// `linux.rootfsPropagation`.
    pub propagation: Propagation,
    /// Whether `/` becomes read-only.
    pub readonly_root: bool,
    /// Mounts, in the order of the configuration.
    pub mounts: Vec<MountPlan>,
    /// Device nodes, and the links beside them; `None` if `/dev` is a bind mount.
    pub devices: Option<Vec<DevicePlan>>,
    /// Bind mount the host's device nodes instead of making new ones: there is a user namespace.
    pub bind_devices: bool,
    /// The container's working directory, made if it is missing.
    pub cwd: Option<PathBuf>,
    /// Paths to make read-only, without duplicates.
    pub readonly_paths: Vec<PathBuf>,
    /// Paths to hide, without duplicates.
    pub masked_paths: Vec<PathBuf>,
    /// `linux.mountLabel`: SELinux's label for what is mounted anew.
    pub mount_label: Option<String>,
}

/// One entry of `mounts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MountPlan {
    /// Position in `mounts`, for errors.
    pub index: usize,
    /// Absolute, and free of `.` and `..`.
    pub destination: PathBuf,
    /// What is mounted.
    pub kind: MountKind,
    /// How.
    pub options: MountOptions,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MountKind {
    /// A file or directory of the host.
    Bind {
        /// Absolute host path.
        source: PathBuf,
        /// Whether the mounts below it come along.
        recursive: bool,
        /// How the owners of its files are seen.
        id_map: Option<IdMap>,
    },
    /// A new filesystem, or one that the kernel shares.
    Filesystem {
        /// Type, such as `tmpfs`.
        fstype: String,
        /// Device, or a word that appears in mountinfo; may be empty.
        source: String,
    },
    /// The container's own cgroups.
    Cgroup {
        /// What there is.
        layout: CgroupLayout,
        /// Whether init is in a cgroup namespace of its own.
        namespace: bool,
    },
}

impl MountPlan {
    /// What an error calls this mount's field.
    pub fn field(&self, name: &str) -> String {
        format!("mounts[{}].{name}", self.index)
    }

    /// Whether this mounts a new tmpfs.
    pub fn is_tmpfs(&self) -> bool {
        matches!(&self.kind, MountKind::Filesystem { fstype, .. } if fstype == "tmpfs")
    }

    /// Whether it is a bind mount whose files' owners are mapped.
    pub fn is_id_mapped(&self) -> bool {
        matches!(&self.kind, MountKind::Bind { id_map: Some(_), .. })
    }
}

impl RootfsPlan {
    /// Decides everything from the configuration. `bundle` and `rootfs` are absolute; `rootfs` is `root.path`
    /// without symbolic links.
    ///
    /// # Errors
    /// `InvalidConfig` or `Unsupported`, naming the field.
    pub fn from_spec(spec: &Spec, bundle: &Path, rootfs: &Path, context: &PlanContext) -> Result<Self> {
        let linux = spec.linux().as_ref();
        let has = |kind| {
            linux
                .and_then(|linux| linux.namespaces().as_ref())
                .is_some_and(|namespaces| namespaces.iter().any(|namespace| namespace.typ() == kind))
        };
        let rootfs = absolute("root.path", rootfs)?;
        let entry = match (has(LinuxNamespaceType::Mount), context.no_pivot) {
            (false, _) => Entry::Chroot,
            (true, false) => Entry::PivotRoot,
            (true, true) => Entry::MoveMount,
        };
        let entries = Entries {
            bundle,
            rootfs: &rootfs,
            linux,
            context,
            cgroup_namespace: has(LinuxNamespaceType::Cgroup),
        };
        let mounts = spec
            .mounts()
            .iter()
            .flatten()
            .enumerate()
            .map(|(index, mount)| entries.plan(index, mount))
            .collect::<Result<Vec<_>>>()?;
        let configured = linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
        let devices = if wants_devices(&mounts) { Some(devices::plan(configured)?) } else { None };
        let propagation = linux.and_then(|linux| linux.rootfs_propagation().as_deref());
        if entry == Entry::Chroot && propagation.is_some_and(|word| !word.is_empty()) {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                "linux.rootfsPropagation: unable to set rootfs propagation without a private MNT namespace",
            ));
        }
        let plan = Self {
            mount_label: mount_label(linux, context.selinux)?,
            rootfs: rootfs.clone(),
            entry,
            propagation: root_propagation(propagation)?,
            readonly_root: spec.root().as_ref().and_then(Root::readonly).unwrap_or(false),
            mounts,
            devices,
            bind_devices: has(LinuxNamespaceType::User),
            cwd: spec.process().as_ref().map(|process| clean(process.cwd())),
            readonly_paths: paths(
                "linux.readonlyPaths",
                linux.and_then(|linux| linux.readonly_paths().as_deref()),
            )?,
            masked_paths: paths(
                "linux.maskedPaths",
                linux.and_then(|linux| linux.masked_paths().as_deref()),
            )?,
        };
        plan.require_mount_namespace()?;
        Ok(plan)
    }

    /// What mounts of type `cgroup` show, if that is not what was planned.
    pub fn set_cgroups(&mut self, cgroups: &CgroupLayout) {
        for mount in &mut self.mounts {
            if let MountKind::Cgroup { layout, .. } = &mut mount.kind {
                layout.clone_from(cgroups);
            }
        }
    }

    /// Without a mount namespace a path would be hidden from the host as well.
    fn require_mount_namespace(&self) -> Result<()> {
        if self.entry != Entry::Chroot {
            return Ok(());
        }
        let wanted = [
            ("linux.maskedPaths", !self.masked_paths.is_empty()),
            ("linux.readonlyPaths", !self.readonly_paths.is_empty()),
        ];
        match wanted.iter().find(|(_, is_set)| *is_set) {
            None => Ok(()),
            Some((field, _)) => Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("{field}: unable to restrict sys entries without a private MNT namespace"),
            )),
        }
    }
}

/// What the plan of one entry of `mounts` depends on besides the entry.
struct Entries<'a> {
    bundle: &'a Path,
    rootfs: &'a Path,
    linux: Option<&'a Linux>,
    context: &'a PlanContext,
    cgroup_namespace: bool,
}

impl Entries<'_> {
    fn plan(&self, index: usize, mount: &Mount) -> Result<MountPlan> {
        let field = |name: &str| format!("mounts[{index}].{name}");
        let words = mount.options().as_deref().unwrap_or_default();
        let mut options = options::parse(words, &field("options"))?;
        let typ = mount.typ().as_deref().unwrap_or_default();
        let source = mount.source().as_deref().unwrap_or(Path::new(""));
        let id_map = IdMap::of(mount, options.id_map, self.linux);
        let kind = if options.set & libc::MS_BIND != 0 || typ == "bind" {
            self.plan_bind(source, &options, id_map, &field)?
        } else if id_map.is_some() {
            let message =
                format!("{}: id-mapped mounts are only supported for bind-mounts", field("uidMappings"));
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        } else if typ == "cgroup" {
            MountKind::Cgroup { layout: self.context.cgroups.clone(), namespace: self.cgroup_namespace }
        } else if typ.is_empty() {
            return Err(Error::new(ErrorKind::InvalidConfig, format!("{} is missing", field("type"))));
        } else {
            let source = source.to_str().filter(|source| !source.contains('\0')).ok_or_else(|| {
                Error::new(ErrorKind::InvalidConfig, format!("{} is not valid text", field("source")))
            })?;
            MountKind::Filesystem { fstype: typ.to_owned(), source: source.to_owned() }
        };
        options.set &= !(libc::MS_BIND | libc::MS_REC);
        if options.set & libc::MS_REMOUNT != 0 && !matches!(kind, MountKind::Filesystem { .. }) {
            options.set &= !libc::MS_REMOUNT;
        }
        let destination = destination(mount.destination(), self.rootfs, &field)?;
        Ok(MountPlan { index, destination, kind, options })
    }

    fn plan_bind(
        &self,
        source: &Path,
        options: &MountOptions,
        id_map: Option<IdMap>,
        field: &impl Fn(&str) -> String,
    ) -> Result<MountKind> {
        let refuse = |name: &str, why: &str| {
            Err(Error::new(ErrorKind::InvalidConfig, format!("{}{why}", field(name))))
        };
        if source.as_os_str().is_empty() {
            return refuse("source", " is missing: a bind mount needs one");
        }
        let (tmpfs, others): (Vec<&str>, Vec<&str>) =
            options.data.iter().map(String::as_str).partition(|word| is_of_tmpfs(word));
        if !others.is_empty() {
            let why = format!(
                ": bind mounts cannot have any filesystem-specific options applied, but there is {}",
                others.join(",")
            );
            return refuse("options", &why);
        }
        if !tmpfs.is_empty() {
            tracing::warn!(field = %field("options"), options = tmpfs.join(","), "no option of a bind mount: ignored");
        }
        if let Some(map) = &id_map {
            if self.context.rootless {
                return refuse("uidMappings", ": id-mapped mounts are not supported for rootless containers");
            }
            map.check(&field("uidMappings"))?;
        }
        // `rbind` sets the bit; the type `bind` alone means one mount.
        let recursive = options.set & libc::MS_REC != 0;
        Ok(MountKind::Bind { source: self.bundle.join(source), recursive, id_map })
    }
}

/// Whether it is an option of tmpfs(5) about the size, the owner or the mode. Configurations are made with one list of
/// options for all mounts, and runtimes have always passed these over at bind mounts, as the kernel does.
fn is_of_tmpfs(option: &str) -> bool {
    let name = option.split_once('=').map(|(name, _)| name);
    name.is_some_and(|name| ["size", "nr_blocks", "nr_inodes", "mode", "uid", "gid", "mpol"].contains(&name))
}

/// The path in the container. One that begins with the root filesystem's own path on the host is meant from there, as
/// it is for libcontainer.
fn destination(path: &Path, rootfs: &Path, field: &impl Fn(&str) -> String) -> Result<PathBuf> {
    let name = field("destination");
    if path.as_os_str().is_empty() || path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(Error::new(ErrorKind::InvalidConfig, format!("{name} is empty or holds a NUL byte")));
    }
    if !path.is_absolute() {
        tracing::warn!(field = %name, destination = %path.display(), "relative destination taken from the root");
    }
    let cleaned = clean(path);
    let cleaned = match cleaned.strip_prefix(rootfs) {
        Ok(inside) => Path::new("/").join(inside),
        Err(_) => cleaned,
    };
    if cleaned == Path::new("/") {
        let message = format!("{name}: mountpoint {} is on the top of rootfs", path.display());
        return Err(Error::new(ErrorKind::InvalidConfig, message));
    }
    Ok(cleaned)
}

/// A label that nobody enforces would be a protection that is not there.
fn mount_label(linux: Option<&Linux>, selinux: bool) -> Result<Option<String>> {
    let label = linux.and_then(|linux| linux.mount_label().clone()).filter(|label| !label.is_empty());
    match label {
        Some(label) if label.contains(['\0', '"', '\\']) => {
            let message = format!("linux.mountLabel: {label:?} is no label");
            Err(Error::new(ErrorKind::InvalidConfig, message))
        }
        Some(_) if !selinux => {
            let message = "linux.mountLabel: selinux label is specified in config, but selinux is disabled or not supported";
            Err(Error::new(ErrorKind::InvalidConfig, message))
        }
        label => Ok(label),
    }
}

fn root_propagation(word: Option<&str>) -> Result<Propagation> {
    match word {
        None | Some("") => Ok(Propagation { kind: PropagationKind::Slave, recursive: true }),
        Some(word) => Propagation::from_word(word).ok_or_else(|| {
            let message = format!("linux.rootfsPropagation: rootfsPropagation={word} is not supported");
            Error::new(ErrorKind::InvalidConfig, message)
        }),
    }
}

/// Nodes go into the container's `/dev` unless that is somebody else's directory.
fn wants_devices(mounts: &[MountPlan]) -> bool {
    let is_bound = |mount: &MountPlan| {
        mount.destination == Path::new("/dev") && matches!(mount.kind, MountKind::Bind { .. })
    };
    !mounts.iter().any(is_bound)
}

fn paths(field: &str, listed: Option<&[String]>) -> Result<Vec<PathBuf>> {
    let mut seen = HashSet::new();
    let mut kept = Vec::new();
    for (index, path) in listed.unwrap_or_default().iter().enumerate() {
        let path = absolute(&format!("{field}[{index}]"), Path::new(path))?;
        if seen.insert(path.clone()) {
            kept.push(path);
        }
    }
    Ok(kept)
}

pub(super) fn absolute(field: &str, path: &Path) -> Result<PathBuf> {
    if !path.is_absolute() || path.as_os_str().as_encoded_bytes().contains(&0) {
        let message = format!("{field}: {:?} is not an absolute path", path.display().to_string());
        return Err(Error::new(ErrorKind::InvalidConfig, message));
    }
    Ok(clean(path))
}

/// The path from `/`, with `.` and `..` taken out by name, as `realpath -sm` does.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    cleaned
}

#[cfg(test)]
mod tests;
