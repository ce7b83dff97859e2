// SPDX-License-Identifier: Apache-2.0
//! The runtime's part before init exists: what must be written to `/proc` from outside while the process waits in its
//! new user and time namespaces, before any other namespace of the container is made.

use std::fs;

use nix::unistd::Pid;

use crate::engine::UserNamespace;
use crate::engine::time_offsets;
use crate::{Context, Result};

/// What is to be written.
#[derive(Debug, Default)]
pub(in crate::engine) struct FromOutside<'a> {
    /// The container's user namespace, new or joined.
    pub user: Option<&'a UserNamespace>,
    /// The clocks of its new time namespace.
    pub time_offsets: Option<String>,
    /// Lowering it takes a right that nobody has in a user namespace.
    pub oom_score_adj: Option<i32>,
}

impl FromOutside<'_> {
    /// Whether there is anything to do.
    pub(super) fn is_needed(&self) -> bool {
        self.user.is_some() || self.time_offsets.is_some()
    }

    /// Writes it.
    pub(super) fn write(&self, pid: Pid) -> Result<()> {
        if let Some(user) = self.user {
            user.write_maps(pid)?;
        }
        if let Some(text) = &self.time_offsets {
            time_offsets::write(pid, text)?;
        }
        if let (Some(score), Some(_)) = (self.oom_score_adj, self.user) {
            fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())
                .context(|| format!("write process.oomScoreAdj {score} to /proc/{pid}/oom_score_adj"))?;
        }
        Ok(())
    }
}
