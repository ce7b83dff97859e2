// SPDX-License-Identifier: Apache-2.0
//! What CRIU leaves undone: one file a concern.

mod cgroups;
mod images;
mod lsm;
mod mounts;
mod network;
mod output;
mod recorded;
mod terminal;

pub(super) use cgroups::{fill_cgroups, make_cgroups};
pub(super) use images::share_images;
pub(super) use lsm::check_lsm;
pub(super) use mounts::{external_mounts, place_sources, remove_places};
pub(super) use network::RestoredNetwork;
pub(super) use output::fit_output;
pub(super) use recorded::RecordedMounts;
pub(super) use terminal::{Terminal, require_terminals};
