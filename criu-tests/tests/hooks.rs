// SPDX-License-Identifier: Apache-2.0
//! Hooks: when they run, what they see, and what their failure means.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use criu_tests::{Bundle, Host, Need, PATIENCE, Stage, wait_until, workload};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const KINDS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Where hooks write to, in the container.
const LOG: &str = "/state/hooks";

/// The description of a hook: of one that runs inside, by its path there.
fn hook(bundle: &Bundle, kind: &str, name: &str, more: &[&str]) -> Value {
    let (path, log) = match kind {
        "startContainer" => ("/workload".to_owned(), LOG.to_owned()),
        _ => (workload(), log_of(bundle)),
    };
    let args = [&["workload", "hook", "--name", name, "--log", &log], more].concat();
    json!({"path": path, "args": args})
}

fn log_of(bundle: &Bundle) -> String {
    format!("{}{LOG}", bundle.rootfs())
}

/// What the hooks of a bundle have written down so far.
fn lines(bundle: &Bundle) -> Vec<Value> {
    let text = fs::read_to_string(log_of(bundle)).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn names(bundle: &Bundle) -> Vec<String> {
    lines(bundle).iter().map(|l| l["name"].as_str().unwrap_or_default().to_owned()).collect()
}

/// A bundle with a hook of each kind, named after it.
fn with_all_hooks(host: &Host, name: &str, args: &[&str]) -> Bundle {
    let bundle = Bundle::new(host, name, args);
    let hooks: Vec<(&str, Value)> =
        KINDS.iter().map(|kind| (*kind, json!([hook(&bundle, kind, kind, &[])]))).collect();
    bundle.edit(|config| {
        for (kind, list) in hooks {
            config["hooks"][kind] = list;
        }
        config["annotations"] = json!({"colour": "green"});
    })
}

fn own_namespace(host: &Host, kind: &str) -> Value {
    json!(host.command(&["readlink", &format!("/proc/1/ns/{kind}")]).run().succeeded().trim())
}

#[test]
fn every_kind_runs_at_its_time_with_the_state_of_that_time() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = with_all_hooks(&host, "all", &["counter", "--status", Bundle::STATUS]);
    let id = stage.id("all");
    host.migrate_detached(&["create", "-b", &bundle.path(), &id]);
    let container = host.container(&id, &bundle.rootfs());
    let pid = container.state()["pid"].clone();
    assert_eq!(names(&bundle), KINDS[..3]);
    host.migrate(&["start", &id]).succeeded();
    assert_eq!(names(&bundle), KINDS[..5]);
    container.reports();
    container.kill("TERM");
    container.stops();
    host.migrate(&["delete", &id]).succeeded();
    let lines = lines(&bundle);
    let expected = [
        ("creating", pid.clone()),
        ("creating", pid.clone()),
        ("creating", json!(1)),
        ("created", json!(1)),
        ("running", pid),
        ("stopped", Value::Null),
    ];
    assert_eq!(lines.len(), KINDS.len());
    for ((line, kind), (status, pid)) in lines.iter().zip(KINDS).zip(expected) {
        let state = &line["state"];
        assert_eq!(line["name"], json!(kind));
        assert_eq!(state["status"], json!(status), "{kind}");
        assert_eq!(state["pid"], pid, "{kind}");
        assert_eq!(state["id"], json!(id), "{kind}");
        assert_eq!(state["bundle"], json!(bundle.path()), "{kind}");
        assert_eq!(state["annotations"], json!({"colour": "green"}), "{kind}");
        assert_eq!(line["fds"], json!(["0", "1", "2"]), "{kind} inherits nothing");
        let inside = kind.ends_with("Container");
        let directory = match kind {
            "createContainer" => bundle.rootfs(),
            "startContainer" => "/".to_owned(),
            _ => bundle.path(),
        };
        assert_eq!(line["cwd"], json!(directory), "{kind}");
        for namespace in ["pid", "mnt", "net"] {
            let same = line["namespaces"][namespace] == own_namespace(&host, namespace);
            assert_eq!(same, !inside, "{kind}: {namespace}");
        }
    }
    host.assert_no_trace();
}

#[test]
fn a_hook_without_an_environment_has_the_runtimes_none_or_the_programs() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = with_all_hooks(&host, "env", &["exit"]).edit(|config| {
        let mut own = config["hooks"]["createRuntime"][0].clone();
        own["env"] = json!(["OWN=a=b"]);
        config["hooks"]["createRuntime"].as_array_mut().expect("a list").push(own);
        config["process"]["env"] = json!(["PROGRAMS=yes", "PATH=/"]);
    });
    let command = host.migrate_command(&["run", "-b", &bundle.path(), &stage.id("env")]);
    command.environment(&[("RUNTIMES", "yes")]).run().succeeded();
    let seen: Vec<(String, Value)> = lines(&bundle)
        .into_iter()
        .map(|line| (line["name"].as_str().unwrap_or_default().to_owned(), line["env"].clone()))
        .collect();
    let runtimes = json!({"RUNTIMES": "yes"});
    let expected = [
        ("prestart", runtimes.clone()),
        ("createRuntime", runtimes.clone()),
        ("createRuntime", json!({"OWN": "a=b"})),
        ("createContainer", json!({})),
        ("startContainer", json!({"PROGRAMS": "yes", "PATH": "/", "HOME": "/root"})),
        ("poststart", runtimes.clone()),
        ("poststop", runtimes),
    ];
    assert_eq!(seen, expected.map(|(name, env)| (name.to_owned(), env)));
}

#[test]
fn a_failed_hook_stops_everything_and_says_which_it_was() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    for kind in &KINDS[..5] {
        let bundle = Bundle::new(&host, kind, &["counter", "--status", Bundle::STATUS]);
        let failing = hook(&bundle, kind, "fails", &["--code", "3", "--say", "said", "--complain", "moaned"]);
        let list = json!([hook(&bundle, kind, "works", &[]), failing, hook(&bundle, kind, "never", &[])]);
        let stop = hook(&bundle, "poststop", "stop", &[]);
        let bundle = bundle.edit(|config| {
            config["hooks"][kind] = list;
            config["hooks"]["poststop"] = json!([stop]);
        });
        let wanted = format!("error running {kind} hook #1: ");
        let said = "exit status 3, stdout: said, stderr: moaned";
        let output = host.migrate(&["run", "-b", &bundle.path(), &stage.id("fails")]);
        output.failed(1, &[&wanted, said]);
        assert_eq!(names(&bundle), ["works", "fails", "stop"], "{kind}");
        assert!(
            *kind == "poststart" || !fs::exists(format!("{}/state/status", bundle.rootfs())).expect("stat")
        );
        host.assert_no_trace();
    }
}

#[test]
fn a_hook_of_start_that_fails_stops_the_container() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    for kind in ["startContainer", "poststart"] {
        let bundle = Bundle::new(&host, kind, &["counter", "--status", Bundle::STATUS]);
        let failing = json!([hook(&bundle, kind, "fails", &["--code", "3"])]);
        let bundle = bundle.edit(|config| config["hooks"][kind] = failing);
        let id = stage.id(kind);
        host.migrate_detached(&["create", "-b", &bundle.path(), &id]);
        host.migrate(&["start", &id]).failed(1, &[&format!("error running {kind} hook #0")]);
        let container = host.container(&id, &bundle.rootfs());
        container.stops();
        host.migrate(&["delete", &id]).succeeded();
    }
    host.assert_no_trace();
}

#[test]
fn a_hook_is_killed_when_its_time_is_up() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let hang = json!({"path": "/bin/sh", "args": ["sh", "-c", "echo waits; cat /dev/zero >/dev/null; true"], "timeout": 1});
    for kind in ["createRuntime", "createContainer"] {
        let bundle = Bundle::new(&host, kind, &["exit"]).edit(|config| config["hooks"][kind] = json!([hang]));
        let output = host.migrate(&["run", "-b", &bundle.path(), &stage.id("slow")]);
        output.failed(
            1,
            &[&format!("{kind} hook #0"), "hook ran past specified timeout of 1.0s", "stdout: waits"],
        );
        host.assert_no_trace();
    }
}

#[test]
fn a_failed_hook_after_the_end_is_an_error_of_delete_and_not_of_run() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::new(&host, "stop", &["exit", "--code", "7"]);
    let hooks = ["one", "two"].map(|name| hook(&bundle, "poststop", name, &["--code", "1"]));
    let bundle = bundle.edit(|config| config["hooks"]["poststop"] = json!(hooks));
    let id = stage.id("stop");

    let output = host.migrate(&["run", "-b", &bundle.path(), &id]);
    assert_eq!(output.code, 7, "{output:?}");
    host.assert_no_trace();

    host.migrate_detached(&["run", "-d", "-b", &bundle.path(), &id]);
    host.container(&id, &bundle.rootfs()).stops();
    // What counts is the configuration as it was at create.
    let bundle = bundle.edit(|config| config["hooks"] = json!({}));
    host.migrate(&["delete", &id]).failed(1, &["error running poststop hook #0"]);
    host.assert_no_trace();
    assert_eq!(names(&bundle), ["one", "two", "one", "two"], "one that fails keeps no other from running");
}

#[test]
fn in_a_user_namespace_the_hooks_of_init_are_its_roots() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = with_all_hooks(&host, "user", &["exit"]).in_user_namespace(100_000, 65_536);
    let log = host.path("createContainer");
    for log in [&log, &log_of(&bundle)] {
        fs::write(log, "").expect("write");
        fs::set_permissions(log, fs::Permissions::from_mode(0o666)).expect("chmod");
    }
    let bundle = bundle.edit(|config| {
        let args = config["hooks"]["createContainer"][0]["args"].as_array_mut().expect("a list");
        let path = args.iter_mut().find(|a| a.as_str().is_some_and(|a| a.ends_with(LOG))).expect("the log");
        *path = json!(log);
    });
    host.migrate(&["run", "-b", &bundle.path(), &stage.id("user")]).succeeded();
    assert_eq!(names(&bundle), ["prestart", "createRuntime", "startContainer", "poststart", "poststop"]);
    let text = fs::read_to_string(&log).expect("it was written");
    let line: Value = serde_json::from_str(text.trim()).expect("JSON");
    assert_eq!((&line["name"], &line["uid"]), (&json!("createContainer"), &json!(0)));
    assert_ne!(line["namespaces"]["user"], own_namespace(&host, "user"));
    host.assert_no_trace();
}

#[test]
fn what_a_create_leaves_that_was_killed_in_a_hook_is_removed_with_the_hooks_of_the_end() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (id, go) = (stage.id("killed"), host.path("go"));
    let bundle = Bundle::new(&host, "killed", &["exit"]);
    let first = hook(&bundle, "createRuntime", "first", &[]);
    let waits =
        json!({"path": "/bin/sh", "args": ["sh", "-c", format!("until [ -e {go} ]; do sleep 0.01; done")]});
    let stop = hook(&bundle, "poststop", "stop", &[]);
    let bundle = bundle.edit(|config| {
        config["hooks"] = json!({"createRuntime": [first, waits], "poststop": [stop]});
    });
    let creating = host.migrate_command(&["create", "-b", &bundle.path(), &id]).without_stdio().start();
    wait_until(PATIENCE, "the hook waits", || {
        let running = host.processes();
        let waits = running.iter().any(|(_, line)| line.starts_with("sh -c until"));
        if waits { Ok(()) } else { Err(running) }
    });
    assert_eq!(host.state(&id)["status"], json!("creating"));
    creating.signal(Signal::SIGKILL);
    creating.wait();
    fs::write(&go, "").expect("write");
    assert_eq!(host.state(&id)["status"], json!("stopped"));
    host.migrate(&["delete", &id]).succeeded();
    assert_eq!(names(&bundle), ["first", "stop"]);
    host.assert_no_trace();
}

#[test]
fn a_relative_path_and_a_time_of_nothing_are_refused() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    for (edit, field) in [
        (json!([{"path": "bin/true"}]), "hooks.prestart[0].path"),
        (json!([{"path": "/bin/true", "timeout": 0}]), "hooks.prestart[0].timeout"),
    ] {
        let bundle = Bundle::new(&host, field, &["exit"]).edit(|config| config["hooks"]["prestart"] = edit);
        host.migrate(&["run", "-b", &bundle.path(), &stage.id("bad")]).failed(1, &[field]);
        host.assert_no_trace();
    }
}

#[test]
fn a_restore_runs_the_hooks_of_create_and_its_end_those_of_the_end() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = with_all_hooks(&host, "moved", &["counter", "--status", Bundle::STATUS]);
    let (id, images) = (stage.id("moved"), host.path("images"));
    let container = host.run_detached(&id, &bundle);
    container.checkpoint(&["--image-path", &images]);
    assert_eq!(names(&bundle), KINDS, "the checkpoint ended the container");
    host.migrate_detached(&["restore", "-d", "--image-path", &images, "-b", &bundle.path(), &id]);
    let restored = host.container(&id, &bundle.rootfs());
    let after: Vec<Value> = lines(&bundle).split_off(KINDS.len());
    let pid = restored.state()["pid"].clone();
    let seen: Vec<_> =
        after.iter().map(|l| (&l["name"], &l["state"]["status"], &l["state"]["pid"])).collect();
    let (prestart, runtime, creating) = (json!("prestart"), json!("createRuntime"), json!("creating"));
    assert_eq!(seen, [(&prestart, &creating, &pid), (&runtime, &creating, &pid)]);
    restored.reports();
    restored.end();
    assert_eq!(names(&bundle).last().map(String::as_str), Some("poststop"));

    // A hook that fails there is the end of the restore.
    let failing = json!([hook(&bundle, "createRuntime", "fails", &["--code", "1"])]);
    let bundle = bundle.edit(|config| config["hooks"]["createRuntime"] = failing);
    let args = ["restore", "-d", "--image-path", &images, "-b", &bundle.path(), &id];
    let output = host.migrate_command(&args).run();
    assert!(output.stderr.contains("error running createRuntime hook #0"), "{output:?}");
    assert_ne!(output.code, 0);
    assert_eq!(names(&bundle).split_off(KINDS.len() + 3), ["prestart", "fails", "poststop"]);
    host.assert_no_trace();
}
