// SPDX-License-Identifier: Apache-2.0
//! `migrate to` with several containers: all of them arrive, or all go on where they were, and whatever happens on the way, never some
//! here and some there.

use std::time::{Duration, Instant};

use criu_tests::{
    Bundle, Container, Host, LargePipes, Moment, Need, PATIENCE, Receiver, Silent, Stage, Status, frame,
    migration, recorded, say, wait_until,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const NAMES: [&str; 3] = ["web", "db", "cache"];

/// Both hosts, and three containers on the first.
struct Group {
    stage: Stage,
    a: Host,
    b: Host,
    ids: [String; 3],
    _pipes: LargePipes,
}

impl Group {
    fn set() -> Option<Self> {
        let stage = Stage::set(&[Need::Criu])?;
        let (a, b) = (stage.host("a"), stage.host("b"));
        let ids = NAMES.map(|name| stage.id(name));
        Some(Self { stage, a, b, ids, _pipes: LargePipes::set() })
    }

    /// A bundle whose cgroup leaves room for another of the same container: hosts of one kernel share the tree.
    fn bundle(&self, number: usize, args: &[&str]) -> Bundle {
        let [program, options @ ..] = args else { panic!("no program") };
        let args = [&[program, "--status", Bundle::STATUS], options].concat();
        Bundle::new(&self.a, NAMES[number], &args).edit(|config| {
            config["linux"]["cgroupsPath"] = json!(format!("/{}-source", self.ids[number]));
        })
    }

    fn run_one(&self, number: usize, args: &[&str]) -> Status {
        let bundle = self.bundle(number, args);
        self.a.run_detached(&self.ids[number], &bundle).reports()
    }

    fn run(&self) -> Vec<Status> {
        let counter = |memory| ["counter", "--memory", memory];
        let [small, large] = ["1048576", "16777216"].map(counter);
        vec![self.run_one(0, &large), self.run_one(1, &["tree"]), self.run_one(2, &small)]
    }

    fn here(&self, number: usize) -> Container<'_> {
        let rootfs = self.a.path(&format!("bundles/{}/rootfs", NAMES[number]));
        self.a.container(&self.ids[number], &rootfs)
    }

    fn there(&self, number: usize) -> Container<'_> {
        self.b.imported(&self.ids[number])
    }

    fn to<'a>(&'a self, args: &[&'a str], at: &'a str) -> Vec<&'a str> {
        let ids = self.ids.iter().map(String::as_str);
        ["to"].into_iter().chain(args.iter().copied()).chain([at]).chain(ids).collect()
    }

    /// Whether each of them is on this host, and in which status.
    fn on(&self, host: &Host) -> Vec<Option<String>> {
        self.ids.iter().map(|id| is_at(host, id)).collect()
    }

    /// All run where they were, as if nothing had been, and nothing of them is at the other host.
    fn run_on(&self, before: &[Status]) {
        for (number, before) in before.iter().enumerate() {
            let container = self.here(number);
            container.goes_on(before);
            let state = self.a.state(&self.ids[number]);
            let is_own = state.get("ownership").is_none_or(Value::is_null);
            assert!(state["status"] == "running" && is_own, "{state}");
        }
        assert_eq!(self.on(&self.b), [None, None, None]);
    }

    fn end(&self, host: &Host) {
        for number in 0..NAMES.len() {
            if std::ptr::eq(host, &self.a) { self.here(number) } else { self.there(number) }.end();
        }
    }

    /// All of them run at one host, if need be after the migration was continued.
    fn come_to_an_end(&self, before: &[Status]) {
        let receiver = Receiver::on(&self.b, &[]);
        for (here, there) in self.on(&self.a).into_iter().zip(self.on(&self.b)) {
            let runs = |status: Option<String>| status.as_deref() == Some("running");
            assert!(!(runs(here) && runs(there)), "one runs twice");
        }
        if let Some(migration) = migration(&self.a) {
            let output = self.a.migrate(&["to", "--continue", &migration]);
            assert!(output.code == 0 || output.stderr.contains("they go on here"), "{output:?}");
        }
        let (here, there) = (self.on(&self.a), self.on(&self.b));
        let all = |status: Option<&str>| vec![status.map(str::to_owned); NAMES.len()];
        let host = match () {
            () if here == all(Some("running")) && there == all(None) => &self.a,
            () if there == all(Some("running")) && here == all(None) => &self.b,
            () => panic!("they are {here:?} here and {there:?} there"),
        };
        for (number, before) in before.iter().enumerate() {
            let container = if std::ptr::eq(host, &self.a) { self.here(number) } else { self.there(number) };
            container.goes_on(before);
        }
        self.end(host);
        assert_eq!(migration(&self.a), None, "nothing is left to be continued");
        drop(receiver);
        self.a.assert_no_trace();
        self.b.assert_no_trace();
    }
}

fn is_at(host: &Host, id: &str) -> Option<String> {
    // It may be about to be removed.
    let said = wait_until(PATIENCE, "it is there or gone", || {
        let is_listed = host.container_ids().iter().any(|other| other == id);
        match is_listed.then(|| host.migrate(&["state", id])) {
            None => Ok(None),
            Some(said) if said.code == 0 => Ok(Some(said)),
            // Its receiver was killed before it wrote anything down.
            Some(said) if said.stderr.contains("container does not exist") => Ok(None),
            Some(said) => Err(said),
        }
    })?;
    let state: Value = serde_json::from_str(&said.succeeded()).expect("JSON");
    Some(state["status"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn three_containers_move_together_and_go_on() {
    let Some(group) = Group::set() else { return };
    let before = group.run();
    let receiver = Receiver::on(&group.b, &[]);
    let said = group.a.migrate(&group.to(&["--dry-run"], &receiver.at)).succeeded();
    assert!(said.starts_with("nothing is in the way: criu "), "{said}");
    group.run_on(&before);
    let report = group.a.path("report.json");
    let said = group.a.migrate(&group.to(&["--report", &report], &receiver.at)).succeeded();
    let names = group.ids.join(", ");
    assert!(said.starts_with(&format!("containers {names} run at ")), "{said}");
    assert_eq!(group.on(&group.a), [None, None, None]);
    for (number, before) in before.iter().enumerate() {
        assert_eq!(group.there(number).state_status(), "running");
        group.there(number).goes_on(before);
    }
    let report: Value = serde_json::from_slice(&std::fs::read(report).expect("a report")).expect("JSON");
    let members = report["members"].as_array().expect("members");
    let named: Vec<_> = members.iter().map(|member| member["container"].as_str()).collect();
    assert_eq!(named, group.ids.iter().map(|id| Some(id.as_str())).collect::<Vec<_>>());
    let longest = members.iter().filter_map(|member| member["downtime"].as_f64()).fold(0.0, f64::max);
    assert!(longest > 0.0 && report["downtime"].as_f64() == Some(longest), "{report}");
    group.end(&group.b);
    drop(receiver);
    group.a.assert_no_trace();
    group.b.assert_no_trace();
}

/// Each is named when it stands still, and rounds are of all of them.
#[test]
fn what_happens_on_the_way_is_told_of_each() {
    let Some(group) = Group::set() else { return };
    group.run();
    let receiver = Receiver::on(&group.b, &[]);
    let said = group.a.migrate(&group.to(&["--json-progress"], &receiver.at)).succeeded();
    let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let mut frozen: Vec<_> = lines.iter().filter_map(|line| line["frozen"].as_str()).collect();
    frozen.sort_unstable();
    let mut ids: Vec<_> = group.ids.iter().map(String::as_str).collect();
    ids.sort_unstable();
    assert_eq!(frozen, ids);
    if migrate::pages::track::supported().is_ok() {
        let first = lines.iter().find_map(|line| line["round"]["dirty"].as_u64());
        assert!(first > Some(17 << 20), "{said}");
    }
    group.end(&group.b);
}

/// CRIU refuses what was not looked for.
#[test]
fn one_that_cannot_be_dumped_keeps_all_of_them() {
    let Some(group) = Group::set() else { return };
    let mut before = vec![group.run_one(0, &["counter", "--memory", "16777216"])];
    before.push(group.run_one(1, &["files", "--lock"]));
    before.push(group.run_one(2, &["counter", "--memory", "1048576"]));
    let receiver = Receiver::on(&group.b, &[]);
    let output = group.a.migrate(&group.to(&["--no-check"], &receiver.at));
    let said = &output.stderr;
    assert!(output.code != 0 && said.contains("were not moved: they go on here"), "{output:?}");
    assert!(said.contains(&group.ids[1]) && said.contains("a process holds a file lock"), "{said}");
    group.run_on(&before);
    assert_eq!(migration(&group.a), None, "the other host has heard of it");
    group.end(&group.a);
    drop(receiver);
    group.a.assert_no_trace();
    group.b.assert_no_trace();
}

/// Before they are stopped, and after the other host has welcomed them, somebody there takes the last one's name.
#[test]
fn one_that_cannot_be_restored_keeps_all_of_them() {
    let Some(group) = Group::set() else { return };
    let before = group.run();
    let receiver = Receiver::on(&group.b, &[]);
    let moment = Moment { script: "pre-dump", answered: false };
    // The first one tells its version.
    let held = group.a.hold_later_criu(&group.to(&[], &receiver.at), moment, 1);
    let (_, stranger) = group.b.run_small(&group.ids[2]);
    let strange = stranger.reports();
    assert_eq!(held.release().wait().code, 1);
    let log = std::fs::read_to_string(group.a.path("migrate.log")).expect("a log");
    assert!(log.contains("were not moved: they go on here"), "{log}");
    assert!(log.contains(&format!("container with given ID already exists: {}", group.ids[2])), "{log}");
    assert_eq!(group.on(&group.b), [None, None, Some("running".to_owned())]);
    stranger.goes_on(&strange);
    stranger.end();
    group.run_on(&before);
    assert_eq!(migration(&group.a), None, "the other host has heard of it");
    group.end(&group.a);
    drop(receiver);
    group.a.assert_no_trace();
    group.b.assert_no_trace();
}

#[test]
fn what_is_in_the_way_of_one_is_named_before_anything_is_stopped() {
    let Some(group) = Group::set() else { return };
    let bundle = group.bundle(0, &["counter"]).edit(|config| {
        config["hooks"] = json!({"poststop": [{"path": "/bin/true"}]});
    });
    group.a.run_detached(&group.ids[0], &bundle);
    let before =
        [group.here(0).reports(), group.run_one(1, &["files", "--lock"]), group.run_one(2, &["counter"])];
    let receiver = Receiver::on(&group.b, &[]);
    let [hooked, locked, _] = &group.ids;
    let own = format!("container {locked}: ");
    let theirs = format!("there: container {hooked}: ");
    let fragments = ["in the way of this migration", &own, "it holds a lock", &theirs, "hooks.poststop[0]"];
    let said = group.a.migrate(&group.to(&[], &receiver.at)).failed(7, &fragments);
    assert!(said.contains("pass --file-locks"), "{said}");
    group.run_on(&before);
    let [one, ..] = &group.ids;
    let twice = group.a.migrate(&["to", &receiver.at, one, locked, one]);
    assert!(twice.code != 0 && twice.stderr.contains("is named twice"), "{twice:?}");
    group.run_on(&before);
    group.end(&group.a);
}

/// It would take the first for all of them.
#[test]
fn a_host_of_an_older_version_is_not_sent_several() {
    let Some(group) = Group::set() else { return };
    let before = group.run();
    let path = group.stage.path("old.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("listen");
    let old = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody comes");
        let mut frames = 0;
        while frame(&mut stream).is_some() {
            frames += 1;
            say(&mut stream, &json!({"hello": {"speaks": [2, 1], "program": "0.1"}}));
        }
        frames
    });
    let said = group.a.migrate(&group.to(&[], &format!("unix:{path}")));
    assert!(said.code != 0 && said.stderr.contains("moves one container at a time"), "{said:?}");
    assert_eq!(old.join().expect("the other host"), 1, "it was offered nothing");
    group.run_on(&before);
    group.end(&group.a);
}

#[test]
fn an_interrupted_migration_leaves_all_of_them_running() {
    let Some(group) = Group::set() else { return };
    let before = group.run();
    let silent = Silent::at(&group.stage.path("silent.sock"), false);
    let running = group.a.migrate_command(&group.to(&[], &silent.at)).start();
    recorded(&group.a, "prepared");
    assert_eq!(group.on(&group.a), vec![Some("paused".to_owned()); NAMES.len()]);
    running.signal(Signal::SIGINT);
    let begin = Instant::now();
    for (number, before) in before.iter().enumerate() {
        let ticks = |status: &Status| status.counter() > before.counter() + 1;
        wait_until(PATIENCE, "it goes on", || group.here(number).status().filter(ticks).ok_or(()));
    }
    assert!(begin.elapsed() < Duration::from_secs(2), "it took {:?}", begin.elapsed());
    running.wait().failed(1, &["were not moved: they go on here", "interrupted"]);
    silent.thread.join().expect("the silent host");
    group.run_on(&before);
    group.end(&group.a);
}

/// The decision is made, and nobody will ever say what has become of it.
#[test]
fn an_operator_decides_for_all_of_them() {
    let Some(group) = Group::set() else { return };
    let before = group.run();
    let silent = Silent::at(&group.b.path("receive.sock"), true);
    let running = group.a.migrate_command(&group.to(&[], &silent.at)).start();
    recorded(&group.a, "committed");
    running.signal(Signal::SIGINT);
    running.signal(Signal::SIGKILL);
    running.wait();
    silent.thread.join().expect("the silent host");
    wait_until(PATIENCE, "criu ends by itself", || if group.a.criu_runs() { Err(()) } else { Ok(()) });
    assert_eq!(group.on(&group.a), vec![Some("paused".to_owned()); NAMES.len()]);
    let migration = migration(&group.a).expect("there is one");
    let listed = group.a.migrate(&["migrations"]).succeeded();
    assert!(listed.contains(&group.ids.join(",")), "{listed}");
    for id in &group.ids {
        group.a.migrate(&["resume", id]).failed(1, &[&format!("by migration {migration}")]);
    }
    let args = ["resolve", "--i-fenced", "destination", "--reason", "its disk is gone", &migration];
    let said = group.a.migrate(&args).succeeded();
    assert!(said.contains(&format!("containers {} are this host's", group.ids.join(", "))), "{said}");
    group.run_on(&before);
    for number in 0..NAMES.len() {
        group.here(number).end();
    }
}

/// `migrate to` is killed once the source, or the destination, has written this down.
fn sender_killed(host: fn(&Group) -> &Host, what: &str) {
    let Some(group) = Group::set() else { return };
    let before = group.run();
    let receiver = Receiver::on(&group.b, &[]);
    let running = group.a.migrate_command(&group.to(&[], &receiver.at)).start();
    recorded(host(&group), what);
    running.signal(Signal::SIGKILL);
    running.wait();
    drop(receiver);
    group.come_to_an_end(&before);
}

#[test]
fn the_sender_is_killed_before_the_freeze() {
    sender_killed(|group| &group.a, "begun");
}

#[test]
fn the_sender_is_killed_before_the_decision() {
    sender_killed(|group| &group.a, "prepared");
}

#[test]
fn the_sender_is_killed_when_the_destination_is_ready() {
    sender_killed(|group| &group.b, "ready");
}

#[test]
fn the_sender_is_killed_after_the_decision() {
    sender_killed(|group| &group.a, "committed");
}

#[test]
fn the_sender_is_killed_as_the_destination_lets_them_run() {
    sender_killed(|group| &group.b, "live");
}

/// `migrate receive` is killed once somebody has written this down. Another one is there soon.
fn receiver_killed(host: fn(&Group) -> &Host, what: &str) {
    let Some(group) = Group::set() else { return };
    let before = group.run();
    let receiver = Receiver::on(&group.b, &[]);
    let running = group.a.migrate_command(&group.to(&[], &receiver.at)).start();
    recorded(host(&group), what);
    drop(receiver);
    let receiver = Receiver::on(&group.b, &[]);
    let output = running.wait();
    let said = ["they go on here", "it is not known"].iter().any(|text| output.stderr.contains(text));
    assert!(output.code == 0 || said, "{output:?}");
    drop(receiver);
    group.come_to_an_end(&before);
}

#[test]
fn the_receiver_is_killed_while_it_takes_them() {
    receiver_killed(|group| &group.a, "begun");
}

#[test]
fn the_receiver_is_killed_while_it_restores() {
    receiver_killed(|group| &group.a, "prepared");
}

#[test]
fn the_receiver_is_killed_when_it_is_ready() {
    receiver_killed(|group| &group.b, "ready");
}

#[test]
fn the_receiver_is_killed_as_it_is_told_to_let_them_run() {
    receiver_killed(|group| &group.b, "committed");
}

#[test]
fn the_receiver_is_killed_as_it_lets_them_run() {
    receiver_killed(|group| &group.b, "live");
}
