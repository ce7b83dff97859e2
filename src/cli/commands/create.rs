// SPDX-License-Identifier: Apache-2.0
//! `migrate create`.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::cli::{Global, parse_id};
use crate::engine::{Console, Container, ContainerBuilder, ContainerId, PidfdSocket, ProcessIo, ProcessKind};
use crate::sys;
use crate::{Context, Error, ErrorKind, Result};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The new container's id
    #[arg(value_name = "CONTAINER", value_parser = parse_id)]
    id: ContainerId,
    #[command(flatten)]
    pub(super) bundle: BundleArgs,
}

/// The flags that `create` and `run` share.
#[derive(Debug, clap::Args)]
pub(super) struct BundleArgs {
    /// Directory with config.json [default: the working directory]
    #[arg(short, long, value_name = "DIR", default_value = ".", hide_default_value = true)]
    bundle: PathBuf,
    /// Write the pid of the container's first process to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Do not pivot to the root file system (for a root on a ramdisk)
    #[arg(long)]
    no_pivot: bool,
    /// Do not make a session keyring for the container
    #[arg(long)]
    no_new_keyring: bool,
    /// Socket that receives the master of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Number of further descriptors to pass to the container
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    preserve_fds: u32,
    /// Socket that receives a pidfd of the container's first process
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<()> {
        self.bundle.create(global, &self.id, self.bundle.detached_io()?).map(drop)
    }
}

impl BundleArgs {
    /// What a container gets that its caller does not stay with.
    pub(super) fn detached_io(&self) -> Result<ProcessIo> {
        detached_io(self.console_socket.as_deref())
    }

    /// Refuses a console socket that a command in the foreground has no use for.
    pub(super) fn refuse_console_socket(&self) -> Result<()> {
        refuse_console_socket(self.console_socket.as_deref())
    }

    /// Creates the container and writes the pid file. When that cannot be written, the container is removed again.
    pub(super) fn create(&self, global: &Global, id: &ContainerId, io: ProcessIo) -> Result<Container> {
        let passed = global.inherited.pass(self.preserve_fds)?;
        let pidfd_socket = self.pidfd_socket.as_deref().map(PidfdSocket::connect).transpose()?;
        let container = ContainerBuilder::from_bundle(id.clone(), &self.bundle)
            .no_pivot(self.no_pivot)
            .no_new_keyring(self.no_new_keyring)
            .io(io)
            .preserve_fds(passed.descriptors)
            .environment(passed.environment)
            .notify_socket(notify_address().is_some())
            .create(&global.state_root()?)?;
        match self.tell(&container, pidfd_socket.as_ref()) {
            Ok(()) => Ok(container),
            Err(error) => Err(error.with_cleanup(container.delete(true).err())),
        }
    }

    /// Tells who waits for the first process which one it is.
    fn tell(&self, container: &Container, pidfd_socket: Option<&PidfdSocket>) -> Result<()> {
        let init = container.init().ok_or_else(|| {
            Error::new(ErrorKind::WrongStatus, format!("container {} ended at once", container.id()))
        })?;
        if let Some(socket) = pidfd_socket {
            let pidfd = sys::pidfd::open(init.pid()).context(|| format!("pidfd_open({})", init.pid))?;
            socket.send(ProcessKind::First, pidfd.as_fd())?;
        }
        self.pid_file.as_deref().map_or(Ok(()), |path| write_pid_file(path, init.pid))
    }
}

/// Where the service manager wants to hear that the container is ready, if it does.
pub(super) fn notify_address() -> Option<OsString> {
    std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty())
}

/// The caller's stdio or, for a terminal, whoever listens on the console socket.
pub(super) fn detached_io(console_socket: Option<&Path>) -> Result<ProcessIo> {
    Ok(ProcessIo { console: console_socket.map(Console::connect).transpose()?, ..ProcessIo::default() })
}

/// Who stays with the container holds its terminal too.
pub(super) fn refuse_console_socket(console_socket: Option<&Path>) -> Result<()> {
    console_socket.map_or(Ok(()), |_| Err(Console::unused()))
}

/// Makes sure that a pid file can be written, for a caller whose processes are not to run before they are known.
pub(super) fn require_pid_file(path: &Path) -> Result<()> {
    let context = || format!("write the pid file {}", path.display());
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.file_name().is_none() || path.is_dir() {
        return Err(Error::new(ErrorKind::InvalidInput, context()));
    }
    match std::fs::metadata(parent) {
        Ok(found) if !found.is_dir() => Err(std::io::Error::from(std::io::ErrorKind::NotADirectory)),
        found => found.map(drop),
    }
    .context(context)
}

/// Writes a pid under a temporary name and renames it: who waits for the file never reads half a number.
pub(super) fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    let context = || format!("write the pid file {}", path.display());
    let name = path.file_name().ok_or_else(|| Error::new(ErrorKind::InvalidInput, context()))?;
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    let temporary = path.with_file_name(temporary_name);
    std::fs::write(&temporary, pid.to_string())
        .and_then(|()| std::fs::rename(&temporary, path))
        .context(context)
}
