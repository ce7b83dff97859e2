// SPDX-License-Identifier: Apache-2.0
//! Images that runc and crun have written restore, and runc restores ours. Each engine names what it has left out of the
//! images in its own way.

use std::fs;

use criu_tests::{Bundle, Container, Host, Need, Output, Podman, Stage, Status, crun};
use serde_json::{Value, json};

/// Another engine on a host, with a state root of its own.
struct Engine<'h> {
    host: &'h Host,
    program: String,
    root: String,
}

impl<'h> Engine<'h> {
    fn new(host: &'h Host, program: &str) -> Self {
        Self { host, program: program.to_owned(), root: host.path("foreign") }
    }

    /// Runs a command of its; what it starts has no stdio.
    fn run(&self, args: &[&str]) -> Output {
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", criu_directory());
        let argv = [&[self.program.as_str(), "--root", &self.root], args].concat();
        self.host.command(&argv).environment(&[("PATH", &path)]).without_stdio().run()
    }

    /// Runs a command of its that must succeed, and quotes its log if it does not.
    #[track_caller]
    fn succeeds(&self, args: &[&str]) {
        let log = self.host.path("foreign.log");
        let output = self.run(&[&["--log", &log], args].concat());
        let log = fs::read_to_string(&log).unwrap_or_default();
        assert!(output.code == 0, "{} {args:?} failed with {}:\n{log}", self.program, output.code);
    }
}

/// Where the others find `criu`.
fn criu_directory() -> String {
    let (directory, _) = criu_tests::criu().rsplit_once('/').unwrap_or(("/usr/sbin", ""));
    directory.to_owned()
}

/// A bundle with mounts of every kind that a name in the images depends on.
fn bundle(host: &Host) -> Bundle {
    let source = host.path("source");
    fs::create_dir_all(format!("{source}/inner")).expect("make the sources of binds");
    fs::write(format!("{source}/file"), "from outside").expect("write");
    Bundle::of_workload(host, "counter", &["--memory", "1048576"]).edit(|config| {
        let mounts = config["mounts"].as_array_mut().expect("a list");
        for (from, to) in [(&source, "/bound"), (&format!("{source}/file"), "/etc/single")] {
            mounts
                .push(json!({"destination": to, "type": "bind", "source": from, "options": ["rbind", "rw"]}));
        }
        mounts.push(
            json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]}),
        );
        config["linux"]["maskedPaths"] =
            json!(["/proc/keys", "/proc/acpi", "/sys/firmware", "/proc/timer_list", "/proc/scsi"]);
        config["linux"]["readonlyPaths"] = json!(["/proc/sys", "/proc/bus"]);
        config["linux"]["devices"] = json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]);
        config["hostname"] = json!("travels");
    })
}

/// Asserts what a process inside sees of the mounts, masks and names.
#[track_caller]
fn sees_what_it_must(host: &Host, id: &str) {
    let probes =
        ["--read", "/etc/single", "--read", "/bound/file", "--read", "/scratch/kept", "--read", "/proc/keys"];
    let more = ["--read", "/proc/timer_list", "--stat", "/dev/fuse", "--write", "/proc/sys/kernel/hostname"];
    let look = [&["exec", id, "/workload", "inspect"], &probes[..], &more].concat();
    let text = host.migrate(&look).succeeded();
    let seen: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON: {e}\n{text}"));
    let read = |path: &str| seen["read"][path]["ok"].as_str().unwrap_or_else(|| panic!("{path}: {seen:#}"));
    assert_eq!(
        [read("/etc/single"), read("/bound/file"), read("/scratch/kept")],
        ["from outside", "from outside", "kept"]
    );
    assert_eq!([read("/proc/keys"), read("/proc/timer_list")], ["", ""], "masked");
    assert!(seen["write"]["/proc/sys/kernel/hostname"]["ok"].is_null(), "read-only: {seen:#}");
}

/// An engine starts a container, and checkpoints it into a directory. Gives its last report.
fn checkpointed_by(engine: &Engine<'_>, bundle: &Bundle, id: &str, images: &str, options: &[&str]) -> Status {
    let host = engine.host;
    let pid_file = host.path("foreign.pid");
    engine.succeeds(&["run", "-d", "--pid-file", &pid_file, "-b", &bundle.path(), id]);
    let pid = fs::read_to_string(&pid_file).expect("the engine has written it");
    fs::write(host.outside(&format!("/proc/{pid}/root/scratch/kept")), "kept").expect("write into its tmpfs");
    let container = host.container(id, &bundle.rootfs());
    container.reports();
    let before = container.reports();
    let work = host.path("foreign-work");
    fs::create_dir(&work).expect("mkdir");
    let checkpoint = ["checkpoint", "--image-path", images, "--work-path", &work];
    engine.succeeds(&[&checkpoint[..], options, &[id]].concat());
    before
}

/// Restores it, sees that all is there, and does it once more with images of our own.
fn goes_on_here<'h>(
    host: &'h Host,
    bundle: &Bundle,
    id: &str,
    images: &str,
    before: &Status,
) -> Container<'h> {
    let container = host.container(id, &bundle.rootfs());
    container.restore(images, bundle);
    let report = container.goes_on(before);
    sees_what_it_must(host, id);
    let own = host.path("own-images");
    container.checkpoint(&["--image-path", &own]);
    container.restore(&own, bundle);
    container.goes_on(&report);
    sees_what_it_must(host, id);
    container
}

#[test]
fn of_runc() {
    let Some(stage) = Stage::set(&[Need::Runc, Need::Criu]) else { return };
    let host = stage.host("a");
    let runc = Engine::new(&host, "runc");
    let (bundle, id, images) = (bundle(&host), stage.id("c"), host.path("images"));
    let before = checkpointed_by(&runc, &bundle, &id, &images, &[]);
    goes_on_here(&host, &bundle, &id, &images, &before).end();
    bundle.remove();
    host.assert_no_trace();
}

#[test]
fn of_crun() {
    let Some(stage) = Stage::set(&[Need::Crun, Need::Criu]) else { return };
    let host = stage.host("a");
    // It refuses to work where cgroup v2 is beside v1.
    let hide = "if [ -d /sys/fs/cgroup/unified ]; then umount -l /sys/fs/cgroup/unified; fi";
    host.command(&["sh", "-c", hide]).run().succeeded();
    let crun = Engine::new(&host, &crun());
    let (bundle, id, images) = (bundle(&host), stage.id("c"), host.path("images"));
    let before = checkpointed_by(&crun, &bundle, &id, &images, &["--manage-cgroups-mode", "ignore"]);
    goes_on_here(&host, &bundle, &id, &images, &before).end();
    bundle.remove();
    host.assert_no_trace();
}

#[test]
fn ours_are_restored_by_runc() {
    let Some(stage) = Stage::set(&[Need::Runc, Need::Criu]) else { return };
    let host = stage.host("a");
    let runc = Engine::new(&host, "runc");
    let (bundle, id, images) = (bundle(&host), stage.id("c"), host.path("images"));
    let container = host.run_detached(&id, &bundle);
    let before = container.reports();
    container.checkpoint(&["--image-path", &images]);
    let (path, work) = (bundle.path(), host.path("foreign-work"));
    runc.succeeds(&["restore", "-d", "--image-path", &images, "--work-path", &work, "-b", &path, &id]);
    container.goes_on(&before);
    runc.succeeds(&["delete", "-f", &id]);
    bundle.remove();
    host.assert_no_trace();
}

/// Images want a mount that the configuration does not have: that is told before CRIU is started.
#[test]
fn a_mount_that_the_configuration_lacks_is_named() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (bundle, id, images) = (bundle(&host), stage.id("c"), host.path("images"));
    let container = host.run_detached(&id, &bundle);
    container.checkpoint(&["--image-path", &images]);
    let less = bundle.edit(|config| {
        config["mounts"]
            .as_array_mut()
            .expect("a list")
            .retain(|mount| mount["destination"] != json!("/bound"));
    });
    let path = less.path();
    let restore = ["restore", "-d", "--image-path", &images, "-b", &path, &id];
    let wanted =
        "at the checkpoint something of the host was mounted on /bound, and config.json mounts nothing there";
    let said = host.migrate(&restore).failed(1, &[wanted]);
    assert!(said.contains("hint: restore with the config.json of the checkpoint"), "{said}");
    assert!(!said.contains("criu"), "{said}");
    assert!(fs::metadata(format!("{images}/restore.log")).is_err(), "criu was not started");
    less.remove();
    host.assert_no_trace();
}

/// Prints numbers, ten a second.
const COUNTS: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done";

/// Podman's archives name the runtime: here that name means another program than there.
#[track_caller]
fn goes_over(stage: &Stage, name: &str, here: &Podman<'_>, there: &Podman<'_>) {
    let (archive, image) = (stage.path("c.tar"), stage.path("image.tar"));
    here.background("c", &["--runtime", name], &format!("echo kept >/dev/shm/f; {COUNTS}"));
    here.logs("c", "5\n");
    here.podman(&["container", "checkpoint", "--export", &archive, "c"]).succeeded();
    here.podman(&["save", "--quiet", "--output", &image, Podman::IMAGE]).succeeded();
    there.podman(&["load", "--quiet", "--input", &image]).succeeded();
    there.podman(&["container", "restore", "--import", &archive]).succeeded();
    assert_eq!(there.inspect("c", "{{.OCIRuntime}}"), name);
    let before = there.podman(&["logs", "c"]).succeeded().lines().count();
    let log = there.logs("c", &format!("\n{}\n", before + 3));
    let numbers: Vec<usize> = log.lines().map(|line| line.parse().expect("a number")).collect();
    assert!(numbers.iter().enumerate().all(|(i, n)| i + 1 == *n), "{numbers:?}");
    assert_eq!(there.executes("c", "cat /dev/shm/f"), "kept");
}

#[test]
fn an_archive_of_podman_with_runc() {
    let Some(stage) = Stage::set(&[Need::Podman, Need::Runc, Need::Criu]) else { return };
    let (a, b) = (stage.host("a"), stage.host("b"));
    let (here, there) = (Podman::on(&a), Podman::on(&b));
    b.command(&["mount", "--bind", &criu_tests::migrate(), "/usr/sbin/runc"]).run().succeeded();
    goes_over(&stage, "runc", &here, &there);
    there.end();
    here.end();
}

#[test]
fn an_archive_of_podman_for_runc() {
    let Some(stage) = Stage::set(&[Need::Podman, Need::Runc, Need::Criu]) else { return };
    let (a, b) = (stage.host("a"), stage.host("b"));
    let (here, there) = (Podman::on(&a), Podman::on(&b));
    b.command(&["mount", "--bind", "/usr/sbin/runc", &criu_tests::migrate()]).run().succeeded();
    goes_over(&stage, "migrate", &here, &there);
    there.end();
    here.end();
}
