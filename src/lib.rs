// SPDX-License-Identifier: Apache-2.0
//! `migrate` moves a running Linux container to another machine.

pub mod archive;
pub mod cgroup;
pub mod checkpoint;
#[doc(hidden)]
pub mod cli;
pub mod criu;
pub mod engine;
mod error;
pub mod restore;
pub mod spec;
pub mod sys;

pub use error::{Context, Error, ErrorKind, Result};
