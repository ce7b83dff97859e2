// SPDX-License-Identifier: Apache-2.0
//! What `migrate` reads from others, given to libFuzzer. One program, so that everything is built once: `MIGRATE_FUZZ` names
//! the target, the arguments are libFuzzer's.
#![no_main]

mod targets;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use targets::{TARGETS, Target};

/// The target that was asked for.
fn chosen() -> Target {
    static CHOSEN: OnceLock<Target> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("MIGRATE_FUZZ").unwrap_or_default();
        let found = TARGETS.iter().find(|(target, _)| *target == name);
        found.unwrap_or_else(|| panic!("MIGRATE_FUZZ is none of {:?}", TARGETS.map(|(name, _)| name))).1
    })
}

fuzz_target!(|bytes: &[u8]| chosen()(bytes));
