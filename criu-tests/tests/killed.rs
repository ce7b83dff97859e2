// SPDX-License-Identifier: Apache-2.0
//! `migrate` is killed with SIGKILL in the middle of its work; CRIU, in a session of its own, is not. Whatever the
//! moment: CRIU ends by itself, the container runs on or can be restored, `state` and `delete --force` work, nothing
//! stands under the name of an archive that was not finished, and the next checkpoint works.
//!
//! A moment is something that can be seen from outside; where the kill lands after it differs from run to run, and the
//! promise holds all the same.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use criu_tests::{Bundle, Container, Host, Need, PATIENCE, Running, Stage, Status, wait_until};
use nix::sys::signal::Signal;

/// Enough memory for the dump to take a while.
const MEMORY: [&str; 2] = ["--memory", "67108864"];

/// Kills the command once something is true. It may have come to its end before the kill reaches it; then it must have
/// succeeded.
fn kill_when(command: Running, moment: &str, reached: impl Fn() -> bool) {
    wait_until(PATIENCE, moment, || if command.has_ended() || reached() { Ok(()) } else { Err("not yet") });
    command.signal(Signal::SIGKILL);
    let output = command.wait();
    if output.code != 128 + Signal::SIGKILL as i32 {
        output.succeeded();
    }
}

fn criu_ends(host: &Host) {
    wait_until(PATIENCE, "CRIU ends by itself", || {
        if host.criu_runs() { Err(host.processes()) } else { Ok(()) }
    });
}

fn is_there(path: &str) -> bool {
    fs::exists(path).expect("look for a file")
}

fn has_entries(directory: &str) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
}

/// Whether the container's process runs, as `state` and the workload tell; asserts that the two agree.
fn goes_on(container: &Container<'_>, host: &Host, before: &Status) -> bool {
    if !host.container_ids().iter().any(|id| id == container.id()) {
        return false;
    }
    match container.state_status().as_str() {
        "running" => {
            container.goes_on(before);
            true
        }
        "stopped" => false,
        other => panic!("the container is {other}"),
    }
}

/// The container after its `migrate` was killed in a dump to `images`: goes on, or is restored from them.
fn survives(host: &Host, container: &Container<'_>, bundle: &Bundle, images: &str, before: &Status) {
    criu_ends(host);
    if !goes_on(container, host, before) {
        host.migrate(&["delete", "--force", container.id()]).succeeded();
        host.migrate_detached(&[
            "restore",
            "-d",
            "--image-path",
            images,
            "-b",
            &bundle.path(),
            container.id(),
        ]);
        container.goes_on(before);
    }
    let now = container.reports();
    let next = host.path("next");
    container.checkpoint(&["--image-path", &next]);
    host.migrate_detached(&["restore", "-d", "--image-path", &next, "-b", &bundle.path(), container.id()]);
    container.goes_on(&now);
    host.migrate(&["delete", "--force", container.id()]).succeeded();
    host.assert_no_trace();
}

fn checkpoint_killed(moment: &str, file: &str) {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &MEMORY);
    let container = host.run_detached(&stage.id("killed"), &bundle);
    let before = container.reports();
    let images = host.path("images");
    let running = host.migrate_command(&["checkpoint", "--image-path", &images, container.id()]).start();
    kill_when(running, moment, || is_there(&format!("{images}/{file}")));
    survives(&host, &container, &bundle, &images, &before);
}

#[test]
fn a_checkpoint_as_criu_begins() {
    checkpoint_killed("CRIU logs", "dump.log");
}

#[test]
fn a_checkpoint_while_memory_is_written() {
    checkpoint_killed("pages are written", "pages-1.img");
}

#[test]
fn a_checkpoint_as_criu_finishes() {
    checkpoint_killed("statistics are written", "stats-dump");
}

#[test]
fn a_checkpoint_before_criu_has_its_request() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "tree", &[]);
    let container = host.run_detached(&stage.id("killed"), &bundle);
    let before = container.reports();
    // A CRIU that waits at its door, so that the moment is exact.
    let (slow, waits, go, images) =
        (host.path("slow-criu"), host.path("waits"), host.path("go"), host.path("images"));
    let real = criu_tests::criu();
    let script =
        format!("#!/bin/sh\n: > {waits}\nuntil [ -e {go} ]; do sleep 0.01; done\nexec {real} \"$@\"\n");
    fs::write(&slow, script).expect("write the wrapper");
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).expect("chmod");
    let args = ["--criu", &slow, "checkpoint", "--image-path", &images, container.id()];
    kill_when(host.migrate_command(&args).start(), "CRIU is started", || is_there(&waits));
    container.goes_on(&before);
    fs::write(go, "").expect("let CRIU go");
    survives(&host, &container, &bundle, &images, &before);
}

fn export_killed(moment: &str, reached: impl Fn(&Host, &str) -> bool) {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &MEMORY);
    let container = host.run_detached(&stage.id("killed"), &bundle);
    let before = container.reports();
    let target = host.path("target");
    fs::create_dir(&target).expect("make a directory");
    let archive = format!("{target}/moved.tar");
    let running = host.migrate_command(&["checkpoint", "--export", &archive, container.id()]).start();
    kill_when(running, moment, || reached(&host, &target));
    criu_ends(&host);

    if is_there(&archive) {
        // It was finished after all: then it is whole, and the container must not run twice.
        if host.container_ids().is_empty() || container.state_status() == "stopped" {
            host.migrate(&["delete", "--force", container.id()]).succeeded();
        }
    } else {
        assert!(goes_on(&container, &host, &before), "there is no archive, so the container must run");
        container.checkpoint(&["--export", &archive]);
    }
    // The next command has cleared up what the killed one left beside the target.
    let names: Vec<_> =
        fs::read_dir(&target).expect("list the target").flatten().map(|e| e.file_name()).collect();
    assert_eq!(names, ["moved.tar"], "left beside the archive");
    let id = stage.id("restored");
    host.migrate_detached(&["restore", "-d", "--import", &archive, &id]);
    host.imported(&id).goes_on(&before);
    host.migrate(&["delete", "--force", &id]).succeeded();
    host.migrate(&["delete", "--force", container.id()]).succeeded();
    host.assert_no_trace();
}

#[test]
fn an_export_as_criu_works() {
    export_killed("CRIU runs", |host, _| host.criu_runs());
}

#[test]
fn an_export_as_the_archive_is_begun() {
    export_killed("a file appears beside the target", |_, target| has_entries(target));
}

#[test]
fn an_export_in_the_middle_of_the_archive() {
    export_killed("a megabyte of the archive is written", |_, target| {
        let entries = fs::read_dir(target).into_iter().flatten().flatten();
        entries.filter_map(|e| e.metadata().ok()).any(|m| m.len() > 1 << 20)
    });
}

fn restore_killed(moment: &str, reached: impl Fn(&Host, &str) -> bool) {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &MEMORY);
    let original = host.run_detached(&stage.id("original"), &bundle);
    let before = original.reports();
    let archive = stage.path("moved.tar");
    original.checkpoint(&["--export", &archive]);
    let (id, work) = (stage.id("killed"), host.path("work"));
    let args = ["restore", "-d", "--work-path", &work, "--import", &archive, &id];
    let running = host.migrate_command(&args).without_stdio().start();
    kill_when(running, moment, || reached(&host, &id));
    criu_ends(&host);

    // Whatever stage it reached: its status is told, or that there is no such container.
    let state = host.migrate(&["state", &id]);
    if state.code != 0 {
        state.failed(1, &[&id]);
    }
    host.migrate(&["delete", "--force", &id]).succeeded();
    host.assert_no_trace();
    host.migrate_detached(&["restore", "-d", "--import", &archive, &id]);
    let restored = host.imported(&id);
    restored.goes_on(&before);
    restored.end();
    host.assert_no_trace();
}

#[test]
fn a_restore_as_its_state_appears() {
    restore_killed("the state directory is there", |host, id| host.container_ids().iter().any(|i| i == id));
}

#[test]
fn a_restore_as_the_root_filesystem_is_unpacked() {
    restore_killed("the workload's file is there", |host, id| {
        is_there(&format!("{}/workload", host.imported(id).rootfs()))
    });
}

#[test]
fn a_restore_as_criu_begins() {
    restore_killed("CRIU runs", |host, _| host.criu_runs());
}

#[test]
fn a_restore_while_criu_restores() {
    restore_killed("CRIU logs", |host, _| is_there(&host.path("work/restore.log")));
}

#[test]
fn a_restore_that_fills_a_bundle() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &MEMORY);
    let original = host.run_detached(&stage.id("original"), &bundle);
    let before = original.reports();
    let archive = stage.path("moved.tar");
    original.checkpoint(&["--export", &archive]);
    let (id, filled) = (stage.id("killed"), host.path("filled"));
    let args = ["restore", "-d", "--import", &archive, "--bundle", &filled, &id];
    let workload = format!("{filled}/rootfs/workload");
    kill_when(host.migrate_command(&args).without_stdio().start(), "a file is unpacked", || {
        is_there(&workload)
    });
    criu_ends(&host);
    // Nothing else knows that the directory is half of a bundle.
    host.migrate(&["delete", "--force", &id]).succeeded();
    assert!(!is_there(&filled), "the half bundle is left");
    host.migrate_detached(&args);
    let restored = host.container(&id, &format!("{filled}/rootfs"));
    restored.goes_on(&before);
    restored.end();
    assert!(is_there(&workload), "a bundle that the caller has named is the caller's to remove");
    host.assert_no_trace();
}

/// The record of a checkpoint that was killed after CRIU had the processes in its images, and before the archive was
/// complete.
fn leave_images_only(host: &Host, id: &str) -> (String, String) {
    let (images, partial) = (host.path(".moved.tar.images"), host.path(".moved.tar.partial"));
    fs::create_dir(&images).expect("make a directory");
    fs::write(&partial, "half").expect("write a file");
    let journal = serde_json::json!({
        "phase": "dumped", "criu": null, "images": images, "owns_images": true, "partial": partial
    });
    fs::write(format!("{}/{id}/checkpoint.json", host.state_root()), journal.to_string())
        .expect("write the record");
    (images, partial)
}

#[test]
fn images_that_are_all_there_is_of_a_container_are_named_and_kept() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = host.run_small(&stage.id("images"));
    let (images, partial) = leave_images_only(&host, container.id());
    container.kill("KILL");
    container.stops();
    let said = host.migrate(&["checkpoint", container.id()]).failed(1, &["stopped"]);
    assert!(said.contains(&images) && said.contains("--export"), "{said}");
    assert!(is_there(&images) && !is_there(&partial), "the half archive is of no use");
    host.migrate(&["delete", container.id()]).failed(1, &["archive"]);
    assert!(is_there(&images));
    host.migrate(&["delete", "--force", container.id()]).succeeded();
    assert!(!is_there(&images));
    host.assert_no_trace();
}

#[test]
fn a_foreground_run_keeps_the_images_of_a_checkpoint_that_was_killed() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"]);
    let id = stage.id("images");
    let running = host.migrate_command(&["run", "-b", &bundle.path(), &id]).start();
    host.container(&id, &bundle.rootfs()).reports();
    let (images, _) = leave_images_only(&host, &id);
    host.migrate(&["kill", &id, "KILL"]).succeeded();
    running.wait().failed(1, &["archive"]);
    assert!(is_there(&images) && host.container_ids() == [id.as_str()]);
    host.migrate(&["delete", "--force", &id]).succeeded();
    host.assert_no_trace();
}
