// SPDX-License-Identifier: Apache-2.0
//! Memory on the move: what comes from CRIU, or goes to it, through a socket instead of files, where this end is CRIU's page server.
//!
//! ```text
//!  a dump          criu ──▶ pages of each process, one after the other ──▶ us
//!  a lazy restore  criu ──▶ asks for pages ──▶ us ──▶ the pages ──▶ criu
//! ```
//!
//! It knows what stands on the wire ([`wire`]) and what becomes of a dump's ([`receive`]).
//!
//! Besides, without CRIU: which pages running processes write to, and what is in them ([`track`]); pages that have come from another
//! host, and wait for their processes ([`store`]); and between the two, which of them the other host has as they are ([`ahead`]).

pub mod ahead;
pub mod receive;
pub mod store;
pub mod track;
pub mod wire;
