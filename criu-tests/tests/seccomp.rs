// SPDX-License-Identifier: Apache-2.0
//! `linux.seccomp` on real containers: what a profile does to the program, when it begins, and who is asked.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use criu_tests::{Bundle, Host, Inspection, Need, Stage};
use serde_json::{Value, json};

/// What the default profile of Docker and Podman has in common with many: it names hundreds of calls.
fn long_profile() -> Value {
    let names: Vec<&str> = ALLOWED.split_whitespace().collect();
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"],
        "syscalls": [
            {"names": names, "action": "SCMP_ACT_ALLOW"},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 0xffff_ffff_u32, "op": "SCMP_CMP_EQ"}]},
            {"names": ["a_call_of_the_future"], "action": "SCMP_ACT_ALLOW"},
        ],
    })
}

const ALLOWED: &str = "accept accept4 access alarm arch_prctl bind brk capget capset chdir chmod chown clock_getres \
    clock_gettime clock_nanosleep clone clone3 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create \
    epoll_create1 epoll_ctl epoll_pwait epoll_wait eventfd2 execve execveat exit exit_group faccessat faccessat2 fallocate \
    fchdir fchmod fchmodat fchown fchownat fcntl fdatasync flock fork fstat fstatfs fsync ftruncate futex getcwd getdents \
    getdents64 getegid geteuid getgid getgroups getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid \
    getresuid getrlimit get_robust_list getsid getsockname getsockopt gettid gettimeofday getuid ioctl ioprio_get keyctl \
    kill link linkat listen lseek lstat madvise membarrier memfd_create mincore mkdir mkdirat mmap mprotect mremap munmap \
    nanosleep newfstatat open openat openat2 pause pidfd_open pipe pipe2 poll ppoll prctl pread64 prlimit64 pwrite64 read \
    readlink readlinkat readv recvfrom recvmsg rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction \
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait sched_getaffinity \
    sched_getattr sched_getparam sched_getscheduler sched_yield select sendmsg sendto setgid setgroups set_robust_list \
    setresgid setresuid setsid setsockopt set_tid_address setuid shutdown sigaltstack signalfd4 socket socketpair stat \
    statfs statx symlink sysinfo tgkill time timer_create timer_settime timerfd_create timerfd_settime times tkill umask \
    uname unlink unlinkat utimensat vfork wait4 waitid write writev get_mempolicy";

fn with(profile: Value, no_new_privileges: bool) -> impl FnOnce(&mut Value) {
    move |config| {
        config["linux"]["seccomp"] = profile;
        config["process"]["noNewPrivileges"] = json!(no_new_privileges);
    }
}

/// Runs `calls` with these under a profile.
fn calls(stage: &Stage, host: &Host, calls: &[String], edit: impl FnOnce(&mut Value)) -> Value {
    let options: Vec<&str> = calls.iter().flat_map(|call| ["--call", call.as_str()]).collect();
    let bundle = Bundle::new(host, "calls", &[&["calls"], &options[..]].concat()).edit(edit);
    let text = host.migrate(&["run", "-b", &bundle.path(), &stage.id("calls")]).succeeded();
    host.assert_no_trace();
    bundle.remove();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON: {e}\n{text}"))
}

fn errno(number: i32) -> Value {
    json!({ "errno": number })
}

#[test]
fn a_long_profile_lets_a_program_run_and_denies_the_rest() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    for no_new_privileges in [true, false] {
        let seen = Inspection::of(&stage, &host, &[], with(long_profile(), no_new_privileges));
        assert_eq!(seen["status"]["Seccomp"], json!("2"));
        assert_eq!(seen["status"]["Seccomp_filters"], json!("1"));
        let unshare = format!("{},0", libc::SYS_unshare);
        let newer = "1000".to_owned();
        let query = format!("{},{}", libc::SYS_personality, 0xffff_ffff_u32);
        let set = format!("{},{}", libc::SYS_personality, 8);
        let all = [unshare.clone(), newer.clone(), query.clone(), set.clone()];
        let seen = calls(&stage, &host, &all, with(long_profile(), no_new_privileges));
        assert_eq!(seen[&unshare], errno(libc::EPERM));
        assert_eq!(seen[&newer], errno(libc::ENOSYS), "newer than what the profile names");
        assert_eq!(seen[&query], json!({ "result": 0 }));
        assert_eq!(seen[&set], errno(libc::EPERM));
    }
}

#[test]
fn a_profile_holds_in_a_user_namespace_and_for_any_user() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    for no_new_privileges in [true, false] {
        let bundle = Bundle::new(&host, "inspect", &["inspect"])
            .in_user_namespace(100_000, 65_536)
            .edit(with(long_profile(), no_new_privileges))
            .edit(|config| config["process"]["user"] = json!({"uid": 1000, "gid": 1000}));
        let seen = Inspection::from(&stage, &host, &[], bundle);
        assert_eq!(seen["status"]["Seccomp"], json!("2"));
        assert_eq!(seen["uid"], json!([1000, 1000, 1000]));
    }
}

#[test]
fn actions_are_taken() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let getpriority = format!("{},0,0", libc::SYS_getpriority);
    let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    let run = |profile: Value| {
        let bundle =
            Bundle::new(&host, "actions", &["calls", "--call", &getpriority]).edit(with(profile, true));
        let output = host.migrate(&["run", "-b", &bundle.path(), &stage.id("actions")]);
        bundle.remove();
        (output.code, output.stdout)
    };
    let named = |action: &str| rule(json!({"names": ["getpriority"], "action": action}));
    for action in ["SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"] {
        assert_eq!(run(named(action)).0, 128 + libc::SIGSYS, "{action}");
    }
    for action in ["SCMP_ACT_LOG", "SCMP_ACT_ALLOW"] {
        let (code, said) = run(named(action));
        assert!(code == 0 && said.contains("result"), "{action}: {code} {said}");
    }
    // Without a tracer nobody lets it pass.
    let (_, said) = run(named("SCMP_ACT_TRACE"));
    assert!(said.contains(&format!("\"errno\":{}", libc::ENOSYS)), "{said}");
    let (_, said) = run(rule(json!({"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77})));
    assert!(said.contains("\"errno\":77"), "{said}");
}

/// Between the loading of the profile and the program init does nothing but execve.
#[test]
fn with_no_new_privileges_the_profile_is_the_last_thing() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["setresuid", "setgroups", "capset", "chdir", "close_range"],
         "action": "SCMP_ACT_KILL_PROCESS"},
    ]});
    let seen = Inspection::of(&stage, &host, &[], with(profile.clone(), true));
    assert_eq!(seen["status"]["Seccomp"], json!("2"));
    // Without it the profile holds for init too, which has still to become the user.
    let bundle = Bundle::new(&host, "early", &["exit"]).edit(with(profile, false));
    let output = host.migrate(&["run", "-b", &bundle.path(), &stage.id("early")]);
    assert_ne!(output.code, 0, "{}", output.stderr);
    host.assert_no_trace();
}

#[test]
fn a_profile_may_forbid_to_ask_for_the_working_directory() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["getcwd"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77},
    ]});
    let getcwd = format!("{},0,0", libc::SYS_getcwd);
    for no_new_privileges in [true, false] {
        let seen =
            calls(&stage, &host, std::slice::from_ref(&getcwd), with(profile.clone(), no_new_privileges));
        assert_eq!(seen[&getcwd], errno(77));
    }
}

#[test]
fn further_processes_are_under_the_containers_profile() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    for no_new_privileges in [true, false] {
        let bundle = Bundle::of_workload(&host, "counter", &[]).edit(with(long_profile(), no_new_privileges));
        let id = stage.id("lives");
        host.migrate_detached(&["run", "-d", "-b", &bundle.path(), &id]);
        let container = host.container(&id, &bundle.rootfs());
        container.reports();
        let unshare = format!("{},0", libc::SYS_unshare);
        let text = host.migrate(&["exec", &id, "/workload", "calls", "--call", &unshare]).succeeded();
        assert!(text.contains(&format!("\"errno\":{}", libc::EPERM)), "{text}");
        container.end();
        bundle.remove();
    }
}

#[test]
fn a_container_under_a_profile_can_be_moved() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &[]).edit(with(long_profile(), true));
    let (archive, id) = (host.path("archive"), stage.id("moves"));
    host.migrate_detached(&["run", "-d", "-b", &bundle.path(), &id]);
    host.container(&id, &bundle.rootfs()).reports();
    host.migrate(&["checkpoint", "--export", &archive, &id]).succeeded();
    host.assert_no_trace();
    let moved = stage.id("moved");
    host.migrate_detached(&["restore", "-d", "--import", &archive, &moved]);
    let container = host.imported(&moved);
    container.reports();
    let args = ["exec", &moved, "/workload", "inspect", "--read", "/proc/1/status"];
    let seen: Value = serde_json::from_str(&host.migrate(&args).succeeded()).expect("JSON");
    let status = seen["read"]["/proc/1/status"]["ok"].as_str().expect("text");
    assert!(status.contains("Seccomp:\t2") && status.contains("Seccomp_filters:\t1"), "{status}");
    container.end();
}

/// Calls `chroot`, about which an agent at this path is asked.
fn asking(host: &Host, path: &str, no_new_privileges: bool) -> Bundle {
    let call = format!("{},@", libc::SYS_chroot);
    Bundle::new(host, "asking", &["calls", "--call", &call]).edit(with(
        json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": path,
            "listenerMetadata": "of a test",
            "syscalls": [{"names": ["chroot"], "action": "SCMP_ACT_NOTIFY"}],
        }),
        no_new_privileges,
    ))
}

#[test]
fn an_agent_is_asked_about_system_calls() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    for no_new_privileges in [true, false] {
        let path = host.path("agent.sock");
        let listener = UnixListener::bind(&path).expect("bind");
        let agent = Command::new(env!("CARGO_BIN_EXE_workload"))
            .args(["agent", "--errno", "99"])
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the agent");
        let bundle = asking(&host, &path, no_new_privileges);
        let id = stage.id("asking");
        let said = host.migrate(&["run", "-b", &bundle.path(), &id]).succeeded();
        assert!(said.contains("\"errno\":99"), "{said}");
        host.assert_no_trace();
        let output = agent.wait_with_output().expect("the agent ends when nobody asks any more");
        assert!(output.status.success());
        let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(told["fds"], json!(["seccompFd"]));
        assert_eq!(told["metadata"], json!("of a test"));
        assert_eq!(told["state"]["id"], json!(id));
        assert_eq!(told["state"]["status"], json!("creating"));
        assert_eq!(told["pid"], told["state"]["pid"]);
        fs::remove_file(&path).expect("remove the socket");
        bundle.remove();
    }
}

#[test]
fn an_agent_that_is_missing_is_an_error_and_nothing_is_left() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    for no_new_privileges in [true, false] {
        let bundle = asking(&host, "/nonexistent/agent.sock", no_new_privileges);
        let output = host.migrate(&["run", "-b", &bundle.path(), &stage.id("nobody")]);
        output.failed(1, &["seccomp agent", "/nonexistent/agent.sock"]);
        host.assert_no_trace();
        bundle.remove();
    }
}
