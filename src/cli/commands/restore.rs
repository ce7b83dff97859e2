// SPDX-License-Identifier: Apache-2.0
//! `migrate restore`.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use super::checkpoint::CriuArgs;
use super::create::{detached_io, refuse_console_socket, require_pid_file, write_pid_file};
use super::run::stay;
use crate::cli::progress::Bar;
use crate::cli::{Global, criu_values, exit, parse_id};
use crate::engine::{Container, ContainerId, Foreground, ProcessIo};
use crate::restore::{RestoreOptions, Source, restore};
use crate::{Context, Error, ErrorKind, Result};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The id of the restored container
    #[arg(value_name = "CONTAINER", value_parser = parse_id)]
    id: ContainerId,
    /// Restore from one file that `checkpoint --export` wrote; `-` is stdin
    #[arg(short, long, value_name = "FILE", conflicts_with = "image_path")]
    import: Option<PathBuf>,
    /// Directory of the images [default: ./checkpoint]
    #[arg(long, value_name = "DIR")]
    image_path: Option<PathBuf>,
    /// Directory for CRIU's log and statistics [default: that of the images]
    #[arg(long, value_name = "DIR")]
    work_path: Option<PathBuf>,
    /// Directory with config.json [default: the working directory, or one of the container's own with --import]
    #[arg(short, long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Return as soon as the container runs
    #[arg(short, long)]
    detach: bool,
    /// Write the pid of the container's first process to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Socket that receives the master of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Do not reap the container's orphans
    #[arg(long)]
    no_subreaper: bool,
    /// Accepted for runc's clients: CRIU pivots by itself
    #[arg(long)]
    no_pivot: bool,
    #[command(flatten)]
    criu: CriuArgs,
    /// Start before all memory is there: `criu lazy-pages` must be running in the work directory
    #[arg(long)]
    lazy_pages: bool,
    /// Profile of a security module instead of the one at the checkpoint: apparmor:NAME or selinux:LABEL
    #[arg(long, value_name = "PROFILE")]
    lsm_profile: Option<String>,
    /// SELinux's context for tmpfs mounts instead of the one at the checkpoint
    #[arg(long, value_name = "CONTEXT")]
    lsm_mount_context: Option<String>,
    /// Descriptor for an object that was outside, as CRIU spells it: `fd[N]:KEY`
    #[arg(long, value_name = "fd[N]:KEY", value_parser = criu_values::inherited_object)]
    inherit_fd: Vec<(String, Arc<OwnedFd>)>,
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<ExitCode> {
        if self.detach {
            self.restore(global, detached_io(self.console_socket.as_deref())?)?;
            return Ok(exit::SUCCESS.into());
        }
        refuse_console_socket(self.console_socket.as_deref())?;
        let (foreground, io) = Foreground::new(!self.no_subreaper)?;
        let container = self.restore(global, io)?;
        stay(container, foreground, false)
    }

    fn options(&self, global: &Global) -> Result<RestoreOptions> {
        let mut options = RestoreOptions::default();
        options.criu.clone_from(&global.criu);
        options.work_path.clone_from(&self.work_path);
        options.bundle.clone_from(&self.bundle);
        options.tcp = self.criu.tcp();
        options.ext_unix_sk = self.criu.ext_unix_sk();
        options.shell_job = self.criu.shell_job();
        options.file_locks = self.criu.file_locks();
        options.manage_cgroups = self.criu.manage_cgroups();
        options.timeout = self.criu.timeout();
        options.external = self.criu.external().to_vec();
        options.auto_dedup = self.criu.auto_dedup();
        options.lazy_pages = self.lazy_pages;
        options.lsm_profile.clone_from(&self.lsm_profile);
        options.lsm_mount_context.clone_from(&self.lsm_mount_context);
        for (key, fd) in &self.inherit_fd {
            let fd = fd.try_clone().context(|| "duplicate a descriptor of --inherit-fd")?;
            options.inherit.push((key.clone(), fd));
        }
        Ok(options)
    }

    fn source(&self) -> Result<Source> {
        Ok(match &self.import {
            None => Source::Images(self.image_path.clone()),
            Some(path) if path.as_os_str() == "-" => Source::Archive {
                name: "the archive on standard input".to_owned(),
                bytes: Box::new(std::io::stdin()),
            },
            Some(path) => {
                let file = File::open(path).map_err(|e| {
                    let missing = e.kind() == std::io::ErrorKind::NotFound;
                    let kind = if missing { ErrorKind::NotFound } else { ErrorKind::System };
                    Error::new(kind, format!("open the archive {}", path.display())).with_source(e)
                })?;
                if !file.metadata().context(|| format!("stat {}", path.display()))?.is_dir() {
                    return Ok(Source::Archive {
                        name: format!("archive {}", path.display()),
                        bytes: Box::new(file),
                    });
                }
                return Err(Error::new(
                    ErrorKind::InvalidArchive,
                    format!("{} is a directory, not an archive", path.display()),
                )
                .with_hint("restore from a directory of images with --image-path"));
            }
        })
    }

    /// Restores and writes the pid file. When that cannot be written, the container is removed again.
    fn restore(&self, global: &Global, io: ProcessIo) -> Result<Container> {
        let (source, options) = (self.source()?, self.options(global)?);
        // Once the processes have run, their files are not those of the checkpoint any more: it could not be tried again.
        self.pid_file.as_deref().map_or(Ok(()), require_pid_file)?;
        let mut bar = Bar::new("importing");
        let container = restore(&global.state_root()?, self.id.clone(), source, &options, io, &mut bar)?;
        let pid = container.init().map(|init| init.pid);
        if let (Some(path), Some(pid)) = (&self.pid_file, pid)
            && let Err(error) = write_pid_file(path, pid)
        {
            return Err(error.with_cleanup(container.delete(true).err()));
        }
        Ok(container)
    }
}
