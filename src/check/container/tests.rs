// SPDX-License-Identifier: Apache-2.0
//! Each rule with the facts that provoke it, and facts like them that do not.

use nix::libc;

use super::process::{Descriptor, FileFacts, Mapping, Process};
use super::*;
use crate::check::{Flag, Given};
use crate::sys::socket::{SocketFacts, Tcp};

const OWN_MOUNT: u64 = 20;

fn process(pid: i32) -> Process {
    Process {
        pid,
        command: "web".to_owned(),
        inner: (pid, 7),
        namespaces: ["mnt", "net", "pid", "user"].map(|kind| (kind, 4)).to_vec(),
        ..Process::default()
    }
}

fn mount(id: u64, device: &str, fstype: &str, place: &str) -> MountInfo {
    MountInfo {
        id,
        parent: 1,
        device: device.to_owned(),
        root: "/".into(),
        mount_point: place.into(),
        options: "rw".to_owned(),
        propagation: Vec::new(),
        fstype: fstype.to_owned(),
        source: "none".into(),
        super_options: "rw".to_owned(),
    }
}

/// A container of one process, which leads its session.
fn facts(change: impl FnOnce(&mut Process)) -> ContainerFacts {
    let mut init = process(7);
    change(&mut init);
    let table = vec![mount(OWN_MOUNT, "8:1", "ext4", "/"), mount(21, "0:5", "proc", "/proc")];
    ContainerFacts { processes: vec![init], mounts: [(4, table)].into(), ..ContainerFacts::default() }
}

fn with(target: &str, file: Option<FileFacts>, socket: Option<SocketFacts>) -> ContainerFacts {
    let descriptor =
        Descriptor { number: 9, target: target.to_owned(), file, socket, ..Descriptor::default() };
    facts(|init| init.descriptors.push(descriptor))
}

fn regular() -> FileFacts {
    FileFacts { mount: OWN_MOUNT, mode: libc::S_IFREG, links: 1, ..FileFacts::default() }
}

fn device(major: u64, minor: u64) -> FileFacts {
    FileFacts { mode: libc::S_IFCHR, device: (major, minor), ..regular() }
}

fn socket(family: i32, kind: i32, protocol: i32) -> SocketFacts {
    SocketFacts { family, kind, protocol, tcp: None, namespace: Some(4) }
}

fn tcp(state: u8, waiting: u32) -> SocketFacts {
    let tcp = Some(Tcp { state, waiting });
    SocketFacts { tcp, ..socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP) }
}

#[track_caller]
fn rules(facts: &ContainerFacts) -> Vec<(Severity, &'static str)> {
    let found = judge(facts, Some(false));
    for finding in &found {
        assert!(!finding.cause.is_empty() && !finding.evidence.is_empty(), "{finding:?}");
        assert!(finding.severity == Severity::Note || !finding.remedy.is_empty(), "{finding:?}");
        assert!(!finding.remedy.contains('{'), "a remedy that only a log can complete: {finding:?}");
    }
    found.iter().map(|finding| (finding.severity, finding.rule)).collect()
}

#[test]
fn a_container_with_nothing_special_is_ready() {
    assert_eq!(rules(&facts(|_| {})), []);
}

#[test]
fn descriptors_without_a_path() {
    use Severity::{Blocker, Note};
    for kind in ["[eventfd]", "[eventpoll]", "inotify", "[fanotify]", "[signalfd]", "[timerfd]", "[pidfd]"] {
        assert_eq!(rules(&with(&format!("anon_inode:{kind}"), None, None)), [], "{kind}");
    }
    for target in ["pipe:[7]", "net:[4026531840]", "pidfd:[7]"] {
        assert_eq!(rules(&with(target, None, None)), [], "{target}");
    }
    for (kind, rule) in [
        ("[io_uring]", "io_uring"),
        ("[userfaultfd]", "userfaultfd"),
        ("bpf-map", "bpf_map"),
        ("bpf-prog", "bpf_program"),
        ("[perf_event]", "perf_event"),
        ("kvm-vm", "kvm"),
        ("seccomp notify", "seccomp_notify"),
        ("[landlock-ruleset]", "unknown_descriptor"),
    ] {
        assert_eq!(rules(&with(&format!("anon_inode:{kind}"), None, None)), [(Blocker, rule)], "{kind}");
    }
    let map = with("anon_inode:bpf-map", None, None);
    assert_eq!(judge(&map, Some(true)), []);
    assert_eq!(judge(&map, None)[0].severity, Note);
}

#[test]
fn beside_a_gpu_nothing_is_certain() {
    let mut facts = with("anon_inode:sync_file", None, None);
    assert_eq!(rules(&facts), [(Severity::Blocker, "unknown_descriptor")]);
    let device = Descriptor { number: 3, target: "/dev/dri/card0".to_owned(), ..Descriptor::default() };
    facts.processes[0].descriptors.push(device);
    facts.processes[0].mappings.push(Mapping { path: "anon_inode:i915.gem".to_owned() });
    assert_eq!(rules(&facts), [(Severity::Note, "device_memory"), (Severity::Note, "unknown_descriptor")]);
}

#[test]
fn pipes_timers_and_queues() {
    for (target, rule) in [("pipe:[9]", "pipe_of_packets"), ("anon_inode:[timerfd]", "alarm_clock")] {
        let mut facts = with(target, None, None);
        assert_eq!(rules(&facts), [], "{target}");
        facts.processes[0].descriptors[0].is_special = true;
        assert_eq!(rules(&facts), [(Severity::Blocker, rule)]);
    }
    let mut facts = facts(|_| {});
    facts.queues.push("jobs".to_owned());
    assert_eq!(rules(&facts), [(Severity::Blocker, "message_queue")]);
}

#[test]
fn files_and_devices() {
    use Severity::{Blocker, NeedsFlag, Note};
    let file = regular();
    let ghost = FileFacts { links: 0, size: 2 << 20, on_disk: 2 << 20, ..file };
    let table = [
        ("/data", file, None),
        ("/data", FileFacts { locked: true, ..file }, Some((NeedsFlag, "file_lock"))),
        ("/data (deleted)", FileFacts { links: 0, size: 1 << 20, on_disk: 1 << 20, ..file }, None),
        ("/data (deleted)", ghost, Some((NeedsFlag, "ghost_file"))),
        // A hole takes no room in the images.
        ("/data (deleted)", FileFacts { on_disk: 0, ..ghost }, None),
        ("/data (deleted)", FileFacts { size: 5 << 30, ..ghost }, Some((NeedsFlag, "ghost_file"))),
        (
            "/data (deleted)",
            FileFacts { size: 5 << 30, on_disk: 5 << 30, ..ghost },
            Some((Blocker, "ghost_file")),
        ),
        ("/memfd:x (deleted)", ghost, None),
        ("/data (deleted)", file, None),
        ("/data (deleted)", FileFacts { name_is_gone: true, ..file }, Some((NeedsFlag, "removed_name"))),
        ("/host/log", FileFacts { mount: 99, ..file }, Some((Blocker, "file_outside"))),
        ("/queue", FileFacts { mount: 99, is_queue: true, ..file }, Some((Blocker, "message_queue"))),
        ("/dev/pts/3", FileFacts { mount: 99, ..device(136, 3) }, Some((NeedsFlag, "terminal"))),
        ("/dev/null", device(1, 3), None),
        ("/dev/pts/0", device(136, 0), None),
        ("/dev/net/tun", device(10, 200), None),
        ("/dev/fuse", device(10, 229), Some((Blocker, "device"))),
        ("/dev/kvm", device(10, 232), Some((Blocker, "device"))),
        ("/dev/rtc0", device(254, 0), Some((Blocker, "device"))),
        ("/dev/nvidia0", device(195, 0), Some((Note, "gpu"))),
        ("/dev/sda", FileFacts { mode: libc::S_IFBLK, device: (8, 0), ..file }, Some((Blocker, "device"))),
    ];
    for (target, file, expected) in table {
        let found = rules(&with(target, Some(file), None));
        assert_eq!(found, Vec::from_iter(expected), "{target} {file:?}");
    }
    // What the first process was given is left out of the dump under a key.
    let mut given = with("/host/log", Some(FileFacts { mount: 99, inode: 5, ..file }), None);
    given.given_files.insert((99, 5));
    assert_eq!(rules(&given), []);
    // CRIU's limit has 32 bits, and so has the flag.
    for (size, limit) in [(2 << 20, 2 << 20), (5 << 30, u64::from(u32::MAX))] {
        let found = judge(&with("/data (deleted)", Some(FileFacts { size, ..ghost }), None), None);
        assert_eq!(found[0].flag, Some(Flag::GhostLimit(limit)));
    }
}

#[test]
fn sockets() {
    use Severity::{Blocker, NeedsFlag};
    let (stream, dgram, raw) = (libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW);
    let inet = |kind, protocol| socket(libc::AF_INET, kind, protocol);
    let table = [
        (inet(dgram, libc::IPPROTO_UDP), None),
        (inet(raw, libc::IPPROTO_ICMP), None),
        (inet(dgram, libc::IPPROTO_ICMP), None),
        (inet(stream, libc::IPPROTO_SCTP), Some((Blocker, "socket_protocol"))),
        (inet(stream, libc::IPPROTO_MPTCP), Some((Blocker, "socket_protocol"))),
        (socket(libc::AF_VSOCK, stream, 0), Some((Blocker, "socket_protocol"))),
        (socket(libc::AF_NETLINK, raw, 0), None),
        (socket(libc::AF_PACKET, raw, 768), None),
        (tcp(10, 0), None),
        (tcp(7, 0), None),
        (tcp(10, 3), Some((NeedsFlag, "tcp_in_flight"))),
        (tcp(1, 0), Some((NeedsFlag, "tcp_connection"))),
        (tcp(8, 0), Some((NeedsFlag, "tcp_connection"))),
        (SocketFacts { namespace: Some(5), ..tcp(10, 0) }, Some((Blocker, "socket_outside"))),
        (SocketFacts { namespace: None, ..tcp(10, 0) }, None),
    ];
    for (socket, expected) in table {
        assert_eq!(rules(&with("socket:[70]", None, Some(socket))), Vec::from_iter(expected), "{socket:?}");
    }
}

#[test]
fn the_other_end_of_a_unix_socket() {
    use Severity::{Blocker, NeedsFlag, Note};
    let connected = |kind, named| {
        let mut facts = with("socket:[70]", None, Some(socket(libc::AF_UNIX, kind, 0)));
        facts.unix.insert(70, UnixSocket { inode: 70, peer: Some(71), named: false });
        facts.unix.insert(71, UnixSocket { inode: 71, peer: None, named });
        facts
    };
    let (stream, dgram) = (libc::SOCK_STREAM, libc::SOCK_DGRAM);
    assert_eq!(rules(&connected(stream, true)), [(Blocker, "unix_outside")]);
    assert_eq!(rules(&connected(dgram, false)), [(Blocker, "unix_outside")]);
    assert_eq!(rules(&connected(dgram, true)), [(NeedsFlag, "unix_outside")]);
    // The other end may be on its way through a third socket, for all that can be seen.
    let mut passed = connected(stream, false);
    passed.in_flight = true;
    assert_eq!(rules(&passed), [(Note, "unix_outside")]);
    let mut large = connected(stream, false);
    large.cut_short = true;
    assert_eq!(rules(&large), [(Note, "unix_outside"), (Note, "cut_short")]);
    let mut inside = connected(stream, false);
    let other = Descriptor { number: 3, target: "socket:[71]".to_owned(), ..Descriptor::default() };
    inside.processes.push(Process { descriptors: vec![other], ..process(8) });
    assert_eq!(rules(&inside), []);
    let mut given = connected(stream, false);
    given.given_sockets.insert(70);
    assert_eq!(rules(&given), []);
}

#[test]
fn processes() {
    use Severity::{Blocker, NeedsFlag, Note};
    assert_eq!(rules(&facts(|init| init.inner = (1, 0))), [(NeedsFlag, "session")]);
    assert_eq!(rules(&facts(|init| init.inner = (7, 5))), [(NeedsFlag, "session")]);
    assert_eq!(rules(&facts(|init| init.tracer = 12)), [(Blocker, "traced")]);
    assert_eq!(rules(&facts(|init| init.limits_are_hidden = true)), [(Blocker, "other_user")]);
    assert_eq!(rules(&facts(|init| init.is_headless = true)), [(Blocker, "dead_first_thread")]);
    // Whose ids are the host's finds its thread again.
    assert_eq!(rules(&facts(|init| init.has_thread_timer = true)), []);
    let inside = facts(|init| (init.has_thread_timer, init.inner) = (true, (1, 1)));
    assert_eq!(rules(&inside), [(Blocker, "thread_timer")]);
    for (path, severity) in [("/dev/mem", Blocker), ("/secretmem (deleted)", Blocker), ("/dev/nvidia0", Note)]
    {
        let mapping = Mapping { path: path.to_owned() };
        assert_eq!(
            rules(&facts(|init| init.mappings.push(mapping))),
            [(severity, "device_memory")],
            "{path}"
        );
    }
    let mut nested = facts(|_| {});
    nested.processes.push(process(8));
    assert_eq!(rules(&nested), []);
    nested.processes[1].namespaces = vec![("user", 5), ("net", 6), ("mnt", 7)];
    assert_eq!(rules(&nested), [(Blocker, "nested_namespace")]);
    let mut exec = facts(|_| {});
    exec.others = (1..=9).map(|pid| (pid, "sh".to_owned())).collect();
    assert_eq!(rules(&exec), [(Note, "exec_session")]);
    assert!(judge(&exec, None)[0].evidence.ends_with("8 (sh), 1 more"));
}

#[test]
fn mounts_that_nobody_accounts_for() {
    let mounted = |mount: MountInfo| {
        let mut facts = facts(|_| {});
        facts.mounts.get_mut(&4).expect("the table").push(mount);
        facts.configured.push("/data".into());
        rules(&facts)
    };
    assert_eq!(mounted(mount(30, "0:9", "tmpfs", "/tmp")), []);
    assert_eq!(mounted(mount(30, "8:1", "ext4", "/etc/hosts")), []);
    assert_eq!(mounted(mount(30, "8:2", "ext4", "/data/below")), []);
    // A part of a filesystem that is mounted where the configuration says, on another place.
    let mut again = facts(|_| {});
    let table = again.mounts.get_mut(&4).expect("the table");
    table.extend([mount(30, "8:2", "ext4", "/data"), mount(31, "8:2", "ext4", "/elsewhere")]);
    again.configured.push("/data".into());
    assert_eq!(rules(&again), []);
    assert_eq!(mounted(mount(30, "8:2", "ext4", "/database")), [(Severity::Blocker, "unknown_mount")]);
    assert_eq!(mounted(mount(30, "0:9", "fuse.sshfs", "/x")), [(Severity::Blocker, "unknown_mount")]);
}

#[test]
fn all_that_is_in_the_way_is_told_at_once() {
    let mut facts = with("anon_inode:[io_uring]", None, None);
    facts.processes[0].descriptors.push(Descriptor {
        number: 10,
        target: "/data".to_owned(),
        file: Some(FileFacts { locked: true, ..regular() }),
        ..Descriptor::default()
    });
    let error =
        crate::check::refuse(judge(&facts, None), &Given::default()).expect_err("both are in the way");
    assert_eq!(error.kind(), crate::ErrorKind::Undumpable);
    assert_eq!(
        error.to_string(),
        "process 7 (web), descriptor 9 on anon_inode:[io_uring]: criu does not carry io_uring; process 7 (web), \
         descriptor 10 on /data: it holds a lock on this file"
    );
    assert_eq!(
        error.hint(),
        Some(
            "have the program use epoll: many have a setting for it, e.g. UV_USE_IO_URING=0 for Node.js; \
             pass --file-locks to take file locks along"
        )
    );
    let given = Given { file_locks: true, ..Given::default() };
    let error = crate::check::refuse(judge(&facts, None), &given).expect_err("one is in the way");
    assert!(!error.to_string().contains("lock"), "{error}");
    crate::check::refuse(Vec::new(), &given).expect("nothing is in the way");
}
