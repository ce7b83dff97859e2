// SPDX-License-Identifier: Apache-2.0
//! `migrate to` of a container with connections: it has its address from a network namespace by path, which both hosts have, and the peer at
//! the other end of the cable does not notice that it talks to another host.

use criu_tests::{
    Bundle, Container, Host, Need, Net, PATIENCE, Receiver, Stage, Status, migration, recorded, wait_until,
};
use nix::sys::signal::Signal;

const PEER: &str = "10.7.0.1:7000";

/// The hosts, and a peer at the switch.
fn connected(stage: &Stage) -> Net {
    let mut net = Net::new(stage);
    let program = criu_tests::workload();
    let peer = net.switch.command(&[&program, "tcp-peer", "--listen", PEER]).start();
    net.runs_besides(peer);
    net.listens(&net.switch, 7000);
    net
}

/// The peer's connections, as its kernel sees them.
fn connections(net: &Net) -> usize {
    run(&net.switch, "ss -Htn state connected sport = 7000").lines().count()
}

fn container<'n>(net: &'n Net, id: &str) -> Container<'n> {
    let bundle = Bundle::of_workload(&net.a, "tcp", &["--connect", PEER, "--listen", "10.7.0.2:7001"]);
    net.a.run_detached(id, &net.joins(bundle, id))
}

fn run(host: &Host, line: &str) -> String {
    let argv: Vec<&str> = line.split_whitespace().collect();
    host.command(&argv).run().succeeded()
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
    let net = connected(&stage);
    let id = stage.id("web");
    let mut before = container(&net, &id).reports();
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
        assert_eq!(connections(&net), 3);
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
    let net = connected(&stage);
    let id = stage.id("web");
    let before = container(&net, &id).reports();
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
    assert_eq!(connections(net), 3);
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
    let net = connected(&stage);
    let id = stage.id("web");
    let container = container(&net, &id);
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
