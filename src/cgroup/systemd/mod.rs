// SPDX-License-Identifier: Apache-2.0
//! Cgroups that systemd makes: a transient unit per container, in a slice (`--systemd-cgroup`).
//!
//! Owns: the unit's name and place, its properties ([`properties`], [`devices`], [`annotations`], all pure), its life
//! ([`unit`]), and the conversation with systemd ([`client`], over [`bus`]). All else about a cgroup is as without
//! systemd: the engine makes what systemd does not (the hierarchies of v1 that it does not know), and writes every limit
//! itself too, exactly and with those that systemd has no property for.
//!
//! On v1 it is usual to freeze a container while its unit's properties change, since systemd empties the list of devices
//! for a moment. Here the properties for devices are given at start only, before there is anything to disturb.

mod annotations;
mod bus;
mod client;
mod devices;
mod gvariant;
mod place;
mod properties;
#[cfg(test)]
mod tests;
mod unit;

pub use unit::{Manager, NewUnit, Unit, UnitHolder};
