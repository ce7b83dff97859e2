// SPDX-License-Identifier: Apache-2.0
//! Who is asked about system calls with `SCMP_ACT_NOTIFY`: an agent that listens on a Unix socket gets the descriptor on
//! which the questions come, and what it needs to know of the container (runtime specification, "The Container Process
//! State").

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::engine::hooks::HookState;
use crate::spec::OCI_VERSION;
use crate::spec::asks_others;
use crate::spec::oci::Spec;
use crate::sys::seqpacket;
use crate::{Context, Result};

/// An agent that reads nothing holds the container's process up no longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// An agent.
#[derive(Debug)]
pub(in crate::engine) struct Listener {
    path: PathBuf,
    metadata: Option<String>,
    state: HookState,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerProcessState<'a> {
    oci_version: &'a str,
    fds: [&'a str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a str>,
    state: &'a HookState,
}

impl Listener {
    /// That of a configuration, which has been judged; `state` is what it learns of the container.
    pub(in crate::engine) fn of(spec: &Spec, state: HookState) -> Option<Self> {
        let profile = spec.linux().as_ref()?.seccomp().as_ref().filter(|profile| asks_others(profile))?;
        let metadata = profile.listener_metadata().clone().filter(|text| !text.is_empty());
        Some(Self { path: profile.listener_path().clone()?, metadata, state })
    }

    /// Gives the agent the descriptor of this process.
    ///
    /// # Errors
    /// When nobody listens, or the agent goes away. The process must not run.
    pub(in crate::engine) fn hand_over(&self, pid: i32, questions: BorrowedFd<'_>) -> Result<()> {
        let state = ContainerProcessState {
            oci_version: OCI_VERSION,
            fds: ["seccompFd"],
            pid,
            metadata: self.metadata.as_deref(),
            state: &self.state,
        };
        let bytes = serde_json::to_vec(&state).context(|| "serialise the container's state")?;
        // The words are runc's.
        let socket = UnixStream::connect(&self.path).context(|| {
            let path = self.path.display();
            format!("failed to connect with seccomp agent specified in the seccomp profile ({path})")
        })?;
        socket
            .set_write_timeout(Some(PATIENCE))
            .and_then(|()| Ok(seqpacket::send_with(socket.as_fd(), &bytes, &[questions])?))
            .context(|| format!("cannot send seccomp fd to {}", self.path.display()))
    }
}
