// SPDX-License-Identifier: Apache-2.0
//! Over a real ssh to a real sshd, what other tests do over programs that stand for them: a container moves, there and back again, and no
//! session stays when it has.

use criu_tests::{Bundle, Host, LargePipes, Need, PATIENCE, Sshd, Stage, wait_until};
use serde_json::json;

const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

fn connected(stage: &Stage) -> (Host, Host) {
    let (a, b) = (stage.host("a"), stage.host("b"));
    let [at_a, at_b] = ADDRESSES.map(|address| format!("{address}/24"));
    a.connect(&b, [&at_a, &at_b]);
    (a, b)
}

fn without_sessions(sshd: &Sshd<'_>) {
    wait_until(PATIENCE, "its session ends", || match sshd.sessions() {
        0 => Ok(()),
        sessions => Err(sessions),
    });
}

#[test]
fn a_container_goes_and_comes_back() {
    let Some(stage) = Stage::set(&[Need::Criu, Need::Sshd]) else { return };
    let _pipes = LargePipes::set();
    let (a, b) = connected(&stage);
    let daemons = [Sshd::on(&a, ADDRESSES[0]), Sshd::on(&b, ADDRESSES[1])];
    let id = stage.id("traveller");
    // There is one tree of cgroups for both.
    let bundle = Bundle::of_workload(&a, "counter", &["--memory", "1048576"])
        .edit(|config| config["linux"]["cgroupsPath"] = json!(format!("/{id}-source")));
    let container = a.run_detached(&id, &bundle);
    let mut before = container.reports();
    for (from, to, address, sshd) in
        [(&a, &b, ADDRESSES[1], &daemons[1]), (&b, &a, ADDRESSES[0], &daemons[0])]
    {
        let remote = to.migrate_argv(&[]).join(" ");
        let way = ["--ssh-command", &sshd.ssh, "--remote-command", &remote];
        let destination = format!("root@{address}");
        from.migrate(&[&["to", "--dry-run"], &way[..], &[&destination, &id]].concat()).succeeded();
        let destination = format!("ssh://root@{address}:22");
        from.migrate(&[&["to"], &way[..], &[&destination, &id]].concat()).succeeded();
        before = to.imported(&id).goes_on(&before);
        without_sessions(sshd);
    }
    a.imported(&id).end();
    drop(daemons);
    a.assert_no_trace();
    b.assert_no_trace();
}

#[test]
fn the_script_moves_a_container() {
    let Some(stage) = Stage::set(&[Need::Criu, Need::Sshd]) else { return };
    let (a, b) = connected(&stage);
    let sshd = Sshd::on(&b, ADDRESSES[1]);
    let id = stage.id("traveller");
    let (_bundle, container) = a.run_small(&id);
    let before = container.reports();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/migrate-host");
    let (here, there) = (a.migrate_argv(&[]).join(" "), b.migrate_argv(&[]).join(" "));
    let (directory, destination) = (a.path("moves"), format!("root@{}", ADDRESSES[1]));
    // There is one tree of cgroups for both.
    let name = stage.id("there");
    let ends = ["--migrate", &here, "--remote-migrate", &there, "--directory", &directory, "--name", &name];
    a.command(&[&[script, "--ssh", &sshd.ssh], &ends[..], &[&id, &destination]].concat()).run().succeeded();
    let container = b.imported(&name);
    container.goes_on(&before);
    without_sessions(&sshd);
    container.end();
    drop(sshd);
    a.assert_no_trace();
    b.assert_no_trace();
}
