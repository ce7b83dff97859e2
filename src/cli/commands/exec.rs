// SPDX-License-Identifier: Apache-2.0
//! `migrate exec`.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use super::create::{detached_io, refuse_console_socket, write_pid_file};
use crate::cgroup::SubCgroups;
use crate::cli::{Global, exit, parse_id};
use crate::engine::{
    Container, ContainerId, ExecOptions, Foreground, PidfdSocket, Process, ProcessKind, UserId,
};
use crate::spec::{Config, oci, parse_process};
use crate::sys::spawn::Spawned;
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
    /// User, by number or by its name in the container
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
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
    /// Socket that receives a pidfd of the process
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// Existing cgroup beneath the container's; may be repeated with controllers
    #[arg(long, value_name = "[CONTROLLER:]CGROUP")]
    cgroup: Vec<String>,
    /// Fifo at which the process waits for a reader before it executes its program
    #[arg(long, value_name = "FIFO")]
    exec_wait_fifo: Option<PathBuf>,
    /// AppArmor profile of the process
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// SELinux label of the process
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<ExitCode> {
        self.run_process(global).context(|| "exec failed")
    }

    fn run_process(&self, global: &Global) -> Result<ExitCode> {
        let passed = global.inherited.pass(self.preserve_fds)?;
        let container = global.state_root()?.load(&self.id)?;
        let mut process = self.process(&container)?;
        process.spec_mut().env_mut().get_or_insert_default().extend(passed.environment);
        let pidfd_socket = self.pidfd_socket.as_deref().map(PidfdSocket::connect).transpose()?;
        let options = ExecOptions {
            ignore_paused: self.ignore_paused,
            preserve_fds: passed.descriptors,
            cgroups: SubCgroups::parse(&self.cgroup)?,
            wait_fifo: self.exec_wait_fifo.clone(),
            ..ExecOptions::default()
        };
        let (foreground, io) = if self.detach {
            (None, detached_io(self.console_socket.as_deref())?)
        } else {
            refuse_console_socket(self.console_socket.as_deref())?;
            let (foreground, io) = Foreground::new(true)?;
            (Some(foreground), io)
        };
        let process = container.exec(process.io(io), &options)?;
        let child = process.spawned();
        self.tell(child, pidfd_socket.as_ref()).inspect_err(|_| child.kill())?;
        let Some(foreground) = foreground else { return Ok(exit::SUCCESS.into()) };
        let code = foreground.wait(child.pid, &child.pidfd)?;
        Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
    }

    /// Tells who waits for the process which one it is.
    fn tell(&self, child: &Spawned, pidfd_socket: Option<&PidfdSocket>) -> Result<()> {
        if let Some(socket) = pidfd_socket {
            socket.send(ProcessKind::Further, child.pidfd.as_fd())?;
        }
        self.pid_file.as_deref().map_or(Ok(()), |path| write_pid_file(path, child.pid.as_raw()))
    }

    /// The process of `--process`, or that of the bundle's config.json as it is now, changed by the flags.
    fn process(&self, container: &Container) -> Result<Process> {
        if let Some(path) = &self.process {
            let bytes = std::fs::read(path).context(|| format!("read {}", path.display()))?;
            let spec = parse_process(&bytes).context(|| format!("read {}", path.display()))?;
            return Ok(Process::from_spec(spec));
        }
        if self.command.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "process args cannot be empty")
                .with_hint("name the program to run after the container's id, or pass --process"));
        }
        let config = match Config::load(&container.state().bundle) {
            Ok(config) => Arc::new(config),
            Err(_) => container.config()?,
        };
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
        if self.apparmor.is_some() {
            spec.set_apparmor_profile(self.apparmor.clone());
        }
        if self.process_label.is_some() {
            spec.set_selinux_label(self.process_label.clone());
        }
        self.set_user(container, &mut spec)?;
        let mut process = Process::from_spec(spec);
        process.add_capabilities(self.cap.iter().cloned());
        Ok(process)
    }

    fn set_user(&self, container: &Container, spec: &mut oci::Process) -> Result<()> {
        let mut user = spec.user().clone();
        if let Some(text) = &self.user {
            let UserId { uid, gid, additional_gids } = container.user(text)?;
            user.set_uid(uid);
            user.set_gid(gid.unwrap_or(user.gid()));
            user.additional_gids_mut().get_or_insert_default().extend(additional_gids);
        }
        user.additional_gids_mut().get_or_insert_default().extend(&self.additional_gids);
        spec.set_user(user);
        Ok(())
    }
}
