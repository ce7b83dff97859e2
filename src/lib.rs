// SPDX-License-Identifier: Apache-2.0
//! `migrate` moves a running Linux container to another machine.
//!
//! One container, front to back:
//!
//! ```text
//!  bundle ──▶ engine::ContainerBuilder ──▶ engine::Container ──▶ checkpoint::checkpoint ──▶ one file
//!                                                  ▲                                           │
//!                                                  └──────────── restore::restore ◀────────────┘
//! ```
//!
//! * [`engine::ContainerBuilder`] makes an [`engine::Container`] beneath an [`engine::StateRoot`] from a bundle, whose
//!   `config.json` [`spec`] reads and judges, in the [`cgroup`]s of its own.
//! * [`checkpoint::checkpoint`] has CRIU ([`criu`]) write the container's processes into images and, with
//!   [`checkpoint::Export`], everything that a restore needs into one file ([`archive`]).
//! * [`check`] tells beforehand what stands in the way of a checkpoint.
//! * [`restore::restore`] takes that file ([`restore::Source`]) or a directory of images and gives back a running
//!   [`engine::Container`].
//! * [`inspect::inspect`] looks into such a file or directory without restoring it.
//! * [`migration`] hands a container over from one host to another while it runs.
//! * [`pages`] is the other end of the socket that CRIU's memory goes through; [`pages::track`] tells which pages running processes
//!   write to.
//! * [`registry`] has such files in registries and in layouts of the OCI, as images.
//! * [`sys`] has the system calls, and all `unsafe` code. Every fallible call returns [`Error`], whose [`ErrorKind`] is
//!   to be matched on and whose text is for people.
//!
//! A program that uses this library calls [`engine::init_if_requested`] first thing in `main`: a container's first
//! process is that program, started again.
//!
//! ```no_run
//! # fn main() -> migrate::Result<()> {
//! use migrate::checkpoint::{CheckpointOptions, Export, checkpoint};
//! use migrate::engine::{ContainerBuilder, StateRoot};
//!
//! migrate::engine::init_if_requested();
//! let root = StateRoot::default_root();
//! let mut container = ContainerBuilder::from_bundle("web".parse()?, "/bundles/web".as_ref()).create(&root)?;
//! container.start()?;
//! let archive = Export::File("/tmp/web.tar.zst".into());
//! let report = checkpoint(&mut container, &CheckpointOptions::default(), Some(archive), &mut ())?;
//! println!("{} bytes", report.archive_bytes.unwrap_or_default());
//! # Ok(())
//! # }
//! ```
//!
//! Which module may use which is in `ARCHITECTURE.md`, and checked by `tests/layering.rs`.

pub mod archive;
pub mod cgroup;
pub mod check;
pub mod checkpoint;
#[doc(hidden)]
pub mod cli;
pub mod criu;
pub mod diagnose;
pub mod engine;
mod error;
pub mod inspect;
pub mod migration;
pub mod pages;
pub mod registry;
pub mod restore;
pub mod spec;
pub mod sys;

pub use error::{Context, Error, ErrorKind, Result};
