// SPDX-License-Identifier: Apache-2.0
//! Cgroups from the first to the last: where they are, what may be there already, freezing against resistance, and that
//! nothing is left of them, whatever the container did in its own.

use std::fs;
use std::path::PathBuf;

use criu_tests::{Bundle, Container, Host, PATIENCE, Stage, wait_until};
use serde_json::{Value, json};

/// A container whose first process waits.
fn waiting(host: &Host, edit: impl FnOnce(&mut Value)) -> Bundle {
    Bundle::new(host, "waiting", &["hog", "--wait"]).edit(edit)
}

fn in_cgroup(path: &str) -> impl FnOnce(&mut Value) {
    let path = path.to_owned();
    move |config| config["linux"]["cgroupsPath"] = json!(path)
}

fn without_pid_namespace(config: &mut Value) {
    let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
    namespaces.retain(|namespace| namespace["type"] != json!("pid"));
}

fn run<'h>(stage: &Stage, host: &'h Host, name: &str, bundle: &Bundle) -> Container<'h> {
    let id = stage.id(name);
    host.migrate_detached(&["run", "-d", "-b", &bundle.path(), &id]);
    host.container(&id, &bundle.rootfs())
}

/// A further process in the container, which waits; its pid on the host.
fn exec_waiting(host: &Host, container: &Container<'_>) -> i32 {
    let file = host.path("exec.pid");
    let exec = ["exec", "-d", "--pid-file", &file, container.id(), "/workload", "hog", "--wait"];
    host.migrate_detached(&exec);
    let text = fs::read_to_string(&file).expect("the pid file is there");
    text.parse().expect("a pid")
}

fn processes(host: &Host, container: &Container<'_>) -> Vec<Value> {
    let text = host.migrate(&["ps", "--format", "json", container.id()]).succeeded();
    serde_json::from_str(&text).expect("a list of pids")
}

/// The switch of a cgroup's freezer, in the words of its version.
struct Freezer(PathBuf);

impl Freezer {
    fn of(host: &Host, name: &str) -> Self {
        Self(host.cgroup_file(name, "freezer.state", "cgroup.freeze"))
    }

    fn is_v1(&self) -> bool {
        self.0.ends_with("freezer.state")
    }

    fn freeze(&self) {
        fs::write(&self.0, if self.is_v1() { "FROZEN" } else { "1" }).expect("freeze");
        wait_until(PATIENCE, "frozen", || {
            let file = if self.is_v1() { self.0.clone() } else { self.0.with_file_name("cgroup.events") };
            let text = fs::read_to_string(file).expect("readable");
            let wanted = if self.is_v1() { "FROZEN" } else { "frozen 1" };
            if text.contains(wanted) { Ok(()) } else { Err(text) }
        });
    }

    fn thaw(&self) {
        fs::write(&self.0, if self.is_v1() { "THAWED" } else { "0" }).expect("thaw");
    }
}

#[test]
fn a_fork_bomb_stays_below_its_limit() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::new(&host, "bomb", &["hog", "--forks", "1000"])
        .edit(|config| config["linux"]["resources"]["pids"] = json!({"limit": 20}));
    let text = host.migrate(&["run", "-b", &bundle.path(), &stage.id("bomb")]).succeeded();
    let told: Value = serde_json::from_str(&text).expect("`hog` prints JSON");
    assert_eq!(told["errno"], json!(nix::libc::EAGAIN.to_string()), "{told}");
    // The first process is one of the twenty; init's own threads are none.
    assert_eq!(told["forked"], json!(19), "{told}");
    host.assert_no_trace();
}

#[test]
fn a_place_of_ones_own_choice() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let name = stage.id("deep");
    for (path, tail) in [
        (format!("/{name}/x/../y/inner"), format!("{name}/y/inner")),
        (format!("{name}/beneath"), format!("{name}/beneath")),
    ] {
        let bundle = waiting(&host, in_cgroup(&path));
        let container = run(&stage, &host, "placed", &bundle);
        let pid = container.state()["pid"].to_string();
        let lines = host.command(&["cat", &format!("/proc/{pid}/cgroup")]).run().succeeded();
        let mut places = lines.lines().filter(|line| line.contains(&name));
        assert!(places.clone().count() >= 1 && places.all(|line| line.ends_with(&tail)), "{path}: {lines}");
        if path.starts_with('/') {
            assert!(lines.contains(&format!(":/{tail}\n")), "from the top of the hierarchy: {lines}");
        }
        host.migrate(&["delete", "--force", container.id()]).succeeded();
        bundle.remove();
    }
    // What is above a container's own cgroup is not ours to remove.
    let left: Vec<_> = host.cgroups();
    assert!(left.iter().all(|group| !group.ends_with("inner") && !group.ends_with("beneath")), "{left:?}");
    left.iter().rev().for_each(|group| fs::remove_dir(group).expect("an empty cgroup"));

    for path in ["/", "..", "/../../x/..", "../escape"] {
        let bundle = waiting(&host, in_cgroup(path));
        host.migrate(&["create", "-b", &bundle.path(), &stage.id("bad")])
            .failed(1, &["linux.cgroupsPath", path.trim_end_matches('/')]);
        bundle.remove();
    }
    host.assert_no_trace();
}

#[test]
fn a_cgroup_that_is_there_already() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let name = stage.id("taken");
    let bundle = waiting(&host, in_cgroup(&format!("/{name}")));
    let first = run(&stage, &host, "first", &bundle);
    let groups = host.cgroups();
    host.migrate(&["create", "-b", &bundle.path(), &stage.id("second")])
        .failed(1, &["container's cgroup is not empty: 1 process(es) found"]);
    host.migrate(&["delete", "--force", first.id()]).succeeded();

    groups.iter().for_each(|group| fs::create_dir(group).expect("make the cgroup anew"));
    let freezer = Freezer::of(&host, &name);
    fs::write(&freezer.0, if freezer.is_v1() { "FROZEN" } else { "1" }).expect("freeze");
    host.migrate(&["create", "-b", &bundle.path(), &stage.id("second")])
        .failed(1, &["container's cgroup unexpectedly frozen"]);
    assert!(groups.iter().all(|group| group.exists()), "it is left alone");
    freezer.thaw();
    let second = run(&stage, &host, "second", &bundle);
    host.migrate(&["delete", "--force", second.id()]).succeeded();
    host.assert_no_trace();
}

#[test]
fn a_cgroup_above_that_is_frozen() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let name = stage.id("above");
    let bundle = waiting(&host, in_cgroup(&format!("/{name}/inner")));
    let container = run(&stage, &host, "inner", &bundle);
    let above = Freezer::of(&host, &name);
    above.freeze();
    assert_eq!(container.state_status(), "running", "it is not itself paused");
    host.migrate(&["exec", container.id(), "/workload", "exit"]).failed(255, &["frozen from above"]);
    host.migrate(&["resume", container.id()]).failed(1, &["container not paused"]);
    let other = bundle.edit(in_cgroup(&format!("/{name}/other")));
    host.migrate(&["create", "-b", &other.path(), &stage.id("other")]).failed(1, &["a cgroup above"]);
    host.migrate(&["pause", container.id()]).succeeded();
    assert_eq!(container.state_status(), "paused");
    above.thaw();
    assert_eq!(container.state_status(), "paused", "still, by itself");
    host.migrate(&["resume", container.id()]).succeeded();
    assert_eq!(container.state_status(), "running");
    host.migrate(&["exec", container.id(), "/workload", "exit"]).succeeded();
    host.migrate(&["delete", "--force", container.id()]).succeeded();
    host.cgroups().iter().for_each(|group| fs::remove_dir(group).expect("an empty cgroup"));
    host.assert_no_trace();
}

/// Cgroups in the unified hierarchy, also where that lies beside the others.
fn unified() -> PathBuf {
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
    roots.into_iter().find(|root| root.join("cgroup.controllers").exists()).expect("every host has one")
}

#[test]
fn beneath_a_threaded_cgroup() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let name = stage.id("threaded");
    let above = unified().join(&name);
    fs::create_dir_all(above.join("pool")).expect("make the cgroups");
    fs::write(above.join("pool/cgroup.type"), "threaded").expect("a threaded cgroup");
    let bundle = waiting(&host, in_cgroup(&format!("/{name}/pool/inner"))).edit(without_pid_namespace);
    let container = run(&stage, &host, "threaded", &bundle);
    let kind = fs::read_to_string(above.join("pool/inner/cgroup.type")).expect("it is there");
    assert_eq!(kind, "threaded\n");
    let other = exec_waiting(&host, &container);
    let mut expected = vec![container.state()["pid"].clone(), json!(other)];
    expected.sort_by_key(Value::as_i64);
    assert_eq!(processes(&host, &container), expected);
    host.migrate(&["pause", container.id()]).succeeded();
    assert_eq!(container.state_status(), "paused");
    host.migrate(&["resume", container.id()]).succeeded();
    host.migrate(&["events", "--stats", container.id()]).succeeded();
    host.migrate(&["delete", "--force", container.id()]).succeeded();

    // A limit of memory would be one of processes; a host that has that in v1 may have huge pages here.
    let controllers = fs::read_to_string(unified().join("cgroup.controllers")).expect("readable");
    let resources = match controllers.contains("memory") {
        true => json!({"memory": {"limit": 100_000_000}}),
        false => json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}),
    };
    let limited = bundle.edit(|config| config["linux"]["resources"] = resources);
    let words = ["cannot enter cgroupv2", "with domain controllers -- it is in threaded mode"];
    host.migrate(&["create", "-b", &limited.path(), &stage.id("limited")]).failed(1, &words);
    assert!(!above.join("pool/inner").exists());
    host.cgroups().iter().rev().for_each(|group| fs::remove_dir(group).expect("an empty cgroup"));
    host.assert_no_trace();
}

#[test]
fn a_created_container_can_be_paused_too() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = waiting(&host, |_| ());
    let id = stage.id("created");
    host.migrate_detached(&["create", "-b", &bundle.path(), &id]);
    let container = host.container(&id, &bundle.rootfs());
    host.migrate(&["pause", &id]).succeeded();
    assert_eq!(container.state_status(), "paused");
    host.migrate(&["pause", &id]).failed(1, &["container not running"]);
    host.migrate(&["start", &id]).failed(1, &["cannot start"]);
    host.migrate(&["delete", &id]).failed(1, &["not stopped: paused"]);
    host.migrate(&["resume", &id]).succeeded();
    assert_eq!(container.state_status(), "created");
    host.migrate(&["start", &id]).succeeded();
    assert_eq!(container.state_status(), "running");
    host.migrate(&["pause", &id]).succeeded();
    host.migrate(&["kill", &id, "KILL"]).succeeded();
    container.stops();
    host.migrate(&["delete", &id]).succeeded();
    host.assert_no_trace();
}

#[test]
fn a_container_that_thaws_itself_all_the_time_is_paused_nevertheless() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let script = "while :; do \
                  echo THAWED >/sys/fs/cgroup/freezer/freezer.state; echo 0 >/sys/fs/cgroup/cgroup.freeze; \
                  done 2>/dev/null";
    let bundle = Bundle::of_shell(&host, "rebel").edit(|config| {
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["root"]["readonly"] = json!(false);
    });
    let bundle = bundle.with_writable_cgroups();
    let container = run(&stage, &host, "rebel", &bundle);
    for _ in 0..20 {
        host.migrate(&["pause", container.id()]).succeeded();
        assert_eq!(container.state_status(), "paused");
        host.migrate(&["resume", container.id()]).succeeded();
    }
    host.migrate(&["pause", container.id()]).succeeded();
    host.migrate(&["delete", "--force", container.id()]).succeeded();
    host.assert_no_trace();
}

/// On v1 a process in a frozen cgroup does not die before that is thawed, and it may have frozen one of its own making.
#[test]
fn cgroups_that_the_container_made_and_froze_go_with_it() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    for (name, end) in [("force", &["delete", "--force"][..]), ("kill", &["kill"])] {
        for edit in [|_: &mut Value| (), without_pid_namespace] {
            let bundle = waiting(&host, edit);
            let container = run(&stage, &host, name, &bundle);
            let pid = exec_waiting(&host, &container);
            for group in host.cgroups() {
                let nested = group.join("of/its/own");
                fs::create_dir_all(&nested).expect("make a nested cgroup");
                // On v2 a cgroup without a cpuset of its own takes processes.
                for file in ["cpuset.cpus", "cpuset.mems"].iter().filter(|file| nested.join(file).exists()) {
                    for below in ["of", "of/its", "of/its/own"] {
                        fs::copy(group.join(file), group.join(below).join(file)).expect("fill the cpuset");
                    }
                }
                // The number means something on the host only.
                let write = format!("echo {pid} >{}/cgroup.procs", nested.display());
                host.command(&["sh", "-c", &write]).run().succeeded();
            }
            let own = Freezer::of(&host, container.id()).0;
            let file = own.file_name().expect("a file");
            Freezer(own.with_file_name("of/its/own").join(file)).freeze();
            assert_eq!(processes(&host, &container).len(), 2);
            host.migrate(&[end, &[container.id()], if name == "kill" { &["KILL"] } else { &[] }].concat())
                .succeeded();
            if name == "kill" {
                container.stops();
                host.migrate(&["delete", container.id()]).succeeded();
            }
            host.assert_no_trace();
            bundle.remove();
        }
    }
}

#[test]
fn what_outlives_the_first_process_goes_with_delete() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = waiting(&host, without_pid_namespace);
    for delete in [&["delete"][..], &["delete", "--force"]] {
        let container = run(&stage, &host, "shared", &bundle);
        let others: Vec<i32> = (0..3).map(|_| exec_waiting(&host, &container)).collect();
        // Not by `kill KILL`, which would end the others too.
        container.kill("TERM");
        container.stops();
        let left = processes(&host, &container);
        assert!(others.iter().all(|pid| left.contains(&json!(pid))), "{others:?} in {left:?}");
        host.migrate(&[delete, &[container.id()]].concat()).succeeded();
        host.assert_no_trace();
    }
}

#[test]
fn all_processes_can_be_signalled_at_once() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = waiting(&host, without_pid_namespace);
    let container = run(&stage, &host, "all", &bundle);
    let others: Vec<i32> = (0..3).map(|_| exec_waiting(&host, &container)).collect();
    assert_eq!(processes(&host, &container).len(), 1 + others.len());
    host.migrate(&["kill", "--all", container.id(), "TERM"]).succeeded();
    wait_until(PATIENCE, "all have ended", || match processes(&host, &container) {
        none if none.is_empty() => Ok(()),
        some => Err(some),
    });
    host.migrate(&["kill", "--all", container.id(), "KILL"]).succeeded();
    host.migrate(&["delete", container.id()]).succeeded();
    host.assert_no_trace();
}

#[test]
fn a_limit_that_cannot_be_set_leaves_nothing() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    for (resources, said) in [
        (json!({"memory": {"limit": 100_000_000, "swap": 1}}), "linux.resources.memory.swap"),
        (json!({"cpu": {"cpus": "4000"}}), "linux.resources.cpu.cpus"),
        (
            json!({"blockIO": {"throttleReadBpsDevice": [{"major": 4000, "minor": 1, "rate": 1}]}}),
            "linux.resources.blockIO.throttleReadBpsDevice",
        ),
        (json!({"unified": {"memory.no_such_file": "1"}}), "linux.resources.unified"),
    ] {
        let bundle = waiting(&host, |config| config["linux"]["resources"] = resources);
        host.migrate(&["create", "-b", &bundle.path(), &stage.id("limit")]).failed(1, &[said]);
        host.assert_no_trace();
        bundle.remove();
    }
}
