// SPDX-License-Identifier: Apache-2.0
//! As much of D-Bus as it takes to speak with systemd: one connection, calls, signals, no descriptors.
//!
//! Of its own, since a whole D-Bus library comes with an asynchronous runtime and its threads, which must not be where
//! processes are cloned, and costs more at start than the few messages do. Must not know what the messages mean.

mod address;
mod connection;
mod message;
mod value;

pub(super) use address::{Address, parse as parse_addresses};
pub(super) use connection::{Connection, Failure, Method};
#[cfg(test)]
pub(super) use message::Kind;
pub(super) use message::Message;
pub(super) use value::{Value, split};
