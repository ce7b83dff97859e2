// SPDX-License-Identifier: Apache-2.0
//! `migrate inspect`.

use std::path::PathBuf;

use crate::Result;
use crate::cli::{Global, output};
use crate::inspect::{Environment, InspectOptions, Section, inspect};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Print the processes
    #[arg(long)]
    tree: bool,
    /// Print the descriptors of each process
    #[arg(long)]
    files: bool,
    /// Print the sockets of each process
    #[arg(long)]
    sockets: bool,
    /// Print the mounts
    #[arg(long)]
    mounts: bool,
    /// Print what memory each process has
    #[arg(long)]
    memory: bool,
    /// Print the environment of each process, which may hold secrets
    #[arg(long)]
    env: bool,
    /// Print everything as JSON, environments only with --env
    #[arg(long)]
    json: bool,
    /// Archive that it needs, or the directory that it is in [default: the archive's directory]
    #[arg(long, value_name = "FILE|DIR")]
    base_archive: Vec<PathBuf>,
    /// An archive, of this program's or of Podman, CRI-O or containerd, or a directory of CRIU's images
    #[arg(value_name = "FILE|DIR")]
    path: PathBuf,
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<()> {
        let mut options = InspectOptions::default();
        options.criu.clone_from(&global.criu);
        options.bases.clone_from(&self.base_archive);
        if self.env {
            options.environment = Environment::Shown;
        }
        let report = inspect(&self.path, &options)?;
        if self.json { output::json(&report) } else { output::text(&report.text(&self.sections())) }
    }

    fn sections(&self) -> Vec<Section> {
        let asked = [
            (self.tree, Section::Tree),
            (self.files, Section::Files),
            (self.sockets, Section::Sockets),
            (self.mounts, Section::Mounts),
            (self.memory, Section::Memory),
            (self.env, Section::Environment),
        ];
        asked.iter().filter(|(asked, _)| *asked).map(|(_, section)| *section).collect()
    }
}
