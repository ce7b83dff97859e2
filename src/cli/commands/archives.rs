// SPDX-License-Identifier: Apache-2.0
//! `migrate archives list`, `migrate archives prune` and `migrate archives convert`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::checkpoint::LayoutArg;
use crate::archive::{ArchiveFile, Bases, Completes, Identities, Layout, PackedBase, Recipients, convert};
use crate::cli::progress::Bar;
use crate::cli::{durations, output, sizes};
use crate::inspect::{Quota, Shelved, discard, shelf, surplus};
use crate::{Context, Error, ErrorKind, Result};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Print the archives as JSON, prune: those that it removed
    #[arg(long)]
    json: bool,
    /// prune: keep this many of each container, the newest
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
    /// prune: keep as many of the newest as fit into this size
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_size: Option<u64>,
    /// prune: remove those that are older, e.g. 720h
    #[arg(long, value_name = "DURATION", value_parser = durations::positive)]
    older_than: Option<Duration>,
    /// prune: only tell what would be removed
    #[arg(long)]
    dry_run: bool,
    /// convert: how the archive is to be laid out: `podman` is what Podman reads, too, `packed` has equal pages once
    #[arg(long, value_name = "LAYOUT", value_enum)]
    layout: Option<LayoutArg>,
    /// convert: archive to go on from with --layout packed
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,
    /// convert: archive that one of these needs, or the directory that it is in [default: the archive's directory]
    #[arg(long, value_name = "FILE|DIR")]
    base_archive: Vec<PathBuf>,
    /// convert: file with a secret key of age's that opens an encrypted archive
    #[arg(long, value_name = "FILE")]
    identity: Vec<PathBuf>,
    /// convert: let only this recipient read the new archive: a public key of age's (`age1…`), or @FILE with one a line
    #[arg(long, value_name = "RECIPIENT")]
    encrypt_to: Vec<String>,
    /// list, prune or convert
    #[arg(value_name = "list|prune|convert")]
    action: Action,
    /// The directory [default: the working directory]; convert: the archive
    #[arg(value_name = "DIR|FILE")]
    path: Option<PathBuf>,
    /// convert: the file that the archive is written to
    #[arg(value_name = "OUT")]
    target: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    List,
    Prune,
    Convert,
}

impl FromStr for Action {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "list" => Ok(Self::List),
            "prune" => Ok(Self::Prune),
            "convert" => Ok(Self::Convert),
            _ => Err(Error::new(ErrorKind::InvalidInput, format!("archives {text}: no such action"))
                .with_hint("it is list, prune or convert")),
        }
    }
}

impl Args {
    pub(in crate::cli) fn run(&self) -> Result<()> {
        let mut quota = Quota::default();
        (quota.keep, quota.max_size, quota.older_than) = (self.keep, self.max_size, self.older_than);
        let limits = quota != Quota::default();
        let refuse = |message| Err(Error::new(ErrorKind::InvalidInput, message));
        match self.action {
            Action::Convert if limits || self.dry_run || self.json => {
                refuse("archives convert takes neither limits nor --dry-run and --json")
            }
            Action::Convert => self.convert(),
            _ if self.converts() => refuse(
                "only archives convert takes a second path, --layout, --base, --base-archive, --identity and --encrypt-to",
            ),
            Action::List if limits || self.dry_run => {
                Err(Error::new(ErrorKind::InvalidInput, "archives list removes nothing: it takes no limits"))
            }
            Action::Prune if !limits => {
                Err(Error::new(ErrorKind::InvalidInput, "archives prune has no limit")
                    .with_hint("give it --keep, --max-size or --older-than"))
            }
            Action::List => self.print(&shelf(&self.directory())?.iter().collect::<Vec<_>>()),
            Action::Prune => self.prune(&quota),
        }
    }

    fn directory(&self) -> PathBuf {
        self.path.clone().unwrap_or_else(|| PathBuf::from("."))
    }

    /// Whether anything was given that is for `convert`.
    fn converts(&self) -> bool {
        let lists = [self.base_archive.is_empty(), self.identity.is_empty(), self.encrypt_to.is_empty()];
        lists.contains(&false) || self.layout.is_some() || self.base.is_some() || self.target.is_some()
    }

    fn convert(&self) -> Result<()> {
        let (Some(path), Some(target), Some(layout)) = (&self.path, &self.target, self.layout) else {
            let message =
                "archives convert needs an archive, a file to write to, and --layout podman or packed";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        };
        let identities = Identities::read(&self.identity)?;
        let layout = match (layout, &self.base) {
            (LayoutArg::Podman, None) => Layout::Full,
            (LayoutArg::Podman, Some(_)) => {
                let message =
                    "an archive that Podman reads goes on from none: --base goes with --layout packed";
                return Err(Error::new(ErrorKind::InvalidInput, message));
            }
            (LayoutArg::Packed, base) => {
                let read = |path: &PathBuf| PackedBase::read(path, &self.base_archive, &identities);
                Layout::Packed(base.as_ref().map(read).transpose()?)
            }
        };
        let bases = Bases::around(path, &self.base_archive, identities.clone());
        let file = File::open(path).context(|| format!("open the archive {}", path.display()))?;
        let written = self.target(target)?;
        let converted = convert(&file, &identities, &bases, written, layout, &mut Bar::new("converting"));
        converted.context(|| format!("convert archive {}", path.display()))
    }

    /// The new archive, which gets its name when it is complete.
    fn target(&self, path: &Path) -> Result<Box<dyn Completes>> {
        let file = ArchiveFile::create(path)?;
        Ok(match &self.encrypt_to[..] {
            [] => Box::new(file),
            list => Box::new(Recipients::parse(list)?.seal(file)?),
        })
    }

    fn prune(&self, quota: &Quota) -> Result<()> {
        let archives = shelf(&self.directory())?;
        let mut removed = surplus(&archives, quota, SystemTime::now());
        let mut failed = Vec::new();
        if !self.dry_run {
            removed.retain(|archive| discard(archive).map_err(|error| failed.push(error)).is_ok());
        }
        self.print(&removed)?;
        match failed.len() {
            0 => Ok(()),
            count => Err(Error::new(failed[0].kind(), format!("{count} archives were not removed"))
                .with_cleanup(failed)),
        }
    }

    fn print(&self, archives: &[&Shelved]) -> Result<()> {
        if self.json {
            return output::json(&json!({"schema": 1, "archives": archives}));
        }
        let mut rows = vec![["CONTAINER", "WRITTEN", "SIZE", "ENGINE", "FILE"].map(str::to_owned).to_vec()];
        rows.extend(archives.iter().map(|archive| {
            let shown = |text: &str| crate::criu::printable(text.as_bytes());
            vec![
                shown(&archive.container),
                archive.written.clone(),
                archive.size.to_string(),
                shown(archive.engine.as_deref().unwrap_or_default()),
                shown(&archive.path.to_string_lossy()),
            ]
        }));
        output::table(&rows)
    }
}

fn size(text: &str) -> std::result::Result<u64, String> {
    u64::try_from(sizes::memory(text)?).map_err(|_| format!("invalid size: '{text}'"))
}
