// SPDX-License-Identifier: Apache-2.0
//! Podman with the binary under test as its runtime: the life of a container, as Podman's user sees it.

use std::io::{Seek as _, Write as _};
use std::os::fd::OwnedFd;

use criu_tests::{Need, PATIENCE, Podman, Stage, Terminal, migrate, wait_until};
use serde_json::Value;

/// Prints numbers, ten a second.
const COUNTS: &str = "i=0; while :; do i=$((i+1)); echo $i.; sleep 0.1; done";

#[test]
fn run_gives_output_and_exit_code() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    let output = podman.run(&[], &["sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (42, "out\n", "err\n"));

    let mut input = tempfile::tempfile().expect("a file");
    input.write_all(b"typed\n").and_then(|()| input.rewind()).expect("write the input");
    let output = podman.run_command(&["--rm", "-i"], &["cat"]).stdin(OwnedFd::from(input)).run();
    assert_eq!(output.succeeded(), "typed\n");

    let says = podman.says(
        &["--env", "A=b", "--hostname", "small", "--user", "guest", "--group-add", "5", "-w", "/tmp"],
        "echo $A; hostname; id; pwd",
    );
    assert_eq!(says, "b\nsmall\nuid=1000(guest) gid=1000(guest) groups=5,1000(guest)\n/tmp");
    podman.end();
}

#[test]
fn podman_knows_the_runtime() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    let info = podman.podman(&["info", "--format", "{{.Host.OCIRuntime.Name}} {{.Host.OCIRuntime.Version}}"]);
    let version = host.command(&[&migrate(), "--version"]).run().succeeded();
    let first = version.lines().next().expect("a first line");
    assert!(info.succeeded().starts_with(&format!("migrate {first}")), "{version}");

    // By its path instead of by its name in the configuration.
    podman.background("c", &[], COUNTS);
    assert_eq!(podman.run(&["--runtime", &migrate()], &["echo", "hi"]).succeeded(), "hi\n");

    // Podman gives the runtime no --root, and names containers by their whole id.
    let id = podman.inspect("c", "{{.Id}}");
    let state = host.command(&[&migrate(), "state", &id]).run().succeeded();
    let state: Value = serde_json::from_str(&state).expect("JSON");
    assert_eq!(state["status"], "running");
    assert_eq!(state["pid"].to_string(), podman.inspect("c", "{{.State.Pid}}"));
    assert_eq!(state["annotations"]["io.container.manager"], "libpod");
    assert_eq!(podman.inspect("c", "{{.OCIRuntime}}"), "migrate");
    podman.end();
}

#[test]
fn a_terminal() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    let (mut terminal, inner) = Terminal::open();
    terminal.resize(30, 101);
    let copy = || inner.try_clone().expect("dup");
    let running =
        podman.run_command(&["--rm", "-it", "--name", "c"], &["sh"]).stdin(copy()).stdout(copy()).start();
    terminal.shows("#");
    assert_eq!(terminal.asks("tty"), "/dev/pts/0");
    wait_until(PATIENCE, "the size arrives", || match terminal.asks("stty size") {
        size if size == "30 101" => Ok(()),
        other => Err(other),
    });

    let (mut second, second_inner) = Terminal::open();
    let copy = || second_inner.try_clone().expect("dup");
    let exec = podman.command(&["exec", "-it", "c", "sh"]).stdin(copy()).stdout(copy()).start();
    second.shows("#");
    assert_eq!(second.asks("tty"), "/dev/pts/1");
    second.types("exit 4\n");
    assert_eq!(exec.wait().code, 4);

    terminal.interrupts_a_program(&host);
    terminal.types("exit 7\n");
    assert_eq!(running.wait().code, 7);
    podman.end();
}

#[test]
fn exec() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    podman.background("c", &[], "echo first > /tmp/mark; sleep 1000");
    wait_until(PATIENCE, "the mark is there", || {
        let output = podman.podman(&["exec", "c", "cat", "/tmp/mark"]);
        if output.stdout == "first\n" { Ok(()) } else { Err(output) }
    });
    let with = ["exec", "--env", "X=y", "--user", "1000:1000", "-w", "/tmp", "c", "sh", "-c"];
    let output = podman.podman(&[&with[..], &["echo $X $(id -u) $(pwd); exit 9"]].concat());
    assert_eq!((output.code, output.stdout.as_str()), (9, "y 1000 /tmp\n"), "{}", output.stderr);
    assert_eq!(podman.podman(&["exec", "c", "nosuch"]).code, 127);
    assert_eq!(podman.podman(&["exec", "c", "/etc/passwd"]).code, 126);
    podman.podman(&["exec", "-d", "c", "sh", "-c", "echo late > /tmp/late; exec sleep 1001"]).succeeded();
    wait_until(PATIENCE, "the detached command works", || {
        let output = podman.podman(&["exec", "c", "cat", "/tmp/late"]);
        if output.stdout == "late\n" { Ok(()) } else { Err(output) }
    });
    let seen = podman.executes("c", "ps -o args");
    assert!(seen.contains("sleep 1000") && seen.contains("sleep 1001"), "{seen}");
    podman.end();
}

#[test]
fn stop_kill_and_logs() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    let script =
        "trap 'echo got usr1' USR1; trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    podman.background("polite", &[], script);
    podman.logs("polite", "ready");
    podman.podman(&["kill", "-s", "USR1", "polite"]).succeeded();
    podman.logs("polite", "got usr1");
    podman.podman(&["stop", "polite"]).succeeded();
    assert_eq!(podman.podman(&["wait", "polite"]).succeeded(), "5\n");
    assert_eq!(podman.logs("polite", "bye"), "ready\ngot usr1\nbye\n");
    // It can be started again.
    podman.podman(&["start", "polite"]).succeeded();
    podman.logs("polite", "bye\nready\n");
    podman.podman(&["kill", "polite"]).succeeded();
    podman.becomes("polite", "{{.State.Status}} {{.State.ExitCode}}", "exited 137");

    podman.background("stubborn", &[], "trap '' TERM; echo ready; while :; do sleep 0.05; done");
    podman.logs("stubborn", "ready");
    podman.podman(&["stop", "-t", "0", "stubborn"]).succeeded();
    assert_eq!(podman.inspect("stubborn", "{{.State.ExitCode}}"), "137");
    podman.end();
}

#[test]
fn errors_are_those_of_runc() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    let cases: [(&[&str], &[&str], i32, &str); 6] = [
        (&[], &[""], 127, "exec: \"\": executable file not found in $PATH"),
        (&[], &["nosuch"], 127, "OCI runtime attempted to invoke a command that was not found"),
        (&[], &["/bin/nosuch"], 127, "OCI runtime attempted to invoke a command that was not found"),
        (&[], &["/etc/passwd"], 126, "OCI permission denied"),
        (&[], &["/etc"], 126, "OCI permission denied"),
        // Podman takes every missing file for a missing command.
        (
            &["--sysctl", "net.nosuch=1"],
            &["true"],
            127,
            "OCI runtime attempted to invoke a command that was not found",
        ),
    ];
    // By name Podman reads errors from a log in JSON, by path from stderr.
    let path = migrate();
    let runtimes = [("migrate", &cases[..]), ("runc", &cases), (&path, &cases[2..4])];
    for (runtime, cases) in runtimes {
        for (options, argv, code, phrase) in cases {
            let output = podman.run(&[&["--runtime", runtime], *options].concat(), argv);
            assert_eq!(output.code, *code, "{runtime} {options:?} {argv:?}: {}", output.stderr);
            assert!(output.stderr.contains(phrase), "{runtime} {options:?} {argv:?}: {}", output.stderr);
        }
    }
    // What failed can be removed like anything else.
    assert_eq!(podman.run_command(&["--name=c"], &["nosuch"]).run().code, 127);
    assert_eq!(podman.inspect("c", "{{.State.Status}}"), "created");
    podman.podman(&["rm", "c"]).succeeded();
    podman.end();
}

#[test]
fn top_and_stats() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    podman.background("c", &[], "exec sleep 1000");
    wait_until(PATIENCE, "top shows the process", || {
        let top = podman.podman(&["top", "c", "pid", "user", "args"]).succeeded();
        let line = top.lines().nth(1).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        if line == "1 root sleep 1000" { Ok(()) } else { Err(top) }
    });
    let stats = podman.podman(&["stats", "--no-stream", "--format", "json", "c"]).succeeded();
    let stats: Value = serde_json::from_str(&stats).expect("JSON");
    assert_eq!(stats[0]["pids"], "1", "{stats}");
    let memory = stats[0]["mem_usage"].as_str().expect("a text");
    assert!(!memory.starts_with("0B"), "{stats}");
    assert!(!stats[0]["cpu_time"].as_str().expect("a text").starts_with("0s"), "{stats}");
    podman.end();
}

#[test]
fn pause_and_update() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    podman.background("c", &["--memory=32m", "--cpus=0.5", "--pids-limit=20"], COUNTS);
    let limits = "cd /sys/fs/cgroup; if [ -d memory ]; then cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us pids/pids.max; \
                  else cat memory.max; cut -d' ' -f1 cpu.max; cat pids.max; fi";
    assert_eq!(podman.executes("c", limits), "33554432\n50000\n20");
    podman.podman(&["update", "--memory=64m", "--cpus=0.3", "c"]).succeeded();
    assert_eq!(podman.executes("c", limits), "67108864\n30000\n20");

    podman.podman(&["pause", "c"]).succeeded();
    assert_eq!(podman.inspect("c", "{{.State.Status}}"), "paused");
    let id = podman.inspect("c", "{{.Id}}");
    let state = host.command(&[&migrate(), "state", &id]).run().succeeded();
    assert!(state.contains("\"paused\""), "{state}");
    let before = podman.logs("c", "");
    assert_eq!(podman.podman(&["exec", "c", "true"]).code, 255, "a paused container takes no command");
    assert_eq!(podman.logs("c", ""), before, "it stands still");
    podman.podman(&["unpause", "c"]).succeeded();
    wait_until(PATIENCE, "it goes on", || match podman.logs("c", "") {
        log if log.len() > before.len() => Ok(()),
        log => Err(log),
    });
    podman.end();
}
