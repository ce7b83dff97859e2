// SPDX-License-Identifier: Apache-2.0
//! `migrate checkpoint`.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::ValueEnum;

use super::create::not_yet;
use crate::checkpoint::{
    CheckpointOptions, CheckpointReport, ExecSessions, Export, LeaveRunning, checkpoint,
};
use crate::cli::progress::Bar;
use crate::cli::{Global, output, parse_id};
use crate::criu::{ManageCgroups, TcpConnections};
use crate::engine::ContainerId;
use crate::{Error, ErrorKind, Result};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The container's id
    #[arg(value_name = "CONTAINER", value_parser = parse_id)]
    id: ContainerId,
    /// Write everything that a restore needs to one file; `-` is stdout
    #[arg(short, long, value_name = "FILE")]
    export: Option<PathBuf>,
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
    #[command(flatten)]
    later: LaterArgs,
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
    /// Namespace to bring back empty: `network`, which is so already
    #[arg(long, value_name = "NAMESPACE", value_parser = ["network"])]
    empty_ns: Vec<String>,
}

/// runc's flags that this version does not do.
#[derive(Debug, clap::Args)]
struct LaterArgs {
    #[arg(long, hide = true, value_name = "DIR")]
    parent_path: Option<PathBuf>,
    #[arg(long, hide = true)]
    pre_dump: bool,
    #[arg(long, hide = true)]
    lazy_pages: bool,
    #[arg(long, hide = true, value_name = "FD")]
    status_fd: Option<i32>,
    #[arg(long, hide = true, value_name = "ADDRESS:PORT")]
    page_server: Option<String>,
    #[arg(long, hide = true)]
    auto_dedup: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CgroupMode {
    Soft,
    Full,
    Strict,
    Ignore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SessionsArg {
    End,
    Refuse,
}

impl CriuArgs {
    pub(super) fn tcp(&self) -> TcpConnections {
        if self.tcp_established { TcpConnections::Keep } else { TcpConnections::Refuse }
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

impl LaterArgs {
    fn refuse(&self) -> Result<()> {
        let flags = [
            (self.parent_path.is_some(), "--parent-path"),
            (self.pre_dump, "--pre-dump"),
            (self.lazy_pages, "--lazy-pages"),
            (self.status_fd.is_some(), "--status-fd"),
            (self.page_server.is_some(), "--page-server"),
            (self.auto_dedup, "--auto-dedup"),
        ];
        match flags.iter().find(|(given, _)| *given) {
            Some((_, flag)) => Err(not_yet(flag)),
            None => Ok(()),
        }
    }
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<()> {
        self.later.refuse()?;
        let mut options = CheckpointOptions::default();
        options.criu.clone_from(&global.criu);
        options.image_path.clone_from(&self.image_path);
        options.work_path.clone_from(&self.work_path);
        let export = self.target()?;
        options.leave_running = if self.leave_running { LeaveRunning::Yes } else { LeaveRunning::No };
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
        options.manage_cgroups = self.criu.manage_cgroups();
        let mut container = global.state_root()?.load(&self.id)?;
        let report = checkpoint(&mut container, &options, export, &mut Bar::new("exporting"))?;
        if self.print_stats { output::json_line(&self.stats(&report)) } else { Ok(()) }
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
            "freezing_time_us": micros(stats.freezing),
            "frozen_time_us": micros(stats.frozen),
            "memdump_time_us": micros(stats.memory_dump),
            "memwrite_time_us": micros(stats.memory_write),
            "pages_scanned": stats.pages_scanned,
            "pages_written": stats.pages_written,
        })
    }
}
