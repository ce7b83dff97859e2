// SPDX-License-Identifier: Apache-2.0
//! `migrate inspect`.

use std::path::PathBuf;

use super::container;
use crate::cli::signed::SignedArgs;
use crate::cli::{Global, output};
use crate::engine::{Container, InitProcess};
use crate::inspect::{
    Environment, InspectOptions, Report, RunningContainer, Section, inspect, inspect_running,
};
use crate::{Context, Error, ErrorKind, Result};

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
    #[command(flatten)]
    signed: SignedArgs,
    /// An archive, of this program's or of Podman, CRI-O or containerd, a directory of CRIU's images, or the id of a container that runs
    #[arg(value_name = "FILE|DIR|CONTAINER")]
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
        let report = match container(&self.path, global)? {
            Some(container) => {
                if !self.base_archive.is_empty() || self.signed.are_given() {
                    let message = "--base-archive and --verify go with an archive, not with a container";
                    return Err(Error::new(ErrorKind::InvalidInput, message));
                }
                running(&container, &options)?
            }
            None => {
                self.signed.require(&self.path)?;
                inspect(&self.path, &options)?
            }
        };
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

fn running(container: &Container, options: &InspectOptions) -> Result<Report> {
    let attempt = || format!("look at container {}", container.id());
    let init = container.init().filter(InitProcess::is_alive).ok_or_else(|| {
        Error::new(ErrorKind::WrongStatus, format!("container {} has no process", container.id()))
    })?;
    let running = RunningContainer {
        id: container.id().to_string(),
        hostname: container.config()?.spec.hostname().clone(),
        created: Some(container.state().created.clone()),
        init: init.pid,
        pids: container.processes().context(attempt)?,
        outside: container.state().external_descriptors.to_vec(),
    };
    inspect_running(&running, options).context(attempt)
}
