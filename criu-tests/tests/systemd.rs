// SPDX-License-Identifier: Apache-2.0
//! Cgroups that systemd makes (`--systemd-cgroup`): a real systemd, on cgroup v2 and on a hybrid.

use criu_tests::{Bundle, Cgroups, Need, PATIENCE, Stage, Systemd, wait_until};
use serde_json::json;

/// Runs a test on a host of each kind.
fn on_each(needs: &[Need], test: impl Fn(&Stage, &criu_tests::Host, &Systemd<'_>, Cgroups)) {
    let needs = [needs, &[Need::Systemd]].concat();
    for cgroups in Cgroups::all() {
        let Some(stage) = Stage::set(&needs) else { return };
        let host = stage.host("a");
        let systemd = Systemd::start(&host, cgroups);
        test(&stage, &host, &systemd, cgroups);
        drop(systemd);
    }
}

#[test]
fn a_container_is_a_scope_from_run_to_delete() {
    on_each(&[], |stage, host, systemd, _| {
        let bundle = Bundle::of_workload(host, "counter", &[]).edit(|config| {
            // It sees where it is.
            let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
            namespaces.retain(|namespace| namespace["type"] != "cgroup");
        });
        let id = stage.id("web");
        let unit = format!("runc-{id}.scope");
        let cgroup = format!("/system.slice/{unit}");
        // Twice: nothing is left that would be in the way.
        for _ in 0..2 {
            systemd.run_detached(&id, &bundle);
            assert_eq!(systemd.property(&unit, "ActiveState"), "active");
            assert_eq!(systemd.property(&unit, "ControlGroup"), cgroup);
            assert_eq!(systemd.property(&unit, "Slice"), "system.slice");
            assert_eq!(systemd.property(&unit, "Delegate"), "yes");
            assert_eq!(systemd.property(&unit, "Description"), format!("libcontainer container {id}"));
            // The first process is alone there: what stood in for it is gone.
            let pid = systemd.state(&id)["pid"].to_string();
            assert_eq!(systemd.cgroup_file("systemd", &cgroup, "cgroup.procs"), pid);
            // Later commands know by themselves.
            let inside =
                systemd.migrate(&["exec", &id, "/workload", "inspect", "--read", "/proc/self/cgroup"]);
            let inside: serde_json::Value = serde_json::from_str(&inside.succeeded()).expect("JSON");
            let lines = inside["read"]["/proc/self/cgroup"]["ok"].as_str().expect("text");
            assert!(lines.lines().any(|line| line.ends_with(&cgroup)), "{lines}");
            systemd.migrate(&["delete", "--force", &id]).succeeded();
            assert_eq!(systemd.property(&unit, "LoadState"), "not-found");
            for controller in ["systemd", "memory", "freezer", "unified"] {
                let path = systemd.cgroup_path(controller, &cgroup);
                assert_ne!(systemd.command(&["test", "-e", &path]).run().code, 0, "{path} is left");
            }
        }
    });
}

#[test]
fn limits_are_the_unit_s_and_the_cgroup_s() {
    on_each(&[], |stage, host, systemd, cgroups| {
        let id = stage.id("web");
        let unit = format!("lab-{id}.scope");
        let bundle = Bundle::of_workload(host, "counter", &[]).edit(|config| {
            config["linux"]["cgroupsPath"] = json!(format!("machine-lab.slice:lab:{id}"));
            config["annotations"] = json!({"org.systemd.property.TimeoutStopSec": "7"});
            if cgroups == Cgroups::Hybrid {
                config["linux"]["resources"] = json!({
                    "memory": {"limit": 33_554_432}, "cpu": {"shares": 512, "quota": 12_345, "period": 100_000},
                    "pids": {"limit": 20},
                });
            }
        });
        systemd.run_detached(&id, &bundle);
        let property = |name: &str| systemd.property(&unit, name);
        let cgroup = format!("/machine.slice/machine-lab.slice/{unit}");
        assert_eq!(property("ControlGroup"), cgroup);
        assert_eq!(property("TimeoutStopUSec"), "7s");
        assert_eq!(property("DevicePolicy"), "strict");
        assert!(property("DeviceAllow").contains("/dev/char/1:3 rwm"), "{}", property("DeviceAllow"));
        if cgroups == Cgroups::Hybrid {
            let file = |controller: &str, name: &str| systemd.cgroup_file(controller, &cgroup, name);
            assert_eq!(
                (property("MemoryLimit"), property("CPUShares")),
                ("33554432".to_owned(), "512".to_owned())
            );
            // systemd knows whole percents, the kernel what was asked for.
            assert_eq!(property("CPUQuotaPerSecUSec"), "130ms");
            assert_eq!(file("cpu", "cpu.cfs_quota_us"), "12345");
            assert_eq!(file("memory", "memory.limit_in_bytes"), "33554432");

            systemd.migrate(&["update", "--memory", "67108864", "--pids-limit", "30", &id]).succeeded();
            assert_eq!(
                (property("MemoryLimit"), property("TasksMax")),
                ("67108864".to_owned(), "30".to_owned())
            );
            assert_eq!(file("memory", "memory.limit_in_bytes"), "67108864");
            assert_eq!(file("pids", "pids.max"), "30");
            // A limit that the kernel does not take leaves both as they were.
            systemd
                .migrate(&["update", "--memory", "4096", &id])
                .failed(1, &["linux.resources.memory.limit"]);
            assert_eq!(property("MemoryLimit"), "67108864");
            systemd
                .migrate(&["update", "--cpuset-cpus", "4000", &id])
                .failed(1, &["linux.resources.cpu.cpus"]);
            assert_eq!(property("AllowedCPUs"), "");
            // What systemd writes again is what it was told.
            systemd.command(&["systemctl", "daemon-reload"]).run().succeeded();
            assert_eq!(file("memory", "memory.limit_in_bytes"), "67108864");
            assert_eq!(file("pids", "pids.max"), "30");
        }
        systemd.migrate(&["pause", &id]).succeeded();
        assert_eq!(systemd.state(&id)["status"], "paused");
        systemd.migrate(&["resume", &id]).succeeded();
        systemd.migrate(&["events", "--stats", &id]).succeeded();
        systemd.migrate(&["delete", "--force", &id]).succeeded();
    });
}

/// On a machine with v1 no controller of worth is left for v2: this is for the machines of `scripts/vm-lab`.
#[test]
fn limits_on_v2_are_the_unit_s_and_the_cgroup_s() {
    on_each(&[], |stage, host, systemd, cgroups| {
        if cgroups != Cgroups::Unified || !systemd.has_unified("memory") {
            return;
        }
        let id = stage.id("web");
        let unit = format!("runc-{id}.scope");
        let cgroup = format!("/system.slice/{unit}");
        let bundle = Bundle::of_workload(host, "counter", &[]).edit(|config| {
            config["linux"]["resources"] = json!({
                "memory": {"limit": 33_554_432, "reservation": 16_777_216},
                "cpu": {"shares": 512, "quota": 12_345, "period": 100_000},
                "pids": {"limit": 20}, "unified": {"memory.high": "30000000"},
            });
        });
        systemd.run_detached(&id, &bundle);
        let expect = |properties: &[(&str, &str)], files: &[(&str, &str)]| {
            for (name, value) in properties {
                assert_eq!(systemd.property(&unit, name), *value, "{name}");
            }
            for (file, value) in files {
                assert_eq!(systemd.cgroup_file("", &cgroup, file), *value, "{file}");
            }
        };
        expect(
            &[
                ("MemoryMax", "33554432"),
                ("MemoryLow", "16777216"),
                ("MemoryHigh", "30000000"),
                ("CPUQuotaPerSecUSec", "130ms"),
                ("TasksMax", "20"),
            ],
            &[("memory.max", "33554432"), ("cpu.max", "12345 100000"), ("pids.max", "20")],
        );
        systemd.migrate(&["update", "--memory", "67108864", "--cpu-quota", "20000", &id]).succeeded();
        let after = [("memory.max", "67108864"), ("cpu.max", "20000 100000"), ("pids.max", "20")];
        expect(&[("MemoryMax", "67108864"), ("CPUQuotaPerSecUSec", "200ms")], &after);
        systemd.command(&["systemctl", "daemon-reload"]).run().succeeded();
        expect(&[], &after);
        systemd.migrate(&["delete", "--force", &id]).succeeded();
    });
}

#[test]
fn one_task_is_enough_where_only_one_may_be() {
    on_each(&[], |stage, host, systemd, cgroups| {
        if cgroups == Cgroups::Unified && !systemd.has_unified("pids") {
            return;
        }
        let bundle = Bundle::of_workload(host, "counter", &[])
            .edit(|config| config["linux"]["resources"]["pids"] = json!({"limit": 1}));
        let id = stage.id("one");
        systemd.run_detached(&id, &bundle);
        let cgroup = format!("/system.slice/runc-{id}.scope");
        assert_eq!(systemd.cgroup_file("pids", &cgroup, "pids.max"), "1");
        systemd.migrate(&["delete", "--force", &id]).succeeded();
    });
}

#[test]
fn a_restored_container_is_in_a_scope_again() {
    on_each(&[Need::Criu], |stage, host, systemd, _| {
        let bundle = Bundle::of_workload(host, "counter", &[]);
        let id = stage.id("web");
        let unit = format!("runc-{id}.scope");
        let images = host.path("images");
        systemd.run_detached(&id, &bundle);
        wait_until(PATIENCE, "the workload reports", || {
            let reports = std::fs::read_to_string(format!("{}/state/status", bundle.rootfs()));
            reports.ok().filter(|text| !text.is_empty()).ok_or(())
        });
        systemd.migrate(&["checkpoint", "--image-path", &images, &id]).succeeded();
        assert_eq!(systemd.property(&unit, "LoadState"), "not-found");
        let restore = ["restore", "-d", "--image-path", &images, "-b", &bundle.path(), &id];
        systemd.migrate_detached(&[&["--systemd-cgroup"], &restore[..]].concat());
        assert_eq!(systemd.property(&unit, "ActiveState"), "active");
        let pid = systemd.state(&id)["pid"].to_string();
        let cgroup = format!("/system.slice/{unit}");
        assert_eq!(systemd.cgroup_file("systemd", &cgroup, "cgroup.procs"), pid);
        systemd.migrate(&["delete", "--force", &id]).succeeded();
        assert_eq!(systemd.property(&unit, "LoadState"), "not-found");

        // In another slice.
        let bundle = bundle.edit(|config| {
            config["linux"]["cgroupsPath"] = json!(format!("machine.slice:moved:{id}"));
        });
        systemd.run_detached(&id, &bundle);
        wait_until(PATIENCE, "the workload reports", || {
            let reports = std::fs::read_to_string(format!("{}/state/status", bundle.rootfs()));
            reports.ok().filter(|text| !text.is_empty()).ok_or(())
        });
        systemd.migrate(&["checkpoint", "--image-path", &images, &id]).succeeded();
        systemd.migrate_detached(&[&["--systemd-cgroup"], &restore[..]].concat());
        let unit = format!("moved-{id}.scope");
        assert_eq!(systemd.property(&unit, "ActiveState"), "active");
        let cgroup = format!("/machine.slice/{unit}");
        let pid = systemd.state(&id)["pid"].to_string();
        assert_eq!(systemd.cgroup_file("systemd", &cgroup, "cgroup.procs"), pid);
        systemd.migrate(&["delete", "--force", &id]).succeeded();
        assert_eq!(systemd.property(&unit, "LoadState"), "not-found");
    });
}

#[test]
fn what_fails_leaves_no_unit() {
    on_each(&[], |stage, host, systemd, _| {
        let id = stage.id("web");
        let unit = format!("runc-{id}.scope");
        let bundle = Bundle::of_workload(host, "counter", &[]);
        let run =
            |bundle: &Bundle| systemd.migrate(&["--systemd-cgroup", "run", "-d", "-b", &bundle.path(), &id]);

        let broken = Bundle::new(host, "broken", &["counter", "--status", Bundle::STATUS])
            .edit(|config| config["process"]["args"] = json!(["/nonexistent"]));
        run(&broken).failed(1, &["/nonexistent"]);
        assert_eq!(systemd.property(&unit, "LoadState"), "not-found");

        let path = Bundle::new(host, "path", &["counter", "--status", Bundle::STATUS])
            .edit(|config| config["linux"]["cgroupsPath"] = json!("/a/b"));
        run(&path).failed(1, &["expected cgroupsPath to be of format \"slice:prefix:name\""]);

        let annotation = Bundle::new(host, "annotation", &["counter", "--status", Bundle::STATUS])
            .edit(|config| config["annotations"] = json!({"org.systemd.property.NoSuchThing": "'x'"}));
        run(&annotation).failed(1, &["unable to start unit", "NoSuchThing"]);
        assert_eq!(systemd.property(&unit, "LoadState"), "not-found");

        // Another's unit of that name stays.
        let other = format!("--unit={unit}");
        systemd.command(&["systemd-run", "--slice=other.slice", "--scope", &other, "sleep", "1000"]).start();
        wait_until(PATIENCE, "the other's unit is there", || {
            let state = systemd.property(&unit, "ActiveState");
            if state == "active" { Ok(()) } else { Err(state) }
        });
        run(&bundle).failed(1, &["unable to start unit"]);
        assert_eq!(systemd.property(&unit, "ActiveState"), "active");
    });
}

#[test]
fn without_a_bus_systemd_is_asked_by_itself() {
    on_each(&[], |stage, host, systemd, _| {
        let bundle = Bundle::of_workload(host, "counter", &[]);
        let id = stage.id("web");
        systemd.command(&["systemctl", "stop", "dbus.socket", "dbus.service"]).run().succeeded();
        systemd.run_detached(&id, &bundle);
        assert_eq!(systemd.property(&format!("runc-{id}.scope"), "ActiveState"), "active");
        systemd.migrate(&["delete", "--force", &id]).succeeded();
    });
}

#[test]
fn podman_has_its_cgroups_made_by_systemd() {
    on_each(&[Need::Podman], |stage, host, systemd, cgroups| {
        // Podman limits what its containers may have of processes.
        if cgroups == Cgroups::Unified && !systemd.has_unified("pids") {
            return;
        }
        let bundle = Bundle::of_workload(host, "counter", &[]);
        systemd.command(&["mount", "-t", "tmpfs", "locks", "/dev/shm"]).run().succeeded();
        let (program, store, name) = (criu_tests::migrate(), host.path("store"), stage.id("web"));
        let podman = |args: &[&str]| {
            let global = ["podman", "--root", &store, "--runroot", "/run/store", "--events-backend=file"];
            let driver = ["--cgroup-manager=systemd", "--runtime", &program];
            systemd.command(&[&global[..], &driver, args].concat()).run()
        };
        let rootfs = bundle.rootfs();
        let run = [
            "run",
            "-d",
            "--network=none",
            "--log-driver=k8s-file",
            "--ulimit=nproc=1024",
            "--ulimit=nofile=1024",
        ];
        let container =
            ["--memory=64m", "--name", &name, "--rootfs", &rootfs, "/workload", "counter", "--status"];
        let said = podman(&[&run[..], &container, &[Bundle::STATUS]].concat()).succeeded();
        let unit = format!("libpod-{}.scope", said.trim());
        let cgroup = format!("/machine.slice/{unit}");
        assert_eq!(systemd.property(&unit, "ControlGroup"), cgroup);
        let limit = if cgroups == Cgroups::Hybrid { "MemoryLimit" } else { "MemoryMax" };
        assert_eq!(systemd.property(&unit, limit), "67108864");
        podman(&["exec", &name, "/workload", "inspect"]).succeeded();
        podman(&["rm", "--force", "--time=0", &name]).succeeded();
        assert_eq!(systemd.property(&unit, "LoadState"), "not-found");
    });
}

#[test]
fn a_systemd_that_numbers_processes_otherwise_is_not_given_any() {
    on_each(&[], |stage, host, systemd, _| {
        let bundle = Bundle::of_workload(host, "counter", &[]);
        let (program, root, path) = (criu_tests::migrate(), host.path("other"), bundle.path());
        let elsewhere = ["unshare", "--pid", "--fork", "--mount", "--mount-proc", &program, "--root", &root];
        let run = ["--systemd-cgroup", "run", "-d", "-b", &path, &stage.id("web")];
        let output = systemd.command(&[&elsewhere[..], &run].concat()).run();
        output.failed(1, &["the one that answers is in another pid namespace"]);
    });
}

#[test]
fn a_user_s_manager_makes_the_cgroups_of_a_user_s_containers() {
    /// Somebody whom the bus knows.
    const NOBODY: u32 = 65_534;
    on_each(&[], |stage, host, systemd, cgroups| {
        let runtime = systemd.start_user_manager(NOBODY);
        let program = host.path("migrate");
        std::fs::copy(criu_tests::migrate(), &program).expect("copy the program");
        let migrate = |args: &[&str]| systemd.as_user(NOBODY, &[&[program.as_str()], args].concat()).run();
        let bundle = Bundle::of_workload(host, "counter", &[]);
        std::fs::remove_file(bundle.config()).expect("remove root's configuration");
        let bundle = bundle.give_to(NOBODY);
        std::os::unix::fs::chown(bundle.path(), Some(NOBODY), Some(NOBODY)).expect("chown");
        std::os::unix::fs::chown(format!("{}/state", bundle.rootfs()), Some(NOBODY), Some(NOBODY))
            .expect("chown");
        migrate(&["spec", "--rootless", "-b", &bundle.path()]).succeeded();
        let bundle = bundle.edit(|config| {
            config["process"]["terminal"] = json!(false);
            config["process"]["args"] = json!(["/workload", "counter", "--status", Bundle::STATUS]);
            config["root"]["readonly"] = json!(false);
        });
        let id = stage.id("web");
        let unit = format!("runc-{id}.scope");
        let path = bundle.path();
        let run = ["--systemd-cgroup", "run", "-d", "-b", &path, &id];
        if cgroups == Cgroups::Hybrid {
            migrate(&run).failed(1, &["cannot use rootless systemd cgroups manager on cgroup v1"]);
            return;
        }
        let started = systemd
            .as_user(NOBODY, &[&[program.as_str(), "--log", &format!("{runtime}/log")], &run[..]].concat());
        let code = started.without_stdio().run().code;
        let log = systemd.command(&["cat", &format!("{runtime}/log")]).run().stdout;
        assert_eq!(code, 0, "{log}");
        let property = |name: &str| {
            let show = ["systemctl", "--user", "show", "--value", "-p", name, &unit];
            systemd.as_user(NOBODY, &show).run().succeeded().trim_end().to_owned()
        };
        assert_eq!(property("ActiveState"), "active");
        let cgroup = property("ControlGroup");
        assert_eq!(cgroup, format!("/system.slice/user-manager.service/user.slice/{unit}"));
        // A command from outside of the user's part of the tree gets in.
        let exec = ["exec", &id, "/workload", "inspect", "--read", "/proc/self/cgroup"];
        let inside: serde_json::Value = serde_json::from_str(&migrate(&exec).succeeded()).expect("JSON");
        // In a cgroup namespace, whose root is the container's.
        let lines = inside["read"]["/proc/self/cgroup"]["ok"].as_str().expect("text");
        assert!(lines.ends_with("0::/\n"), "{lines}");
        migrate(&["delete", "--force", &id]).succeeded();
        assert_eq!(property("LoadState"), "not-found");
    });
}

#[test]
fn where_systemd_does_not_run_the_error_says_so() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &[]);
    host.command(&["mount", "-t", "tmpfs", "none", "/run"]).run().succeeded();
    let run = ["--systemd-cgroup", "run", "-d", "-b", &bundle.path(), &stage.id("web")];
    host.migrate(&run)
        .failed(1, &["running systemd is needed for --systemd-cgroup", "systemd not running on this host"]);
    host.assert_no_trace();
}
