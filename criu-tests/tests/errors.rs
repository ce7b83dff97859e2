// SPDX-License-Identifier: Apache-2.0
//! Bad input: bundles, configurations, ids, and commands that do not go with a container's status. Each a clear error and
//! a documented exit code, nothing half-done, and a container that was running runs on.

use std::fs;

use criu_tests::{Bundle, Need, Stage};
use serde_json::{Value, json};

/// The documented exit codes: of anything that has none of its own, and of `exec` for its own errors.
const GENERAL: i32 = 1;
const EXEC: i32 = 255;

const SMALL: [&str; 2] = ["--memory", "1048576"];

#[test]
fn a_missing_bundle() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    for command in ["run", "create"] {
        host.migrate(&[command, "-b", "/nonexistent", &stage.id("x")]).failed(GENERAL, &["/nonexistent"]);
    }
    let empty = host.path("empty");
    fs::create_dir(&empty).expect("make a directory");
    host.migrate(&["run", "-b", &empty, &stage.id("x")]).failed(GENERAL, &["config.json"]);
    host.assert_no_trace();
}

#[test]
fn a_backtrace_for_who_asks_for_it() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let said = |variables: &[(&str, &str)]| {
        let id = stage.id("x");
        let command = host.migrate_command(&["run", "-b", "/nonexistent", &id]);
        command.environment(variables).run().failed(GENERAL, &["/nonexistent"])
    };
    let backtrace = said(&[("RUST_BACKTRACE", "1")]);
    assert!(backtrace.contains("\nbacktrace:\n"), "{backtrace}");
    assert!(backtrace.contains("migrate::engine"), "{backtrace}");
    assert!(!said(&[]).contains("backtrace"));
    host.assert_no_trace();
}

#[test]
fn a_config_that_is_not_json() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &SMALL);
    for text in ["", "not json", "{\"ociVersion\": \"1.0.2\",", "\"text\""] {
        fs::write(bundle.config(), text).expect("write config.json");
        host.migrate(&["run", "-b", &bundle.path(), &stage.id("x")]).failed(GENERAL, &["config.json"]);
        host.assert_no_trace();
    }
}

/// A change that makes a configuration invalid.
type Change = fn(&mut Value);

#[test]
fn a_config_with_an_invalid_field_names_the_field() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let table: [(&str, Change); 11] = [
        ("process.args", |c| c["process"]["args"] = json!("sh")),
        ("process.args", |c| c["process"]["args"] = json!([])),
        ("process.cwd", |c| c["process"]["cwd"] = json!("tmp")),
        ("process.user.uid", |c| c["process"]["user"]["uid"] = json!(-1)),
        ("process.env", |c| c["process"]["env"] = json!(["NOT_A_PAIR"])),
        ("process.rlimits", |c| {
            c["process"]["rlimits"] = json!([{ "type": "RLIMIT_X", "soft": 1, "hard": 1 }]);
        }),
        ("root.path", |c| c["root"]["path"] = json!("nonexistent")),
        ("linux.namespaces", |c| c["linux"]["namespaces"] = json!([{ "type": "nope" }])),
        ("linux.namespaces", |c| {
            c["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "mount" }]);
        }),
        ("mounts", |c| c["mounts"] = json!([{ "type": "tmpfs" }])),
        ("linux.resources.memory.limit", |c| c["linux"]["resources"]["memory"] = json!({ "limit": "much" })),
    ];
    for (n, (field, change)) in table.into_iter().enumerate() {
        let bundle = Bundle::of_workload(&host, "counter", &SMALL).edit(change);
        let output = host.migrate(&["run", "-b", &bundle.path(), &stage.id(&format!("x{n}"))]);
        output.failed(GENERAL, &[field]);
        host.assert_no_trace();
        bundle.remove();
    }
}

#[test]
fn a_program_that_is_not_there() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle =
        Bundle::of_workload(&host, "counter", &[]).edit(|c| c["process"]["args"] = json!(["/nonexistent"]));
    for command in ["create", "run"] {
        host.migrate(&[command, "-b", &bundle.path(), &stage.id("x")]).failed(GENERAL, &["/nonexistent"]);
        host.assert_no_trace();
    }
}

#[test]
fn an_unknown_container() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let id = stage.id("unknown");
    let images = host.path("images");
    let table: [&[&str]; 6] = [
        &["state", &id],
        &["start", &id],
        &["kill", &id, "TERM"],
        &["delete", &id],
        &["ps", &id],
        &["checkpoint", "--image-path", &images, &id],
    ];
    for args in table {
        host.migrate(args).failed(GENERAL, &[&id]);
    }
    host.migrate(&["exec", &id, "/workload"]).failed(EXEC, &[&id]);
    assert!(!fs::exists(images).expect("look"), "no image directory is made for nothing");
    host.assert_no_trace();
}

#[test]
fn an_id_that_is_in_use() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (bundle, container) = host.run_small(&stage.id("small"));
    for command in ["create", "run"] {
        let args = [command, "-b", &bundle.path(), container.id()];
        container.runs_on_beside(&args, GENERAL, &[container.id(), "exist"]);
    }
    container.end();
    host.assert_no_trace();
}

#[test]
fn an_id_that_is_none() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &SMALL);
    let long = "x".repeat(2000);
    for id in ["", ".", "..", "a/b", "../x", "a b", "a\nb", "ä", &long] {
        host.migrate(&["run", "-b", &bundle.path(), "--", id]).failed(GENERAL, &["id"]);
        host.migrate(&["delete", "--force", "--", id]).failed(GENERAL, &["id"]);
    }
    host.assert_no_trace();
}

#[test]
fn commands_that_do_not_go_with_the_status() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &SMALL);
    let id = stage.id("status");
    let container = host.container(&id, &bundle.rootfs());
    let images = host.path("images");

    host.migrate_detached(&["create", "-b", &bundle.path(), &id]);
    host.migrate(&["checkpoint", "--image-path", &images, &id]).failed(GENERAL, &[&id, "created"]);
    host.migrate(&["start", &id]).succeeded();
    container.runs_on_beside(&["start", &id], GENERAL, &[&id, "running"]);
    container.runs_on_beside(&["delete", &id], GENERAL, &[&id, "running"]);
    container.kill("TERM");
    container.stops();
    host.migrate(&["checkpoint", "--image-path", &images, &id]).failed(GENERAL, &[&id, "stopped"]);
    host.migrate(&["start", &id]).failed(GENERAL, &[&id, "stopped"]);
    host.migrate(&["exec", &id, "/workload"]).failed(EXEC, &[&id, "stopped"]);
    assert!(!fs::exists(&images).expect("look"), "no image directory is made for nothing");
    host.migrate(&["delete", &id]).succeeded();
    host.assert_no_trace();
}
