// SPDX-License-Identifier: Apache-2.0
//! What stops a checkpoint.

use std::os::unix::net::{UnixDatagram, UnixListener};

use criu_tests::{Bundle, Need, Stage};
use serde_json::json;

use super::{CRIU_FAILED, Obstacle, assert_told, criu_after, with_rights, without_namespace};

/// A test for each rule: its name, what is in the way, the cause and the remedy.
macro_rules! checkpoints {
    ($($rule:ident: $obstacle:expr, $cause:literal, $remedy:literal;)*) => {
        $(
            #[test]
            fn $rule() {
                let obstacle: Obstacle = $obstacle;
                obstacle.stops_the_checkpoint($cause, $remedy);
            }
        )*
    };
}

checkpoints! {
    tcp_connection: Obstacle::of("tcp-connection"),
        "process 1 (workload) has an open TCP connection (descriptor 4)",
        "pass --tcp-established to take open TCP connections along";
    tcp_connection_being_set_up: Obstacle::of("tcp-not-accepted"),
        "a TCP connection of process 1 (workload) is still being set up, or waits to be accepted (descriptor 3)",
        "pass --tcp-skip-in-flight to leave such connections out, or try again when it is accepted";
    multipath_tcp: Obstacle::of("mptcp"),
        "process 1 (workload) has a Multipath TCP socket (descriptor 3), which CRIU cannot dump",
        "start the program without Multipath TCP; for Go: GODEBUG=multipathtcp=0 in process.env";
    socket_family: Obstacle::of("vsock"),
        "process 1 (workload) has a socket of AF_VSOCK (descriptor 3), which CRIU does not know",
        "have the program close it before the checkpoint";
    netlink_unread: Obstacle::of("netlink-unread"),
        "the kernel's answer on a netlink socket of process 1 (workload) was not read yet (descriptor 3)",
        "try again: mostly it is read a moment later; else the program has to read it or close the socket";
    message_with_credentials: Obstacle::of("unix-credentials"),
        "a unix socket of process 1 (workload) has an unread message with the sender's credentials (descriptor 4)",
        "try again: mostly it is read a moment later";
    big_deleted_file: Obstacle::of("big-deleted-file"),
        "process 1 (workload) holds /state/deleted open (descriptor 3), which is deleted and has 3145728 bytes, more than CRIU \
         takes into its images",
        "pass --ghost-limit 3145728 or more";
    deleted_name: Obstacle::of("deleted-name"),
        "process 1 (workload) holds /state/one open (descriptor 3), whose name is deleted while the file has another one",
        "pass --link-remap: a temporary name is made beside it, which the restore removes";
    userfaultfd: Obstacle::of("userfaultfd"),
        "process 1 (workload) handles page faults itself with userfaultfd (descriptor 3), which CRIU cannot dump",
        "have the program close it before the checkpoint (garbage collectors and virtual machines use it)";
    io_uring: Obstacle::of("io-uring"),
        "process 1 (workload) uses io_uring (descriptor 3): the kernel lets nobody take such a descriptor along",
        "have the program use epoll: many have a setting for it, e.g. UV_USE_IO_URING=0 for Node.js";
    perf_event: Obstacle::of("perf-event").edit(with_rights),
        "process 1 (workload) has a performance counter open (descriptor 3), which CRIU cannot dump",
        "end the profiler in the container, or have the program close its counters, before the checkpoint";
    file_of_another_mount_namespace: Obstacle::of("secret-memory"),
        "process 1 (workload) has /secretmem (deleted) open (descriptor 3), which is on no mount of the container",
        "give the container the file as a bind mount, or a pipe instead of it; the memory of memfd_secret(2) stays where it is";
    packet_pipe: Obstacle::of("packet-pipe"),
        "process 1 (workload) has a pipe with O_DIRECT, which keeps packets apart (descriptor 4): CRIU cannot dump it",
        "have the program close it, or make it without O_DIRECT";
    file_beneath_a_mount: Obstacle::of("overmounted-file").edit(with_rights),
        "process 1 (workload) has /state/covered/file open (descriptor 3), over which something else is mounted by now",
        "unmount what covers it, or have the program close it, before the checkpoint";
    nested_namespace: Obstacle::of("own-ipc").edit(with_rights),
        "process 2 (workload) has made itself a namespace (ipc) inside of the container, which CRIU cannot dump",
        "end what makes such namespaces (a sandbox, a container in the container) before the checkpoint";
    file_system_unknown: Obstacle::of("mounted").at("ramfs").edit(with_rights),
        "the file system at /state/mounted is of a type that CRIU cannot dump",
        "mount it outside and bind it in `mounts` of config.json, or name it: --external mnt[/state/mounted]:KEY";
    device: Obstacle::of("device").at("/dev/loop-control").edit(|config| {
            config["linux"]["devices"] =
                json!([{"path": "/dev/loop-control", "type": "c", "major": 10, "minor": 237}]);
            config["linux"]["resources"] = json!({"devices": [{"allow": true, "access": "rwm"}]});
        }),
        "process 1 (workload) has the device 10:237 open (descriptor 3), which CRIU cannot dump",
        "have the program close it before the checkpoint; for GPUs CRIU needs the vendor's plugin";
    shared_memory_of_the_host: Obstacle::of("shared-memory").edit(|config| {
            without_namespace(config, "ipc");
            let mounts = config["mounts"].as_array_mut().expect("a list");
            mounts.retain(|mount| mount["type"] != json!("mqueue"));
        }),
        "process 1 (workload) has System V shared memory of the host's: the container has no ipc namespace of its own",
        "give the container an ipc namespace in `linux.namespaces` of config.json (Podman: not --ipc host)";
}

#[test]
fn file_lock() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "files", &["--lock"]);
    let container = host.run_detached(&stage.id("x"), &bundle);
    let obstacle = Obstacle::default();
    obstacle.assert_refused(
        &host,
        &container,
        "a process holds a file lock",
        "pass --file-locks to take file locks along",
    );
    container.end();
    host.assert_no_trace();
}

#[test]
fn traced() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Obstacle::of("traced").edit(with_rights).bundle(&host);
    let container = host.run_detached(&stage.id("x"), &bundle);
    let images = host.path("images");
    let arguments = ["checkpoint", "--no-check", "--image-path", &images, container.id()];
    let said = container.runs_on_beside(&arguments, CRIU_FAILED, &[]);
    let told = super::told(&said, container.id());
    assert_eq!(
        told.cause,
        "process 2 (workload) is traced by another program (a debugger, strace), or protected from criu"
    );
    let processes = host.processes();
    let named = processes.iter().find(|(pid, _)| told.remedy.contains(&format!("/proc/{pid}/status")));
    assert!(named.is_some_and(|(_, line)| line.contains("obstacle")), "{told:?} {processes:?}");
    container.end();
    host.assert_no_trace();
}

/// A stream socket that is connected to one outside, which is accepted there.
fn connected_outside(flags: &[&'static str], cause: &str, remedy: &str) {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Obstacle::of("unix-stream-outside").at("/socket").bundle(&host);
    let listener = UnixListener::bind(format!("{}/socket", bundle.rootfs())).expect("listen");
    let container = host.run_detached(&stage.id("x"), &bundle);
    let (_stream, _) = listener.accept().expect("accept");
    Obstacle::default().flags(flags).assert_refused(&host, &container, cause, remedy);
    container.end();
    host.assert_no_trace();
}

#[test]
fn unix_socket_outside() {
    connected_outside(
        &[],
        "a unix socket of a process is connected to one outside of the container",
        "pass --ext-unix-sk to leave the other end of datagram sockets behind; stream sockets must be closed first",
    );
}

#[test]
fn unix_stream_outside() {
    connected_outside(
        &["--ext-unix-sk"],
        "a stream unix socket of a process is connected to one outside of the container",
        "no flag helps: have the program close the connection before the checkpoint and connect again after it",
    );
}

#[test]
fn unix_peer_elsewhere() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Obstacle::of("unix-dgram-outside").at("/socket").bundle(&host);
    let other = UnixDatagram::bind(format!("{}/socket", bundle.rootfs())).expect("bind");
    let container = host.run_detached(&stage.id("x"), &bundle);
    Obstacle::default().flags(&["--ext-unix-sk"]).assert_refused(
        &host,
        &container,
        "process 1 (workload) is connected to a unix socket outside of the container's network namespace (descriptor 3)",
        "no flag helps: have the program close the connection before the checkpoint and connect again after it",
    );
    drop(other);
    container.end();
    host.assert_no_trace();
}

#[test]
fn unix_peer_gone() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Obstacle::of("unix-stream-outside").at("/socket").bundle(&host);
    let listener = UnixListener::bind(format!("{}/socket", bundle.rootfs())).expect("listen");
    let container = host.run_detached(&stage.id("x"), &bundle);
    // Connected, but never accepted.
    let obstacle = Obstacle::default();
    obstacle.assert_refused(
        &host,
        &container,
        "the other end of a unix socket of process 1 (workload) is gone, or outside of the container and has not accepted \
         it (descriptor 3)",
        "have the program close the connection before the checkpoint and connect again after it",
    );
    drop(listener);
    container.end();
    host.assert_no_trace();
}

#[test]
fn tar_missing() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let criu = criu_after(&host, "export PATH=/nonexistent");
    let bundle = Obstacle::of("tmpfs-content").bundle(&host);
    let container = host.run_detached(&stage.id("x"), &bundle);
    let arguments =
        ["--criu", &criu, "checkpoint", "--no-check", "--image-path", &host.path("images"), container.id()];
    let said = container.runs_on_beside(&arguments, CRIU_FAILED, &[]);
    assert_told(
        &said,
        container.id(),
        "the program tar is missing on this machine; CRIU packs the contents of tmpfs mounts with it",
        "install tar",
    );
    container.end();
    host.assert_no_trace();
}

#[test]
fn not_stopped_in_time() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "zoo", &["--exhibit", "waiting_for_vfork"]);
    let container = host.run_detached(&stage.id("x"), &bundle);
    Obstacle::default().flags(&["--timeout", "1"]).assert_refused(
        &host,
        &container,
        "criu could not stop all processes of the container in time: one waits in vfork for its child, is stuck in the kernel \
         (state D), or is frozen by somebody else",
        "try again; on a machine that is busy with a larger --timeout",
    );
    // Left alone, it gives up after ten seconds. Its log begins with the seconds since its start.
    let log = std::fs::read_to_string(host.path("images/dump.log")).expect("read CRIU's log");
    let given_up = log.lines().find(|line| line.contains("Timeout reached")).expect("it tells the timeout");
    let seconds = given_up.trim_start_matches('(').split('.').next().and_then(|s| s.parse::<u32>().ok());
    assert!(seconds.is_some_and(|seconds| seconds < 10), "{given_up}");
    container.end();
    host.assert_no_trace();
}
