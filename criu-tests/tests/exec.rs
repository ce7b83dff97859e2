// SPDX-License-Identifier: Apache-2.0
//! `exec`: each of its flags, looked at from inside, and what it refuses.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;

use criu_tests::{Bundle, Container, Host, PATIENCE, Stage, migrate, receive_descriptor, wait_until};
use nix::sys::stat::Mode;
use serde_json::{Value, json};

/// What a process that `exec` starts with these flags sees.
fn inspect(host: &Host, container: &Container<'_>, flags: &[&str]) -> Value {
    let text =
        host.migrate(&[&["exec"], flags, &[container.id(), "/workload", "inspect"]].concat()).succeeded();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON: {e}\n{text}"))
}

/// What one that `--process` describes sees.
fn inspect_process(host: &Host, container: &Container<'_>, process: &Value) -> Value {
    let mut all = json!({"args": ["/workload", "inspect"], "cwd": "/"});
    all.as_object_mut().expect("an object").extend(process.as_object().expect("an object").clone());
    let file = host.path("process.json");
    fs::write(&file, all.to_string()).expect("write the process");
    let text = host.migrate(&["exec", "--process", &file, container.id()]).succeeded();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON: {e}\n{text}"))
}

/// A running container, in a bundle changed by `edit`.
fn running<'h>(stage: &Stage, host: &'h Host, edit: impl FnOnce(&mut Value)) -> (Bundle, Container<'h>) {
    let bundle = Bundle::of_workload(host, "counter", &[]).edit(edit);
    let container = host.run_detached(&stage.id("exec"), &bundle);
    (bundle, container)
}

#[test]
fn users_and_groups_by_name_are_the_containers() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (bundle, container) = running(&stage, &host, |_| {});
    let etc = |name: &str| format!("{}/etc/{name}", bundle.rootfs());
    fs::write(etc("passwd"), "root:x:0:0:root:/root:/bin/sh\nonlyhere:x:77:88::/home/here:\n")
        .expect("write");
    fs::write(etc("group"), "root:x:0:\nmine:x:88:\nmore:x:99:onlyhere\n").expect("write");
    let who = |user: &str| {
        let seen = inspect(&host, &container, &["--user", user]);
        (seen["uid"][0].clone(), seen["gid"][0].clone(), seen["groups"].clone(), seen["env"]["HOME"].clone())
    };
    assert_eq!(who("onlyhere"), (json!(77), json!(88), json!([99]), json!("/home/here")));
    assert_eq!(who("onlyhere:more"), (json!(77), json!(99), json!([]), json!("/home/here")));
    assert_eq!(who("77:mine"), (json!(77), json!(88), json!([]), json!("/home/here")));
    assert_eq!(who("5"), (json!(5), json!(0), json!([]), json!("/")));
    let seen = inspect(&host, &container, &["-u", "5:6", "-g", "7", "-g", "8"]);
    assert_eq!((&seen["gid"][0], &seen["groups"]), (&json!(6), &json!([7, 8])));
    let exec = |user: &str| host.migrate(&["exec", "--user", user, container.id(), "/workload", "inspect"]);
    exec("nobody").failed(255, &["unable to find user nobody"]);
    exec("0:nobody").failed(255, &["unable to find group nobody"]);
    fs::remove_file(etc("passwd")).expect("remove");
    nix::unistd::mkfifo(etc("passwd").as_str(), Mode::S_IRWXU).expect("mkfifo");
    exec("onlyhere").failed(255, &["/etc/passwd"]);
    assert_eq!(who("5").3, json!("/"), "nobody waits for a fifo");
    container.end();
    host.assert_no_trace();
}

#[test]
fn the_process_is_the_bundles_as_it_is_now_and_flags_go_before_it() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (bundle, container) = running(&stage, &host, |config| {
        config["process"]["env"] = json!(["A=old", "PATH=/"]);
        config["process"]["oomScoreAdj"] = json!(300);
    });
    let bundle = bundle.edit(|config| config["process"]["env"] = json!(["A=new", "B=config", "PATH=/"]));
    let seen = inspect(&host, &container, &["--env", "B=flag", "-e", "C=1", "-e", "C=2", "--cwd", "/tmp"]);
    let env = &seen["env"];
    assert_eq!((&env["A"], &env["B"], &env["C"]), (&json!("new"), &json!("flag"), &json!("2")));
    assert_eq!(seen["cwd"], json!("/tmp"));
    assert_eq!(seen["oom_score_adj"], json!("300"));
    let fails = |flags: &[&str], said: &str| {
        let args = [&["exec"], flags, &[container.id(), "/workload", "inspect"]].concat();
        host.migrate(&args).failed(255, &[said]);
    };
    fails(&["--env", "NOVALUE"], "must have the form NAME=value");
    fails(&["--cwd", "/nonexistent"], "chdir to cwd (\"/nonexistent\") set in config.json failed");
    let script = format!("{}/run.sh", bundle.rootfs());
    fs::write(&script, "#!/mmnnttbb foo bar\n").expect("write");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
    let said = host
        .migrate(&["exec", container.id(), "/run.sh"])
        .failed(255, &["exec /run.sh: no such file or directory"]);
    assert_eq!(said.lines().count(), 1, "{said}");
    fails(&["--process", &host.path("none")], "no such file");
    drop(bundle);
    container.end();
}

#[test]
fn what_a_described_process_leaves_open_is_the_containers() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = running(&stage, &host, |config| {
        config["process"]["oomScoreAdj"] = json!(200);
        config["process"]["user"]["umask"] = json!(0o077);
        config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
        config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 2});
        config["linux"]["personality"] = json!({"domain": "LINUX32"});
    });
    let first = inspect(&host, &container, &[]);
    let seen = inspect_process(&host, &container, &json!({}));
    for field in ["scheduling", "umask", "oom_score_adj", "rlimits"] {
        assert_eq!(seen[field], first[field], "{field}");
    }
    for field in ["CapBnd", "CapEff", "NoNewPrivs"] {
        assert_eq!(seen["status"][field], first["status"][field], "{field}");
    }
    assert_eq!(seen["scheduling"]["personality"], json!(8));
    let own = json!({
        "scheduler": {"policy": "SCHED_IDLE"},
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0},
        "oomScoreAdj": 250,
        "capabilities": {"bounding": ["CAP_KILL"]},
        "noNewPrivileges": false,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 60}],
        "user": {"uid": 0, "gid": 0, "umask": 2},
    });
    let seen = inspect_process(&host, &container, &own);
    assert_eq!(seen["scheduling"]["policy"], json!(5));
    assert_eq!(seen["scheduling"]["io_priority"], json!(3 << 13));
    assert_eq!(seen["oom_score_adj"], json!("250"));
    assert_eq!(seen["status"]["CapBnd"], json!("0000000000000020"));
    assert_eq!(seen["status"]["NoNewPrivs"], json!("0"));
    assert_eq!(seen["rlimits"]["Max open files"], json!(["50", "60"]));
    assert_eq!(seen["umask"], json!("0002"));
    container.end();
}

#[test]
fn processors_before_and_after_the_cgroup_is_entered() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = running(&stage, &host, |_| {});
    let allowed =
        |process: &Value| inspect_process(&host, &container, process)["status"]["Cpus_allowed_list"].clone();
    let all = allowed(&json!({}));
    assert_eq!(allowed(&json!({"execCPUAffinity": {"initial": "0"}})), all);
    assert_eq!(allowed(&json!({"execCPUAffinity": {"initial": "0", "final": "1"}})), json!("1"));
    assert_eq!(allowed(&json!({"execCPUAffinity": {"final": "0-1"}})), json!("0-1"));
    container.end();
}

#[test]
fn capabilities_are_added_and_are_ambient_only_where_inheritable() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = running(&stage, &host, |config| {
        config["process"]["capabilities"] = json!({
            "bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"],
            "inheritable": ["CAP_CHOWN"],
        });
    });
    let sets = |flags: &[&str]| {
        let seen = inspect(&host, &container, flags);
        ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| {
            u64::from_str_radix(seen["status"][set].as_str().expect("text"), 16).expect("hexadecimal")
        })
    };
    let (chown, kill, net_raw) = (1, 1 << 5, 1 << 13);
    let user = ["--user", "1000:1000"];
    // A user who is not root keeps through execve what is ambient.
    let bounded = chown | kill;
    assert_eq!(sets(&[&user[..], &["--cap", "CAP_NET_RAW"]].concat()), [chown, 0, 0, bounded | net_raw, 0]);
    assert_eq!(sets(&[&user[..], &["--cap", "CAP_CHOWN"]].concat()), [chown, chown, chown, bounded, chown]);
    assert_eq!(
        sets(&["--cap", "CAP_NET_RAW"])[2],
        kill | net_raw,
        "without new privileges, what it was given"
    );
    // One of a newer kernel's, or of none: the others count.
    assert_eq!(sets(&["--cap", "CAP_OF_THE_FUTURE", "--cap", "CAP_NET_RAW"])[2], kill | net_raw);
    container.end();
}

#[test]
fn a_cgroup_beneath_the_containers() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = running(&stage, &host, |_| {});
    for cgroup in host.cgroups() {
        fs::create_dir(cgroup.join("below")).expect("make a cgroup in the container's");
        for file in ["cpuset.cpus", "cpuset.mems"].iter().filter(|file| cgroup.join(file).exists()) {
            fs::copy(cgroup.join(file), cgroup.join("below").join(file)).expect("fill the cpuset");
        }
    }
    let places = |flags: &[&str]| {
        let seen = inspect(&host, &container, flags);
        let lines = seen["cgroups"].as_array().expect("a list").clone();
        lines.into_iter().map(|l| l.as_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    assert!(places(&[]).iter().all(|line| !line.ends_with("/below")));
    let ours = |line: &&String| !line.ends_with(":/");
    assert!(places(&["--cgroup", "below"]).iter().filter(ours).all(|line| line.ends_with("/below")));
    let pids: Vec<String> = places(&["--cgroup", "pids:/below"]);
    assert!(pids.iter().filter(|l| l.ends_with("/below")).all(|l| l.contains(":pids:")), "{pids:?}");
    assert_eq!(pids.iter().filter(|l| l.ends_with("/below")).count(), 1);
    let fails = |place: &str, said: &str| {
        host.migrate(&["exec", "--cgroup", place, container.id(), "/workload", "exit"]).failed(255, &[said]);
    };
    fails("..", "bad sub cgroup path");
    fails("none", " adding pid ");
    fails("none", "/none/cgroup.procs: no such file or directory");
    fails("pids:none", "o such file or directory");
    fails("whaaat:/below", "unknown controller ");
    container.end();
    host.assert_no_trace();
}

#[test]
fn pid_file_and_pidfd_are_there_when_the_command_returns() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = running(&stage, &host, |_| {});
    let (pid_file, socket) = (host.path("pid"), host.path("pidfd.sock"));
    let listener = UnixListener::bind(&socket).expect("bind");
    let flags = ["-d", "--pid-file", &pid_file, "--pidfd-socket", &socket];
    let program = ["/workload", "counter", "--status", "/state/second"];
    host.migrate_detached(&[&["exec"], &flags[..], &[container.id()], &program].concat());
    let pid = fs::read_to_string(&pid_file).expect("the pid file is there");
    assert!(host.processes().iter().any(|(number, _)| number.to_string() == pid));
    let (word, _pidfd) = receive_descriptor(&listener);
    assert_eq!(word, "setns");
    // Nothing runs when nobody can be told of it.
    let args = ["exec", "-d", "--pid-file", "/nonexistent/pid", container.id(), "/workload", "counter"];
    host.migrate(&[&args[..], &["--status", "/state/third"]].concat()).failed(255, &["pid file"]);
    assert_eq!(host.processes().len(), 2, "{:?}", host.processes());
    container.kill("KILL");
    container.stops();
    host.migrate(&["delete", container.id()]).succeeded();
    host.assert_no_trace();
}

#[test]
fn a_deadline_and_what_the_debug_log_says() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = running(&stage, &host, |_| {});
    let scheduler = json!({"policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RESET_ON_FORK"], "nice": 19,
        "priority": 0, "runtime": 42_000, "deadline": 100_000, "period": 1_000_000});
    let seen = inspect_process(&host, &container, &json!({"scheduler": scheduler}));
    assert_eq!(seen["scheduling"]["policy"], json!(6 | 0x4000_0000));

    let file = host.path("bound.json");
    let process = json!({"args": ["/workload", "exit"], "cwd": "/", "execCPUAffinity": {"initial": "1"}});
    fs::write(&file, process.to_string()).expect("write");
    let (program, root) = (migrate(), host.state_root());
    let args = [&program, "--root", &root, "--debug", "exec", "--process", &file, container.id()];
    let output = host.command(&args).run();
    assert_eq!(output.code, 0, "{output:?}");
    for said in [
        "level=debug",
        "nsexec container setup",
        ": affinity: 0x2",
        "child process in init()",
        "about to exec",
    ] {
        assert!(output.stderr.contains(said), "{said:?}: {output:?}");
    }
    container.end();
}

#[test]
fn a_process_waits_at_a_fifo_until_it_is_read() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (bundle, container) = running(&stage, &host, |_| {});
    let (fifo, pid_file, marker) =
        (host.path("fifo"), host.path("pid"), format!("{}/state/second", bundle.rootfs()));
    nix::unistd::mkfifo(fifo.as_str(), Mode::S_IRWXU).expect("mkfifo");
    let flags = ["exec", "-d", "--pid-file", &pid_file, "--exec-wait-fifo", &fifo, container.id()];
    host.migrate_detached(&[&flags[..], &["/workload", "counter", "--status", "/state/second"]].concat());
    assert!(fs::exists(&pid_file).expect("stat"), "the command has returned, and the process is there");
    assert!(!fs::exists(&marker).expect("stat"), "it does not run");
    fs::read(&fifo).expect("read the fifo");
    wait_until(PATIENCE, "the process runs", || {
        if fs::exists(&marker).expect("stat") { Ok(()) } else { Err(()) }
    });
    for (path, said) in [(&pid_file, "is not a fifo"), (&host.path("none"), "failed to open exec wait fifo")]
    {
        let args = ["exec", "--exec-wait-fifo", path, container.id(), "/workload", "exit"];
        host.migrate(&args).failed(255, &[said]);
    }
    container.kill("KILL");
    container.stops();
    host.migrate(&["delete", container.id()]).succeeded();
    host.assert_no_trace();
}

#[test]
fn preserved_descriptors_and_those_of_a_service_manager() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = running(&stage, &host, |_| {});
    let file = host.path("file");
    fs::write(&file, "hello").expect("write");
    let (program, root) = (migrate(), host.state_root());
    let exec = |script: &str, flags: &[&str]| {
        let script = format!("{script}; exec \"$@\"");
        let before = ["sh", "-c", &script, "sh", &program, "--root", &root, "exec"];
        let text = host.command(&[&before, flags, &[container.id(), "/workload", "inspect"]].concat()).run();
        serde_json::from_str::<Value>(&text.succeeded()).expect("JSON")
    };
    let seen = exec(&format!("exec 3</dev/null 4<{file} 5<{file}"), &["--preserve-fds=2"]);
    let numbers: Vec<&String> = seen["fds"].as_object().expect("an object").keys().collect();
    assert_eq!(numbers, ["0", "1", "2", "3", "4"]);
    assert_eq!(seen["fds"]["4"], json!(file));
    let seen = exec(&format!("exec 3<{file}; export LISTEN_FDS=1 LISTEN_PID=$$"), &[]);
    assert_eq!(seen["fds"]["3"], json!(file));
    assert_eq!((&seen["env"]["LISTEN_FDS"], &seen["env"]["LISTEN_PID"]), (&json!("1"), &json!("1")));
    container.end();
}

#[test]
fn labels_of_a_security_module_that_is_off_are_refused_or_ignored_by_name() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = running(&stage, &host, |_| {});
    for (flag, field) in [("--apparmor", "apparmor"), ("--process-label", "selinux")] {
        let output = host.migrate(&["exec", flag, "x", container.id(), "/workload", "exit"]);
        assert_eq!(output.code, 255, "{flag}: {output:?}");
        assert!(output.stderr.to_lowercase().contains(field), "{flag}: {output:?}");
    }
    container.end();
}
