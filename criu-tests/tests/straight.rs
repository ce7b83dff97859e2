// SPDX-License-Identifier: Apache-2.0
//! Memory goes straight into an archive that is a file: there is no second copy of it on the disk, what is written is what CRIU
//! writes itself, and neither a disk that is full nor an archive that cannot get its name costs the container.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use criu_tests::{Bundle, Container, Host, Need, Stage};
use migrate::criu::image::{Kept, PageTable, page_table};

const STORAGE: i32 = 6;

/// Bytes of memory that cannot be compressed, and options for a disk with room for them once, twice, and not at all.
const MEMORY: [&str; 2] = ["--memory", "16777216"];
const ONCE: &str = "size=28m";
const TWICE: &str = "size=64m";
const NEVER: &str = "size=8m";

/// A container with memory, and a disk that only its host sees.
fn beside_a_disk<'h>(host: &'h Host, stage: &Stage, size: &str) -> (Bundle, Container<'h>, String) {
    let bundle = Bundle::of_workload(host, "counter", &MEMORY);
    let container = host.run_detached(&stage.id("straight"), &bundle);
    container.reports();
    let disk = host.path("disk");
    fs::create_dir(&disk).expect("make a directory");
    host.command(&["mount", "-t", "tmpfs", "-o", size, "tmpfs", &disk]).run().succeeded();
    (bundle, container, disk)
}

fn names_on(host: &Host, disk: &str) -> String {
    host.command(&["find", disk, "-mindepth", "1"]).run().succeeded()
}

#[test]
fn a_disk_with_room_for_one_copy_is_enough() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (bundle, container, disk) = beside_a_disk(&host, &stage, ONCE);
    let before = container.reports();
    let archive = format!("{disk}/moved.tar");
    container.checkpoint(&["--rootfs", "none", "--export", &archive]);
    assert_eq!(names_on(&host, &disk).trim(), archive);
    let id = stage.id("back");
    host.migrate_detached(&["restore", "-d", "--import", &archive, "-b", &bundle.path(), &id]);
    let back = host.container(&id, &bundle.rootfs());
    back.goes_on(&before);
    back.end();
    host.command(&["umount", &disk]).run().succeeded();
    host.assert_no_trace();
}

#[test]
fn a_disk_that_fills_up_while_memory_comes() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (_bundle, container, disk) = beside_a_disk(&host, &stage, NEVER);
    let target = format!("{disk}/moved.tar");
    for more in [&[][..], &["--leave-running"]] {
        let args = [&["checkpoint", "--export", &target, container.id()], more].concat();
        container.runs_on_beside(&args, STORAGE, &["no space left"]);
        assert_eq!(names_on(&host, &disk), "", "left on the disk");
    }
    container.end();
    host.command(&["umount", &disk]).run().succeeded();
    host.assert_no_trace();
}

/// The table of pages of an image, and the pages.
fn table(images: &str, name: &str) -> (PageTable, Vec<u8>) {
    let table = page_table(&fs::read(format!("{images}/{name}")).expect("read")).expect("a good one");
    let pages = fs::read(format!("{images}/pages-{}.img", table.file)).expect("read");
    (table, pages)
}

#[test]
fn what_is_written_is_what_criu_writes_itself() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "tree", &[]);
    let container = host.run_detached(&stage.id("paused"), &bundle);
    container.reports();
    host.migrate(&["pause", container.id()]).succeeded();
    let (theirs, archive, ours) = (host.path("theirs"), host.path("a.tar"), host.path("ours"));
    container.checkpoint(&["--leave-running", "--image-path", &theirs]);
    container.checkpoint(&["--leave-running", "--rootfs", "none", "--export", &archive]);
    fs::create_dir(&ours).expect("mkdir");
    host.command(&["tar", "--zstd", "-xf", &archive, "-C", &ours]).run().succeeded();
    let ours = format!("{ours}/checkpoint");
    let names = |directory: &str| {
        let entries =
            fs::read_dir(directory).expect("list").map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().expect("text")).collect();
        // The configuration is a member of its own, and these are never images.
        names.retain(|name| !["config.json", "dump.log", "stats-dump"].contains(&&name[..]));
        names.sort();
        names
    };
    assert_eq!(names(&ours), names(&theirs));
    let tables = names(&theirs).into_iter().filter(|name| name.starts_with("pagemap-"));
    let mut compared = 0;
    for name in tables {
        let ((their_table, their_pages), (our_table, our_pages)) =
            (table(&theirs, &name), table(&ours, &name));
        assert_eq!(our_table.runs, their_table.runs, "{name}");
        assert_eq!(our_pages.len(), their_pages.len(), "{name}");
        let head = |images: &str| fs::read(format!("{images}/{name}")).expect("read")[..8].to_vec();
        assert_eq!(head(&ours), head(&theirs));
        let here = our_table.runs.iter().filter(|run| run.kept == Kept::Here);
        compared += here.map(|run| run.pages).sum::<u64>();
        let differing = our_pages.chunks(4096).zip(their_pages.chunks(4096)).filter(|(a, b)| a != b).count();
        // CRIU's own work in a process leaves its marks below its stack.
        assert!(differing <= 4, "{name}: {differing} pages differ");
    }
    assert!(compared > 100, "only {compared} pages");
    host.migrate(&["resume", container.id()]).succeeded();
    container.end();
    host.assert_no_trace();
}

/// A CRIU that puts a directory in the archive's place when the archive has been begun: it cannot get its name, and that is seen
/// only when the processes have ended.
fn criu_in_the_way(host: &Host, archive: &str) -> String {
    let (path, real) = (host.path("criu-in-the-way"), criu_tests::criu());
    let (disk, _) = archive.rsplit_once('/').expect("a path");
    let begun = format!("ls -A {disk} | grep -q partial");
    let wait = format!("n=0; until {begun} || [ $n -ge 1000 ]; do n=$((n + 1)); sleep 0.01; done");
    let script =
        format!("#!/bin/sh\n[ \"$1\" != swrk ] || {{ {wait}; mkdir -p {archive}; }}\nexec {real} \"$@\"\n");
    fs::write(&path, script).expect("write the wrapper");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    path
}

fn is_restored(host: &Host, stage: &Stage, bundle: &Bundle, archive: &str, before: &criu_tests::Status) {
    let id = stage.id("back");
    host.migrate_detached(&["restore", "-d", "--import", archive, "-b", &bundle.path(), &id]);
    let back = host.container(&id, &bundle.rootfs());
    back.goes_on(before);
    back.end();
}

#[test]
fn an_archive_that_cannot_get_its_name_loses_nothing() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (bundle, container, disk) = beside_a_disk(&host, &stage, TWICE);
    let before = container.reports();
    let archive = format!("{disk}/moved.tar");
    let criu = criu_in_the_way(&host, &archive);
    let args = ["--criu", &criu, "checkpoint", "--rootfs", "none", "--export", &archive, container.id()];
    let said = host.migrate(&args).failed(1, &[&archive]);
    assert!(said.contains("the images are complete in"), "{said}");
    host.command(&["rmdir", &archive]).run().succeeded();
    let left = names_on(&host, &disk);
    assert!(left.contains("/pages-1.img") && !left.contains(".partial"), "{left}");
    assert_eq!(container.state_status(), "stopped");
    host.migrate(&["checkpoint", "--rootfs", "none", "--export", &archive, container.id()]).succeeded();
    assert_eq!(names_on(&host, &disk).trim(), archive);
    assert!(host.container_ids().is_empty());
    is_restored(&host, &stage, &bundle, &archive, &before);
    host.command(&["umount", &disk]).run().succeeded();
    host.assert_no_trace();
}

/// The same, and then there is no room to take the memory out of the archive either: the next command does it.
#[test]
fn memory_that_is_only_in_half_an_archive_is_kept() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (bundle, container, disk) = beside_a_disk(&host, &stage, ONCE);
    let before = container.reports();
    let (archive, other) = (format!("{disk}/moved.tar"), host.path("other.tar"));
    let criu = criu_in_the_way(&host, &archive);
    let args = ["--criu", &criu, "checkpoint", "--rootfs", "none", "--export", &archive, container.id()];
    let said = host.migrate(&args).failed(1, &[&archive]);
    assert!(said.contains("have ended") && said.contains(".partial: export again"), "{said}");
    host.command(&["rmdir", &archive]).run().succeeded();
    let left = names_on(&host, &disk);
    assert!(left.contains(".partial") && left.contains("/inventory.img"), "{left}");
    let said = host.migrate(&["checkpoint", container.id()]).failed(1, &["stopped"]);
    assert!(said.contains(".partial: export again"), "{said}");
    host.migrate(&["delete", container.id()]).failed(1, &["archive"]);
    let again = ["checkpoint", "--rootfs", "none", "--export", &other, container.id()];
    host.migrate(&again).failed(STORAGE, &["take the memory"]);
    assert!(names_on(&host, &disk).contains(".partial"), "it is all there is of the memory");
    host.command(&["mount", "-o", &format!("remount,{TWICE}"), &disk]).run().succeeded();
    host.migrate(&again).succeeded();
    assert_eq!(names_on(&host, &disk), "", "left on the disk");
    is_restored(&host, &stage, &bundle, &other, &before);
    host.command(&["umount", &disk]).run().succeeded();
    host.assert_no_trace();
}
