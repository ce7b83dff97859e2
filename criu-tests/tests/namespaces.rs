// SPDX-License-Identifier: Apache-2.0
//! Namespaces of all kinds: new, of others, mixed, and shared with the host; the clocks of a time namespace.

use std::fs;

use criu_tests::{Bundle, Host, PATIENCE, Stage, wait_until};
use serde_json::{Value, json};

/// The first of the ids on the host that the containers here have.
const FIRST: u32 = 100_000;
const SIZE: u32 = 65_536;

/// Ten days, in seconds: more than the machine has been up.
const TEN_DAYS: i64 = 864_000;

macro_rules! stage_and_host {
    ($stage:ident, $host:ident) => {
        let Some($stage) = Stage::set(&[]) else { return };
        let $host = $stage.host("a");
    };
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("not JSON: {e}\n{text}"))
}

/// What a process that `exec` starts sees.
fn exec(host: &Host, id: &str, probes: &[&str]) -> Value {
    parse(&host.migrate(&[&["exec", id, "/workload", "inspect"], probes].concat()).succeeded())
}

fn own_namespace(host: &Host, pid: &str, name: &str) -> Value {
    json!(host.command(&["readlink", &format!("/proc/{pid}/ns/{name}")]).run().succeeded().trim())
}

fn namespaces(config: &mut Value) -> &mut Vec<Value> {
    config["linux"]["namespaces"].as_array_mut().expect("a list")
}

#[test]
fn clocks_with_offsets() {
    stage_and_host!(stage, host);
    let id = stage.id("clocks");
    let bundle = Bundle::of_workload(&host, "counter", &[]).edit(|config| {
        namespaces(config).push(json!({ "type": "time" }));
        config["linux"]["timeOffsets"] =
            json!({ "boottime": { "secs": TEN_DAYS }, "monotonic": { "secs": TEN_DAYS, "nanosecs": 1 } });
    });
    let container = host.run_detached(&id, &bundle);
    let pid = container.state()["pid"].to_string();
    let outside = host.command(&["cat", &format!("/proc/{pid}/timens_offsets")]).run().succeeded();
    let words: Vec<Vec<&str>> = outside.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words, [["monotonic", "864000", "1"], ["boottime", "864000", "0"]]);
    let seen = exec(&host, &id, &["--read", "/proc/uptime"]);
    let uptime: f64 = seen["read"]["/proc/uptime"]["ok"]
        .as_str()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .expect("seconds");
    let up = fs::read_to_string("/proc/uptime").expect("read");
    let up: f64 = up.split_whitespace().next().and_then(|text| text.parse().ok()).expect("seconds");
    assert!(uptime > TEN_DAYS as f64 && uptime <= up + TEN_DAYS as f64 + 1.0, "{uptime} beside {up}");
    assert_eq!(seen["namespaces"]["time"], own_namespace(&host, &pid, "time"));
    assert_ne!(seen["namespaces"]["time"], own_namespace(&host, "1", "time"));
    container.end();
    host.assert_no_trace();
}

#[test]
fn every_namespace_by_path_of_another_container() {
    stage_and_host!(stage, host);
    let id = stage.id("first");
    let bundle = Bundle::of_workload(&host, "counter", &[]).in_user_namespace(FIRST, SIZE).edit(|config| {
        namespaces(config).extend([json!({ "type": "time" }), json!({ "type": "cgroup" })]);
    });
    let container = host.run_detached(&id, &bundle);
    let pid = container.state()["pid"].to_string();
    let all = ["user", "pid", "ipc", "uts", "net", "cgroup", "time"];
    // Only some of them, then all; the order of the list must not matter.
    for joined in [
        &all[..1],
        &all[1..3],
        &["net", "user"],
        &all,
        &["time", "cgroup", "net", "uts", "ipc", "pid", "user"],
    ] {
        let second = Bundle::new(&host, "second", &["inspect"]).edit(|config| {
            let path = |name: &str| json!({ "type": kind(name), "path": format!("/proc/{pid}/ns/{name}") });
            let names: Vec<&str> = joined.iter().map(|name| kind(name)).collect();
            namespaces(config).retain(|n| !names.iter().any(|name| n["type"] == json!(name)));
            namespaces(config).extend(joined.iter().map(|name| path(name)));
            config["hostname"] = json!("");
            // The maps of another's user namespace may be told again.
            if joined.contains(&"user") {
                let map = json!([{ "containerID": 0, "hostID": FIRST, "size": SIZE }]);
                config["linux"]["uidMappings"] = map.clone();
                config["linux"]["gidMappings"] = map;
            }
        });
        let second = second.give_to(if joined.contains(&"user") { FIRST } else { 0 });
        let seen = parse(&host.migrate(&["run", "-b", &second.path(), &stage.id("second")]).succeeded());
        for name in all.into_iter().chain(["mnt"]) {
            let same = seen["namespaces"][name] == own_namespace(&host, &pid, name);
            assert_eq!(same, joined.contains(&name), "{name} of {joined:?}: {}", seen["namespaces"]);
        }
        second.remove();
    }
    container.end();
    host.assert_no_trace();
}

/// The kinds by the name under `/proc/PID/ns`; in the configuration only one is called otherwise.
const KINDS: [&str; 7] = ["user", "pid", "net", "ipc", "uts", "cgroup", "time"];

fn kind(name: &str) -> &str {
    if name == "net" { "network" } else { name }
}

/// Where a container has a namespace from: the runtime, nobody, or one of two other containers, in a user namespace and
/// not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Runtime,
    Nobody,
    Mapped,
    Host,
}

/// Some of all ways to mix them, the same at each run.
fn mixtures() -> Vec<[Origin; 7]> {
    let mut state = 20_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        [Origin::Runtime, Origin::Nobody, Origin::Mapped, Origin::Host][(state >> 24) as usize % 4]
    };
    let mut all: Vec<[Origin; 7]> = (0..24).map(|_| std::array::from_fn(|_| next())).collect();
    // The kernel lets nobody join a user namespace that he is in.
    all.iter_mut()
        .filter(|mixture| mixture[0] == Origin::Host)
        .for_each(|mixture| mixture[0] = Origin::Runtime);
    all
}

#[test]
fn namespaces_of_any_origin_mix() {
    stage_and_host!(stage, host);
    let all = |bundle: Bundle| {
        bundle.edit(|config| {
            namespaces(config).extend([json!({ "type": "time" }), json!({ "type": "cgroup" })]);
        })
    };
    let mapped = all(Bundle::of_workload(&host, "counter", &[])).in_user_namespace(FIRST, SIZE);
    let mapped = host.run_detached(&stage.id("mapped"), &mapped);
    let plain = all(Bundle::of_workload(&host, "tree", &[]));
    let plain = host.run_detached(&stage.id("plain"), &plain);
    let pids = [&mapped, &plain].map(|container| container.state()["pid"].to_string());
    let links = |pid: &str| KINDS.map(|name| own_namespace(&host, pid, name));
    let (runtime, others) = (links("1"), [links(&pids[0]), links(&pids[1])]);
    for mixture in mixtures() {
        let bundle = Bundle::new(&host, "mixed", &["inspect"]).give_to(FIRST).edit(|config| {
            // What can be mounted follows from who owns what; here it is the same for all.
            let bind =
                json!({ "destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"] });
            config["mounts"] = json!([bind, { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" }]);
            (config["hostname"], config["linux"]["maskedPaths"]) = (json!(""), json!([]));
            config["linux"]["readonlyPaths"] = json!([]);
            let mut list = vec![json!({ "type": "mount" })];
            for (name, from) in KINDS.into_iter().zip(mixture) {
                let path =
                    |pid: &str| json!({ "type": kind(name), "path": format!("/proc/{pid}/ns/{name}") });
                match from {
                    Origin::Runtime => {}
                    Origin::Nobody => list.push(json!({ "type": kind(name) })),
                    Origin::Mapped => list.push(path(&pids[0])),
                    Origin::Host => list.push(path(&pids[1])),
                }
            }
            config["linux"]["namespaces"] = json!(list);
            if mixture[0] == Origin::Nobody {
                let map = json!([{ "containerID": 0, "hostID": FIRST, "size": SIZE }]);
                (config["linux"]["uidMappings"], config["linux"]["gidMappings"]) = (map.clone(), map);
            }
        });
        let seen = parse(&host.migrate(&["run", "-b", &bundle.path(), &stage.id("mixed")]).succeeded());
        for (i, (name, from)) in KINDS.into_iter().zip(mixture).enumerate() {
            let found = &seen["namespaces"][name];
            let known = [&runtime[i], &others[0][i], &others[1][i]];
            let right = match from {
                Origin::Runtime => found == known[0],
                Origin::Nobody => !known.contains(&found),
                Origin::Mapped => found == known[1],
                Origin::Host => found == known[2],
            };
            assert!(right, "{name} of {mixture:?} is {found}, known are {known:?}");
        }
        bundle.remove();
    }
    mapped.end();
    plain.end();
    host.assert_no_trace();
}

/// Without a pid namespace of its own nothing ends with a container's first process but by us.
#[test]
fn shared_pids_are_killed_together() {
    stage_and_host!(stage, host);
    for with_path in [false, true] {
        let id = stage.id("shared");
        let bundle = Bundle::of_workload(&host, "tree", &[]).edit(|config| {
            namespaces(config).retain(|n| n["type"] != json!("pid"));
            if with_path {
                namespaces(config).push(json!({ "type": "pid", "path": "/proc/1/ns/pid" }));
            }
        });
        let count = || host.processes().iter().filter(|(_, line)| line.contains("tree")).count();
        let container = host.run_detached(&id, &bundle);
        assert!(count() > 1, "{:?}", host.processes());
        container.kill("KILL");
        wait_until(PATIENCE, "all processes of the container end", || match count() {
            0 => Ok(()),
            left => Err(left),
        });
        container.stops();
        host.migrate(&["delete", &id]).succeeded();
        // The first process alone is gone: the others can still be killed, until there are none.
        let container = host.run_detached(&id, &bundle);
        host.migrate_detached(&["exec", "-d", &id, "/workload", "tree", "--status", "/state/other"]);
        host.command(&["kill", "-KILL", &container.state()["pid"].to_string()]).run().succeeded();
        container.stops();
        assert!(count() > 0, "{:?}", host.processes());
        container.kill("KILL");
        assert_eq!(count(), 0, "{:?}", host.processes());
        host.migrate(&["kill", &id, "KILL"]).failed(1, &["container not running"]);
        host.migrate(&["delete", &id]).succeeded();
        let container = host.run_detached(&id, &bundle);
        host.migrate(&["delete", "--force", container.id()]).succeeded();
        assert_eq!(count(), 0, "{:?}", host.processes());
        host.assert_no_trace();
        bundle.remove();
    }
}
