// SPDX-License-Identifier: Apache-2.0
//! `update`: what it sets, what it leaves, what it does when something does not go, and who sees it later.

use std::fs::{self, File};

use criu_tests::{Bundle, Container, Host, Need, Stage};
use serde_json::{Value, json};

const MIB: i64 = 1 << 20;

/// A container with limits to start from.
fn limited<'h>(stage: &Stage, host: &'h Host) -> Container<'h> {
    let bundle = Bundle::of_workload(host, "counter", &["--memory", "1048576"]).edit(|config| {
        config["linux"]["resources"]["memory"] = json!({"limit": 256 * MIB, "reservation": 64 * MIB});
        config["linux"]["resources"]["cpu"] = json!({"shares": 100, "quota": 500_000, "period": 1_000_000});
        config["linux"]["resources"]["pids"] = json!({"limit": 200});
    });
    host.run_detached(&stage.id("limited"), &bundle)
}

fn memory(host: &Host, id: &str) -> String {
    host.cgroup_value(id, "memory.limit_in_bytes", "memory.max")
}

fn pids(host: &Host, id: &str) -> String {
    host.cgroup_value(id, "pids.max", "pids.max")
}

/// Quota and period, whichever files they are in.
fn bandwidth(host: &Host, id: &str) -> (String, String) {
    let file = host.cgroup_file(id, "cpu.cfs_quota_us", "cpu.max");
    if file.ends_with("cpu.max") {
        let text = host.cgroup_value(id, "cpu.max", "cpu.max");
        let (quota, period) = text.split_once(' ').expect("two numbers");
        return (quota.replace("max", "-1"), period.to_owned());
    }
    (host.cgroup_value(id, "cpu.cfs_quota_us", ""), host.cgroup_value(id, "cpu.cfs_period_us", ""))
}

fn update(container: &Container<'_>, host: &Host, args: &[&str]) {
    host.migrate(&[&["update"], args, &[container.id()]].concat()).succeeded();
}

fn update_by(container: &Container<'_>, host: &Host, change: &Value) {
    let path = host.path("change.json");
    fs::write(&path, change.to_string()).expect("write the change");
    let stdin = File::open(&path).expect("open the change");
    host.migrate_command(&["update", "-r", "-", container.id()]).stdin(stdin).run().succeeded();
}

#[test]
fn each_flag_sets_its_limit_and_no_other() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let container = limited(&stage, &host);
    let id = container.id();

    update(&container, &host, &["--memory", "300M"]);
    assert_eq!(memory(&host, id), (300 * MIB).to_string());
    update(&container, &host, &["--memory-reservation", "33554432"]);
    let reservation = || host.cgroup_value(id, "memory.soft_limit_in_bytes", "memory.low");
    assert_eq!(reservation(), "33554432");
    assert_eq!(memory(&host, id), (300 * MIB).to_string());

    update(&container, &host, &["--cpu-period", "900000"]);
    assert_eq!(bandwidth(&host, id), ("500000".into(), "900000".into()));
    update(&container, &host, &["--cpu-quota", "600000"]);
    assert_eq!(bandwidth(&host, id), ("600000".into(), "900000".into()));
    update(&container, &host, &["--cpu-quota", "-1", "--cpu-period", "100000"]);
    assert_eq!(bandwidth(&host, id), ("-1".into(), "100000".into()));
    update(&container, &host, &["--cpu-period", "10000", "--cpu-quota", "3000"]);
    assert_eq!(bandwidth(&host, id), ("3000".into(), "10000".into()));

    let shares = host.cgroup_file(id, "cpu.shares", "cpu.weight");
    let (at_100, at_200) = if shares.ends_with("cpu.shares") { ("100", "200") } else { ("17", "29") };
    let shares = || host.cgroup_value(id, "cpu.shares", "cpu.weight");
    assert_eq!(shares(), at_100);
    update(&container, &host, &["--cpu-share", "200"]);
    assert_eq!(shares(), at_200);

    update(&container, &host, &["--pids-limit", "30"]);
    assert_eq!(pids(&host, id), "30");
    update(&container, &host, &["--cpuset-cpus", "0", "--cpuset-mems", "0"]);
    assert_eq!(host.cgroup_value(id, "cpuset.cpus", "cpuset.cpus"), "0");
    update(&container, &host, &["--pids-limit", "-1"]);
    assert_eq!(pids(&host, id), "max");

    update(&container, &host, &["--memory", "-1"]);
    let limit = memory(&host, id);
    assert!(limit == "max" || limit.parse::<i64>().is_ok_and(|n| n > 1 << 60), "{limit}");
    container.end();
    host.assert_no_trace();
}

#[test]
fn an_idle_container_has_no_shares_and_stays_idle() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let container = limited(&stage, &host);
    let idle = || host.cgroup_value(container.id(), "cpu.idle", "cpu.idle");
    for value in ["1", "0", "1"] {
        update(&container, &host, &["--cpu-idle", value]);
        assert_eq!(idle(), value);
    }
    for value in ["-1", "2"] {
        host.migrate(&["update", "--cpu-idle", value, container.id()]).failed(1, &["cpu.idle"]);
        assert_eq!(idle(), "1");
    }
    update(&container, &host, &["--cpu-period", "50000", "--cpu-quota", "40000"]);
    assert_eq!(idle(), "1");
    update_by(&container, &host, &json!({"cpu": {"idle": 0, "shares": 300}}));
    assert_eq!(idle(), "0");
    container.end();
    host.assert_no_trace();
}

#[test]
fn limits_come_from_a_file_or_from_stdin_and_devices_do_not() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let container = limited(&stage, &host);
    let devices = fs::read_to_string(host.cgroup_file(container.id(), "devices.list", "cgroup.procs"));
    update_by(
        &container,
        &host,
        &json!({"devices": [{"allow": true, "access": "rwm"}], "memory": {"limit": 400 * MIB},
                "pids": {"limit": 77}, "CPU": {"Cpus": "0"}}),
    );
    assert_eq!(memory(&host, container.id()), (400 * MIB).to_string());
    assert_eq!(pids(&host, container.id()), "77");
    assert_eq!(host.cgroup_value(container.id(), "cpuset.cpus", "cpuset.cpus"), "0");
    let after = fs::read_to_string(host.cgroup_file(container.id(), "devices.list", "cgroup.procs"));
    assert_eq!(after.expect("readable"), devices.expect("readable"), "device rules are left alone");

    fs::write(host.path("change.json"), r#"{"pids":{"limit":88}}"#).expect("write");
    update(&container, &host, &["--resources", &host.path("change.json"), "--pids-limit", "5"]);
    assert_eq!(pids(&host, container.id()), "88", "a file goes before flags");

    fs::write(host.path("change.json"), r#"{"pids":{"limit":"many"}}"#).expect("write");
    host.migrate(&["update", "-r", &host.path("change.json"), container.id()]).failed(1, &["pids.limit"]);
    host.migrate(&["update", "-r", &host.path("absent.json"), container.id()]).failed(1, &["absent.json"]);
    container.end();
    host.assert_no_trace();
}

#[test]
fn what_was_set_before_a_refused_limit_is_taken_back() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let container = limited(&stage, &host);
    let before = (bandwidth(&host, container.id()), memory(&host, container.id()));
    // CPU comes first and goes; the throttle of a device that is not there does not.
    let change = json!({"cpu": {"quota": 200_000}, "memory": {"limit": 128 * MIB},
                        "blockIO": {"throttleReadBpsDevice": [{"major": 4000, "minor": 1, "rate": 1024}]}});
    fs::write(host.path("change.json"), change.to_string()).expect("write");
    let said = host
        .migrate(&["update", "-r", &host.path("change.json"), container.id()])
        .failed(1, &["linux.resources.blockIO.throttleReadBpsDevice"]);
    assert!(!said.contains("also:"), "{said}");
    assert_eq!((bandwidth(&host, container.id()), memory(&host, container.id())), before);
    // Nor is it on record: the next change starts from what there is.
    update(&container, &host, &["--pids-limit", "50"]);
    assert_eq!((bandwidth(&host, container.id()), memory(&host, container.id())), before);
    container.end();
    host.assert_no_trace();
}

#[test]
fn a_limit_below_what_is_in_use_is_refused_with_the_usage() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let container = limited(&stage, &host);
    let change = json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}});
    fs::write(host.path("change.json"), change.to_string()).expect("write");
    host.migrate(&["update", "-r", &host.path("change.json"), container.id()])
        .failed(1, &["rejecting memory limit 4096", "usage"]);
    if host
        .cgroup_file(container.id(), "memory.limit_in_bytes", "memory.max")
        .ends_with("memory.limit_in_bytes")
    {
        host.migrate(&["update", "--memory", "4096", container.id()]).failed(1, &["current usage: "]);
    }
    assert_eq!(memory(&host, container.id()), (256 * MIB).to_string());
    container.goes_on(&container.reports());
    container.end();
    host.assert_no_trace();
}

#[test]
fn created_and_paused_containers_can_be_updated_and_stopped_ones_cannot() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"]);
    let id = stage.id("states");
    host.migrate_detached(&["create", "-b", &bundle.path(), &id]);
    let container = host.container(&id, &bundle.rootfs());
    update(&container, &host, &["--pids-limit", "100"]);
    assert_eq!((pids(&host, &id), container.state_status()), ("100".into(), "created".into()));
    host.migrate(&["start", &id]).succeeded();
    container.reports();
    host.migrate(&["pause", &id]).succeeded();
    update(&container, &host, &["--pids-limit", "101"]);
    assert_eq!((pids(&host, &id), container.state_status()), ("101".into(), "paused".into()));
    host.migrate(&["resume", &id]).succeeded();
    container.goes_on(&container.reports());
    container.kill("TERM");
    container.stops();
    host.migrate(&["update", "--pids-limit", "102", &id]).failed(1, &["container not running"]);
    host.migrate(&["delete", &id]).succeeded();
    host.migrate(&["update", "--pids-limit", "102", &id]).failed(1, &["does not exist"]);
    host.assert_no_trace();
}

#[test]
fn flags_are_judged() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let container = limited(&stage, &host);
    let id = container.id();
    for (args, said) in [
        (&["--memory", "much"][..], "invalid size: 'much'"),
        (&["--memory-swap", "1M"], "linux.resources.memory.swap"),
        (&["--cpu-share", "-5"], "cpu-share"),
        (&["--blkio-weight", "5"], "linux.resources.blockIO.weight"),
    ] {
        let output = host.migrate(&[&["update"], args, &[id]].concat());
        assert_eq!(output.code, 1, "{args:?}");
        assert!(output.stderr.contains(said), "{args:?}: {}", output.stderr);
    }
    if !std::path::Path::new("/sys/fs/resctrl/info").exists() {
        host.migrate(&["update", "--l3-cache-schema", "L3:0=f", id])
            .failed(1, &["l3 cache schema is not enabled"]);
        host.migrate(&["update", "--mem-bw-schema", "MB:0=20", id])
            .failed(1, &["memory bandwidth schema is not enabled"]);
    }
    update(&container, &host, &["--kernel-memory", "50M", "--kernel-memory-tcp", "50M"]);
    container.end();
    host.assert_no_trace();
}

#[test]
fn updated_limits_go_along_with_a_checkpoint() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let (a, b) = (stage.host("a"), stage.host("b"));
    let container = limited(&stage, &a);
    let archive = stage.path("limited.tar");
    let id = container.id().to_owned();
    update(&container, &a, &["--memory", "300M", "--pids-limit", "150"]);
    let before = container.reports();
    container.checkpoint(&["--export", &archive]);
    b.migrate_detached(&["restore", "--import", &archive, "-d", &id]);
    let restored = b.imported(&id);
    restored.goes_on(&before);
    assert_eq!((memory(&b, &id), pids(&b, &id)), ((300 * MIB).to_string(), "150".into()));
    update(&restored, &b, &["--pids-limit", "160"]);
    assert_eq!((memory(&b, &id), pids(&b, &id)), ((300 * MIB).to_string(), "160".into()));
    restored.end();
    b.assert_no_trace();
}
