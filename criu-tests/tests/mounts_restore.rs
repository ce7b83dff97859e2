// SPDX-License-Identifier: Apache-2.0
//! Mounts that are there again after a restore, seen from inside.

use std::fs;

use criu_tests::{Bundle, Host, Need, Stage};
use serde_json::{Value, json};

const EROFS: i64 = 30;

fn look(host: &Host, id: &str, probes: &[&str]) -> Value {
    let text = host.migrate(&[&["exec", id, "/workload", "inspect"], probes].concat()).succeeded();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON: {e}\n{text}"))
}

/// Reads files; a path that is not there is `null`.
fn read(host: &Host, id: &str, paths: &[&str]) -> Vec<Value> {
    let probes: Vec<&str> = paths.iter().flat_map(|path| ["--read", path]).collect();
    let seen = look(host, id, &probes);
    paths.iter().map(|path| seen["read"][path]["ok"].clone()).collect()
}

/// Runs a counting container with these mounts, checkpoints and restores it twice, once under another name, and gives what
/// `look_at` saw of it at first and in the end.
fn before_and_after<T>(
    stage: &Stage,
    host: &Host,
    mounts: &[Value],
    edit: impl FnOnce(&mut Value),
    look_at: impl Fn(&str) -> T,
) -> (T, T) {
    let bundle = Bundle::of_workload(host, "counter", &["--memory", "1048576"]).edit(|config| {
        config["mounts"].as_array_mut().expect("a list").extend_from_slice(mounts);
        edit(config);
    });
    let container = host.run_detached(&stage.id("first"), &bundle);
    let status = container.reports();
    let before = look_at(container.id());
    let images = host.path("images");
    container.checkpoint(&["--image-path", &images]);
    container.restore(&images, &bundle);
    let status = container.goes_on(&status);
    fs::remove_dir_all(&images).expect("remove the images");
    container.checkpoint(&["--image-path", &images]);
    let id = stage.id("second");
    host.migrate_detached(&["restore", "-d", "--image-path", &images, "-b", &bundle.path(), &id]);
    let container = host.container(&id, &bundle.rootfs());
    container.goes_on(&status);
    let after = look_at(&id);
    container.end();
    (before, after)
}

#[test]
fn mounts_below_a_recursive_bind_come_from_the_host_again() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let volume = host.path("volume");
    for name in ["deep/er", "own"] {
        fs::create_dir_all(format!("{volume}/{name}")).expect("make the volume");
    }
    host.command(&["mount", "-t", "tmpfs", "-o", "mode=755", "volume", &format!("{volume}/deep")])
        .run()
        .succeeded();
    host.command(&["mkdir", &format!("{volume}/deep/est")]).run().succeeded();
    host.command(&["mount", "-t", "tmpfs", "-o", "mode=755", "volume", &format!("{volume}/deep/est")])
        .run()
        .succeeded();
    for (file, text) in [("plain", "0"), ("deep/file", "1"), ("deep/est/file", "2")] {
        host.command(&["sh", "-c", &format!("printf {text} >{volume}/{file}")]).run().succeeded();
    }
    let mounts = [
        json!({"destination": "/all", "type": "bind", "source": volume, "options": ["rbind"]}),
        json!({"destination": "/one", "type": "bind", "source": volume, "options": ["bind"]}),
        json!({"destination": "/all/own", "type": "tmpfs", "source": "tmpfs"}),
    ];
    let see = |id: &str| {
        let paths = ["/all/plain", "/all/deep/file", "/all/deep/est/file", "/one/plain", "/one/deep/file"];
        read(&host, id, &paths)
    };
    let (before, after) = before_and_after(&stage, &host, &mounts, |_| {}, see);
    assert_eq!(before, [json!("0"), json!("1"), json!("2"), json!("0"), Value::Null]);
    assert_eq!(before, after);
    host.command(&["umount", "-R", &format!("{volume}/deep")]).run().succeeded();
    host.assert_no_trace();
}

#[test]
fn filesystems_with_content_elsewhere_are_mounted_again() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let path = |name: &str| host.path(&format!("layers/{name}"));
    // The work directory must be on another filesystem than one that is an overlay itself.
    fs::create_dir_all(host.path("layers")).expect("make a directory");
    host.command(&["mount", "-t", "tmpfs", "layers", &host.path("layers")]).run().succeeded();
    let script = "cd $0 && mkdir lower upper work && printf lower >lower/a";
    host.command(&["sh", "-c", script, &host.path("layers")]).run().succeeded();
    let options = [
        format!("lowerdir={}", path("lower")),
        format!("upperdir={}", path("upper")),
        format!("workdir={}", path("work")),
        "nosuid".to_owned(),
    ];
    let lower = format!("lowerdir={}:{}", path("lower"), path("upper"));
    let mounts = [
        json!({"destination": "/merged", "type": "overlay", "source": "overlay", "options": options}),
        json!({"destination": "/fixed", "type": "overlay", "source": "overlay", "options": [lower, "ro"]}),
        json!({"destination": "/volatile", "type": "ramfs", "source": "ramfs"}),
    ];
    let see = |id: &str| {
        look(&host, id, &["--write", "/merged/new"]);
        let errno = look(&host, id, &["--write", "/fixed/a"])["write"]["/fixed/a"]["errno"].clone();
        (read(&host, id, &["/merged/a", "/merged/new", "/fixed/a"]), errno)
    };
    let (before, after) = before_and_after(&stage, &host, &mounts, |_| {}, see);
    assert_eq!(before, (vec![json!("lower"), json!(""), json!("lower")], json!(EROFS)));
    assert_eq!(before, after);
    host.command(&["umount", &host.path("layers")]).run().succeeded();
    host.assert_no_trace();
}

#[test]
fn what_is_in_memory_only_and_criu_cannot_carry_is_refused() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"]).edit(|config| {
        let ramfs = json!({"destination": "/volatile", "type": "ramfs", "source": "ramfs"});
        config["mounts"].as_array_mut().expect("a list").push(ramfs);
    });
    let container = host.run_detached(&stage.id("first"), &bundle);
    container.reports();
    look(&host, container.id(), &["--write", "/volatile/file"]);
    let message = "criu cannot carry what is in the ramfs on /volatile";
    let said = container.runs_on_beside(
        &["checkpoint", "--image-path", &host.path("images"), container.id()],
        1,
        &[message, "mounts["],
    );
    assert!(said.contains("hint: use a tmpfs, or empty it before the checkpoint"), "{said}");
    container.end();
    host.assert_no_trace();
}

#[test]
fn binds_inside_a_tmpfs_and_propagation_stay() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let source = host.path("source");
    fs::create_dir_all(&source).expect("make the source");
    // A link as Podman's is: CRIU would bind the link itself.
    fs::write(format!("{source}/file"), "an init").expect("write");
    std::os::unix::fs::symlink("file", format!("{source}/init")).expect("symlink");
    host.command(&["mount", "--bind", &source, &source]).run().succeeded();
    host.command(&["mount", "--make-shared", &source]).run().succeeded();
    let mounts = [
        json!({"destination": "/dev/init", "type": "bind", "source": format!("{source}/init"), "options": ["bind", "ro"]}),
        json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs"}),
        json!({"destination": "/scratch/in/ner", "type": "bind", "source": source, "options": ["rbind", "ro"]}),
        json!({"destination": "/shared", "type": "bind", "source": source, "options": ["rbind", "rshared"]}),
        json!({"destination": "/slave", "type": "bind", "source": source, "options": ["rbind", "rslave"]}),
    ];
    let see = |id: &str| {
        let seen = look(
            &host,
            id,
            &["--read", "/dev/init", "--read", "/scratch/in/ner/init", "--write", "/dev/init"],
        );
        let content = ["/dev/init", "/scratch/in/ner/init"].map(|path| seen["read"][path]["ok"].clone());
        let kind = |destination: &str| {
            let list = seen["mounts"].as_array().expect("a list").iter();
            let mount = list.rev().find(|m| m["destination"] == json!(destination)).expect("it is mounted");
            ["shared:", "master:"].map(|kind| mount["propagation"].to_string().contains(kind))
        };
        (content, seen["write"]["/dev/init"]["errno"].clone(), ["/shared", "/slave", "/dev/init"].map(kind))
    };
    let (before, after) = before_and_after(&stage, &host, &mounts, |_| {}, see);
    assert_eq!(before.0, [json!("an init"), json!("an init")]);
    assert_eq!(before.1, json!(EROFS));
    assert_eq!(before.2, [[true, true], [false, true], [false, true]]);
    assert_eq!(before, after);
    host.command(&["umount", &source]).run().succeeded();
    host.assert_no_trace();
}
