// SPDX-License-Identifier: Apache-2.0
//! `migrate inspect` tells of an archive, and of a directory of images, what `/proc` told of the processes before they were
//! checkpointed: a paused container is looked at from both sides.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use criu_tests::{Bundle, Host, Need, Podman, Stage};
use serde_json::{Value, json};

/// What `inspect --json` says.
#[track_caller]
fn inspected(host: &Host, args: &[&str]) -> Value {
    let text = host.migrate(&[&["inspect", "--json"], args].concat()).succeeded();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON: {e}\n{text}"))
}

/// A process as `/proc` shows it, in the words of the report.
#[track_caller]
fn process(host: &Host, pid: i64) -> (u64, Value) {
    let at = host.outside(&format!("/proc/{pid}"));
    let read = |name: &str| fs::read(format!("{at}/{name}")).unwrap_or_else(|e| panic!("{at}/{name}: {e}"));
    let text = |name: &str| String::from_utf8_lossy(&read(name)).into_owned();
    let status = text("status");
    let line = |name: &str| -> Vec<String> {
        let found = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        found.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    };
    let number = |name: &str, at: usize| line(name)[at].parse::<u64>().expect("a number");
    let inside = line("NSpid").last().expect("a pid").parse().expect("a number");
    let command: Vec<String> =
        text("cmdline").trim_end_matches('\0').split('\0').map(str::to_owned).collect();
    let link = |name: &str| {
        fs::read_link(format!("{at}/{name}")).map(|path| path.to_string_lossy().into_owned()).ok()
    };
    // A freezer hides whether one is stopped by a signal.
    let found = json!({
        "name": text("comm").trim_end(),
        "threads": number("Threads", 0),
        "uid": number("Uid", 1),
        "gid": number("Gid", 1),
        "command_line": command,
        "program": link("exe"),
        "directory": link("cwd"),
    });
    (inside, found)
}

/// The descriptors of a process: number → where it leads to, access, close-on-exec. Without what a workload opens for a moment
/// only, its next status and what it reads in `/proc`: of one that is stopped by a signal the freezer is opened before the dump.
#[track_caller]
fn descriptors(host: &Host, pid: i64) -> BTreeMap<u64, (Option<String>, Value)> {
    let at = host.outside(&format!("/proc/{pid}"));
    let Ok(entries) = fs::read_dir(format!("{at}/fd")) else { return BTreeMap::new() };
    let describe = |entry: fs::DirEntry| {
        let number: u64 = entry.file_name().to_string_lossy().parse().expect("a number");
        let target = fs::read_link(entry.path()).expect("it stands still");
        if target.starts_with("/proc") || target.extension().is_some_and(|extension| extension == "tmp") {
            return None;
        }
        let info = fs::read_to_string(format!("{at}/fdinfo/{number}")).expect("it stands still");
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags").trim();
        let flags = u32::from_str_radix(flags, 8).expect("octal");
        let access = ["rdonly", "wronly", "rdwr", "path"][(flags & 3) as usize];
        let target = String::from_utf8_lossy(target.as_os_str().as_bytes()).into_owned();
        // What has no path, and what was unlinked, is named in other ways.
        let target =
            (!target.starts_with("anon_inode:") && !target.ends_with(" (deleted)")).then_some(target);
        Some((number, (target, json!([access, flags & 0o2_000_000 != 0]))))
    };
    entries.filter_map(|entry| describe(entry.expect("a descriptor"))).collect()
}

/// The same of a report.
fn told(process: &Value) -> BTreeMap<u64, (Option<String>, Value)> {
    let list = process["descriptors"].as_array().expect("a list");
    let entry = |open: &Value| {
        let flags = open["flags"].as_array().expect("a list");
        let path = open["path"].as_str().map(str::to_owned);
        (open["fd"].as_u64().expect("a number"), (path, json!([flags[0], flags.contains(&json!("cloexec"))])))
    };
    list.iter().map(entry).collect()
}

/// What `/proc` tells of each process of a paused container: by its pid inside, the process and its descriptors.
type Seen = BTreeMap<u64, (Value, BTreeMap<u64, (Option<String>, Value)>)>;

#[track_caller]
fn look(host: &Host, pids: &[i64]) -> Seen {
    let one = |pid: &i64| {
        let (inside, found) = process(host, *pid);
        (inside, (found, descriptors(host, *pid)))
    };
    pids.iter().map(one).collect()
}

/// Compares a report with what was seen before the checkpoint.
#[track_caller]
fn agrees(seen: &Seen, report: &Value) {
    assert_eq!(report["problems"], json!([]), "{report:#}");
    let reported = report["processes"].as_array().expect("a list");
    let by_pid: BTreeMap<u64, &Value> =
        reported.iter().map(|process| (process["pid"].as_u64().expect("a pid"), process)).collect();
    // A zombie is in no cgroup any more.
    let living = reported.iter().filter(|process| process["state"] != "zombie").count();
    assert_eq!(living, seen.len(), "{report:#}");
    for (inside, (expected, open)) in seen {
        let found = by_pid.get(inside).unwrap_or_else(|| panic!("{inside} is missing in {report:#}"));
        for (name, value) in expected.as_object().expect("an object") {
            let told = if name == "threads" {
                json!(found[name].as_array().map(Vec::len))
            } else {
                found[name].clone()
            };
            assert_eq!(told, *value, "{name} of {inside}");
        }
        let told = told(found);
        for (number, (target, flags)) in open {
            let (path, told_flags) = told.get(number).unwrap_or_else(|| panic!("{inside} has {number} open"));
            assert_eq!(told_flags, flags, "descriptor {number} of {inside}");
            if let Some(target) = target.as_deref().filter(|target| !target.starts_with("/dev/pts")) {
                assert_eq!(path.as_deref(), Some(target), "descriptor {number} of {inside}");
            }
        }
    }
}

/// What a container that runs and a checkpoint of it are told in the same words.
#[track_caller]
fn in_both(report: &Value) -> Value {
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let pick = |value: &Value, names: &[&str]| -> Value {
        names.iter().map(|name| ((*name).to_owned(), value[*name].clone())).collect()
    };
    let socket =
        |value: &Value| pick(value, &["family", "type", "protocol", "state", "local", "remote", "peer"]);
    // Without what a workload opens for a moment only.
    let lasts = |open: &Value| {
        open["path"].as_str().is_none_or(|path| !path.starts_with("/proc") && !path.ends_with(".tmp"))
    };
    let open = |open: &Value| json!([open["fd"], open["kind"], open["flags"], socket(&open["socket"])]);
    let process = |process: &Value| {
        let ended = process["state"] == "zombie";
        // CRIU writes nothing else of one that has ended.
        let of_all = pick(process, &["pid", "parent", "name", "state", "exit_status"]);
        let named = ["group", "session", "threads", "command_line", "uid", "gid", "program", "directory"];
        let of_living = if ended { Value::Null } else { pick(process, &named) };
        let descriptors: Vec<Value> =
            list(&process["descriptors"]).iter().filter(|d| lasts(d)).map(open).collect();
        json!([of_all, of_living, descriptors])
    };
    // Of a filesystem that CRIU does not know, as often the root's, it does not write the type.
    let mounts = list(&report["mounts"]);
    let mounts: BTreeSet<&str> = mounts.iter().filter_map(|mount| mount["mountpoint"].as_str()).collect();
    let mut processes = list(&report["processes"]);
    processes.sort_by_key(|process| process["pid"].as_u64());
    let hostname = &report["checkpoint"]["hostname"];
    json!([processes.iter().map(process).collect::<Vec<_>>(), mounts, hostname])
}

/// Pauses a container of this workload, compares an archive and a directory with it, and gives the archive's report.
#[track_caller]
fn both_sides(stage: &Stage, host: &Host, workload: &str, options: &[&str], flags: &[&str]) -> Value {
    let bundle = Bundle::of_workload(host, workload, options);
    let container = host.run_detached(&stage.id(workload), &bundle);
    let (archive, images) = (host.path("a.tar.zst"), host.path("images"));
    // A checkpoint may let it run for a moment, in which it opens and closes what it likes: it is looked at before each.
    let checkpoint = |target: [&str; 2]| {
        if container.state_status() != "paused" {
            host.migrate(&["pause", container.id()]).succeeded();
        }
        let pids = host.migrate(&["ps", "--format", "json", container.id()]).succeeded();
        let pids: Vec<i64> = serde_json::from_str(&pids).expect("pids");
        let seen = (look(host, &pids), mountpoints(host, pids[0]));
        let alive = inspected(host, &[container.id()]);
        container.checkpoint(&[&["--leave-running"], &target[..], flags].concat());
        (seen, alive)
    };
    let ((seen, mounts), alive) = checkpoint(["--export", &archive]);
    let report = inspected(host, &[&archive]);
    assert_eq!(report["form"], "archive");
    assert_eq!(report["checkpoint"]["id"], container.id());
    agrees(&seen, &report);
    let told: BTreeSet<&str> = report["mounts"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|m| m["mountpoint"].as_str())
        .collect();
    assert_eq!(told, mounts.iter().map(String::as_str).collect(), "mounts");
    assert_eq!((&alive["form"], &alive["checkpoint"]["id"]), (&json!("container"), &json!(container.id())));
    agrees(&seen, &alive);
    assert_eq!(in_both(&alive), in_both(&report));
    let ((seen, _), _) = checkpoint(["--image-path", &images]);
    let of_images = inspected(host, &[&images]);
    assert_eq!((&of_images["form"], &of_images["mounts"]), (&json!("images"), &report["mounts"]));
    agrees(&seen, &of_images);
    fs::remove_dir_all(&images).and_then(|()| fs::remove_file(&archive)).expect("remove what was written");
    host.migrate_command(&["resume", container.id()]).run();
    container.end();
    bundle.remove();
    report
}

fn mountpoints(host: &Host, pid: i64) -> BTreeSet<String> {
    let text = fs::read_to_string(host.outside(&format!("/proc/{pid}/mountinfo"))).expect("mountinfo");
    text.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect()
}

fn sockets<'r>(report: &'r Value, family: &str) -> Vec<&'r Value> {
    let processes = report["processes"].as_array().expect("a list").iter();
    let all = processes.flat_map(|process| process["descriptors"].as_array().expect("a list"));
    all.map(|open| &open["socket"]).filter(|socket| socket["family"] == family).collect()
}

#[test]
fn processes_with_their_files() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let report = both_sides(&stage, &host, "tree", &["--stopped"], &[]);
    let states: Vec<&Value> =
        report["processes"].as_array().expect("a list").iter().map(|process| &process["state"]).collect();
    for state in ["alive", "zombie", "stopped"] {
        assert!(states.contains(&&json!(state)), "{states:?}");
    }
    both_sides(&stage, &host, "pipes", &[], &[]);
    both_sides(&stage, &host, "files", &[], &["--file-locks"]);
    let threads = both_sides(&stage, &host, "threads", &[], &[]);
    let memory = &threads["processes"][0]["memory"];
    assert_eq!(memory["pages"]["bytes"], threads["size"]["memory_pages"], "{memory:#}");
    let statistics = &threads["statistics"];
    assert!(statistics["pages_written"].as_u64() > Some(10), "{statistics:#}");
    let verdict = |name: &str| {
        let rows = threads["host"].as_array().expect("a list");
        rows.iter().find(|row| row["name"] == name).map(|row| row["verdict"].clone())
    };
    for name in ["arch", "cpu_features", "kernel", "criu"] {
        assert_eq!(verdict(name), Some(json!("same")), "{name}: {:#}", threads["host"]);
    }
    host.assert_no_trace();
}

#[test]
fn sockets_with_their_addresses() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let exhibit = |name: &str, flags: &[&str]| both_sides(&stage, &host, "zoo", &["--exhibit", name], flags);
    let report = exhibit("tcp_listener", &[]);
    let [listening] = sockets(&report, "inet")[..] else { panic!("one socket: {report:#}") };
    assert_eq!((&listening["state"], &listening["protocol"]), (&json!("listen"), &json!("tcp")));
    assert!(listening["remote"].is_null() && !listening["local"].is_null(), "{listening}");
    let report = exhibit("tcp_connection_within", &["--tcp-established"]);
    let tcp = sockets(&report, "inet");
    let ends: Vec<_> = tcp.iter().filter(|socket| socket["state"] == "established").collect();
    let [one, other] = ends[..] else { panic!("two ends: {tcp:?}") };
    assert!(one["local"] != one["remote"] && !one["local"].is_null(), "{one}");
    assert_eq!((&one["local"], &one["remote"]), (&other["remote"], &other["local"]));
    let report = exhibit("unix_peers_in_two_processes", &[]);
    let unix = sockets(&report, "unix");
    let inodes: Vec<&Value> = unix.iter().map(|socket| &socket["inode"]).collect();
    let peers: Vec<&Value> =
        unix.iter().map(|socket| &socket["peer"]).filter(|peer| !peer.is_null()).collect();
    assert!(peers.len() >= 2 && peers.iter().all(|peer| inodes.contains(peer)), "{unix:?}");
    let report = exhibit("unix_abstract_name", &[]);
    let named = sockets(&report, "unix")
        .iter()
        .any(|socket| socket["local"].as_str().is_some_and(|name| name.starts_with('@') && name.len() > 1));
    assert!(named, "{report:#}");
    host.assert_no_trace();
}

#[test]
fn people_see_a_tree_and_secrets_only_when_they_ask() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "pipes", &[]).edit(|config| {
        config["process"]["env"].as_array_mut().expect("a list").push(json!("TOKEN=not for everybody"));
    });
    let container = host.run_detached(&stage.id("web"), &bundle);
    let archive = stage.path("web.tar.zst");
    container.checkpoint(&["--export", &archive]);
    let looks =
        [&["--tree"][..], &["--files"], &["--sockets"], &["--mounts"], &["--memory"], &["--json"], &[]];
    for flags in looks {
        let text = host.migrate(&[&["inspect"], flags, &[&archive]].concat()).succeeded();
        assert!(!text.contains("not for everybody"), "{flags:?}: {text}");
    }
    let text = host.migrate(&["inspect", &archive]).succeeded();
    for part in
        [container.id(), "\n1 workload", "/workload pipes --status", "frozen at", "nothing known differs"]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let text = host.migrate(&["inspect", "--env", &archive]).succeeded();
    assert!(text.contains("\n  TOKEN=not for everybody\n"), "{text}");
    let processes = inspected(&host, &["--env", &archive])["processes"][0]["environment"].clone();
    assert!(processes.as_array().expect("asked for").contains(&json!("TOKEN=not for everybody")));
    let text = host.migrate(&["verify", &archive]).succeeded();
    assert!(
        text.contains("every digest agrees") && text.contains("the images of 2 processes are complete"),
        "{text}"
    );
    // What is no archive is refused as by restore.
    let size = fs::metadata(&archive).expect("stat").len();
    fs::File::options().write(true).open(&archive).and_then(|file| file.set_len(size / 2)).expect("truncate");
    host.migrate(&["inspect", &archive]).failed(3, &["truncated"]);
    host.migrate(&["verify", &archive]).failed(3, &["truncated"]);
    host.migrate(&["inspect", &stage.path("nothing")]).failed(1, &["no such file or directory"]);
    bundle.remove();
    host.assert_no_trace();
}

/// Two checkpoints of one container, between which it has ticked and a process of it was started.
#[test]
fn two_checkpoints_are_compared_and_the_older_is_pruned() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (bundle, container) = host.run_small(&stage.id("c"));
    let archives = host.path("archives");
    fs::create_dir(&archives).expect("mkdir");
    let [first, second] = ["1.tar.zst", "2.tar.zst"].map(|name| format!("{archives}/{name}"));
    container.checkpoint(&["--leave-running", "--export", &first]);
    container.goes_on(&container.reports());
    container.checkpoint(&["--leave-running", "--export", &second]);
    assert_eq!(host.migrate(&["diff", &first, &first]).succeeded(), "nothing has changed\n");
    let text = host.migrate(&["diff", "--json", &first, &second]).succeeded();
    let found: Value = serde_json::from_str(&text).expect("JSON");
    let pages = &found["changed"][0]["pages"];
    let number = |name: &str| pages[name].as_u64().expect("a number");
    // It holds a megabyte that stays as it is, and counts.
    assert!(number("changed") >= 1 && number("same") >= 256, "{found:#}");
    assert_eq!((&found["added"], &found["gone"]), (&json!([]), &json!([])));
    let listed = |args: &[&str]| -> Vec<String> {
        let text = host.migrate(&[&["archives"], args, &[&archives]].concat()).succeeded();
        let found: Value = serde_json::from_str(&text).expect("JSON");
        let list = found["archives"].as_array().expect("a list").iter();
        list.map(|archive| archive["path"].as_str().expect("a path").to_owned()).collect()
    };
    assert_eq!(listed(&["list", "--json"]), [second.clone(), first.clone()]);
    assert_eq!(listed(&["prune", "--json", "--keep", "1", "--dry-run"]), std::slice::from_ref(&first));
    assert!(fs::exists(&first).expect("look"), "nothing is removed");
    assert_eq!(listed(&["prune", "--json", "--keep", "1"]), [first]);
    assert_eq!(listed(&["list", "--json"]), [second]);
    host.migrate(&["archives", "prune", &archives]).failed(1, &["no limit"]);
    fs::remove_dir_all(&archives).expect("remove");
    container.end();
    bundle.remove();
    host.assert_no_trace();
}

#[test]
fn an_archive_of_podman() {
    let Some(stage) = Stage::set(&[Need::Podman, Need::Runc, Need::Criu]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    podman.background("c", &["--runtime", "runc"], "sleep 100000 & while :; do sleep 1; done");
    let archive = stage.path("c.tar");
    podman.podman(&["container", "checkpoint", "--compress", "none", "--export", &archive, "c"]).succeeded();
    let report = inspected(&host, &[&archive]);
    assert_eq!(report["problems"], json!([]), "{report:#}");
    let header = &report["checkpoint"];
    assert_eq!((&header["engine"], &header["name"]), (&json!("podman"), &json!("c")));
    assert_eq!(header["compression"], "none");
    assert!(header["image"].as_str().is_some_and(|image| image.contains(Podman::IMAGE)), "{header:#}");
    let processes = report["processes"].as_array().expect("a list");
    let lines: Vec<&Value> = processes.iter().map(|process| &process["command_line"]).collect();
    assert!(lines.contains(&&json!(["sleep", "100000"])), "{lines:?}");
    let text = host.migrate(&["verify", &archive]).succeeded();
    assert!(text.contains("podman writes no digests to compare"), "{text}");
    podman.end();
}
