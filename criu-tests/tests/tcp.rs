// SPDX-License-Identifier: Apache-2.0
//! Connections to a peer outside, of a container whose network namespace is somebody else's and outlives it: they go on,
//! and nothing of CRIU's lock is left in the namespace, whatever fails and whoever is killed.

use std::fs;

use criu_tests::{Bundle, Container, Host, Moment, Need, PATIENCE, Running, Stage, wait_until};
use nix::sys::signal::Signal;
use serde_json::json;

/// The host with a peer, and a network namespace that is connected to it.
struct Net<'h> {
    host: &'h Host,
    holder: Running,
    peer: Running,
    address: &'static str,
    port: &'static str,
}

fn run(host: &Host, line: &str) -> String {
    let argv: Vec<&str> = line.split_whitespace().collect();
    host.command(&argv).run().succeeded()
}

impl<'h> Net<'h> {
    fn new(host: &'h Host, six: bool) -> Self {
        let holder = host.command(&["unshare", "--net", "sleep", "1000"]).start();
        let path = format!("/proc/{}/ns/net", holder.pid());
        wait_until(PATIENCE, "the holder has its namespace", || {
            let read = |path: &str| run(host, &format!("readlink {path}"));
            let (its, hosts) = (read(&path), read("/proc/1/ns/net"));
            if its == hosts { Err(its) } else { Ok(()) }
        });
        run(host, &format!("ip link add p0 type veth peer c0 netns {}", holder.pid()));
        let (own, other) =
            if six { ("fd00:7::1/64", "fd00:7::2/64") } else { ("10.7.0.1/24", "10.7.0.2/24") };
        let nodad = if six { "nodad" } else { "" };
        run(host, &format!("ip addr add {own} {nodad} dev p0"));
        run(host, "ip link set p0 up");
        let (peer, address) =
            if six { ("[fd00:7::1]:7000", "[fd00:7::2]:7001") } else { ("10.7.0.1:7000", "10.7.0.2:7001") };
        let program = criu_tests::workload();
        let peer = host.command(&[&program, "tcp-peer", "--listen", peer]).start();
        let new = Self { host, holder, peer, address, port: "7001" };
        for command in
            [&format!("ip addr add {other} {nodad} dev c0"), "ip link set c0 up", "ip link set lo up"]
        {
            new.inside(command);
        }
        new
    }

    fn inside(&self, line: &str) -> String {
        run(self.host, &format!("nsenter --net=/proc/{}/ns/net {line}", self.holder.pid()))
    }

    /// The bundle of a container in the namespace that is connected to the peer.
    fn bundle(&self) -> Bundle {
        let peer = if self.address.starts_with('[') { "[fd00:7::1]:7000" } else { "10.7.0.1:7000" };
        // A peer that is only starting refuses.
        wait_until(PATIENCE, "the peer listens", || {
            let listening = run(self.host, "ss -Hltn sport = 7000");
            if listening.is_empty() { Err("not yet") } else { Ok(()) }
        });
        let path = format!("/proc/{}/ns/net", self.holder.pid());
        Bundle::of_workload(self.host, "tcp", &["--connect", peer, "--listen", self.address]).edit(|config| {
            for namespace in config["linux"]["namespaces"].as_array_mut().expect("a list") {
                if namespace["type"] == json!("network") {
                    namespace["path"] = json!(path);
                }
            }
        })
    }

    /// The tables of nftables in the namespace.
    fn tables(&self) -> String {
        self.inside("nft list tables")
    }

    fn is_locked(&self) -> bool {
        self.tables().contains("CRIU-")
    }

    /// The peer's connections, as the host's kernel sees them.
    fn connections(&self) -> usize {
        run(self.host, "ss -Htn state connected sport = 7000").lines().count()
    }

    fn end(self) {
        for process in [self.peer, self.holder] {
            process.signal(Signal::SIGKILL);
            process.wait();
        }
        self.host.assert_no_trace();
    }
}

/// The container reads what has waited in its queues, and so does the peer: nothing is lost or changed.
fn drains(container: &Container<'_>) {
    container.kill("USR1");
    let status = wait_until(PATIENCE, "the queues are read", || {
        container.status().filter(|s| s.field("drained") == "yes" || s.field("ok") != "yes").ok_or("not yet")
    });
    status.assert_ok();
}

fn goes_there_and_back(six: bool) {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let net = Net::new(&host, six);
    let bundle = net.bundle();
    let container = host.run_detached(&stage.id("tcp"), &bundle);
    assert!(container.reports().number("queued") > 4096);
    let images = host.path("images");
    for round in 0..2 {
        let before = container.reports();
        container.checkpoint(&["--tcp-established", "--image-path", &images]);
        assert_eq!(net.connections(), 3, "the peer has lost nothing");
        assert!(net.is_locked(), "its packets must not be answered by a kernel without the connections");
        host.migrate_detached(&[
            "restore",
            "-d",
            "--tcp-established",
            "--image-path",
            &images,
            "-b",
            &bundle.path(),
            container.id(),
        ]);
        assert!(!net.is_locked(), "{}", net.tables());
        container.goes_on(&before);
        assert_eq!(net.connections(), 3, "round {round}");
    }
    let address = net.address.rsplit_once(':').expect("with a port").0.trim_matches(['[', ']']);
    let said = run(&host, &format!("busybox nc {address} {}", net.port));
    assert_eq!(said, "hi\n", "it listens");
    drains(&container);
    container.end();
    net.end();
}

#[test]
fn connections_of_all_kinds_go_on_over_ipv4() {
    goes_there_and_back(false);
}

#[test]
fn connections_of_all_kinds_go_on_over_ipv6() {
    goes_there_and_back(true);
}

/// A container with a pair that the engine has made: its namespace ends with it, and the peer waits meanwhile.
fn goes_there_and_back_over_a_pair(six: bool) {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    run(&host, "ip link add br0 type bridge");
    run(&host, "ip addr add 10.9.0.1/24 dev br0");
    run(&host, "ip addr add fd00:9::1/64 nodad dev br0");
    run(&host, "ip link set br0 up");
    let (peer, own) =
        if six { ("[fd00:9::1]:7000", "[fd00:9::2]:7001") } else { ("10.9.0.1:7000", "10.9.0.2:7001") };
    // The bridge has no IPv6 address to listen on while it has no port that is on.
    run(&host, "ip link add x0 type veth peer x1");
    for command in ["ip link set x0 master br0", "ip link set x0 up", "ip link set x1 up"] {
        run(&host, command);
    }
    let program = criu_tests::workload();
    let listening = host.command(&[&program, "tcp-peer", "--listen", peer]).start();
    wait_until(PATIENCE, "the peer listens", || {
        let listening = run(&host, "ss -Hltn sport = 7000");
        if listening.is_empty() { Err("not yet") } else { Ok(()) }
    });
    let id = stage.id("pair");
    let bundle = Bundle::of_workload(&host, "tcp", &["--connect", peer, "--listen", own]);
    let networks = json!([{"type": "veth", "name": "eth0", "bridge": "br0", "address": "10.9.0.2/24",
                           "ipv6_address": "fd00:9::2/64"}]);
    let embedder = criu_tests::embedder();
    let argv = [&embedder, "networks", &host.state_root(), &id, &bundle.path(), &networks.to_string(), "[]"];
    host.command(&argv).run().succeeded();
    let container = host.container(&id, &bundle.rootfs());
    container.reports();
    let images = host.path("images");
    for _ in 0..2 {
        let before = container.reports();
        container.checkpoint(&["--tcp-established", "--image-path", &images]);
        let args = ["restore", "-d", "--tcp-established", "--image-path", &images, "-b", &bundle.path(), &id];
        host.migrate_detached(&args);
        container.goes_on(&before);
    }
    let pid = container.state()["pid"].as_i64().expect("it has a process");
    assert_eq!(run(&host, &format!("nsenter --net=/proc/{pid}/ns/net nft list tables")), "");
    drains(&container);
    container.end();
    listening.signal(Signal::SIGKILL);
    listening.wait();
    host.assert_no_trace();
}

#[test]
fn connections_go_on_over_a_pair_that_is_made_again() {
    goes_there_and_back_over_a_pair(false);
}

#[test]
fn connections_go_on_over_a_pair_that_is_made_again_over_ipv6() {
    goes_there_and_back_over_a_pair(true);
}

/// After a restore with `--tcp-close`, both ends learn that there is no connection any more; all else goes on.
fn closed(at_the_checkpoint: &str) {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let net = Net::new(&host, false);
    let bundle = net.bundle();
    let container = host.run_detached(&stage.id("tcp"), &bundle);
    container.reports();
    let images = host.path("images");
    container.checkpoint(&[at_the_checkpoint, "--image-path", &images]);
    let restore = ["restore", "-d", "--tcp-close", "--image-path", &images, "-b", &bundle.path()];
    host.migrate_detached(&[&restore[..], &[container.id()]].concat());
    assert!(!net.is_locked(), "{}", net.tables());
    let fault = wait_until(PATIENCE, "the program sees that the connection is closed", || {
        container.status().filter(|status| status.field("ok") != "yes").ok_or("not yet")
    });
    // Whichever connection it was about to use.
    let faults = ["the peer: ", "the half-closed connection: "];
    assert!(faults.iter().any(|of| fault.field("ok").contains(of)), "{fault:?}");
    wait_until(PATIENCE, "the peer sees it as well", || {
        // The connection over which neither end sends anything may stay.
        let left = net.connections();
        if left <= 1 { Ok(()) } else { Err(left) }
    });
    assert_eq!(container.state_status(), "running");
    container.end();
    net.end();
}

#[test]
fn connections_are_closed_by_the_checkpoint() {
    closed("--tcp-close");
}

#[test]
fn connections_of_a_checkpoint_are_closed_at_the_destination() {
    closed("--tcp-established");
}

#[test]
fn connections_go_on_beside_a_checkpoint_that_leaves_it_running() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let net = Net::new(&host, false);
    let bundle = net.bundle();
    let container = host.run_detached(&stage.id("tcp"), &bundle);
    let before = container.reports();
    let args = ["--tcp-established", "--leave-running", "--image-path", &host.path("images")];
    container.checkpoint(&args);
    assert!(!net.is_locked(), "{}", net.tables());
    container.goes_on(&before);
    drains(&container);
    container.end();
    net.end();
}

#[test]
fn a_checkpoint_that_fails_leaves_neither_a_lock_nor_a_connection_in_repair() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let net = Net::new(&host, false);
    let bundle = net.bundle();
    let container = host.run_detached(&stage.id("tcp"), &bundle);
    let full = host.path("full");
    fs::create_dir(&full).expect("make a directory");
    run(&host, &format!("mount -t tmpfs -o size=256k none {full}"));
    container.runs_on_beside(
        &[
            "checkpoint",
            "--tcp-established",
            "--image-path",
            &host.path("images"),
            "--export",
            &format!("{full}/a.tar"),
            container.id(),
        ],
        6,
        &["no space left on device"],
    );
    assert!(!net.is_locked(), "{}", net.tables());
    run(&host, &format!("umount {full}"));
    drains(&container);
    container.end();
    net.end();
}

#[test]
fn a_connection_that_nobody_has_accepted_is_refused_or_left_out() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let net = Net::new(&host, false);
    let bundle = net.bundle();
    let container = host.run_detached(&stage.id("tcp"), &bundle);
    let quiet = format!("{}/state/quiet", container.rootfs());
    fs::write(&quiet, "").expect("make it quiet");
    wait_quiet(&container, "yes");
    let waits = host.command(&["busybox", "nc", "10.7.0.2", net.port]).stdin(pipe_that_stays()).start();
    wait_until(PATIENCE, "the connection waits", || {
        let waiting = net.inside("ss -Hltn sport = 7001");
        if waiting.split_whitespace().nth(1) == Some("1") { Ok(()) } else { Err(waiting) }
    });
    let images = host.path("images");
    let before = container.reports();
    let refused = ["checkpoint", "--tcp-established", "--image-path", &images, container.id()];
    container.runs_on_beside(&refused, 5, &["1 connections not yet accepted"]);
    assert!(!net.is_locked(), "{}", net.tables());
    container.checkpoint(&["--tcp-established", "--tcp-skip-in-flight", "--image-path", &images]);
    host.migrate_detached(&[
        "restore",
        "-d",
        "--tcp-established",
        "--image-path",
        &images,
        "-b",
        &bundle.path(),
        container.id(),
    ]);
    fs::remove_file(quiet).expect("let it talk");
    container.goes_on(&before);
    waits.signal(Signal::SIGKILL);
    waits.wait();
    container.end();
    net.end();
}

/// A checkpoint of which a command shows the lock.
fn locked<'h>(stage: &Stage, net: &Net<'h>, bundle: &Bundle, lock: &str, shown: &str) -> Container<'h> {
    let container = net.host.run_detached(&stage.id("tcp"), bundle);
    container.reports();
    let images = net.host.path("images");
    container.checkpoint(&["--tcp-established", "--network-lock", lock, "--image-path", &images]);
    let locked = net.inside(shown);
    assert!(locked.contains("CRIU"), "{locked}");
    container
}

/// Whoever else is in the namespace must not be without a network until somebody comes to try again.
fn a_restore_fails(lock: &str, shown: &str) {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let net = Net::new(&host, false);
    let bundle = net.bundle();
    let container = locked(&stage, &net, &bundle, lock, shown);
    let (images, before) = (host.path("images"), container.reports());
    let (program, away) = (format!("{}/workload", bundle.rootfs()), host.path("away"));
    fs::rename(&program, &away).expect("take the program away");
    let args =
        ["restore", "-d", "--tcp-established", "--image-path", &images, "-b", &bundle.path(), container.id()];
    // What the peer sends while nobody keeps it away would be answered by a kernel that does not know the connection.
    run(&host, "ip link set p0 down");
    host.migrate(&args).failed(5, &["the file /workload is missing"]);
    let left = net.inside(shown);
    assert!(!left.contains("CRIU"), "{left}");
    let log = fs::read_to_string(host.path("migrate.log")).expect("read the log");
    assert!(log.contains("criu's lock was removed from the network: a peer that sends something"), "{log}");
    assert!(host.container_ids().is_empty());
    fs::rename(&away, &program).expect("bring it back");
    host.migrate_detached(&args);
    run(&host, "ip link set p0 up");
    let left = net.inside(shown);
    assert!(!left.contains("CRIU"), "{left}");
    container.goes_on(&before);
    drains(&container);
    container.end();
    net.end();
}

#[test]
fn a_restore_that_fails_removes_the_lock_and_can_be_tried_again() {
    a_restore_fails("nftables", "nft list tables");
}

#[test]
fn a_restore_that_fails_removes_the_chain_of_iptables_and_can_be_tried_again() {
    a_restore_fails("iptables", "iptables -S");
}

/// CRIU and the command are killed before they have removed the lock.
fn a_restore_is_killed(lock: &str, shown: &str) {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let net = Net::new(&host, false);
    let bundle = net.bundle();
    let container = locked(&stage, &net, &bundle, lock, shown);
    let images = host.path("images");
    let args =
        ["restore", "-d", "--tcp-established", "--image-path", &images, "-b", &bundle.path(), container.id()];
    let moment = Moment { script: "post-restore", answered: false };
    assert_eq!(host.hold_criu(&args, moment).kill(&host).wait().code, 5);
    let left = net.inside(shown);
    assert!(!left.contains("CRIU"), "the command lives: {left}");

    host.migrate_detached(&args);
    container.checkpoint(&["--tcp-established", "--network-lock", lock, "--image-path", &images]);
    host.hold_criu(&args, moment).kill_both(&host);
    let left = net.inside(shown);
    assert!(left.contains("CRIU"), "nobody has come yet: {left}");
    host.migrate(&["delete", "--force", container.id()]).succeeded();
    let left = net.inside(shown);
    assert!(!left.contains("CRIU"), "{left}");
    net.end();
}

#[test]
fn after_a_restore_that_is_killed_the_lock_is_removed() {
    a_restore_is_killed("nftables", "nft list tables");
}

#[test]
fn after_a_restore_that_is_killed_the_chain_of_iptables_is_removed() {
    a_restore_is_killed("iptables", "iptables -S");
}

/// Standard input that neither has anything nor ends while the test lasts.
fn pipe_that_stays() -> std::os::fd::OwnedFd {
    let (reader, writer) = std::io::pipe().expect("pipe");
    std::mem::forget(writer);
    reader.into()
}

fn wait_quiet(container: &Container<'_>, quiet: &str) {
    wait_until(PATIENCE, "the workload is as quiet as it was told", || {
        let status = container.status();
        if status.as_ref().is_some_and(|s| s.field("quiet") == quiet) { Ok(()) } else { Err(status) }
    });
}

/// A checkpoint whose CRIU holds the processes, because nobody takes the archive off its hands.
fn held(host: &Host, lock: &str, container: &Container<'_>) -> (Running, std::io::PipeReader, i64) {
    let (reader, writer) = std::io::pipe().expect("pipe");
    let args = ["checkpoint", "--tcp-established", "--network-lock", lock, "--export", "-", container.id()];
    let running = host.migrate_command(&args).stdout(writer).start();
    let images = format!("{}/{}/checkpoint", host.state_root(), container.id());
    // The last image of the dump, and CRIU then only waits for an answer.
    wait_until(PATIENCE, "the processes are held", || {
        let done = fs::read_to_string(format!("{}/{}/criu/dump.log", host.state_root(), container.id()));
        let said = done.is_ok_and(|log| log.contains("Running post-dump scripts"));
        if said && fs::exists(format!("{images}/inventory.img")).unwrap_or(false) {
            Ok(())
        } else {
            Err("not yet")
        }
    });
    let journal = fs::read(format!("{}/{}/checkpoint.json", host.state_root(), container.id()));
    let journal: serde_json::Value =
        serde_json::from_slice(&journal.expect("read the journal")).expect("the journal is JSON");
    let criu = journal["criu"]["init_process_pid"].as_i64().expect("CRIU's process");
    (running, reader, criu)
}

fn kill_both(host: &Host, command: Running, reader: std::io::PipeReader, criu: i64) {
    command.signal(Signal::SIGSTOP);
    run(host, &format!("kill -KILL {criu}"));
    command.signal(Signal::SIGKILL);
    drop(reader);
    command.wait();
}

/// Who is killed with SIGKILL.
#[derive(PartialEq)]
enum Killed {
    Criu,
    CriuAndCommand,
    /// The command a moment later, while it mends the container.
    CommandThatMends,
}

fn criu_killed(killed: &Killed) {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let net = Net::new(&host, false);
    let bundle = net.bundle();
    let container = host.run_detached(&stage.id("tcp"), &bundle);
    // What reads in the moment between CRIU's death and its discovery has lost its connection.
    let quiet = format!("{}/state/quiet", container.rootfs());
    fs::write(&quiet, "").expect("make it quiet");
    wait_quiet(&container, "yes");
    let (running, reader, criu) = held(&host, "nftables", &container);
    assert!(net.is_locked());
    if *killed != Killed::Criu {
        kill_both(&host, running, reader, criu);
        if *killed == Killed::CommandThatMends {
            let file = format!("{}/{}/checkpoint.json", host.state_root(), container.id());
            let journal = fs::read(&file).expect("read the journal");
            let mut journal: serde_json::Value = serde_json::from_slice(&journal).expect("it is JSON");
            journal["mending"] = json!(true);
            fs::write(&file, journal.to_string()).expect("write the journal");
            // It may have come as far as that by itself.
            if host.state(container.id())["status"] != "paused" {
                host.migrate(&["pause", container.id()]).succeeded();
            }
        }
        assert!(net.is_locked(), "nobody has come yet");
        container.checkpoint(&["--leave-running", "--tcp-established", "--image-path", &host.path("images")]);
    } else {
        run(&host, &format!("kill -KILL {criu}"));
        // Long before the command itself can go on.
        wait_until(PATIENCE, "the lock is removed", || if net.is_locked() { Err("not yet") } else { Ok(()) });
        let taker = std::thread::spawn(move || std::io::copy(&mut &reader, &mut std::io::sink()));
        running.wait().failed(5, &["criu ended while it held the processes"]);
        taker.join().expect("it only reads").expect("read the archive");
    }
    let log = || fs::read_to_string(host.path("migrate.log")).unwrap_or_default();
    assert!(!net.is_locked(), "{}\n{}", net.tables(), log());
    fs::remove_file(quiet).expect("let it talk");
    wait_quiet(&container, "no");
    container.goes_on(&container.reports());
    drains(&container);
    container.end();
    net.end();
}

#[test]
fn a_criu_that_is_killed_leaves_connections_that_go_on() {
    criu_killed(&Killed::Criu);
}

#[test]
fn after_criu_and_the_command_are_killed_the_next_one_sets_connections_free() {
    criu_killed(&Killed::CriuAndCommand);
}

/// It had frozen the container, which does not stay so.
#[test]
fn after_a_command_that_is_killed_while_it_mends_the_next_one_lets_the_container_go_on() {
    criu_killed(&Killed::CommandThatMends);
}

/// What a user may have in the same chains.
const RULES_OF_SOMEBODY: [&str; 2] = [
    "-A INPUT -p tcp -m tcp --dport 9 -j DROP",
    "-A OUTPUT -p tcp -m mark ! --mark 0xc114 -m tcp --dport 9 -j DROP",
];

fn assert_only_somebody_s_rules(listed: &str) {
    let rules: Vec<&str> = listed.lines().filter(|line| !line.starts_with("-P")).collect();
    assert_eq!(rules, RULES_OF_SOMEBODY, "{listed}");
}

/// In a namespace that is not the host's, CRIU's lock is a chain, which goes, and nothing else does.
#[test]
fn after_criu_and_the_command_are_killed_a_delete_removes_the_chain_of_iptables() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let net = Net::new(&host, false);
    for rule in RULES_OF_SOMEBODY {
        net.inside(&format!("iptables {rule}"));
    }
    let bundle = net.bundle();
    let container = host.run_detached(&stage.id("tcp"), &bundle);
    container.reports();
    let (running, reader, criu) = held(&host, "iptables", &container);
    kill_both(&host, running, reader, criu);
    for program in ["iptables", "ip6tables"] {
        let left = net.inside(&format!("{program} -S"));
        assert!(left.contains("-A INPUT -j CRIU") && left.contains("-A OUTPUT -j CRIU"), "{left}");
    }
    host.migrate(&["delete", "--force", container.id()]).succeeded();
    assert_only_somebody_s_rules(&net.inside("iptables -S"));
    assert!(!net.inside("ip6tables -S").contains("CRIU"));
    net.end();
}

/// In the host's own namespace it is two rules for each connection, which a delete removes as well.
#[test]
fn after_criu_and_the_command_are_killed_a_delete_removes_rules_of_iptables_from_the_host() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    run(&host, "ip link set lo up");
    for rule in RULES_OF_SOMEBODY {
        run(&host, &format!("iptables {rule}"));
    }
    let (peer, own) = ("127.0.0.1:7000", "127.0.0.1:7001");
    let program = criu_tests::workload();
    let listening = host.command(&[&program, "tcp-peer", "--listen", peer]).start();
    wait_until(PATIENCE, "the peer listens", || {
        let listening = run(&host, "ss -Hltn sport = 7000");
        if listening.is_empty() { Err("not yet") } else { Ok(()) }
    });
    let bundle = Bundle::of_workload(&host, "tcp", &["--connect", peer, "--listen", own]).edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
        namespaces.retain(|namespace| namespace["type"] != json!("network"));
    });
    let container = host.run_detached(&stage.id("tcp"), &bundle);
    container.reports();
    let (running, reader, criu) = held(&host, "iptables", &container);
    kill_both(&host, running, reader, criu);
    let left = run(&host, "iptables -S");
    assert!(left.contains("--sport 7000 --dport") || left.contains("--dport 7000 -j DROP"), "{left}");
    host.migrate(&["delete", "--force", container.id()]).succeeded();
    assert_only_somebody_s_rules(&run(&host, "iptables -S"));
    listening.signal(Signal::SIGKILL);
    listening.wait();
    host.assert_no_trace();
}
