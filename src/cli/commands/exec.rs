// SPDX-License-Identifier: Apache-2.0
//! `migrate exec`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::create::{detached_io, not_yet, refuse_console_socket, write_pid_file};
use crate::cli::{Global, exit, parse_id};
use crate::engine::{Container, ContainerId, ExecOptions, Foreground, Process};
use crate::spec::{Config, oci};
use crate::{Context, Error, ErrorKind, Result};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The container's id
    #[arg(value_name = "CONTAINER", value_parser = parse_id)]
    id: ContainerId,
    /// The program and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
    /// Working directory in the container
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Environment variable, on top of the container's; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Allocate a terminal
    #[arg(short, long)]
    tty: bool,
    /// User, as UID or UID:GID
    #[arg(short, long, value_name = "UID[:GID]", value_parser = parse_user)]
    user: Option<(u32, Option<u32>)>,
    /// Further group id; may be repeated
    #[arg(short = 'g', long = "additional-gids", value_name = "GID")]
    additional_gids: Vec<u32>,
    /// File with the process as JSON, in place of the command and its flags
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Return as soon as the process runs
    #[arg(short, long)]
    detach: bool,
    /// Write the pid of the process to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Set no_new_privs
    #[arg(long)]
    no_new_privs: bool,
    /// Further capability; may be repeated
    #[arg(short, long, value_name = "CAPABILITY")]
    cap: Vec<String>,
    /// Run in a paused container too
    #[arg(long)]
    ignore_paused: bool,
    /// Socket that receives the master of the terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Number of further descriptors to pass on
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    preserve_fds: u32,
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<ExitCode> {
        if self.preserve_fds > 0 {
            return Err(not_yet("--preserve-fds"));
        }
        let container = global.state_root()?.load(&self.id)?;
        let process = self.process(&container)?;
        let mut options = ExecOptions { ignore_paused: self.ignore_paused, ..ExecOptions::default() };
        if self.detach {
            options.io = detached_io(self.console_socket.as_deref())?;
            let child = container.exec(&process, options)?;
            self.write_pid(child.pid.as_raw())?;
            return Ok(exit::SUCCESS.into());
        }
        refuse_console_socket(self.console_socket.as_deref())?;
        let (foreground, io) = Foreground::new(true)?;
        options.io = io;
        let child = container.exec(&process, options)?;
        self.write_pid(child.pid.as_raw())?;
        let code = foreground.wait(child.pid, &child.pidfd)?;
        Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
    }

    fn write_pid(&self, pid: i32) -> Result<()> {
        self.pid_file.as_deref().map_or(Ok(()), |path| write_pid_file(path, pid))
    }

    /// The process of `--process`, or that of the bundle's config.json as it is now, changed by the flags.
    fn process(&self, container: &Container) -> Result<Process> {
        if let Some(path) = &self.process {
            let bytes = std::fs::read(path).context(|| format!("read {}", path.display()))?;
            let spec = serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(&bytes))
                .map_err(|e| {
                    let message = format!("invalid process in {}: field `{}`", path.display(), e.path());
                    Error::new(ErrorKind::InvalidConfig, message).with_source(e.into_inner())
                })?;
            return Ok(Process::from_spec(spec));
        }
        if self.command.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "process args cannot be empty")
                .with_hint("name the program to run after the container's id, or pass --process"));
        }
        let config = Config::load(&container.state().bundle).or_else(|_| container.config())?;
        let mut spec: oci::Process = config.spec.process().clone().ok_or_else(|| {
            Error::new(ErrorKind::InvalidConfig, "invalid configuration: field `process` is required")
        })?;
        spec.set_args(Some(self.command.clone()));
        spec.set_terminal(Some(self.tty));
        if let Some(cwd) = &self.cwd {
            spec.set_cwd(cwd.clone());
        }
        let mut env = spec.env().clone().unwrap_or_default();
        env.extend(self.env.iter().cloned());
        spec.set_env(Some(env));
        if self.no_new_privs {
            spec.set_no_new_privileges(Some(true));
        }
        self.set_user(&mut spec);
        let mut process = Process::from_spec(spec);
        process.add_capabilities(self.cap.iter().cloned());
        Ok(process)
    }

    fn set_user(&self, spec: &mut oci::Process) {
        let mut user = spec.user().clone();
        if let Some((uid, gid)) = self.user {
            user.set_uid(uid);
            if let Some(gid) = gid {
                user.set_gid(gid);
            }
        }
        if !self.additional_gids.is_empty() {
            let mut gids = user.additional_gids().clone().unwrap_or_default();
            gids.extend(&self.additional_gids);
            user.set_additional_gids(Some(gids));
        }
        spec.set_user(user);
    }
}

fn parse_user(text: &str) -> std::result::Result<(u32, Option<u32>), String> {
    let number = |part: &str| part.parse::<u32>().map_err(|_| format!("`{part}` is not a number"));
    match text.split_once(':') {
        Some((uid, gid)) => Ok((number(uid)?, Some(number(gid)?))),
        None => Ok((number(text)?, None)),
    }
}
