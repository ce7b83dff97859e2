// SPDX-License-Identifier: Apache-2.0
//! Control groups of a container: v1, hybrid and v2, made through the filesystem or by systemd.
//!
//! Owns: which hierarchies this host has ([`Hierarchies`]), where a container's directory lies in each of them,
//! its life there ([`Cgroup`]: create, set limits, join, freeze, kill, destroy), the translation of the runtime
//! specification's resources into files and values ([`resources`], pure), and what a container sees of it
//! ([`CgroupMounts`]).
//! Must not know: containers' status, namespaces, CRIU, the command line.
//!
//! ```text
//! Hierarchies::detect ──▶ Cgroup::plan(cgroupsPath, id) ──▶ create ──▶ set(limits) ──▶ join ──▶ freeze/thaw ──▶ kill_all ──▶ destroy
//!                                  ▲                                     (entry_fds + clone_into_fd, or apply)
//!        state.json: CgroupState ──┘ Cgroup::from_state
//! ```
//!
//! Split by concern, not by version: what differs between v1 and v2 is decided where it is written, by the
//! version of the hierarchy that holds the controller.

mod bandwidth;
#[expect(clippy::module_inception, reason = "a file is named after its type")]
mod cgroup;
mod create;
mod delegate;
mod devices;
mod directory;
mod freezer;
mod hierarchy;
mod kill;
mod limits;
mod memory_watch;
mod mounts;
mod oom;
mod placement;
mod remove;
pub mod resources;
mod state;
pub mod stats;
mod sub;
mod systemd;
#[cfg(test)]
mod tests;
mod tree;
mod visible;

pub use bandwidth::CpuBandwidth;
pub use cgroup::{Cgroup, EntryFd};
pub use freezer::FreezerState;
pub use hierarchy::{Hierarchies, Hierarchy, Layout, ProcessCgroup, Version, self_cgroups};
pub use kill::kept_frozen;
pub use memory_watch::{MemoryNews, MemoryWatch, PressureLevel};
pub use mounts::{CgroupMount, CgroupMounts};
pub use state::CgroupState;
pub use stats::Stats;
pub use sub::SubCgroups;
pub use systemd::{Manager, NewUnit, Unit, UnitHolder};
pub use tree::CgroupTree;
