// SPDX-License-Identifier: Apache-2.0
//! What is in a checkpoint, without restoring it: an archive of ours or another engine's, or a directory of CRIU's images. And the same of
//! a container that runs.
//!
//! ```text
//! archive ──▶ archive::select ─┐
//!                              ├─▶ Images (small, in memory; pieces of pages) ──▶ Report ──▶ text, JSON
//! directory ───────────────────┘                                                ▲
//! container ──▶ /proc ──────────────────────────────────────────────────────────┘
//! ```
//! Reads, and changes nothing. What it reads is hostile and unverified: sizes are bounded, an image that is damaged is a
//! sentence in [`Report::problems`]. The environment is a secret that is asked for; memory is never shown. Must not know how
//! any of it was made, or is restored.

mod diff;
mod directory;
mod header;
mod host;
mod images;
mod pages;
mod processes;
mod report;
mod running;
mod running_files;
mod shelf;
#[cfg(test)]
mod tests;
mod text;
mod verify;

use std::fs::File;
use std::path::{Path, PathBuf};

pub use diff::{Changed, Difference, Named, PageChanges, diff};
pub use header::Header;
pub use host::Comparison;
pub use report::{
    Environment, MappedArea, MemoryReport, MountReport, OpenDescriptor, Pages, ProcessReport, Report, Sizes,
    SocketReport, Statistics, Summary,
};
pub use running::{RunningContainer, inspect_running};
pub use shelf::{Quota, Shelved, discard, shelf, surplus};
pub use text::Section;
pub use verify::{Verification, verify};

use crate::archive::{Bases, Identities};
use crate::criu::DumpStats;
use crate::{Context, Result, archive};
use images::Images;

/// How a checkpoint is looked into.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct InspectOptions {
    /// Whether environments are read.
    pub environment: Environment,
    /// The CRIU of this host, if it is not to be found.
    pub criu: Option<PathBuf>,
    /// Files and directories of archives that the archive needs; none: the directory that it is in.
    pub bases: Vec<PathBuf>,
}

/// Where the archives are that this one needs.
fn bases_of(path: &Path, named: &[PathBuf]) -> Bases {
    Bases::around(path, named, Identities::default())
}

/// Looks into the archive or the directory of images at `path`.
///
/// # Errors
/// `InvalidArchive` if it is neither, or is truncated; else when it cannot be read.
pub fn inspect(path: &Path, options: &InspectOptions) -> Result<Report> {
    let mut images = Images::new(options.environment);
    let Loaded { form, compression, digest, size } =
        load(path, &bases_of(path, &options.bases), &mut images)?;
    let header = Header { compression, digest, ..Header::of(&images) };
    let statistics = images.get("stats-dump").and_then(|bytes| match DumpStats::parse(bytes) {
        Ok(stats) => Some(Statistics::of(&stats)),
        Err(error) => {
            images.problem("stats-dump", &error);
            None
        }
    });
    let processes = processes::read(&images, options.environment);
    let mounts = processes::mounts(&images);
    Ok(Report {
        schema: report::SCHEMA,
        path: path.to_string_lossy().into_owned(),
        form,
        host: host::compare(&header, &images.cpu_features(), options.criu.as_deref()),
        summary: Summary::of(&processes, &mounts),
        checkpoint: header,
        size,
        statistics,
        processes,
        mounts,
        problems: images.problems(),
    })
}

/// What the images are in.
struct Loaded {
    form: &'static str,
    compression: Option<String>,
    digest: Option<String>,
    size: Sizes,
}

/// Reads the images.
fn load(path: &Path, bases: &Bases, images: &mut Images) -> Result<Loaded> {
    let opening = || format!("open {}", path.display());
    let file = File::open(path).context(opening)?;
    let metadata = file.metadata().context(opening)?;
    if metadata.is_dir() {
        let size = directory::read(&file, images)?;
        return Ok(Loaded { form: "images", compression: None, digest: None, size });
    }
    let contents = from_archive(&file, path, bases, images).context(|| format!("read {}", path.display()))?;
    let size = Sizes::of_archive(metadata.len(), &contents);
    let compression = Some(contents.compression.to_owned());
    Ok(Loaded { form: "archive", compression, digest: contents.digest, size })
}

/// Reads it once, and once more if pages stand before the tables that tell which of them are wanted.
fn from_archive(file: &File, path: &Path, bases: &Bases, images: &mut Images) -> Result<archive::Contents> {
    let contents = archive::select(file, bases, images)?;
    if images.wants_pages_again() {
        archive::select(File::open(path).context(|| "open it once more")?, bases, images)?;
    }
    Ok(contents)
}
