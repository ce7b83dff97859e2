// SPDX-License-Identifier: Apache-2.0
//! What is known of a container whose dump failed: it runs on, so its processes can be asked.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::unistd::Pid;

use super::CheckpointOptions;
use crate::criu::TcpConnections;
use crate::diagnose::{Context, OpenFile, Process};
use crate::engine::Container;
use crate::spec::Config;
use crate::spec::oci::LinuxNamespaceType;
use crate::sys::proc;

/// Processes, and descriptors of each, that are looked at.
const PROCESSES: usize = 1000;
const DESCRIPTORS: usize = 4096;

/// For the sentences about a failed dump. What has gone since is left out.
pub(super) fn context(
    container: &Container,
    config: &Config,
    options: &CheckpointOptions,
    images: BorrowedFd<'_>,
) -> Context {
    let mut context = Context { id: container.id().to_string(), ..Context::default() };
    context.images =
        proc::fd_target(Pid::this(), images.as_raw_fd()).ok().map(|path| path.display().to_string());
    context.flags = [
        (options.tcp == TcpConnections::Keep, "--tcp-established"),
        (options.ext_unix_sk, "--ext-unix-sk"),
        (options.file_locks, "--file-locks"),
        (options.link_remap, "--link-remap"),
        (options.shell_job, "--shell-job"),
    ]
    .into_iter()
    .filter_map(|(given, flag)| given.then_some(flag))
    .collect();
    let namespaces = config.spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    context.user_namespace =
        namespaces.is_some_and(|n| n.iter().any(|n| n.typ() == LinuxNamespaceType::User));
    for host in container.processes().unwrap_or_default().into_iter().take(PROCESSES) {
        let process = Pid::from_raw(host);
        let (Ok(pid), Ok(command)) = (proc::innermost_pid(process), proc::command(process)) else { continue };
        context.open.extend(anonymous(process, pid));
        context.processes.push(Process { host: Some(host), pid, command });
    }
    context
}

/// Descriptors of what has no path and is known by its kind alone.
fn anonymous(process: Pid, pid: i32) -> Vec<OpenFile> {
    let entries = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    let opened = entries.take(DESCRIPTORS).filter_map(|entry| {
        let fd = entry.file_name().to_str()?.parse().ok()?;
        let target = fs::read_link(entry.path()).ok()?.to_str()?.to_owned();
        target.starts_with("anon_inode:").then_some(OpenFile { pid, fd, target })
    });
    opened.collect()
}
