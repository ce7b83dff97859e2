// SPDX-License-Identifier: Apache-2.0
//! `migrate run`.

use std::process::ExitCode;

use super::create::{BundleArgs, notify_address};
use crate::cli::{Global, exit, parse_id};
use crate::engine::{Container, ContainerId, Foreground, NotifyProxy};
use crate::sys;
use crate::{Context, Error, ErrorKind, Result};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The new container's id
    #[arg(value_name = "CONTAINER", value_parser = parse_id)]
    id: ContainerId,
    #[command(flatten)]
    bundle: BundleArgs,
    /// Return as soon as the container runs
    #[arg(short, long)]
    detach: bool,
    /// Do not delete the container when it ends
    #[arg(long)]
    keep: bool,
    /// Do not reap the container's orphans
    #[arg(long)]
    no_subreaper: bool,
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<ExitCode> {
        if self.detach {
            let container = self.bundle.create(global, &self.id, self.bundle.detached_io()?)?;
            let (container, notify) = start(container, self.keep)?;
            wait_until_ready(&container, notify);
            return Ok(exit::SUCCESS.into());
        }
        self.bundle.refuse_console_socket()?;
        let (mut foreground, io) = Foreground::new(!self.no_subreaper)?;
        let (container, notify) = start(self.bundle.create(global, &self.id, io)?, self.keep)?;
        foreground.notify(notify);
        stay(container, foreground, self.keep)
    }
}

/// Starts a container that was just created, or removes it unless it is to be kept.
fn start(mut container: Container, keep: bool) -> Result<(Container, Option<NotifyProxy>)> {
    match start_with_proxy(&mut container) {
        Ok(notify) => Ok((container, notify)),
        Err(error) if keep => Err(error),
        Err(error) => Err(error.with_cleanup(container.delete(true).err())),
    }
}

/// Starts a container and listens for its program's being ready, if a service manager wants to hear of it.
pub(super) fn start_with_proxy(container: &mut Container) -> Result<Option<NotifyProxy>> {
    let notify = notify_address().and_then(|address| {
        container.notify_proxy(&address).unwrap_or_else(|error| {
            // The address may be what a service left in the environment of a shell.
            tracing::warn!(error = error.chain(), "nobody will hear when the container's program is ready");
            None
        })
    });
    container.start()?;
    Ok(notify)
}

/// Returns when the program is ready, or has ended. The container runs in any case.
pub(super) fn wait_until_ready(container: &Container, notify: Option<NotifyProxy>) {
    if let (Some(notify), Some(init)) = (notify, container.state().init)
        && let Err(error) = notify.wait(init)
    {
        tracing::warn!(error = error.chain(), "readiness not passed on");
    }
}

/// Stays with the container until it ends, then deletes it; its exit code is ours.
pub(super) fn stay(mut container: Container, foreground: Foreground, keep: bool) -> Result<ExitCode> {
    let init = container.state().init.ok_or_else(|| {
        Error::new(ErrorKind::System, format!("container {} has no process", container.id()))
    })?;
    // It is our child and nobody has waited for it: the pid is its own even if it has ended.
    let pidfd = sys::pidfd::open(init.pid()).context(|| format!("pidfd_open({})", init.pid))?;
    let code = foreground.wait(init.pid(), &pidfd)?;
    if !keep {
        // It may be gone already: deleted by another command, or by a checkpoint, which ends it too.
        // And a checkpoint that was killed may have left nothing but images of it.
        let settled = crate::checkpoint::settle(&mut container, false);
        match settled.and_then(|()| container.delete(true)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // The container has done its work, and its code counts.
            Err(error) if error.kind() == ErrorKind::HookFailed => {
                tracing::warn!(error = error.chain(), "hook after the container's end");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}
