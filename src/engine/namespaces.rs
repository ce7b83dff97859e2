// SPDX-License-Identifier: Apache-2.0
//! The namespaces of a configuration, as clone flags and files to join. Pure but for [`Namespaces::open`].

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;

use crate::spec::oci::{LinuxNamespaceType, Spec};
use crate::spec::parameter_namespace;
use crate::sys::spawn::CLONE_NEWTIME;
use crate::{Context, Error, ErrorKind, Result, sys};

/// The kinds: flag, name under `/proc/PID/ns`, type in the configuration.
const KINDS: [(CloneFlags, &str, LinuxNamespaceType); 8] = [
    (CloneFlags::CLONE_NEWUSER, "user", LinuxNamespaceType::User),
    (CLONE_NEWTIME, "time", LinuxNamespaceType::Time),
    (CloneFlags::CLONE_NEWPID, "pid", LinuxNamespaceType::Pid),
    (CloneFlags::CLONE_NEWNET, "net", LinuxNamespaceType::Network),
    (CloneFlags::CLONE_NEWIPC, "ipc", LinuxNamespaceType::Ipc),
    (CloneFlags::CLONE_NEWUTS, "uts", LinuxNamespaceType::Uts),
    (CloneFlags::CLONE_NEWCGROUP, "cgroup", LinuxNamespaceType::Cgroup),
    (CloneFlags::CLONE_NEWNS, "mnt", LinuxNamespaceType::Mount),
];

/// What the configuration says of each kind: nothing, a new one, or the one at a path.
#[derive(Debug, Clone)]
pub struct Namespaces(Vec<(CloneFlags, &'static str, Option<PathBuf>)>);

impl Namespaces {
    /// The namespaces of a configuration.
    pub fn from_spec(spec: &Spec) -> Self {
        let list = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
        let find = |typ: LinuxNamespaceType| list.into_iter().flatten().find(|n| n.typ() == typ);
        Self(
            KINDS
                .into_iter()
                .filter_map(|(flag, name, typ)| {
                    let path = find(typ)?.path().clone().filter(|p| !p.as_os_str().is_empty());
                    Some((flag, name, path))
                })
                .collect(),
        )
    }

    /// Whether the container has a new namespace of this kind.
    pub fn creates(&self, kind: CloneFlags) -> bool {
        self.0.iter().any(|(flag, _, path)| *flag == kind && path.is_none())
    }

    /// The path of the namespace of this kind that the container joins.
    pub fn path(&self, kind: CloneFlags) -> Option<&Path> {
        self.0.iter().find(|(flag, _, _)| *flag == kind).and_then(|(_, _, path)| path.as_deref())
    }

    /// Makes sure that the kernel knows all the kinds: the call that makes one would only say `EINVAL`.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`], naming the kind.
    pub(super) fn require_kernel(&self) -> Result<()> {
        for (_, name, _) in &self.0 {
            if !Path::new("/proc/self/ns").join(name).exists() {
                let message = format!("{name} namespaces aren't enabled in the kernel");
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        }
        Ok(())
    }

    /// The path of the namespace of this kind, if that is the one that this process is in.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub(super) fn joins_ours(&self, kind: CloneFlags) -> Result<Option<&Path>> {
        let (Some(path), Some(name)) = (self.path(kind), name_of(kind)) else { return Ok(None) };
        let own = Path::new("/proc/thread-self/ns").join(name);
        let of = |path: &Path| {
            let found = std::fs::metadata(path).context(|| format!("stat {}", path.display()))?;
            Ok::<_, Error>((found.dev(), found.ino()))
        };
        Ok((of(path)? == of(&own)?).then_some(path))
    }

    /// Refuses kernel parameters that would be the host's: those of a namespace by path that is the host's.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`], naming the parameter; or a namespace cannot be looked at.
    pub(super) fn check_parameters(&self, spec: &Spec) -> Result<()> {
        let parameters = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
        for name in parameters.into_iter().flatten().map(|(name, _)| name) {
            let kind = KINDS.iter().find(|(_, _, typ)| Some(*typ) == parameter_namespace(name));
            let Some((flag, short, _)) = kind else { continue };
            if let Some(path) = self.joins_ours(*flag)? {
                let kind = if *short == "net" { "network" } else { short };
                let message = format!(
                    "invalid configuration: field `linux.sysctl[{name}]` would change the host: sysctl {name:?} not \
                     allowed in host {kind} namespace, which {} is",
                    path.display()
                );
                return Err(Error::new(ErrorKind::InvalidConfig, message));
            }
        }
        Ok(())
    }

    /// Where the user namespace is, if there is one: `Some(None)` for a new one.
    pub(super) fn user(&self) -> Option<Option<PathBuf>> {
        let is_user = |(flag, _, _): &&(CloneFlags, _, _)| *flag == CloneFlags::CLONE_NEWUSER;
        self.0.iter().find(is_user).map(|(_, _, path)| path.clone())
    }

    /// The names under `/proc/PID/ns` of all kinds that the configuration lists.
    pub fn types(&self) -> Vec<&'static str> {
        self.0.iter().map(|(_, name, _)| *name).collect()
    }

    /// The network and pid namespaces by path, which a checkpoint leaves to their owner: the name under
    /// `/proc/PID/ns`, the key in the images (runc's), the path.
    pub fn external(&self) -> Vec<(&'static str, &'static str, &Path)> {
        [(CloneFlags::CLONE_NEWNET, "net", "extRootNetNS"), (CloneFlags::CLONE_NEWPID, "pid", "extRootPidNS")]
            .into_iter()
            .filter_map(|(kind, name, key)| Some((name, key, self.path(kind)?)))
            .collect()
    }

    /// The other namespaces by path that a checkpoint leaves alone: CRIU works in them itself. The kind, the name under
    /// `/proc/PID/ns`, the path.
    pub fn around_criu(&self) -> Vec<(CloneFlags, &'static str, &Path)> {
        [(CloneFlags::CLONE_NEWIPC, "ipc"), (CloneFlags::CLONE_NEWUTS, "uts"), (CLONE_NEWTIME, "time")]
            .into_iter()
            .filter_map(|(kind, name)| Some((kind, name, self.path(kind)?)))
            .collect()
    }

    /// The kinds that the clone makes. A cgroup namespace is not among them: it is made when the cgroup is joined.
    pub(super) fn clone_flags(&self) -> CloneFlags {
        let mut flags = CloneFlags::empty();
        for (flag, _, path) in &self.0 {
            if path.is_none() && *flag != CloneFlags::CLONE_NEWCGROUP {
                flags |= *flag;
            }
        }
        flags
    }

    /// The kind that is made in the cgroup.
    pub(super) fn unshare_flags(&self) -> CloneFlags {
        if self.creates(CloneFlags::CLONE_NEWCGROUP) {
            CloneFlags::CLONE_NEWCGROUP
        } else {
            CloneFlags::empty()
        }
    }

    /// Opens the mount namespace that the container joins. Its own root file system becomes the root there, for every
    /// process that had the old one: that must not be the host's.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for something else than a mount namespace, and for the one of this process.
    pub(super) fn open_mount(&self) -> Result<Option<File>> {
        let Some(path) = self.path(CloneFlags::CLONE_NEWNS) else { return Ok(None) };
        let file = open("mnt", path)?;
        let own = fs::metadata("/proc/self/ns/mnt").context(|| "stat /proc/self/ns/mnt")?;
        let given = file.metadata().context(|| format!("stat {}", path.display()))?;
        if (given.dev(), given.ino()) == (own.dev(), own.ino()) {
            let message =
                format!("linux.namespaces: {} is the mount namespace of the runtime itself", path.display());
            return Err(Error::new(ErrorKind::InvalidConfig, message)
                .with_hint("leave the entry out for a container without a mount namespace of its own"));
        }
        Ok(Some(file))
    }

    /// Opens what is to be joined before the clone; the mount namespace is init's to join.
    pub(super) fn open(&self) -> Result<Vec<(File, CloneFlags)>> {
        let mut opened = Vec::new();
        for (flag, name, path) in &self.0 {
            let Some(path) = path else { continue };
            if *flag != CloneFlags::CLONE_NEWNS {
                opened.push((open(name, path)?, *flag));
            }
        }
        Ok(opened)
    }
}

/// The flag of a namespace by its name under `/proc/PID/ns`.
pub(super) fn flag_of(name: &str) -> Option<CloneFlags> {
    KINDS.iter().find(|(_, n, _)| *n == name).map(|(flag, _, _)| *flag)
}

/// The name under `/proc/PID/ns` of the kind.
pub(super) fn name_of(flag: CloneFlags) -> Option<&'static str> {
    KINDS.iter().find(|(f, _, _)| *f == flag).map(|(_, name, _)| *name)
}

/// Opens a namespace's file, and makes sure that it is one of this kind.
pub(super) fn open(name: &str, path: &Path) -> Result<File> {
    let attempt = || format!("open the {name} namespace {}", path.display());
    let wrong = |what: &str| {
        Error::new(ErrorKind::InvalidConfig, format!("{} is {what}, no {name} namespace", path.display()))
    };
    let file = File::open(path).context(attempt)?;
    match sys::namespace::kind(file.as_fd()) {
        Ok(kind) if Some(kind) == flag_of(name) => Ok(file),
        Ok(kind) => Err(wrong(&format!("of the kind `{}`", name_of(kind).unwrap_or("?")))).context(attempt),
        Err(e) if e.raw_os_error() == Some(libc::ENOTTY) => Err(wrong("something else")).context(attempt),
        Err(e) => Err(e).context(attempt),
    }
}

/// `net.ipv4.ip_forward` and `net/ipv4/ip_forward` as a path below `/proc/sys` (sysctl(8): the first separator found
/// decides which spelling it is).
pub(super) fn sysctl_path(name: &str) -> String {
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'.') => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(list: &serde_json::Value) -> Namespaces {
        let json = json!({"ociVersion": "1.0.2", "linux": {"namespaces": list}});
        Namespaces::from_spec(&serde_json::from_value(json).expect("a valid configuration"))
    }

    #[test]
    fn a_path_is_joined_and_its_absence_makes_a_new_one() {
        let namespaces = of(&json!([
            {"type": "cgroup"}, {"type": "mount"}, {"type": "network", "path": "/proc/self/ns/net"}, {"type": "pid", "path": ""}
        ]));
        assert_eq!(namespaces.clone_flags(), CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID);
        assert!(namespaces.creates(CloneFlags::CLONE_NEWCGROUP));
        assert!(!namespaces.creates(CloneFlags::CLONE_NEWNET));
        assert_eq!(namespaces.path(CloneFlags::CLONE_NEWNET), Some(Path::new("/proc/self/ns/net")));
        assert_eq!(namespaces.types(), ["pid", "net", "cgroup", "mnt"]);
        assert_eq!(namespaces.open().expect("it exists").len(), 1);
    }

    #[test]
    fn a_file_of_another_kind_is_named() {
        let error = open("net", Path::new("/proc/self/ns/ipc")).expect_err("another kind");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(
            error.chain().contains("/proc/self/ns/ipc is of the kind `ipc`, no net namespace"),
            "{}",
            error.chain()
        );
        let error = open("user", Path::new("/dev/null")).expect_err("no namespace");
        assert!(
            error.chain().contains("/dev/null is something else, no user namespace"),
            "{}",
            error.chain()
        );
        open("time", Path::new("/proc/self/ns/time")).expect("a time namespace");
    }

    #[test]
    fn parameters_of_the_hosts_are_refused_also_by_path() {
        let judge = |kind: &str, path: &str, name: &str| {
            let linux = json!({"namespaces": [{"type": kind, "path": path}], "sysctl": {name: "1"}});
            let spec = serde_json::from_value(json!({"ociVersion": "1.0.2", "linux": linux}));
            let spec: Spec = spec.expect("a valid configuration");
            Namespaces::from_spec(&spec).check_parameters(&spec)
        };
        for (kind, file, name) in [
            ("network", "net", "net.ipv4.ip_forward"),
            ("network", "net", "net/ipv4/ip_forward"),
            ("ipc", "ipc", "fs.mqueue.msg_max"),
            ("uts", "uts", "kernel.domainname"),
        ] {
            let error = judge(kind, &format!("/proc/self/ns/{file}"), name).expect_err(name);
            let words = [format!("`linux.sysctl[{name}]`"), format!("not allowed in host {kind} namespace")];
            assert!(words.iter().all(|words| error.to_string().contains(words)), "{error}");
        }
        judge("ipc", "/proc/self/ns/ipc", "net.ipv4.ip_forward").expect("of another kind");
        // Any file that is not this process's namespace.
        judge("network", "/dev/null", "net.ipv4.ip_forward").expect("another's");
        judge("network", "/nothing", "net.ipv4.ip_forward").expect_err("it cannot be looked at");
    }

    #[test]
    fn parameters_are_paths() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(sysctl_path("net/ipv4/conf/eth0.1/forwarding"), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/1.forwarding"), "net/ipv4/conf/eth0.1/forwarding");
    }
}
