// SPDX-License-Identifier: Apache-2.0
//! `migrate agent`: hosts that know each other by their keys send containers to each other, and nobody else does.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};

use criu_tests::{Bundle, Container, Host, Need, PATIENCE, Running, Stage, Status, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

/// An agent that listens on a host.
struct Agent<'h> {
    host: &'h Host,
    running: Option<Running>,
}

impl<'h> Agent<'h> {
    fn on(host: &'h Host, at: &str, flags: &[&str]) -> Self {
        let (listen, directory) = (format!("tls://{at}"), host.path("agent"));
        let args = [&["agent", "--dir", &directory, "--listen", &listen], flags].concat();
        let running = host.migrate_command(&args).without_stdio().start();
        wait_until(PATIENCE, "somebody listens", || {
            assert!(!running.has_ended(), "the agent has ended: {}", log(host));
            let sockets = host.command(&["ss", "-Hltn"]).run().succeeded();
            if sockets.contains(":7643 ") { Ok(()) } else { Err(sockets) }
        });
        Self { host, running: Some(running) }
    }

    /// Kills it, and whom it serves.
    fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.signal(Signal::SIGKILL);
            running.wait();
            self.host.signal_served(Signal::SIGKILL);
        }
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}

fn log(host: &Host) -> String {
    std::fs::read_to_string(host.path("migrate.log")).unwrap_or_default()
}

/// Waits until a host's log has this line.
fn logged(host: &Host, what: &str) {
    wait_until(PATIENCE, what, || if log(host).contains(what) { Ok(()) } else { Err(log(host)) });
}

/// Two hosts with a key each and a way between them.
struct Pair {
    a: Host,
    b: Host,
    id: String,
    stage: Stage,
}

impl Pair {
    fn new() -> Option<Self> {
        let stage = Stage::set(&[Need::Criu])?;
        let (a, b) = (stage.host("a"), stage.host("b"));
        let [one, two] = ADDRESSES;
        a.connect(&b, [&format!("{one}/24"), &format!("{two}/24")]);
        for host in [&a, &b] {
            agent(host, &["init"]);
        }
        let id = stage.id("moved");
        Some(Self { a, b, id, stage })
    }

    /// They trust each other.
    fn trusting() -> Option<Self> {
        let pair = Self::new()?;
        trust(&pair.a, ADDRESSES[1], &pair.b);
        trust(&pair.b, "a.example", &pair.a);
        Some(pair)
    }

    fn run(&self, id: &str, change: impl FnOnce(&mut Value)) -> Container<'_> {
        let bundle =
            Bundle::new(&self.a, id, &["counter", "--status", Bundle::STATUS, "--memory", "16777216"]).edit(
                |config| {
                    config["linux"]["cgroupsPath"] = json!(format!("/{id}-source"));
                    change(config);
                },
            );
        self.a.run_detached(id, &bundle)
    }

    fn policy(&self, policy: &Value) {
        let path = self.b.path("agent/policy.json");
        std::fs::write(&path, policy.to_string()).expect("write the policy");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    }
}

fn agent(host: &Host, args: &[&str]) -> String {
    let directory = host.path("agent");
    host.migrate(&[&["agent", "--dir", &directory], args].concat()).succeeded().trim().to_owned()
}

fn trust(host: &Host, name: &str, other: &Host) {
    agent(host, &["trust", name, &agent(other, &["fingerprint"])]);
}

/// The words of `migrate to` the agent of the host at this address.
fn to(host: &Host, address: &str, more: &[&str]) -> Vec<String> {
    let start = ["to".to_owned(), "--agent-dir".to_owned(), host.path("agent"), format!("tls://{address}")];
    start.into_iter().chain(more.iter().map(|word| (*word).to_owned())).collect()
}

fn send(host: &Host, address: &str, more: &[&str]) -> criu_tests::Output {
    let words = to(host, address, more);
    host.migrate(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn goes_on(host: &Host, id: &str, before: &Status) -> Status {
    let there = host.imported(id);
    assert_eq!(there.state_status(), "running");
    there.goes_on(before)
}

fn gone(host: &Host, id: &str) {
    assert!(!host.container_ids().iter().any(|found| found == id), "it is gone from where it was");
}

/// A program that connects to an agent and says this, from another host, until it is killed.
fn stranger(host: &Host, script: &str) -> Child {
    let [program, arguments @ ..] = &host.entering()[..] else { panic!("words") };
    let mut command = Command::new(program);
    command.args(arguments).args(["bash", "-c", script]).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("start bash(1)")
}

fn end(mut child: Child) {
    let _ = child.kill();
    child.wait().expect("it ends");
}

#[test]
fn a_container_moves_to_a_trusted_host_and_back() {
    let Some(pair) = Pair::trusting() else { return };
    let before = pair.run(&pair.id, |_| ()).reports();
    let there = Agent::on(&pair.b, "0.0.0.0", &[]);
    let said = send(&pair.a, ADDRESSES[1], &["--dry-run", &pair.id]).succeeded();
    assert!(said.starts_with("nothing is in the way: criu "), "{said}");
    send(&pair.a, ADDRESSES[1], &[&pair.id]).succeeded();
    gone(&pair.a, &pair.id);
    let before = goes_on(&pair.b, &pair.id, &before);
    drop(there);

    // The first host knows the second one by its address already.
    trust(&pair.b, ADDRESSES[0], &pair.a);
    let here = Agent::on(&pair.a, ADDRESSES[0], &[]);
    send(&pair.b, ADDRESSES[0], &[&pair.id]).succeeded();
    gone(&pair.b, &pair.id);
    goes_on(&pair.a, &pair.id, &before);
    pair.a.imported(&pair.id).end();
    drop(here);
    pair.a.assert_no_trace();
    pair.b.assert_no_trace();
}

#[test]
fn a_host_that_is_not_trusted_is_refused_on_either_side() {
    let Some(pair) = Pair::new() else { return };
    let container = pair.run(&pair.id, |_| ());
    let _agent = Agent::on(&pair.b, ADDRESSES[1], &[]);
    let [own, others] = [&pair.a, &pair.b].map(|host| agent(host, &["fingerprint"]));
    let words = to(&pair.a, ADDRESSES[1], &[&pair.id]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let refused = |fragments: &[&str], hint: &str| {
        let said = container.runs_on_beside(&words, 1, fragments);
        assert!(said.contains(hint), "{hint:?} is not in\n{said}");
    };
    let [_, address] = ADDRESSES;
    refused(
        &[&format!("{address} is not trusted here; it shows the key {others}")],
        &format!("run: migrate agent trust {address} {others}"),
    );
    // One who has another key than the host of that name.
    agent(&pair.a, &["trust", address, &own]);
    refused(
        &[&format!("{address} shows another key than the one that is trusted: {others} instead of {own}")],
        &format!("run: migrate agent forget {address}"),
    );
    agent(&pair.a, &["forget", address]);
    trust(&pair.a, address, &pair.b);
    refused(
        &[&format!("this host is not trusted by {address}")],
        &format!("not trusted there; on that host run: migrate agent trust NAME {own}"),
    );
    logged(&pair.b, &format!("is not trusted here; it shows the key {own}"));
    agent(&pair.b, &["trust", "a", &own]);
    assert_eq!(agent(&pair.b, &["peers"]), format!("a {own}"));
    send(&pair.a, address, &["--dry-run", &pair.id]).succeeded();
    // Nothing has to be told to the agent.
    agent(&pair.b, &["forget", "a"]);
    refused(&[&format!("this host is not trusted by {address}")], "not trusted there");
    container.end();
}

#[test]
fn without_a_key_it_is_said_how_to_make_one() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let container = host.run_small(&stage.id("any")).1;
    let said = send(&host, "localhost", &[container.id()]).failed(1, &["this host has no key"]);
    assert!(said.contains("migrate agent init"), "{said}");
    let directory = host.path("agent");
    let listen = ["agent", "--dir", &directory, "--listen", "tls://127.0.0.1"];
    let said = host.migrate(&listen).failed(1, &["this host has no key"]);
    assert!(said.contains("migrate agent init"), "{said}");
    let fingerprint = agent(&host, &["init"]);
    assert!(fingerprint.len() == 71 && fingerprint.starts_with("sha256:"), "{fingerprint}");
    host.migrate(&["agent", "--dir", &directory, "init"]).failed(1, &["this host has a key already"]);
    assert_eq!(agent(&host, &["fingerprint"]), fingerprint);
    let key = std::fs::metadata(host.path("agent/key.pem")).expect("stat").permissions();
    assert_eq!(key.mode() & 0o777, 0o600);
    container.end();
}

#[test]
fn what_the_policy_does_not_grant_is_named_with_the_line_that_would() {
    let Some(pair) = Pair::trusting() else { return };
    let data = pair.stage.path("data");
    std::fs::create_dir_all(format!("{data}/web")).expect("make a directory");
    let source = format!("{data}/web");
    let container = pair.run(&pair.id, |config| {
        config["hooks"] = json!({"poststop": [{"path": "/bin/true"}]});
        let mount = json!({"destination": "/data", "type": "bind", "source": &source, "options": ["rbind"]});
        config["mounts"].as_array_mut().expect("a list").push(mount);
    });
    let before = container.reports();
    let _agent = Agent::on(&pair.b, ADDRESSES[1], &[]);
    let words = to(&pair.a, ADDRESSES[1], &[&pair.id]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let refused = |fragments: &[&str], hints: &[&str]| {
        let said = container.runs_on_beside(&words, 7, fragments);
        for hint in hints {
            assert!(said.contains(hint), "{hint:?} is not in\n{said}");
        }
    };
    let place = pair.b.path("agent/policy.json");
    refused(
        &[&format!("binds {source:?} on \"/data\""), "hooks.poststop[0] runs \"/bin/true\""],
        &[&format!("add to `default` of {place}: \"mounts\": [{source:?}], \"hooks\": [\"/bin/true\"]")],
    );
    // Another one's rules are none of its own.
    let mut rules =
        json!({"mounts": [data], "hooks": ["/bin/true"], "memory": 1 << 20, "containers": ["db-*"]});
    pair.policy(&json!({"peers": {"b.example": rules}}));
    refused(&["hooks.poststop[0]"], &["`default` of "]);
    rules["disk"] = json!(1024);
    pair.policy(&json!({"peers": {"a.example": rules}}));
    refused(
        &[
            "linux.resources.memory.limit is not set, of 1048576 bytes",
            &format!("no container of the id {:?} may come", pair.id),
            "and it may take 1024 bytes of disk",
        ],
        &["`peers.a.example` of ", &format!("\"containers\": [{:?}]", pair.id), "\"disk\": "],
    );
    pair.policy(&json!({"default": {"mounts": [data]}, "peers": {"a.example": {"hooks": ["/bin/true"]}}}));
    send(&pair.a, ADDRESSES[1], &[&pair.id]).succeeded();
    goes_on(&pair.b, &pair.id, &before);
    pair.b.imported(&pair.id).end();
}

/// `migrate receive --policy`, as a forced command of ssh's would say it.
#[test]
fn a_receiver_has_a_policy_too() {
    let Some(pair) = Pair::trusting() else { return };
    let container = pair.run(&pair.id, |config| {
        config["hooks"] = json!({"poststop": [{"path": "/bin/true"}]});
    });
    let script = pair.stage.path("shell");
    let (policy, remote) = (pair.b.path("agent/policy.json"), pair.b.migrate_argv(&["receive"]).join(" "));
    std::fs::write(&script, format!("#!/bin/sh\nexec {remote} --policy {policy} --peer a.example\n"))
        .expect("write the script");
    let command = format!("sh {script}");
    pair.policy(&json!({"peers": {"a.example": {"containers": []}}}));
    let words = ["to", "--dry-run", "--ssh-command", &command, "there", &pair.id];
    let said = container.runs_on_beside(&words, 7, &["hooks.poststop[0]", "may come: containers are []"]);
    assert!(said.contains("\"hooks\": [\"/bin/true\"]"), "{said}");
    pair.policy(&json!({"peers": {"a.example": {"hooks": ["/bin/true"]}}}));
    pair.a.migrate(&words).succeeded();
    container.end();
}

#[test]
fn two_containers_come_at_once_and_as_many_as_may() {
    let Some(pair) = Pair::trusting() else { return };
    let ids = [format!("{}-1", pair.id), format!("{}-2", pair.id)];
    let before: Vec<_> = ids.iter().map(|id| pair.run(id, |_| ()).reports()).collect();
    let _agent = Agent::on(&pair.b, ADDRESSES[1], &[]);
    let words = to(&pair.a, ADDRESSES[1], &[&ids[0]]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let first = pair.a.migrate_command(&words).start();
    recorded(&pair.a, "begun");
    // It stands still in the middle of it.
    first.signal(Signal::SIGSTOP);
    send(&pair.a, ADDRESSES[1], &[&ids[1]]).succeeded();
    first.signal(Signal::SIGCONT);
    first.wait().succeeded();
    for (id, before) in ids.iter().zip(&before) {
        gone(&pair.a, id);
        goes_on(&pair.b, id, before);
        pair.b.imported(id).end();
    }
    let container = pair.run(&pair.id, |_| ());
    pair.policy(&json!({"default": {"migrations": 0}}));
    let said = send(&pair.a, ADDRESSES[1], &[&pair.id])
        .failed(1, &["serves as many connections of this host as it may"]);
    assert!(said.contains("`migrations`"), "{said}");
    container.end();
}

/// What a host has written down of its only migration.
fn recorded(host: &Host, what: &str) -> String {
    wait_until(PATIENCE, what, || {
        let entries = std::fs::read_dir(host.path("state/.migrations")).into_iter().flatten();
        let names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
        let name = names.first().and_then(|name| name.to_str()).ok_or("none yet".to_owned())?.to_owned();
        let bytes =
            std::fs::read(host.path(&format!("state/.migrations/{name}/journal"))).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if text.contains(&format!("\"{what}\"")) { Ok(name) } else { Err(text) }
    })
}

/// The agent and all that it has started are killed when the other host has decided.
#[test]
fn a_migration_goes_on_with_a_new_agent() {
    let Some(pair) = Pair::trusting() else { return };
    let before = pair.run(&pair.id, |_| ()).reports();
    let mut agent = Agent::on(&pair.b, ADDRESSES[1], &[]);
    let words = to(&pair.a, ADDRESSES[1], &[&pair.id]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let running = pair.a.migrate_command(&words).start();
    recorded(&pair.b, "ready");
    running.signal(Signal::SIGSTOP);
    agent.kill();
    let migration = recorded(&pair.a, "prepared");
    running.signal(Signal::SIGKILL);
    running.wait();
    wait_until(PATIENCE, "criu ends by itself", || if pair.a.criu_runs() { Err(()) } else { Ok(()) });
    let _agent = Agent::on(&pair.b, ADDRESSES[1], &[]);
    let output = pair.a.migrate(&["to", "--continue", &migration]);
    match (output.code, pair.a.container_ids().contains(&pair.id)) {
        (0, false) => {
            goes_on(&pair.b, &pair.id, &before);
            pair.b.imported(&pair.id).end();
        }
        (1, true) if output.stderr.contains("it goes on here") => {
            let container = pair.a.container(&pair.id, &pair.a.path(&format!("bundles/{}/rootfs", pair.id)));
            container.goes_on(&before);
            container.end();
            gone(&pair.b, &pair.id);
        }
        other => panic!("{other:?}: {output:?}"),
    }
}

/// The agent alone is killed: what it serves goes on.
#[test]
fn a_connection_outlives_the_agent_that_has_accepted_it() {
    let Some(pair) = Pair::trusting() else { return };
    let before = pair.run(&pair.id, |_| ()).reports();
    let mut agent = Agent::on(&pair.b, ADDRESSES[1], &[]);
    let words = to(&pair.a, ADDRESSES[1], &[&pair.id]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let running = pair.a.migrate_command(&words).start();
    recorded(&pair.a, "begun");
    let listening = agent.running.take().expect("it runs");
    listening.signal(Signal::SIGKILL);
    listening.wait();
    running.wait().succeeded();
    goes_on(&pair.b, &pair.id, &before);
    pair.b.imported(&pair.id).end();
}

/// It breaks when all of the container is there and the other host is not heard yet.
#[test]
fn a_connection_that_breaks_before_the_decision_is_made_again() {
    let Some(pair) = Pair::trusting() else { return };
    let before = pair.run(&pair.id, |_| ()).reports();
    let _agent = Agent::on(&pair.b, ADDRESSES[1], &[]);
    let words = to(&pair.a, ADDRESSES[1], &[&pair.id]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let running = pair.a.migrate_command(&words).start();
    let is_there = || pair.b.container_ids().contains(&pair.id);
    wait_until(PATIENCE, "it is being restored", || is_there().then_some(()).ok_or(()));
    running.signal(Signal::SIGSTOP);
    recorded(&pair.b, "ready");
    let connections = || pair.a.command(&["ss", "-Htn", "dst", ADDRESSES[1]]).run().succeeded();
    assert!(!connections().is_empty(), "there is one");
    pair.a.command(&["ss", "-Kt", "dst", ADDRESSES[1]]).run().succeeded();
    assert_eq!(connections(), "", "it is broken");
    running.signal(Signal::SIGCONT);
    running.wait().succeeded();
    gone(&pair.a, &pair.id);
    goes_on(&pair.b, &pair.id, &before);
    pair.b.imported(&pair.id).end();
}

/// Another host that is trusted as well does not get what one has begun.
#[test]
fn a_migration_is_nobody_else_s_to_go_on_with() {
    let Some(pair) = Pair::trusting() else { return };
    let before = pair.run(&pair.id, |_| ()).reports();
    let mut agent_there = Agent::on(&pair.b, ADDRESSES[1], &[]);
    let words = to(&pair.a, ADDRESSES[1], &[&pair.id]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let running = pair.a.migrate_command(&words).start();
    // The other host has yet to restore it.
    let migration = recorded(&pair.a, "prepared");
    running.signal(Signal::SIGSTOP);
    agent_there.kill();
    running.signal(Signal::SIGKILL);
    running.wait();
    wait_until(PATIENCE, "criu ends by itself", || if pair.a.criu_runs() { Err(()) } else { Ok(()) });
    // The same host comes back as somebody else.
    std::fs::rename(pair.a.path("agent/key.pem"), pair.a.path("agent/old.pem")).expect("rename");
    agent(&pair.a, &["init"]);
    trust(&pair.b, "c.example", &pair.a);
    let _agent = Agent::on(&pair.b, ADDRESSES[1], &[]);
    pair.a.migrate(&["to", "--continue", &migration]);
    logged(&pair.b, "this migration is none of c.example's");
    std::fs::rename(pair.a.path("agent/old.pem"), pair.a.path("agent/key.pem")).expect("rename");
    pair.a.migrate(&["to", "--continue", &migration]);
    let at = [&pair.a, &pair.b].map(|host| host.container_ids().contains(&pair.id));
    match at {
        [false, true] => drop(goes_on(&pair.b, &pair.id, &before)),
        [true, false] => drop(
            pair.a.container(&pair.id, &pair.a.path(&format!("bundles/{}/rootfs", pair.id))).goes_on(&before),
        ),
        other => panic!("the container is at {other:?}"),
    }
}

/// More than wait at once for somebody to hear who they are.
#[test]
fn who_says_nothing_or_nonsense_keeps_nobody_from_being_served() {
    let Some(pair) = Pair::trusting() else { return };
    let before = pair.run(&pair.id, |_| ()).reports();
    let _agent = Agent::on(&pair.b, ADDRESSES[1], &[]);
    let door = format!("/dev/tcp/{}/7643", ADDRESSES[1]);
    let silent = format!(
        "for n in $(seq 40); do exec {{fd}}<>{door}; done; echo all > {0}; sleep 1000",
        pair.stage.path("there")
    );
    let slow = format!("exec 3<>{door}; while printf '\\x16' >&3; do sleep 0.2; done; sleep 1000");
    let nonsense = format!("for n in $(seq 20); do head -c 70000 /dev/urandom > {door}; done; sleep 1000");
    let strangers = [silent, slow, nonsense].map(|script| stranger(&pair.a, &script));
    wait_until(PATIENCE, "all are there", || std::fs::read(pair.stage.path("there")));
    logged(&pair.b, "make an encrypted connection with");
    let served = || pair.b.processes().into_iter().filter(|(_, line)| line.ends_with(" --served")).count();
    wait_until(PATIENCE, "only so many wait", || if served() <= 33 { Ok(()) } else { Err(served()) });
    send(&pair.a, ADDRESSES[1], &[&pair.id]).succeeded();
    goes_on(&pair.b, &pair.id, &before);
    pair.b.imported(&pair.id).end();
    // They are not waited for for ever.
    logged(&pair.b, "it has not shown who it is within 10s");
    strangers.into_iter().for_each(end);
}
