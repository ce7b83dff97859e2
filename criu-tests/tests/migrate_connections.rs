// SPDX-License-Identifier: Apache-2.0
//! `migrate to` of a container with connections: it has its address from a network namespace by path, which both hosts have, and the peer at
//! the other end of the cable does not notice that it talks to another host.

use std::process::Command;

use criu_tests::{
    Bundle, Container, Host, LargePipes, Need, PATIENCE, Receiver, Running, Stage, Status, migration,
    recorded, wait_until,
};
use nix::sys::signal::Signal;
use serde_json::json;

const PEER: &str = "10.7.0.1:7000";
const OWN: &str = "10.7.0.2/24";

/// Two hosts that have each a network namespace at the same path, and a peer: all on one bridge.
struct Net {
    a: Host,
    b: Host,
    switch: Host,
    holders: Vec<Running>,
    peer: Option<Running>,
    /// The path of the namespace on both hosts.
    path: String,
    _pipes: LargePipes,
}

fn run(host: &Host, line: &str) -> String {
    let argv: Vec<&str> = line.split_whitespace().collect();
    host.command(&argv).run().succeeded()
}

impl Net {
    fn new(stage: &Stage) -> Self {
        let (a, b, switch) = (stage.host("a"), stage.host("b"), stage.host("switch"));
        run(&switch, "ip link add br0 type bridge");
        run(&switch, "ip addr add 10.7.0.1/24 dev br0");
        run(&switch, "ip link set br0 up");
        let path = stage.path("web");
        std::fs::write(&path, "").expect("make a file");
        let holders = [(&a, "pa"), (&b, "pb")].map(|(host, port)| joined(host, &switch, port, &path)).into();
        let program = criu_tests::workload();
        let peer = switch.command(&[&program, "tcp-peer", "--listen", PEER]).start();
        wait_until(PATIENCE, "the peer listens", || {
            let listening = run(&switch, "ss -Hltn sport = 7000");
            if listening.is_empty() { Err("not yet") } else { Ok(()) }
        });
        let new = Self { a, b, switch, holders, peer: Some(peer), path, _pipes: LargePipes::set() };
        new.inside(&new.a, &format!("ip addr add {OWN} dev eth0"));
        new.inside(&new.a, "ip route add default via 10.7.0.1");
        new
    }

    fn inside(&self, host: &Host, line: &str) -> String {
        run(host, &format!("nsenter --net={} {line}", self.path))
    }

    fn has_address(&self, host: &Host) -> bool {
        let (addresses, routes) = (self.inside(host, "ip -4 addr"), self.inside(host, "ip -4 route"));
        let both = [addresses.contains(OWN), routes.contains("default via 10.7.0.1")];
        assert_eq!(both[0], both[1], "{addresses}\n{routes}");
        both[0]
    }

    /// No table is left that keeps packets away.
    fn is_open(&self, host: &Host) {
        assert_eq!(self.inside(host, "nft list tables"), "");
    }

    /// The peer's connections, as its kernel sees them.
    fn connections(&self) -> usize {
        run(&self.switch, "ss -Htn state connected sport = 7000").lines().count()
    }

    /// Which hardware address the peer knows for the container's.
    fn known(&self) -> String {
        run(&self.switch, "ip neigh show 10.7.0.2 dev br0")
    }

    fn hardware_address(&self, host: &Host) -> String {
        let link = self.inside(host, "ip -brief link show eth0");
        link.split_whitespace().nth(2).expect("name, state and address").to_owned()
    }

    fn run(&self, id: &str) -> Container<'_> {
        let bundle = Bundle::of_workload(&self.a, "tcp", &["--connect", PEER, "--listen", "10.7.0.2:7001"]);
        let bundle = bundle.edit(|config| {
            config["linux"]["cgroupsPath"] = json!(format!("/{id}-source"));
            for namespace in config["linux"]["namespaces"].as_array_mut().expect("a list") {
                if namespace["type"] == json!("network") {
                    namespace["path"] = json!(self.path);
                }
            }
        });
        self.a.run_detached(id, &bundle)
    }

    fn end(mut self) {
        for process in self.holders.drain(..).chain(self.peer.take()) {
            process.signal(Signal::SIGKILL);
            process.wait();
        }
        for host in [&self.a, &self.b] {
            run(host, &format!("umount {}", self.path));
            host.assert_no_trace();
        }
    }
}

/// Gives a host a network namespace at this path, with an interface whose other end is a port of the switch.
fn joined(host: &Host, switch: &Host, port: &str, path: &str) -> Running {
    let holder = host.command(&["unshare", "--net", "sleep", "1000"]).start();
    let namespace = format!("/proc/{}/ns/net", holder.pid());
    wait_until(PATIENCE, "the holder has its namespace", || {
        let read = |path: &str| run(host, &format!("readlink {path}"));
        let (its, hosts) = (read(&namespace), read("/proc/1/ns/net"));
        if its == hosts { Err(its) } else { Ok(()) }
    });
    run(host, &format!("mount --bind {namespace} {path}"));
    let (of_switch, its) = (switch.outside("/proc/1/ns/net"), host.outside(path));
    let add = format!("ip link add {port} type veth peer name eth0 netns {its}");
    let words = format!("--net={of_switch} {add}");
    let output = Command::new("nsenter").args(words.split(' ')).output().expect("run nsenter(1)");
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    run(switch, &format!("ip link set {port} master br0"));
    run(switch, &format!("ip link set {port} up"));
    for line in ["ip link set lo up", "ip link set eth0 up"] {
        run(host, &format!("nsenter --net={path} {line}"));
    }
    holder
}

/// The container reads what has waited in its queues, and so does the peer: nothing is lost or changed.
fn drains(container: &Container<'_>) {
    container.kill("USR1");
    let status = wait_until(PATIENCE, "the queues are read", || {
        container.status().filter(|s| s.field("drained") == "yes" || s.field("ok") != "yes").ok_or("not yet")
    });
    status.assert_ok();
}

const ARGS: [&str; 3] = ["to", "--tcp-established", "--move-address"];

fn there_and_back(further: &[&str]) {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let net = Net::new(&stage);
    let id = stage.id("web");
    let mut before = net.run(&id).reports();
    assert!(before.number("queued") > 4096);
    for (from, to) in [(&net.a, &net.b), (&net.b, &net.a)] {
        let receiver = Receiver::on(to, &["--allow", "namespaces"]);
        from.migrate(&[&ARGS[..], further, &[&receiver.at, &id]].concat()).succeeded();
        assert!(net.has_address(to) && !net.has_address(from));
        let (known, expected) = (net.known(), net.hardware_address(to));
        assert!(known.contains(&expected), "{known} not {expected}");
        net.is_open(from);
        net.is_open(to);
        let container = to.imported(&id);
        before = container.goes_on(&before);
        assert_eq!(net.connections(), 3);
        drop(receiver);
    }
    let said = run(&net.switch, "busybox nc 10.7.0.2 7001");
    assert_eq!(said, "hi\n", "it listens");
    let container = net.a.imported(&id);
    drains(&container);
    container.end();
    net.end();
}

#[test]
fn connections_move_with_their_address_and_back_again() {
    there_and_back(&[]);
}

#[test]
fn connections_move_with_all_memory_at_once() {
    there_and_back(&["--memory-rounds", "0"]);
}

/// `migrate to` and its CRIU are killed while the container stands still, so that nobody but the fence keeps packets away. Then the other host
/// gives it up, and it goes on here; or the migration goes on.
fn killed(what: &str, finished: impl Fn(&Net, &Host)) -> Option<(Stage, Net, String, Status)> {
    let stage = Stage::set(&[Need::Criu])?;
    let net = Net::new(&stage);
    let id = stage.id("web");
    let before = net.run(&id).reports();
    let receiver = Receiver::on(&net.b, &["--allow", "namespaces"]);
    let running = net.a.migrate_command(&[&ARGS[..], &[&receiver.at, &id]].concat()).without_stdio().start();
    recorded(if what == "ready" { &net.b } else { &net.a }, what);
    running.signal(Signal::SIGKILL);
    running.wait();
    wait_until(PATIENCE, "criu ends by itself", || if net.a.criu_runs() { Err(()) } else { Ok(()) });
    finished(&net, &net.a);
    drop(receiver);
    Some((stage, net, id, before))
}

fn comes_to_an_end(net: &Net, id: &str, before: &Status) {
    let receiver = Receiver::on(&net.b, &["--allow", "namespaces"]);
    if let Some(migration) = migration(&net.a) {
        let output = net.a.migrate(&["to", "--continue", &migration]);
        assert!(output.code == 0 || output.stderr.contains("it goes on here"), "{}", output.stderr);
    }
    drop(receiver);
    let there = net.b.container_ids().iter().any(|other| other == id);
    let (host, other) = if there { (&net.b, &net.a) } else { (&net.a, &net.b) };
    assert!(net.has_address(host) && !net.has_address(other));
    net.is_open(&net.a);
    net.is_open(&net.b);
    let rootfs = net.a.path("bundles/tcp/rootfs");
    let container = if there { net.b.imported(id) } else { net.a.container(id, &rootfs) };
    container.goes_on(before);
    assert_eq!(net.connections(), 3);
    drains(&container);
    container.end();
}

fn is_fenced(net: &Net, host: &Host) {
    let tables = net.inside(host, "nft list tables");
    assert!(tables.contains("table netdev migrate-fence-"), "{tables}");
}

#[test]
fn connections_survive_a_sender_that_is_killed_before_the_decision() {
    let Some((_stage, net, id, before)) = killed("prepared", is_fenced) else { return };
    comes_to_an_end(&net, &id, &before);
    net.end();
}

#[test]
fn connections_survive_a_sender_that_is_killed_when_the_destination_is_ready() {
    let Some((_stage, net, id, before)) = killed("ready", |_, _| {}) else { return };
    comes_to_an_end(&net, &id, &before);
    net.end();
}

#[test]
fn what_is_missing_for_an_address_is_told_before_anything_stands_still() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let net = Net::new(&stage);
    let id = stage.id("web");
    let container = net.run(&id);
    let before = container.reports();
    net.inside(&net.b, "ip link set eth0 down");
    net.inside(&net.b, "ip link set eth0 name other0");
    let receiver = Receiver::on(&net.b, &["--allow", "namespaces"]);
    let said = net.a.migrate(&[&ARGS[..], &[&receiver.at, &id]].concat());
    said.failed(7, &["there is no interface \"eth0\" for the container's addresses"]);
    container.goes_on(&before);
    container.end();
    let (_bundle, small) = net.a.run_small(&stage.id("small"));
    let said = net.a.migrate(&[&ARGS[..], &[&receiver.at, small.id()]].concat());
    let said = said.failed(7, &["no network namespace by path"]);
    assert!(said.contains("leave out --move-address"), "{said}");
    small.end();
    drop(receiver);
    net.end();
}
