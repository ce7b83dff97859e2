// SPDX-License-Identifier: Apache-2.0
//! What a container's first process is given beside its configuration's usual fields: how it is scheduled, where its
//! memory is, descriptors, its pidfd for others.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixDatagram, UnixListener};

use criu_tests::{Bundle, Host, Need, PATIENCE, Stage, migrate, receive_descriptor, wait_until};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

/// Runs `inspect` in the foreground, in a bundle changed by `edit`.
fn inspect(stage: &Stage, host: &Host, name: &str, edit: impl FnOnce(&mut Value)) -> Value {
    let bundle = Bundle::new(host, name, &["inspect"]).edit(edit);
    let text = host.migrate(&["run", "-b", &bundle.path(), &stage.id(name)]).succeeded();
    host.assert_no_trace();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON: {e}\n{text}"))
}

/// The command line of `migrate` in a shell that has done something first.
fn after(host: &Host, script: &str, args: &[&str]) -> criu_tests::Command {
    let (program, root) = (migrate(), host.state_root());
    let script = format!("{script}; exec \"$@\"");
    let argv = [&["sh", "-c", &script, "sh", &program, "--root", &root], args].concat();
    host.command(&argv)
}

#[test]
fn scheduling_memory_and_personality_are_as_configured() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let seen = inspect(&stage, &host, "set", |config| {
        config["process"]["scheduler"] =
            json!({"policy": "SCHED_BATCH", "nice": 19, "flags": ["SCHED_FLAG_RESET_ON_FORK"]});
        config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 3});
        config["linux"]["personality"] = json!({"domain": "LINUX32"});
        config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0"});
    });
    let reset_on_fork = 0x4000_0000;
    assert_eq!(
        seen["scheduling"],
        json!({"policy": 3 | reset_on_fork, "nice": 19, "io_priority": 2 << 13 | 3, "personality": 8, "memory": 2})
    );
    let seen = inspect(&stage, &host, "unset", |_| {});
    assert_eq!(seen["scheduling"]["policy"], json!(0));
    assert_eq!(seen["scheduling"]["personality"], json!(0));
    assert_eq!(seen["scheduling"]["memory"], json!(0));
}

#[test]
fn what_the_kernel_or_the_specification_refuses_names_its_field() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    for (name, edit, said) in [
        ("scheduler", json!({"scheduler": {"policy": "SCHED_OTHER", "nice": 20}}), "process.scheduler.nice"),
        (
            "priority",
            json!({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 9}}),
            "process.ioPriority",
        ),
        ("class", json!({"ioPriority": {"class": "IOPRIO_CLASS_NO", "priority": 1}}), "process.ioPriority"),
        // More than fs.nr_open, which nobody may have.
        (
            "limit",
            json!({"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 9, "hard": 1_u64 << 40}]}),
            "set RLIMIT_NOFILE to 9:1099511627776 (process.rlimits[0]): operation not permitted",
        ),
        // A deadline needs all processors of the system.
        (
            "deadline",
            json!({"scheduler": {"policy": "SCHED_DEADLINE", "runtime": 42_000, "deadline": 1_000_000,
                                 "period": 1_000_000}}),
            "process scheduler can't be used together with AllowedCPUs",
        ),
    ] {
        let bundle = Bundle::new(&host, name, &["exit"]).edit(|config| {
            config["process"]
                .as_object_mut()
                .expect("an object")
                .extend(edit.as_object().expect("one").clone());
            config["linux"]["resources"] = json!({"cpu": {"cpus": "0"}});
        });
        host.migrate(&["run", "-b", &bundle.path(), &stage.id(name)]).failed(1, &[said]);
        host.assert_no_trace();
    }
    let bundle = Bundle::new(&host, "nodes", &["exit"])
        .edit(|config| config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_DEFAULT", "nodes": "0-7"}));
    let output = host.migrate(&["run", "-b", &bundle.path(), &stage.id("nodes")]);
    output.failed(1, &["set_mempolicy(linux.memoryPolicy", "invalid argument"]);
    host.assert_no_trace();
}

#[test]
fn the_runtimes_own_processors_are_not_the_containers() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let all = inspect(&stage, &host, "all", |_| {})["status"]["Cpus_allowed_list"].clone();
    let bundle = Bundle::new(&host, "bound", &["inspect"]);
    let id = stage.id("bound");
    let text = after(&host, "taskset -p -c 0 $$ >/dev/null", &["run", "-b", &bundle.path(), &id]).run();
    let seen: Value = serde_json::from_str(&text.succeeded()).expect("JSON");
    assert_eq!(seen["status"]["Cpus_allowed_list"], all);
}

#[test]
fn preserved_descriptors_keep_their_numbers_after_those_of_the_service_manager() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::new(&host, "fds", &["inspect"]);
    let names = ["one", "two", "three"].map(|name| host.path(name));
    names.iter().for_each(|name| fs::write(name, "x").expect("write"));
    let open = format!("exec 3<{} 4<{} 5<{}", names[0], names[1], names[2]);
    let run = |script: &str, args: &[&str]| {
        let (path, id) = (bundle.path(), stage.id("fds"));
        after(&host, script, &[&["run"], args, &["-b", &path, &id]].concat()).run()
    };
    let parse = |text: String| serde_json::from_str::<Value>(&text).expect("JSON");
    let numbers =
        |seen: &Value| seen["fds"].as_object().expect("an object").keys().cloned().collect::<Vec<_>>();

    let seen = parse(run(&open, &["--preserve-fds", "2"]).succeeded());
    assert_eq!(numbers(&seen), ["0", "1", "2", "3", "4"]);
    assert_eq!(seen["fds"]["4"], json!(names[1]));
    assert_eq!(seen["env"]["LISTEN_FDS"], Value::Null);
    assert_eq!(numbers(&parse(run(&open, &[]).succeeded())), ["0", "1", "2"], "none is asked for");

    let listen = format!("{open}; export LISTEN_FDS=1 LISTEN_PID=$$");
    let seen = parse(run(&listen, &["--preserve-fds", "1"]).succeeded());
    assert_eq!(numbers(&seen), ["0", "1", "2", "3", "4"]);
    assert_eq!(seen["fds"]["3"], json!(names[0]));
    assert_eq!((&seen["env"]["LISTEN_FDS"], &seen["env"]["LISTEN_PID"]), (&json!("1"), &json!("1")));
    let others = format!("{open}; export LISTEN_FDS=1 LISTEN_PID=1");
    let seen = parse(run(&others, &[]).succeeded());
    assert_eq!(numbers(&seen), ["0", "1", "2"], "they are another process's");

    let log = host.path("log");
    let said = "unable to stat preserved-fd 1 (of 2)";
    let args = ["--log", &log, "run", "--preserve-fds", "2", "-b", &bundle.path(), &stage.id("fds")];
    after(&host, &format!("exec 3<{}", names[0]), &args).run().failed(1, &[said]);
    host.assert_no_trace();
}

#[test]
fn who_asks_for_the_first_process_gets_its_descriptor() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let path = host.path("pidfd.sock");
    let listener = UnixListener::bind(&path).expect("bind");
    let bundle = Bundle::of_workload(&host, "counter", &[]);
    let id = stage.id("pidfd");
    host.migrate_detached(&["create", "--pidfd-socket", &path, "-b", &bundle.path(), &id]);
    let (word, pidfd) = receive_descriptor(&listener);
    assert_eq!(word, "standard");
    let ended = |timeout: PollTimeout| {
        poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout).expect("poll") > 0
    };
    assert!(!ended(PollTimeout::ZERO));
    host.migrate(&["delete", "--force", &id]).succeeded();
    assert!(ended(PollTimeout::try_from(PATIENCE).expect("a time")), "it is the container's first process");

    let args = ["create", "--pidfd-socket", &host.path("nobody"), "-b", &bundle.path(), &id];
    host.migrate(&args).failed(1, &["pidfd socket"]);
    host.assert_no_trace();
}

/// A service manager: what it is told.
struct Manager(UnixDatagram);

impl Manager {
    fn at(path: &str) -> Self {
        let socket = UnixDatagram::bind(path).expect("bind");
        socket.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
        Self(socket)
    }

    fn hears(&self) -> String {
        let mut message = [0; 1000];
        // A descriptor that comes with it is closed at once: that is how a barrier is confirmed.
        let length = self.0.recv(&mut message).expect("something is told in time");
        String::from_utf8_lossy(&message[..length]).into_owned()
    }
}

#[test]
fn a_service_manager_hears_that_the_program_is_ready_and_nothing_else() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let path = host.path("manager.sock");
    let manager = Manager::at(&path);
    let variables = [("NOTIFY_SOCKET", path.as_str())];
    let bundle = Bundle::new(&host, "notify", &["notify", "--when", "/state/when"]);
    let when = format!("{}/state/when", bundle.rootfs());
    let container = host.container(&stage.id("notify"), &bundle.rootfs());
    let id = container.id();
    let command = |args: &[&str]| host.migrate_command(args).environment(&variables).without_stdio();
    let path = bundle.path();

    for args in [&["start", id][..], &["run", "-d", "-b", &path, id]] {
        if args[0] == "start" {
            assert_eq!(command(&["create", "-b", &path, id]).run().code, 0);
        }
        let running = command(args).start();
        wait_until(PATIENCE, "the program runs", || match host.container_ids().len() {
            1 if host.processes().iter().any(|(_, line)| line.starts_with("/workload notify")) => Ok(()),
            _ => Err(host.processes()),
        });
        assert!(!running.has_ended(), "it waits until the program is ready");
        fs::write(&when, "").expect("write");
        assert_eq!(manager.hears(), "READY=1\n");
        assert_eq!(manager.hears(), format!("MAINPID={}\n", container.state()["pid"]));
        assert_eq!(manager.hears(), "BARRIER=1");
        assert_eq!(running.wait().code, 0);
        container.kill("TERM");
        container.stops();
        host.migrate(&["delete", id]).succeeded();
        host.assert_no_trace();
        fs::remove_file(&when).expect("remove");
    }

    // In the foreground the main process is the runtime.
    let running = command(&["run", "-b", &path, id]).start();
    fs::write(&when, "").expect("write");
    assert_eq!(manager.hears(), "READY=1\n");
    assert_eq!(manager.hears(), format!("MAINPID={}\n", pid_of(&host, "run")));
    assert!(!running.has_ended());
    container.kill("TERM");
    assert_eq!(running.wait().code, 0);
    host.assert_no_trace();
}

/// The pid, in its own host, of the one `migrate` that runs this command there.
fn pid_of(host: &Host, command: &str) -> i32 {
    let wanted = format!(" {command} ");
    let running = host.processes();
    let found: Vec<&(i32, String)> =
        running.iter().filter(|(_, line)| line.contains("/migrate ") && line.contains(&wanted)).collect();
    assert_eq!(found.len(), 1, "{running:?}");
    found[0].0
}

#[test]
fn a_container_that_told_a_service_manager_can_be_moved() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let path = host.path("manager.sock");
    let manager = Manager::at(&path);
    let bundle = Bundle::new(&host, "moves", &["notify", "--when", "/state/when"]);
    fs::write(format!("{}/state/when", bundle.rootfs()), "").expect("write");
    let (archive, id) = (host.path("archive"), stage.id("moves"));
    let run = host.migrate_command(&["run", "-d", "-b", &bundle.path(), &id]);
    let running = run.environment(&[("NOTIFY_SOCKET", &path)]).without_stdio().start();
    while manager.hears() != "BARRIER=1" {}
    assert_eq!(running.wait().code, 0);
    host.migrate(&["checkpoint", "--export", &archive, &id]).succeeded();
    host.assert_no_trace();
    let moved = stage.id("moved");
    host.migrate_detached(&["restore", "-d", "--import", &archive, &moved]);
    let container = host.imported(&moved);
    assert_eq!(container.state_status(), "running");
    container.kill("TERM");
    container.stops();
    host.migrate(&["delete", &moved]).succeeded();
    host.assert_no_trace();
}

#[test]
fn a_program_that_ends_before_it_is_ready_is_waited_for_no_longer() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let path = host.path("manager.sock");
    let _manager = Manager::at(&path);
    let bundle = Bundle::new(&host, "ends", &["exit"]);
    let args = ["run", "-d", "-b", &bundle.path(), &stage.id("ends")];
    let output = host.migrate_command(&args).environment(&[("NOTIFY_SOCKET", &path)]).without_stdio().run();
    assert_eq!(output.code, 0);
    let gone = [("NOTIFY_SOCKET", "/nonexistent/socket")];
    let args = ["run", "-b", &bundle.path(), &stage.id("nobody")];
    let output = host.migrate_command(&args).environment(&gone).run();
    assert_eq!(output.code, 0, "it runs all the same: {}", output.stderr);
    let log = fs::read_to_string(host.path("migrate.log")).expect("read the log");
    assert!(log.contains("NOTIFY_SOCKET /nonexistent/socket"), "{log}");
    host.migrate(&["delete", &stage.id("ends")]).succeeded();
    host.assert_no_trace();
}

#[test]
fn what_a_program_said_before_it_ended_is_heard() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let path = host.path("manager.sock");
    let manager = Manager::at(&path);
    let bundle = Bundle::new(&host, "last", &["notify", "--last-words"]);
    let id = stage.id("last");
    for flags in [&[][..], &["-d"]] {
        let config = bundle.path();
        let args = [&["run"][..], flags, &["-b", &config, &id]].concat();
        let running =
            host.migrate_command(&args).environment(&[("NOTIFY_SOCKET", &path)]).without_stdio().start();
        assert_eq!(manager.hears(), "READY=1\n", "{flags:?}");
        assert!(manager.hears().starts_with("MAINPID="));
        if !flags.is_empty() {
            assert_eq!(manager.hears(), "BARRIER=1");
        }
        assert_eq!(running.wait().code, 0);
    }
    wait_until(PATIENCE, "it has ended", || match &host.state(&id)["status"] {
        status if status == "stopped" => Ok(()),
        status => Err(status.clone()),
    });
    host.migrate(&["delete", &id]).succeeded();
    host.assert_no_trace();
}

#[test]
fn a_memory_limit_that_is_too_low_is_named_as_the_cause() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::new(&host, "oom", &["exit"])
        .edit(|config| config["linux"]["resources"] = json!({"memory": {"limit": 20_480}}));
    let output = host.migrate(&["run", "-b", &bundle.path(), &stage.id("oom")]);
    output.failed(1, &["container init was OOM-killed (memory limit too low?)"]);
    host.assert_no_trace();
}

#[test]
fn a_container_is_kept_when_that_is_asked_for() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::new(&host, "kept", &["exit", "--code", "4"]);
    for (flags, code) in [(&["--keep"][..], 4), (&["--keep", "-d"], 0)] {
        let (path, id) = (bundle.path(), stage.id("kept"));
        let args = [&["run"], flags, &["-b", &path, &id]].concat();
        assert_eq!(host.migrate_command(&args).without_stdio().run().code, code);
        host.container(&id, &bundle.rootfs()).stops();
        host.migrate(&["delete", &id]).succeeded();
        host.assert_no_trace();
    }
}
