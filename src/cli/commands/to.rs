// SPDX-License-Identifier: Apache-2.0
//! `migrate to`.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use super::restore::mapped_mount;
use crate::checkpoint::signals_to_give_up;
use crate::cli::{Global, output, parse_id};
use crate::criu::TcpConnections;
use crate::engine::ContainerId;
use crate::migration::members::MOST;
use crate::migration::protocol::{none_in_the_way, shown};
use crate::migration::{
    Endpoint, MigrationId, MoveOptions, Moved, Progress, RoundLimits, Shell, proceed, survey, to,
};
use crate::restore::MappedMount;
use crate::{Context, Error, ErrorKind, Result};

/// The variable with another program than ssh.
const SSH_COMMAND: &str = "MIGRATE_SSH_COMMAND";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Where to: [USER@]HOST, ssh://[USER@]HOST[:PORT], tls://HOST[:PORT], or unix:PATH
    #[arg(value_name = "DESTINATION", required_unless_present = "continue_")]
    destination: Option<Endpoint>,
    /// The container's id, here and there; with several all of them arrive, or none does
    #[arg(value_name = "CONTAINER", value_parser = parse_id, num_args = 1..=MOST, required_unless_present = "continue_")]
    ids: Vec<ContainerId>,
    /// Go on with a migration that has not come to its end
    #[arg(long = "continue", value_name = "MIGRATION", id = "continue_", conflicts_with_all = ["destination", "ids", "dry_run"])]
    proceed: Option<MigrationId>,
    /// Tell what is in the way on both hosts, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Write what it came to into this file, as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print a line of JSON as each phase begins, after each round of memory or files, and of several containers as each stands still
    #[arg(long)]
    json_progress: bool,
    /// Program that leads to the other host, in place of ssh, and its first arguments
    #[arg(long, value_name = "COMMAND")]
    ssh_command: Option<String>,
    /// The program there [default: migrate]
    #[arg(long, value_name = "COMMAND")]
    remote_command: Option<String>,
    /// Directory with this host's key and the hosts that it trusts, for tls: [default: /etc/migrate/agent]
    #[arg(long, value_name = "DIR")]
    agent_dir: Option<PathBuf>,
    /// What is mounted at DESTINATION there, instead of what the configuration says; of no effect with tls: and unix:
    #[arg(long, value_name = "DESTINATION=SOURCE", value_parser = mapped_mount)]
    map_mount: Vec<MappedMount>,
    /// What the configuration may have of the other host, as for `receive`; of no effect with tls: and unix:
    #[arg(long, value_name = "WHAT", value_delimiter = ',', value_parser = ["mounts", "devices", "hooks", "namespaces", "privileges", "all"])]
    allow: Vec<String>,
    /// Send memory at most so often while the container runs, and the rest when it stands still; 0: all of it then
    #[arg(long, value_name = "N", default_value_t = RoundLimits::default().most)]
    memory_rounds: u32,
    /// Stop the container as soon as it is expected to stand still for no longer than so many milliseconds
    #[arg(long, value_name = "MS", default_value_t = RoundLimits::default().downtime.as_millis() as u64)]
    downtime_target: u64,
    /// Send at most so many MiB a second while the container runs; what is left when it stands still goes as fast as it can
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    bandwidth: Option<u64>,
    /// Slow the container down, by its share of processor time, when what it writes does not get less from round to round, until it
    /// has stopped
    #[arg(long)]
    auto_converge: bool,
    /// Send files at most so often while the container runs, and the rest when it stands still; 0: all of them then
    #[arg(long, value_name = "N", default_value_t = RoundLimits::default().files)]
    rootfs_rounds: u32,
    /// Take established TCP connections along; the container's address must come along as well
    #[arg(long)]
    tcp_established: bool,
    /// Take the addresses and routes of the container's network namespace along, which is one by path on both hosts, with
    /// interfaces of the same names
    #[arg(long)]
    move_address: bool,
    /// Bring established TCP connections back closed
    #[arg(long, conflicts_with = "tcp_established")]
    tcp_close: bool,
    /// Let the other end of a unix socket be outside of the container
    #[arg(long)]
    ext_unix_sk: bool,
    /// Take file locks along
    #[arg(long)]
    file_locks: bool,
    /// Leave out TCP connections that are still being set up
    #[arg(long)]
    tcp_skip_in_flight: bool,
    /// Link unlinked open files back into their directory
    #[arg(long)]
    link_remap: bool,
    /// Do not look for what cannot be checkpointed: let CRIU find out
    #[arg(long)]
    no_check: bool,
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<()> {
        let root = global.state_root()?;
        let json = self.json_progress;
        let mut tell = |progress: Progress| {
            if json {
                // Who does not read it any more shall not keep a container from where it is going.
                let _ = output::json_line(&progress);
            }
        };
        // Before any thread is made.
        let give_up = signals_to_give_up()?;
        let moved = match (&self.proceed, &self.destination) {
            (Some(migration), _) => proceed(&root, *migration, Some(give_up), &mut tell)?,
            (None, Some(destination)) => {
                let mut options = self.options(global, destination)?;
                if self.dry_run {
                    let containers = self.ids.iter().map(|id| root.load(id)).collect::<Result<Vec<_>>>()?;
                    return dry_run(&survey(&containers, &options)?);
                }
                options.give_up = Some(give_up);
                to(&root, &self.ids, options, &mut tell)?
            }
            (None, None) => {
                return Err(Error::new(ErrorKind::InvalidInput, "a destination and a container are needed"));
            }
        };
        self.conclude(&moved)
    }

    fn options(&self, global: &Global, destination: &Endpoint) -> Result<MoveOptions> {
        let mut options = MoveOptions::new(destination.clone());
        let checkpoint = &mut options.checkpoint;
        checkpoint.criu.clone_from(&global.criu);
        checkpoint.tcp = match (self.tcp_established, self.tcp_close) {
            (true, _) => TcpConnections::Keep,
            (false, true) => TcpConnections::Close,
            (false, false) => TcpConnections::Refuse,
        };
        checkpoint.tcp_skip_in_flight = self.tcp_skip_in_flight;
        checkpoint.addresses_leave = self.move_address;
        checkpoint.ext_unix_sk = self.ext_unix_sk;
        checkpoint.file_locks = self.file_locks;
        checkpoint.link_remap = self.link_remap;
        checkpoint.no_check = self.no_check;
        options.shell = self.shell()?;
        options.rounds.most = self.memory_rounds;
        options.rounds.bandwidth = self.bandwidth.map(|mebibytes| mebibytes << 20);
        options.rounds.auto_converge = self.auto_converge;
        options.rounds.files = self.rootfs_rounds;
        options.rounds.downtime = Duration::from_millis(self.downtime_target);
        Ok(options)
    }

    fn shell(&self) -> Result<Shell> {
        let mut shell = Shell::default();
        let of_environment = || std::env::var(SSH_COMMAND).ok().filter(|command| !command.is_empty());
        if let Some(command) = self.ssh_command.clone().or_else(of_environment) {
            shell.command = command;
        }
        if let Some(remote) = &self.remote_command {
            shell.remote.clone_from(remote);
        }
        if let Some(directory) = &self.agent_dir {
            shell.agent =
                std::path::absolute(directory).context(|| format!("resolve {}", directory.display()))?;
        }
        for mount in &self.map_mount {
            let mapped = format!("{}={}", mount.destination, mount.source.display());
            shell.receive.extend(["--map-mount".to_owned(), mapped]);
        }
        if !self.allow.is_empty() {
            shell.receive.extend(["--allow".to_owned(), self.allow.join(",")]);
        }
        Ok(shell)
    }

    fn conclude(&self, moved: &Moved) -> Result<()> {
        if let Some(path) = &self.report {
            let bytes = serde_json::to_vec_pretty(moved).context(|| "serialise the report")?;
            fs::File::create(path)
                .and_then(|mut file| file.write_all(&bytes))
                .context(|| format!("write {}", path.display()))?;
        }
        if self.json_progress {
            return output::json_line(moved);
        }
        let downtime =
            moved.downtime.map(|time| format!(", and ran nowhere for {:.0} ms", time.as_secs_f64() * 1000.0));
        let downtime = downtime.unwrap_or_default();
        let what = match moved.members.len() {
            0 => format!("container {} runs", moved.container),
            _ => format!("containers {} run", moved.container.replace(',', ", ")),
        };
        output::text(&format!("{what} at {}{downtime}\n", moved.destination))
    }
}

/// Prints what both hosts say.
fn dry_run(
    (blockers, answer): &(Vec<crate::migration::protocol::Blocker>, crate::migration::protocol::Answer),
) -> Result<()> {
    none_in_the_way(blockers)?;
    output::text(&format!(
        "nothing is in the way: criu {}, kernel {} and {} bytes free there\n",
        shown(&answer.criu),
        shown(&answer.kernel),
        answer.free
    ))
}
