// SPDX-License-Identifier: Apache-2.0
//! Directories of the host that are mounted in a container: they travel in its archive, or are elsewhere at the destination.

use std::fs;

use criu_tests::{Bundle, Host, Need, Stage, Status};
use serde_json::json;

/// Restores the archive, sees the volume's file in the container at `/data`, and ends it.
fn goes_on_with(host: &Host, id: &str, archive: &str, more: &[&str], before: &Status) -> String {
    host.migrate_detached(&[&["restore", "-d", "--import", archive], more, &[id]].concat());
    let container = host.imported(id);
    container.goes_on(before);
    let mounts = &serde_json::from_slice::<serde_json::Value>(
        &fs::read(format!("{}/{id}/bundle/config.json", host.state_root())).expect("read"),
    )
    .expect("JSON")["mounts"];
    let mount = mounts.as_array().expect("a list").iter().find(|mount| mount["destination"] == "/data");
    let source = mount.expect("the volume's mount")["source"].as_str().expect("text").to_owned();
    let pid = host.state(id)["pid"].to_string();
    let seen = host.command(&["cat", &format!("/proc/{pid}/root/data/deep/file")]).run().succeeded();
    assert_eq!(seen, fs::read_to_string(format!("{source}/deep/file")).expect("read"));
    container.end();
    seen
}

#[test]
fn a_directory_of_the_host_travels_along() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let source = host.path("source");
    fs::create_dir_all(format!("{source}/deep")).expect("mkdir");
    fs::write(format!("{source}/deep/file"), "from the volume").expect("write");
    let bundle = Bundle::of_workload(&host, "counter", &[]).edit(|config| {
        let mount = json!({"destination": "/data", "type": "bind", "source": source, "options": ["rbind"]});
        config["mounts"].as_array_mut().expect("a list").push(mount);
    });
    let id = stage.id("c");
    let container = host.run_detached(&id, &bundle);
    let archive = stage.path("c.tar.zst");
    let export = ["checkpoint", "--export", &archive, "--include-volume", "/state", &id];
    let said = container.runs_on_beside(
        &export,
        1,
        &["--include-volume /state: nothing of the host is mounted there"],
    );
    assert!(said.contains("the host's are at /data"), "{said}");
    let before = container.reports();
    container.checkpoint(&["--export", &archive, "--include-volume", "/data"]);
    bundle.remove();
    fs::remove_dir_all(&source).expect("the host loses it");

    let seen = host.migrate(&["inspect", "--json", &archive]).succeeded();
    let seen: serde_json::Value = serde_json::from_str(&seen).expect("JSON");
    assert_eq!(seen["checkpoint"]["volumes"], json!(["/data"]));
    assert_eq!(goes_on_with(&host, &id, &archive, &[], &before), "from the volume");

    let elsewhere = host.path("elsewhere");
    let mapped = ["--map-mount", &format!("/data={elsewhere}")];
    assert_eq!(goes_on_with(&host, &id, &archive, &mapped, &before), "from the volume");
    fs::write(format!("{elsewhere}/deep/file"), "changed since").expect("write");
    let restore = [&["restore", "-d", "--import", &archive], &mapped[..], &[&id]].concat();
    let said = host.migrate(&restore).failed(1, &[&format!("{elsewhere} has files already")]);
    assert!(said.contains("--overwrite-volumes"), "{said}");
    assert_eq!(fs::read_to_string(format!("{elsewhere}/deep/file")).expect("read"), "changed since");
    let overwrite = [&mapped[..], &["--overwrite-volumes"]].concat();
    assert_eq!(goes_on_with(&host, &id, &archive, &overwrite, &before), "from the volume");
    host.assert_no_trace();
}

#[test]
fn a_mount_of_ours_is_elsewhere_at_the_destination() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (there, here) = (host.path("there"), host.path("here"));
    for (path, text) in [(&there, "there"), (&here, "here")] {
        fs::create_dir_all(format!("{path}/deep")).expect("mkdir");
        fs::write(format!("{path}/deep/file"), text).expect("write");
    }
    let bundle = Bundle::of_workload(&host, "counter", &[]).edit(|config| {
        let mount = json!({"destination": "/data", "type": "bind", "source": there, "options": ["rbind"]});
        config["mounts"].as_array_mut().expect("a list").push(mount);
    });
    let id = stage.id("c");
    let container = host.run_detached(&id, &bundle);
    let (before, archive) = (container.reports(), stage.path("c.tar.zst"));
    container.checkpoint(&["--export", &archive]);
    bundle.remove();
    host.migrate(&["restore", "-d", "--import", &archive, &id]).failed(7, &["was not allowed"]);
    let mapped = ["--map-mount", &format!("/data={here}")];
    assert_eq!(goes_on_with(&host, &id, &archive, &mapped, &before), "here");
    host.assert_no_trace();
}
