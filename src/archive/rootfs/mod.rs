// SPDX-License-Identifier: Apache-2.0
//! A root filesystem as a tar of its own: walked, measured and written; read back beneath a directory.
//!
//! ```text
//! walk ──▶ Plan (exact size, one fingerprint per entry)          the outer header needs the size first
//! walk ──▶ emit (compared with the plan, streamed)
//! walk ──▶ BaseTree; walk, compared with that ──▶ Difference: a Plan of some entries, and a list of what is gone
//! walks ──▶ SentTree: rounds of what is new ──▶ lay_round                of a tree that somebody writes to
//! TarReader ──▶ unpack (beneath the root, directories finished last), or unpack_over what is there
//! ```
//! Must not know the archive around it.

mod ahead;
mod apply;
mod base;
mod difference;
mod over;
mod pack;
mod unpack;
mod walk;

use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::PathBuf;

pub use ahead::{SentRound, SentTree, lay_round, tells_of_writes};
pub(super) use apply::write_sparse;
pub(super) use base::check_facts;
pub use base::{BaseTree, verify_base};
pub(super) use difference::difference;
pub(super) use over::remove_listed;
pub(super) use pack::{Plan, emit, emit_small, plan};
pub use unpack::{DeviceNodes, UnpackedRootfs};
pub(super) use unpack::{Ground, unpack, unpack_over};
pub use walk::Tree;

/// What messages call the nested tar.
pub(super) const STREAM: &str = super::member::ROOTFS;

/// A path for calls that take only paths: `name` in `dir`, or `dir` itself if `name` is empty. For `l*` calls, which
/// do not follow a symbolic link in the last component.
fn path_in(dir: BorrowedFd<'_>, name: &std::ffi::OsStr) -> PathBuf {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    path.push(if name.is_empty() { ".".as_ref() } else { name });
    path
}
