// SPDX-License-Identifier: Apache-2.0
//! The life of a container without CRIU: every command, what it prints, its exit codes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use criu_tests::{Bundle, Host, PATIENCE, Stage, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn json_of(host: &Host, args: &[&str]) -> Value {
    let text = host.migrate(args).succeeded();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?} does not print JSON: {e}\n{text}"))
}

#[test]
fn a_container_goes_from_created_over_running_and_stopped_to_gone() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"]);
    let (id, pid_file) = (stage.id("life"), host.path("pid"));

    host.migrate_detached(&["create", "-b", &bundle.path(), "--pid-file", &pid_file, &id]);
    let container = host.container(&id, &bundle.rootfs());
    let state = container.state();
    assert_eq!(state["id"], json!(id));
    assert_eq!(state["status"], json!("created"));
    assert_eq!(state["bundle"], json!(bundle.path()));
    assert_eq!(state["rootfs"], json!(bundle.rootfs()));
    assert!(state["ociVersion"].as_str().is_some_and(|v| v.starts_with("1.")), "{state}");
    assert!(state["created"].as_str().is_some_and(|t| t.ends_with('Z') && t.contains('T')), "{state}");
    let pid = fs::read_to_string(&pid_file).expect("the pid file is there");
    assert_eq!(state["pid"].to_string(), pid, "nothing but the pid is in the pid file");
    assert!(container.status().is_none(), "the workload does not run before `start`");

    host.migrate(&["start", &id]).succeeded();
    container.reports();
    assert_eq!(container.state_status(), "running");
    assert_eq!(container.state()["pid"].to_string(), pid, "start does not change the pid");

    let list = json_of(&host, &["list", "--format", "json"]);
    let listed =
        list.as_array().and_then(|l| l.iter().find(|c| c["id"] == json!(id))).expect("list shows it");
    assert_eq!(listed["status"], json!("running"));
    assert_eq!(listed["owner"], json!("root"));
    assert_eq!(host.migrate(&["list", "-q"]).succeeded().trim(), id);
    let table = host.migrate(&["list"]).succeeded();
    let head: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(head, ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);

    let processes = json_of(&host, &["ps", "--format", "json", &id]);
    assert_eq!(processes.to_string(), format!("[{pid}]"));
    assert!(host.migrate(&["ps", &id]).succeeded().contains("/workload counter"));

    container.kill("TERM");
    container.stops();
    assert_eq!(container.state()["pid"], json!(0), "a stopped container has no process");
    host.migrate(&["delete", &id]).succeeded();
    host.migrate(&["state", &id]).failed(1, &[&id]);
    host.assert_no_trace();
}

#[test]
fn delete_force_ends_a_running_container_and_forgives_an_unknown_one() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "tree", &[]);
    let container = host.run_detached(&stage.id("forced"), &bundle);
    host.migrate(&["delete", "--force", container.id()]).succeeded();
    host.assert_no_trace();
    host.migrate(&["delete", "--force", container.id()]).succeeded();
}

#[test]
fn a_foreground_run_passes_the_exit_code_on_and_leaves_nothing() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    for code in ["0", "7", "255"] {
        let bundle = Bundle::new(&host, &format!("exit-{code}"), &["exit", "--code", code]);
        let output = host.migrate(&["run", "-b", &bundle.path(), &stage.id("exit")]);
        assert_eq!(output.code.to_string(), code, "{output:?}");
        host.assert_no_trace();
    }
}

#[test]
fn a_foreground_run_whose_caller_ignores_its_children_passes_the_exit_code_on() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::new(&host, "exit", &["exit", "--code", "7"]);
    let (migrate, root, id) = (criu_tests::migrate(), host.state_root(), stage.id("exit"));
    let run = ["env", "--ignore-signal=CHLD", &migrate, "--root", &root, "run", "-b", &bundle.path(), &id];
    assert_eq!(host.command(&run).run().code, 7);
    host.assert_no_trace();
}

#[test]
fn a_foreground_run_tells_the_signal_that_killed_the_container() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "threads", &[]);
    let id = stage.id("killed");
    let running = host.migrate_command(&["run", "-b", &bundle.path(), &id]).start();
    host.container(&id, &bundle.rootfs()).reports();
    host.migrate(&["kill", &id, "KILL"]).succeeded();
    assert_eq!(running.wait().code, 128 + 9);
    host.assert_no_trace();
}

#[test]
fn a_foreground_run_passes_signals_on() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "tree", &[]);
    let id = stage.id("proxied");
    let running = host.migrate_command(&["run", "-b", &bundle.path(), &id]).start();
    let container = host.container(&id, &bundle.rootfs());
    container.reports();
    running.signal(Signal::SIGUSR1);
    wait_until(PATIENCE, "SIGUSR1 reaches the workload", || {
        container.status().filter(|s| s.has("zombie_exit")).ok_or_else(|| container.status())
    });
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait().code, 0, "the workload stops on SIGTERM by itself");
    host.assert_no_trace();
}

#[test]
fn a_foreground_run_copies_stdio() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::new(&host, "noise", &["no-such-workload"]);
    let output = host.migrate(&["run", "-b", &bundle.path(), &stage.id("noise")]);
    assert_eq!(output.code, 2);
    assert!(output.stderr.contains("no such workload"), "{output:?}");
    assert_eq!(output.stdout, "");
}

#[test]
fn exec_runs_a_process_beside_the_first_one() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"])
        .edit(|config| config["hostname"] = json!("inside"));
    let container = host.run_detached(&stage.id("exec"), &bundle);
    let id = container.id();

    let seen = json_of(
        &host,
        &["exec", "--cwd", "/tmp", "--env", "COLOUR=blue", "--user", "1000:1000", id, "/workload", "inspect"],
    );
    assert_eq!(seen["hostname"], json!("inside"));
    assert_eq!(seen["cwd"], json!("/tmp"));
    assert_eq!(seen["env"]["COLOUR"], json!("blue"));
    assert_eq!(seen["uid"], json!([1000, 1000, 1000]));
    assert_ne!(seen["pid"], json!(1));
    let first =
        host.command(&["readlink", &format!("/proc/{}/ns/pid", container.state()["pid"])]).run().succeeded();
    assert_eq!(seen["namespaces"]["pid"], json!(first.trim()));
    let descriptors: Vec<&String> = seen["fds"].as_object().expect("an object").keys().collect();
    assert_eq!(descriptors, ["0", "1", "2"], "{}", seen["fds"]);

    assert_eq!(host.migrate(&["exec", id, "/workload", "exit", "--code", "9"]).code, 9);
    host.migrate(&["exec", id, "/nonexistent"]).failed(255, &["/nonexistent"]);

    let pid_file = host.path("exec.pid");
    let status = "/state/second";
    host.migrate_detached(&[
        "exec",
        "-d",
        "--pid-file",
        &pid_file,
        id,
        "/workload",
        "threads",
        "--status",
        status,
    ]);
    let pid = fs::read_to_string(&pid_file).expect("the pid file is there");
    let processes = json_of(&host, &["ps", "-f", "json", id]);
    assert!(
        processes.as_array().is_some_and(|p| p.iter().map(Value::to_string).any(|p| p == pid)),
        "{processes} has no {pid}"
    );
    let report = format!("{}{status}", container.rootfs());
    wait_until(PATIENCE, "the second process reports", || criu_tests::Status::read(&report).ok_or(()))
        .assert_ok();
    container.end();
    host.assert_no_trace();
}

#[test]
fn kill_takes_names_and_numbers() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    for (n, signal) in ["TERM", "SIGTERM", "15", "KILL"].into_iter().enumerate() {
        let bundle = Bundle::of_workload(&host, "timers", &[]);
        let container = host.run_detached(&stage.id(&format!("signal-{n}")), &bundle);
        container.kill(signal);
        container.stops();
        host.migrate(&["delete", container.id()]).succeeded();
        bundle.remove();
    }
    host.assert_no_trace();
}

#[test]
fn kill_0_asks_whether_the_first_process_is_there() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "timers", &[]);
    let container = host.run_detached(&stage.id("asked"), &bundle);
    host.migrate(&["kill", container.id(), "0"]).succeeded();
    container.kill("KILL");
    container.stops();
    host.migrate(&["kill", container.id(), "0"]).failed(1, &["not running"]);
    host.migrate(&["delete", container.id()]).succeeded();
    host.assert_no_trace();
}

#[test]
fn a_paused_container_can_be_killed() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "timers", &[]);
    let container = host.run_detached(&stage.id("frozen"), &bundle);
    host.migrate(&["pause", container.id()]).succeeded();
    container.kill("KILL");
    container.stops();
    host.migrate(&["delete", container.id()]).succeeded();
    host.assert_no_trace();
}

#[test]
fn the_state_is_for_root_alone() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "timers", &[]);
    let container = host.run_detached(&stage.id("mode"), &bundle);
    let directory = format!("{}/{}", host.state_root(), container.id());
    let mode = fs::metadata(&directory).expect("the container has a state directory").permissions().mode();
    assert_eq!(mode & 0o066, 0, "{directory} has mode {mode:o}");
    container.end();
}

/// It is the first process of its pid namespace: the kernel would keep from it what it does not catch.
#[test]
fn a_created_container_is_ended_by_sigterm() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"]);
    let id = stage.id("unwanted");
    host.migrate_detached(&["create", "-b", &bundle.path(), &id]);
    let container = host.container(&id, &bundle.rootfs());
    container.kill("TERM");
    container.stops();
    host.migrate(&["delete", &id]).succeeded();
    host.assert_no_trace();
}

/// What it holds while it waits leads nowhere on the host: its stdio, the sealed program, the fifo and what it speaks through.
#[test]
fn a_created_container_holds_nothing_of_the_host() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"]);
    let (id, pid_file) = (stage.id("waits"), host.path("pid"));
    host.migrate_detached(&["create", "-b", &bundle.path(), "--pid-file", &pid_file, &id]);
    let pid = fs::read_to_string(&pid_file).expect("the pid file");
    let list = host
        .command(&["sh", "-c", &format!("cd /proc/{pid}/fd && for fd in *; do readlink $fd; done")])
        .run();
    let targets = list.succeeded();
    let expected = |target: &str| {
        let anonymous = ["socket:[", "pipe:[", "anon_inode:[", "/memfd:"];
        matches!(target, "/dev/null" | "/1/task/1/fd")
            || target.ends_with("/exec.fifo")
            || anonymous.iter().any(|start| target.starts_with(start))
    };
    let wrong: Vec<&str> = targets.lines().filter(|target| !expected(target)).collect();
    assert!(wrong.is_empty(), "{wrong:?} of {targets}");
    assert!(targets.contains("exec.fifo"), "{targets}");
    host.migrate(&["delete", "--force", &id]).succeeded();
    host.assert_no_trace();
}

#[test]
fn a_create_that_is_killed_can_be_deleted() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"]);
    let id = stage.id("killed");
    let moments: [(&str, &dyn Fn() -> bool); 3] = [
        ("the state directory is there", &|| host.container_ids().contains(&id)),
        ("the cgroup is there", &|| !host.cgroups().is_empty()),
        ("something runs beside the command", &|| host.processes().len() > 1),
    ];
    for (moment, reached) in moments {
        let running = host.migrate_command(&["create", "-b", &bundle.path(), &id]).without_stdio().start();
        wait_until(PATIENCE, moment, || reached().then_some(()).ok_or("not yet"));
        running.signal(Signal::SIGKILL);
        running.wait();
        host.migrate(&["delete", "--force", &id]).succeeded();
        host.assert_no_trace();
    }
    // Nothing stands in the way of a new one.
    host.run_detached(&id, &bundle).end();
    host.assert_no_trace();
}

#[test]
fn the_default_state_root_is_found_with_an_empty_environment() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "timers", &[]);
    let (program, id) = (criu_tests::migrate(), stage.id("plain"));
    let plain = |args: &[&str]| host.command(&[&[program.as_str()], args].concat()).environment(&[]);
    assert_eq!(plain(&["run", "-d", "-b", &bundle.path(), &id]).without_stdio().run().code, 0);
    let container = host.container(&id, &bundle.rootfs());
    container.reports();
    assert!(fs::exists(host.outside(&format!("/run/migrate/{id}"))).expect("look at the default state root"));
    plain(&["kill", &id, "KILL"]).run().succeeded();
    plain(&["delete", "--force", &id]).run().succeeded();
    host.assert_no_trace();
}

#[test]
fn a_start_that_was_killed_before_it_removed_the_fifo_has_started_the_container() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = host.run_small(&stage.id("killed"));
    let fifo = format!("{}/{}/exec.fifo", host.state_root(), container.id());
    nix::unistd::mkfifo(fifo.as_str(), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    container.runs_on_beside(&["start", container.id()], 1, &["already running"]);
    container.end();
    host.assert_no_trace();
}

#[test]
fn a_container_of_another_root_is_found_by_its_id_as_long_as_it_is_there() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = host.run_small(&stage.id("elsewhere"));
    let (program, id) = (criu_tests::migrate(), container.id().to_owned());
    let plain = |args: &[&str]| host.command(&[&[program.as_str()], args].concat()).environment(&[]).run();
    let roots = host.outside("/run/migrate/.roots");
    assert!(plain(&["state", &id]).succeeded().contains("running"));
    assert!(fs::exists(&roots).expect("look at the registered roots"));
    plain(&["delete", "--force", &id]).succeeded();
    host.assert_no_trace();
    assert!(!fs::exists(&roots).expect("look at the registered roots"), "an empty root stays registered");
    plain(&["state", &id]).failed(1, &[&id, "does not exist"]);
}

#[test]
fn a_container_whose_record_is_damaged_goes_by_force_with_its_processes_and_is_told_of_by_list() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = host.run_small(&stage.id("damaged"));
    let id = container.id();
    let record = format!("{}/{id}/state.json", host.state_root());
    for damage in ["{\"id\": ", "", "[]"] {
        fs::write(&record, damage).expect("damage the record");
        host.migrate(&["state", id]).failed(1, &[id]);
        host.migrate(&["delete", id]).failed(1, &[id]);
        let list = host.migrate(&["list", "-q"]);
        assert_eq!((list.code, list.stdout.as_str()), (0, ""), "{list:?}");
        assert!(list.stderr.contains(id), "{list:?}");
    }
    host.migrate(&["delete", "--force", id]).succeeded();
    host.assert_no_trace();
    host.migrate(&["delete", "--force", id]).succeeded();
}
