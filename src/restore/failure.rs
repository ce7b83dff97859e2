// SPDX-License-Identifier: Apache-2.0
//! What is known of a restore that failed: its processes are gone, so their images and the cgroup are asked.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::unistd::Pid;

use super::options::RestoreOptions;
use crate::criu::{TcpConnections, process_names};
use crate::diagnose::{Context, Process};
use crate::engine::NewContainer;
use crate::sys::proc;

/// For the sentences about a failed restore.
pub(super) fn context(new: &NewContainer, options: &RestoreOptions, images: &OwnedFd) -> Context {
    let mut context = Context { id: new.id().to_string(), ..Context::default() };
    context.images =
        proc::fd_target(Pid::this(), images.as_raw_fd()).ok().map(|path| path.display().to_string());
    context.flags = [
        (options.tcp == TcpConnections::Keep, "--tcp-established"),
        (options.ext_unix_sk, "--ext-unix-sk"),
        (options.file_locks, "--file-locks"),
        (options.shell_job, "--shell-job"),
    ]
    .into_iter()
    .filter_map(|(given, flag)| given.then_some(flag))
    .collect();
    context.user_namespace = new.user_namespace().is_some();
    // The cgroup is as old as this restore.
    context.out_of_memory = new.cgroup().oom_kills().is_ok_and(|kills| kills > 0);
    let names = process_names(images.as_fd()).into_iter();
    context.processes = names.map(|(pid, command)| Process { host: None, pid, command }).collect();
    context
}
