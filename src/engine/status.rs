// SPDX-License-Identifier: Apache-2.0
//! What a container is doing. Always derived, never stored.

use std::fmt;

/// A container's status, in the runtime specification's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// A `create` or `restore` is at work on it.
    Creating,
    /// Its init is set up and waits for `start`.
    Created,
    /// Its init runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Its init has ended, or never came to be.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}
