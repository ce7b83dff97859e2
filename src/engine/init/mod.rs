// SPDX-License-Identifier: Apache-2.0
//! The first process of a container, from both sides.
//!
//! ```text
//!   runtime (parent.rs)                     container (stage.rs)
//!   clone3 ──────────────────────────────▶  user and time namespace; wait
//!   id maps, clocks (outside.rs) ────────▶  become 0:0, make the other namespaces
//!                                           enter the cgroups, execute the sealed self as `init`
//!   plan: a sealed memory file ──────────▶  namespaces
//!                      ◀── NetworkWanted ─  (only if the runtime brings interfaces)
//!   ── one byte ─────────────────────────▶  root file system
//!                      ◀── RootfsReady ───  (only if the runtime has hooks to run here)
//!   prestart, createRuntime hooks
//!   ── one byte ─────────────────────────▶  createContainer hooks, terminal, user's view
//!                      ◀── Ready | Failed ──
//!   limits, state.json
//!   ── one byte ─────────────────────────▶  user, capabilities
//!                      ◀── Waiting at the fifo (create), EOF: the program runs (exec); Failed: it does not
//!   fifo opened by `start` ──────────────▶  startContainer hooks, the program
//!                      ◀── one byte; then EOF: the program runs; a Failure: it does not
//! ```

pub(super) mod mount_sources;
pub(super) mod outside;
pub(super) mod parent;
pub(super) mod plan;
mod stage;
pub(super) mod sync;

use std::os::fd::OwnedFd;

use crate::{Context, sys};

/// The variable that tells a re-executed runtime that it is init, and which descriptors it inherited.
const REQUEST: &str = "_MIGRATE_INIT";

/// Becomes a container's first process when this process was started as one, and returns otherwise.
///
/// A program that uses this library calls it first in `main`, before it has threads: the engine starts the program
/// again for each container and each `exec`.
pub fn init_if_requested() {
    let Some(request) = std::env::var_os(REQUEST) else { return };
    let Some((sync, plan)) = request.to_str().and_then(parse_request) else { return };
    // From here on this process is a container's, whatever happens.
    let code = match (sys::fd::take_inherited(sync), sys::fd::take_inherited(plan)) {
        (Ok(sync), Ok(plan)) => run(sync, plan),
        _ => 1,
    };
    sys::process::exit_now(code);
}

fn run(sync: OwnedFd, plan: OwnedFd) -> i32 {
    let channel = sync::InitSide::new(sync);
    // Processes that are in the container already see this one, and once it is their user with their capabilities
    // nothing else keeps them from its descriptors, which lead to the host (CVE-2016-9962). The kernel lifts this when
    // it executes the program, after it has closed them.
    let hidden = sys::process::forbid_inspection().context(|| "prctl(PR_SET_DUMPABLE, 0)");
    // Hooks are waited for, whatever the runtime's caller has ignored.
    let hidden =
        hidden.and_then(|()| sys::process::keep_ended_children().context(|| "sigaction(SIGCHLD, SIG_DFL)"));
    let run = || stage::run(&plan::InitPlan::read(plan)?, &channel);
    let error = match hidden.and_then(|()| run()) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    channel.failed(&error);
    1
}

fn parse_request(text: &str) -> Option<(i32, i32)> {
    let (sync, plan) = text.split_once(':')?;
    Some((sync.parse().ok()?, plan.parse().ok()?))
}
