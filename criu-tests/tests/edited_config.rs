// SPDX-License-Identifier: Apache-2.0
//! A configuration that was edited between the checkpoint and the restore: what can be applied is, the rest is named.

use std::fs;

use criu_tests::{Bundle, Host, Need, Stage};
use serde_json::{Value, json};

fn read(host: &Host, id: &str, path: &str) -> Value {
    let text = host.migrate(&["exec", id, "/workload", "inspect", "--read", path]).succeeded();
    let seen: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON: {e}\n{text}"));
    json!([seen["read"][path]["ok"], seen["hostname"]])
}

/// A container with a bind mount of a directory `source/a`, and its images.
fn checkpointed(stage: &Stage, host: &Host, to: &[&str]) -> Bundle {
    for name in ["a", "b"] {
        fs::create_dir_all(host.path(&format!("source/{name}"))).expect("make a source");
        fs::write(host.path(&format!("source/{name}/name")), name).expect("write");
    }
    let bundle = Bundle::of_workload(host, "counter", &["--memory", "1048576"]).edit(|config| {
        config["hostname"] = json!("as-it-was");
        config["mounts"].as_array_mut().expect("a list").push(json!({
            "destination": "/bound", "type": "bind", "source": host.path("source/a"), "options": ["rbind"]
        }));
    });
    let container = host.run_detached(&stage.id("first"), &bundle);
    container.reports();
    assert_eq!(read(host, container.id(), "/bound/name"), json!(["a", "as-it-was"]));
    container.checkpoint(to);
    bundle
}

fn edit(bundle: Bundle, host: &Host) -> Bundle {
    bundle.edit(|config| {
        let mounts = config["mounts"].as_array_mut().expect("a list");
        let bound =
            mounts.iter_mut().find(|mount| mount["destination"] == json!("/bound")).expect("it is there");
        bound["source"] = json!(host.path("source/b"));
        config["linux"]["resources"]["pids"] = json!({"limit": 77});
        config["hostname"] = json!("as-it-shall-be");
        config["process"]["capabilities"]["bounding"] = json!(["CAP_KILL"]);
        config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 10}]);
    })
}

/// Restores with the edited bundle, and looks at what came of it.
fn restored(stage: &Stage, host: &Host, from: &[&str], bundle: &Bundle) {
    let id = stage.id("second");
    host.migrate_detached(&[&["restore", "-d"], from, &["-b", &bundle.path(), &id]].concat());
    let log = fs::read_to_string(host.path("migrate.log")).expect("read the log");
    let warning = log.lines().find(|line| line.contains("these fields stay as they were then"));
    let warning = warning.unwrap_or_else(|| panic!("no warning in {log}"));
    assert!(warning.contains("hostname process.capabilities process.rlimits"), "{warning}");
    assert_eq!(read(host, &id, "/bound/name"), json!(["b", "as-it-was"]));
    let stats = host.migrate(&["events", "--stats", &id]).succeeded();
    let stats: Value = serde_json::from_str(&stats).unwrap_or_else(|e| panic!("not JSON: {e}\n{stats}"));
    assert_eq!(stats["data"]["pids"]["limit"], json!(77));
    host.container(&id, &bundle.rootfs()).end();
    host.assert_no_trace();
}

#[test]
fn with_a_directory_of_images() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let from = ["--image-path", &host.path("images")];
    let bundle = edit(checkpointed(&stage, &host, &from), &host);
    restored(&stage, &host, &from, &bundle);
}

#[test]
fn with_an_archive() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let archive = host.path("archive");
    let bundle = edit(checkpointed(&stage, &host, &["--export", &archive]), &host);
    restored(&stage, &host, &["--import", &archive], &bundle);
}
