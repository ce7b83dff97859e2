// SPDX-License-Identifier: Apache-2.0
//! What is asked of CRIU, typed, and its translation into CRIU's own options. Pure; knows no container.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use protobuf::MessageField;
use rust_criu::rust_criu_protobuf::rpc::{
    Cgroup_root, Criu_cg_mode, Criu_network_lock_method, Criu_opts, Criu_page_server_info, Ext_mount_map,
    Inherit_fd, Join_namespace,
};

use super::Version;
use crate::{Error, ErrorKind, Result};

/// What CRIU does with cgroups (`--manage-cgroups`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ManageCgroups {
    /// Nothing: restored tasks stay in the cgroups that CRIU itself is in.
    Ignore,
    /// Cgroups that exist already; no properties.
    None,
    /// Properties of cgroups that exist already.
    Properties,
    /// Cgroups that are missing are made; properties only of those.
    #[default]
    Soft,
    /// Everything, also where a cgroup exists.
    Full,
    /// Everything, and nothing may exist.
    Strict,
}

/// How CRIU keeps packets away while TCP sockets are taken apart or put together. The choice at the dump is stored in
/// the images and decides for the restore as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum NetworkLock {
    /// Whatever this CRIU was built for: `iptables-restore`, in most.
    #[default]
    Default,
    /// `iptables-restore` and `ip6tables-restore`: slow.
    Iptables,
    /// A table of nftables.
    Nftables,
    /// None (CRIU 3.19): for a network namespace that nobody else can reach or that dies with its tasks.
    Skip,
}

/// What happens to established TCP connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum TcpConnections {
    /// They make the operation fail.
    #[default]
    Refuse,
    /// They are taken along (`--tcp-established`).
    Keep,
    /// They come back closed (`--tcp-close`).
    Close,
}

/// The state of the dumped tasks after a dump that succeeded. After one that failed they run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum AfterDump {
    /// Killed.
    #[default]
    Kill,
    /// Running.
    Run,
    /// Stopped as by `SIGSTOP`.
    Stop,
}

/// Whose child the first restored process becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RestoredParent {
    /// Ours: it is to be waited for here (`rst_sibling`).
    #[default]
    Caller,
    /// CRIU's, and after CRIU's end that of the nearest subreaper.
    Criu,
}

/// A mount that CRIU does not dump or make itself (`ext_mnt`). On dump, `key` is the mountpoint inside and
/// `value` the name to store; on restore, `key` is the stored name and `value` the path here to bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalMount {
    /// See above.
    pub key: String,
    /// See above.
    pub value: String,
}

impl ExternalMount {
    /// One in the spelling of CRIU's `--external`, `mnt[KEY]:VALUE`; `None` for every other object.
    pub fn parse(object: &str) -> Option<Self> {
        let (key, value) = object.strip_prefix("mnt[")?.split_once("]:")?;
        (!key.is_empty()).then(|| Self { key: key.to_owned(), value: value.to_owned() })
    }
}

/// A cgroup to restore into (`cg_root`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupRoot {
    /// The controllers of the hierarchy as `/proc/PID/cgroup` names them; empty for cgroup v2.
    pub controllers: String,
    /// The path in the hierarchy.
    pub path: PathBuf,
}

/// A namespace to join instead of making one (`join_ns`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinNamespace {
    /// Its kind: `net`, `uts`, `time`, `ipc`, `mnt` or `user`.
    pub kind: String,
    /// A file of it, or the id of a process in it.
    pub file: PathBuf,
}

/// A descriptor as CRIU numbers it: a standard stream of it, or what
/// [`SpawnOptions::inherit`](super::SpawnOptions::inherit) gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InheritedFd(pub(super) RawFd);

impl InheritedFd {
    /// CRIU's standard input.
    pub const STDIN: Self = Self(0);
    /// CRIU's standard output.
    pub const STDOUT: Self = Self(1);
    /// CRIU's standard error.
    pub const STDERR: Self = Self(2);

    /// Where CRIU opens it by a path.
    pub fn path(self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0))
    }
}

/// A ready-made descriptor for something that the images name (`inherit_fd`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InheritFd {
    /// The name: `pipe:[4711]`, `file[f7:ea407]`, `tty[8800:1a]`, `socket:[4712]`, or an own one such as `extRootNetNS`.
    pub key: String,
    /// The descriptor.
    pub fd: InheritedFd,
}

/// What dump and restore have in common. The switches are named as CRIU's.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options<'a> {
    /// The directory of the images.
    pub images_dir: BorrowedFd<'a>,
    /// The directory of log and statistics; `None`: the images'.
    pub work_dir: Option<BorrowedFd<'a>>,
    /// The log's name in it, without a slash.
    pub log_file: String,
    /// 0 (silent) to 4 (everything); at 4 CRIU still spends next to nothing on it.
    pub log_level: i32,
    /// Dump: the root of the tasks. Restore: a mount point that becomes it.
    pub root: Option<PathBuf>,
    /// External mounts.
    pub external_mounts: Vec<ExternalMount>,
    /// Other external objects: `net[INO]:KEY`, `file[MNT:INO]`, `veth[IN]:OUT`, …
    pub external: Vec<String>,
    /// What happens to cgroups.
    pub manage_cgroups: ManageCgroups,
    /// How the network is locked.
    pub network_lock: NetworkLock,
    /// What happens to established connections.
    pub tcp: TcpConnections,
    /// Tasks may belong to a session or terminal outside.
    pub shell_job: bool,
    /// The other end of a unix socket may be outside.
    pub ext_unix_sk: bool,
    /// Take file locks along.
    pub file_locks: bool,
    /// Open devices by any path that leads to them.
    pub evasive_devices: bool,
    /// Neither dump nor restore what is in the network namespace: it comes back empty, `lo` down.
    pub empty_netns: bool,
    /// Terminals whose master is outside are fine.
    pub orphan_pts_master: bool,
    /// Punch pages out of parent images (dump) or of read images (restore).
    pub auto_dedup: bool,
    /// A file of CRIU options that override all of these; a missing one is ignored by CRIU.
    pub config_file: Option<PathBuf>,
    /// The mount context of a security module for restored tmpfs mounts.
    pub lsm_mount_context: Option<String>,
    /// How long seizing the tasks (dump) or restoring may take; `None`: CRIU's default of 10 s.
    pub timeout: Option<Duration>,
    /// The processor features to compare (`--cpu-cap`), as CRIU's bit mask.
    pub cpu_cap: Option<u32>,
}

/// Where a page server is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PageServer {
    /// On the other end of this socket.
    Socket(InheritedFd),
    /// It listens there.
    Address {
        /// A name or an address.
        address: String,
        /// The port.
        port: u16,
    },
}

/// A dump of a process tree.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DumpRequest<'a> {
    /// The first process, by its id here.
    pub pid: i32,
    /// What is common with a restore.
    pub options: Options<'a>,
    /// The tasks' state afterwards.
    pub after: AfterDump,
    /// The freezer cgroup's directory: CRIU freezes it to stop the tasks. A frozen one must be named here.
    pub freeze_cgroup: Option<PathBuf>,
    /// Leave out connections that are still being set up.
    pub tcp_skip_in_flight: bool,
    /// Link unlinked open files back into their directory.
    pub link_remap: bool,
    /// The largest unlinked file to copy into the images, in bytes; `None`: CRIU's default of 1 MiB.
    pub ghost_limit: Option<u32>,
    /// Earlier images to leave out what they hold, relative to the images' directory.
    pub parent_images: Option<PathBuf>,
    /// Start to track memory changes.
    pub track_memory: bool,
    /// Who takes the memory; `None`: it goes into the images.
    pub page_server: Option<PageServer>,
    /// Leave the memory where it is and hand it out on demand, on the port of `page_server`, or the socket that a file of options names
    /// ([`lazy_socket`](super::lazy_socket)).
    pub lazy_pages: bool,
}

/// A restore of a process tree.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RestoreRequest<'a> {
    /// What is common with a dump.
    pub options: Options<'a>,
    /// Whose child the first process becomes.
    pub parent: RestoredParent,
    /// Descriptors to use instead of opening.
    pub inherit_fds: Vec<InheritFd>,
    /// Cgroups to restore into.
    pub cgroup_roots: Vec<CgroupRoot>,
    /// Namespaces to join.
    pub join_ns: Vec<JoinNamespace>,
    /// The profile of a security module, `apparmor:NAME` or `selinux:LABEL`, instead of the dumped one.
    pub lsm_profile: Option<String>,
    /// Do not compare the mode of opened files with the dumped one.
    pub skip_file_rwx_check: bool,
    /// Start with memory that is still missing: `criu lazy-pages` in the work directory provides it.
    pub lazy_pages: bool,
}

impl NetworkLock {
    /// The first CRIU that can leave the network unlocked.
    pub const SKIP_SINCE: Version = Version::new(3, 19, 0);
}

impl<'a> Options<'a> {
    fn new(images_dir: BorrowedFd<'a>, log_file: &str) -> Self {
        Self {
            images_dir,
            work_dir: None,
            log_file: log_file.to_owned(),
            log_level: 4,
            root: None,
            external_mounts: Vec::new(),
            external: Vec::new(),
            manage_cgroups: ManageCgroups::default(),
            network_lock: NetworkLock::default(),
            tcp: TcpConnections::default(),
            shell_job: false,
            ext_unix_sk: false,
            file_locks: false,
            evasive_devices: false,
            empty_netns: false,
            orphan_pts_master: false,
            auto_dedup: false,
            config_file: None,
            lsm_mount_context: None,
            timeout: None,
            cpu_cap: None,
        }
    }

    /// Where log and statistics are.
    pub(super) fn log_dir(&self) -> BorrowedFd<'a> {
        self.work_dir.unwrap_or(self.images_dir)
    }

    /// The oldest CRIU that understands all of this.
    pub(super) fn needs(&self) -> Option<(Version, &'static str)> {
        (self.network_lock == NetworkLock::Skip)
            .then_some((NetworkLock::SKIP_SINCE, "to skip the network lock"))
    }

    fn message(&self) -> Result<Criu_opts> {
        let mut opts = Criu_opts::new();
        opts.set_images_dir_fd(self.images_dir.as_raw_fd());
        opts.work_dir_fd = self.work_dir.map(|fd| fd.as_raw_fd());
        opts.set_log_file(text("log file name", &self.log_file)?);
        opts.set_log_level(self.log_level);
        opts.set_notify_scripts(true);
        opts.root = path("root", self.root.as_deref())?;
        for mount in &self.external_mounts {
            let mut entry = Ext_mount_map::new();
            entry.set_key(text("external mount", &mount.key)?);
            entry.set_val(text("external mount", &mount.value)?);
            opts.ext_mnt.push(entry);
        }
        for external in &self.external {
            opts.external.push(text("external object", external)?);
        }
        opts.set_manage_cgroups(self.manage_cgroups != ManageCgroups::Ignore);
        opts.set_manage_cgroups_mode(match self.manage_cgroups {
            ManageCgroups::Ignore => Criu_cg_mode::IGNORE,
            ManageCgroups::None => Criu_cg_mode::CG_NONE,
            ManageCgroups::Properties => Criu_cg_mode::PROPS,
            ManageCgroups::Soft => Criu_cg_mode::SOFT,
            ManageCgroups::Full => Criu_cg_mode::FULL,
            ManageCgroups::Strict => Criu_cg_mode::STRICT,
        });
        match self.network_lock {
            NetworkLock::Default => {}
            NetworkLock::Iptables => opts.set_network_lock(Criu_network_lock_method::IPTABLES),
            NetworkLock::Nftables => opts.set_network_lock(Criu_network_lock_method::NFTABLES),
            NetworkLock::Skip => opts.set_network_lock(Criu_network_lock_method::SKIP),
        }
        opts.set_tcp_established(self.tcp == TcpConnections::Keep);
        opts.set_tcp_close(self.tcp == TcpConnections::Close);
        opts.set_shell_job(self.shell_job);
        opts.set_ext_unix_sk(self.ext_unix_sk);
        opts.set_file_locks(self.file_locks);
        opts.set_evasive_devices(self.evasive_devices);
        if self.empty_netns {
            // CLONE_NEWNET is the only bit that CRIU accepts here.
            opts.set_empty_ns(libc::CLONE_NEWNET.cast_unsigned());
        }
        opts.set_orphan_pts_master(self.orphan_pts_master);
        opts.set_auto_dedup(self.auto_dedup);
        opts.config_file = path("criu configuration file", self.config_file.as_deref())?;
        opts.lsm_mount_context = self
            .lsm_mount_context
            .as_deref()
            .map(|context| text("lsm mount context", context))
            .transpose()?;
        opts.timeout = self.timeout.map(whole_seconds);
        opts.cpu_cap = self.cpu_cap;
        Ok(opts)
    }
}

impl<'a> DumpRequest<'a> {
    /// A dump of the tree of `pid` into `images_dir` with every option at its default; log in `dump.log`.
    pub fn new(pid: i32, images_dir: BorrowedFd<'a>) -> Self {
        Self {
            pid,
            options: Options::new(images_dir, "dump.log"),
            after: AfterDump::default(),
            freeze_cgroup: None,
            tcp_skip_in_flight: false,
            link_remap: false,
            ghost_limit: None,
            parent_images: None,
            track_memory: false,
            page_server: None,
            lazy_pages: false,
        }
    }

    /// # Errors
    /// `InvalidInput` for a string or path that the protocol cannot carry.
    pub(super) fn message(&self) -> Result<Criu_opts> {
        let mut opts = self.options.message()?;
        opts.set_pid(self.pid);
        match self.after {
            AfterDump::Kill => {}
            AfterDump::Run => opts.set_leave_running(true),
            AfterDump::Stop => opts.set_leave_stopped(true),
        }
        opts.freeze_cgroup = path("freezer cgroup", self.freeze_cgroup.as_deref())?;
        opts.set_tcp_skip_in_flight(self.tcp_skip_in_flight);
        opts.set_link_remap(self.link_remap);
        opts.ghost_limit = self.ghost_limit;
        opts.parent_img = path("parent images", self.parent_images.as_deref())?;
        if self.track_memory {
            opts.set_track_mem(true);
        }
        if let Some(place) = &self.page_server {
            let mut server = Criu_page_server_info::new();
            match place {
                PageServer::Socket(InheritedFd(fd)) => server.set_fd(*fd),
                PageServer::Address { address, port } => {
                    server.set_address(text("page server", address)?);
                    server.set_port(i32::from(*port));
                }
            }
            opts.ps = MessageField::some(server);
        }
        if self.lazy_pages {
            opts.set_lazy_pages(true);
        }
        Ok(opts)
    }
}

impl<'a> RestoreRequest<'a> {
    /// A restore from `images_dir` with every option at its default; log in `restore.log`.
    pub fn new(images_dir: BorrowedFd<'a>) -> Self {
        Self {
            options: Options::new(images_dir, "restore.log"),
            parent: RestoredParent::default(),
            inherit_fds: Vec::new(),
            cgroup_roots: Vec::new(),
            join_ns: Vec::new(),
            lsm_profile: None,
            skip_file_rwx_check: false,
            lazy_pages: false,
        }
    }

    /// # Errors
    /// `InvalidInput` for a string or path that the protocol cannot carry.
    pub(super) fn message(&self) -> Result<Criu_opts> {
        let mut opts = self.options.message()?;
        opts.set_rst_sibling(self.parent == RestoredParent::Caller);
        for InheritFd { key, fd } in &self.inherit_fds {
            let mut entry = Inherit_fd::new();
            entry.set_key(text("name of an inherited descriptor", key)?);
            entry.set_fd(fd.0);
            opts.inherit_fd.push(entry);
        }
        for root in &self.cgroup_roots {
            let mut entry = Cgroup_root::new();
            // Version 2 has no controllers here; CRIU takes an absent name for "every hierarchy".
            entry.set_ctrl(text("cgroup controllers", &root.controllers)?);
            entry.set_path(path("cgroup path", Some(&root.path))?.unwrap_or_default());
            opts.cg_root.push(entry);
        }
        for namespace in &self.join_ns {
            let mut entry = Join_namespace::new();
            entry.set_ns(text("namespace kind", &namespace.kind)?);
            entry.set_ns_file(path("namespace file", Some(&namespace.file))?.unwrap_or_default());
            opts.join_ns.push(entry);
        }
        opts.lsm_profile =
            self.lsm_profile.as_deref().map(|profile| text("lsm profile", profile)).transpose()?;
        if self.skip_file_rwx_check {
            opts.set_skip_file_rwx_check(true);
        }
        if self.lazy_pages {
            opts.set_lazy_pages(true);
        }
        Ok(opts)
    }
}

/// CRIU reads C strings: what follows a NUL byte would silently be lost.
fn text(what: &str, value: &str) -> Result<String> {
    if value.contains('\0') {
        return Err(unusable(what, value));
    }
    Ok(value.to_owned())
}

fn path(what: &str, value: Option<&Path>) -> Result<Option<String>> {
    let Some(value) = value else { return Ok(None) };
    let string = value.to_str().ok_or_else(|| unusable(what, &value.to_string_lossy()))?;
    text(what, string).map(Some)
}

fn unusable(what: &str, value: &str) -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        format!("{what} {value:?} holds bytes that criu's protocol cannot carry"),
    )
}

/// Whole seconds, rounded up: 0 would switch CRIU's limit off.
fn whole_seconds(time: Duration) -> u32 {
    let more = u64::from(time.subsec_nanos() > 0);
    u32::try_from(time.as_secs().saturating_add(more)).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests;
