// SPDX-License-Identifier: Apache-2.0
//! Containers in a user namespace: what their processes see, and what the commands do with them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use criu_tests::{Bundle, Host, Stage};
use serde_json::{Value, json};

/// The first of the ids on the host that the containers here have.
const FIRST: u32 = 100_000;
const SIZE: u32 = 65_536;

macro_rules! stage_and_host {
    ($stage:ident, $host:ident) => {
        let Some($stage) = Stage::set(&[]) else { return };
        let $host = $stage.host("a");
    };
}

fn inspect_bundle(host: &Host, probes: &[&str]) -> Bundle {
    Bundle::new(host, "inspect", &[&["inspect"], probes].concat()).in_user_namespace(FIRST, SIZE)
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("not JSON: {e}\n{text}"))
}

fn run(stage: &Stage, host: &Host, bundle: &Bundle) -> Value {
    let text = host.migrate(&["run", "-b", &bundle.path(), &stage.id("inspect")]).succeeded();
    host.assert_no_trace();
    parse(&text)
}

/// What a process that `exec` starts sees.
fn exec(host: &Host, id: &str, flags: &[&str], probes: &[&str]) -> Value {
    parse(&host.migrate(&[&["exec"], flags, &[id, "/workload", "inspect"], probes].concat()).succeeded())
}

fn own_namespace(host: &Host, pid: &str, name: &str) -> Value {
    json!(host.command(&["readlink", &format!("/proc/{pid}/ns/{name}")]).run().succeeded().trim())
}

fn namespaces(config: &mut Value) -> &mut Vec<Value> {
    config["linux"]["namespaces"].as_array_mut().expect("a list")
}

#[test]
fn root_inside_is_another_user_outside() {
    stage_and_host!(stage, host);
    let probes = [
        "--read",
        "/proc/self/uid_map",
        "--read",
        "/proc/self/gid_map",
        "--read",
        "/proc/self/setgroups",
        "--stat",
        "/",
        "--stat",
        "/dev",
        "--stat",
        "/dev/null",
        "--stat",
        "/proc/sys",
        "--stat",
        "/dev/pts/ptmx",
        "--write",
        "/dev/null",
        "--write",
        "/dev/full",
        "--write",
        "/dev/stdout",
        "--write",
        "/root/made",
        "--write",
        "/sys/fs/cgroup/made",
        "--read",
        "/proc/keys",
        "--read",
        "/proc/sys/kernel/domainname",
        "--read",
        "/proc/sys/user/max_uts_namespaces",
    ];
    let bundle = inspect_bundle(&host, &probes).edit(|config| {
        config["hostname"] = json!("inner");
        config["domainname"] = json!("domain");
        config["process"]["oomScoreAdj"] = json!(7);
        config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1", "user.max_uts_namespaces": "7" });
    });
    let seen = run(&stage, &host, &bundle);
    let map: Vec<&str> =
        seen["read"]["/proc/self/uid_map"]["ok"].as_str().expect("text").split_whitespace().collect();
    assert_eq!(map, ["0", "100000", "65536"]);
    assert_eq!(seen["read"]["/proc/self/uid_map"], seen["read"]["/proc/self/gid_map"]);
    assert_eq!(seen["read"]["/proc/self/setgroups"]["ok"], json!("allow\n"));
    assert_eq!(
        (&seen["uid"], &seen["gid"], &seen["groups"]),
        (&json!([0, 0, 0]), &json!([0, 0, 0]), &json!([]))
    );
    assert_eq!(seen["hostname"], json!("inner"));
    assert_eq!(seen["oom_score_adj"], json!("7"));
    for path in ["/", "/dev", "/dev/pts/ptmx"] {
        assert_eq!(seen["stat"][path]["ok"]["uid"], json!(0), "{path}");
    }
    assert_eq!(seen["stat"]["/proc/sys"]["ok"]["uid"], json!(65534), "the host's root is nobody here");
    assert_eq!(seen["stat"]["/dev/null"]["ok"]["device"], json!([1, 3]));
    for path in ["/dev/null", "/dev/full", "/dev/stdout", "/root/made"] {
        assert_eq!(seen["write"][path]["ok"], json!("done"), "{path}: {}", seen["write"][path]);
    }
    assert_eq!(seen["read"]["/proc/keys"]["ok"], json!(""), "masked");
    assert_eq!(seen["write"]["/sys/fs/cgroup/made"]["errno"], json!(libc::EROFS));
    assert_eq!(seen["read"]["/proc/sys/kernel/domainname"]["ok"], json!("domain\n"));
    assert_eq!(seen["read"]["/proc/sys/user/max_uts_namespaces"]["ok"], json!("7\n"));
    let made = fs::metadata(format!("{}/root/made", bundle.rootfs())).expect("the container has made it");
    assert_eq!((made.uid(), made.gid()), (FIRST, FIRST));
    for name in ["user", "pid", "mnt", "ipc", "uts", "net"] {
        assert_ne!(seen["namespaces"][name], own_namespace(&host, "1", name), "{name}");
    }
    assert_eq!(seen["interfaces"], json!(["lo up"]));
    let descriptors: Vec<&String> = seen["fds"].as_object().expect("an object").keys().collect();
    assert_eq!(descriptors, ["0", "1", "2"], "nothing of the runtime leaks: {}", seen["fds"]);
}

#[test]
fn another_user_and_a_cgroup_namespace() {
    stage_and_host!(stage, host);
    let probes = ["--write", "/dev/stdout", "--write", "/root/made", "--stat", "/sys/fs/cgroup"];
    let bundle = inspect_bundle(&host, &probes).edit(|config| {
        config["process"]["user"] = json!({ "uid": 1000, "gid": 1001, "additionalGids": [5, 7] });
        namespaces(config).push(json!({ "type": "cgroup" }));
    });
    let seen = run(&stage, &host, &bundle);
    assert_eq!((&seen["uid"], &seen["gid"]), (&json!([1000, 1000, 1000]), &json!([1001, 1001, 1001])));
    assert_eq!(seen["groups"], json!([5, 7]));
    assert_eq!(seen["status"]["CapEff"], json!("0000000000000000"));
    assert_eq!(seen["write"]["/dev/stdout"]["ok"], json!("done"), "the pipe is the user's");
    assert_eq!(seen["write"]["/root/made"]["errno"], json!(libc::EACCES));
    assert_eq!(seen["stat"]["/sys/fs/cgroup"]["ok"]["uid"], json!(0));
    for cgroup in seen["cgroups"].as_array().expect("a list") {
        assert!(cgroup.as_str().is_some_and(|c| c.ends_with(":/")), "{cgroup}");
    }
}

#[test]
fn create_start_exec_kill_delete() {
    stage_and_host!(stage, host);
    let id = stage.id("web");
    let bundle =
        Bundle::of_workload(&host, "counter", &["--memory", "1048576"]).in_user_namespace(FIRST, SIZE);
    host.migrate_detached(&["create", "-b", &bundle.path(), &id]);
    assert_eq!(host.state(&id)["status"], json!("created"));
    host.migrate(&["start", &id]).succeeded();
    let container = host.container(&id, &bundle.rootfs());
    container.reports();
    let pid = container.state()["pid"].to_string();
    let seen = exec(&host, &id, &[], &["--read", "/proc/self/uid_map", "--write", "/dev/stdout"]);
    assert_eq!((&seen["uid"], &seen["gid"]), (&json!([0, 0, 0]), &json!([0, 0, 0])));
    assert!(seen["read"]["/proc/self/uid_map"]["ok"].as_str().is_some_and(|m| m.contains("100000")));
    assert_eq!(seen["write"]["/dev/stdout"]["ok"], json!("done"));
    for name in ["user", "pid", "mnt", "ipc", "uts", "net", "cgroup"] {
        assert_eq!(seen["namespaces"][name], own_namespace(&host, &pid, name), "{name}");
    }
    let seen = exec(&host, &id, &["-u", "7:8", "-g", "9"], &["--write", "/dev/stdout"]);
    assert_eq!(
        (&seen["uid"], &seen["gid"], &seen["groups"]),
        (&json!([7, 7, 7]), &json!([8, 8, 8]), &json!([9]))
    );
    assert_eq!(seen["write"]["/dev/stdout"]["ok"], json!("done"));
    let not_mapped = host.migrate(&["exec", "-u", "65536", &id, "/workload", "inspect"]);
    not_mapped.failed(255, &["process.user.uid", "65536 is not mapped"]);
    container.kill("KILL");
    container.stops();
    host.migrate(&["delete", &id]).succeeded();
    host.assert_no_trace();
    host.migrate_detached(&["create", "-b", &bundle.path(), &id]);
    host.migrate(&["delete", "--force", &id]).succeeded();
    host.assert_no_trace();
}

/// Only one id exists inside, and it is not 0: who sets the container up is its process's user from the beginning.
#[test]
fn a_user_namespace_without_a_root() {
    stage_and_host!(stage, host);
    let id = stage.id("one");
    let bundle = Bundle::of_workload(&host, "counter", &[]).in_user_namespace(FIRST, 1).edit(|config| {
        for map in ["uidMappings", "gidMappings"] {
            config["linux"][map][0]["containerID"] = json!(1000);
        }
        config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
        let pts = config["mounts"].as_array_mut().expect("a list").iter_mut();
        for mount in pts.filter(|m| m["destination"] == json!("/dev/pts")) {
            mount["options"].as_array_mut().expect("a list").retain(|option| *option != json!("gid=5"));
        }
    });
    let container = host.run_detached(&id, &bundle);
    let seen =
        exec(&host, &id, &[], &["--read", "/proc/self/uid_map", "--write", "/dev/stdout", "--stat", "/"]);
    assert_eq!((&seen["uid"], &seen["gid"]), (&json!([1000, 1000, 1000]), &json!([1000, 1000, 1000])));
    let map = seen["read"]["/proc/self/uid_map"]["ok"].as_str().expect("text");
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["1000", "100000", "1"]);
    assert_eq!(seen["status"]["CapEff"], json!("0000000000000000"), "what set it up is not left over");
    assert_eq!(seen["status"]["CapAmb"], json!("0000000000000000"));
    assert_eq!(seen["write"]["/dev/stdout"]["ok"], json!("done"));
    assert_eq!(seen["stat"]["/"]["ok"]["uid"], json!(1000));
    container.end();
    host.assert_no_trace();
}

/// The user namespace outlives its container where its file is mounted, and the network namespace belongs to the host.
#[test]
fn a_kept_user_namespace_and_a_network_namespace_of_another_owner() {
    stage_and_host!(stage, host);
    let id = stage.id("first");
    let bundle = Bundle::of_workload(&host, "counter", &[]).in_user_namespace(FIRST, SIZE);
    let container = host.run_detached(&id, &bundle);
    let pid = container.state()["pid"].to_string();
    let (user, net) = (host.path("user"), host.path("net"));
    for file in [&user, &net] {
        fs::write(file, "").expect("make a mount point");
    }
    let kept = own_namespace(&host, &pid, "user");
    host.command(&["mount", "--bind", &format!("/proc/{pid}/ns/user"), &user]).run().succeeded();
    host.command(&["unshare", "--net", "mount", "--bind", "/proc/self/ns/net", &net]).run().succeeded();
    host.migrate(&["delete", "--force", &id]).succeeded();
    let second = Bundle::new(&host, "second", &["inspect"]).give_to(FIRST).edit(|config| {
        namespaces(config).retain(|n| n["type"] != json!("network"));
        namespaces(config).push(json!({ "type": "user", "path": user }));
        namespaces(config).push(json!({ "type": "network", "path": net }));
        // Who does not own the network namespace cannot mount sysfs.
        let mounts = config["mounts"].as_array_mut().expect("a list");
        mounts.retain(|m| !m["destination"].as_str().is_some_and(|d| d.starts_with("/sys")));
    });
    let seen = parse(&host.migrate(&["run", "-b", &second.path(), &stage.id("second")]).succeeded());
    assert_eq!(seen["namespaces"]["user"], kept);
    assert_ne!(seen["namespaces"]["net"], own_namespace(&host, "1", "net"));
    assert_eq!(seen["uid"], json!([0, 0, 0]));
    host.command(&["umount", &user, &net]).run().succeeded();
    host.assert_no_trace();
}

#[test]
fn clocks_of_a_user_namespace() {
    stage_and_host!(stage, host);
    let bundle = inspect_bundle(&host, &["--read", "/proc/self/timens_offsets"]).edit(|config| {
        namespaces(config).push(json!({ "type": "time" }));
        config["linux"]["timeOffsets"] =
            json!({ "monotonic": { "secs": 7881, "nanosecs": 2_718_281 }, "boottime": { "secs": 1337 } });
        // The groups of the host need not be those of the users.
        config["linux"]["gidMappings"][0]["hostID"] = json!(FIRST + SIZE);
    });
    let seen = run(&stage, &host, &bundle);
    let offsets = seen["read"]["/proc/self/timens_offsets"]["ok"].as_str().expect("text");
    let words: Vec<Vec<&str>> = offsets.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words, [["monotonic", "7881", "2718281"], ["boottime", "1337", "0"]]);
    let plain = Bundle::new(&host, "plain", &["inspect", "--read", "/proc/self/timens_offsets"])
        .edit(|config| namespaces(config).push(json!({ "type": "time" })));
    let seen = run(&stage, &host, &plain);
    let offsets = seen["read"]["/proc/self/timens_offsets"]["ok"].as_str().expect("text");
    let words: Vec<Vec<&str>> = offsets.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words, [["monotonic", "0", "0"], ["boottime", "0", "0"]]);
}

/// CVE-2016-9962, with all that a user namespace can give to an attacker: a shared pid namespace, the same user
/// namespace and CAP_SYS_PTRACE in it.
#[test]
fn the_runtime_among_others_cannot_be_looked_into() {
    stage_and_host!(stage, host);
    let id = stage.id("attacker");
    let bundle = Bundle::of_workload(&host, "counter", &[]).in_user_namespace(FIRST, SIZE);
    let container = host.run_detached(&id, &bundle);
    let pid = container.state()["pid"].to_string();
    let joined = ["user", "pid"];
    let second = Bundle::new(&host, "second", &["inspect"]).give_to(FIRST).edit(|config| {
        namespaces(config).retain(|n| n["type"] != json!("pid"));
        let path = |name: &&str| json!({ "type": name, "path": format!("/proc/{pid}/ns/{name}") });
        namespaces(config).extend(joined.iter().map(path));
    });
    let other = stage.id("created");
    host.migrate_detached(&["create", "-b", &second.path(), &other]);
    let look = ["/proc/2/exe", "/proc/2/root", "/proc/2/fd/0"];
    let probes: Vec<&str> = look.iter().flat_map(|path| ["--stat", path]).collect();
    let seen = exec(&host, &id, &["--cap", "CAP_SYS_PTRACE"], &probes);
    for path in look {
        assert_eq!(seen["stat"][path]["errno"], json!(libc::EACCES), "{path}: {}", seen["stat"]);
    }
    let seen = exec(&host, &id, &["--cap", "CAP_SYS_PTRACE"], &["--stat", "/proc/1/root"]);
    assert!(seen["stat"]["/proc/1/root"]["ok"].is_object(), "the capability is of use: {}", seen["stat"]);
    host.migrate(&["delete", "--force", &other]).succeeded();
    container.end();
    host.assert_no_trace();
}

#[test]
fn wrong_configurations_name_the_field() {
    stage_and_host!(stage, host);
    type Edit = fn(&mut Value);
    let table: [(Edit, &[&str]); 9] = [
        (|c| c["linux"]["uidMappings"] = json!([]), &["linux.uidMappings", "must not be empty"]),
        (
            |c| namespaces(c).retain(|n| n["type"] != json!("user")),
            &["linux.uidMappings", "user namespace isn't enabled"],
        ),
        (
            |c| c["linux"]["gidMappings"][0]["containerID"] = json!(1),
            &["linux.gidMappings", "does not map the id 0"],
        ),
        (|c| c["linux"]["gidMappings"][0]["size"] = json!(0), &["linux.gidMappings[0].size"]),
        (|c| c["process"]["user"]["uid"] = json!(65536), &["process.user.uid", "is not mapped"]),
        (
            |c| namespaces(c).push(json!({ "type": "time", "path": "/proc/1/ns/uts" })),
            &["/proc/1/ns/uts", "is of the kind `uts`, no time namespace"],
        ),
        (
            |c| namespaces(c).push(json!({ "type": "cgroup", "path": "/etc/passwd" })),
            &["/etc/passwd", "no cgroup namespace"],
        ),
        (
            |c| namespaces(c).push(json!({ "type": "time", "path": "/nonexistent" })),
            &["/nonexistent", "no such file"],
        ),
        (
            |c| {
                namespaces(c).push(json!({ "type": "time" }));
                c["linux"]["timeOffsets"] = json!({ "monotonic": { "secs": -9_000_000_000_i64 } });
            },
            &["linux.timeOffsets", "out of range"],
        ),
    ];
    for (edit, fragments) in table {
        let bundle = inspect_bundle(&host, &[]).edit(edit);
        host.migrate(&["run", "-b", &bundle.path(), &stage.id("wrong")]).failed(1, fragments);
        host.assert_no_trace();
        bundle.remove();
    }
}
