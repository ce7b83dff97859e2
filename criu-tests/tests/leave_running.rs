// SPDX-License-Identifier: Apache-2.0
//! `checkpoint --leave-running`: the container goes on, and its copy runs elsewhere at the same time.

use criu_tests::{Bundle, Need, Stage};

fn copied(workload: &str) {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let (a, b) = (stage.host("a"), stage.host("b"));
    let bundle = Bundle::of_workload(&a, workload, &[]);
    let original = a.run_detached(&stage.id("original"), &bundle);
    let before = original.reports();
    let archive = stage.path("copy.tar");
    original.checkpoint(&["--leave-running", "--export", &archive]);
    let at_checkpoint = original.goes_on(&before);
    assert_eq!(original.state_status(), "running");

    let id = stage.id("copy");
    b.migrate_detached(&["restore", "-d", "-i", &archive, &id]);
    let copy = b.imported(&id);
    let copied = copy.goes_on(&before);
    original.goes_on(&at_checkpoint);

    // A second copy from the same archive, beside the first.
    let id = stage.id("again");
    b.migrate_detached(&["restore", "-d", "-i", &archive, &id]);
    let again = b.imported(&id);
    again.goes_on(&before);
    copy.goes_on(&copied);
    for container in [copy, again, original] {
        container.end();
    }
    a.assert_no_trace();
    b.assert_no_trace();
}

#[test]
fn a_copy_with_open_files() {
    copied("files");
}

#[test]
fn a_copy_with_two_processes() {
    copied("pipes");
}

#[test]
fn images_are_kept_beside_the_archive_when_both_are_asked_for() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "threads", &[]);
    let container = host.run_detached(&stage.id("both"), &bundle);
    let before = container.reports();
    let (images, work, archive) = (host.path("images"), host.path("work"), host.path("both.tar"));
    container.checkpoint(&["--image-path", &images, "--work-path", &work, "--export", &archive]);
    let there = |path: &str| std::fs::exists(path).expect("look");
    assert!(there(&format!("{images}/inventory.img")));
    assert!(there(&format!("{work}/dump.log")), "logs go to the work directory");
    assert!(!there(&format!("{images}/dump.log")));
    assert!(there(&archive));

    let id = container.id();
    host.migrate_detached(&[
        "restore",
        "-d",
        "--image-path",
        &images,
        "--work-path",
        &work,
        "-b",
        &bundle.path(),
        id,
    ]);
    assert!(there(&format!("{work}/restore.log")));
    container.goes_on(&before);
    container.end();
    host.assert_no_trace();
}
