// SPDX-License-Identifier: Apache-2.0
//! Cgroups and limits across a checkpoint: set when the processes are there, wherever the restored container lies.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use criu_tests::{Bundle, Container, Host, Need, Output, Stage};
use serde_json::json;

const GENERAL: i32 = 1;
const MIB: u64 = 1 << 20;

fn value(host: &Host, id: &str, v1: &str, v2: &str) -> String {
    host.cgroup_value(id, v1, v2)
}

fn memory_limit(host: &Host, id: &str) -> String {
    value(host, id, "memory.limit_in_bytes", "memory.max")
}

/// Restores from a directory of images under another id and with this bundle.
fn restored<'h>(host: &'h Host, id: &str, images: &str, bundle: &Bundle) -> Container<'h> {
    host.migrate_detached(&["restore", "-d", "--image-path", images, "-b", &bundle.path(), id]);
    host.container(id, &bundle.rootfs())
}

/// With these limits in force CRIU could not even start: it is one task too many, and slow.
#[test]
fn limits_that_a_restore_could_not_live_under_are_set_before_the_processes_run() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "8388608"]).edit(|config| {
        config["linux"]["resources"]["pids"] = json!({"limit": 1});
        config["linux"]["resources"]["memory"] = json!({"limit": 64 * MIB});
        config["linux"]["resources"]["cpu"] = json!({"quota": 50000, "period": 100_000, "shares": 512});
    });
    let container = host.run_detached(&stage.id("tight"), &bundle);
    // As tight as the running program lets it be.
    let used: u64 =
        value(&host, container.id(), "memory.usage_in_bytes", "memory.current").parse().expect("bytes");
    let limit = (used / MIB + 2) * MIB;
    host.migrate(&["update", "--memory", &limit.to_string(), container.id()]).succeeded();
    let before = container.reports();
    let archive = stage.path("tight.tar");
    container.checkpoint(&["--export", &archive]);
    let id = stage.id("again");
    host.migrate_detached(&["restore", "-d", "--import", &archive, &id]);
    let again = host.imported(&id);
    assert_eq!(memory_limit(&host, &id), limit.to_string());
    assert_eq!(value(&host, &id, "pids.max", "pids.max"), "1");
    let quota = value(&host, &id, "cpu.cfs_quota_us", "cpu.max");
    assert_eq!(quota.split(' ').next(), Some("50000"));
    again.goes_on(&before);
    again.end();
    host.assert_no_trace();
}

#[test]
fn a_limit_below_what_the_processes_use_fails_the_restore_and_a_higher_one_does_not() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let limited = |bundle: Bundle, limit: u64| {
        bundle.edit(|config| config["linux"]["resources"]["memory"] = json!({"limit": limit}))
    };
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "33554432"]);
    let container = host.run_detached(&stage.id("large"), &bundle);
    let before = container.reports();
    let images = host.path("images");
    container.checkpoint(&["--image-path", &images]);
    let bundle = limited(bundle, 16 * MIB);
    let id = stage.id("again");
    let args = ["restore", "-d", "--image-path", &images, "-b", &bundle.path(), &id];
    let said = host.migrate_command(&args).without_stdio().run();
    assert_eq!(said.code, GENERAL);
    let log = fs::read_to_string(host.path("migrate.log")).expect("the log");
    assert!(log.contains("linux.resources.memory.limit is 16777216"), "{log}");
    host.assert_no_trace();

    let bundle = limited(bundle, 128 * MIB);
    let again = restored(&host, &id, &images, &bundle);
    again.goes_on(&before);
    assert_eq!(memory_limit(&host, &id), (128 * MIB).to_string());
    again.end();
    host.assert_no_trace();
}

#[test]
fn two_copies_of_one_checkpoint_live_side_by_side() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = host.run_small(&stage.id("first"));
    let before = container.reports();
    let archive = stage.path("copies.tar");
    container.checkpoint(&["--export", &archive]);
    let ids = ["one", "two", "three"].map(|name| stage.id(name));
    let copies = ids.each_ref().map(|id| {
        host.migrate_detached(&["restore", "-d", "--import", &archive, id]);
        host.imported(id)
    });
    for copy in &copies {
        copy.goes_on(&before);
        let own = host.cgroups().into_iter().filter(|group| group.ends_with(copy.id())).count();
        assert!(own > 0, "{} has a cgroup of its own", copy.id());
    }
    // One ends, the others do not notice.
    let [one, two, three] = copies;
    let (two_before, three_before) = (two.reports(), three.reports());
    one.end();
    two.goes_on(&two_before);
    three.goes_on(&three_before);
    two.end();
    three.end();
    host.assert_no_trace();
}

#[test]
fn a_restored_container_is_where_its_configuration_says_now() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let at = |bundle: Bundle, path: &str| {
        let path = path.to_owned();
        bundle.edit(|config| config["linux"]["cgroupsPath"] = json!(path))
    };
    let (first, second) = (stage.id("here"), stage.id("there"));
    let bundle = at(Bundle::of_workload(&host, "tree", &[]), &format!("/{first}/deep"));
    let container = host.run_detached(&stage.id("moved"), &bundle);
    let before = container.reports();
    let images = host.path("images");
    container.checkpoint(&["--image-path", &images]);
    let bundle = at(bundle, &format!("/{second}/deeper/still"));
    let again = restored(&host, container.id(), &images, &bundle);
    again.goes_on(&before);
    let populated = |name: &str| {
        let groups = host.cgroups().into_iter().filter(|group| group.to_string_lossy().contains(name));
        let procs = groups.map(|group| fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default());
        procs.filter(|procs| !procs.is_empty()).count()
    };
    assert_eq!(populated(&first), 0, "nothing is where it was");
    assert!(populated(&second) > 0);
    again.end();
    // Directories above a container's own are whoever's who asked for them.
    for group in host.cgroups().into_iter().rev() {
        fs::remove_dir(&group).expect("remove a directory above the container's");
    }
    host.assert_no_trace();
}

/// Where each process of a container is: hierarchy and number inside, and the place beneath the container's cgroup.
fn places(host: &Host, id: &str) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for group in host.cgroups() {
        let path = group.to_string_lossy().into_owned();
        let Some((above, beneath)) = path.split_once(id) else { continue };
        for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let inside = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            let inside = inside.split_whitespace().next_back().unwrap_or_default().to_owned();
            found.insert((above.to_owned(), inside), beneath.to_owned());
        }
    }
    found
}

/// A setting of a cgroup beneath the container's, in whichever hierarchy has it.
fn beneath(host: &Host, id: &str, place: &str, v1: &str, v2: &str) -> PathBuf {
    let groups = host.cgroups();
    let own = groups.iter().filter(|group| group.to_string_lossy().ends_with(&format!("{id}/{place}")));
    let mut files = own.flat_map(|group| [group.join(v1), group.join(v2)]);
    files
        .find(|file| file.exists())
        .unwrap_or_else(|| panic!("{place} has no {v1} and no {v2} in {groups:?}"))
}

/// Makes these cgroups beneath the container's own, and puts its first process into the first of them and all others into the last.
fn part(host: &Host, id: &str, places: &[&str]) {
    let [first, .., last] = places else { panic!("two or more") };
    for own in host.cgroups().into_iter().filter(|group| group.ends_with(id)) {
        let write = |path: PathBuf, value: &str| {
            fs::write(&path, value).unwrap_or_else(|e| panic!("{} <- {value}: {e}", path.display()));
        };
        for place in places {
            let group = own.join(place);
            fs::create_dir(&group).expect("make a cgroup");
            for file in
                ["cpuset.cpus", "cpuset.mems"].iter().filter(|_| !own.join("cgroup.controllers").exists())
            {
                if let Ok(value) = fs::read_to_string(own.join(file)) {
                    write(group.join(file), value.trim());
                }
            }
        }
        for pid in fs::read_to_string(own.join("cgroup.procs")).expect("read the members").lines() {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let is_first = status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"));
            write(own.join(if is_first { first } else { last }).join("cgroup.procs"), pid);
        }
    }
}

/// Does what systemd in a container does: divides its own cgroup, with the first process in one and the rest in another.
fn divide(host: &Host, id: &str) {
    part(host, id, &["first", "others", "others/leaf"]);
    for own in host.cgroups().into_iter().filter(|group| group.ends_with(id)) {
        let controllers = fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
        for controller in
            ["pids", "memory"].iter().filter(|c| controllers.split_whitespace().any(|h| h == **c))
        {
            let control = own.join("cgroup.subtree_control");
            fs::write(&control, format!("+{controller}")).expect("give a controller away");
        }
    }
    fs::write(beneath(host, id, "others", "pids.max", "pids.max"), "77").expect("limit the processes");
    let memory = beneath(host, id, "others", "memory.limit_in_bytes", "memory.max");
    fs::write(memory, (256 * MIB).to_string()).expect("limit the memory");
}

fn is_divided(host: &Host, id: &str) {
    let read = |v1: &str, v2: &str| {
        fs::read_to_string(beneath(host, id, "others", v1, v2)).expect("read a limit").trim().to_owned()
    };
    assert_eq!(read("pids.max", "pids.max"), "77");
    assert_eq!(read("memory.limit_in_bytes", "memory.max"), (256 * MIB).to_string());
}

#[test]
fn cgroups_that_the_container_made_come_back_with_their_members_and_limits() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "tree", &[]).with_writable_cgroups();
    let container = host.run_detached(&stage.id("divided"), &bundle);
    divide(&host, container.id());
    let before = container.reports();
    let divided = places(&host, container.id());
    assert!(divided.values().any(|place| place == "/first"), "{divided:?}");
    assert!(divided.values().filter(|place| *place == "/others/leaf").count() >= 4, "{divided:?}");

    let images = host.path("images");
    container.checkpoint(&["--image-path", &images]);
    host.assert_no_trace();
    container.restore(&images, &bundle);
    let before = container.goes_on(&before);
    assert_eq!(places(&host, container.id()), divided);
    is_divided(&host, container.id());
    // A further process finds its place, and the container can go on as before.
    host.migrate(&["exec", container.id(), "/workload", "exit"]).succeeded();

    // Through an archive, under another name.
    let archive = stage.path("divided.tar");
    container.checkpoint(&["--export", &archive]);
    host.assert_no_trace();
    let id = stage.id("again");
    host.migrate_detached(&["restore", "-d", "--import", &archive, &id]);
    let again = host.imported(&id);
    again.goes_on(&before);
    let strip = |places: BTreeMap<(String, String), String>| places.into_values().collect::<Vec<_>>();
    assert_eq!(strip(places(&host, &id)), strip(divided));
    is_divided(&host, &id);
    again.end();
    host.assert_no_trace();
}

#[test]
fn a_process_in_a_cgroup_that_the_container_has_frozen_is_told() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "tree", &[]).with_writable_cgroups();
    let container = host.run_detached(&stage.id("frozen"), &bundle);
    divide(&host, container.id());
    let freezer = beneath(&host, container.id(), "others/leaf", "freezer.state", "cgroup.freeze");
    let is_v1 = freezer.ends_with("freezer.state");
    fs::write(&freezer, if is_v1 { "FROZEN" } else { "1" }).expect("freeze");
    let images = host.path("images");
    let output = host.migrate(&["checkpoint", "--image-path", &images, container.id()]);
    output.failed(GENERAL, &["the container has frozen its own cgroup", "others/leaf"]);
    fs::write(&freezer, if is_v1 { "THAWED" } else { "0" }).expect("thaw");
    let before = container.reports();
    container.checkpoint(&["--image-path", &images]);
    container.restore(&images, &bundle);
    container.goes_on(&before);
    container.end();
    host.assert_no_trace();
}

/// Checkpoints the container in this mode of CRIU's, to a directory named after it, and restores it from there in another.
fn in_modes(host: &Host, container: &Container<'_>, bundle: &Bundle, [dump, restore]: [&str; 2]) -> Output {
    let (images, id, path) = (host.path(dump), container.id(), bundle.path());
    let flag = "--manage-cgroups-mode";
    host.migrate(&["checkpoint", flag, dump, "--image-path", &images, id]).succeeded();
    host.assert_no_trace();
    let args = ["restore", "-d", flag, restore, "--image-path", &images, "-b", &path, id];
    host.migrate_command(&args).without_stdio().run()
}

fn cgroup_namespace(host: &Host, container: &Container<'_>) -> PathBuf {
    let link = host.outside(&format!("/proc/{}/ns/cgroup", container.state()["pid"]));
    fs::read_link(link).expect("read the name of the cgroup namespace")
}

/// Each puts it where its configuration says, with the limits that this says.
#[test]
fn every_mode_of_criu_brings_a_container_back() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let limited = |bundle: Bundle, limit: u64| {
        bundle.edit(|config| config["linux"]["resources"]["pids"] = json!({"limit": limit}))
    };
    let own = fs::read_link("/proc/self/ns/cgroup").expect("read the name of the cgroup namespace");
    for modes in [["ignore"; 2], ["soft"; 2], ["full"; 2], ["ignore", "soft"], ["full", "ignore"]] {
        let name = modes.join("-");
        let bundle = Bundle::new(&host, &name, &["tree", "--status", Bundle::STATUS]).with_writable_cgroups();
        let bundle = limited(bundle, 40);
        let container = host.run_detached(&stage.id(&name), &bundle);
        let before = container.reports();
        let bundle = limited(bundle, 50);
        let output = in_modes(&host, &container, &bundle, modes);
        let log = fs::read_to_string(host.path("migrate.log")).expect("the log");
        assert_eq!(output.code, 0, "{name}: {log}");
        container.goes_on(&before);
        assert_eq!(value(&host, container.id(), "pids.max", "pids.max"), "50", "{name}");
        let places = places(&host, container.id());
        assert!(places.len() >= 5 && places.values().all(String::is_empty), "{name}: {places:?}");
        assert_ne!(cgroup_namespace(&host, &container), own, "{name}: it has one of its own");
        container.end();
        host.assert_no_trace();
        fs::remove_dir_all(host.path(modes[0])).expect("remove the images");
    }
}

/// CRIU knows those that have members.
#[test]
fn criu_brings_back_cgroups_that_the_container_made() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    for mode in ["soft", "full"] {
        let bundle = Bundle::new(&host, mode, &["tree", "--status", Bundle::STATUS]).with_writable_cgroups();
        let container = host.run_detached(&stage.id(mode), &bundle);
        part(&host, container.id(), &["first", "others"]);
        let before = container.reports();
        let parted = places(&host, container.id());
        let output = in_modes(&host, &container, &bundle, [mode; 2]);
        let log = fs::read_to_string(host.path("migrate.log")).expect("the log");
        assert_eq!(output.code, 0, "{mode}: {log}");
        container.goes_on(&before);
        assert_eq!(places(&host, container.id()), parted, "{mode}");
        assert!(parted.values().any(|place| place == "/others"), "{parted:?}");
        container.end();
        host.assert_no_trace();
    }
}

/// There is none to be restored into but the one that was made for the container.
#[test]
fn the_strict_mode_of_criu_is_refused_with_the_way_out() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "tree", &[]);
    let container = host.run_detached(&stage.id("strict"), &bundle);
    let before = container.reports();
    let output = in_modes(&host, &container, &bundle, ["strict"; 2]);
    let log = fs::read_to_string(host.path("migrate.log")).expect("the log");
    assert_eq!(output.code, 5, "{log}");
    assert!(log.contains("the cgroup of the checkpoint exists already"), "{log}");
    host.assert_no_trace();
    let again = restored(&host, container.id(), &host.path("strict"), &bundle);
    again.goes_on(&before);
    again.end();
    host.assert_no_trace();
}
