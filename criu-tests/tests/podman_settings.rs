// SPDX-License-Identifier: Apache-2.0
//! Podman with the binary under test as its runtime: what a container is given and what is kept from it, seen from inside.

use std::fs;

use criu_tests::{Need, Podman, Stage, wait_until};
use nix::sys::stat::{Mode, SFlag};

#[test]
fn a_read_only_root() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    let tries = "touch /x; touch /tmp/x && echo tmp; touch /dev/shm/x && echo shm; true";
    let output = podman.run(&["--read-only"], &["sh", "-c", tries]);
    assert_eq!(output.stdout, "tmp\nshm\n", "{}", output.stderr);
    assert!(output.stderr.contains("/x: Read-only file system"), "{}", output.stderr);
    let output = podman.run(&["--read-only", "--read-only-tmpfs=false"], &["touch", "/tmp/x"]);
    assert!(output.code == 1 && output.stderr.contains("Read-only file system"), "{output:?}");
    podman.end();
}

#[test]
fn tmpfs_and_shared_memory() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    let options = ["--tmpfs", "/t:size=1m,mode=1770,noexec", "--shm-size=2m"];
    let seen =
        podman.says(&options, "grep ' /t ' /proc/mounts; stat -c %a /t; stat -f -c '%b %S' /t /dev/shm");
    let lines: Vec<&str> = seen.lines().collect();
    assert!(lines[0].starts_with("tmpfs /t tmpfs rw,nosuid,nodev,noexec"), "{seen}");
    assert_eq!(lines[1..], ["1770", "256 4096", "512 4096"], "{seen}");
    podman.end();
}

#[test]
fn volumes() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    let directory = host.path("shared");
    fs::create_dir(&directory).and_then(|()| fs::write(host.path("shared/in"), "in\n")).expect("write");
    let (rw, ro) = (format!("{directory}:/rw"), format!("{directory}:/ro:ro"));
    let output = podman.run(
        &["-v", &rw, "-v", &ro, "-v", "named:/named"],
        &["sh", "-c", "cat /ro/in; echo out > /rw/out; echo kept > /named/f; touch /ro/x"],
    );
    assert!(output.code == 1 && output.stderr.contains("/ro/x: Read-only file system"), "{output:?}");
    assert_eq!(output.stdout, "in\n");
    assert_eq!(fs::read_to_string(host.path("shared/out")).expect("read"), "out\n");
    assert_eq!(podman.says(&["-v", "named:/elsewhere"], "cat /elsewhere/f"), "kept");
    podman.podman(&["volume", "rm", "named"]).succeeded();
    podman.end();
}

#[test]
fn secrets() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    let file = host.path("secret");
    fs::write(&file, "hush").expect("write");
    podman.podman(&["secret", "create", "word", &file]).succeeded();
    let options = ["--secret", "word,mode=0400,uid=1000", "--secret", "word,type=env,target=WORD"];
    let seen =
        podman.says(&options, "stat -c '%a %u' /run/secrets/word; cat /run/secrets/word; echo \" $WORD\"");
    assert_eq!(seen, "400 1000\nhush hush");
    podman.end();
}

#[test]
fn capabilities() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    let sets = "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | cut -f 2 | tr '\n' ' '";
    let (none, raw) = ("0000000000000000", "0000000000002000");
    let options = ["--cap-drop=all", "--cap-add=net_raw"];
    assert_eq!(podman.says(&options, sets), format!("{none} {raw} {raw} {raw} {none}"));
    // Of a user who is not root: bounding and, since it was asked for by name, effective and ambient.
    let seen = podman.says(&["--cap-add=net_raw", "--user=guest"], sets);
    let seen: Vec<&str> = seen.split(' ').collect();
    assert_eq!([seen[1], seen[2], seen[4]], [raw, raw, raw], "{seen:?}");
    // Those of the caller, whatever it has.
    let all = podman.says(&["--privileged"], "grep CapEff /proc/self/status | cut -f 2");
    let own = host.command(&["sh", "-c", "grep CapEff /proc/self/status | cut -f 2"]).run().succeeded();
    assert_eq!(all, own.trim());
    podman.end();
}

#[test]
fn seccomp_profiles() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    let mode = "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status | cut -f 2 | tr '\n' ' '";
    assert_eq!(podman.says(&[], mode), "0 2", "Podman's own profile");
    assert_eq!(podman.says(&["--security-opt=seccomp=unconfined"], mode), "0 0");
    assert_eq!(podman.says(&["--security-opt=no-new-privileges"], mode), "1 2");
    let profile = host.path("profile.json");
    let rule = r#"{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}"#;
    fs::write(&profile, format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}]}}"#))
        .expect("write");
    let option = format!("--security-opt=seccomp={profile}");
    let output = podman.run(&[&option], &["mkdir", "/new"]);
    assert!(output.code == 1 && output.stderr.contains("Operation not supported"), "{output:?}");
    // A command that is executed later is under it too.
    podman.background("c", &[&option], "exec sleep 1000");
    let output = podman.podman(&["exec", "c", "mkdir", "/new"]);
    assert!(output.code == 1 && output.stderr.contains("Operation not supported"), "{output:?}");
    podman.end();
}

#[test]
fn resource_limits_of_processes() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    // Podman's own value for nproc may be above what the test may set.
    let options = ["--ulimit=nofile=100:200", "--ulimit=nproc=300:400", "--ulimit=core=0:0"];
    let asks = "grep -E '^Max (processes|open|core)' /proc/self/limits | sed -E 's/  +/ /g; s/ [a-z]+ *$//'";
    let wanted = "Max core file size 0 0\nMax processes 300 400\nMax open files 100 200";
    assert_eq!(podman.says(&options, asks), wanted);
    podman.background("c", &options, "exec sleep 1000");
    assert_eq!(podman.executes("c", asks), wanted);
    podman.end();
}

#[test]
fn kernel_parameters() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    let options = ["--sysctl=net.ipv4.ip_forward=1", "--sysctl=kernel.shm_rmid_forced=1"];
    let files = "/proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced";
    assert_eq!(podman.says(&options, &format!("cat {files}")), "1\n1");
    assert_eq!(podman.says(&[], &format!("cat {files}")), "0\n0", "the host's are as they were");
    podman.end();
}

#[test]
fn user_namespaces() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    let maps = ["--uidmap=0:100000:1000", "--gidmap=0:200000:1000"];
    podman.background("c", &maps, "touch /mine; exec sleep 1000");
    let map = |name: &str| {
        let text = podman.executes("c", &format!("cat /proc/self/{name}"));
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!((map("uid_map"), map("gid_map")), ("0 100000 1000".into(), "0 200000 1000".into()));
    assert_eq!(podman.executes("c", "id -u; stat -c '%u %g' /etc/passwd /proc/1"), "0\n0 0\n0 0");
    // From outside it is nobody's process.
    let pid = podman.inspect("c", "{{.State.Pid}}");
    let status = host.command(&["cat", &format!("/proc/{pid}/status")]).run().succeeded();
    assert!(status.contains("Uid:\t100000\t100000") && status.contains("Gid:\t200000\t200000"), "{status}");

    let options = ["--userns=auto:size=2000", "--cap-add=sys_admin"];
    let seen = podman.says(&options, "cat /proc/self/uid_map; hostname inside && hostname");
    let words: Vec<&str> = seen.split_whitespace().collect();
    assert_eq!((words[0], words[2], words[3]), ("0", "2000", "inside"), "{seen}");
    podman.end();
}

#[test]
fn an_init_that_reaps() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    // The inner shell leaves a child to the first process, which is Podman's init and not the shell.
    podman.background("c", &["--init"], "sh -c 'sleep 0.1 & echo left'; exec sleep 1000");
    assert!(podman.executes("c", "cat /proc/1/cmdline").starts_with("/run/podman-init"));
    wait_until(criu_tests::PATIENCE, "the orphan is reaped", || {
        let seen = podman.executes("c", "ps -o pid,stat,args");
        let left = seen.lines().any(|line| line.ends_with("sleep 0.1") || line.contains(" Z"));
        if left { Err(seen) } else { Ok(()) }
    });
    assert_eq!(podman.run(&["--init"], &["sh", "-c", "exit 6"]).code, 6, "the code is passed on");
    podman.end();
}

#[test]
fn devices() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    // A null device under another name is the one that every machine has.
    let node = host.path("node");
    nix::sys::stat::mknod(
        node.as_str(),
        SFlag::S_IFCHR,
        Mode::from_bits_truncate(0o600),
        nix::sys::stat::makedev(1, 5),
    )
    .expect("mknod");
    let seen = podman.says(
        &["--device", &format!("{node}:/dev/zeroes:r")],
        "head -c 3 /dev/zeroes | wc -c; stat -c '%t:%T' /dev/zeroes",
    );
    assert_eq!(seen, "3\n1:5");
    let made = podman.run(&["--cap-add=mknod"], &["sh", "-c", "mknod /tmp/loop b 7 0 && cat /tmp/loop"]);
    assert!(made.stderr.contains("Operation not permitted"), "{made:?}");
    podman.end();
}

#[test]
fn namespaces_of_the_host_and_of_containers() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    let names = "for n in pid ipc uts net; do readlink /proc/self/ns/$n; done";
    let own = host.command(&["sh", "-c", names]).run().succeeded();
    let own: Vec<&str> = own.lines().collect();
    let seen = podman
        .says(&["--pid=host", "--ipc=host", "--uts=host", "--network=host"], &names.replace("/self", "/$$"));
    assert_eq!(seen.lines().collect::<Vec<_>>(), own);
    podman.background("c", &[], "exec sleep 1000");
    let joins = ["--pid=container:c", "--ipc=container:c", "--network=container:c"];
    let theirs = podman.executes("c", names);
    let seen = podman.says(&joins, names);
    let pick =
        |text: &str| text.lines().filter(|l| !l.starts_with("uts")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(pick(&seen), pick(&theirs));
    assert!(own.iter().all(|o| !theirs.contains(o)), "{theirs} of {own:?}");
    podman.end();
}
