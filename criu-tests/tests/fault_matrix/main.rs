// SPDX-License-Identifier: Apache-2.0
//! The fault matrix of live migration: whatever happens at whatever step, an observer outside of both hosts never sees two copies of the
//! container, and in the end sees one, with its memory, and nothing else left on either host. What each side did is what the model says.
//!
//! One test a column; each run takes a row of it, all of them with `MIGRATE_TEST_FULL=1`. With `MIGRATE_FAULT_TABLE=FILE` what came of
//! each is added to that file.

mod cases;
mod row;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use cases::{Fault, Step, chosen};
use criu_tests::{LargePipes, Need, Stage, read_trace, replay};
use migrate::migration::handoff::{Effect, Event, MessageKind, Recorded, What};
use row::Outcome;

/// The rows of this fault; each is tried, whatever came of those before.
fn column(fault: Fault) {
    let _pipes = LargePipes::set();
    let mut failed = Vec::new();
    for step in chosen(fault) {
        let Some(stage) = Stage::set(&[Need::Criu]) else { return };
        let outcome = catch_unwind(AssertUnwindSafe(|| row::run(stage, step, fault)));
        match outcome {
            Ok(outcome) => tell(step, fault, &outcome),
            Err(_) => failed.push(step.to_string()),
        }
    }
    assert!(failed.is_empty(), "{fault}: not as it must be at: {failed:?}");
}

fn tell(step: Step, fault: Fault, outcome: &Outcome) {
    let line = format!("| {step} | {fault} | {outcome} |\n");
    // It is there for people.
    let _ = std::io::stdout().write_all(line.as_bytes());
    let Ok(path) = std::env::var("MIGRATE_FAULT_TABLE") else { return };
    let mut table = OpenOptions::new().append(true).create(true).open(path).expect("open the table");
    table.write_all(line.as_bytes()).expect("write to the table");
}

#[test]
fn who_sends_is_killed() {
    column(Fault::Sender);
}

#[test]
fn who_receives_is_killed() {
    column(Fault::Receiver);
}

#[test]
fn both_are_killed() {
    column(Fault::Both);
}

#[test]
fn criu_is_killed_at_the_source() {
    column(Fault::SourceCriu);
}

#[test]
fn criu_is_killed_at_the_destination() {
    column(Fault::DestinationCriu);
}

#[test]
fn what_brings_the_memory_is_killed() {
    column(Fault::Provider);
}

#[test]
fn the_connection_is_cut() {
    column(Fault::Cut);
}

#[test]
fn what_one_side_says_is_lost() {
    column(Fault::Lose);
}

#[test]
fn what_the_other_side_answers_is_lost() {
    column(Fault::LoseAnswers);
}

#[test]
fn what_is_said_comes_later() {
    column(Fault::Delay);
}

#[test]
fn what_is_said_comes_when_it_was_said_again() {
    column(Fault::Late);
}

#[test]
fn the_disk_of_the_destination_is_full() {
    column(Fault::Full);
}

#[test]
fn the_destination_refuses() {
    column(Fault::Refuse);
}

/// Who replays a trace is no good if nothing can be wrong with one.
#[test]
fn a_trace_is_the_model_s_and_one_that_was_changed_is_not() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let _pipes = LargePipes::set();
    let pair = row::Pair::new(stage, Fault::Delay);
    pair.moves();
    let trace = read_trace(&pair.trace());
    let events = replay(&trace).expect("it is the model's");
    assert!(events >= 8, "{trace:?}");
    let without = |what: &dyn Fn(&What) -> bool| {
        let at = trace.iter().position(|traced| what(&traced.what)).expect("it is there");
        let mut changed = trace.clone();
        changed.remove(at);
        replay(&changed).expect_err("it is changed")
    };
    for record in [Recorded::Prepared, Recorded::Ready, Recorded::Committed, Recorded::Live] {
        without(&|what| matches!(what, What::Effect(Effect::Journal(made)) if made.what == record));
    }
    for kind in [MessageKind::Final, MessageKind::Ready, MessageKind::Commit, MessageKind::Done] {
        without(&|what| matches!(what, What::Effect(Effect::Send(message)) if message.kind == kind));
        without(&|what| matches!(what, What::Event(Event::Message(message)) if message.kind == kind));
    }
    without(&|what| matches!(what, What::Event(Event::Tree(_))));
    pair.comes_to_an_end();
}
