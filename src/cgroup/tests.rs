// SPDX-License-Identifier: Apache-2.0
//! The life of a cgroup: on this host as root, and, for v2, over a directory that plays the unified hierarchy.

use std::io::{BufRead as _, BufReader};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::spec::oci::LinuxResources;

use super::*;
use crate::ErrorKind;

/// A cgroup of a test's own; killed and removed when the test ends, however it ends.
struct Guard(Cgroup);

impl Guard {
    fn new(cgroup: Cgroup) -> Self {
        Self(cgroup)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let gone = self.0.kill_all().and_then(|()| self.0.destroy());
        if !std::thread::panicking() {
            gone.expect("the test's cgroup can be removed");
        }
    }
}

/// A child that waits for the end of its standard input; killed and reaped at the end.
struct Waiter(Child);

impl Waiter {
    fn spawn() -> Self {
        Self(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat runs"))
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("a pid")
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("migrate-test-{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn host() -> Hierarchies {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root: it makes cgroups");
    Hierarchies::detect().expect("this host has cgroups")
}

fn planned(name: &str) -> Guard {
    Guard::new(Cgroup::plan(&host(), None, &unique(name)).expect("a valid id"))
}

fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).expect("valid resources")
}

fn read(cgroup: &Cgroup, controller: &str, file: &str) -> String {
    let path = cgroup.path_of(controller).expect("mounted").join(file);
    std::fs::read_to_string(&path).expect("readable").trim().to_owned()
}

#[test]
fn a_container_s_cgroup_from_creation_to_removal() {
    let hierarchies = host();
    let guard = planned("life");
    let cgroup = &guard.0;
    cgroup.create().expect("created");
    let paths: Vec<PathBuf> = cgroup.state().paths.into_values().collect();
    assert!(paths.len() >= hierarchies.iter().count());
    assert!(paths.iter().all(|path| path.is_dir()), "{paths:?}");

    cgroup.set(&resources(r#"{"pids":{"limit":20},"memory":{"limit":67108864}}"#)).expect("limited");
    assert_eq!(read(cgroup, "pids", "pids.max"), "20");

    let child = Waiter::spawn();
    cgroup.apply(child.pid()).expect("joined");
    assert_eq!(cgroup.pids().expect("readable"), [child.pid()]);
    for (hierarchy, line) in hierarchies.iter().zip(
        self_cgroups(child.pid())
            .expect("alive")
            .iter()
            .filter(|l| hierarchies.iter().any(|h| h.controllers() == l.controllers)),
    ) {
        assert!(line.path.to_string_lossy().contains("migrate-test-life"), "{hierarchy}: {line:?}");
    }

    assert_eq!(cgroup.freezer_state().expect("readable"), FreezerState::Thawed);
    cgroup.freeze().expect("frozen");
    assert_eq!(cgroup.freezer_state().expect("readable"), FreezerState::Frozen);
    let again = Cgroup::plan(&hierarchies, Some(&PathBuf::from("/").join(&cgroup.nodes[0].relative)), "x");
    let error = again.expect("valid").create().expect_err("populated");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains(&child.pid().to_string()), "{error}");
    cgroup.thaw().expect("thawed");
    assert_eq!(cgroup.freezer_state().expect("readable"), FreezerState::Thawed);

    cgroup.freeze().expect("frozen");
    cgroup.kill_all().expect("a frozen child dies, too");
    assert!(cgroup.all_pids().expect("readable").is_empty());
    cgroup.destroy().expect("removed");
    assert!(paths.iter().all(|path| !path.exists()), "{paths:?}");
    assert!(!cgroup.exists().expect("readable"));
    cgroup.destroy().expect("gone already");
    cgroup.kill_all().expect("nobody there");
}

#[test]
fn v1_limits_arrive_in_either_direction() {
    let guard = planned("limits");
    let cgroup = &guard.0;
    cgroup.create().expect("created");
    if cgroup.v1_node("memory").is_none() || cgroup.v1_node("cpu").is_none() {
        panic!("this test needs the v1 controllers memory and cpu");
    }
    for (memory, swap) in [(64, 128), (256, 256), (32, 48), (512, 1024)] {
        let (memory, swap) = (memory << 20, swap << 20);
        let json = format!(r#"{{"memory":{{"limit":{memory},"swap":{swap}}}}}"#);
        cgroup.set(&resources(&json)).expect("limited");
        assert_eq!(read(cgroup, "memory", "memory.limit_in_bytes"), memory.to_string());
        assert_eq!(read(cgroup, "memory", "memory.memsw.limit_in_bytes"), swap.to_string());
    }
    cgroup.set(&resources(r#"{"memory":{"limit":-1}}"#)).expect("unlimited");
    for (quota, period) in [(50_000, 100_000), (10_000, 20_000), (900_000, 1_000_000), (5_000, 50_000)] {
        let json =
            format!(r#"{{"cpu":{{"quota":{quota},"period":{period},"shares":512,"cpus":"0","mems":"0"}}}}"#);
        cgroup.set(&resources(&json)).expect("limited");
        assert_eq!(read(cgroup, "cpu", "cpu.cfs_quota_us"), quota.to_string());
        assert_eq!(read(cgroup, "cpu", "cpu.cfs_period_us"), period.to_string());
    }
    assert_eq!(read(cgroup, "cpuset", "cpuset.cpus"), "0");
    let error = cgroup.set(&resources(r#"{"cpu":{"cpus":"4090"}}"#)).expect_err("no such processor");
    assert_eq!(error.to_string(), "set linux.resources.cpu.cpus");
    let error = cgroup.set(&resources(r#"{"rdma":{"m0":{"hcaHandles":1}}}"#)).expect_err("no rdma here");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn v1_devices_are_denied_except_the_listed() {
    let guard = planned("devices");
    let cgroup = &guard.0;
    cgroup.create().expect("created");
    assert!(cgroup.v1_node("devices").is_some(), "this test needs the v1 controller devices");
    let r = resources(
        r#"{"devices":[{"allow":false,"access":"rwm"},
                       {"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]}"#,
    );
    for _ in 0..2 {
        cgroup.restrict_devices(r.devices().as_deref().unwrap_or_default()).expect("restricted");
        let list = read(cgroup, "devices", "devices.list");
        assert!(list.contains("c 10:229 rw\n") && list.contains("c 1:3 rwm"), "{list}");
        assert!(!list.contains("a *:*"), "{list}");
    }
    assert!(cgroup.unenforced(&r).expect("readable").is_empty());
}

#[test]
fn a_process_lets_itself_in_before_it_runs() {
    let guard = planned("entry");
    let cgroup = &guard.0;
    cgroup.create().expect("created");
    let entries = cgroup.entry_fds().expect("open");
    let before = self_cgroups(std::process::id().try_into().expect("a pid")).expect("readable");
    let child = Waiter(enter_then_cat(&entries));
    let after = self_cgroups(child.pid()).expect("alive");
    for entry in &entries {
        let path = after.iter().find(|l| l.controller_list() == entry.hierarchy).map(|l| l.path.clone());
        assert!(
            path.is_some_and(|p| p.to_string_lossy().contains("migrate-test-entry")),
            "{}",
            entry.hierarchy
        );
    }
    let v2 =
        |lines: &[ProcessCgroup]| lines.iter().find(|l| l.controllers.is_empty()).map(|l| l.path.clone());
    assert_eq!(v2(&before), v2(&after), "the unified hierarchy is entered by clone3");
}

/// A shell that writes `0` to each file, as a single thread does, and becomes a waiting `cat`.
fn enter_then_cat(entries: &[EntryFd]) -> Child {
    let own = std::process::id();
    let writes: Vec<String> =
        entries.iter().map(|e| format!("printf 0 >/proc/{own}/fd/{}", e.fd.as_raw_fd())).collect();
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{} && echo in && exec cat", writes.join(" && ")));
    spawn_and_wait_for_a_line(&mut shell)
}

/// The child has written its first line when this returns.
fn spawn_and_wait_for_a_line(command: &mut Command) -> Child {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("a line");
    assert_eq!(line, "in\n");
    child
}

#[test]
fn processes_that_fork_all_the_time_are_frozen_and_killed() {
    let guard = planned("forking");
    let cgroup = &guard.0;
    cgroup.create().expect("created");
    let procs = cgroup.freezer_path().expect("a freezer").join("cgroup.procs");
    // In a pid namespace, so that no orphan outlives it; its parent stays outside and reaps.
    let script =
        format!("echo 0 >{} && echo in && while :; do (:) & (:) & (:) & wait; done", procs.display());
    let parent = Waiter(spawn_and_wait_for_a_line(
        Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "sh", "-c", &script])
            .stderr(Stdio::null()),
    ));
    for _ in 0..20 {
        cgroup.freeze().expect("frozen");
        let frozen = cgroup.all_pids().expect("readable");
        assert!(!frozen.is_empty() && !frozen.contains(&parent.pid()), "{frozen:?}");
        assert_eq!(frozen, cgroup.all_pids().expect("readable"), "nobody forks or exits while frozen");
        cgroup.thaw().expect("thawed");
    }
    cgroup.kill_all().expect("killed");
    cgroup.destroy().expect("removed");
}

#[test]
fn sub_cgroups_of_the_container_are_killed_and_removed_with_it() {
    let guard = planned("nested");
    let cgroup = &guard.0;
    cgroup.create().expect("created");
    let freezer = cgroup.freezer_path().expect("a freezer");
    let mut deep = freezer.clone();
    for level in 0..40 {
        deep.push(format!("n{level}"));
        std::fs::create_dir(&deep).expect("mkdir");
        std::fs::create_dir(deep.with_file_name(format!("side{level}"))).expect("mkdir");
    }
    let child = Waiter::spawn();
    std::fs::write(deep.join("cgroup.procs"), child.pid().to_string()).expect("moved");
    assert!(cgroup.pids().expect("readable").is_empty());
    assert_eq!(cgroup.all_pids().expect("readable"), [child.pid()]);
    let error = cgroup.destroy().expect_err("somebody lives there");
    assert!(error.to_string().contains(&format!("holds process {}", child.pid())), "{error}");
    cgroup.kill_all().expect("killed");
    cgroup.destroy().expect("removed");
    assert!(!freezer.exists());
}

#[test]
fn parents_of_an_absolute_path_stay_and_an_empty_cgroup_is_taken_over() {
    let top = unique("parent");
    let path = PathBuf::from(format!("/{top}/a/b"));
    let guard = Guard::new(Cgroup::plan(&host(), Some(&path), "x").expect("valid"));
    let _parents =
        Guard::new(Cgroup::plan(&host(), Some(Path::new(&format!("/{top}"))), "x").expect("valid"));
    let cgroup = &guard.0;
    cgroup.create().expect("created");
    cgroup.create().expect("taken over: nobody is in it");
    let directory = cgroup.freezer_path().expect("a freezer");
    cgroup.freeze().expect("frozen, empty as it is");
    assert_eq!(cgroup.create().expect_err("frozen").kind(), ErrorKind::AlreadyExists);
    cgroup.destroy().expect("removed");
    assert!(!directory.exists());
    assert!(directory.parent().is_some_and(Path::is_dir));
}

#[test]
fn a_vanished_process_and_our_own_are_told() {
    let guard = planned("self");
    let cgroup = &guard.0;
    cgroup.create().expect("created");
    let mut gone = Waiter::spawn();
    gone.0.kill().expect("killed");
    gone.0.wait().expect("reaped");
    let error = cgroup.apply(gone.pid()).expect_err("no such process");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.is_errno(libc::ESRCH));
    assert!(error.to_string().starts_with("put process "), "{error}");
    cgroup.destroy().expect("removed");
    assert_eq!(cgroup.apply(1).expect_err("no cgroup").kind(), ErrorKind::NotFound);
    assert_eq!(cgroup.pids().expect_err("no cgroup").kind(), ErrorKind::NotFound);
}

#[test]
fn what_is_saved_can_be_loaded_and_nothing_else() {
    let hierarchies = host();
    let cgroup = Cgroup::plan(&hierarchies, Some(Path::new("/a/b")), "x").expect("valid");
    let json = serde_json::to_string(&cgroup.state()).expect("serialisable");
    let state: CgroupState = serde_json::from_str(&json).expect("deserialisable");
    let loaded = Cgroup::from_state(&state, &hierarchies).expect("ours");
    assert_eq!(loaded.state(), cgroup.state());
    assert_eq!(loaded.nodes.len(), cgroup.nodes.len());
    let controller = state.paths.keys().next().expect("one").clone();
    let mountpoint = hierarchies.with_controller(&controller).expect("mounted").mountpoint();
    for path in ["/etc", "relative", "", "/sys/fs/cgroup"].map(PathBuf::from).into_iter().chain([
        mountpoint.to_path_buf(),
        mountpoint.join("../x"),
        mountpoint.join("x/../../y"),
    ]) {
        let paths = [(controller.clone(), path.clone())].into();
        let error =
            Cgroup::from_state(&CgroupState { paths }, &hierarchies).expect_err("not beneath its hierarchy");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{}", path.display());
    }
}

#[test]
fn mounts_follow_the_layout() {
    let mounts = super::hierarchy::tests::HYBRID_MOUNTS;
    let hybrid = Hierarchies::parse(mounts, super::hierarchy::tests::HYBRID_CGROUPS).expect("recorded");
    let CgroupMounts::PerHierarchy(list) =
        Cgroup::plan(&hybrid, None, "web").expect("valid").container_mounts()
    else {
        panic!("a hybrid shows its v1 hierarchies");
    };
    let names: Vec<&str> = list.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["systemd", "freezer", "memory", "cpu"]);
    assert_eq!(list[2].host_path, Path::new("/sys/fs/cgroup/memory/jobs/d302/web"));

    let unified = Hierarchies::parse(super::hierarchy::tests::UNIFIED_MOUNTS, "0::/\n").expect("recorded");
    let cgroup = Cgroup::plan(&unified, None, "web").expect("valid");
    let CgroupMounts::Unified(mount) = cgroup.container_mounts() else { panic!("one mount on v2") };
    assert_eq!(mount.host_path, Path::new("/sys/fs/cgroup/web"));
    assert_eq!(cgroup.freezer_path().as_deref(), Some(Path::new("/sys/fs/cgroup/web")));
    assert_eq!(cgroup.state().paths.keys().collect::<Vec<_>>(), [""]);
}

/// A directory that plays the mount point of a unified hierarchy, with the container's cgroup `/pod/web` in it.
fn fake_v2(leaf_files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
    let temp = tempfile::tempdir().expect("temporary directory");
    let root = temp.path();
    let web = root.join("pod/web");
    std::fs::create_dir_all(&web).expect("mkdir");
    for directory in [root, &root.join("pod")] {
        std::fs::write(directory.join("cgroup.controllers"), "cpu memory pids\n").expect("write");
        std::fs::write(directory.join("cgroup.subtree_control"), "cpu memory\n").expect("write");
    }
    let always =
        [("cgroup.procs", ""), ("cgroup.type", "domain\n"), ("cgroup.freeze", "0\n"), ("cgroup.events", "")];
    for (file, text) in always.iter().chain(leaf_files) {
        std::fs::write(web.join(file), text).expect("write");
    }
    let mountinfo = format!("30 1 0:26 / {} rw - cgroup2 cgroup2 rw\n", root.display());
    let hierarchies = Hierarchies::parse(&mountinfo, "0::/\n").expect("well formed");
    let cgroup = Cgroup::plan(&hierarchies, Some(Path::new("/pod/web")), "web").expect("valid");
    (temp, cgroup)
}

#[test]
fn v2_controllers_are_enabled_down_the_path_and_limits_converted() {
    let (temp, cgroup) = fake_v2(&[
        ("cgroup.controllers", "cpu memory\n"),
        ("cpu.weight", "100\n"),
        ("cpu.max", "max 100000\n"),
        ("memory.max", "max\n"),
        ("memory.current", "4096\n"),
        ("memory.swap.max", "max\n"),
    ]);
    let root = temp.path();
    cgroup.create().expect("an empty cgroup is taken over");
    for directory in ["", "pod"] {
        let control =
            std::fs::read_to_string(root.join(directory).join("cgroup.subtree_control")).expect("read");
        assert_eq!(control, "+pids", "only what was missing is enabled");
    }
    assert!(!root.join("pod/web/cgroup.subtree_control").exists());
    cgroup
        .set(&resources(
            r#"{"memory":{"limit":8192,"swap":12288},"cpu":{"shares":1024,"quota":5000,"period":10000},
                "unified":{"memory.max":"6000"}}"#,
        ))
        .expect("limited");
    for (file, value) in [
        ("memory.max", "6000"),
        ("memory.swap.max", "4096"),
        ("cpu.weight", "100"),
        ("cpu.max", "5000 10000"),
    ] {
        assert_eq!(read(&cgroup, "", file), value, "{file}");
    }
    let error =
        cgroup.set(&resources(r#"{"unified":{"hugetlb.2MB.max":"1"}}"#)).expect_err("no such controller");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("hugetlb"), "{error}");
    assert!(cgroup.entry_fds().expect("no v1").is_empty());
    assert!(cgroup.clone_into_fd().expect("open").is_some());
    cgroup.apply(42).expect("a file like another");
    assert_eq!(cgroup.pids().expect("readable"), [42]);
    let error = cgroup.create().expect_err("populated");
    assert!(error.to_string().contains("holds process 42"), "{error}");
}

#[test]
fn in_a_v2_threaded_subtree_the_cgroup_is_a_threaded_one() {
    for (kind, after) in
        [("domain invalid\n", "threaded"), ("threaded\n", "threaded\n"), ("domain\n", "domain\n")]
    {
        let (temp, cgroup) = fake_v2(&[("cgroup.type", kind)]);
        cgroup.create().expect("made");
        let now = std::fs::read_to_string(temp.path().join("pod/web/cgroup.type")).expect("read");
        assert_eq!(now, after, "{kind}");
    }
}

#[test]
fn a_delegated_cgroup_belongs_to_its_user_but_for_its_limits() {
    use std::os::unix::fs::MetadataExt as _;
    let guard = planned("delegated");
    guard.0.create().expect("created");
    let Some(directory) = guard.0.path_of("") else { return };
    guard.0.delegate(54_321).expect("given away");
    let owner = |name: &str| std::fs::metadata(directory.join(name)).expect("stat").uid();
    for name in ["", "cgroup.procs", "cgroup.subtree_control"] {
        assert_eq!(owner(name), 54_321, "{name}");
    }
    assert_eq!(owner("cgroup.max.depth"), 0);
}

#[test]
fn a_process_that_moved_down_is_found_and_a_place_beneath_must_exist() {
    let hierarchies = host();
    let name = unique("moved");
    let cgroup = Cgroup::plan(&hierarchies, Some(Path::new(&format!("/{name}"))), &name).expect("a plan");
    let guard = Guard::new(cgroup);
    let cgroup = &guard.0;
    cgroup.create().expect("create");
    let process = Waiter::spawn();
    cgroup.apply(process.pid()).expect("apply");
    assert_eq!(cgroup.where_process_is(process.pid()).expect("it lives"), None);
    if let Some(unified) = cgroup.clone_into_fd().expect("it exists").and_then(|_| cgroup.path_of("")) {
        std::fs::create_dir(unified.join("inner")).expect("mkdir");
        std::fs::write(unified.join("inner/cgroup.procs"), process.pid().to_string()).expect("move");
        let moved = cgroup.where_process_is(process.pid()).expect("it lives").expect("elsewhere");
        assert_eq!(moved.path_of(""), Some(unified.join("inner")));
    }
    let places = SubCgroups::parse(&["pids:none".to_owned()]).expect("a place");
    let error = cgroup.beneath(&places).expect_err("there is none");
    assert!(
        error.chain().contains(" adding pid ") || error.chain().contains("unknown controller"),
        "{}",
        error.chain()
    );
    assert_eq!(cgroup.beneath(&SubCgroups::default()).expect("its own place"), *cgroup);
}

/// Waits for the descriptor and looks, at most for a while.
fn next_news(watch: &mut MemoryWatch) -> MemoryNews {
    use std::os::fd::AsFd as _;
    let interest = watch.interest();
    let mut fds = [nix::poll::PollFd::new(watch.as_fd(), interest)];
    nix::poll::poll(&mut fds, nix::poll::PollTimeout::from(20_000_u16)).expect("poll");
    watch.news().expect("readable")
}

#[test]
fn pressure_is_told_while_memory_is_reclaimed_and_removal_ends_a_watch() {
    let guard = planned("pressure");
    let cgroup = &guard.0;
    cgroup.create().expect("created");
    cgroup.set(&resources(r#"{"memory":{"limit":16777216}}"#)).expect("limited");
    let mut pressure = cgroup.watch_memory_pressure(PressureLevel::Low).expect("watched");
    let mut oom = cgroup.watch_oom().expect("watched");
    assert_eq!(pressure.news().expect("readable"), MemoryNews::None);
    assert_eq!(oom.news().expect("readable"), MemoryNews::None);

    // Pages of a file four times as large as the limit have to be reclaimed.
    let directory = tempfile::tempdir().expect("temporary directory");
    let script = format!("read go; dd if=/dev/zero of={}/x bs=1M count=64", directory.path().display());
    let mut writer = Command::new("sh");
    writer.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut writer = Waiter(writer.spawn().expect("sh runs"));
    cgroup.apply(writer.pid()).expect("joined");
    drop(writer.0.stdin.take());
    assert!(matches!(next_news(&mut pressure), MemoryNews::Happened(1..)));
    assert!(writer.0.wait().expect("waited for").success());

    cgroup.destroy().expect("removed");
    assert_eq!(next_news(&mut oom), MemoryNews::Ended);
}

#[test]
fn statistics_come_from_every_hierarchy() {
    let guard = planned("stats");
    let cgroup = &guard.0;
    cgroup.create().expect("created");
    cgroup.set(&resources(r#"{"pids":{"limit":20},"memory":{"limit":67108864}}"#)).expect("limited");
    let child = Waiter::spawn();
    cgroup.apply(child.pid()).expect("joined");
    let stats = cgroup.stats().expect("readable");
    assert_eq!((stats.pids.current, stats.pids.limit), (1, 20));
    assert_eq!(stats.memory.usage.limit, 67_108_864);
    assert!(!stats.memory.raw.is_empty());
    drop(child);
    cgroup.destroy().expect("removed");
    assert_eq!(cgroup.stats().expect_err("gone").kind(), ErrorKind::NotFound);
}

/// A shell in the cgroup that opens these devices and prints those that it may not.
fn refused_devices(cgroup: &Cgroup, devices: &[&str]) -> Vec<String> {
    let script = format!("read go; for d in {}; do (: <$d) 2>/dev/null || echo $d; done", devices.join(" "));
    let mut shell = Command::new("sh");
    let shell = shell.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut shell = Waiter(shell.spawn().expect("sh runs"));
    cgroup.apply(shell.pid()).expect("joined");
    drop(shell.0.stdin.take());
    let output = BufReader::new(shell.0.stdout.take().expect("a pipe"));
    output.lines().map(|line| line.expect("text")).collect()
}

#[test]
fn v2_devices_are_denied_except_the_listed() {
    let guard = planned("program");
    guard.0.create().expect("created");
    // On a hybrid the controller of v1 is asked first; the unified tree can do it as well.
    let nodes = guard.0.nodes.iter().filter(|node| node.version == Version::V2).cloned().collect();
    let cgroup = Cgroup { nodes, unit: None };
    if cgroup.nodes.is_empty() {
        return;
    }
    let directory = tempfile::tempdir().expect("temporary directory");
    let node = |name: &str, major: u64, minor: u64| {
        use nix::sys::stat::{Mode, SFlag, makedev, mknod};
        let path = directory.path().join(name);
        mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(major, minor)).expect("mknod");
        path.display().to_string()
    };
    let (null, zero, kmsg) = (node("null", 1, 3), node("zero", 1, 5), node("kmsg", 1, 11));
    let devices = [null.as_str(), &zero, &kmsg];
    let restrict = |rules: &str| {
        let r = resources(&format!(r#"{{"devices":[{rules}]}}"#));
        cgroup.restrict_devices(r.devices().as_deref().unwrap_or_default()).expect("restricted");
    };
    let kmsg_rule = r#"{"allow":true,"type":"c","major":1,"minor":11,"access":"r"}"#;
    for (rules, refused) in [
        (r#"{"allow":false,"access":"rwm"}"#, &[kmsg.as_str()][..]),
        (kmsg_rule, &[]),
        (
            r#"{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":1,"minor":11,"access":"r"}"#,
            &[&kmsg],
        ),
        (r#"{"allow":true,"access":"rwm"}"#, &[]),
        ("", &[&kmsg]),
    ] {
        restrict(rules);
        assert_eq!(refused_devices(&cgroup, &devices), refused, "{rules}");
        let top = cgroup.nodes[0].existing().expect("there");
        let attached = crate::sys::bpf::device_programs(std::os::fd::AsFd::as_fd(&top)).expect("a query");
        assert_eq!(attached.ids.len(), 1, "one program takes the place of another");
    }
    for _ in 0..100 {
        restrict("");
    }
}
