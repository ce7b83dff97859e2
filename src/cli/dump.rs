// SPDX-License-Identifier: Apache-2.0
//! The flags for a dump that more than one command has, and what they mean for it.

use std::path::PathBuf;

use std::time::Duration;

use clap::ValueEnum;

use super::base::{BaseArg, BaseDirectory};
use super::criu_values;
use crate::Result;
use crate::checkpoint::{ArchivedRootfs, CheckpointOptions, ExecSessions, LeaveRunning};
use crate::criu::{ManageCgroups, NetworkLock, TcpConnections};

/// What `checkpoint` and `push` can be told of the container, of CRIU and of what goes into an archive. A command that has them says
/// with the group `into_one` whether there is an archive.
#[derive(Debug, Default, PartialEq, Eq, clap::Args)]
pub(super) struct DumpArgs {
    /// Let the container run on
    #[arg(long)]
    leave_running: bool,
    /// What of the root filesystem goes into the archive; `auto` is `diff` with --rootfs-base, else `full`
    #[arg(long, value_name = "WHAT", value_enum, default_value = "auto", requires = "into_one")]
    rootfs: RootfsArg,
    /// Files that it is compared with, for an archive with only the difference [default for `diff`: the overlay's lower layers]
    #[arg(long, value_name = "DIR|oci:DIR:TAG", requires = "into_one")]
    rootfs_base: Option<BaseArg>,
    /// Take the host's directory that is mounted there in the container along
    #[arg(long, value_name = "DESTINATION", requires = "into_one")]
    include_volume: Vec<String>,
    /// Image of which Podman or CRI-O is to make the root filesystem, by its name there
    #[arg(long, value_name = "IMAGE", requires = "into_one", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    rootfs_image: Option<String>,
    /// Runtime with which Podman is to restore the archive, as Podman spells it [default: this program's path]
    #[arg(long, value_name = "RUNTIME", requires = "into_one", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    target_runtime: Option<String>,
    /// Directory in which Podman has its volumes [default: /var/lib/containers/storage/volumes]
    #[arg(long, value_name = "DIR", requires = "include_volume")]
    target_volumes: Option<PathBuf>,
    #[command(flatten)]
    criu: CriuArgs,
    /// Leave out TCP connections that are still being set up
    #[arg(long)]
    tcp_skip_in_flight: bool,
    /// Link unlinked open files back into their directory
    #[arg(long)]
    link_remap: bool,
    /// What becomes of processes that `exec` has started, which are not part of a checkpoint: with `end` they are named
    /// and end with the container, with `refuse` there is no checkpoint as long as there are any
    #[arg(long, value_name = "WHAT", value_enum, default_value = "end")]
    exec_sessions: SessionsArg,
    /// Do not look for what cannot be checkpointed: let CRIU find out
    #[arg(long)]
    no_check: bool,
    /// How packets are kept away meanwhile [default: as the container needs it]
    #[arg(long, value_name = "METHOD", value_enum)]
    network_lock: Option<LockMethod>,
    /// The largest unlinked file to take along, like 64M [default: 1M]
    #[arg(long, value_name = "SIZE", value_parser = criu_values::limit)]
    ghost_limit: Option<u32>,
}

/// The flags for CRIU that checkpoint and restore share.
#[derive(Debug, Default, PartialEq, Eq, clap::Args)]
pub(super) struct CriuArgs {
    /// Take established TCP connections along
    #[arg(long)]
    tcp_established: bool,
    /// Let the other end of a unix socket be outside of the container
    #[arg(long)]
    ext_unix_sk: bool,
    /// Let the container belong to a session or terminal outside
    #[arg(long)]
    shell_job: bool,
    /// Take file locks along
    #[arg(long)]
    file_locks: bool,
    /// What CRIU does with cgroups [default: ignore; the container is put into its own]
    #[arg(long, value_name = "MODE", value_enum)]
    manage_cgroups_mode: Option<CgroupMode>,
    /// Bring established TCP connections back closed
    #[arg(long, conflicts_with = "tcp_established")]
    tcp_close: bool,
    /// An object that is outside, as CRIU spells it, such as `mnt[KEY]:PATH`
    #[arg(long, value_name = "OBJECT")]
    external: Vec<String>,
    /// Remove from images what newer ones or the restored processes hold
    #[arg(long)]
    auto_dedup: bool,
    /// Namespace to bring back empty: `network`, which is so already
    #[arg(long, value_name = "NAMESPACE", value_parser = ["network"])]
    empty_ns: Vec<String>,
}

/// How long CRIU may take.
#[derive(Debug, clap::Args)]
pub(super) struct CriuTimeout {
    /// How many seconds CRIU may take to stop or to restore the processes [default: 10]; if given, also how long `checkpoint
    /// --lazy-pages` waits until somebody asks for the memory
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout: Option<u32>,
}

/// CRIU's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LockMethod {
    Nftables,
    Iptables,
    Skip,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CgroupMode {
    Soft,
    Full,
    Strict,
    Ignore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum RootfsArg {
    #[default]
    Auto,
    Full,
    Diff,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum SessionsArg {
    #[default]
    End,
    Refuse,
}

impl DumpArgs {
    /// Whether the container runs on afterwards.
    pub(super) fn leaves_running(&self) -> bool {
        self.leave_running
    }

    /// Puts them into the options. What is returned must be there for as long as these are used.
    pub(super) fn apply(&self, options: &mut CheckpointOptions) -> Result<Option<BaseDirectory>> {
        if self.leave_running {
            options.leave_running = LeaveRunning::Yes;
        }
        options.tcp = self.criu.tcp();
        options.tcp_skip_in_flight = self.tcp_skip_in_flight;
        options.ext_unix_sk = self.criu.ext_unix_sk();
        options.shell_job = self.criu.shell_job();
        options.file_locks = self.criu.file_locks();
        options.link_remap = self.link_remap;
        options.exec_sessions = match self.exec_sessions {
            SessionsArg::End => ExecSessions::End,
            SessionsArg::Refuse => ExecSessions::Refuse,
        };
        options.no_check = self.no_check;
        options.manage_cgroups = self.criu.manage_cgroups();
        options.external = self.criu.external().to_vec();
        options.memory.auto_dedup = self.criu.auto_dedup();
        options.ghost_limit = self.ghost_limit;
        options.network_lock = self.network_lock.map(|method| match method {
            LockMethod::Nftables => NetworkLock::Nftables,
            LockMethod::Iptables => NetworkLock::Iptables,
            LockMethod::Skip => NetworkLock::Skip,
        });
        options.archive.rootfs = match self.rootfs {
            RootfsArg::Auto => ArchivedRootfs::Auto,
            RootfsArg::Full => ArchivedRootfs::Full,
            RootfsArg::Diff => ArchivedRootfs::Diff,
            RootfsArg::None => ArchivedRootfs::None,
        };
        let base = self.rootfs_base.as_ref().map(BaseArg::directory).transpose()?;
        options.archive.rootfs_base = base.as_ref().map(|base| base.path().to_owned());
        options.archive.volumes.clone_from(&self.include_volume);
        options.archive.rootfs_image.clone_from(&self.rootfs_image);
        options.archive.target_volumes.clone_from(&self.target_volumes);
        options.archive.target_runtime.clone_from(&self.target_runtime);
        // Without a path of our own CRIU starts the system's.
        options.tar = std::env::current_exe().ok();
        Ok(base)
    }
}

impl CriuArgs {
    pub(super) fn tcp(&self) -> TcpConnections {
        match (self.tcp_established, self.tcp_close) {
            (true, _) => TcpConnections::Keep,
            (false, true) => TcpConnections::Close,
            (false, false) => TcpConnections::Refuse,
        }
    }

    pub(super) fn external(&self) -> &[String] {
        &self.external
    }

    pub(super) fn auto_dedup(&self) -> bool {
        self.auto_dedup
    }

    pub(super) fn ext_unix_sk(&self) -> bool {
        self.ext_unix_sk
    }

    pub(super) fn shell_job(&self) -> bool {
        self.shell_job
    }

    pub(super) fn file_locks(&self) -> bool {
        self.file_locks
    }

    pub(super) fn manage_cgroups(&self) -> Option<ManageCgroups> {
        self.manage_cgroups_mode.map(|mode| match mode {
            CgroupMode::Soft => ManageCgroups::Soft,
            CgroupMode::Full => ManageCgroups::Full,
            CgroupMode::Strict => ManageCgroups::Strict,
            CgroupMode::Ignore => ManageCgroups::Ignore,
        })
    }
}

impl CriuTimeout {
    pub(super) fn duration(&self) -> Option<Duration> {
        self.timeout.map(|seconds| Duration::from_secs(seconds.into()))
    }
}
