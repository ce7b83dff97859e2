// SPDX-License-Identifier: Apache-2.0
//! `migrate checkpoint`.

use std::io::IsTerminal;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;

use super::sign::sign_file;
use crate::archive::signature::SigningKey;
use crate::archive::{Identities, Recipients};
use crate::checkpoint::{
    ArchiveLayout, CheckpointOptions, CheckpointReport, Export, LeaveRunning, MemoryOptions, checkpoint,
    pre_dump, signals_to_give_up,
};
use crate::cli::dump::{CriuTimeout, DumpArgs};
use crate::cli::progress::Bar;
use crate::cli::registry::{self, NewImage, RegistryArgs};
use crate::cli::{Global, criu_values, output, parse_id};
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
    /// Let only this recipient read the archive: a public key of age's (`age1…`) or OpenSSH's (`ssh-ed25519 …`, `ssh-rsa …`), or @FILE with
    /// one a line
    #[arg(long, value_name = "RECIPIENT", requires = "export")]
    encrypt_to: Vec<String>,
    /// Sign the archive with this key of OpenSSH's or minisign's: the signature is its name with .sig or .minisig
    #[arg(long, value_name = "KEY", requires = "export")]
    sign: Option<PathBuf>,
    /// Directory for the images [default: ./checkpoint, or none that stays with --export]
    #[arg(long, value_name = "DIR")]
    image_path: Option<PathBuf>,
    /// Directory for CRIU's log and statistics [default: that of the images]
    #[arg(long, value_name = "DIR")]
    work_path: Option<PathBuf>,
    #[command(flatten)]
    dump: DumpArgs,
    #[command(flatten)]
    timeout: CriuTimeout,
    /// Print sizes and CRIU's statistics as JSON
    #[arg(long)]
    print_stats: bool,
    /// How the archive is laid out: `podman` is what Podman reads, too, `packed` has equal pages once
    #[arg(long, value_name = "LAYOUT", value_enum, default_value = "podman", requires = "into_one")]
    layout: LayoutArg,
    /// Archive to go on from: what that has is left out, and a restore needs it as well
    #[arg(long, value_name = "FILE", requires = "into_one")]
    base: Option<PathBuf>,
    /// Archive that --base needs itself, or the directory that it is in [default: that of --base]
    #[arg(long, value_name = "FILE|DIR", requires = "base")]
    base_archive: Vec<PathBuf>,
    /// File with a secret key of age's or OpenSSH's that opens an encrypted archive of --base
    #[arg(long, value_name = "FILE", requires = "base")]
    identity: Vec<PathBuf>,
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
}

/// How an archive is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LayoutArg {
    Podman,
    Packed,
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<()> {
        let mut options = CheckpointOptions::default();
        options.criu.clone_from(&global.criu);
        options.image_path.clone_from(&self.image_path);
        options.work_path.clone_from(&self.work_path);
        let mut export = self.target()?;
        let _base = self.dump.apply(&mut options)?;
        if self.leave_stopped {
            options.leave_running = LeaveRunning::Paused;
        }
        options.timeout = self.timeout.duration();
        self.memory(&mut options.memory)?;
        options.archive.layout = self.archive_layout()?;
        options.archive.recipients = match &self.encrypt_to[..] {
            [] => None,
            list => Some(Recipients::parse(list)?),
        };
        // A key that does not sign is known before anything is frozen.
        let signer = self.sign.as_deref().map(|key| self.signer(key)).transpose()?;
        let mut container = global.state_root()?.load(&self.id)?;
        let image = match &self.create_image {
            Some(reference) => {
                Some(NewImage::begin(reference, self.registry.options()?, &self.id, &mut export)?)
            }
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
