// SPDX-License-Identifier: Apache-2.0
//! What a container's process sees: each setting of `config.json`, looked at from inside.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use criu_tests::{Bundle, Host, Stage};
use serde_json::{Value, json};

const ENOENT: i64 = 2;
const EROFS: i64 = 30;

/// Runs `inspect` with these probes in the foreground, in a bundle changed by `edit`.
fn inspect(stage: &Stage, host: &Host, probes: &[&str], edit: impl FnOnce(&mut Value)) -> Value {
    let bundle = Bundle::new(host, "inspect", &[&["inspect"], probes].concat()).edit(edit);
    let text = host.migrate(&["run", "-b", &bundle.path(), &stage.id("inspect")]).succeeded();
    host.assert_no_trace();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON: {e}\n{text}"))
}

fn mount<'a>(seen: &'a Value, destination: &str) -> &'a Value {
    let mounts = seen["mounts"].as_array().expect("a list");
    // The last one on a place is the one that is seen.
    mounts
        .iter()
        .rfind(|m| m["destination"] == json!(destination))
        .unwrap_or_else(|| panic!("nothing is mounted on {destination}: {mounts:#?}"))
}

fn has(list: &Value, item: &str) -> bool {
    list.as_array().is_some_and(|l| l.contains(&json!(item)))
}

fn push(list: &mut Value, item: Value) {
    list.as_array_mut().expect("a list").push(item);
}

macro_rules! stage_and_host {
    ($stage:ident, $host:ident) => {
        let Some($stage) = Stage::set(&[]) else { return };
        let $host = $stage.host("a");
    };
}

#[test]
fn the_default_config() {
    stage_and_host!(stage, host);
    let probes =
        ["--stat", "/dev/null", "--stat", "/dev/ptmx", "--stat", "/dev/fd/0", "--stat", "/nonexistent"];
    let seen = inspect(&stage, &host, &probes, |_| {});
    assert_eq!(seen["pid"], json!(1));
    assert_eq!(seen["session"], json!(1), "the first process leads its session");
    assert_eq!(seen["uid"], json!([0, 0, 0]));
    assert_eq!(seen["cwd"], json!("/"));
    assert_eq!(seen["umask"], json!("0022"));
    assert_eq!(seen["env"]["HOME"], json!("/root"), "filled in from /etc/passwd");
    assert_eq!(seen["status"]["NoNewPrivs"], json!("1"));
    assert_eq!(seen["interfaces"], json!(["lo up"]));
    let descriptors: Vec<&String> = seen["fds"].as_object().expect("an object").keys().collect();
    assert_eq!(descriptors, ["0", "1", "2"], "nothing of the runtime leaks: {}", seen["fds"]);
    assert_eq!(seen["stat"]["/dev/null"]["ok"]["device"], json!([1, 3]));
    assert_eq!(seen["stat"]["/dev/null"]["ok"]["mode"], json!("20666"));
    assert_eq!(seen["stat"]["/dev/ptmx"]["ok"]["device"], json!([5, 2]));
    assert!(seen["stat"]["/dev/fd/0"]["ok"].is_object(), "/dev/fd leads to /proc/self/fd");
    assert_eq!(seen["stat"]["/nonexistent"]["errno"], json!(ENOENT));
    for (destination, kind) in [
        ("/proc", "proc"),
        ("/dev", "tmpfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
        ("/dev/mqueue", "mqueue"),
        ("/sys", "sysfs"),
    ] {
        assert_eq!(mount(&seen, destination)["type"], json!(kind), "{destination}");
    }
    assert!(has(&mount(&seen, "/sys")["options"], "ro"));
    let directory = host.path("");
    let foreign = seen["mounts"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|m| m["destination"].as_str().is_some_and(|d| d.contains(directory.as_str())));
    assert_eq!(foreign.count(), 0, "the host's mounts are gone");
    for namespace in ["pid", "mnt", "ipc", "uts", "net"] {
        let own = host.command(&["readlink", &format!("/proc/1/ns/{namespace}")]).run().succeeded();
        assert_ne!(seen["namespaces"][namespace], json!(own.trim()), "{namespace}");
    }
}

#[test]
fn environment_directory_arguments_and_umask() {
    stage_and_host!(stage, host);
    let seen = inspect(&stage, &host, &["--read", "/etc/group"], |config| {
        push(&mut config["process"]["env"], json!("COLOUR=green"));
        push(&mut config["process"]["env"], json!("COLOUR=red=ish"));
        config["process"]["cwd"] = json!("/tmp");
        config["process"]["user"]["umask"] = json!(0o027);
    });
    assert_eq!(seen["env"]["COLOUR"], json!("red=ish"), "the last one counts");
    assert_eq!(seen["cwd"], json!("/tmp"));
    assert_eq!(seen["umask"], json!("0027"));
    assert_eq!(seen["args"], json!(["/workload", "inspect", "--read", "/etc/group"]));
}

#[test]
fn user_and_additional_groups() {
    stage_and_host!(stage, host);
    let seen = inspect(&stage, &host, &["--write", "/root/x"], |config| {
        config["process"]["user"] = json!({ "uid": 1000, "gid": 1001, "additionalGids": [5, 7] });
        config["process"]["capabilities"]["ambient"] = json!([]);
        config["process"]["capabilities"]["inheritable"] = json!([]);
    });
    assert_eq!(seen["uid"], json!([1000, 1000, 1000]));
    assert_eq!(seen["gid"], json!([1001, 1001, 1001]));
    let groups = &seen["groups"];
    assert!(
        groups
            .as_array()
            .is_some_and(|g| g.contains(&json!(5)) && g.contains(&json!(7)) && !g.contains(&json!(0))),
        "{groups}"
    );
    assert_eq!(seen["env"]["HOME"], json!("/tmp"), "filled in from /etc/passwd");
    assert_eq!(seen["status"]["CapEff"], json!("0000000000000000"));
    assert_eq!(seen["write"]["/root/x"]["errno"], json!(13));
}

#[test]
fn hostname_and_sysctl() {
    stage_and_host!(stage, host);
    let (forward, forced) = ("/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/shm_rmid_forced");
    let seen = inspect(&stage, &host, &["--read", forward, "--read", forced], |config| {
        config["hostname"] = json!("moved");
        config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1" });
    });
    assert_eq!(seen["hostname"], json!("moved"));
    assert_eq!(seen["read"][forward]["ok"], json!("1\n"));
    assert_eq!(seen["read"][forced]["ok"], json!("1\n"));
}

#[test]
fn rlimits() {
    stage_and_host!(stage, host);
    let seen = inspect(&stage, &host, &[], |config| {
        config["process"]["rlimits"] = json!([
            { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
            { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
        ]);
    });
    assert_eq!(seen["rlimits"]["Max open files"], json!(["100", "200"]));
    assert_eq!(seen["rlimits"]["Max core file size"], json!(["0", "0"]));
}

#[test]
fn capabilities() {
    stage_and_host!(stage, host);
    let seen = inspect(&stage, &host, &[], |config| {
        config["process"]["capabilities"] = json!({
            "bounding": ["CAP_KILL", "CAP_CHOWN"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL", "CAP_CHOWN"],
            "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
        });
    });
    // CAP_CHOWN is 0 and CAP_KILL is 5 (capability.h); root's permitted and effective sets follow from the bounding
    // set at execve, as capabilities(7) tells.
    let sets = ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"].map(|set| seen["status"][set].clone());
    assert_eq!(
        json!(sets),
        json!(["21", "21", "21", "20", "20"].map(|low| format!("{low:0>16}"))),
        "{sets:?}"
    );
}

#[test]
fn a_capability_lets_a_user_run_what_is_anothers() {
    stage_and_host!(stage, host);
    let run = |name: &str, capabilities: &[&str]| {
        let bundle = Bundle::new(&host, name, &["exit"]).edit(|config| {
            config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
            for set in ["bounding", "effective", "permitted"] {
                config["process"]["capabilities"][set] = json!(capabilities);
            }
        });
        let program = format!("{}/workload", bundle.rootfs());
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).expect("chmod");
        host.migrate(&["run", "-b", &bundle.path(), &stage.id(name)])
    };
    run("without", &[]).failed(1, &["exec: \"/workload\": permission denied"]);
    run("with", &["CAP_DAC_OVERRIDE"]).succeeded();
    host.assert_no_trace();
}

#[test]
fn no_new_privileges_can_be_off() {
    stage_and_host!(stage, host);
    let seen = inspect(&stage, &host, &[], |config| config["process"]["noNewPrivileges"] = json!(false));
    assert_eq!(seen["status"]["NoNewPrivs"], json!("0"));
}

#[test]
fn a_readonly_root_with_a_writable_tmpfs() {
    stage_and_host!(stage, host);
    let seen = inspect(&stage, &host, &["--write", "/x", "--write", "/tmp/x"], |config| {
        config["root"]["readonly"] = json!(true);
        let options = ["nosuid", "nodev", "noexec", "mode=1777", "size=64k"];
        push(
            &mut config["mounts"],
            json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": options }),
        );
    });
    assert_eq!(seen["write"]["/x"]["errno"], json!(EROFS));
    assert_eq!(seen["write"]["/tmp/x"]["ok"], json!("done"));
    let tmp = mount(&seen, "/tmp");
    assert_eq!(tmp["type"], json!("tmpfs"));
    for option in ["nosuid", "nodev", "noexec", "rw"] {
        assert!(has(&tmp["options"], option), "{option}: {tmp}");
    }
    assert!(has(&tmp["super"], "size=64k"), "{tmp}");
}

#[test]
fn masked_and_readonly_paths() {
    stage_and_host!(stage, host);
    let probes = [
        "--read",
        "/etc/passwd",
        "--stat",
        "/etc/passwd",
        "--write",
        "/state/x",
        "--write",
        "/root/x",
        "--read",
        "/root/here",
    ];
    let bundle_file = host.path("bundles/inspect/rootfs/root/here");
    let seen = inspect(&stage, &host, &probes, |config| {
        fs::write(&bundle_file, "readable").expect("write into the root filesystem");
        config["linux"]["maskedPaths"] = json!(["/etc/passwd", "/state", "/nonexistent"]);
        config["linux"]["readonlyPaths"] = json!(["/root", "/nonexistent"]);
    });
    assert_eq!(seen["read"]["/etc/passwd"]["ok"], json!(""), "a masked file is empty");
    assert_eq!(seen["stat"]["/etc/passwd"]["ok"]["device"], json!([1, 3]));
    assert_eq!(seen["write"]["/state/x"]["errno"], json!(EROFS));
    assert_eq!(seen["write"]["/root/x"]["errno"], json!(EROFS));
    assert_eq!(seen["read"]["/root/here"]["ok"], json!("readable"));
}

#[test]
fn bind_mounts_and_propagation() {
    stage_and_host!(stage, host);
    let (directory, file) = (host.path("data"), host.path("file"));
    fs::create_dir(&directory).expect("make a directory");
    fs::write(format!("{directory}/in"), "in the directory").expect("write");
    fs::write(&file, "in the file").expect("write");
    let probes =
        ["--read", "/data/in", "--write", "/data/new", "--read", "/deep/in/file", "--write", "/deep/in/file"];
    let seen = inspect(&stage, &host, &probes, |config| {
        let bind = |source: &str, destination: &str, options: &[&str]| json!({ "destination": destination, "type": "bind", "source": source, "options": options });
        push(&mut config["mounts"], bind(&directory, "/data", &["rbind", "rshared"]));
        push(&mut config["mounts"], bind(&file, "/deep/in/file", &["bind", "ro"]));
    });
    assert_eq!(seen["read"]["/data/in"]["ok"], json!("in the directory"));
    assert_eq!(seen["write"]["/data/new"]["ok"], json!("done"));
    assert!(fs::exists(format!("{directory}/new")).expect("look"), "the host sees what is written");
    assert_eq!(seen["read"]["/deep/in/file"]["ok"], json!("in the file"));
    assert_eq!(seen["write"]["/deep/in/file"]["errno"], json!(EROFS));
    let propagation = mount(&seen, "/data")["propagation"].to_string();
    assert!(propagation.contains("shared:"), "{propagation}");
    let propagation = mount(&seen, "/")["propagation"].to_string();
    assert!(!propagation.contains("shared:"), "{propagation}");
}

#[test]
fn namespaces_by_path() {
    stage_and_host!(stage, host);
    let seen = inspect(&stage, &host, &[], |config| {
        for namespace in config["linux"]["namespaces"].as_array_mut().expect("a list") {
            if let Some(file) =
                [("network", "net"), ("ipc", "ipc")].iter().find(|(t, _)| namespace["type"] == json!(t))
            {
                namespace["path"] = json!(format!("/proc/1/ns/{}", file.1));
            }
        }
    });
    for (namespace, same) in [("net", true), ("ipc", true), ("uts", false), ("pid", false)] {
        let own = host.command(&["readlink", &format!("/proc/1/ns/{namespace}")]).run().succeeded();
        assert_eq!(
            seen["namespaces"][namespace] == json!(own.trim()),
            same,
            "{namespace}: {}",
            seen["namespaces"]
        );
    }
}

#[test]
fn cgroup_limits() {
    stage_and_host!(stage, host);
    let id = stage.id("limits");
    let bundle = Bundle::of_workload(&host, "tree", &[]).edit(|config| {
        config["linux"]["cgroupsPath"] = json!(format!("/{id}-group/inner"));
        config["linux"]["resources"] = json!({
            "memory": { "limit": 64 << 20 }, "pids": { "limit": 32 }, "cpu": { "quota": 50_000, "period": 100_000 },
        });
    });
    let container = host.run_detached(&id, &bundle);
    let groups = host.cgroups();
    // Version 1 file, version 2 file; each value must stand in one of the container's cgroups.
    for (files, values) in [
        (["memory.limit_in_bytes", "memory.max"], ["67108864"; 2]),
        (["pids.max", "pids.max"], ["32"; 2]),
        (["cpu.cfs_quota_us", "cpu.max"], ["50000", "50000 100000"]),
    ] {
        let read = |file: &str| {
            groups.iter().filter(|g| g.ends_with("inner")).find_map(|g| fs::read_to_string(g.join(file)).ok())
        };
        let found = files.map(read);
        let right = found.iter().zip(values).any(|(f, v)| f.as_deref().map(str::trim) == Some(v));
        assert!(right, "{files:?} hold {found:?}");
    }
    let processes = host.migrate(&["ps", "-f", "json", &id]).succeeded();
    let count = serde_json::from_str::<Vec<i32>>(&processes).expect("a list of pids").len();
    assert_eq!(count, 5, "init, worker, grandchild, leader, member; a zombie is in no cgroup: {processes}");
    container.end();
    // The parent directory was made for this container; who removes it is not ours to say here.
    for group in host.cgroups() {
        assert!(!group.ends_with("inner"), "left: {}", group.display());
    }
}

#[test]
fn devices_are_as_documented() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let documentation = include_str!("../../docs/container-environment.md");
    let rows: Vec<(&str, &str)> = documentation
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | "))
        .filter(|(path, what)| {
            path.starts_with("/dev/") && (what.starts_with("device") || what.starts_with("link"))
        })
        .collect();
    assert_eq!(rows.len(), 11, "{rows:?}");
    let probes: Vec<&str> = rows.iter().flat_map(|(path, _)| ["--stat", path]).collect();
    let bundle = Bundle::new(&host, "devices", &[&["inspect"], &probes[..]].concat());
    let id = stage.id("devices");
    host.migrate_detached(&["create", "-b", &bundle.path(), &id]);
    let dev = format!("/proc/{}/root", host.state(&id)["pid"]);
    for (path, what) in &rows {
        if let Some(target) = what.strip_prefix("link to ") {
            let found = host.command(&["readlink", &format!("{dev}{path}")]).run().succeeded();
            assert_eq!(found.trim(), target, "{path}");
        }
    }
    host.migrate(&["delete", &id]).succeeded();
    let seen = inspect(&stage, &host, &probes, |_| {});
    for (path, what) in &rows {
        let Some((major, minor)) = what.strip_prefix("device ").and_then(|n| n.split_once(':')) else {
            continue;
        };
        let number = |text: &str| text.parse::<u32>().expect("a number");
        let node = &seen["stat"][path]["ok"];
        assert_eq!(node["device"], json!([number(major), number(minor)]), "{path}");
        assert!(node["mode"].as_str().is_some_and(|mode| mode.ends_with("666")), "{path}: {node}");
    }
    host.assert_no_trace();
}
