// SPDX-License-Identifier: Apache-2.0
//! `migrate state`: the JSON that engines read, with runc's keys.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::Result;
use crate::cli::output;
use crate::engine::{Container, Ownership, Status};
use crate::spec::OCI_VERSION;

/// The state of one container as it is printed.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(rename = "ociVersion")]
    oci_version: &'static str,
    pub(super) id: String,
    /// 0 when it is stopped.
    pub(super) pid: i32,
    pub(super) status: String,
    pub(super) bundle: PathBuf,
    rootfs: PathBuf,
    pub(super) created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    pub(super) owner: String,
    /// Only of a container that is handed over: who has the right to it.
    #[serde(skip_serializing_if = "Ownership::is_here")]
    ownership: Ownership,
}

impl Report {
    pub(super) fn of(container: &Container) -> Result<Self> {
        let status = container.status()?;
        let state = container.state();
        let pid = if status == Status::Stopped { 0 } else { container.init().map_or(0, |init| init.pid) };
        Ok(Self {
            oci_version: OCI_VERSION,
            id: state.id.clone(),
            pid,
            status: status.to_string(),
            bundle: state.bundle.clone(),
            rootfs: state.rootfs.clone(),
            created: state.created.clone(),
            annotations: state.annotations.clone(),
            owner: container.owner()?,
            ownership: state.ownership.clone(),
        })
    }
}

pub(super) fn print(container: &Container) -> Result<()> {
    if let Err(half) = container.require_restored() {
        tracing::warn!("{}; {}", half, half.hint().unwrap_or_default());
    }
    if let Some(why) = container.lost_memory()? {
        tracing::warn!("{why}");
    }
    output::json(&Report::of(container)?)
}
