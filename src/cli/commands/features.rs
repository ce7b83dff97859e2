// SPDX-License-Identifier: Apache-2.0
//! `migrate features`.

use crate::Result;
use crate::cli::{output, version};
use crate::engine::features;

/// Nothing but the name.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {}

/// Prints what the engine can do, and what of it is ours: clients ask runc's annotation before they ask for a checkpoint.
pub(in crate::cli) fn run() -> Result<()> {
    let mut features = features();
    let facts = [
        ("io.github.migrate.version", version::VERSION),
        ("io.github.migrate.commit", version::COMMIT),
        ("org.opencontainers.runc.checkpoint.enabled", "true"),
    ];
    features.annotations.extend(facts.map(|(name, value)| (name.to_owned(), value.to_owned())));
    output::json(&features)
}
