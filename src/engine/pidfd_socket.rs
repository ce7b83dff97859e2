// SPDX-License-Identifier: Apache-2.0
//! Somebody who wants a process by descriptor: one message on a unix stream socket, with the kind of process as data and
//! its pidfd (runc's `--pidfd-socket`).

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::console::{connect, send_descriptor};
use crate::{Context, Result};

/// Which process it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessKind {
    /// A container's first.
    First,
    /// A further one.
    Further,
}

/// The socket, connected.
#[derive(Debug)]
pub struct PidfdSocket(UnixStream);

impl PidfdSocket {
    /// The listener at this path.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(path: &Path) -> Result<Self> {
        connect(path).map(Self).context(|| format!("connect to the pidfd socket {}", path.display()))
    }

    /// Sends the descriptor.
    ///
    /// # Errors
    /// When the listener has gone away.
    pub fn send(&self, kind: ProcessKind, pidfd: BorrowedFd<'_>) -> Result<()> {
        let word = match kind {
            ProcessKind::First => "standard",
            ProcessKind::Further => "setns",
        };
        send_descriptor(self.0.as_fd(), word, pidfd).context(|| "send the pidfd to its socket")
    }
}
