// SPDX-License-Identifier: Apache-2.0
//! What one container, and a process in it, can do to the runtime and to another container: nothing.

use criu_tests::{Bundle, Need, Stage};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const EACCES: i64 = 13;

/// CVE-2016-9962. A created container's init has given its capabilities up already and waits, so what an attacker in
/// the container has to win a race for is here for as long as one likes.
#[test]
fn the_runtime_in_a_container_cannot_be_looked_into_from_there() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"]);
    let id = stage.id("watched");
    host.migrate_detached(&["create", "-b", &bundle.path(), &id]);
    let probe = [
        "--stat",
        "/proc/1/exe",
        "--stat",
        "/proc/1/root",
        "--stat",
        "/proc/1/fd/0",
        "--read",
        "/proc/1/environ",
    ];
    let text =
        host.migrate(&[&["exec", id.as_str(), "/workload", "inspect"], &probe[..]].concat()).succeeded();
    let seen: Value = serde_json::from_str(&text).expect("`inspect` prints JSON");
    for path in ["/proc/1/exe", "/proc/1/root", "/proc/1/fd/0"] {
        assert_eq!(seen["stat"][path]["errno"], json!(EACCES), "{path}: {}", seen["stat"]);
    }
    assert_eq!(seen["read"]["/proc/1/environ"]["errno"], json!(EACCES), "{}", seen["read"]);
    // The program itself may be looked into again.
    host.migrate(&["start", &id]).succeeded();
    let container = host.container(&id, &bundle.rootfs());
    container.reports();
    let text = host.migrate(&["exec", &id, "/workload", "inspect", "--stat", "/proc/1/exe"]).succeeded();
    let seen: Value = serde_json::from_str(&text).expect("`inspect` prints JSON");
    assert!(seen["stat"]["/proc/1/exe"]["ok"].is_object(), "{}", seen["stat"]);
    container.end();
    host.assert_no_trace();
}

/// Bundles that were copied often name the same cgroup.
fn in_cgroup(bundle: Bundle, path: &str) -> Bundle {
    bundle.edit(|config| config["linux"]["cgroupsPath"] = json!(path))
}

#[test]
fn a_create_in_the_cgroup_of_another_container_fails_and_leaves_that_one_alone() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let path = format!("/{}", stage.id("shared"));
    let bundle = in_cgroup(Bundle::of_workload(&host, "counter", &["--memory", "1048576"]), &path);
    let first = host.run_detached(&stage.id("first"), &bundle);
    let before = first.reports();
    host.migrate(&["create", "-b", &bundle.path(), &stage.id("second")])
        .failed(1, &["exists and holds", &path]);
    first.goes_on(&before);
    first.end();
    host.assert_no_trace();
}

#[test]
fn a_stopped_container_is_deleted_without_those_who_took_its_cgroup_over() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let path = format!("/{}", stage.id("shared"));
    let bundle = in_cgroup(Bundle::of_workload(&host, "counter", &["--memory", "1048576"]), &path);
    let first = host.run_detached(&stage.id("first"), &bundle);
    first.kill("KILL");
    first.stops();
    std::fs::remove_file(format!("{}{}", bundle.rootfs(), Bundle::STATUS))
        .expect("remove the first one's report");
    let second = host.run_detached(&stage.id("second"), &bundle);
    let before = second.reports();
    host.migrate(&["delete", first.id()]).failed(1, &["rmdir cgroup", &path]);
    second.goes_on(&before);
    second.end();
    host.assert_no_trace();
}

/// The first `run` waits for a process that a checkpoint ends, and deletes the container then: by its id it would find
/// the restored one.
#[test]
fn a_foreground_run_does_not_delete_the_container_that_took_its_id() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"]);
    let id = stage.id("again");
    let first = host.migrate_command(&["run", "-b", &bundle.path(), &id]).start();
    let container = host.container(&id, &bundle.rootfs());
    let before = container.reports();
    // Stopped, it cannot see the end of its container before the new one is there.
    first.signal(Signal::SIGSTOP);
    let archive = host.path("moved.tar");
    container.checkpoint(&["--export", &archive]);
    host.migrate_detached(&["restore", "-d", "--import", &archive, &id]);
    let restored = host.imported(&id);
    let there = restored.goes_on(&before);
    first.signal(Signal::SIGCONT);
    assert_eq!(first.wait().code, 128 + Signal::SIGKILL as i32);
    restored.goes_on(&there);
    restored.end();
    host.assert_no_trace();
}
