// SPDX-License-Identifier: Apache-2.0
//! Standard streams that are the host's null device become the container's.
//!
//! The host's `/dev/null` lies on a mount that the container does not have, so CRIU could not dump a process that
//! has it open ("Can't lookup mount"). Must not touch any other stream.

use std::io;
use std::os::fd::AsFd;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::devices::is_null;
use crate::{Context, Error, ErrorKind, Result};

/// Reopens those of fds 0 to 2 that are a null device from `/dev/null`, which must be the container's by now.
pub(super) fn reopen_dev_null() -> Result<()> {
    let stdin = is_null(io::stdin().as_fd())?;
    let stdout = is_null(io::stdout().as_fd())?;
    let stderr = is_null(io::stderr().as_fd())?;
    if !(stdin || stdout || stderr) {
        return Ok(());
    }
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
        .context(|| "open /dev/null in the container")?;
    if !is_null(null.as_fd())? {
        return Err(Error::new(ErrorKind::System, "/dev/null in the container is not the null device"));
    }
    let replace = || {
        if stdin {
            dup2_stdin(&null)?;
        }
        if stdout {
            dup2_stdout(&null)?;
        }
        if stderr {
            dup2_stderr(&null)?;
        }
        Ok::<_, nix::errno::Errno>(())
    };
    replace().context(|| "replace the standard streams by the container's /dev/null")
}
