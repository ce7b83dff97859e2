// SPDX-License-Identifier: Apache-2.0
//! AppArmor profiles of a container's processes, on a kernel that enforces them (docs/vm-lab.md).

use std::fs;

use criu_tests::{Bundle, Host, Need, Stage};
use serde_json::json;

/// A profile in the kernel, which goes with this value.
struct Profile<'h> {
    host: &'h Host,
    name: String,
    file: String,
}

impl<'h> Profile<'h> {
    /// One of that name, which allows everything but to write `/denied`.
    fn load(stage: &Stage, host: &'h Host, name: &str) -> Self {
        let rules = "file, network, capability, mount, umount, pivot_root, signal, ptrace, unix,";
        let text = format!(
            "profile {name} flags=(attach_disconnected,mediate_deleted) {{\n {rules}\n deny /denied w,\n}}\n"
        );
        let file = stage.path(name);
        fs::write(&file, text).expect("write the profile");
        host.command(&["apparmor_parser", "--replace", "--skip-cache", "--quiet", &file]).run().succeeded();
        Self { host, name: name.to_owned(), file }
    }

    /// What the kernel says of a process that it confines.
    fn enforced(&self) -> String {
        format!("{} (enforce)", self.name)
    }
}

impl Drop for Profile<'_> {
    fn drop(&mut self) {
        let output = self.host.command(&["apparmor_parser", "--remove", &self.file]).run();
        if output.code != 0 && !std::thread::panicking() {
            panic!("the profile {} cannot be removed: {output:?}", self.name);
        }
    }
}

fn confinement(host: &Host, pid: &str) -> String {
    let path = host.outside(&format!("/proc/{}/attr/current", pid.trim()));
    fs::read_to_string(path).expect("read the confinement").trim_end_matches(['\n', '\0']).to_owned()
}

#[test]
fn run_and_exec_confine_and_the_kernel_refuses() {
    let Some(stage) = Stage::set(&[Need::AppArmor]) else { return };
    let host = stage.host("a");
    let (of_run, of_exec) = (stage.id("run"), stage.id("exec"));
    let (of_run, of_exec) = (Profile::load(&stage, &host, &of_run), Profile::load(&stage, &host, &of_exec));

    let bundle = Bundle::of_workload(&host, "counter", &[])
        .edit(|config| config["process"]["apparmorProfile"] = json!(of_run.name));
    let container = host.run_detached(&stage.id("confined"), &bundle);
    container.reports();
    assert_eq!(confinement(&host, &container.state()["pid"].to_string()), of_run.enforced());
    let pid_file = host.path("pid");
    for (flags, expected) in
        [(&[][..], of_run.enforced()), (&["--apparmor", &of_exec.name][..], of_exec.enforced())]
    {
        let program = ["/workload", "counter", "--status", "/state/second"];
        let exec = [&["exec", "-d", "--pid-file", &pid_file], flags, &[container.id()], &program].concat();
        host.migrate_detached(&exec);
        let pid = fs::read_to_string(host.outside(&pid_file)).expect("read the pid file");
        assert_eq!(confinement(&host, &pid), expected, "exec {flags:?}");
    }
    let unknown = stage.id("unknown");
    let exec = ["exec", "--apparmor", &unknown, container.id(), "/workload", "exit"];
    host.migrate(&exec).failed(255, &["unable to apply apparmor profile", &unknown]);
    container.end();

    let bundle = Bundle::of_shell(&host, "denied").edit(|config| {
        config["process"]["apparmorProfile"] = json!(of_run.name);
        config["process"]["args"] =
            json!(["/bin/sh", "-c", "echo a >/allowed && cat /allowed && echo b >/denied"]);
        config["process"]["terminal"] = json!(false);
        config["root"]["readonly"] = json!(false);
    });
    let output = host.migrate(&["run", "-b", &bundle.path(), &stage.id("denied")]);
    assert_eq!((output.code, output.stdout.as_str()), (2, "a\n"), "{output:?}");
    assert!(output.stderr.contains("Permission denied"), "{output:?}");

    let bundle = bundle.edit(|config| config["process"]["apparmorProfile"] = json!(unknown));
    host.migrate(&["run", "-b", &bundle.path(), &stage.id("denied")])
        .failed(1, &["unable to apply apparmor profile", &unknown]);
    host.assert_no_trace();
}

#[test]
fn a_restored_process_is_confined_as_before() {
    let Some(stage) = Stage::set(&[Need::Criu, Need::AppArmor]) else { return };
    let (a, b) = (stage.host("a"), stage.host("b"));
    let profile = Profile::load(&stage, &a, &stage.id("moves"));
    let bundle = Bundle::of_workload(&a, "counter", &[])
        .edit(|config| config["process"]["apparmorProfile"] = json!(profile.name));
    let container = a.run_detached(&stage.id("confined"), &bundle);
    let before = container.reports();
    let archive = stage.path("moved.tar");
    container.checkpoint(&["--export", &archive]);
    b.migrate_detached(&["restore", "-d", "--import", &archive, &stage.id("confined")]);
    let moved = b.imported(&stage.id("confined"));
    moved.goes_on(&before);
    assert_eq!(confinement(&b, &moved.state()["pid"].to_string()), profile.enforced());
    let exec = ["exec", moved.id(), "/workload", "exit"];
    b.migrate(&exec).succeeded();
    moved.end();
    a.assert_no_trace();
    b.assert_no_trace();
}

#[test]
fn a_restored_process_is_confined_by_the_profile_that_is_asked_for() {
    let Some(stage) = Stage::set(&[Need::Criu, Need::AppArmor]) else { return };
    let host = stage.host("a");
    let (one, two) = (stage.id("one"), stage.id("two"));
    let (one, two) = (Profile::load(&stage, &host, &one), Profile::load(&stage, &host, &two));
    let bundle = Bundle::of_workload(&host, "counter", &[])
        .edit(|config| config["process"]["apparmorProfile"] = json!(one.name));
    let container = host.run_detached(&stage.id("confined"), &bundle);
    let before = container.reports();
    let images = host.path("images");
    container.checkpoint(&["--image-path", &images]);
    let restore = ["restore", "-d", "--image-path", &images, "-b", &bundle.path()];
    let with = |profile: &str| [&restore[..], &["--lsm-profile", profile, container.id()]].concat().join(" ");
    host.migrate(&with(&format!("apparmor:{}", stage.id("unknown"))).split(' ').collect::<Vec<_>>())
        .failed(5, &["criu"]);
    host.migrate_detached(&with(&format!("apparmor:{}", two.name)).split(' ').collect::<Vec<_>>());
    container.goes_on(&before);
    assert_eq!(confinement(&host, &container.state()["pid"].to_string()), two.enforced());
    container.end();
    host.assert_no_trace();
}
