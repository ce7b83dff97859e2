// SPDX-License-Identifier: Apache-2.0
//! Memory that `migrate to` sends while the container runs: what stands still is little, what arrives is what it was, and whoever ends
//! it in the middle leaves a container that runs on as if nothing had been.

use std::os::unix::net::UnixListener;
use std::sync::mpsc;
use std::thread::JoinHandle;

use criu_tests::{
    Bundle, Container, Host, LargePipes, Need, PATIENCE, Receiver, Stage, frame, say, wait_until,
};
use migrate::pages::track;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// Both hosts, and pipes as CRIU needs them. `None` where the kernel cannot tell what is written to.
struct Pair {
    stage: Stage,
    a: Host,
    b: Host,
    id: String,
    _pipes: LargePipes,
}

impl Pair {
    fn new() -> Option<Self> {
        let stage = Stage::set(&[Need::Criu]).filter(|_| track::supported().is_ok())?;
        let (a, b) = (stage.host("a"), stage.host("b"));
        let id = stage.id("ahead");
        Some(Self { stage, a, b, id, _pipes: LargePipes::set() })
    }

    /// Its cgroup at the source: there is one tree of them for both hosts.
    fn cgroup(&self) -> String {
        format!("{}-source", self.id)
    }

    fn bundle(&self, workload: &str, options: &[&str]) -> Bundle {
        Bundle::of_workload(&self.a, workload, options).edit(|config| {
            config["linux"]["cgroupsPath"] = json!(format!("/{}", self.cgroup()));
        })
    }

    /// One that holds so many bytes, checks them all the time and writes to some.
    fn run(&self, bytes: u64) -> Container<'_> {
        let bundle = self.bundle("counter", &["--memory", &bytes.to_string()]);
        self.a.run_detached(&self.id, &bundle)
    }

    /// Moves it, and tells what was reported.
    fn moves(&self, at: &str, args: &[&str]) -> Value {
        let report = self.a.path("report.json");
        self.a.migrate(&[&["to", "--report", &report], args, &[at, &self.id]].concat()).succeeded();
        let report = std::fs::read(report).expect("a report");
        serde_json::from_slice(&report).expect("JSON")
    }

    /// It runs at its source, as if nothing had been.
    fn runs_on(&self, container: Container<'_>, before: &criu_tests::Status) {
        container.goes_on(before);
        let state = self.a.state(&self.id);
        assert!(state["status"] == "running" && state.get("ownership").is_none_or(Value::is_null), "{state}");
        let left = std::fs::read_dir(self.a.path("state/.migrations")).into_iter().flatten().count();
        assert_eq!(left, 0, "nothing was written down");
        container.end();
        self.a.assert_no_trace();
    }
}

fn bytes(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a number of bytes: {value}"))
}

#[test]
fn what_is_sent_while_it_stands_still_is_little() {
    let Some(pair) = Pair::new() else { return };
    let container = pair.run(256 * MIB);
    let before = container.reports();
    let receiver = Receiver::on(&pair.b, &[]);
    let report = pair.moves(&receiver.at, &[]);
    let there = pair.b.imported(&pair.id);
    there.goes_on(&before);
    let rounds = report["rounds"].as_array().expect("rounds");
    assert!(rounds.len() >= 2, "{report}");
    assert!(bytes(&rounds[0]["bytes"]) >= 250 * MIB, "{report}");
    assert!(bytes(&report["frozen_bytes"]) < 24 * MIB, "{report}");
    // Nothing is sent twice that was not written to meanwhile.
    assert!(bytes(&report["bytes_sent"]) < 256 * MIB + 64 * MIB, "{report}");
    assert!(report["without_rounds"].is_null(), "{report}");
    // It is no more than all that was done.
    let phases = report["phases"].as_array().expect("phases").iter();
    let all: f64 = phases.filter_map(|phase| phase["seconds"].as_f64()).sum();
    assert!(report["downtime"].as_f64().is_some_and(|downtime| downtime > 0.0 && downtime < all), "{report}");
    there.end();
    drop(receiver);
    pair.a.assert_no_trace();
    pair.b.assert_no_trace();
}

/// A container that writes several times as fast as is sent, and stamps the time.
fn run_fast(pair: &Pair) -> Bundle {
    let options = ["--stamps", "stamps", "--memory", "33554432", "--percent", "20000"];
    let bundle = pair.bundle("pulse", &options);
    pair.a.migrate_detached(&["run", "-d", "-b", &bundle.path(), &pair.id]);
    let path = format!("{}/stamps", bundle.rootfs());
    wait_until(PATIENCE, "it writes", || match std::fs::metadata(&path).map(|file| file.len()) {
        Ok(length) if length > 800 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    bundle
}

/// The processor time that a cgroup may have.
fn quota(host: &Host, cgroup: &str) -> String {
    host.cgroup_value(cgroup, "cpu.cfs_quota_us", "cpu.max")
}

const SLOWLY: [&str; 4] = ["--bandwidth", "128", "--downtime-target", "200"];

#[test]
fn one_that_writes_more_than_is_sent_is_slowed_down_only_if_that_is_wanted() {
    let Some(pair) = Pair::new() else { return };
    for slower in [false, true] {
        let bundle = run_fast(&pair);
        let unlimited = quota(&pair.a, &pair.cgroup());
        let receiver = Receiver::on(&pair.b, &[]);
        let more: &[&str] = if slower { &["--auto-converge"] } else { &[] };
        let report = pair.moves(&receiver.at, &[&SLOWLY[..], more].concat());
        let rounds = report["rounds"].as_array().expect("rounds");
        let limits: Vec<f64> = rounds.iter().filter_map(|round| round["processors"].as_f64()).collect();
        assert_eq!(!limits.is_empty(), slower, "{report}");
        assert!(limits.iter().all(|limit| (0.01..1.0).contains(limit)), "{report}");
        // What it writes in a round gets less, but all of it is written to again if nothing is done.
        let least = rounds.iter().map(|round| bytes(&round["dirty"])).min().expect("rounds");
        assert!(if slower { least < 30 * MIB } else { least > 30 * MIB }, "{report}");
        // 32 MiB at 128 MiB a second; the first one has saved a tenth of a second.
        assert!(rounds[1]["seconds"].as_f64().is_some_and(|first| first > 0.2), "{report}");
        // The name is taken there: there is one tree of cgroups for both.
        assert_eq!(quota(&pair.b, &format!("{}-{}", pair.cgroup(), pair.id)), unlimited);
        pair.b.migrate(&["delete", "--force", &pair.id]).succeeded();
        drop(receiver);
        bundle.remove();
        pair.a.assert_no_trace();
    }
}

#[test]
fn one_that_was_slowed_down_has_its_time_again_whoever_dies() {
    let Some(pair) = Pair::new() else { return };
    run_fast(&pair);
    let unlimited = quota(&pair.a, &pair.cgroup());
    let note = pair.a.path(&format!("state/{}/throttled.json", pair.id));
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let receiver = Receiver::on(&pair.b, &[]);
        // It never stands still by itself: a round would have to leave nothing.
        let args =
            ["to", "--bandwidth", "64", "--downtime-target", "0", "--auto-converge", &receiver.at, &pair.id];
        let sender = pair.a.migrate_command(&args).without_stdio().start();
        wait_until(PATIENCE, "it is slowed down", || {
            if !std::fs::exists(&note).expect("look") {
                return Err("no note".to_owned());
            }
            let text = quota(&pair.a, &pair.cgroup());
            if text == unlimited { Err(text) } else { Ok(()) }
        });
        sender.signal(signal);
        sender.wait();
        // Any command that names the container.
        assert_eq!(pair.a.state(&pair.id)["status"], "running");
        assert_eq!(quota(&pair.a, &pair.cgroup()), unlimited, "{signal}");
        assert!(!std::fs::exists(&note).expect("look"));
    }
    pair.a.migrate(&["delete", "--force", &pair.id]).succeeded();
    pair.a.assert_no_trace();
}

#[test]
fn processes_that_come_and_go_meanwhile_are_as_they_were() {
    let Some(pair) = Pair::new() else { return };
    let container = pair.a.run_detached(&pair.id, &pair.bundle("tree", &["--memory", "1048576"]));
    let before = container.reports();
    let receiver = Receiver::on(&pair.b, &[]);
    // As many rounds as there may be, so that some of what runs is in the middle of something.
    let report = pair.moves(&receiver.at, &["--downtime-target", "0"]);
    assert!(report["rounds"].as_array().is_some_and(|rounds| rounds.len() >= 2), "{report}");
    let there = pair.b.imported(&pair.id);
    there.goes_on(&before);
    there.end();
}

/// The number of the last line that a shell has written; no line says that something was amiss.
fn last_line(path: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    assert!(!text.contains("amiss"), "{text}");
    text.lines().rev().find_map(|line| line.strip_prefix("line ")?.parse().ok())
}

/// A shell that forks and executes all the time: what a round has found is another process by the next.
#[test]
fn processes_are_forked_and_execute_others_meanwhile() {
    let Some(pair) = Pair::new() else { return };
    let bundle = Bundle::of_shell(&pair.a, "forks").edit(|config| {
        let script = "n=0; while :; do n=$((n+1)); m=$n; ( sleep 0.02; [ $m = $n ] || echo amiss ) & \
                      ( w=$n; n=no; v=\"$(echo $w)\"; [ \"$v\" = $w ] || echo amiss ) || echo amiss; sleep 0.01; \
                      [ $((n % 10)) = 0 ] && wait; echo \"line $n\"; done";
        config["process"]["args"] = json!(["/bin/sh", "-c", script]);
        config["process"]["terminal"] = json!(false);
        config["linux"]["cgroupsPath"] = json!(format!("/{}", pair.cgroup()));
    });
    let path = pair.a.path("output");
    let file = std::fs::File::create(&path).expect("make a file");
    let run = pair.a.migrate_command(&["run", "-d", "-b", &bundle.path(), &pair.id]);
    run.without_stdio().stdout(file).run().succeeded();
    wait_until(PATIENCE, "it works", || last_line(&path).filter(|n| *n > 20).map(drop).ok_or(()));
    let receiver = Receiver::on(&pair.b, &[]);
    let report = pair.moves(&receiver.at, &["--downtime-target", "0"]);
    assert!(report["rounds"].as_array().is_some_and(|rounds| rounds.len() >= 2), "{report}");
    let before = last_line(&path).expect("lines");
    let there = format!("{}/{}/stdout.log", pair.b.state_root(), pair.id);
    wait_until(PATIENCE, "it goes on working", || match last_line(&there) {
        Some(n) if n > before + 20 => Ok(()),
        other => Err(other),
    });
    pair.b.migrate(&["delete", "--force", &pair.id]).succeeded();
    drop(receiver);
    pair.a.assert_no_trace();
    pair.b.assert_no_trace();
}

#[test]
fn without_rounds_memory_is_sent_while_it_stands_still() {
    let Some(pair) = Pair::new() else { return };
    let container = pair.run(16 * MIB);
    let before = container.reports();
    let receiver = Receiver::on(&pair.b, &[]);
    let report = pair.moves(&receiver.at, &["--memory-rounds", "0"]);
    assert!(report["frozen_bytes"].is_null() && report["without_rounds"].is_null(), "{report}");
    let there = pair.b.imported(&pair.id);
    there.goes_on(&before);
    there.end();
}

/// What a host of this test's says of what it is offered.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// It speaks the first version of the protocol only.
    Old,
    /// It takes so many frames of memory, and then nothing more, until it is told to go.
    Stalls(usize),
    /// It takes so many frames of memory, and goes.
    Leaves(usize),
    /// It takes all, and refuses.
    Refuses,
}

/// A host that welcomes every container.
struct Fake {
    at: String,
    /// Something comes when it has stalled.
    stalled: mpsc::Receiver<()>,
    go: mpsc::Sender<()>,
    thread: JoinHandle<Vec<u8>>,
}

impl Fake {
    fn at(path: &str, manner: Manner) -> Self {
        let listener = UnixListener::bind(path).expect("listen");
        let (tell, stalled) = mpsc::channel();
        let (go, gone) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("somebody comes");
            let mut kinds = Vec::new();
            let mut pages = 0;
            while let Some((kind, bytes)) = frame(&mut stream) {
                kinds.push(kind);
                if kind == 7 {
                    pages += 1;
                    match manner {
                        Manner::Stalls(most) if pages == most => {
                            tell.send(()).expect("somebody waits");
                            let _ = gone.recv();
                            return kinds;
                        }
                        Manner::Leaves(most) if pages == most => return kinds,
                        _ => {}
                    }
                }
                let Ok(said) = serde_json::from_slice::<Value>(&bytes) else { continue };
                let answer = match () {
                    () if kind != 1 => continue,
                    () if said.get("hello").is_some() && manner == Manner::Old => {
                        json!({"hello": {"speaks": [1], "program": "0.1"}})
                    }
                    () if said.get("hello").is_some() => said,
                    () if said.get("offer").is_some() => {
                        json!({"answer": {"blockers": [], "criu": "4.2", "kernel": "6.1", "free": 1, "takes_pages": true}})
                    }
                    () if ["FINAL", "ABORT"].iter().any(|kind| said["handoff"]["kind"] == *kind) => {
                        json!({"handoff": {"tag": said["handoff"]["tag"], "kind": "NACK"}})
                    }
                    () => continue,
                };
                say(&mut stream, &answer);
            }
            kinds
        });
        Self { at: format!("unix:{path}"), stalled, go, thread }
    }
}

/// `migrate to` is interrupted while a host takes nothing any more.
#[test]
fn interrupted_meanwhile_the_container_was_never_touched() {
    let Some(pair) = Pair::new() else { return };
    let container = pair.run(64 * MIB);
    let before = container.reports();
    let fake = Fake::at(&pair.stage.path("fake.sock"), Manner::Stalls(40));
    let running = pair.a.migrate_command(&["to", &fake.at, &pair.id]).start();
    fake.stalled.recv().expect("it takes memory");
    assert_eq!(container.state_status(), "running");
    running.signal(Signal::SIGINT);
    running.wait().failed(1, &["was not moved: it goes on here", "interrupted"]);
    fake.go.send(()).expect("it waits");
    let kinds = fake.thread.join().expect("the other host");
    assert!(!kinds.contains(&5), "no archive was begun");
    pair.runs_on(container, &before);
}

/// Nobody is left who could do anything about it.
#[test]
fn killed_meanwhile_the_sender_leaves_nothing() {
    let Some(pair) = Pair::new() else { return };
    let container = pair.run(64 * MIB);
    let before = container.reports();
    let fake = Fake::at(&pair.stage.path("fake.sock"), Manner::Stalls(40));
    let running = pair.a.migrate_command(&["to", &fake.at, &pair.id]).start();
    fake.stalled.recv().expect("it takes memory");
    running.signal(Signal::SIGKILL);
    running.wait();
    fake.go.send(()).expect("it waits");
    fake.thread.join().expect("the other host");
    pair.runs_on(container, &before);
}

#[test]
fn a_connection_that_is_lost_meanwhile_leaves_the_container_as_it_is() {
    let Some(pair) = Pair::new() else { return };
    let container = pair.run(64 * MIB);
    let before = container.reports();
    let fake = Fake::at(&pair.stage.path("fake.sock"), Manner::Leaves(40));
    pair.a.migrate(&["to", &fake.at, &pair.id]).failed(1, &["was not moved: it goes on here"]);
    fake.thread.join().expect("the other host");
    pair.runs_on(container, &before);
}

/// The processes were held by a CRIU that has left their memory where it was.
#[test]
fn refused_at_the_end_the_container_goes_on_with_its_memory() {
    let Some(pair) = Pair::new() else { return };
    let container = pair.run(64 * MIB);
    let before = container.reports();
    let fake = Fake::at(&pair.stage.path("fake.sock"), Manner::Refuses);
    pair.a.migrate(&["to", &fake.at, &pair.id]).failed(1, &["was not moved: it goes on here"]);
    let kinds = fake.thread.join().expect("the other host");
    assert!(kinds.contains(&7) && kinds.contains(&8) && !kinds.contains(&2), "{kinds:?}");
    pair.runs_on(container, &before);
}

#[test]
fn a_host_of_an_older_version_gets_the_memory_as_it_knows_it() {
    let Some(pair) = Pair::new() else { return };
    let container = pair.run(16 * MIB);
    let before = container.reports();
    let fake = Fake::at(&pair.stage.path("fake.sock"), Manner::Old);
    pair.a.migrate(&["to", &fake.at, &pair.id]).failed(1, &["was not moved: it goes on here"]);
    let kinds = fake.thread.join().expect("the other host");
    assert!(kinds.contains(&2) && !kinds.contains(&7), "{kinds:?}");
    pair.runs_on(container, &before);
}

/// What a receiver has kept that was killed meanwhile is removed by the next.
#[test]
fn killed_meanwhile_the_receiver_leaves_nothing_that_stays() {
    let Some(pair) = Pair::new() else { return };
    let container = pair.run(256 * MIB);
    let before = container.reports();
    let receiver = Receiver::on(&pair.b, &[]);
    let running = pair.a.migrate_command(&["to", &receiver.at, "--downtime-target", "0", &pair.id]).start();
    let migrations = pair.b.path("state/.migrations");
    let begun = || {
        let places: Vec<_> = std::fs::read_dir(&migrations).into_iter().flatten().flatten().collect();
        places.iter().any(|place| place.path().join("pages/pages").exists())
    };
    wait_until(PATIENCE, "memory comes", || if begun() { Ok(()) } else { Err(()) });
    drop(receiver);
    running.wait().failed(1, &["was not moved: it goes on here"]);
    assert!(begun(), "what has come is left");
    let receiver = Receiver::on(&pair.b, &[]);
    pair.moves(&receiver.at, &[]);
    let there = pair.b.imported(&pair.id);
    there.goes_on(&before);
    wait_until(PATIENCE, "nothing of either attempt stays", || {
        match std::fs::read_dir(&migrations).into_iter().flatten().count() {
            0 => Ok(()),
            left => Err(left),
        }
    });
    there.end();
    drop(container);
}
