// SPDX-License-Identifier: Apache-2.0
//! Flags of `checkpoint` and `restore` beyond the plain ones, on real containers.

use std::fs;

use criu_tests::{Bundle, Command, Host, LargePipes, Need, PATIENCE, Stage, wait_until};
use nix::sys::signal::Signal;

/// CRIU by its own command line.
fn criu(host: &Host, args: &[&str]) -> Command {
    host.command(&[&[criu_tests::criu()], args].concat())
}

fn loopback_up(host: &Host) {
    host.command(&["ip", "link", "set", "lo", "up"]).run().succeeded();
}

/// Waits until somebody listens on this port of the host.
fn listening(host: &Host, port: u16) {
    let wanted = format!(":{port:04X} ");
    wait_until(PATIENCE, "the port is open", || {
        let tables =
            ["tcp", "tcp6"].map(|table| fs::read_to_string(host.outside(&format!("/proc/1/net/{table}"))));
        let text: String = tables.into_iter().flatten().collect();
        let is = text.lines().any(|line| line.contains(&wanted) && line.contains(" 0A "));
        is.then_some(()).ok_or(text)
    });
}

#[test]
fn a_pre_dump_works_or_says_what_the_kernel_lacks() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = host.run_small(&stage.id("first"));
    let status = container.reports();
    let args = ["checkpoint", "--pre-dump", "--image-path", &host.path("images"), container.id()];
    if Need::MemoryTracking.is_met() {
        host.migrate(&args).succeeded();
    } else {
        let said = host.migrate(&args).failed(1, &["pre-dump container", "does not track changes of memory"]);
        assert!(said.contains("hint: make one checkpoint, without --pre-dump and --parent-path"), "{said}");
    }
    container.goes_on(&status);
    container.end();
    host.assert_no_trace();
}

#[test]
fn a_page_server_takes_the_memory() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    loopback_up(&host);
    let (bundle, container) = host.run_small(&stage.id("first"));
    let status = container.reports();
    let images = host.path("images");
    fs::create_dir(&images).expect("make the image directory");
    let server = criu(&host, &["page-server", "--images-dir", &images, "--port", "27001"]).start();
    listening(&host, 27001);
    container.checkpoint(&["--page-server", "127.0.0.1:27001", "--image-path", &images]);
    server.wait().succeeded();
    container.restore(&images, &bundle);
    container.goes_on(&status);
    container.end();
    host.assert_no_trace();
}

#[test]
fn memory_on_demand_is_handed_over() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let _pipes = LargePipes::set();
    let host = stage.host("a");
    loopback_up(&host);
    let (bundle, container) = host.run_small(&stage.id("first"));
    let status = container.reports();
    let (images, work, ready) = (host.path("images"), host.path("work"), host.path("ready"));
    fs::create_dir(&work).expect("make the work directory");
    let args = [
        "checkpoint",
        "--lazy-pages",
        "--page-server",
        "127.0.0.1:27002",
        "--status-fd",
        "2",
        "--image-path",
        &images,
    ];
    // Standard error is no such descriptor.
    let said = host.migrate(&[&args[..], &[container.id()]].concat()).failed(1, &["for flag -status-fd"]);
    assert!(said.contains("hint: descriptor 2: "), "{said}");
    let script = format!("exec 7>{ready}; exec \"$@\"");
    let dump = host.migrate_argv(&[
        "checkpoint",
        "--lazy-pages",
        "--page-server",
        "127.0.0.1:27002",
        "--status-fd",
        "7",
    ]);
    let dump: Vec<&str> = dump.iter().map(String::as_str).collect();
    let dump = host
        .command(
            &[&["sh", "-c", &script, "sh"], &dump[..], &["--image-path", &images, container.id()]].concat(),
        )
        .start();
    wait_until(PATIENCE, "memory can be asked for", || {
        let told = fs::read(&ready).unwrap_or_default();
        (told == [0]).then_some(()).ok_or(told)
    });
    let restore = [
        "restore",
        "-d",
        "--lazy-pages",
        "--image-path",
        &images,
        "--work-path",
        &work,
        "-b",
        &bundle.path(),
    ];
    let id = stage.id("second");
    let restore = [&restore[..], &[id.as_str()]].concat();
    let said = host
        .migrate(&restore)
        .failed(1, &["nobody provides memory: no lazy-pages.socket in the work directory"]);
    assert!(said.contains("hint: before the restore start `criu lazy-pages"), "{said}");
    // The restore does not insist on a daemon that is there before it: scripts start both at once.
    let restoring = host.migrate_command(&restore).without_stdio().start();
    let server = ["--page-server", "--address", "127.0.0.1", "--port", "27002"];
    let daemon =
        criu(&host, &[&["lazy-pages", "--images-dir", &images, "--work-dir", &work], &server[..]].concat())
            .start();
    restoring.wait().succeeded();
    let restored = host.container(&id, &bundle.rootfs());
    restored.goes_on(&status);
    dump.wait().succeeded();
    daemon.wait().succeeded();
    assert_eq!(host.container_ids(), [id.as_str()], "the first one is gone");
    restored.end();
    host.assert_no_trace();
}

/// Nobody comes for the memory: the container must not stay frozen.
#[test]
fn memory_that_nobody_asks_for_stays_where_it_is() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let _pipes = LargePipes::set();
    let host = stage.host("a");
    loopback_up(&host);
    let bundle = Bundle::of_workload(&host, "tree", &[]);
    let container = host.run_detached(&stage.id("waits"), &bundle);
    let (images, ready) = (host.path("images"), host.path("ready"));
    let checkpoint = |more: &[&str]| {
        fs::write(&ready, "").expect("nothing is ready");
        let server = ["checkpoint", "--lazy-pages", "--page-server", "127.0.0.1:27003"];
        let rest = ["--status-fd", "7", "--image-path", &images, container.id()];
        let argv = host.migrate_argv(&[&server[..], more, &rest].concat());
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let script = format!("exec 7>{ready}; exec \"$@\"");
        let running = host.command(&[&["sh", "-c", &script, "sh"], &argv[..]].concat()).start();
        wait_until(PATIENCE, "memory can be asked for", || {
            let told = fs::read(&ready).unwrap_or_default();
            if told == [0] || running.has_ended() { Ok(()) } else { Err(told) }
        });
        running
    };
    let mut before = container.reports();
    checkpoint(&["--timeout", "1"]).wait().failed(1, &["nobody has asked for the memory for 1 s"]);
    before = container.goes_on(&before);
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let running = checkpoint(&[]);
        running.signal(signal);
        running.wait().failed(1, &["the checkpoint was given up", "the container runs on"]);
        assert!(!host.criu_runs(), "{:?}", host.processes());
        before = container.goes_on(&before);
    }
    // Whoever is killed tells CRIU nothing; the next command does.
    let running = checkpoint(&[]);
    running.signal(Signal::SIGKILL);
    running.wait();
    container.checkpoint(&["--leave-running", "--image-path", &images]);
    before = container.goes_on(&before);
    container.checkpoint(&["--image-path", &images]);
    container.restore(&images, &bundle);
    container.goes_on(&before);
    container.end();
    host.assert_no_trace();
}

#[test]
fn a_container_that_is_left_stopped_goes_on_where_it_was() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (bundle, container) = host.run_small(&stage.id("first"));
    let status = container.reports();
    let images = host.path("images");
    container.checkpoint(&["--leave-stopped", "--image-path", &images]);
    assert_eq!(container.state_status(), "paused");
    host.migrate(&["resume", container.id()]).succeeded();
    let status = container.goes_on(&status);
    // The images are of the same moment: paused again and ended, it goes on from others.
    let again = host.path("again");
    container.checkpoint(&["--leave-stopped", "--image-path", &again]);
    host.migrate(&["delete", "--force", container.id()]).succeeded();
    let id = stage.id("second");
    host.migrate_detached(&["restore", "-d", "--image-path", &again, "-b", &bundle.path(), &id]);
    let restored = host.container(&id, &bundle.rootfs());
    restored.goes_on(&status);
    restored.end();
    host.assert_no_trace();
}

#[test]
fn what_does_not_go_together_is_refused() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = host.run_small(&stage.id("first"));
    let images = host.path("images");
    let id = container.id();
    for (args, fragment) in [
        (&["--parent-path", "/absolute"][..], "is absolute, and must be relative to the image directory"),
        (&["--parent-path", "../nothing"], "is not a directory in"),
        (&["--lazy-pages"], "--lazy-pages needs --page-server ADDRESS:PORT"),
        (&["--page-server", "nowhere"], "`nowhere` is not ADDRESS:PORT"),
        (&["--status-fd", "77"], "descriptor 77"),
        (&["--ghost-limit", "4G"], "is not a size from 0 to 4 GiB"),
        (&["--network-lock", "door"], "door"),
        (&["--timeout", "0"], "0"),
        (&["--tcp-close", "--tcp-established"], "--tcp-"),
        (&["--pre-dump", "--lazy-pages"], "--"),
    ] {
        let args = [&["checkpoint", "--image-path", &images], args, &[id]].concat();
        let said = container.runs_on_beside(&args, 1, &[]);
        assert!(said.contains(fragment), "{args:?}: {said}");
    }
    let archive = host.path("archive");
    let args = ["checkpoint", "--page-server", "127.0.0.1:1", "--export", &archive, id];
    container.runs_on_beside(&args, 1, &["an archive holds all memory"]);
    assert!(!fs::exists(&archive).expect("look"));
    for (args, fragment) in [
        (&["--lsm-profile", "nothing"][..], "--lsm-profile nothing is no profile"),
        (
            &["--lsm-profile", "selinux:a:b"],
            "--lsm-profile is for SELinux, which is not enabled on this host",
        ),
        (
            &["--lsm-mount-context", "a:b"],
            "--lsm-mount-context is for SELinux, which is not enabled on this host",
        ),
        (&["--inherit-fd", "7"], "`7` is not fd[N]:KEY"),
    ] {
        let second = stage.id("second");
        let args = [&["restore", "--image-path", &images], args, &[second.as_str()]].concat();
        let said = host.migrate(&args).failed(1, &[]);
        assert!(said.contains(fragment), "{args:?}: {said}");
    }
    container.end();
    host.assert_no_trace();
}
