// SPDX-License-Identifier: Apache-2.0
//! Namespaces that a container shares with others, by path: a restore joins them again, and leaves what is in them alone.

use criu_tests::{Bundle, Host, Need, Stage};
use serde_json::{Value, json};

fn look(host: &Host, id: &str) -> Value {
    let text = host.migrate(&["exec", id, "/workload", "inspect", "--read", "/proc/uptime"]).succeeded();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON: {e}\n{text}"))
}

/// A namespace of this kind that lives at a path of the host, where a command has run in it.
fn pinned(host: &Host, kind: &str, command: &str) -> String {
    let path = host.path(kind);
    host.command(&["touch", &path]).run().succeeded();
    host.command(&["unshare", &format!("--{kind}={path}"), "sh", "-c", command]).run().succeeded();
    path
}

fn in_it(host: &Host, kind: &str, path: &str, command: &str) -> String {
    host.command(&["nsenter", &format!("--{kind}={path}"), "sh", "-c", command]).run().succeeded()
}

/// A counting container that joins the namespace of this type of the configuration.
fn joined(host: &Host, typ: &str, path: &str) -> Bundle {
    Bundle::of_workload(host, "counter", &["--memory", "1048576"]).edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
        namespaces.retain(|namespace| namespace["type"] != json!(typ));
        namespaces.push(json!({"type": typ, "path": path}));
        if typ == "uts" {
            config.as_object_mut().expect("an object").remove("hostname");
        }
    })
}

/// Checkpoints and restores a container of the bundle, with `meanwhile` in between, and gives what was seen of it.
fn before_and_after(stage: &Stage, host: &Host, bundle: &Bundle, meanwhile: impl FnOnce()) -> (Value, Value) {
    let container = host.run_detached(&stage.id("first"), bundle);
    let status = container.reports();
    let before = look(host, container.id());
    let images = host.path("images");
    container.checkpoint(&["--image-path", &images]);
    meanwhile();
    let id = stage.id("second");
    host.migrate_detached(&["restore", "-d", "--image-path", &images, "-b", &bundle.path(), &id]);
    let container = host.container(&id, &bundle.rootfs());
    let status = container.goes_on(&status);
    let after = look(host, &id);
    container.checkpoint(&["--leave-running", "--image-path", &host.path("again")]);
    container.goes_on(&status);
    container.end();
    (before, after)
}

#[test]
fn a_uts_namespace_keeps_the_name_that_it_has_by_now() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let path = pinned(&host, "uts", "hostname shared");
    let bundle = joined(&host, "uts", &path);
    let rename = || drop(in_it(&host, "uts", &path, "hostname renamed"));
    let (before, after) = before_and_after(&stage, &host, &bundle, rename);
    assert_eq!(before["hostname"], json!("shared"));
    assert_eq!(after["hostname"], json!("renamed"));
    assert_eq!(before["namespaces"]["uts"], after["namespaces"]["uts"]);
    assert_eq!(in_it(&host, "uts", &path, "hostname").trim(), "renamed");
    host.command(&["umount", &path]).run().succeeded();
    host.assert_no_trace();
}

#[test]
fn an_ipc_namespace_keeps_what_others_have_in_it() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let path = pinned(&host, "ipc", "ipcmk --shmem 4096");
    let bundle = joined(&host, "ipc", &path);
    let add = || drop(in_it(&host, "ipc", &path, "ipcmk --queue"));
    let (before, after) = before_and_after(&stage, &host, &bundle, add);
    assert_eq!(before["namespaces"]["ipc"], after["namespaces"]["ipc"]);
    let left = in_it(&host, "ipc", &path, "cat /proc/sysvipc/shm /proc/sysvipc/msg | wc -l");
    assert_eq!(left.trim(), "4", "one segment and one queue, each with its heading");
    host.command(&["umount", &path]).run().succeeded();
    host.assert_no_trace();
}

#[test]
fn a_time_namespace_by_path_is_joined_again() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let path = host.path("time");
    host.command(&["touch", &path]).run().succeeded();
    host.command(&["unshare", &format!("--time={path}"), "--boottime", "1000000", "true"]).run().succeeded();
    let bundle = joined(&host, "time", &path);
    let (before, after) = before_and_after(&stage, &host, &bundle, || {});
    let uptime = |seen: &Value| -> f64 {
        let text = seen["read"]["/proc/uptime"]["ok"].as_str().expect("a text");
        text.split(' ').next().and_then(|seconds| seconds.parse().ok()).expect("seconds")
    };
    assert!(
        uptime(&before) > 1e6 && uptime(&after) >= uptime(&before),
        "{} {}",
        uptime(&before),
        uptime(&after)
    );
    assert_eq!(before["namespaces"]["time"], after["namespaces"]["time"]);
    host.command(&["umount", &path]).run().succeeded();
    host.assert_no_trace();
}
