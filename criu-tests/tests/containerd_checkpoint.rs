// SPDX-License-Identifier: Apache-2.0
//! containerd's checkpoints and restores with the binary under test as the runtime of its shims, and the command lines of
//! containerd's shim and of CRI-O, which end in the same runtime.

use std::fs;

use criu_tests::{Containerd, Host, Need, PATIENCE, Stage, wait_until};

/// Counts in its root filesystem, as long as the memory that it holds is what it was.
const COUNTS: &str = "m=$(head -c 65536 /dev/zero | tr '\\0' x); i=0; \
                      while [ ${#m} = 65536 ]; do i=$((i+1)); echo $i >/new && mv /new /count; sleep 0.05; done";

/// How far it has counted.
fn count(host: &Host, containerd: &Containerd<'_>, id: &str) -> u32 {
    let pid = containerd.task(id).0;
    let text = fs::read_to_string(host.outside(&format!("/proc/{pid}/root/count"))).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Waits until it has counted on from there, and gives how far.
#[track_caller]
fn counts_on(host: &Host, containerd: &Containerd<'_>, id: &str, from: u32) -> u32 {
    wait_until(PATIENCE, "it counts", || match count(host, containerd, id) {
        seen if seen >= from + 3 => Ok(seen),
        seen => Err(seen),
    })
}

macro_rules! containerd {
    ($stage:ident, $host:ident, $containerd:ident) => {
        let Some($stage) = Stage::set(&[Need::Containerd, Need::Criu]) else { return };
        let $host = $stage.host("a");
        let $containerd = Containerd::on(&$host);
    };
}

/// As an image of containerd's, which other containers are made of. All are configured for the same cgroup.
#[test]
fn copies_live_beside_the_original() {
    containerd!(_stage, host, containerd);
    containerd.background("c", &[], COUNTS);
    counts_on(&host, &containerd, "c", 10);
    containerd.ctr(&["containers", "checkpoint", "--rw", "--task", "c", "saved"]).succeeded();
    assert_eq!(containerd.task("c").1, "RUNNING");
    let then = count(&host, &containerd, "c");
    for id in ["first", "second"] {
        containerd.ctr(&["containers", "restore", "--rw", "--live", id, "saved"]).succeeded();
        assert_eq!(containerd.task(id).1, "RUNNING");
        let restored = count(&host, &containerd, id);
        assert!(restored >= 10, "it begins anew: {restored}");
    }
    for id in ["c", "first", "second"] {
        counts_on(&host, &containerd, id, then);
        let exec = containerd.exec(id, &["sh", "-c", "exit 6"]);
        assert_eq!(exec.code, 6, "{exec:?}");
    }

    // Each ends alone, and the cgroup is free again.
    containerd.ctr(&["tasks", "rm", "--force", "c"]).succeeded();
    containerd.ctr(&["containers", "rm", "c"]).succeeded();
    for id in ["first", "second"] {
        counts_on(&host, &containerd, id, count(&host, &containerd, id));
    }
    containerd.ctr(&["containers", "restore", "--rw", "--live", "third", "saved"]).succeeded();
    counts_on(&host, &containerd, "third", 10);
    containerd.end();
}

/// Images in a directory, of a task that goes on or ends; they are the runtime's own.
#[test]
fn images_in_a_directory() {
    containerd!(stage, host, containerd);
    containerd.background("c", &[], COUNTS);
    let (images, work) = (host.path("images"), host.path("work"));
    for directory in [&images, &work] {
        fs::create_dir(directory).expect("mkdir");
    }
    let before = counts_on(&host, &containerd, "c", 0);
    let checkpoint = ["tasks", "checkpoint", "--image-path", &images, "--work-path", &work];
    containerd.ctr(&[&checkpoint[..], &["c"]].concat()).succeeded();
    for file in [format!("{images}/inventory.img"), format!("{work}/dump.log"), format!("{work}/stats-dump")]
    {
        assert!(fs::metadata(&file).is_ok(), "{file}");
    }
    assert_eq!(containerd.task("c").1, "RUNNING");
    counts_on(&host, &containerd, "c", before);

    // The bundle is the shim's.
    let bundle = format!("/run/containerd/io.containerd.runtime.v2.task/{}/c", containerd.namespace());
    let id = stage.id("copy");
    host.migrate_detached(&["restore", "-d", "--image-path", &images, "--bundle", &bundle, &id]);
    assert_eq!(host.state(&id)["status"], "running");
    host.migrate(&["delete", "--force", &id]).succeeded();

    containerd.ctr(&["tasks", "checkpoint", "--exit", "--image-path", &host.path("last"), "c"]).succeeded();
    containerd.becomes("c", "STOPPED");
    assert!(fs::metadata(host.path("last/inventory.img")).is_ok());
    containerd.end();
}

/// The command lines of containerd's shim (as it calls runc through go-runc) and of CRI-O, word by word: a container that is
/// paused around the dump, flags with one dash, work directories that are not there yet.
#[test]
fn the_command_lines_of_shims_and_of_cri_o() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (bundle, container) = host.run_small(&stage.id("c"));
    let (id, path) = (container.id(), bundle.path());
    let before = container.reports();
    let log = host.path("log.json");
    let shim =
        |args: &[&str]| host.migrate(&[&["--log", &log, "--log-format", "json", "--debug"], args].concat());
    let (images, work) = (host.path("images"), host.path("work"));
    let files = ["--image-path", &images, "--work-path", &work];

    // CRI-O lets the container run on, and exports what has changed while it is paused.
    shim(&["pause", id]).succeeded();
    shim(&[&["checkpoint", "--file-locks"], &files[..], &["--leave-running", id]].concat()).succeeded();
    assert_eq!(container.state_status(), "paused");
    shim(&["resume", id]).succeeded();
    let before = container.goes_on(&before);

    // containerd's shim resumes even what has ended by its dump.
    fs::remove_dir_all(&images).expect("remove the images");
    shim(&["pause", id]).succeeded();
    shim(
        &[
            &["checkpoint"],
            &files[..],
            &["--file-locks", "--tcp-established", "--ext-unix-sk", "--shell-job", id],
        ]
        .concat(),
    )
    .succeeded();
    shim(&["resume", id]).failed(1, &["does not exist"]);

    let pid_file = host.path("init.pid");
    let work = host.path("not/there/yet");
    let restore =
        ["restore", "--image-path", &images, "--work-path", &work, "--detach", "--pid-file", &pid_file];
    let restore = [&restore[..], &["--no-pivot", "-no-subreaper", "--bundle", &path, id]].concat();
    host.migrate_detached(&restore);
    let pid = fs::read_to_string(&pid_file).expect("the pid file is there before the command ends");
    assert_eq!(pid, container.state()["pid"].to_string());
    let before = container.goes_on(&before);

    // CRI-O by way of conmon; labels only where SELinux is.
    shim(&[&["checkpoint"], &["--image-path", &images, "--work-path", &work][..], &[id]].concat())
        .succeeded();
    let restore =
        ["restore", "--bundle", &path, "--pid-file", &pid_file, "--detach", "--image-path", &images];
    host.migrate_detached(&[&restore[..], &["--work-path", &work, "--file-locks", id]].concat());
    container.goes_on(&before);
    container.end();
    bundle.remove();
    host.assert_no_trace();
}
