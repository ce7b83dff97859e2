// SPDX-License-Identifier: Apache-2.0
//! What the caller wants of a checkpoint, and what follows from it and from the container for CRIU's request.

use std::fmt;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use super::freezer::Freezer;
use super::{Dump, HandOver, MemoryOptions, Passed};
use crate::archive::{Identities, Recipients};
use crate::criu::{
    AfterDump, CONFIG_ANNOTATION, DumpRequest, ExternalMount, ManageCgroups, NetworkLock, TcpConnections,
    Version, config_file,
};
use crate::engine::{InitProcess, Namespaces, NetworkContent, SavedNetwork};
use crate::spec::Config;
use crate::sys::proc::namespace_inode;
use crate::{Context, Result};

/// What becomes of the container after a checkpoint that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LeaveRunning {
    /// It is gone.
    #[default]
    No,
    /// It runs on.
    Yes,
    /// It stays, paused as it was in the moment of the checkpoint.
    Paused,
}

/// Where an archive goes.
pub enum Export {
    /// To a file, which appears under its name when it is complete.
    File(PathBuf),
    /// To a stream.
    Stream(Box<dyn Write + Send>),
    /// To a file, and from there to where it stays while CRIU holds the processes.
    Passed(Passed),
    /// To somebody who takes it over while CRIU holds the processes.
    Peer(HandOver),
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Stream(_) => f.write_str("Stream(..)"),
            Self::Passed(passed) => f.debug_tuple("Passed").field(passed).finish(),
            Self::Peer(_) => f.write_str("Peer(..)"),
        }
    }
}

/// What becomes of processes that `exec` has started: CRIU dumps the tree of the container's first process only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExecSessions {
    /// They are named in a warning, and end with the container or run on with it.
    #[default]
    End,
    /// As long as there are any, there is no checkpoint.
    Refuse,
}

/// What of the root filesystem goes into an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ArchivedRootfs {
    /// How it differs from the base that was named, or all of it.
    #[default]
    Auto,
    /// All of it.
    Full,
    /// How it differs from a base: the named one, or the lower layers of the overlay that it is.
    Diff,
    /// Nothing: the restore is given a bundle.
    None,
}

/// How an archive is laid out.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum ArchiveLayout {
    /// So that other engines read it.
    #[default]
    Full,
    /// Equal pages once.
    Packed {
        /// The archive that this one goes on from: what that has is left out.
        base: Option<PathBuf>,
        /// Files and directories of archives that the base needs itself; none: the directory that it is in.
        around: Vec<PathBuf>,
        /// Secret keys that open it.
        identities: Identities,
    },
}

/// What the caller wants of an archive.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ArchiveOptions {
    /// What of the root filesystem goes into it.
    pub rootfs: ArchivedRootfs,
    /// The files that it is compared with: the restore needs the very same.
    pub rootfs_base: Option<PathBuf>,
    /// The bind mounts whose directories go into it, by their destinations.
    pub volumes: Vec<String>,
    /// The image of which another engine is to make the root filesystem; `None`: as annotations say, if any.
    pub rootfs_image: Option<String>,
    /// The runtime that is to restore it, as another engine spells it; `None`: this program's path.
    pub target_runtime: Option<String>,
    /// Where another engine has its volumes; `None`: where Podman has them.
    pub target_volumes: Option<PathBuf>,
    /// Those who can read it; `None`: everybody who has the file.
    pub recipients: Option<Recipients>,
    /// How it is laid out.
    pub layout: ArchiveLayout,
}

/// What the caller wants of a checkpoint.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct CheckpointOptions {
    /// CRIU's executable; `None`: found.
    pub criu: Option<PathBuf>,
    /// Directory for the images; `None`: `checkpoint` in the working directory, or a temporary one beside the archive.
    pub image_path: Option<PathBuf>,
    /// Directory for CRIU's log and statistics; `None`: that of the images.
    pub work_path: Option<PathBuf>,
    /// Whether the container runs on.
    pub leave_running: LeaveRunning,
    /// What becomes of established TCP connections.
    pub tcp: TcpConnections,
    /// Leave out connections that are still being set up.
    pub tcp_skip_in_flight: bool,
    /// When somebody takes the checkpoint over: the addresses of the container's network namespace, which is one by path, go when the
    /// container ends.
    pub addresses_leave: bool,
    /// Let the other end of a unix socket be outside of the container.
    pub ext_unix_sk: bool,
    /// Let the container belong to a session outside.
    pub shell_job: bool,
    /// Take file locks along.
    pub file_locks: bool,
    /// Link unlinked open files back into their directory.
    pub link_remap: bool,
    /// What becomes of processes that `exec` has started.
    pub exec_sessions: ExecSessions,
    /// Do not look for what CRIU cannot carry, but let it find out.
    pub no_check: bool,
    /// What CRIU does with cgroups; `None`: nothing, the restored container is put into its own.
    pub manage_cgroups: Option<ManageCgroups>,
    /// How packets are kept away meanwhile; `None`: as the container needs it.
    pub network_lock: Option<NetworkLock>,
    /// The largest unlinked file to take along, in bytes; `None`: CRIU's default of 1 MiB.
    pub ghost_limit: Option<u32>,
    /// How long it may take to stop the processes; `None`: CRIU's default of 10 s. Also how long memory that is on demand waits until it
    /// is asked for; `None`: without end.
    pub timeout: Option<Duration>,
    /// Further objects that are outside, in CRIU's spelling: `file[MNT:INO]`, `mnt[PATH]:KEY`, ….
    pub external: Vec<String>,
    /// What becomes of the memory.
    pub memory: MemoryOptions,
    /// What is in an archive, and for whom.
    pub archive: ArchiveOptions,
    /// A program that is a `tar` for CRIU when it is started under that name; `None`: the system's.
    pub tar: Option<PathBuf>,
}

/// The request for CRIU of this version.
pub(super) fn dump_request<'a>(
    dump: &'a Dump<'_>,
    external_mounts: Vec<ExternalMount>,
    network: Option<&SavedNetwork>,
    freezer: &Freezer,
    version: Version,
) -> Result<DumpRequest<'a>> {
    let Dump { container, config, options, images_fd, work_dir, init, stdio, .. } = dump;
    let init = *init;
    let mut request = DumpRequest::new(init.pid, images_fd.as_fd());
    request.after = match options.leave_running {
        LeaveRunning::No => AfterDump::Kill,
        LeaveRunning::Yes | LeaveRunning::Paused => AfterDump::Run,
    };
    request.ghost_limit = options.ghost_limit;
    options.memory.apply(&mut request);
    request.tcp_skip_in_flight = options.tcp_skip_in_flight;
    request.link_remap = options.link_remap;
    request.freeze_cgroup = freezer.for_criu();
    let common = &mut request.options;
    common.work_dir = work_dir.as_ref().map(AsFd::as_fd);
    common.root = Some(container.state().rootfs.clone());
    common.external_mounts = external_mounts;
    common.external = external_namespaces(config, init)?;
    common.external.extend(options.external.iter().cloned());
    common.timeout = options.timeout;
    common.external.extend(stdio.external.iter().cloned());
    common.manage_cgroups = options.manage_cgroups.unwrap_or(ManageCgroups::Ignore);
    common.tcp = options.tcp;
    // Without established connections there is nothing that a packet could disturb. Into a namespace that only has `lo` none
    // comes, but both ends of a connection can be there: the one that is restored first must not speak to nobody.
    let reachable = network.is_none_or(SavedNetwork::is_reachable);
    common.network_lock = match options.tcp {
        _ if options.network_lock.is_some() => options.network_lock.unwrap_or_default(),
        _ if version < NetworkLock::SKIP_SINCE => NetworkLock::Nftables,
        TcpConnections::Keep => NetworkLock::Nftables,
        TcpConnections::Close if reachable => NetworkLock::Nftables,
        _ => NetworkLock::Skip,
    };
    common.ext_unix_sk = options.ext_unix_sk;
    common.shell_job = options.shell_job;
    common.file_locks = options.file_locks;
    common.empty_netns = network.is_some_and(|network| network.content() == NetworkContent::Engine);
    common.orphan_pts_master = true;
    common.config_file = further_options(config);
    Ok(request)
}

/// The file with further options for CRIU.
pub(super) fn further_options(config: &Config) -> Option<PathBuf> {
    let annotations = config.spec.annotations().as_ref();
    config_file(annotations.and_then(|a| a.get(CONFIG_ANNOTATION)).map(String::as_str))
}

/// Namespaces by path belong to somebody else: CRIU only notes that they are there.
pub(super) fn external_namespaces(config: &Config, init: InitProcess) -> Result<Vec<String>> {
    let namespaces = Namespaces::from_spec(&config.spec);
    let mut list = Vec::new();
    for (name, key, _) in namespaces.external() {
        let inode =
            namespace_inode(init.pid(), name).context(|| format!("stat /proc/{}/ns/{name}", init.pid))?;
        list.push(format!("{name}[{inode}]:{key}"));
    }
    Ok(list)
}
