// SPDX-License-Identifier: Apache-2.0
//! What a restore must put right around the processes: seen from inside the container, before and after.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;

use criu_tests::{Bundle, Container, Host, Need, Stage, Status};
use serde_json::{Value, json};

const EROFS: i64 = 30;

/// What a process inside sees now.
fn look(host: &Host, id: &str, probes: &[&str]) -> Value {
    let text = host.migrate(&[&["exec", id, "/workload", "inspect"], probes].concat()).succeeded();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON: {e}\n{text}"))
}

fn mounts(seen: &Value) -> BTreeSet<(String, String)> {
    // A restored masked file is the host's null device, whose file system is a kind of tmpfs.
    let text = |value: &Value| value.as_str().expect("text").replace("devtmpfs", "tmpfs");
    let list = seen["mounts"].as_array().expect("a list");
    list.iter().map(|m| (text(&m["destination"]), text(&m["type"]))).collect()
}

fn push(list: &mut Value, item: Value) {
    list.as_array_mut().expect("a list").push(item);
}

/// Checkpoints a container into a directory and restores it from there under another id.
fn restored<'h>(stage: &Stage, host: &'h Host, container: &Container<'h>, bundle: &Bundle) -> Container<'h> {
    let images = host.path("images");
    container.checkpoint(&["--image-path", &images]);
    assert!(host.container_ids().is_empty(), "the checkpointed container is gone");
    let id = stage.id("restored");
    host.migrate_detached(&["restore", "-d", "--image-path", &images, "-b", &bundle.path(), &id]);
    host.container(&id, &bundle.rootfs())
}

/// What is in a tmpfs is written by this program where that is little, and by the system's tar else.
#[test]
fn small_and_large_tmpfs_are_there_again() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"]).edit(|config| {
        for place in ["/small", "/large"] {
            push(&mut config["mounts"], json!({"destination": place, "type": "tmpfs", "source": "tmpfs"}));
        }
    });
    let container = host.run_detached(&stage.id("first"), &bundle);
    let report = container.reports();
    let contents = [("small/file", vec![7; 100_000]), ("large/file", vec![8; 2 << 20])];
    let inside =
        |container: &Container<'_>, name: &str| format!("/proc/{}/root/{name}", container.state()["pid"]);
    fs::create_dir_all(host.path("small"))
        .and_then(|()| fs::create_dir_all(host.path("large")))
        .expect("mkdir");
    for (name, content) in &contents {
        fs::write(host.path(name), content).expect("write");
        host.command(&["cp", &host.path(name), &inside(&container, name)]).run().succeeded();
    }

    let container = restored(&stage, &host, &container, &bundle);
    container.goes_on(&report);
    for (name, _) in &contents {
        host.command(&["cmp", &host.path(name), &inside(&container, name)]).run().succeeded();
    }
    // The first block of a gzip stream: 0 in the second and third bit is a stored one (RFC 1951).
    let (mut stored, mut compressed) = (0, 0);
    for entry in fs::read_dir(host.path("images")).expect("list the images") {
        let path = entry.expect("list the images").path();
        if path.to_string_lossy().contains("/tmpfs-dev-") {
            let image = fs::read(&path).expect("read an image");
            assert_eq!(image[..3], [0x1f, 0x8b, 8], "{} is no gzip stream", path.display());
            if image[10] & 6 == 0 { stored += 1 } else { compressed += 1 }
        }
    }
    assert!(stored >= 2 && compressed == 1, "{stored} by us, {compressed} by the system's tar");
    container.end();
    host.assert_no_trace();
}

#[test]
fn mounts_of_every_kind_are_there_again() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let source = host.path("source");
    fs::create_dir_all(format!("{source}/inner")).expect("make the sources of binds");
    fs::write(format!("{source}/file"), "from outside").expect("write");
    fs::write(format!("{source}/inner/deep"), "deeper").expect("write");
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"]).edit(|config| {
        let mounts = &mut config["mounts"];
        let bind = |from: &str, to: &str, mode: &str| {
            json!({"destination": to, "type": "bind", "source": from, "options": ["rbind", mode]})
        };
        push(mounts, bind(&source, "/bound", "rw"));
        push(mounts, bind(&format!("{source}/file"), "/bound/nested", "rw"));
        push(mounts, bind(&format!("{source}/file"), "/etc/single", "ro"));
        push(mounts, bind(&format!("{source}/inner"), "/link/below", "rw"));
        push(mounts, json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]}));
        config["linux"]["maskedPaths"] = json!(["/proc/keys", "/proc/acpi", "/sys/firmware", "/proc/timer_list"]);
    });
    symlink("/elsewhere", format!("{}/link", bundle.rootfs())).expect("symlink");
    fs::create_dir(format!("{}/elsewhere", bundle.rootfs())).expect("make a directory");
    let container = host.run_detached(&stage.id("first"), &bundle);
    look(&host, container.id(), &["--write", "/scratch/kept", "--write", "/dev/shm/kept"]);
    let report = container.reports();
    let before = look(&host, container.id(), &[]);

    let container = restored(&stage, &host, &container, &bundle);
    container.goes_on(&report);
    let probes = [
        "--read",
        "/bound/inner/deep",
        "--read",
        "/bound/nested",
        "--read",
        "/link/below/deep",
        "--read",
        "/proc/keys",
        "--read",
        "/proc/timer_list",
        "--read",
        "/scratch/kept",
        "--read",
        "/dev/shm/kept",
        "--write",
        "/etc/single",
        "--write",
        "/proc/sys/kernel/domainname",
        "--write",
        "/bound/new",
    ];
    let after = look(&host, container.id(), &probes);
    assert_eq!(mounts(&before), mounts(&after));
    for (path, content) in [
        ("/bound/inner/deep", "deeper"),
        ("/bound/nested", "from outside"),
        ("/link/below/deep", "deeper"),
        ("/proc/keys", ""),
        ("/proc/timer_list", ""),
        ("/scratch/kept", ""),
        ("/dev/shm/kept", ""),
    ] {
        assert_eq!(after["read"][path]["ok"], json!(content), "{path}");
    }
    for path in ["/etc/single", "/proc/sys/kernel/domainname"] {
        assert_eq!(after["write"][path]["errno"], json!(EROFS), "{path}");
    }
    assert!(fs::exists(format!("{source}/new")).expect("look"), "a writable bind leads outside");
    assert_eq!(after["interfaces"], json!(["lo up"]));
    assert_eq!(after["hostname"], before["hostname"]);

    // Once more: what the restore has put right must not be in the way of the next checkpoint.
    let report = container.reports();
    container.checkpoint(&["--leave-running", "--image-path", &host.path("again")]);
    container.goes_on(&report);
    container.end();
    host.assert_no_trace();
}

/// As systemd leaves the mounts of a machine: the container's root is a slave of the host's.
#[test]
fn a_host_with_shared_mounts() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    host.command(&["mount", "--make-rshared", "/"]).run().succeeded();
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"]);
    let container = host.run_detached(&stage.id("first"), &bundle);
    let before = look(&host, container.id(), &[]);
    let root = |seen: &Value| {
        let mounts = seen["mounts"].as_array().expect("a list");
        mounts.iter().find(|m| m["destination"] == json!("/")).expect("a root")["propagation"].to_string()
    };
    assert!(root(&before).contains("master:"), "{}", root(&before));
    let report = container.reports();
    let container = restored(&stage, &host, &container, &bundle);
    container.goes_on(&report);
    assert_eq!(mounts(&look(&host, container.id(), &[])), mounts(&before));
    container.end();
    host.assert_no_trace();
    host.command(&["mount", "--make-rprivate", "/"]).run().succeeded();
}

#[test]
fn mapped_owners_and_copied_content_stay() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let source = host.path("source");
    fs::create_dir_all(&source).expect("make the source of a bind");
    fs::write(format!("{source}/file"), "mapped").expect("write");
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"]).edit(|config| {
        let range = |outside: u32| json!([{"containerID": 0, "hostID": outside, "size": 10}]);
        for (destination, from) in [("/mapped", source.clone()), ("/single", format!("{source}/file"))] {
            push(
                &mut config["mounts"],
                json!({"destination": destination, "type": "bind", "source": from, "options": ["bind", "ro"],
                    "uidMappings": range(500), "gidMappings": range(600)}),
            );
        }
        let options = ["tmpcopyup"];
        push(
            &mut config["mounts"],
            json!({"destination": "/copied", "type": "tmpfs", "source": "t", "options": options}),
        );
    });
    fs::create_dir(format!("{}/copied", bundle.rootfs())).expect("make a directory");
    fs::write(format!("{}/copied/file", bundle.rootfs()), "of the image").expect("write");
    let container = host.run_detached(&stage.id("first"), &bundle);
    let probes = ["--stat", "/mapped/file", "--stat", "/single", "--read", "/copied/file"];
    let before = look(&host, container.id(), &probes);
    assert_eq!(before["stat"]["/mapped/file"]["ok"]["uid"], json!(500));
    let container = restored(&stage, &host, &container, &bundle);
    let after = look(&host, container.id(), &probes);
    assert_eq!((&after["stat"], &after["read"]), (&before["stat"], &before["read"]));
    assert!(!fs::exists(format!("{}/{}/criu-mounts", host.state_root(), container.id())).expect("look"));
    container.end();
    host.assert_no_trace();
}

#[test]
fn a_read_only_root_and_a_cgroup_namespace_stay() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle =
        Bundle::new(&host, "readonly", &["counter", "--memory", "1048576", "--status", "/report/status"]);
    let bundle = bundle.edit(|config| {
        config["root"]["readonly"] = json!(true);
        push(
            &mut config["mounts"],
            json!({"destination": "/report", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}),
        );
        push(&mut config["linux"]["namespaces"], json!({"type": "cgroup"}));
    });
    // CRIU leaves the old root through it.
    fs::remove_dir(format!("{}/tmp", bundle.rootfs())).expect("rmdir");
    let report = |id: &str| -> Option<Status> {
        let seen = look(&host, id, &["--read", "/report/status"]);
        seen["read"]["/report/status"]["ok"].as_str().map(Status::parse)
    };
    let id = stage.id("first");
    host.migrate_detached(&["run", "-d", "-b", &bundle.path(), &id]);
    let before =
        criu_tests::wait_until(criu_tests::PATIENCE, "the workload reports", || report(&id).ok_or(()));
    let inside = look(&host, &id, &["--write", "/file"]);
    assert_eq!(inside["write"]["/file"]["errno"], json!(EROFS));

    let container = restored(&stage, &host, &host.container(&id, &bundle.rootfs()), &bundle);
    let after = criu_tests::wait_until(criu_tests::PATIENCE, "the workload goes on", || {
        report(container.id()).filter(|s| s.counter() > before.counter()).ok_or(())
    });
    after.assert_continues(&before);
    let outside = look(&host, container.id(), &["--write", "/file"]);
    assert_eq!(outside["write"]["/file"]["errno"], json!(EROFS));
    let own = |seen: &Value| {
        let lines = seen["cgroups"].as_array().expect("a list").clone();
        lines.iter().all(|line| line.as_str().is_some_and(|l| l.ends_with(":/")))
    };
    assert!(own(&inside), "rooted in its own cgroup: {}", inside["cgroups"]);
    assert!(own(&outside), "and still after the restore: {}", outside["cgroups"]);
    host.migrate(&["delete", "--force", container.id()]).succeeded();
    host.assert_no_trace();
}

#[test]
fn a_network_namespace_by_path_is_joined_again() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    // The host's own: its first process has it.
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"]).edit(|config| {
        for namespace in config["linux"]["namespaces"].as_array_mut().expect("a list") {
            if namespace["type"] == "network" {
                namespace["path"] = json!("/proc/1/ns/net");
            }
        }
    });
    let expected = host.command(&["readlink", "/proc/1/ns/net"]).run().succeeded();
    let container = host.run_detached(&stage.id("first"), &bundle);
    let report = container.reports();
    let container = restored(&stage, &host, &container, &bundle);
    container.goes_on(&report);
    let seen = look(&host, container.id(), &[]);
    assert_eq!(seen["namespaces"]["net"], json!(expected.trim()));
    container.end();
    host.assert_no_trace();
}

#[test]
fn a_paused_container_is_checkpointed_and_stays_paused_if_it_stays() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (bundle, container) = host.run_small(&stage.id("first"));
    let report = container.reports();
    host.migrate(&["pause", container.id()]).succeeded();
    container.checkpoint(&["--leave-running", "--image-path", &host.path("kept")]);
    assert_eq!(container.state_status(), "paused");
    let container = restored(&stage, &host, &container, &bundle);
    assert_eq!(container.state_status(), "running");
    container.goes_on(&report);
    container.end();
    host.assert_no_trace();
}

#[test]
fn a_container_brings_further_options_for_criu_but_an_archive_does_not() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (config, work) = (host.path("criu.conf"), host.path("work"));
    fs::write(&config, "log-file=own.log\n").expect("write");
    fs::create_dir(&work).expect("mkdir");
    let written = || fs::remove_file(format!("{work}/own.log")).is_ok();
    let bundle = Bundle::of_workload(&host, "counter", &[])
        .edit(|spec| spec["annotations"] = json!({"org.criu.config": config}));
    let container = host.run_detached(&stage.id("first"), &bundle);
    let (images, archive) = (host.path("images"), host.path("archive"));
    let before = container.reports();
    container.checkpoint(&["--image-path", &images, "--work-path", &work]);
    assert!(written(), "CRIU logged where its file says");
    let restore = ["restore", "-d", "--work-path", &work];
    let from_images = ["--image-path", &images, "-b", &bundle.path()];
    host.migrate_detached(&[&restore[..], &from_images, &[container.id()]].concat());
    assert!(written(), "CRIU logged where its file says");
    container.goes_on(&before);
    container.checkpoint(&["--export", &archive]);
    host.migrate_detached(&[&restore[..], &["--import", &archive, container.id()]].concat());
    assert!(!written(), "what others wrote chooses no file of this host");
    host.imported(container.id()).end();
    host.assert_no_trace();
}

#[test]
fn a_log_file_of_the_host_on_stdio_travels() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"]);
    let append = |name: &str| {
        fs::OpenOptions::new().append(true).create(true).open(host.path(name)).expect("open a log file")
    };
    let id = stage.id("first");
    let run = host.migrate_command(&["run", "-d", "-b", &bundle.path(), &id]);
    run.without_stdio().stdout(append("first.log")).run();
    let container = host.container(&id, &bundle.rootfs());
    let report = container.reports();
    let images = host.path("images");
    container.checkpoint(&["--image-path", &images]);
    let id = stage.id("second");
    let restore =
        host.migrate_command(&["restore", "-d", "--image-path", &images, "-b", &bundle.path(), &id]);
    restore.without_stdio().stdout(append("second.log")).run();
    let container = host.container(&id, &bundle.rootfs());
    container.goes_on(&report);
    let init = host.state(&id)["pid"].to_string();
    let stdout = host.command(&["readlink", &format!("/proc/{init}/fd/1")]).run().succeeded();
    assert!(stdout.trim().ends_with("second.log"), "{stdout}");
    container.end();
    host.assert_no_trace();
}
