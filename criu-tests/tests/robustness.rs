// SPDX-License-Identifier: Apache-2.0
//! Checkpoints of containers in every state, again and again, and beside processes that CRIU does not take along.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use nix::sys::signal::Signal;

use criu_tests::{Bundle, Container, Host, Need, PATIENCE, Running, Stage, Status, contents, wait_until};

const GENERAL: i32 = 1;

fn log(host: &Host) -> String {
    fs::read_to_string(host.path("migrate.log")).unwrap_or_default()
}

/// A second workload in the container, started by `exec`; it reports beside the first.
fn exec_session<'h>(host: &'h Host, container: &Container<'h>) -> Running {
    let args =
        ["exec", container.id(), "/workload", "counter", "--status", "/state/session", "--dir", "/tmp"];
    let running = host.migrate_command(&args).start();
    session_goes_on(container);
    running
}

fn session_status(container: &Container<'_>) -> Option<Status> {
    Status::read(&format!("{}/state/session", container.rootfs()))
}

fn session_goes_on(container: &Container<'_>) {
    let before = session_status(container).map_or(0, |status| status.counter());
    wait_until(PATIENCE, "the session goes on", || match session_status(container) {
        Some(status) if status.counter() > before + 3 => Ok(()),
        other => Err(other),
    });
}

/// The first process of a pid namespace cannot end before all others are gone, and one that has ended is there until its parent
/// collects it.
#[test]
fn a_process_that_its_parent_outside_does_not_collect_is_told() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (bundle, container) = host.run_small(&stage.id("uncollected"));
    let images = host.path("images");
    let session = exec_session(&host, &container);
    session.signal(Signal::SIGSTOP);
    let before = container.reports();
    let running = host.migrate_command(&["checkpoint", "--image-path", &images, container.id()]).start();
    wait_until(PATIENCE, "somebody is told", || {
        let log = log(&host);
        if log.contains("its parent outside of the container does not collect it") {
            Ok(())
        } else {
            Err(log)
        }
    });
    session.signal(Signal::SIGCONT);
    running.wait().succeeded();
    assert_eq!(session.wait().code, 128 + Signal::SIGKILL as i32);
    container.restore(&images, &bundle);
    container.goes_on(&before);
    container.end();
    host.assert_no_trace();
}

#[test]
fn processes_that_exec_has_started_are_named_and_never_silently_lost() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (bundle, container) = host.run_small(&stage.id("sessions"));
    let session = exec_session(&host, &container);
    let detached = ["exec", "-d", container.id(), "/workload", "hog", "--wait"];
    host.migrate_detached(&detached);
    let images = host.path("images");

    // Who wants none lost is told which ones are in the way, before anything is done.
    let refusing = ["checkpoint", "--exec-sessions", "refuse", "--image-path", &images, container.id()];
    let said = container.runs_on_beside(&refusing, GENERAL, &["started by exec"]);
    for command in [
        "hint: end them first",
        "(/workload counter --status /state/session --dir /tmp)",
        "(/workload hog --wait)",
    ] {
        assert!(said.contains(command), "{said}");
    }
    assert!(!said.contains("--memory"), "the container's own process is none of them:\n{said}");
    session_goes_on(&container);

    container.checkpoint(&["--leave-running", "--image-path", &images]);
    session_goes_on(&container);
    let warned = log(&host);
    assert!(warned.contains("they run on here") && warned.contains("(/workload hog --wait)"), "{warned}");

    let before = container.reports();
    container.checkpoint(&["--image-path", &images]);
    let warned = log(&host);
    assert!(warned.contains("they end with the container"), "{warned}");
    assert_eq!(session.wait().code, 137, "the caller of exec learns of its end");
    host.assert_no_trace();

    container.restore(&images, &bundle);
    container.goes_on(&before);
    // Nothing that exec has started came back, so nobody is in the way now.
    container.checkpoint(&["--exec-sessions", "refuse", "--image-path", &images]);
    host.assert_no_trace();
}

/// A child of a process that `exec` has started belongs to the container's first process once that one has ended.
#[test]
fn what_a_session_has_left_behind_travels() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (bundle, container) = host.run_small(&stage.id("orphans"));
    let leave =
        ["exec", container.id(), "/workload", "orphan", "--status", "/state/session", "--dir", "/tmp"];
    host.migrate_command(&leave).without_stdio().run().succeeded();
    session_goes_on(&container);
    let (before, left) = (container.reports(), session_status(&container).expect("it reports"));
    let images = host.path("images");
    container.checkpoint(&["--exec-sessions", "refuse", "--image-path", &images]);
    container.restore(&images, &bundle);
    container.goes_on(&before);
    session_goes_on(&container);
    session_status(&container).expect("it reports").assert_continues(&left);
    host.migrate(&["delete", "--force", container.id()]).succeeded();
    host.assert_no_trace();
}

#[test]
fn a_paused_container_stays_paused_and_comes_back_running() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    for (name, workload, options) in
        [("plain", "counter", &["--memory", "1048576"][..]), ("stopped", "tree", &["--stopped"])]
    {
        let bundle = Bundle::of_workload(&host, workload, options);
        let container = host.run_detached(&stage.id(name), &bundle);
        let before = container.reports();
        host.migrate(&["pause", container.id()]).succeeded();
        let images = host.path(name);
        container.checkpoint(&["--leave-running", "--image-path", &images]);
        assert_eq!(container.state_status(), "paused", "{name}");
        // One that fails, at the first word of CRIU and after the dump.
        let missing = ["--criu", "/bin/false", "checkpoint", "--image-path", &images, container.id()];
        host.migrate(&missing).failed(4, &[]);
        assert_eq!(container.state_status(), "paused", "{name}");
        let full = ["checkpoint", "--export", "/dev/full/none", container.id()];
        assert_ne!(host.migrate(&full).code, 0);
        assert_eq!(container.state_status(), "paused", "{name}");
        host.migrate(&["resume", container.id()]).succeeded();
        let before = container.goes_on(&before);

        host.migrate(&["pause", container.id()]).succeeded();
        container.checkpoint(&["--image-path", &images]);
        container.restore(&images, &bundle);
        assert_eq!(container.state_status(), "running", "{name}");
        container.goes_on(&before);
        container.end();
        host.assert_no_trace();
    }
}

#[test]
fn a_container_that_does_not_run_says_so() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &[]);
    let (id, images) = (stage.id("created"), host.path("images"));
    let checkpoint = ["checkpoint", "--image-path", &images, &id];
    host.migrate_detached(&["create", "-b", &bundle.path(), &id]);
    host.migrate(&checkpoint).failed(GENERAL, &["container cannot be checkpointed in created state"]);
    host.migrate(&["pause", &id]).succeeded();
    host.migrate(&checkpoint).failed(GENERAL, &["container cannot be checkpointed in created state"]);
    host.migrate(&["resume", &id]).succeeded();
    host.migrate(&["start", &id]).succeeded();
    let container = host.container(&id, &bundle.rootfs());
    container.reports();
    // Stopped by a signal is not stopped for good.
    container.stand_still();
    container.checkpoint(&["--leave-running", "--image-path", &images]);
    container.kill("CONT");
    let before = container.reports();
    container.goes_on(&before);
    container.kill("KILL");
    container.stops();
    host.migrate(&checkpoint).failed(GENERAL, &["container cannot be checkpointed in stopped state"]);
    host.migrate(&["delete", &id]).succeeded();
    host.migrate(&checkpoint).failed(GENERAL, &["does not exist"]);
    host.assert_no_trace();
}

/// A CRIU that waits at its door until a file is there.
fn waiting_criu(host: &Host) -> (String, String, String) {
    let (path, waits, go) = (host.path("slow-criu"), host.path("waits"), host.path("go"));
    let real = criu_tests::criu();
    let script =
        format!("#!/bin/sh\n: > {waits}\nuntil [ -e {go} ]; do sleep 0.01; done\nexec {real} \"$@\"\n");
    fs::write(&path, script).expect("write the wrapper");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    (path, waits, go)
}

#[test]
fn a_container_that_ends_during_its_checkpoint() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = host.run_small(&stage.id("ends"));
    let (criu, waits, go) = waiting_criu(&host);
    let archive = host.path("none.tar");
    let command =
        host.migrate_command(&["--criu", &criu, "checkpoint", "--export", &archive, container.id()]);
    let running = command.start();
    let look = || fs::exists(&waits).is_ok_and(|there| there).then_some(()).ok_or("not yet");
    wait_until(PATIENCE, "CRIU is started", look);
    container.kill("KILL");
    container.stops();
    fs::write(&go, "").expect("let CRIU go");
    running.wait().failed(GENERAL, &["the container ended by itself meanwhile"]);
    assert!(!fs::exists(&archive).expect("look"));
    host.migrate(&["delete", container.id()]).succeeded();
    host.assert_no_trace();
}

/// Everything in a directory of images, but CRIU's logs.
fn images_in(directory: &str) -> Vec<(String, Vec<u8>)> {
    let is_image = |(name, _): &(String, _)| !name.ends_with(".log") && !name.starts_with("stats-");
    contents(directory).into_iter().filter(is_image).collect()
}

#[test]
fn a_restore_that_fails_late_leaves_nothing_and_the_images_as_they_were() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (bundle, container) = host.run_small(&stage.id("late"));
    let before = container.reports();
    let (images, id) = (host.path("images"), container.id().to_owned());
    container.checkpoint(&["--image-path", &images]);
    let whole = images_in(&images);
    let restore = ["restore", "-d", "--image-path", &images, "-b", &bundle.path(), &id];
    let config = fs::read(bundle.config()).expect("read config.json");
    let hook = |kind: &str| {
        let mut edited: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
        edited["hooks"][kind] = serde_json::json!([{"path": "/bin/false"}]);
        fs::write(bundle.config(), edited.to_string()).expect("write config.json");
    };
    let fails = |what: &str, args: &[&str]| {
        let output = host.migrate_command(args).without_stdio().run();
        assert_ne!(output.code, 0, "{what}");
        host.assert_no_trace();
        assert!(images_in(&images) == whole, "the images have changed: {what}");
    };
    // While the processes are half made, and when they are there.
    for kind in ["prestart", "createRuntime"] {
        hook(kind);
        fails(kind, &restore);
    }
    fs::write(bundle.config(), &config).expect("write config.json");
    fails("the pid file", &[&restore[..1], &["--pid-file", "/nonexistent/pid"], &restore[1..]].concat());
    fails("the work directory", &[&restore[..1], &["--work-path", "/dev/null/work"], &restore[1..]].concat());
    // The same id is free at once, and the images are good.
    container.restore(&images, &bundle);
    container.goes_on(&before);
    container.end();
    host.assert_no_trace();
}

/// CRIU takes what is missing for empty, and reads a file of pages that is cut short for ever: it is not asked.
#[test]
fn images_that_are_not_complete_are_named_before_criu_is_started() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "tree", &[]);
    let container = host.run_detached(&stage.id("part"), &bundle);
    let before = container.reports();
    let images = host.path("images");
    container.checkpoint(&["--image-path", &images]);
    fs::remove_file(format!("{images}/dump.log")).expect("remove the log");
    let whole = images_in(&images);
    let restore = ["restore", "-d", "--image-path", &images, "-b", &bundle.path(), container.id()];
    let fails = |name: &str, how: &str| {
        let output = host.migrate_command(&restore).run();
        let said = output.failed(3, &["the images in the image directory are not complete", name, how]);
        assert!(said.contains("hint: copy the whole directory"), "{said}");
        assert!(!fs::exists(format!("{images}/restore.log")).expect("look"), "CRIU was started: {name}");
        assert!(host.container_ids().is_empty());
    };
    // Of the files of pages the first may be of nothing.
    let largest =
        whole.iter().filter(|(name, _)| name.starts_with("pages-")).max_by_key(|(_, all)| all.len());
    for kind in ["core-", "ids-", "fs-", "mm-", "pagemap-", "pages-", "pstree", "files."] {
        let first = whole.iter().find(|(name, _)| name.starts_with(kind));
        let found = if kind == "pages-" { largest } else { first };
        let (name, bytes) = found.expect("there is one of each kind");
        let path = format!("{images}/{name}");
        fs::remove_file(&path).expect("remove");
        fails(name, "it is missing");
        for (end, how) in [(0, ""), (bytes.len() - 1, if kind == "pages-" { "cut short" } else { "cut off" })]
        {
            fs::write(&path, &bytes[..end]).expect("write");
            fails(name, how);
        }
        fs::write(&path, bytes).expect("write");
    }
    container.restore(&images, &bundle);
    container.goes_on(&before);
    container.end();
    host.assert_no_trace();
}

fn descriptors_and_mounts(host: &Host, id: &str) -> (usize, usize) {
    let pid = host.state(id)["pid"].as_i64().expect("a pid");
    let count = |path: String| host.command(&["sh", "-c", &format!("ls {path} | wc -l")]).run().succeeded();
    let descriptors = count(format!("/proc/{pid}/fd"));
    let mounts = host.command(&["sh", "-c", &format!("wc -l < /proc/{pid}/mountinfo")]).run().succeeded();
    let number = |text: String| text.trim().parse().expect("a number");
    (number(descriptors), number(mounts))
}

#[test]
fn ten_checkpoints_in_a_row() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "files", &[]);
    let container = host.run_detached(&stage.id("row"), &bundle);
    let mut report = container.reports();
    let mut after_the_first = None;
    for round in 0..10 {
        // The same directory each time: what the last one left there must not matter.
        let images = host.path("images");
        container.checkpoint(&["--image-path", &images]);
        host.assert_no_trace();
        container.restore(&images, &bundle);
        report = container.goes_on(&report);
        let now = descriptors_and_mounts(&host, container.id());
        let first = *after_the_first.get_or_insert(now);
        assert_eq!(now, first, "descriptors and mounts in round {round}");
        container.checkpoint(&["--leave-running", "--image-path", &images]);
        report = container.goes_on(&report);
    }
    assert!(!host.mountinfo().contains(".criu."), "{}", host.mountinfo());
    container.end();
    host.assert_no_trace();
}

fn kill_criu(host: &Host) {
    let pid = wait_until(PATIENCE, "CRIU is at work", || host.criu().ok_or_else(|| host.processes()));
    host.command(&["sh", "-c", &format!("kill -KILL {pid}")]).run().succeeded();
}

/// Outside of the time in which it works inside the processes: nothing is lost.
#[test]
fn criu_is_killed_when_the_images_are_complete() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "tree", &[]);
    let container = host.run_detached(&stage.id("killed"), &bundle);
    let before = container.reports();
    // Nobody reads: the archive fills the pipe, and CRIU waits in post-dump.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let args = ["checkpoint", "--export", "-", container.id()];
    let running = host.migrate_command(&args).stdout(writer).start();
    let journal = format!("{}/{}/checkpoint/inventory.img", host.state_root(), container.id());
    wait_until(PATIENCE, "the images are complete", || {
        fs::exists(&journal).is_ok_and(|there| there).then_some(()).ok_or("not yet")
    });
    wait_until(PATIENCE, "the pipe is full", || {
        let mut waiting =
            [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&reader), nix::poll::PollFlags::POLLIN)];
        let ready = nix::poll::poll(&mut waiting, nix::poll::PollTimeout::ZERO).expect("poll");
        (ready == 1).then_some(()).ok_or("nothing is written")
    });
    kill_criu(&host);
    drop(reader);
    let output = running.wait();
    assert_ne!(output.code, 0);
    assert_eq!(container.state_status(), "running");
    let now = container.goes_on(&before);
    let images = host.path("images");
    container.checkpoint(&["--image-path", &images]);
    container.restore(&images, &bundle);
    container.goes_on(&now);
    container.end();
    host.assert_no_trace();
}
