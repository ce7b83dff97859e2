// SPDX-License-Identifier: Apache-2.0
//! Bad surroundings: no CRIU, one that is too old or refuses, a disk that is full or read-only. The container runs on, and
//! nothing half-done is left.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use criu_tests::{Bundle, Host, Need, Stage};

/// The documented exit codes.
const NO_CRIU: i32 = 4;
const CRIU_REFUSED: i32 = 5;
const STORAGE: i32 = 6;

fn executable(path: &str, script: &str) {
    fs::write(path, script).expect("write a script");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
}

#[test]
fn no_criu() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (bundle, container) = host.run_small(&stage.id("small"));
    let (images, archive) = (host.path("images"), host.path("none.tar"));
    let without = ["--criu", "/nonexistent/criu", "checkpoint"];
    for target in [["--image-path", &images], ["--export", &archive]] {
        let args = [&without[..], &target, &[container.id()]].concat();
        container.runs_on_beside(&args, NO_CRIU, &["/nonexistent/criu"]);
        assert!(!fs::exists(&archive).expect("look"));
    }
    container.checkpoint(&["--image-path", &images, "--export", &archive]);
    let id = container.id();
    let without = ["--criu", "/nonexistent/criu", "restore", "-d"];
    for source in [["--image-path", &images, "-b", &bundle.path()].as_slice(), &["--import", &archive]] {
        host.migrate(&[&without[..], source, &[id]].concat()).failed(NO_CRIU, &["/nonexistent/criu"]);
        host.assert_no_trace();
    }
}

#[test]
fn a_criu_that_is_too_old_or_no_criu_at_all() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = host.run_small(&stage.id("small"));
    let (fake, archive) = (host.path("fake-criu"), host.path("none.tar"));
    let args = ["--criu", &fake, "checkpoint", "--export", &archive, container.id()];

    let workload = criu_tests::workload();
    executable(&fake, &format!("#!/bin/sh\nexec {workload} fake-criu --version-number 31700 -- \"$@\"\n"));
    container.runs_on_beside(&args, NO_CRIU, &["3.17"]);
    // So old that it does not know the protocol, it only prints its version.
    executable(&fake, "#!/bin/sh\n[ \"$1\" = --version ] && echo Version: 2.12.1\nexit 1\n");
    container.runs_on_beside(&args, NO_CRIU, &["criu 2.12.1 is too old", "3.16"]);
    // Says no word of the protocol.
    executable(&fake, "#!/bin/sh\nexit 0\n");
    container.runs_on_beside(&args, NO_CRIU, &[&fake]);
    // Is not even a program.
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o644)).expect("chmod");
    container.runs_on_beside(&args, NO_CRIU, &[&fake]);
    assert!(!fs::exists(&archive).expect("look"));
    container.end();
    host.assert_no_trace();
}

#[test]
fn criu_refuses_a_dump() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "files", &["--lock"]);
    let container = host.run_detached(&stage.id("locked"), &bundle);
    let (images, archive) = (host.path("images"), host.path("none.tar"));
    for target in [["--image-path", &images], ["--export", &archive]] {
        let args = [&["checkpoint", "--no-check"][..], &target, &[container.id()]].concat();
        let said = container.runs_on_beside(&args, CRIU_REFUSED, &["lock"]);
        assert!(!said.contains("RLIMIT_NOFILE"), "the harmless line is not the cause:\n{said}");
        assert!(!fs::exists(&archive).expect("look"));
    }
    container.end();
    host.assert_no_trace();
}

#[test]
fn criu_is_found_with_an_empty_environment() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = host.run_small(&stage.id("small"));
    let before = container.reports();
    // A CRIU that only the environment of the tests names has to be named here, too.
    let named = std::env::var("MIGRATE_CRIU").ok();
    let variables: Vec<(&str, &str)> = named.iter().map(|criu| ("MIGRATE_CRIU", criu.as_str())).collect();
    let args = ["checkpoint", "--leave-running", "--image-path", &host.path("images"), container.id()];
    host.migrate_command(&args).environment(&variables).run().succeeded();
    container.goes_on(&before);
    container.end();
    host.assert_no_trace();
}

/// Mounts a small tmpfs on the host; gives its path.
fn small_disk(host: &Host, name: &str, options: &str) -> String {
    let path = host.path(name);
    fs::create_dir(&path).expect("make a directory");
    host.command(&["mount", "-t", "tmpfs", "-o", options, "tmpfs", &path]).run().succeeded();
    path
}

fn unmount(host: &Host, path: &str) {
    host.command(&["umount", path]).run().succeeded();
}

/// What is on a disk that only the host sees.
fn names_on(host: &Host, path: &str) -> Vec<String> {
    let listed = host.command(&["find", path, "-mindepth", "1"]).run();
    listed.succeeded().lines().map(str::to_owned).collect()
}

#[test]
fn an_archive_may_have_the_longest_name() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = host.run_small(&stage.id("small"));
    let archive = host.path(&"n".repeat(255));
    host.migrate(&["checkpoint", "--export", &archive, container.id()]).succeeded();
    let id = stage.id("back");
    host.migrate_detached(&["restore", "-d", "--import", &archive, &id]);
    host.container(&id, "").end();
    host.assert_no_trace();
}

#[test]
fn a_target_that_is_read_only() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = host.run_small(&stage.id("small"));
    let disk = small_disk(&host, "readonly", "ro");
    for (option, name) in [("--export", "moved.tar"), ("--image-path", "images")] {
        let target = format!("{disk}/{name}");
        container.runs_on_beside(&["checkpoint", option, &target, container.id()], STORAGE, &[&target]);
    }
    unmount(&host, &disk);
    container.end();
    host.assert_no_trace();
}

#[test]
fn a_disk_that_is_full() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = host.run_small(&stage.id("small"));
    let disk = small_disk(&host, "full", "size=512k");
    for (option, name) in [("--export", "moved.tar"), ("--image-path", "images")] {
        let target = format!("{disk}/{name}");
        container.runs_on_beside(&["checkpoint", option, &target, container.id()], STORAGE, &[]);
        let left = names_on(&host, &disk);
        assert!(option == "--image-path" || left.is_empty(), "{option} left {left:?}");
    }
    unmount(&host, &disk);

    // The same container, with room to be written but none to be unpacked.
    let archive = stage.path("moved.tar");
    container.checkpoint(&["--export", &archive]);
    let disk = small_disk(&host, "small", "size=2m");
    let (program, id) = (criu_tests::migrate(), stage.id("restored"));
    let restore =
        host.command(&[&program, "--root", &disk, "restore", "-d", "--import", &archive, &id]).run();
    restore.failed(STORAGE, &[]);
    assert!(!names_on(&host, &disk).iter().any(|name| name.contains(&id)), "{:?}", names_on(&host, &disk));
    unmount(&host, &disk);
    host.assert_no_trace();
}

/// Takes what is left on a disk of the host.
fn fill(host: &Host, disk: &str) {
    let filler = host.command(&["dd", "if=/dev/zero", &format!("of={disk}/filler"), "bs=4k"]).run();
    assert_ne!(filler.code, 0, "the disk takes everything");
}

/// The records of containers are on a disk that is full, or CRIU's log cannot be written.
#[test]
fn a_state_root_or_a_work_directory_that_is_full() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let disk = small_disk(&host, "state-disk", "size=256k");
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"]);
    let (program, id) = (criu_tests::migrate(), stage.id("small"));
    let migrate = |args: &[&str]| {
        let command = [&[&program, "--root", &disk], args].concat();
        host.command(&command).without_stdio().run().code
    };
    assert_eq!(migrate(&["run", "-d", "-b", &bundle.path(), &id]), 0);
    let container = host.container(&id, &bundle.rootfs());
    let before = container.reports();
    let images = host.path("images");
    fill(&host, &disk);
    assert_eq!(migrate(&["checkpoint", "--image-path", &images, &id]), STORAGE);
    container.goes_on(&before);
    host.command(&["rm", &format!("{disk}/filler")]).run().succeeded();

    let work = small_disk(&host, "work-disk", "size=64k");
    fill(&host, &work);
    let before = container.reports();
    let args = ["checkpoint", "--leave-running", "--work-path", &work, "--image-path", &images, &id];
    // A log that cannot be written is not worth a checkpoint: CRIU goes on without.
    let code = migrate(&args);
    assert!(code == 0 || code == STORAGE, "{code}");
    container.goes_on(&before);
    unmount(&host, &work);

    assert_eq!(migrate(&["checkpoint", "--image-path", &images, &id]), 0);
    fill(&host, &disk);
    let restore = ["restore", "-d", "--image-path", &images, "-b", &bundle.path(), &id];
    assert_eq!(migrate(&restore), STORAGE);
    assert!(!names_on(&host, &disk).iter().any(|name| name.contains(&id)), "{:?}", names_on(&host, &disk));
    assert!(host.cgroups().is_empty() && host.processes().is_empty());
    host.command(&["rm", &format!("{disk}/filler")]).run().succeeded();
    let before = container.status().expect("its last report");
    assert_eq!(migrate(&restore), 0);
    container.goes_on(&before);
    assert_eq!(migrate(&["delete", "--force", &id]), 0);
    unmount(&host, &disk);
    host.assert_no_trace();
}
