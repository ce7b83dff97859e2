// SPDX-License-Identifier: Apache-2.0
//! Services that are moved under load: their clients are outside, and do not notice but for the time that it takes.

use std::io::Write as _;

use criu_tests::{Bundle, Host, Need, Net, PATIENCE, Receiver, Stage, Status, rounds, wait_until};
use nix::sys::signal::Signal;
use serde_json::json;

const SERVICE: &str = "10.7.0.2:7100";
const CONNECTIONS: u64 = 1000;

/// What the clients report: nothing amiss so far, and so many connections with so many answers each, at least.
fn answered(report: &str, fewest: u64) -> Status {
    wait_until(PATIENCE, "each client has its answers", || {
        let status = Status::read(report).ok_or("no report")?;
        status.assert_ok();
        if status.number("fewest") >= fewest { Ok(status) } else { Err("not yet") }
    })
}

fn limits(config: &mut serde_json::Value) {
    config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 4096, "hard": 4096}]);
}

fn moves(net: &Net, from: &Host, to: &Host, id: &str) {
    let receiver = Receiver::on(to, &["--allow", "namespaces"]);
    from.migrate(&["to", "--tcp-established", "--move-address", &receiver.at, id]).succeeded();
    assert!(net.has_address(to) && !net.has_address(from));
    net.is_open(from);
    net.is_open(to);
}

#[test]
fn a_thousand_connections_go_on_there_and_back_again() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let net = Net::new(&stage);
    let id = stage.id("web");
    let bundle = Bundle::of_workload(&net.a, "crowd", &["--listen", SERVICE, "--tick-ms", "2"]).edit(limits);
    let mut before = net.a.run_detached(&id, &net.joins(bundle, &id)).reports();
    let report = stage.path("clients");
    let (program, many) = (criu_tests::workload(), CONNECTIONS.to_string());
    let argv = ["crowd-clients", "--connect", SERVICE, "--connections", &many, "--tick-ms", "2"];
    let argv = [&[&program[..]], &argv[..], &["--status", &report]].concat();
    let clients = net.switch.command(&argv).start();
    let mut asked = answered(&report, 1);
    for round in 0..rounds(2, 20) {
        let (from, to) = if round % 2 == 0 { (&net.a, &net.b) } else { (&net.b, &net.a) };
        moves(&net, from, to, &id);
        let container = to.imported(&id);
        before = container.goes_on(&before);
        assert_eq!(before.number("connections"), CONNECTIONS);
        asked = answered(&report, asked.number("fewest") + 3);
    }
    let told = format!("the longest wait for an answer: {} ms\n", asked.field("longest_wait_ms"));
    let _ = std::io::stdout().write_all(told.as_bytes());
    clients.signal(Signal::SIGTERM);
    clients.wait().succeeded();
    let host = if net.a.container_ids().contains(&id) { &net.a } else { &net.b };
    host.migrate(&["delete", "--force", &id]).succeeded();
    net.end();
}
