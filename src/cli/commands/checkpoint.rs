// SPDX-License-Identifier: Apache-2.0
//! `migrate checkpoint`.

use std::io::IsTerminal;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;

use super::sign::sign_file;
use crate::archive::signature::SigningKey;
use crate::archive::{Identities, Recipients};
use crate::checkpoint::{
    ArchiveLayout, ArchivedRootfs, CheckpointOptions, CheckpointReport, ExecSessions, Export, LeaveRunning,
    MemoryOptions, checkpoint, pre_dump, signals_to_give_up,
};
use crate::cli::base::BaseArg;
use crate::cli::progress::Bar;
use crate::cli::registry::{self, NewImage, RegistryArgs};
use crate::cli::{Global, criu_values, output, parse_id};
use crate::criu::{ManageCgroups, NetworkLock, TcpConnections};
use crate::engine::ContainerId;
use crate::registry::Reference;
use crate::{Context, Error, ErrorKind, Result};

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(group(clap::ArgGroup::new("into_one").args(["export", "create_image"]).multiple(true)))]
pub(in crate::cli) struct Args {
    /// The container's id
    #[arg(value_name = "CONTAINER", value_parser = parse_id)]
    id: ContainerId,
    /// Write everything that a restore needs to one file; `-` is stdout
    #[arg(short, long, value_name = "FILE")]
    export: Option<PathBuf>,
    /// Put everything that a restore needs into a registry, or into a directory with `oci:DIRECTORY:TAG`
    #[arg(long, value_name = "IMAGE", value_parser = registry::reference)]
    create_image: Option<Reference>,
    #[command(flatten)]
    registry: RegistryArgs,
    /// Let only this recipient read the archive: a public key of age's (`age1…`), or @FILE with one a line
    #[arg(long, value_name = "RECIPIENT", requires = "export")]
    encrypt_to: Vec<String>,
    /// Sign the archive with this OpenSSH key: the signature is its name with .sig
    #[arg(long, value_name = "KEY", requires = "export")]
    sign: Option<PathBuf>,
    /// Directory for the images [default: ./checkpoint, or none that stays with --export]
    #[arg(long, value_name = "DIR")]
    image_path: Option<PathBuf>,
    /// Directory for CRIU's log and statistics [default: that of the images]
    #[arg(long, value_name = "DIR")]
    work_path: Option<PathBuf>,
    /// Let the container run on
    #[arg(long)]
    leave_running: bool,
    /// Print sizes and CRIU's statistics as JSON
    #[arg(long)]
    print_stats: bool,
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
    /// How the archive is laid out: `podman` is what Podman reads, too, `packed` has equal pages once
    #[arg(
        long,
        value_name = "LAYOUT",
        value_enum,
        default_value = "podman",
        requires = "export",
        conflicts_with = "create_image"
    )]
    layout: LayoutArg,
    /// Archive to go on from: what that has is left out, and a restore needs it as well
    #[arg(long, value_name = "FILE", requires = "export")]
    base: Option<PathBuf>,
    /// Archive that --base needs itself, or the directory that it is in [default: that of --base]
    #[arg(long, value_name = "FILE|DIR", requires = "base")]
    base_archive: Vec<PathBuf>,
    /// File with a secret key of age's that opens an encrypted archive of --base
    #[arg(long, value_name = "FILE", requires = "base")]
    identity: Vec<PathBuf>,
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
    /// Write memory only, and let the container run on: a later checkpoint names these images with --parent-path
    #[arg(long, conflicts_with_all = ["export", "create_image", "leave_stopped", "lazy_pages"])]
    pre_dump: bool,
    /// Images of an earlier pre-dump, relative to the image directory: unchanged memory is left out
    #[arg(long, value_name = "DIR")]
    parent_path: Option<PathBuf>,
    /// Keep the container, paused
    #[arg(long, conflicts_with = "leave_running")]
    leave_stopped: bool,
    /// Send memory to the page server there, or with --lazy-pages wait there to be asked for it
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = criu_values::address)]
    page_server: Option<(String, u16)>,
    /// Keep memory until the restored container asks for it
    #[arg(long)]
    lazy_pages: bool,
    /// Descriptor that gets one NUL byte when memory can be asked for
    #[arg(long, value_name = "FD", value_parser = criu_values::writable)]
    status_fd: Option<Arc<OwnedFd>>,
    /// How packets are kept away meanwhile [default: as the container needs it]
    #[arg(long, value_name = "METHOD", value_enum)]
    network_lock: Option<LockMethod>,
    /// The largest unlinked file to take along, like 64M [default: 1M]
    #[arg(long, value_name = "SIZE", value_parser = criu_values::limit)]
    ghost_limit: Option<u32>,
}

/// The flags for CRIU that checkpoint and restore share.
#[derive(Debug, clap::Args)]
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
    /// How many seconds CRIU may take to stop or to restore the processes [default: 10]; if given, also how long `checkpoint
    /// --lazy-pages` waits until somebody asks for the memory
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout: Option<u32>,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RootfsArg {
    Auto,
    Full,
    Diff,
    None,
}

/// How an archive is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LayoutArg {
    Podman,
    Packed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SessionsArg {
    End,
    Refuse,
}

impl CriuArgs {
    pub(super) fn tcp(&self) -> TcpConnections {
        match (self.tcp_established, self.tcp_close) {
            (true, _) => TcpConnections::Keep,
            (false, true) => TcpConnections::Close,
            (false, false) => TcpConnections::Refuse,
        }
    }

    pub(super) fn timeout(&self) -> Option<Duration> {
        self.timeout.map(|seconds| Duration::from_secs(seconds.into()))
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

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<()> {
        let mut options = CheckpointOptions::default();
        options.criu.clone_from(&global.criu);
        options.image_path.clone_from(&self.image_path);
        options.work_path.clone_from(&self.work_path);
        let mut export = self.target()?;
        options.leave_running = match (self.leave_running, self.leave_stopped) {
            (true, _) => LeaveRunning::Yes,
            (false, true) => LeaveRunning::Paused,
            (false, false) => LeaveRunning::No,
        };
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
        options.timeout = self.criu.timeout();
        options.external = self.criu.external().to_vec();
        options.ghost_limit = self.ghost_limit;
        options.network_lock = self.network_lock.map(|method| match method {
            LockMethod::Nftables => NetworkLock::Nftables,
            LockMethod::Iptables => NetworkLock::Iptables,
            LockMethod::Skip => NetworkLock::Skip,
        });
        self.memory(&mut options.memory)?;
        options.archive.rootfs = match self.rootfs {
            RootfsArg::Auto => ArchivedRootfs::Auto,
            RootfsArg::Full => ArchivedRootfs::Full,
            RootfsArg::Diff => ArchivedRootfs::Diff,
            RootfsArg::None => ArchivedRootfs::None,
        };
        options.archive.layout = self.archive_layout()?;
        options.archive.recipients = match &self.encrypt_to[..] {
            [] => None,
            list => Some(Recipients::parse(list)?),
        };
        let base = self.rootfs_base.as_ref().map(BaseArg::directory).transpose()?;
        options.archive.rootfs_base = base.as_ref().map(|base| base.path().to_owned());
        options.archive.volumes.clone_from(&self.include_volume);
        options.archive.rootfs_image.clone_from(&self.rootfs_image);
        options.archive.target_runtime.clone_from(&self.target_runtime);
        // A key that does not sign is known before anything is frozen.
        let signer = self.sign.as_deref().map(|key| self.signer(key)).transpose()?;
        // Without a path of our own CRIU starts the system's.
        options.tar = std::env::current_exe().ok();
        let mut container = global.state_root()?.load(&self.id)?;
        let image = match &self.create_image {
            Some(reference) => Some(NewImage::begin(reference, &self.registry, &self.id, &mut export)?),
            None => None,
        };
        let report = match self.pre_dump {
            true => pre_dump(&mut container, &options)?,
            false => checkpoint(&mut container, &options, export, &mut Bar::new("exporting"))?,
        };
        image.map_or(Ok(()), NewImage::push)?;
        if let Some((key, archive)) = signer {
            sign_file(&key, archive)?;
        }
        if self.print_stats { output::json_line(&self.stats(&report)) } else { Ok(()) }
    }

    fn archive_layout(&self) -> Result<ArchiveLayout> {
        match (self.layout, &self.base) {
            (LayoutArg::Podman, None) => Ok(ArchiveLayout::Full),
            (LayoutArg::Podman, Some(_)) => {
                let message =
                    "an archive that Podman reads goes on from none: --base goes with --layout packed";
                Err(Error::new(ErrorKind::InvalidInput, message))
            }
            (LayoutArg::Packed, base) => {
                let identities = Identities::read(&self.identity)?;
                Ok(ArchiveLayout::Packed {
                    base: base.clone(),
                    around: self.base_archive.clone(),
                    identities,
                })
            }
        }
    }

    fn memory(&self, memory: &mut MemoryOptions) -> Result<()> {
        memory.parent_path.clone_from(&self.parent_path);
        memory.auto_dedup = self.criu.auto_dedup();
        memory.page_server.clone_from(&self.page_server);
        memory.lazy_pages = self.lazy_pages;
        memory.give_up = self.lazy_pages.then(signals_to_give_up).transpose()?;
        let clone = |fd: &Arc<OwnedFd>| fd.try_clone().context(|| "duplicate the descriptor of --status-fd");
        memory.status_fd = self.status_fd.as_ref().map(clone).transpose()?;
        Ok(())
    }

    fn signer(&self, key: &Path) -> Result<(SigningKey, &Path)> {
        match self.export.as_deref() {
            Some(archive) if archive.as_os_str() != "-" => Ok((SigningKey::read(key)?, archive)),
            _ => Err(Error::new(ErrorKind::InvalidInput, "--sign writes beside a file, --export names none")
                .with_hint("sign what arrives where it is stored: `migrate sign FILE --key KEY`")),
        }
    }

    fn target(&self) -> Result<Option<Export>> {
        match &self.export {
            None => Ok(None),
            Some(path) if path.as_os_str() == "-" => {
                if self.print_stats {
                    return Err(Error::new(
                        ErrorKind::InvalidInput,
                        "--print-stats and --export - would both write to stdout",
                    ));
                }
                let stdout = std::io::stdout();
                if stdout.is_terminal() {
                    return Err(Error::new(
                        ErrorKind::InvalidInput,
                        "will not write an archive to a terminal",
                    )
                    .with_hint("redirect stdout, or name a file with --export"));
                }
                Ok(Some(Export::Stream(Box::new(stdout))))
            }
            Some(path) => Ok(Some(Export::File(path.clone()))),
        }
    }

    fn stats(&self, report: &CheckpointReport) -> serde_json::Value {
        let stats = report.stats.unwrap_or_default();
        let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        serde_json::json!({
            "id": self.id.as_str(),
            "images_bytes": report.images_bytes,
            "archive_bytes": report.archive_bytes,
            "stood_still_us": report.stood_still.map(micros),
            "freezing_time_us": micros(stats.freezing),
            "frozen_time_us": micros(stats.frozen),
            "memdump_time_us": micros(stats.memory_dump),
            "memwrite_time_us": micros(stats.memory_write),
            "pages_scanned": stats.pages_scanned,
            "pages_written": stats.pages_written,
        })
    }
}
