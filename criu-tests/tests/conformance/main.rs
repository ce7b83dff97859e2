// SPDX-License-Identifier: Apache-2.0
//! The command line against runc's: the same bundles, containers and arguments with `runc` and with the binary under test.
//! Exit codes, standard output, the shape of JSON and the words of errors must be the same, but for what
//! `docs/differences-from-runc.md` says case by case; and what it says must be so.
//!
//! ```text
//!   cases.rs ── a Case: what is there, command lines ──▶ engine.rs ── with each program ──▶ outcome.rs ── what differs
//!                                                     documented.rs ── rows of the document ──────────────┘ are they the same?
//! ```

mod bundles;
mod cases;
mod documented;
mod engine;
mod outcome;

use std::collections::BTreeSet;

use criu_tests::{Host, Need, Stage, migrate};

use cases::{CASES, Case, Topic};
use documented::Difference;
use engine::Engine;

/// Runs the cases of a topic with both programs.
fn agree(topic: Topic) {
    let Some(stage) = Stage::set(&[Need::Runc]) else { return };
    let host = stage.host("a");
    bundles::make_all(&host);
    let id = stage.id("c");
    let (runc, ours) = (
        Engine::new(&host, "runc", "runc", &id),
        Engine::new(&host, "ours", &under_the_name_of_runc(&host), &id),
    );
    let mut wrong = Vec::new();
    for case in CASES.iter().filter(|case| case.topic == topic) {
        let mut found = outcome::differences(case, &runc.run(case), &ours.run(case));
        let (everywhere, told) = (documented::of("any"), documented::of(case.name));
        found.retain(|row| !everywhere.iter().any(|general| general.covers(row)));
        wrong.extend(found.difference(&told).map(|row| format!("not documented:      {row}")));
        wrong.extend(told.difference(&found).map(|row| format!("documented, not so:  {row}")));
    }
    host.assert_no_trace();
    assert!(wrong.is_empty(), "against docs/differences-from-runc.md:\n{}", wrong.join("\n"));
}

/// The binary under test, as who puts it in runc's place has it.
fn under_the_name_of_runc(host: &Host) -> String {
    let path = host.path("runc-in-name");
    std::fs::create_dir(&path).expect("mkdir");
    std::os::unix::fs::symlink(migrate(), format!("{path}/runc")).expect("symlink");
    format!("{path}/runc")
}

#[test]
fn the_life_of_a_container() {
    agree(Topic::Life);
}

#[test]
fn further_processes() {
    agree(Topic::Exec);
}

#[test]
fn bundles_that_cannot_run() {
    agree(Topic::Bundles);
}

#[test]
fn what_is_printed() {
    agree(Topic::Output);
}

#[test]
fn how_the_command_line_is_read() {
    agree(Topic::Flags);
}

#[test]
fn every_case_has_a_name_of_its_own_and_every_documented_difference_a_case() {
    let names: BTreeSet<&str> = CASES.iter().map(|case: &Case| case.name).collect();
    assert_eq!(names.len(), CASES.len());
    let lost: Vec<Difference> = documented::all()
        .into_iter()
        .filter(|row| row.case != "any" && !names.contains(row.case.as_str()))
        .collect();
    assert!(lost.is_empty(), "{lost:?}");
}
