// SPDX-License-Identifier: Apache-2.0
//! Containers that mean harm or come in crowds: the runtime stays in charge, and nothing is left of them.
//!
//! What else belongs here has its test beside its subject: links that are exchanged during the start, and a `/proc` that is
//! a link, in `security_regressions.rs`; a limit that a bomb of forks just reaches, and a container that thaws itself or
//! freezes what it has made, in `cgroups.rs`; the events of a container that is out of memory in `events.rs`, and one
//! whose init is, in `process.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use criu_tests::{Bundle, Container, Host, PATIENCE, Stage, rounds, wait_until};
use migrate::engine::{self, ContainerBuilder, ExecOptions, Process, ProcessIo, StateRoot};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde_json::{Value, json};

/// A shell without a terminal whose script is the container's first process.
fn shell(host: &Host, script: &str, edit: impl FnOnce(&mut Value)) -> Bundle {
    Bundle::of_shell(host, "shell").edit(|config| {
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["root"]["readonly"] = json!(false);
        edit(config);
    })
}

fn without_pid_namespace(config: &mut Value) {
    let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
    namespaces.retain(|namespace| namespace["type"] != json!("pid"));
}

fn run<'h>(stage: &Stage, host: &'h Host, bundle: &Bundle) -> Container<'h> {
    let id = stage.id("hostile");
    host.migrate_detached(&["run", "-d", "-b", &bundle.path(), &id]);
    host.container(&id, &bundle.rootfs())
}

/// A number in a cgroup file, or behind a word in it.
fn number(host: &Host, id: &str, (v1, v2): (&str, &str), word: &str) -> u64 {
    let text = host.cgroup_value(id, v1, v2);
    let line = text.lines().find_map(|line| line.strip_prefix(word)).unwrap_or_default();
    line.trim().parse().unwrap_or_else(|e| panic!("{word:?} in {text:?}: {e}"))
}

/// As many processes as the limit lets be, each trying to make more; SIGTERM is nothing to them.
#[test]
fn a_fork_bomb_ends_with_its_container() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    for edit in [|_: &mut Value| (), without_pid_namespace] {
        let bundle = Bundle::new(&host, "bomb", &["hog", "--bomb"]).edit(|config| {
            config["linux"]["resources"]["pids"] = json!({"limit": 64});
            edit(config);
        });
        let container = run(&stage, &host, &bundle);
        let there = || number(&host, container.id(), ("pids.current", "pids.current"), "");
        wait_until(PATIENCE, "the limit is reached", || if there() == 64 { Ok(()) } else { Err(there()) });
        assert_eq!(container.state_status(), "running");
        // One more may come from outside (the kernel judges forks, not those who enter), but need not.
        let output = host.migrate(&["exec", container.id(), "/workload", "exit", "--code", "3"]);
        assert!(output.code == 3 || output.failed(255, &["exec"]).contains("temporarily"));
        host.migrate(&["kill", "--all", container.id(), "TERM"]).succeeded();
        host.migrate(&["pause", container.id()]).succeeded();
        let listed = host.migrate(&["ps", "--format", "json", container.id()]).succeeded();
        let listed: Vec<Value> = serde_json::from_str(&listed).expect("a list of pids");
        assert_eq!(listed.len(), 64);
        host.migrate(&["resume", container.id()]).succeeded();
        assert_eq!(container.state_status(), "running");
        host.migrate(&["delete", "--force", container.id()]).succeeded();
        host.assert_no_trace();
        bundle.remove();
    }
}

/// The kernel kills one process after the other; the runtime's own commands and its record are not among them.
#[test]
fn a_memory_hog_does_not_get_in_the_way_of_the_runtime() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let hog = "/workload hog --memory 1073741824 >/dev/null 2>&1";
    let bundle = shell(&host, &format!("while :; do {hog} & {hog}; done"), |config| {
        let limit = 48 << 20;
        config["linux"]["resources"]["memory"] = json!({"limit": limit, "swap": limit});
        config["process"]["oomScoreAdj"] = json!(0);
    });
    let container = run(&stage, &host, &bundle);
    let killed = || number(&host, container.id(), ("memory.oom_control", "memory.events"), "oom_kill ");
    wait_until(PATIENCE, "the kernel kills some", || if killed() < 5 { Err(killed()) } else { Ok(()) });
    for _ in 0..4 {
        // Init may be chosen in the end; the runtime has to be told so, and to tell it.
        let before = killed();
        let output = host.migrate(&["exec", container.id(), "/workload", "exit", "--code", "3"]);
        match output.code {
            3 => {}
            // It was killed itself, as the container's process that it is.
            137 => assert!(killed() > before),
            _ => drop(output.failed(255, &["exec"])),
        }
        let stats = host.migrate(&["events", "--stats", container.id()]).succeeded();
        let stats: Value = serde_json::from_str(&stats).expect("JSON");
        assert!(stats["data"]["memory"]["event_count"]["oom_kill"].as_u64() >= Some(5), "{stats}");
        assert_eq!(container.state_status(), "running");
    }
    host.migrate(&["pause", container.id()]).succeeded();
    host.migrate(&["delete", "--force", container.id()]).succeeded();
    host.assert_no_trace();
}

/// It may stop itself, but not the one who wants to be rid of it.
#[test]
fn a_container_that_freezes_itself_again_and_again_can_be_ended() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let script = "while :; do \
                  echo FROZEN >/sys/fs/cgroup/freezer/freezer.state; echo 1 >/sys/fs/cgroup/cgroup.freeze; \
                  done 2>/dev/null";
    let bundle = shell(&host, script, |_| ()).with_writable_cgroups();
    let paused = |container: &Container<'_>| {
        wait_until(PATIENCE, "it has frozen itself", || match container.state_status().as_str() {
            "paused" => Ok(()),
            other => Err(other.to_owned()),
        });
    };
    for end in [&["delete", "--force"][..], &["kill", "KILL"]] {
        let container = run(&stage, &host, &bundle);
        paused(&container);
        host.migrate(&["exec", container.id(), "/workload", "exit"]).failed(255, &["paused"]);
        // Whoever thaws it has thawed it, however short that lasts.
        host.migrate(&["resume", container.id()]).succeeded();
        paused(&container);
        match end {
            [kill, signal] if *kill == "kill" => {
                host.migrate(&[kill, container.id(), signal]).succeeded();
                container.stops();
                host.migrate(&["delete", container.id()]).succeeded();
            }
            _ => drop(host.migrate(&[end, &[container.id()]].concat()).succeeded()),
        }
        host.assert_no_trace();
    }
}

/// Directories of the root filesystem that become links out of it, and directories again, while containers start on it.
#[test]
fn links_that_come_and_go_in_the_root_filesystem() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::new(&host, "links", &["exit"]);
    let outside = host.path("outside");
    fs::create_dir(&outside).expect("mkdir");
    let up = "../".repeat(20);
    for name in ["proc", "dev", "sys"] {
        symlink(format!("{up}{outside}"), format!("{}/{name}-link", bundle.rootfs())).expect("symlink");
    }
    let before = host.mountinfo();
    let stop = AtomicBool::new(false);
    let runs = || {
        for _ in 0..rounds(40, 400) {
            // Losing the race may be an error; that it works at all is seen without it.
            let output = host.migrate(&["run", "-b", &bundle.path(), &stage.id("race")]);
            assert_eq!(host.mountinfo(), before, "a mount reached the host");
            assert_eq!(fs::read_dir(&outside).expect("list").count(), 0, "something was made outside");
            assert!(output.code <= 1 && !output.stderr.contains("panicked"), "{}", output.stderr);
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            for name in ["proc", "dev", "sys"].iter().cycle() {
                let (one, other) =
                    (format!("{}/{name}", bundle.rootfs()), format!("{}/{name}-link", bundle.rootfs()));
                // Twice: every directory is in its place when this ends.
                for _ in 0..2 {
                    renameat2(AT_FDCWD, one.as_str(), AT_FDCWD, other.as_str(), RenameFlags::RENAME_EXCHANGE)
                        .expect("exchange");
                }
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        // A failed assertion must not leave the other thread running.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(runs));
        stop.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    host.migrate(&["run", "-b", &bundle.path(), &stage.id("quiet")]).succeeded();
    assert_eq!(fs::read_dir(&outside).expect("list").count(), 0);
    host.assert_no_trace();
}

#[test]
fn containers_one_after_the_other_leave_nothing() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::new(&host, "short", &["exit"]);
    let id = stage.id("again");
    // Two containers a round.
    for round in 0..rounds(50, 500) {
        host.migrate_detached(&["create", "-b", &bundle.path(), &id]);
        if round % 2 == 0 {
            host.migrate(&["start", &id]).succeeded();
        }
        host.migrate(&["delete", "--force", &id]).succeeded();
        host.migrate(&["run", "-b", &bundle.path(), &id]).succeeded();
    }
    host.assert_no_trace();
}

#[test]
fn two_hundred_containers_at_once_do_not_get_into_each_others_way() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::new(&host, "waiting", &["hog", "--wait"])
        .edit(|config| config["linux"]["resources"]["pids"] = json!({"limit": 10}));
    let ids: Vec<String> = (0..200).map(|number| stage.id(&format!("n{number}"))).collect();
    // Fifty commands at a time: they are to meet, not to wait for this machine's two cores.
    let all = |args: &dyn Fn(&str) -> Vec<String>| {
        for some in ids.chunks(50) {
            let start = |id: &String| {
                let args = args(id);
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                host.migrate_command(&args).without_stdio().start()
            };
            let started: Vec<_> = some.iter().map(start).collect();
            started.into_iter().for_each(|command| drop(command.wait().succeeded()));
        }
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    all(&|id| words(&["run", "-d", "-b", &bundle.path(), id]));
    let list: Vec<Value> =
        serde_json::from_str(&host.migrate(&["list", "-f", "json"]).succeeded()).expect("a list");
    assert_eq!(list.len(), ids.len());
    assert!(list.iter().all(|container| container["status"] == json!("running")), "{list:?}");
    let pids: BTreeSet<String> = list.iter().map(|container| container["pid"].to_string()).collect();
    assert_eq!(pids.len(), ids.len(), "each has a first process of its own");
    let limits: Vec<_> = host.cgroups().into_iter().map(|group| group.join("pids.max")).collect();
    let limits = limits.iter().filter_map(|file| fs::read_to_string(file).ok()).filter(|text| text == "10\n");
    assert_eq!(limits.count(), ids.len());
    all(&|id| words(&["delete", "--force", id]));
    host.assert_no_trace();
}

/// What this process has: descriptors, mounts of the test's, and children, with the orphans that came to it.
fn own(stage: &Stage) -> [Vec<String>; 3] {
    let entries = fs::read_dir("/proc/self/fd").expect("list the descriptors");
    let mut fds: Vec<String> = entries
        .filter_map(|entry| {
            let entry = entry.expect("list the descriptors");
            // The one that lists is closed by now.
            let target = fs::read_link(entry.path()).ok()?;
            Some(format!("{} {}", entry.file_name().to_string_lossy(), target.display()))
        })
        .filter(|line| !line.ends_with("/fd"))
        .collect();
    fds.sort();
    let table = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
    let mounts = table.lines().filter(|line| line.contains(&stage.path(""))).map(str::to_owned).collect();
    // Whichever thread made them, they are the whole process's.
    let tasks = fs::read_dir("/proc/self/task").expect("list the threads").flatten();
    let children = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    [fds, mounts, children.filter(|line| !line.is_empty()).collect()]
}

/// The lives that a container may have, in turn.
fn one_life(root: &StateRoot, id: &str, bundle: &Path, number: usize) -> migrate::Result<()> {
    let builder = || -> migrate::Result<_> {
        Ok(ContainerBuilder::from_bundle(id.parse()?, bundle).io(ProcessIo::null()?))
    };
    let mut container: engine::Container = builder()?.create(root)?;
    match number % 4 {
        0 => return container.delete(true),
        1 => {
            container.start()?;
            let exec = container
                .exec(Process::new(["/workload", "exit", "--code", "4"]), &ExecOptions::default())?;
            assert_eq!(exec.wait()?, 4);
            let missing = container.exec(Process::new(["/no/such/program"]), &ExecOptions::default());
            assert!(missing.is_err());
        }
        2 => {
            container.start()?;
            container.pause()?;
            assert!(builder()?.create(root).is_err(), "the id is taken");
            return container.delete(true);
        }
        _ => {
            container.start()?;
            // Stats open more files than anything else.
            assert!(container.stats()?.pids.current > 0);
        }
    }
    container.signal(9)?;
    assert_eq!(container.wait()?, 137);
    container.delete(false)
}

#[test]
fn a_program_that_makes_one_container_after_the_other_stays_as_it_was() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    // Whatever loses its parent on the way is seen here.
    nix::sys::prctl::set_child_subreaper(true).expect("become a subreaper");
    let root = StateRoot::builder(stage.path("state")).init_command(criu_tests::migrate()).open();
    let root = root.unwrap_or_else(|error| panic!("{}", error.chain()));
    let bundle = Bundle::new(&host, "waiting", &["hog", "--wait"]);
    let cycles = |count: usize| {
        thread::scope(|scope| {
            for thread in 0..4 {
                let (root, id, path) = (root.clone(), stage.id(&format!("t{thread}")), bundle.path());
                scope.spawn(move || {
                    for number in 0..count / 4 {
                        one_life(&root, &id, path.as_ref(), number)
                            .unwrap_or_else(|error| panic!("cycle {number}: {}", error.chain()));
                    }
                });
            }
        });
    };
    // What is kept for the next time is there after the first.
    cycles(16);
    let before = own(&stage);
    cycles(1000);
    assert_eq!(own(&stage), before);
    assert_eq!(root.ids().expect("list"), []);
    let left: Vec<_> = fs::read_dir(stage.path("state")).expect("list").flatten().map(|e| e.path()).collect();
    assert!(left.iter().all(|path| path.to_string_lossy().contains("/.")), "{left:?}");
    host.assert_no_trace();
}
