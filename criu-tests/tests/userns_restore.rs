// SPDX-License-Identifier: Apache-2.0
//! Checkpoints of containers in a user namespace: their processes are nobody's on the host, and so are their files.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use criu_tests::{Bundle, Container, Host, Need, Stage};
use serde_json::{Value, json};

const FIRST: u32 = 100_000;
const SIZE: u32 = 65_536;

fn run_as_user<'h>(stage: &Stage, host: &'h Host, uid: u32) -> (Bundle, Container<'h>) {
    let bundle = Bundle::of_workload(host, "tree", &[]).edit(|config| {
        config["process"]["user"] = json!({ "uid": uid, "gid": uid });
        config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({ "type": "cgroup" }));
    });
    // The report is the user's, not the container's root's.
    std::os::unix::fs::chown(format!("{}/state", bundle.rootfs()), Some(uid), Some(uid)).expect("chown");
    let bundle = bundle.in_user_namespace(FIRST, SIZE);
    std::os::unix::fs::chown(format!("{}/state", bundle.rootfs()), Some(FIRST + uid), Some(FIRST + uid))
        .expect("chown");
    let container = host.run_detached(&stage.id("web"), &bundle);
    (bundle, container)
}

/// The ids and the namespace are what they should be, and `exec` gets in; gives the mounts, with their options.
fn assert_inside(host: &Host, container: &Container<'_>, uid: u32) -> Vec<String> {
    let probes = ["--read", "/proc/self/uid_map", "--read", "/proc/1/status", "--stat", "/state/status"];
    let exec = [&["exec", container.id(), "/workload", "inspect"], &probes[..]].concat();
    let seen: Value = serde_json::from_str(&host.migrate(&exec).succeeded()).expect("JSON");
    let map = seen["read"]["/proc/self/uid_map"]["ok"].as_str().expect("text");
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "100000", "65536"]);
    let status = seen["read"]["/proc/1/status"]["ok"].as_str().expect("text");
    let line = status.lines().find(|line| line.starts_with("Uid:")).expect("a line of the user");
    assert_eq!(line.split_whitespace().nth(1), Some(uid.to_string().as_str()));
    assert_eq!(seen["stat"]["/state/status"]["ok"]["uid"], json!(uid));
    let own =
        host.command(&["readlink", &format!("/proc/{}/ns/user", container.state()["pid"])]).run().succeeded();
    assert_eq!(seen["namespaces"]["user"], json!(own.trim()));
    let mounts = seen["mounts"].as_array().expect("a list").iter();
    let mut mounts: Vec<String> =
        mounts.map(|m| format!("{} {} {}", m["destination"], m["type"], m["options"])).collect();
    mounts.sort();
    mounts
}

#[test]
fn in_place_through_a_directory() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    for uid in [0, 1000] {
        let (bundle, container) = run_as_user(&stage, &host, uid);
        let mounts = assert_inside(&host, &container, uid);
        let before = container.reports();
        let images = host.path("images");
        container.checkpoint(&["--image-path", &images]);
        container.restore(&images, &bundle);
        container.goes_on(&before);
        assert_eq!(assert_inside(&host, &container, uid), mounts);
        container.end();
        host.assert_no_trace();
        fs::remove_dir_all(images).expect("remove the images");
        bundle.remove();
    }
}

#[test]
fn through_an_archive_to_another_host() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let (source, destination) = (stage.host("a"), stage.host("b"));
    let (bundle, container) = run_as_user(&stage, &source, 1000);
    let before = container.reports();
    let archive = stage.path("web.tar.zst");
    container.checkpoint(&["--export", &archive]);
    source.assert_no_trace();
    bundle.remove();
    destination.migrate_detached(&["restore", "-d", "--import", &archive, container.id()]);
    let restored = destination.imported(container.id());
    restored.goes_on(&before);
    assert_inside(&destination, &restored, 1000);
    let root = fs::metadata(restored.rootfs()).expect("the root filesystem");
    assert_eq!((root.uid(), root.gid()), (FIRST, FIRST), "the host's ids are those of the source");
    restored.end();
    destination.assert_no_trace();
}

#[test]
fn a_foreground_restore_gives_its_pipes_to_the_container() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let id = stage.id("web");
    let bundle = Bundle::of_workload(&host, "counter", &[]).in_user_namespace(FIRST, SIZE);
    let first = host.migrate_command(&["run", "-b", &bundle.path(), &id]).start();
    let container = host.container(&id, &bundle.rootfs());
    let before = container.reports();
    let archive = stage.path("web.tar");
    container.checkpoint(&["--export", &archive]);
    first.wait();
    let restore = host.migrate_command(&["restore", "--import", &archive, &id]).start();
    let restored = host.imported(&id);
    restored.goes_on(&before);
    let pid = restored.state()["pid"].to_string();
    let pipe = fs::metadata(host.outside(&format!("/proc/{pid}/fd/1"))).expect("stdout of the container");
    assert_eq!(pipe.uid(), FIRST);
    restored.kill("TERM");
    assert_eq!(restore.wait().code, 0);
    host.assert_no_trace();
}

/// Ten days, in seconds: more than the machine has been up.
const TEN_DAYS: f64 = 864_000.0;

#[test]
fn the_clocks_of_a_time_namespace_go_on() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    for with_user in [false, true] {
        let bundle = Bundle::of_workload(&host, "counter", &[]).edit(|config| {
            config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({ "type": "time" }));
            config["linux"]["timeOffsets"] =
                json!({ "boottime": { "secs": TEN_DAYS as i64 }, "monotonic": { "secs": TEN_DAYS as i64 } });
        });
        let bundle = if with_user { bundle.in_user_namespace(FIRST, SIZE) } else { bundle };
        let container = host.run_detached(&stage.id("clocks"), &bundle);
        let uptime = || {
            let read = ["exec", container.id(), "/workload", "inspect", "--read", "/proc/uptime"];
            let seen: Value = serde_json::from_str(&host.migrate(&read).succeeded()).expect("JSON");
            let text =
                seen["read"]["/proc/uptime"]["ok"].as_str().and_then(|t| t.split(' ').next()?.parse().ok());
            text.unwrap_or_else(|| panic!("no uptime: {seen}"))
        };
        let (report, before): (_, f64) = (container.reports(), uptime());
        assert!(before > TEN_DAYS, "{before}");
        let archive = stage.path("clocks.tar");
        container.checkpoint(&["--export", &archive]);
        host.migrate_detached(&["restore", "-d", "--import", &archive, container.id()]);
        let restored = host.imported(container.id());
        restored.goes_on(&report);
        let after = uptime();
        assert!(after > before && after < before + 60.0, "{before}, then {after}");
        restored.end();
        host.assert_no_trace();
        fs::remove_file(archive).expect("remove the archive");
        bundle.remove();
    }
}
