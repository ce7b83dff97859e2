// SPDX-License-Identifier: Apache-2.0
//! `events`: statistics and what happens for want of memory, in runc's JSON, until the container ends.

use std::fs::{self, File};

use criu_tests::{Bundle, Container, Host, PATIENCE, Running, Stage, wait_until};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// `events`, and the file that it prints to.
struct Events {
    command: Running,
    path: String,
}

impl Events {
    fn start(host: &Host, args: &[&str], id: &str) -> Self {
        let path = host.path("events");
        let file = File::create(&path).expect("make the file for the events");
        let command = host.migrate_command(&[&["events"], args, &[id]].concat()).stdout(file).start();
        Self { command, path }
    }

    /// The complete lines so far.
    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.path).expect("read the events");
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete.lines().map(|line| serde_json::from_str(line).expect("an event is JSON")).collect()
    }

    fn wait_for(&self, kind: &str, count: usize) {
        wait_until(PATIENCE, kind, || {
            let lines = self.lines();
            let found = lines.iter().filter(|line| line["type"] == json!(kind)).count();
            if found >= count { Ok(()) } else { Err(lines) }
        });
    }

    /// Waits for the end and gives the lines that came until then.
    fn ended(self) -> Vec<Value> {
        let lines = |path| fs::read_to_string(path).expect("read the events");
        let path = self.path.clone();
        self.command.wait().succeeded();
        lines(path).lines().map(|line| serde_json::from_str(line).expect("an event is JSON")).collect()
    }
}

/// A container with this much memory, and no swap where that can be said.
fn small<'h>(stage: &Stage, host: &'h Host, limit: u64) -> Container<'h> {
    let bundle = Bundle::of_workload(host, "counter", &["--memory", "1048576"]);
    host.run_detached(&stage.id("small"), &limited(bundle, limit))
}

fn limited(bundle: Bundle, limit: u64) -> Bundle {
    bundle.edit(|config| {
        config["linux"]["resources"]["memory"] = json!({"limit": limit, "swap": limit});
        config["linux"]["resources"]["pids"] = json!({"limit": 100});
    })
}

fn stats(host: &Host, id: &str) -> Value {
    let text = host.migrate(&["events", "--stats", id]).succeeded();
    assert!(text.starts_with(&format!(r#"{{"type":"stats","id":"{id}","data":{{"cpu":{{"#)), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON: {e}\n{text}"))
}

#[test]
fn statistics_tell_what_the_container_uses() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let container = small(&stage, &host, 64 * MIB);
    let data = stats(&host, container.id())["data"].take();
    let number = |pointer: &str| data.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    assert!(number("/cpu/usage/total") > 0, "{data}");
    assert_eq!(number("/memory/usage/limit"), 64 * MIB);
    let usage = number("/memory/usage/usage");
    assert!((MIB..64 * MIB).contains(&usage), "{usage}");
    assert!(data["memory"]["raw"].as_object().is_some_and(|raw| raw.len() > 10), "{data}");
    assert_eq!(number("/pids/limit"), 100);
    assert!(number("/pids/current") >= 1);
    for (field, value) in [("intel_rdt", json!({})), ("network_interfaces", Value::Null)] {
        assert_eq!(data.get(field), Some(&value), "{field}");
    }
    for field in ["cpuset", "blkio", "hugetlb"] {
        assert!(data[field].is_object(), "{field}: {data}");
    }

    host.migrate(&["pause", container.id()]).succeeded();
    assert!(stats(&host, container.id())["data"]["pids"]["current"].as_u64() >= Some(1));
    host.migrate(&["resume", container.id()]).succeeded();
    container.kill("TERM");
    container.stops();
    for args in [&["events", "--stats", container.id()][..], &["events", container.id()]] {
        host.migrate(args).failed(1, &["is not running"]);
    }
    host.migrate(&["delete", container.id()]).succeeded();
    host.migrate(&["events", container.id()]).failed(1, &["does not exist"]);
    host.assert_no_trace();
}

#[test]
fn statistics_come_until_the_container_ends() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let container = small(&stage, &host, 64 * MIB);
    let events = Events::start(&host, &["--interval", "50ms"], container.id());
    events.wait_for("stats", 3);
    container.kill("KILL");
    let lines = events.ended();
    assert!(lines.iter().all(|line| line["type"] == json!("stats") && line["id"] == json!(container.id())));
    container.stops();
    host.migrate(&["delete", container.id()]).succeeded();
    host.assert_no_trace();
}

#[test]
fn events_end_when_the_container_is_deleted() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let container = small(&stage, &host, 64 * MIB);
    let events = Events::start(&host, &["--interval=50ms"], container.id());
    events.wait_for("stats", 1);
    host.migrate(&["delete", "--force", container.id()]).succeeded();
    events.ended();
    host.assert_no_trace();
}

#[test]
fn a_process_that_is_killed_for_want_of_memory_is_an_event() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let container = small(&stage, &host, 32 * MIB);
    let events = Events::start(&host, &["--interval", "20ms"], container.id());
    // It watches before it prints.
    events.wait_for("stats", 1);
    assert!(!format!("{:?}", events.lines()).contains("oom"), "nothing yet for who looks for the word");
    // The kernel takes whom it has killed for gone a little before all of that one's memory is given back: then it kills
    // another one that asks for some. The first process asks for none meanwhile.
    container.stand_still();
    let hog = ["exec", container.id(), "/workload", "hog", "--memory", "134217728"];
    assert_eq!(host.migrate(&hog).code, 137);
    container.kill("CONT");
    events.wait_for("oom", 1);
    container.goes_on(&container.reports());
    let lines = events.lines();
    let oom = lines.iter().find(|line| line["type"] == json!("oom")).expect("it was awaited");
    assert_eq!(oom, &json!({"type": "oom", "id": container.id()}));
    let counted = stats(&host, container.id())["data"]["memory"]["event_count"]["oom_kill"].take();
    assert!(counted.as_u64() >= Some(1), "{counted}");
    container.end();
    events.ended();
    host.assert_no_trace();
}

#[test]
fn the_first_process_killed_for_want_of_memory_is_an_event_and_the_end() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let id = stage.id("hog");
    let bundle = limited(Bundle::new(&host, "hog", &["hog", "--memory", "134217728"]), 32 * MIB);
    assert_eq!(host.migrate(&["run", "-b", &bundle.path(), &id]).code, 137);

    host.migrate_detached(&["create", "-b", &bundle.path(), &id]);
    let events = Events::start(&host, &["--interval", "20ms"], &id);
    events.wait_for("stats", 1);
    host.migrate(&["start", &id]).succeeded();
    let lines = events.ended();
    assert!(lines.contains(&json!({"type": "oom", "id": id})), "{lines:?}");
    host.container(&id, &bundle.rootfs()).stops();
    host.migrate(&["delete", &id]).succeeded();
    host.assert_no_trace();
}

#[test]
fn intervals_are_judged() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    for (interval, said) in
        [("0s", "must be greater than 0"), ("-1s", "must be greater than 0"), ("soon", "soon")]
    {
        let output = host.migrate(&["events", "--interval", interval, "x"]);
        assert!(output.code == 1 && output.stderr.contains(said), "{interval}: {}", output.stderr);
    }
}
