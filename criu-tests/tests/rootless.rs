// SPDX-License-Identifier: Apache-2.0
//! `migrate` for a caller who is not root: with a user namespace, and without cgroups.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};

use criu_tests::{Bundle, Command, Host, Need, Output, Stage, migrate};
use serde_json::{Value, json};

/// A user whom nobody knows by name.
const CALLER: u32 = 54_321;

/// A user of a host, who has a runtime directory and a copy of the program: the original may lie where he cannot go.
struct User<'h> {
    host: &'h Host,
    program: String,
    runtime_directory: String,
}

impl<'h> User<'h> {
    fn on(host: &'h Host) -> Self {
        let (program, runtime_directory) = (host.path("migrate"), host.path("runtime"));
        fs::copy(migrate(), &program).expect("copy the program");
        fs::create_dir(&runtime_directory).expect("make the runtime directory");
        chown(&runtime_directory, Some(CALLER), Some(CALLER)).expect("give it away");
        Self { host, program, runtime_directory }
    }

    fn command(&self, args: &[&str]) -> Command {
        let caller = CALLER.to_string();
        let change = ["setpriv", "--reuid", &caller, "--regid", &caller, "--clear-groups", &self.program];
        let command = self.host.command(&[&change, args].concat());
        command.environment(&[("XDG_RUNTIME_DIR", &self.runtime_directory), ("PATH", "/usr/bin:/bin")])
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> Output {
        self.command(args).run()
    }

    #[track_caller]
    fn run_detached(&self, args: &[&str]) {
        let output = self.command(args).without_stdio().run();
        assert_eq!(output.code, 0, "{args:?}");
    }

    /// A bundle as `spec --rootless` makes it for this user.
    fn bundle(&self, name: &str, args: &[&str]) -> Bundle {
        let bundle = Bundle::new(self.host, name, args);
        fs::remove_file(bundle.config()).expect("remove root's configuration");
        chown(bundle.path(), Some(CALLER), Some(CALLER)).expect("give the bundle away");
        let bundle = bundle.give_to(CALLER);
        self.run(&["spec", "--rootless", "-b", &bundle.path()]).succeeded();
        bundle.edit(|config| {
            config["process"]["terminal"] = json!(false);
            config["process"]["args"] = json!([&["/workload"], args].concat());
            config["root"]["readonly"] = json!(false);
        })
    }
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("not JSON: {e}\n{text}"))
}

#[test]
fn what_a_container_without_root_sees() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let user = User::on(&host);
    let probes = [
        "--read",
        "/proc/self/uid_map",
        "--read",
        "/proc/self/setgroups",
        "--stat",
        "/",
        "--stat",
        "/dev/null",
        "--write",
        "/dev/null",
        "--write",
        "/dev/stdout",
        "--write",
        "/root/made",
        "--write",
        "/sys/made",
    ];
    let bundle = user.bundle("inspect", &[&["inspect"], &probes[..]].concat());
    let seen = parse(&user.run(&["run", "-b", &bundle.path(), &stage.id("inspect")]).succeeded());
    let map: Vec<&str> =
        seen["read"]["/proc/self/uid_map"]["ok"].as_str().expect("text").split_whitespace().collect();
    assert_eq!(map, ["0", "54321", "1"]);
    assert_eq!(seen["read"]["/proc/self/setgroups"]["ok"], json!("deny\n"));
    assert_eq!((&seen["uid"], &seen["gid"]), (&json!([0, 0, 0]), &json!([0, 0, 0])));
    assert_eq!(seen["stat"]["/"]["ok"]["uid"], json!(0));
    assert_eq!(seen["stat"]["/dev/null"]["ok"]["device"], json!([1, 3]));
    for path in ["/dev/null", "/dev/stdout", "/root/made"] {
        assert_eq!(seen["write"][path]["ok"], json!("done"), "{path}: {}", seen["write"][path]);
    }
    assert!(seen["write"]["/sys/made"]["errno"].is_number());
    let mounts = seen["mounts"].as_array().expect("a list");
    // Those of the caller, over those that came with the host's /sys.
    let is_cgroup = |m: &&Value| ["cgroup", "cgroup2"].contains(&m["type"].as_str().expect("text"));
    let top = |m: &&Value| m["destination"] == json!("/sys/fs/cgroup");
    for last in [mounts.iter().rfind(top), mounts.iter().rfind(is_cgroup)] {
        let last = last.expect("it is mounted");
        assert!(last["options"].as_array().expect("a list").contains(&json!("ro")), "{last}");
    }
    assert_eq!(fs::metadata(format!("{}/root/made", bundle.rootfs())).expect("made").uid(), CALLER);
    let descriptors: Vec<&String> = seen["fds"].as_object().expect("an object").keys().collect();
    assert_eq!(descriptors, ["0", "1", "2"], "nothing of the runtime leaks: {}", seen["fds"]);
    host.assert_no_trace();
}

#[test]
fn the_commands_work_without_root() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let user = User::on(&host);
    let (id, bundle) = (stage.id("web"), user.bundle("web", &["counter", "--status", Bundle::STATUS]));
    user.run_detached(&["create", "-b", &bundle.path(), &id]);
    assert_eq!(parse(&user.run(&["state", &id]).succeeded())["status"], json!("created"));
    user.run(&["start", &id]).succeeded();
    host.container(&id, &bundle.rootfs()).reports();
    let root = fs::metadata(format!("{}/migrate", user.runtime_directory)).expect("the state root");
    assert_eq!((root.mode() & 0o7777, root.uid()), (0o1700, CALLER), "private, and not to be tidied up");
    let state = parse(&user.run(&["state", &id]).succeeded());
    assert_eq!((&state["status"], &state["owner"]), (&json!("running"), &json!("#54321")));
    assert_eq!(user.run(&["list", "-q"]).succeeded().trim(), id);
    let text = user.run(&["exec", &id, "/workload", "inspect", "--write", "/dev/stdout"]).succeeded();
    let seen = parse(&text);
    let own = host.command(&["readlink", &format!("/proc/{}/ns/user", state["pid"])]).run().succeeded();
    assert_eq!(seen["namespaces"]["user"], json!(own.trim()));
    assert_eq!(seen["uid"], json!([0, 0, 0]));
    assert_eq!(seen["write"]["/dev/stdout"]["ok"], json!("done"));
    user.run(&["exec", "-g", "5", &id, "/workload", "inspect"])
        .failed(255, &["cannot set any additional groups"]);
    user.run(&["pause", &id]).failed(1, &["has no cgroup"]);
    user.run(&["checkpoint", "--export", &format!("{}/web.tar", user.runtime_directory), &id])
        .failed(1, &["checkpoint and restore need root"]);
    user.run(&["kill", &id, "TERM"]).succeeded();
    criu_tests::wait_until(criu_tests::PATIENCE, "the container stops", || {
        match parse(&user.run(&["state", &id]).succeeded())["status"].as_str() {
            Some("stopped") => Ok(()),
            other => Err(other.map(str::to_owned)),
        }
    });
    user.run(&["kill", "--all", &id, "0"]).succeeded();
    user.run(&["delete", &id]).succeeded();
    user.run_detached(&["run", "-d", "-b", &bundle.path(), &id]);
    user.run(&["kill", "--all", &id, "0"]).succeeded();
    user.run(&["delete", "--force", &id]).succeeded();
    assert_eq!(user.run(&["list", "-q"]).succeeded(), "");
    host.assert_no_trace();
}

/// The cgroup that a container is put into by default is named after it, whoever makes it.
#[test]
fn a_container_of_root_is_not_in_the_way_of_a_users_of_the_same_name() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let user = User::on(&host);
    let (_bundle, container) = host.run_small(&stage.id("same"));
    let bundle = user.bundle("same", &["inspect"]);
    user.run(&["run", "-b", &bundle.path(), container.id()]).succeeded();
    container.end();
    host.assert_no_trace();
}

/// Cgroups of version 1 that were given to the caller. The unified hierarchy of a hybrid host was not, and is left out.
#[test]
fn limits_are_set_in_cgroups_that_the_caller_was_given() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let user = User::on(&host);
    let (id, given) = (stage.id("limited"), stage.id("given"));
    let hierarchies = fs::read_dir("/sys/fs/cgroup").expect("list").map(|entry| entry.expect("list").path());
    let given_in: Vec<_> =
        hierarchies.filter(|h| h.join("tasks").exists()).map(|hierarchy| hierarchy.join(&given)).collect();
    // On a host with cgroup v2 alone nothing can be given in this way.
    if given_in.is_empty() {
        return;
    }
    for cgroup in &given_in {
        fs::create_dir(cgroup).expect("make a cgroup");
        for file in ["cpuset.cpus", "cpuset.mems"].iter().filter(|file| cgroup.join(file).exists()) {
            fs::copy(cgroup.with_file_name(file), cgroup.join(file)).expect("fill the cpuset");
        }
        for given in ["", "cgroup.procs", "tasks"] {
            chown(cgroup.join(given), Some(CALLER), Some(CALLER)).expect("give it away");
        }
    }
    let bundle = user.bundle("limited", &["counter", "--status", Bundle::STATUS]).edit(|config| {
        config["linux"]["cgroupsPath"] = json!(format!("/{given}/{id}"));
        config["linux"]["resources"] = json!({"pids": {"limit": 7}});
    });
    user.run_detached(&["run", "-d", "-b", &bundle.path(), &id]);
    host.container(&id, &bundle.rootfs()).reports();
    assert_eq!(host.cgroup_value(&id, "pids.max", "pids.max"), "7");
    user.run(&["exec", &id, "/workload", "exit"]).succeeded();
    user.run(&["update", "--pids-limit", "8", &id]).succeeded();
    assert_eq!(host.cgroup_value(&id, "pids.max", "pids.max"), "8");
    user.run(&["pause", &id]).succeeded();
    user.run(&["resume", &id]).succeeded();
    user.run(&["delete", "--force", &id]).succeeded();
    given_in.iter().for_each(|cgroup| fs::remove_dir(cgroup).expect("the container's is gone"));
    host.assert_no_trace();
}

/// As under an engine that has gone into a user namespace by itself: root there, and with no right outside of it.
#[test]
fn root_of_a_user_namespace_runs_containers_with_and_without_another_one() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let user = User::on(&host);
    let probes = ["inspect", "--read", "/proc/self/uid_map", "--write", "/dev/null", "--write", "/root/made"];
    for with_another in [false, true] {
        let bundle = user.bundle("inner", &probes).edit(|config| {
            let linux = &mut config["linux"];
            if with_another {
                for map in ["uidMappings", "gidMappings"] {
                    linux[map][0]["hostID"] = json!(0);
                }
            } else {
                linux["namespaces"].as_array_mut().expect("a list").retain(|n| n["type"] != json!("user"));
                (linux["uidMappings"], linux["gidMappings"]) = (json!([]), json!([]));
            }
        });
        let caller = CALLER.to_string();
        let (path, id) = (bundle.path(), stage.id("inner"));
        let argv = [
            &["setpriv", "--reuid", &caller, "--regid", &caller, "--clear-groups"][..],
            &["unshare", "--map-root-user", "--mount", &user.program, "run", "-b", &path, &id],
        ];
        let command = host.command(&argv.concat());
        let variables = [
            ("XDG_RUNTIME_DIR", user.runtime_directory.as_str()),
            ("PATH", "/usr/bin:/bin"),
            ("USER", "caller"),
        ];
        let seen = parse(&command.environment(&variables).run().succeeded());
        assert_eq!(seen["uid"], json!([0, 0, 0]));
        let map = seen["read"]["/proc/self/uid_map"]["ok"].as_str().expect("text");
        let first = if with_another { "0" } else { "54321" };
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", first, "1"]);
        for path in ["/dev/null", "/root/made"] {
            assert_eq!(seen["write"][path]["ok"], json!("done"), "{path}: {}", seen["write"][path]);
        }
        bundle.remove();
    }
    assert!(
        fs::exists(format!("{}/migrate", user.runtime_directory)).expect("look"),
        "the caller's own state root"
    );
    host.assert_no_trace();
}

#[test]
fn a_machine_without_user_namespaces_is_named() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let user = User::on(&host);
    let bundle = user.bundle("none", &["inspect"]).edit(|config| {
        for map in ["uidMappings", "gidMappings"] {
            config["linux"][map][0]["hostID"] = json!(0);
        }
    });
    // The limit of a user namespace of our own, beneath which there is none then.
    let script = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces && exec {} --root {} run -b {} {}",
        user.program,
        host.state_root(),
        bundle.path(),
        stage.id("none")
    );
    let output = host.command(&["unshare", "--map-root-user", "--mount", "sh", "-c", &script]).run();
    let said = output.failed(1, &["unshare(CLONE_NEWUSER)", "no space left"]);
    assert!(said.contains("user.max_user_namespaces"), "{said}");
    host.assert_no_trace();
}

/// `/etc/subuid` and `/etc/subgid` give the caller ids besides its own, which newuidmap(1) and newgidmap(1) map for it.
#[test]
fn further_ids_are_mapped_by_those_who_may() {
    let Some(stage) = Stage::set(&[Need::Uidmap]) else { return };
    let host = stage.host("a");
    let user = User::on(&host);
    for (name, text) in [
        ("passwd", format!("root:x:0:0::/root:/bin/sh\ncaller:x:{CALLER}:{CALLER}::/:/bin/sh\n")),
        ("subuid", "caller:300000:100\n".to_owned()),
        ("subgid", "caller:400000:100\n".to_owned()),
    ] {
        let file = host.path(name);
        fs::write(&file, text).expect("write");
        host.command(&["mount", "--bind", &file, &format!("/etc/{name}")]).run().succeeded();
    }
    let (id, bundle) = (stage.id("web"), user.bundle("web", &["counter", "--status", Bundle::STATUS]));
    let map = |first: u32| json!([{ "containerID": 0, "hostID": CALLER, "size": 1 }, { "containerID": 1, "hostID": first, "size": 100 }]);
    let bundle = bundle.edit(|config| {
        config["linux"]["uidMappings"] = map(300_000);
        config["linux"]["gidMappings"] = map(400_000);
        config["process"]["user"] = json!({ "uid": 5, "gid": 6, "additionalGids": [7] });
    });
    chown(format!("{}/state", bundle.rootfs()), Some(300_004), Some(400_005)).expect("chown");
    user.run_detached(&["run", "-d", "-b", &bundle.path(), &id]);
    host.container(&id, &bundle.rootfs()).reports();
    let text = user
        .run(&["exec", "-g", "8", &id, "/workload", "inspect", "--read", "/proc/self/gid_map"])
        .succeeded();
    let seen = parse(&text);
    assert_eq!((&seen["uid"], &seen["gid"]), (&json!([5, 5, 5]), &json!([6, 6, 6])));
    assert_eq!(seen["groups"], json!([7, 8]));
    let lines = seen["read"]["/proc/self/gid_map"]["ok"].as_str().expect("text").lines();
    let words: Vec<Vec<&str>> = lines.map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words, [["0", "54321", "1"], ["1", "400000", "100"]]);
    user.run(&["delete", "--force", &id]).succeeded();
    host.command(&["umount", "/etc/passwd", "/etc/subuid", "/etc/subgid"]).run().succeeded();
    host.assert_no_trace();
}

#[test]
fn what_needs_root_is_refused_by_name() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let user = User::on(&host);
    type Edit = fn(&mut Value);
    let table: [(Edit, &[&str]); 7] = [
        (
            |c| {
                c["linux"]["namespaces"]
                    .as_array_mut()
                    .expect("a list")
                    .retain(|n| n["type"] != json!("user"));
            },
            &["user namespace isn't enabled"],
        ),
        (
            |c| {
                c["linux"]["namespaces"]
                    .as_array_mut()
                    .expect("a list")
                    .retain(|n| n["type"] != json!("user"));
                c["linux"]["uidMappings"] = json!([]);
                c["linux"]["gidMappings"] = json!([]);
            },
            &["linux.namespaces", "rootless container requires user namespaces"],
        ),
        (
            |c| c["process"]["user"]["additionalGids"] = json!([0]),
            &["process.user.additionalGids", "cannot set any additional groups in a rootless container"],
        ),
        (
            |c| c["mounts"][2]["options"] = json!(["gid=5"]),
            &["mounts[2].options", "cannot specify gid=5 mount option for rootless container"],
        ),
        (|c| c["linux"]["resources"] = json!({ "pids": { "limit": 5 } }), &["cgroup", "permission denied"]),
        (
            |c| c["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": 1, "size": 1 }]),
            &["uid_map is refused to this caller", "newuidmap"],
        ),
        (
            |c| {
                c["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "network"}));
                c["linux"]["netDevices"] = json!({"eth0": {}});
            },
            &["linux.netDevices", "network devices are not supported for rootless containers"],
        ),
    ];
    for (edit, fragments) in table {
        let bundle = user.bundle("wrong", &["inspect"]).edit(edit);
        user.run(&["run", "-b", &bundle.path(), &stage.id("wrong")]).failed(1, fragments);
        bundle.remove();
    }
    let bundle = user.bundle("strict", &["inspect"]);
    let strict = user.run(&["--rootless", "false", "run", "-b", &bundle.path(), &stage.id("strict")]);
    strict.failed(1, &["cgroup", "permission denied"]);
    host.assert_no_trace();
}
