// SPDX-License-Identifier: Apache-2.0
//! A container on its way from one host to another while it runs: who has the right to run it, decided so that it never
//! runs twice and is never lost.
//!
//! * [`handoff`] is the protocol: one pure function a side.
//! * [`journal`] is what each side has written down of it, and may never take back.
//! * [`agent`] is how hosts know each other that reach each other without ssh, and what one may bring to the other.
//! * [`claim`] is what a migration may do to the container on this host.
//! * [`resolve`](resolve()) is an operator's decision, when the other host will never answer again.
//! * [`MigrationId`] and [`Epoch`] name a migration and one attempt of it; they are in every message and record.
//!
//! The top of the library: it may use every layer beneath, and none of them knows of it. The engine keeps who owns a
//! container ([`crate::engine::Ownership`]) without knowing what a migration is.

pub mod agent;
mod arriving;
mod brake;
pub mod claim;
mod departing;
mod endpoint;
mod files;
pub mod handoff;
mod held;
mod id;
pub mod journal;
mod landing;
mod limits;
mod link;
pub mod members;
mod offering;
mod pace;
mod place;
mod predictor;
mod preflight;
pub mod protocol;
mod receiving;
mod report;
mod resolve;
mod rounds;
mod sending;
mod stored;

pub use endpoint::{Breaker, Connection, Endpoint, Shell};
pub use id::{Epoch, MigrationId, Tag};
pub use limits::Limits;
pub use offering::{MoveOptions, survey};
pub use predictor::RoundLimits;
pub use receiving::{ReceiveOptions, receive};
pub use report::{FileRound, Moved, MovedMember, Phase, Progress, Round};
pub use resolve::{Resolved, resolve};
pub use sending::{proceed, to};
