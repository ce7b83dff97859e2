// SPDX-License-Identifier: Apache-2.0
//! containerd with the binary under test as its runtime: the life of tasks, as the user of `ctr` sees it.

use std::fs;
use std::io::{Read as _, Seek as _, Write as _, pipe};
use std::os::fd::OwnedFd;

use criu_tests::{Command, Containerd, Need, PATIENCE, Stage, Terminal, migrate, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

macro_rules! stage_and_containerd {
    ($stage:ident, $host:ident, $containerd:ident) => {
        let Some($stage) = Stage::set(&[Need::Containerd]) else { return };
        let $host = $stage.host("a");
        let $containerd = Containerd::on(&$host);
    };
}

/// Runs until it is asked to end, and then says so.
const SERVES: &str = "trap 'exit 9' TERM; while :; do sleep 0.1; done";

#[test]
fn run_gives_output_and_exit_code() {
    stage_and_containerd!(stage, host, containerd);
    let (input, mut to_container) = pipe().expect("pipe");
    let mut out = tempfile::tempfile().expect("a file");
    let mut err = tempfile::tempfile().expect("a file");
    let command = containerd
        .run_command(&["--rm"], "c", &["sh", "-c", "echo out; echo err >&2; cat; exit 42"])
        .stdin(input)
        .stdout(out.try_clone().expect("dup"))
        .stderr(err.try_clone().expect("dup"))
        .start();
    to_container.write_all(b"typed\n").expect("write");
    let reads = |file: &mut fs::File, wanted: &str| {
        wait_until(PATIENCE, wanted, || {
            let mut text = String::new();
            file.rewind().and_then(|()| file.read_to_string(&mut text)).expect("read");
            if text == wanted { Ok(()) } else { Err(text) }
        });
    };
    reads(&mut out, "out\ntyped\n");
    reads(&mut err, "err\n");
    // The container's input ends with ours.
    drop(to_container);
    assert_eq!(command.wait().code, 42);
    containerd.end();
}

/// What `ctr` prints with runc, but for the word `runc`.
#[test]
fn errors_are_told_in_the_words_that_clients_look_for() {
    stage_and_containerd!(stage, host, containerd);
    let says = |output: criu_tests::Output, words: &[&str]| {
        assert_eq!(output.code, 1, "{output:?}");
        assert!(words.iter().all(|word| output.stderr.contains(word)), "{output:?}");
    };
    let run = |options: &[&str], program: &str| {
        containerd.run_command(&[&["--rm"], options].concat(), "c", &[program]).run()
    };
    let create = "OCI runtime create failed: ";
    let start = "unable to start container process: ";
    let missing = "exec: \"nosuch\": executable file not found in $PATH";
    says(run(&[], "nosuch"), &[create, start, missing]);
    says(
        run(&[], "/no/such"),
        &[create, start, "exec: \"/no/such\": stat /no/such: no such file or directory"],
    );
    says(run(&[], "/etc/passwd"), &[create, start, "exec: \"/etc/passwd\": permission denied"]);
    let absent = "type=bind,src=/no/such/source,dst=/mnt,options=rbind";
    says(run(&["--mount", absent], "true"), &[create, "/no/such/source", "no such file or directory"]);

    containerd.background("c", &[], SERVES);
    says(containerd.exec("c", &["nosuch"]), &["OCI runtime exec failed: exec failed: ", start, missing]);
    says(containerd.ctr(&["tasks", "rm", "c"]), &["task must be stopped before deletion: running"]);
    containerd.ctr(&["tasks", "kill", "-s", "KILL", "c"]).succeeded();
    containerd.becomes("c", "STOPPED");
    says(containerd.ctr(&["tasks", "kill", "c"]), &["process already finished: not found"]);
    containerd.end();
}

#[test]
fn a_task_is_executed_in_listed_paused_measured_and_ended() {
    stage_and_containerd!(stage, host, containerd);
    containerd.background("c", &[], SERVES);
    let (pid, status) = containerd.task("c");
    assert_eq!(status, "RUNNING");
    // The state is where any other client finds it.
    let state = [&migrate(), "--root", &containerd.state_root(), "state", "c"];
    let told = || -> Value { serde_json::from_str(&host.command(&state).run().succeeded()).expect("JSON") };
    assert_eq!((told()["pid"].to_string(), &told()["status"]), (pid.clone(), &Value::from("running")));

    let exec = containerd.exec("c", &["sh", "-c", "grep -q trap /proc/1/cmdline && exit 5"]);
    assert_eq!(exec.code, 5, "{exec:?}");
    let ps = containerd.ctr(&["tasks", "ps", "c"]).succeeded();
    assert!(ps.lines().any(|line| line.split_whitespace().next() == Some(&pid)), "{pid} is in\n{ps}");

    containerd.ctr(&["tasks", "pause", "c"]).succeeded();
    assert_eq!(containerd.task("c").1, "PAUSED");
    assert_eq!(told()["status"], "paused");
    assert!(containerd.exec("c", &["true"]).stderr.contains("cannot exec in a paused state"));
    containerd.ctr(&["tasks", "resume", "c"]).succeeded();
    assert_eq!(containerd.task("c").1, "RUNNING");

    let metrics = containerd.ctr(&["tasks", "metrics", "--format", "json", "c"]).succeeded();
    let metrics: Value = serde_json::from_str(&metrics).expect("JSON");
    assert!(metrics["pids"]["current"].as_u64() >= Some(1), "{metrics}");
    // Of cgroup v1 and of v2.
    let any = |paths: [&str; 2]| paths.iter().find_map(|path| metrics.pointer(path)?.as_u64());
    assert!(any(["/memory/usage/usage", "/memory/usage"]) > Some(0), "{metrics}");
    assert!(any(["/cpu/usage/total", "/cpu/usage_usec"]) > Some(0), "{metrics}");

    containerd.ctr(&["tasks", "kill", "c"]).succeeded();
    containerd.becomes("c", "STOPPED");
    let rm = containerd.ctr(&["tasks", "rm", "c"]).succeeded();
    assert_eq!(containerd.ctr(&["tasks", "ls", "-q"]).succeeded(), "", "{rm}");
    // A container may have one task after the other.
    containerd.ctr(&["tasks", "start", "--detach", "--null-io", "c"]).succeeded();
    assert_eq!(containerd.task("c").1, "RUNNING");
    containerd.end();
}

#[test]
fn a_terminal() {
    stage_and_containerd!(stage, host, containerd);
    let on_terminal = |command: Command| {
        let (terminal, slave) = Terminal::open();
        let dup = || -> OwnedFd { slave.try_clone().expect("dup") };
        (terminal, command.stdin(dup()).stdout(dup()).start())
    };
    let (mut terminal, run) = on_terminal(containerd.run_command(&["--rm", "--tty"], "c", &["sh"]));
    assert_eq!(terminal.asks("tty"), "/dev/pts/0");
    terminal.resize(33, 99);
    wait_until(PATIENCE, "the new size arrives", || match terminal.asks("stty size").as_str() {
        "33 99" => Ok(()),
        other => {
            run.signal(Signal::SIGWINCH);
            Err(other.to_owned())
        }
    });
    let exec = ["tasks", "exec", "--tty", "--exec-id", "e", "c", "sh"];
    let (mut second, exec) = on_terminal(containerd.command(&exec));
    assert_eq!(second.asks("tty"), "/dev/pts/1");
    second.types("exit 4\n");
    assert_eq!(exec.wait().code, 4);
    terminal.types("exit 3\n");
    assert_eq!(run.wait().code, 3);
    containerd.end();
}

#[test]
fn several_tasks_side_by_side() {
    stage_and_containerd!(stage, host, containerd);
    let ids: Vec<String> = (0..6).map(|number| format!("c{number}")).collect();
    let runs: Vec<_> = ids
        .iter()
        .map(|id| {
            let options = ["--detach", "--null-io"];
            containerd.run_command(&options, id, &["sh", "-c", SERVES]).start()
        })
        .collect();
    runs.into_iter().for_each(|run| drop(run.wait().succeeded()));
    let kill =
        |id: &str, signal: &str| drop(containerd.ctr(&["tasks", "kill", "-s", signal, id]).succeeded());
    kill("c0", "KILL");
    kill("c1", "TERM");
    containerd.ctr(&["tasks", "pause", "c2"]).succeeded();
    for (id, status) in [("c0", "STOPPED"), ("c1", "STOPPED"), ("c2", "PAUSED"), ("c3", "RUNNING")] {
        containerd.becomes(id, status);
    }
    // The exit code of a task that has ended is the word of who removes it.
    for (id, code) in [("c0", 137), ("c1", 9)] {
        let output = containerd.ctr(&["tasks", "rm", id]);
        assert!(output.stderr.contains(&format!("non-zero exit code {code}")), "{output:?}");
    }
    // One joins the namespaces of another, as the containers of a pod do.
    let pid = containerd.task("c3").0;
    let join = |kind: &str| format!("{kind}:/proc/{pid}/ns/{}", if kind == "network" { "net" } else { kind });
    let (pids, network) = (join("pid"), join("network"));
    let said = containerd.says(
        &["--with-ns", &pids, "--with-ns", &network],
        "tr '\\0' ' ' </proc/1/cmdline; readlink /proc/self/ns/net",
    );
    let of_c3 = fs::read_link(host.outside(&format!("/proc/{pid}/ns/net"))).expect("readlink");
    assert!(said.contains("trap") && said.ends_with(&of_c3.to_string_lossy().into_owned()), "{said}");
    containerd.end();
}

#[test]
fn options_reach_the_container() {
    stage_and_containerd!(stage, host, containerd);
    let said = containerd.says(
        &["--env", "A=b", "--cwd", "/tmp", "--cap-drop", "CAP_CHOWN", "--read-only", "--seccomp"],
        "echo $A; pwd; grep -E 'CapEff|Seccomp:|NoNewPrivs' /proc/self/status; touch /x || echo refused",
    );
    let lines: Vec<&str> = said.lines().map(str::trim_end).collect();
    assert_eq!(lines[..2], ["b", "/tmp"], "{said}");
    let status = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name)).map(str::trim);
    assert_eq!(
        status("CapEff:").and_then(|set| u64::from_str_radix(set, 16).ok()).map(|set| set & 1),
        Some(0)
    );
    assert_eq!((status("Seccomp:"), status("NoNewPrivs:")), (Some("2"), Some("1")), "{said}");
    assert_eq!(lines.last(), Some(&"refused"), "{said}");

    let ids = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"];
    let said = containerd.says(&ids, "id -u; cat /proc/self/uid_map; stat -c %u /bin");
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["0", "0", "100000", "65536", "0"]);

    containerd.background("c", &["--memory-limit", "67108864", "--cpus", "0.5"], SERVES);
    assert_eq!(host.cgroup_value("c", "memory.limit_in_bytes", "memory.max"), "67108864");
    let quota = host.cgroup_value("c", "cpu.cfs_quota_us", "cpu.max");
    assert!(["50000", "50000 100000"].contains(&quota.as_str()), "{quota}");
    containerd.end();
}

#[test]
fn a_task_that_is_out_of_memory_is_an_event() {
    stage_and_containerd!(stage, host, containerd);
    let mut seen = tempfile::tempfile().expect("a file");
    let events = containerd.command(&["events"]).stdout(seen.try_clone().expect("dup")).start();
    let limit = ["--memory-limit", "33554432"];
    // A line without an end is kept as a whole.
    containerd.background("c", &limit, "while :; do tail /dev/zero; done");
    wait_until(PATIENCE, "the event arrives", || {
        let mut text = String::new();
        seen.rewind().and_then(|()| seen.read_to_string(&mut text)).expect("read");
        if text.contains("/tasks/oom") { Ok(()) } else { Err(text) }
    });
    events.signal(Signal::SIGTERM);
    events.wait();
    containerd.end();
}

/// containerd may be upgraded under its containers, and it may die.
#[test]
fn tasks_survive_the_daemon() {
    stage_and_containerd!(stage, host, containerd);
    let mut containerd = containerd;
    for id in ["c", "ends"] {
        containerd.background(id, &[], SERVES);
    }
    let before = containerd.task("c");
    containerd.stop(Signal::SIGKILL);
    let kill = [&migrate(), "--root", &containerd.state_root(), "kill", "ends", "KILL"];
    host.command(&kill).run().succeeded();
    containerd.start();
    assert_eq!(containerd.task("c"), before);
    containerd.becomes("ends", "STOPPED");
    let exec = containerd.exec("c", &["sh", "-c", "exit 6"]);
    assert_eq!(exec.code, 6, "{exec:?}");
    containerd.end();
}

/// Of a shim that is killed containerd learns by itself, and has the runtime remove what it leaves.
#[test]
fn a_shim_that_dies_takes_its_container_with_it() {
    stage_and_containerd!(stage, host, containerd);
    containerd.background("c", &[], SERVES);
    let shim =
        host.processes().into_iter().find(|(_, line)| line.contains("containerd-shim")).expect("a shim").0;
    host.command(&["kill", "-KILL", &shim.to_string()]).run().succeeded();
    wait_until(PATIENCE, "the task is gone", || {
        let tasks = containerd.ctr(&["tasks", "ls", "-q"]).succeeded();
        let left = host.cgroups().into_iter().filter(|group| group.ends_with("c")).collect::<Vec<_>>();
        if tasks.is_empty() && left.is_empty() { Ok(()) } else { Err((tasks, left)) }
    });
    containerd.end();
}

/// As the machine's default: containerd's shim looks for a program called runc.
#[test]
fn in_the_place_of_runc() {
    stage_and_containerd!(stage, host, containerd);
    host.command(&["mount", "--bind", &migrate(), "/usr/sbin/runc"]).run().succeeded();
    let run = ["run", "--rm", "--snapshotter", "overlayfs", Containerd::IMAGE, "c", "sh", "-c", "exit 8"];
    assert_eq!(containerd.ctr(&run).code, 8);
    containerd.background("c", &["--runc-binary", "runc"], SERVES);
    let state = ["runc", "--root", &containerd.state_root(), "state", "c"];
    let state: Value = serde_json::from_str(&host.command(&state).run().succeeded()).expect("JSON");
    assert_eq!(state["status"], "running");
    containerd.end();
}
