// SPDX-License-Identifier: Apache-2.0
//! `migrate check`: what it finds in real containers; that CRIU agrees (it fails on each blocker whatever flags it is given,
//! and with the flags that were asked for it does not); and that `checkpoint` refuses the same before anything is stopped.
//! That it refuses nothing that CRIU carries is seen in all tests that make a checkpoint, and what it knows of CRIU's limits
//! in the tables of `zoo`.

use std::fs;
use std::os::unix::net::{UnixDatagram, UnixListener};

use criu_tests::{Bundle, Container, Host, Need, PATIENCE, Stage, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// The documented exit codes.
const READY: i32 = 0;
const READY_WITH_FLAGS: i32 = 10;
const NOT_POSSIBLE: i32 = 11;
const REFUSED: i32 = 5;
/// With these CRIU carries all that it carries with flags.
const ALL: [&str; 6] = [
    "--tcp-established",
    "--tcp-skip-in-flight",
    "--ext-unix-sk",
    "--file-locks",
    "--shell-job",
    "--link-remap",
];

fn obstacle(host: &Host, kind: &[&str]) -> Bundle {
    Bundle::of_workload(host, "obstacle", &[&["--tick-ms", "3", "--kind"], kind].concat())
}

fn with_rights(config: &mut Value) {
    for set in ["bounding", "effective", "permitted"] {
        let list = config["process"]["capabilities"][set].as_array_mut().expect("a list");
        list.extend(["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"].map(|name| json!(name)));
    }
}

/// What `check --json` says, with its exit code.
#[track_caller]
fn check(host: &Host, args: &[&str]) -> (i32, Value) {
    let output = host.migrate(&[&["check", "--json"], args].concat());
    let report = serde_json::from_str(&output.stdout)
        .unwrap_or_else(|e| panic!("check printed no JSON: {e}\n{}{}", output.stdout, output.stderr));
    (output.code, report)
}

/// The rules of this severity that found something.
fn rules<'r>(report: &'r Value, severity: &str) -> Vec<&'r str> {
    let findings = report["findings"].as_array().expect("a list");
    let found = findings.iter().filter(|finding| finding["severity"] == severity);
    let mut names: Vec<&str> = found.map(|finding| finding["rule"].as_str().expect("a name")).collect();
    names.dedup();
    names
}

fn flags(report: &Value) -> Vec<&str> {
    report["flags"].as_array().expect("a list").iter().map(|flag| flag.as_str().expect("text")).collect()
}

/// `check` says that it is not possible because of `rule`, `checkpoint` says so too, and CRIU agrees, with all flags.
#[track_caller]
fn is_a_blocker(container: &Container<'_>, host: &Host, rule: &str, said: &str) {
    let (code, report) = check(host, &[container.id()]);
    assert_eq!((code, rules(&report, "blocker")), (NOT_POSSIBLE, vec![rule]), "{report:#}");
    assert_eq!(report["verdict"], "not_possible");
    let images = host.path("images");
    let checkpoint = [&["checkpoint", "--image-path", &images], ALL.as_slice(), &[container.id()]].concat();
    container.runs_on_beside(&checkpoint, REFUSED, &[said]);
    assert!(!fs::exists(&images).expect("look"), "nothing is made before the refusal");
    let without = [&checkpoint[..1], &["--no-check"], &checkpoint[1..]].concat();
    container.runs_on_beside(&without, REFUSED, &["criu"]);
    fs::remove_dir_all(&images).expect("remove the images");
}

/// `check` names the flags, `checkpoint` wants them, and with them CRIU dumps.
#[track_caller]
fn needs_flags(container: &Container<'_>, host: &Host, expected: &[&str]) {
    let (code, report) = check(host, &[container.id()]);
    assert_eq!((code, flags(&report)), (READY_WITH_FLAGS, expected.to_vec()), "{report:#}");
    let images = host.path("images");
    let checkpoint = ["checkpoint", "--image-path", &images, container.id()];
    let said = container.runs_on_beside(&checkpoint, REFUSED, &[]);
    for flag in expected {
        assert!(said.contains(flag), "{flag} is not in {said}");
    }
    assert!(!fs::exists(&images).expect("look"), "nothing is made before the refusal");
    let words: Vec<&str> = expected.iter().flat_map(|flag| flag.split(' ')).collect();
    container.checkpoint(&[words.as_slice(), &["--image-path", &images]].concat());
    fs::remove_dir_all(&images).expect("remove the images");
}

#[test]
fn a_host() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (code, report) = check(&host, &[]);
    assert_eq!(
        (code, &report["verdict"], &report["schema"]),
        (READY, &json!("ready"), &json!(1)),
        "{report:#}"
    );
    let rows = report["host"].as_array().expect("rows");
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().expect("a name")).collect();
    for name in [
        "kernel",
        "criu",
        "memory_tracking",
        "userfaultfd",
        "pipe_max_size",
        "capabilities",
        "run",
        "nftables",
        "programs",
        "lsm",
        "cgroups",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    let text = host.migrate(&["check"]).succeeded();
    assert!(text.ends_with("RESULT      checkpoint          ready\n"), "{text}");
    host.assert_no_trace();
}

#[test]
fn a_host_without_a_usable_criu() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    for criu in ["/nonexistent/criu", "/bin/false"] {
        let output = host.migrate(&["--criu", criu, "check"]);
        assert_eq!(output.code, NOT_POSSIBLE, "{}{}", output.stdout, output.stderr);
        assert!(output.stdout.contains("BLOCKER     criu"), "{}", output.stdout);
        assert!(output.stdout.contains(criu), "{}", output.stdout);
    }
    let (fake, workload) = (host.path("fake-criu"), criu_tests::workload());
    let script = format!("#!/bin/sh\nexec {workload} fake-criu --version-number 31700 -- \"$@\"\n");
    fs::write(&fake, script).expect("write a script");
    host.command(&["chmod", "+x", &fake]).run().succeeded();
    let output = host.migrate(&["--criu", &fake, "check"]);
    assert_eq!(output.code, NOT_POSSIBLE, "{}{}", output.stdout, output.stderr);
    assert!(output.stdout.contains("criu 3.17 is too old"), "{}", output.stdout);
    host.assert_no_trace();
}

#[test]
fn a_bundle() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = obstacle(&host, &["none"]);
    assert_eq!(check(&host, &["--bundle", &bundle.path()]).0, READY);
    let bundle = bundle.edit(|config| config["linux"]["namespaces"] = json!([{ "type": "pid" }]));
    let (code, report) = check(&host, &["--bundle", &bundle.path()]);
    assert_eq!((code, rules(&report, "blocker")), (NOT_POSSIBLE, vec!["mount_namespace"]), "{report:#}");
    host.migrate(&["check", "--bundle", &bundle.path(), "x"]).failed(1, &["not both"]);
    host.migrate(&["check", "--bundle", "/nonexistent"]).failed(1, &["/nonexistent"]);
    host.migrate(&["check", &stage.id("unknown")]).failed(1, &[&stage.id("unknown")]);
    host.assert_no_trace();
}

#[test]
fn a_container_that_is_ready() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    for workload in ["files", "pipes", "tree"] {
        let bundle = Bundle::of_workload(&host, workload, &[]);
        let container = host.run_detached(&stage.id(workload), &bundle);
        let (code, report) = check(&host, &[container.id()]);
        assert_eq!((code, &report["findings"]), (READY, &json!([])), "{workload}: {report:#}");
        container.end();
        bundle.remove();
    }
    let bundle = obstacle(&host, &["none"]);
    let container = host.run_detached(&stage.id("exec"), &bundle);
    let second =
        ["/workload", "obstacle", "--status", "/state/second", "--dir", "/state/of-it", "--kind", "none"];
    host.migrate_detached(&[&["exec", "-d", container.id()], second.as_slice()].concat());
    let (code, report) = check(&host, &[container.id()]);
    assert_eq!((code, rules(&report, "note")), (READY, vec!["exec_session"]), "{report:#}");
    host.migrate(&["delete", "--force", container.id()]).succeeded();
    host.assert_no_trace();
}

#[test]
fn what_no_flag_helps_against() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    for (kind, rule, said) in [
        (&["io-uring"][..], "io_uring", "anon_inode:[io_uring]: criu does not carry io_uring"),
        (&["mptcp"], "socket_protocol", "not multipath TCP"),
        (&["vsock"], "socket_protocol", "does not carry sockets of this family"),
        (&["traced"], "traced", "a process has one tracer"),
        (&["own-users"], "nested_namespace", "criu carries one user namespace a container"),
        (&["mounted", "--at", "ramfs"], "unknown_mount", "criu does not know how to mount ramfs again"),
    ] {
        let bundle = obstacle(&host, kind).edit(with_rights);
        let container = host.run_detached(&stage.id(kind[0]), &bundle);
        is_a_blocker(&container, &host, rule, said);
        container.end();
        bundle.remove();
    }
    host.assert_no_trace();
}

#[test]
fn a_device() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = obstacle(&host, &["device", "--at", "/dev/fuse"]).edit(|config| {
        let device = json!({ "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438 });
        config["linux"]["devices"] = json!([device]);
        let rule = json!({ "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm" });
        config["linux"]["resources"]["devices"] = json!([{ "allow": false, "access": "rwm" }, rule]);
    });
    let (_, report) = check(&host, &["--bundle", &bundle.path()]);
    assert_eq!(rules(&report, "note"), ["device"], "{report:#}");
    let container = host.run_detached(&stage.id("device"), &bundle);
    let said = "/dev/fuse (10:229): criu does not carry the state of this device";
    is_a_blocker(&container, &host, "device", said);
    container.end();
    host.assert_no_trace();
}

#[test]
fn flags_that_are_missing_are_named() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    for (kind, expected) in [
        ("tcp-connection", ["--tcp-established"].as_slice()),
        ("tcp-not-accepted", &["--tcp-established", "--tcp-skip-in-flight"]),
        ("deleted-name", &["--link-remap"]),
        ("big-deleted-file", &["--ghost-limit 3145728"]),
    ] {
        let bundle = obstacle(&host, &[kind]);
        needs_flags(&host.run_detached(&stage.id(kind), &bundle), &host, expected);
        bundle.remove();
        host.assert_no_trace();
    }
    let bundle = Bundle::of_workload(&host, "files", &["--lock"]);
    needs_flags(&host.run_detached(&stage.id("lock"), &bundle), &host, &["--file-locks"]);
    host.assert_no_trace();
}

#[test]
fn unix_sockets_to_the_outside() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let datagrams = obstacle(&host, &["unix-dgram-outside", "--at", "/socket"]);
    let other = UnixDatagram::bind(format!("{}/socket", datagrams.rootfs())).expect("bind");
    // From its own network namespace CRIU does not even see who is at the other end.
    let container = host.run_detached(&stage.id("own"), &datagrams);
    is_a_blocker(&container, &host, "unix_outside", "the other end is outside of the container");
    container.end();
    drop(other);
    datagrams.remove();
    let streams = obstacle(&host, &["unix-stream-outside", "--at", "/socket"]);
    let listener = UnixListener::bind(format!("{}/socket", streams.rootfs())).expect("listen");
    let container = host.run_detached(&stage.id("stream"), &streams);
    let _stream = listener.accept().expect("accept");
    is_a_blocker(&container, &host, "unix_outside", "only carries datagram sockets");
    container.end();
    host.assert_no_trace();
}

#[test]
fn a_unix_socket_to_a_name_in_the_same_network() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = obstacle(&host, &["unix-dgram-outside", "--at", "/socket"]).edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
        namespaces.retain(|namespace| namespace["type"] != "network");
    });
    let (workload, at) = (criu_tests::workload(), format!("{}/socket", bundle.rootfs()));
    let status = host.path("other");
    let other = host
        .command(&[&workload, "obstacle", "--status", &status, "--kind", "unix-dgram-bound", "--at", &at])
        .start();
    wait_until(PATIENCE, "the other end is bound", || fs::exists(&at).expect("look").then_some(()).ok_or(()));
    let container = host.run_detached(&stage.id("shared"), &bundle);
    needs_flags(&container, &host, &["--ext-unix-sk"]);
    other.signal(Signal::SIGKILL);
    other.wait();
    host.assert_no_trace();
}

#[test]
fn a_process_of_another_user() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = obstacle(&host, &["none"]).edit(|config| {
        config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    });
    host.command(&["chmod", "777", &format!("{}/state", bundle.rootfs())]).run().succeeded();
    let (bundle_code, _) = check(&host, &["--bundle", &bundle.path()]);
    let container = host.run_detached(&stage.id("user"), &bundle);
    let status = fs::read_to_string("/proc/self/status").expect("our own status");
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("the line");
    let has_resource = u64::from_str_radix(set.trim(), 16).expect("a number") >> 24 & 1 == 1;
    if has_resource {
        assert_eq!((check(&host, &[container.id()]).0, bundle_code), (READY, READY));
    } else {
        assert_eq!(bundle_code, NOT_POSSIBLE);
        is_a_blocker(&container, &host, "other_user", "CAP_SYS_RESOURCE");
    }
    container.end();
    host.assert_no_trace();
}
