// SPDX-License-Identifier: Apache-2.0
//! Who may touch a container that is handed over to another host, and how an operator decides when that host is lost.

use std::fs::File;

use criu_tests::{Container, Host, Stage};
use migrate::engine::{Ownership, StateRoot};
use migrate::migration::claim::Claim;
use migrate::migration::handoff::{Owner, Record, Recorded, Side};
use migrate::migration::journal::{About, History, Journal};
use migrate::migration::{Epoch, MigrationId, Tag};
use serde_json::{Value, json};

/// A migration that a worker has begun on this host, and which it has left.
struct Left<'h> {
    host: &'h Host,
    root: StateRoot,
    id: MigrationId,
    container: String,
}

/// The container is this migration's, and this is written down.
fn left<'h>(host: &'h Host, container: &Container<'_>, side: Side, records: &[Recorded]) -> Left<'h> {
    let root = StateRoot::at(host.state_root().as_ref()).expect("the host's state root");
    let id = MigrationId::random().expect("an id");
    let about = About { migration: id, side, container: container.id(), peer: "ssh://far" };
    let mut journal = Journal::create(&root, &about).expect("a journal");
    for what in records {
        journal.append(Record { epoch: Epoch::FIRST, what: *what }, None).expect("a record");
    }
    let left = Left { host, root, id, container: container.id().to_owned() };
    left.own(Owner::Held);
    left
}

impl Left<'_> {
    fn own(&self, owner: Owner) {
        let id = self.container.parse().expect("an id");
        let claim = Claim { root: &self.root, id: &id, tag: Tag::first(self.id) };
        claim.own(owner).expect("it can be had");
    }

    fn resolve(&self, fenced: &str) -> String {
        let id = self.id.to_string();
        let args = ["resolve", &id, "--i-fenced", fenced, "--reason", "its disk burned"];
        self.host.migrate(&args).succeeded()
    }

    /// What `migrations` tells of it.
    fn listed(&self) -> Value {
        let text = self.host.migrate(&["migrations", "--json", &self.id.to_string()[..8]]).succeeded();
        serde_json::from_str(&text).expect("JSON")
    }

    fn records(&self) -> Vec<Recorded> {
        let history = History::read(&self.root, self.id).expect("the journal");
        history.records().into_iter().map(|record| record.what).collect()
    }

    /// Forgets it.
    fn forget(self) {
        Journal::open(&self.root, self.id).and_then(Journal::remove).expect("nobody writes it");
        std::fs::remove_dir(format!("{}/.migrations", self.host.state_root())).expect("it was the only one");
    }
}

const IN_DOUBT: [Recorded; 3] = [Recorded::Begun, Recorded::Prepared, Recorded::Committed];

#[test]
fn no_command_touches_a_container_that_is_held_or_elsewhere() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (bundle, container) = host.run_small(&stage.id("held"));
    let images = host.path("images");
    container.checkpoint(&["--leave-running", "--image-path", &images]);
    let left = left(&host, &container, Side::Source, &[Recorded::Begun]);
    let (id, migration) = (container.id(), left.id.to_string());
    let (export, bundle) = (host.path("x.tar.zst"), bundle.path());
    let commands: [(&[&str], i32); 14] = [
        (&["start", id], 1),
        (&["exec", id, "/workload", "inspect"], 255),
        (&["pause", id], 1),
        (&["resume", id], 1),
        (&["update", "--memory", "300M", id], 1),
        (&["kill", id], 1),
        (&["kill", id, "KILL"], 1),
        (&["kill", "--all", id, "KILL"], 1),
        (&["delete", id], 1),
        (&["delete", "--force", id], 1),
        (&["checkpoint", "--export", &export, id], 1),
        (&["create", "-b", &bundle, id], 1),
        (&["run", "-d", "-b", &bundle, id], 1),
        (&["restore", "-d", "-b", &bundle, "--image-path", &images, id], 1),
    ];
    let resolve = format!("migrate resolve {migration}");
    for owner in [Owner::Held, Owner::Elsewhere] {
        left.own(owner);
        for (args, code) in commands {
            let said = container.runs_on_beside(args, code, &[&format!("by migration {migration}")]);
            assert!(said.contains(&resolve), "{args:?}: {said}");
        }
        let ownership = &container.state()["ownership"];
        let word = if owner == Owner::Held { "held" } else { "elsewhere" };
        assert_eq!(*ownership, json!({"owner": word, "by": migration, "epoch": 1}));
        host.migrate(&["kill", id, "0"]).succeeded();
    }
    assert!(File::open(&export).is_err(), "nothing was exported");
    // The worker gives it back.
    let mut loaded = left.root.load(&id.parse().expect("an id")).expect("the container");
    let elsewhere = Ownership::Elsewhere { by: migration, epoch: 1 };
    loaded.swap_ownership(&elsewhere, Ownership::Here).expect("as it is");
    assert_eq!(container.state()["ownership"], Value::Null);
    container.goes_on(&container.reports());
    left.forget();
    container.end();
    host.assert_no_trace();
}

#[test]
fn a_source_goes_on_when_the_operator_has_fenced_the_destination() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = host.run_small(&stage.id("back"));
    let before = container.reports();
    host.migrate(&["pause", container.id()]).succeeded();
    let left = left(&host, &container, Side::Source, &IN_DOUBT);
    let listed = left.listed();
    assert_eq!(listed["id"], json!(left.id.to_string()));
    assert_eq!(listed["side"], json!("source"));
    assert_eq!(listed["container"], json!(container.id()));
    assert_eq!(listed["peer"], json!("ssh://far"));
    assert_eq!((&listed["phase"], &listed["over"]), (&json!("committed"), &json!(false)));
    let said = left.resolve("destination");
    assert!(said.contains("is this host's"), "{said}");
    container.goes_on(&before);
    let state = container.state();
    assert_eq!((&state["status"], &state["ownership"]), (&json!("running"), &Value::Null));
    let listed = left.listed();
    assert_eq!(listed["over"], json!(true));
    assert_eq!(listed["history"][3]["reason"], json!("its disk burned"));
    // The other way round it is too late.
    let id = left.id.to_string();
    host.migrate(&["resolve", &id, "--i-fenced", "source"]).failed(1, &["has been decided"]);
    let table = host.migrate(&["migrations"]).succeeded();
    assert!(table.contains(&id) && table.contains("destination fenced"), "{table}");
    left.forget();
    container.end();
    host.assert_no_trace();
}

#[test]
fn a_source_gives_up_what_is_frozen_when_the_operator_has_fenced_it() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = host.run_small(&stage.id("given-up"));
    host.migrate(&["pause", container.id()]).succeeded();
    let left = left(&host, &container, Side::Source, &IN_DOUBT);
    let said = left.resolve("source");
    assert!(said.contains("is not this host's any more"), "{said}");
    assert_eq!(left.records()[3..], [Recorded::Fenced(Side::Source), Recorded::Done]);
    host.migrate(&["state", container.id()]).failed(1, &["does not exist"]);
    left.forget();
    host.assert_no_trace();
}

#[test]
fn a_destination_runs_what_it_has_frozen_when_the_operator_has_fenced_the_source() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = host.run_small(&stage.id("ready"));
    let before = container.reports();
    host.migrate(&["pause", container.id()]).succeeded();
    let left = left(&host, &container, Side::Destination, &[Recorded::Ready]);
    left.resolve("source");
    container.goes_on(&before);
    assert_eq!(left.records(), [Recorded::Ready, Recorded::Fenced(Side::Source), Recorded::Live]);
    assert_eq!(container.state()["ownership"], Value::Null);
    // What runs is not ended by a word.
    let id = left.id.to_string();
    container.runs_on_beside(&["resolve", &id, "--i-fenced", "destination"], 1, &["has been decided"]);
    left.forget();
    container.end();
    host.assert_no_trace();
}

#[test]
fn a_journal_in_other_hands_is_not_decided_and_a_damaged_one_is_named() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = host.run_small(&stage.id("busy"));
    let left = left(&host, &container, Side::Source, &IN_DOUBT);
    let id = left.id.to_string();
    let resolve = ["resolve", &id, "--i-fenced", "destination"];
    let worker = Journal::open(&left.root, left.id).expect("nobody writes it");
    let said = container.runs_on_beside(&resolve, 1, &["lock", &id]);
    assert!(said.contains("another process is at work on this migration"), "{said}");
    drop(worker);
    let path = format!("{}/.migrations/{id}/journal", host.state_root());
    let whole = std::fs::read(&path).expect("readable");
    let mut damaged = whole.clone();
    damaged[20] ^= 1;
    std::fs::write(&path, &damaged).expect("writable");
    container.runs_on_beside(&resolve, 1, &[&path, "it is damaged at byte 0"]);
    std::fs::write(&path, &whole).expect("writable");
    left.resolve("destination");
    left.forget();
    container.end();
    host.assert_no_trace();
}
