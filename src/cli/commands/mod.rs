// SPDX-License-Identifier: Apache-2.0
//! The commands. Each file has the flags of one command and runs it.

pub(super) mod agent;
pub(super) mod archives;
pub(super) mod check;
pub(super) mod checkpoint;
pub(super) mod create;
pub(super) mod delete;
pub(super) mod diff;
pub(super) mod events;
pub(super) mod exec;
pub(super) mod features;
pub(super) mod inspect;
pub(super) mod kill;
pub(super) mod list;
pub(super) mod migrations;
pub(super) mod ps;
pub(super) mod pull;
pub(super) mod push;
pub(super) mod receive;
pub(super) mod resolve;
pub(super) mod restore;
pub(super) mod run;
pub(super) mod sign;
pub(super) mod spec;
pub(super) mod state;
pub(super) mod to;
pub(super) mod update;
pub(super) mod verify;

use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{Global, exit, parse_id};
use crate::engine::{Container, ContainerId};
use crate::{ErrorKind, Result};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Receive containers of hosts that are trusted by their keys, and say which those are
    Agent(agent::Args),
    /// List the archives in a directory, or remove the oldest of them
    Archives(archives::Args),
    /// Tell whether a checkpoint is possible, and what stands in its way
    Check(check::Args),
    /// Checkpoint a running container, to a directory or into one file
    Checkpoint(checkpoint::Args),
    /// Create a container that waits for `start`
    Create(create::Args),
    /// Remove a container and everything that belongs to it
    Delete(delete::Args),
    /// Tell what has changed between two checkpoints: processes, descriptors, memory
    Diff(diff::Args),
    /// Tell what a container uses, and when it runs out of memory
    Events(events::Args),
    /// Run a further process in a container
    Exec(exec::Args),
    /// Print what this program can do as JSON
    Features(features::Args),
    /// Look into an archive or a directory of images without restoring it, or into a container that runs
    Inspect(inspect::Args),
    /// Send a signal to a container's first process
    Kill(kill::Args),
    /// List containers
    List(list::Args),
    /// List migrations from and to this host, and how far they are
    Migrations(migrations::Args),
    /// Freeze a container's processes
    Pause(OneContainer),
    /// List the processes in a container
    Ps(ps::Args),
    /// Make one file of a checkpoint in a registry
    Pull(pull::Args),
    /// Put a checkpoint in one file into a registry
    Push(push::Args),
    /// Receive a container that `migrate to` sends
    Receive(receive::Args),
    /// Decide who keeps a container when one side of its migration is lost
    Resolve(resolve::Args),
    /// Restore a container from a directory or from one file
    Restore(restore::Args),
    /// Let a paused container go on
    Resume(OneContainer),
    /// Create a container and start it
    Run(run::Args),
    /// Sign an archive
    Sign(sign::Args),
    /// Write a first config.json
    Spec(spec::Args),
    /// Start a created container
    Start(OneContainer),
    /// Print a container's state as JSON
    State(OneContainer),
    /// Move a running container to another host
    To(to::Args),
    /// Change a container's limits
    Update(update::Args),
    /// Read an archive and compare it with its digests, without restoring it
    Verify(verify::Args),
}

/// A command that needs nothing but a container.
#[derive(Debug, Args)]
pub(super) struct OneContainer {
    /// The container's id
    #[arg(value_name = "CONTAINER", value_parser = parse_id)]
    id: ContainerId,
}

impl OneContainer {
    fn load(&self, global: &Global) -> Result<Container> {
        global.state_root()?.load(&self.id)
    }
}

fn start(mut container: Container) -> Result<()> {
    let notify = run::start_with_proxy(&mut container)?;
    run::wait_until_ready(&container, notify);
    Ok(())
}

impl Command {
    pub(super) fn run(&self, global: &Global) -> Result<ExitCode> {
        let done = |result: Result<()>| result.map(|()| ExitCode::from(exit::SUCCESS));
        match self {
            Self::Agent(args) => done(args.run(global)),
            Self::Archives(args) => done(args.run()),
            Self::Check(args) => args.run(global),
            Self::Checkpoint(args) => done(args.run(global)),
            Self::Create(args) => done(args.run(global)),
            Self::Delete(args) => done(args.run(global)),
            Self::Diff(args) => done(args.run()),
            Self::Events(args) => done(args.run(global)),
            Self::Exec(args) => args.run(global),
            Self::Features(_) => done(features::run()),
            Self::Inspect(args) => done(args.run(global)),
            Self::Kill(args) => done(args.run(global)),
            Self::List(args) => done(args.run(global)),
            Self::Migrations(args) => done(args.run(global)),
            Self::Pause(args) => done(args.load(global).and_then(|mut c| c.pause())),
            Self::Ps(args) => args.run(global),
            Self::Pull(args) => done(args.run()),
            Self::Push(args) => done(args.run(global)),
            Self::Receive(args) => done(args.run(global)),
            Self::Resolve(args) => done(args.run(global)),
            Self::Restore(args) => args.run(global),
            Self::Resume(args) => done(args.load(global).and_then(|mut c| c.resume())),
            Self::Run(args) => args.run(global),
            Self::Sign(args) => done(args.run()),
            Self::Spec(args) => done(args.run()),
            Self::Start(args) => done(args.load(global).and_then(start)),
            Self::State(args) => done(args.load(global).and_then(|c| state::print(&c))),
            Self::To(args) => done(args.run(global)),
            Self::Update(args) => done(args.run(global)),
            Self::Verify(args) => done(args.run()),
        }
    }
}

/// The container of that id, unless there is such a file.
fn container(name: &Path, global: &Global) -> Result<Option<Container>> {
    let name = name.to_str().filter(|_| name.symlink_metadata().is_err());
    let Some(id) = name.and_then(|name| parse_id(name).ok()) else { return Ok(None) };
    match global.state_root()?.load(&id) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}
