// SPDX-License-Identifier: Apache-2.0
//! How this host differs from the one that a checkpoint is from, in what a restore depends on.

use std::path::Path;

use serde::Serialize;

use super::header::Header;
use crate::criu::{Criu, Kernel, Version};
use crate::sys;

/// One thing that a restore depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Comparison {
    /// `arch`, `cpu_features`, `kernel`, `criu`, `cgroup_version`.
    pub name: &'static str,
    /// What the checkpoint says.
    pub checkpoint: Option<String>,
    /// What this host has.
    pub host: Option<String>,
    /// `same`, `differs` (nothing is known against it), `hinders` (a restore is refused or may fail), `unknown`.
    pub verdict: &'static str,
}

/// Compares what the checkpoint tells with what is here.
pub(super) fn compare(header: &Header, features: &[String], criu: Option<&Path>) -> Vec<Comparison> {
    let here = sys::proc::cpu_features().unwrap_or_default();
    let missing: Vec<&str> =
        features.iter().map(String::as_str).filter(|f| !here.iter().any(|h| h == f)).collect();
    let release = sys::proc::kernel_release().ok();
    let criu = Criu::find(criu).and_then(|criu| criu.ask_version()).ok();
    vec![
        row("arch", header.arch.clone(), Some(sys::arch::NAME.to_owned()), |_, _| "hinders"),
        Comparison {
            name: "cpu_features",
            checkpoint: (!features.is_empty()).then(|| format!("{} features", features.len())),
            host: Some(if missing.is_empty() {
                format!("{} features", here.len())
            } else {
                format!("lacks {}", missing.join(" "))
            }),
            verdict: match (features.is_empty(), missing.is_empty()) {
                (true, _) => "unknown",
                (_, true) => "same",
                _ => "hinders",
            },
        },
        row("kernel", header.kernel.clone(), release, |checkpoint, here| {
            if Kernel::parse(here) < Kernel::parse(checkpoint) { "hinders" } else { "differs" }
        }),
        row("criu", header.criu.clone(), criu.map(|criu| criu.to_string()), |checkpoint, _| {
            if criu < Version::parse(checkpoint) { "hinders" } else { "differs" }
        }),
        row(
            "cgroup_version",
            header.cgroup_version.map(|version| version.to_string()),
            Some(sys::proc::cgroup_version().to_string()),
            |_, _| "differs",
        ),
    ]
}

fn row(
    name: &'static str,
    checkpoint: Option<String>,
    host: Option<String>,
    judge: impl FnOnce(&str, &str) -> &'static str,
) -> Comparison {
    let verdict = match (&checkpoint, &host) {
        (Some(checkpoint), Some(host)) if checkpoint == host => "same",
        (Some(checkpoint), Some(host)) => judge(checkpoint, host),
        _ => "unknown",
    };
    Comparison { name, checkpoint, host, verdict }
}
