// SPDX-License-Identifier: Apache-2.0
//! `migrate to` and `migrate receive`: a container goes from one host to another while it runs, and whatever happens on the way, never
//! runs on both.

use std::os::unix::fs::PermissionsExt as _;

use criu_tests::{
    Bundle, Container, Host, LargePipes, Moment, Need, PATIENCE, Receiver, Running, Silent, Stage, migration,
    recorded, wait_until,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A bundle whose cgroup leaves room for another of the same container: hosts of one kernel share the tree.
fn bundle(host: &Host, id: &str, workload: &str, options: &[&str]) -> Bundle {
    Bundle::of_workload(host, workload, options).edit(|config| {
        config["linux"]["cgroupsPath"] = json!(format!("/{id}-source"));
    })
}

fn gone(container: &Container<'_>, host: &Host) {
    assert!(!host.container_ids().iter().any(|id| id == container.id()), "it is gone from where it was");
}

fn moved(workload: &str, options: &[&str], prepare: fn(Bundle) -> Bundle) {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let (a, b) = (stage.host("a"), stage.host("b"));
    let id = stage.id("moved");
    let bundle = prepare(bundle(&a, &id, workload, options));
    let container = a.run_detached(&id, &bundle);
    let before = container.reports();
    let receiver = Receiver::on(&b, &[]);

    let said = a.migrate(&["to", "--dry-run", &receiver.at, &id]).succeeded();
    assert!(said.starts_with("nothing is in the way: criu "), "{said}");
    let before = container.goes_on(&before);

    let report = a.path("report.json");
    a.migrate(&["to", "--report", &report, &receiver.at, &id]).succeeded();
    gone(&container, &a);
    let there = b.imported(&id);
    assert_eq!(there.state_status(), "running");
    there.goes_on(&before);
    let report = std::fs::read(report).expect("a report");
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    assert!(report["downtime"].as_f64().is_some_and(|seconds| seconds > 0.0), "{report}");
    there.end();
    drop(receiver);
    a.assert_no_trace();
    b.assert_no_trace();
}

#[test]
fn a_container_moves_and_goes_on() {
    moved("counter", &["--memory", "16777216"], |bundle| bundle);
}

#[test]
fn a_tree_of_processes_moves_and_goes_on() {
    moved("tree", &[], |bundle| bundle);
}

#[test]
fn open_files_move_and_go_on() {
    moved("files", &[], |bundle| bundle);
}

#[test]
fn threads_move_and_go_on() {
    moved("threads", &[], |bundle| bundle);
}

#[test]
fn a_container_in_a_user_namespace_moves_and_goes_on() {
    moved("counter", &["--memory", "1048576"], |bundle| bundle.in_user_namespace(100_000, 65_536));
}

/// CRIU wants a file in its place that is like it, which no user of the destination could make.
#[test]
fn a_container_that_writes_to_a_file_of_its_host_moves_and_goes_on_writing() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let (a, b) = (stage.host("a"), stage.host("b"));
    let id = stage.id("writes");
    let bundle = Bundle::of_shell(&a, "writes").edit(|config| {
        let script = "n=0; while :; do n=$((n+1)); echo \"line $n\"; sleep 0.02; done";
        config["process"]["args"] = json!(["/bin/sh", "-c", script]);
        config["process"]["terminal"] = json!(false);
        config["linux"]["cgroupsPath"] = json!(format!("/{id}-source"));
    });
    let path = a.path("output");
    let file = std::fs::File::create(&path).expect("make a file");
    file.set_permissions(std::fs::Permissions::from_mode(0o640)).expect("chmod");
    let run = a.migrate_command(&["run", "-d", "-b", &bundle.path(), &id]).without_stdio().stdout(file);
    run.run().succeeded();
    let last = |path: &str| -> Option<u64> {
        let text = std::fs::read_to_string(path).ok()?;
        text.lines().rev().find_map(|line| line.strip_prefix("line ")?.parse().ok())
    };
    wait_until(PATIENCE, "it writes", || last(&path).filter(|n| *n > 3).map(drop).ok_or(()));
    let receiver = Receiver::on(&b, &[]);
    a.migrate(&["to", &receiver.at, &id]).succeeded();
    let before = last(&path).expect("lines");
    let there = format!("{}/{id}/stdout.log", b.state_root());
    wait_until(PATIENCE, "it goes on writing", || match last(&there) {
        Some(n) if n > before + 3 => Ok(()),
        other => Err(other),
    });
    let text = std::fs::read_to_string(&there).expect("read");
    assert!(text.contains(&format!("\nline {}\n", before + 2)) && !text.contains("line 1\n"), "{text}");
    assert_eq!(std::fs::metadata(&there).expect("stat").permissions().mode() & 0o777, 0o640);
    b.migrate(&["delete", "--force", &id]).succeeded();
    drop(receiver);
    a.assert_no_trace();
    b.assert_no_trace();
}

/// The container is given up before the decision, and goes on where it was.
#[test]
fn an_interrupted_migration_leaves_the_container_running() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let a = stage.host("a");
    let id = stage.id("interrupted");
    let bundle = bundle(&a, &id, "counter", &["--memory", "1048576"]);
    let container = a.run_detached(&id, &bundle);
    let before = container.reports();
    let silent = Silent::at(&stage.path("silent.sock"), false);
    let running = a.migrate_command(&["to", &silent.at, &id]).start();
    recorded(&a, "prepared");
    assert_eq!(container.state_status(), "paused");
    running.signal(Signal::SIGINT);
    let begin = std::time::Instant::now();
    container.goes_on(&before);
    assert!(begin.elapsed() < std::time::Duration::from_secs(2), "it took {:?}", begin.elapsed());
    let said = running.wait().failed(1, &["was not moved: it goes on here", "interrupted"]);
    assert!(said.contains("migrate to --continue"), "{said}");
    silent.thread.join().expect("the silent host");
    container.end();
}

/// Both hosts, a container on the first, and a receiver on the second. Memory is sent while the container runs.
struct Pair {
    stage: Stage,
    a: Host,
    b: Host,
    id: String,
    _pipes: LargePipes,
}

impl Pair {
    fn new() -> Option<Self> {
        let stage = Stage::set(&[Need::Criu])?;
        let (a, b) = (stage.host("a"), stage.host("b"));
        let id = stage.id("moved");
        Some(Self { stage, a, b, id, _pipes: LargePipes::set() })
    }

    fn run(&self) -> Container<'_> {
        let bundle = bundle(&self.a, &self.id, "counter", &["--memory", "33554432"]);
        self.a.run_detached(&self.id, &bundle)
    }

    /// The container as it is at its source.
    fn run_before(&self) -> Container<'_> {
        self.a.container(&self.id, &self.a.path("bundles/counter/rootfs"))
    }

    fn is_at(&self, host: &Host) -> Option<String> {
        let there = || host.container_ids().contains(&self.id);
        // It may be about to be removed.
        let said = wait_until(PATIENCE, "it is there or gone", || {
            let said = there().then(|| host.migrate(&["state", &self.id]));
            match said {
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

    /// Exactly one copy runs, if need be after the migration was continued; it goes on from `before`.
    fn comes_to_an_end(&self, before: &criu_tests::Status) {
        let receiver = Receiver::on(&self.b, &[]);
        assert!(
            self.is_at(&self.a).as_deref() != Some("running")
                || self.is_at(&self.b).as_deref() != Some("running"),
            "it runs twice"
        );
        if let Some(migration) = migration(&self.a) {
            let output = self.a.migrate(&["to", "--continue", &migration]);
            assert!(
                output.code == 0 || output.stderr.contains("it goes on here"),
                "{}: {}",
                output.code,
                output.stderr
            );
        }
        let (here, there) = (self.is_at(&self.a), self.is_at(&self.b));
        match (here.as_deref(), there.as_deref()) {
            (Some("running"), None) => {
                let container = self.run_before();
                container.goes_on(before);
                container.end();
            }
            (None, Some("running")) => {
                let container = self.b.imported(&self.id);
                container.goes_on(before);
                container.end();
            }
            other => panic!("the container is {other:?}"),
        }
        assert_eq!(migration(&self.a), None, "nothing is left to be continued");
        drop(receiver);
        self.a.assert_no_trace();
    }
}

/// `migrate to` is killed once the source, or the destination, has written this down.
fn sender_killed(host: fn(&Pair) -> &Host, what: &str) {
    let Some(pair) = Pair::new() else { return };
    let before = pair.run().reports();
    let receiver = Receiver::on(&pair.b, &[]);
    let running = pair.a.migrate_command(&["to", &receiver.at, &pair.id]).start();
    recorded(host(&pair), what);
    running.signal(Signal::SIGKILL);
    running.wait();
    drop(receiver);
    pair.comes_to_an_end(&before);
}

#[test]
fn the_sender_is_killed_before_the_freeze() {
    sender_killed(|pair| &pair.a, "begun");
}

#[test]
fn the_sender_is_killed_before_the_decision() {
    sender_killed(|pair| &pair.a, "prepared");
}

#[test]
fn the_sender_is_killed_when_the_destination_is_ready() {
    sender_killed(|pair| &pair.b, "ready");
}

#[test]
fn the_sender_is_killed_after_the_decision() {
    sender_killed(|pair| &pair.a, "committed");
}

/// `migrate receive` is killed once somebody has written this down. Another one is there soon.
fn receiver_killed(host: fn(&Pair) -> &Host, what: &str) {
    let Some(pair) = Pair::new() else { return };
    let before = pair.run().reports();
    let receiver = Receiver::on(&pair.b, &[]);
    let running = pair.a.migrate_command(&["to", &receiver.at, &pair.id]).start();
    recorded(host(&pair), what);
    drop(receiver);
    let receiver = Receiver::on(&pair.b, &[]);
    let output = running.wait();
    assert!(
        output.code == 0
            || ["it goes on here", "it is not known"].iter().any(|text| output.stderr.contains(text)),
        "{}: {}",
        output.code,
        output.stderr
    );
    drop(receiver);
    pair.comes_to_an_end(&before);
}

#[test]
fn the_receiver_is_killed_while_it_takes_the_container() {
    receiver_killed(|pair| &pair.a, "begun");
}

#[test]
fn the_receiver_is_killed_while_it_restores() {
    receiver_killed(|pair| &pair.a, "prepared");
}

#[test]
fn the_receiver_is_killed_when_it_is_ready() {
    receiver_killed(|pair| &pair.b, "ready");
}

#[test]
fn the_receiver_is_killed_as_it_lets_the_container_run() {
    receiver_killed(|pair| &pair.b, "committed");
}

/// The decision is made, and the destination that was ready has lost all that it knew.
#[test]
fn a_sender_that_was_killed_after_the_decision_asks_before_the_container_runs() {
    let Some(pair) = Pair::new() else { return };
    let before = pair.run().reports();
    let path = pair.b.path("receive.sock");
    let silent = Silent::at(&path, true);
    let running = pair.a.migrate_command(&["to", &silent.at, &pair.id]).start();
    recorded(&pair.a, "committed");
    running.signal(Signal::SIGINT);
    running.signal(Signal::SIGKILL);
    running.wait();
    silent.thread.join().expect("the silent host");
    wait_until(PATIENCE, "criu ends by itself", || if pair.a.criu_runs() { Err(()) } else { Ok(()) });
    assert_eq!(pair.is_at(&pair.a).as_deref(), Some("paused"), "it may run elsewhere");
    pair.comes_to_an_end(&before);
    drop(pair.stage);
}

/// The decision is made, and the host that was ready for the container is gone.
fn destination_lost(fenced: &str) -> Option<(Pair, criu_tests::Status)> {
    let pair = Pair::new()?;
    let before = pair.run().reports();
    let silent = Silent::at(&pair.b.path("receive.sock"), true);
    let running = pair.a.migrate_command(&["to", &silent.at, &pair.id]).start();
    recorded(&pair.a, "committed");
    running.signal(Signal::SIGINT);
    running.signal(Signal::SIGKILL);
    running.wait();
    silent.thread.join().expect("the silent host");
    wait_until(PATIENCE, "criu ends by itself", || if pair.a.criu_runs() { Err(()) } else { Ok(()) });
    assert_eq!(pair.is_at(&pair.a).as_deref(), Some("paused"), "it may run elsewhere");
    pair.a.migrate(&["resume", &pair.id]).failed(1, &["by migration"]);
    let migration = migration(&pair.a).expect("there is one");
    let args = ["resolve", "--i-fenced", fenced, "--reason", "its disk is gone", &migration];
    pair.a.migrate(&args).succeeded();
    Some((pair, before))
}

#[test]
fn an_operator_gets_the_container_back_when_the_destination_is_lost() {
    let Some((pair, before)) = destination_lost("destination") else { return };
    let container = pair.a.container(&pair.id, &pair.a.path("bundles/counter/rootfs"));
    container.goes_on(&before);
    assert_eq!(container.state_status(), "running");
    container.end();
}

#[test]
fn an_operator_gives_the_container_up_when_it_runs_at_the_destination() {
    let Some((pair, _)) = destination_lost("source") else { return };
    assert_eq!(pair.is_at(&pair.a), None);
}

/// The destination is ready, and everything at the source is gone.
#[test]
fn an_operator_lets_the_container_run_at_the_destination_when_the_source_is_lost() {
    let Some(pair) = Pair::new() else { return };
    let before = pair.run().reports();
    let receiver = Receiver::on(&pair.b, &[]);
    let running = pair.a.migrate_command(&["to", &receiver.at, &pair.id]).start();
    // All of it has come; what the source says from here on is not said.
    wait_until(PATIENCE, "it is being restored", || pair.is_at(&pair.b).map(drop).ok_or(()));
    running.signal(Signal::SIGSTOP);
    recorded(&pair.b, "ready");
    drop(receiver);
    running.signal(Signal::SIGKILL);
    running.wait();
    // Whatever it has left there, it will not run there any more.
    wait_until(PATIENCE, "criu ends by itself", || if pair.a.criu_runs() { Err(()) } else { Ok(()) });
    let migration = migration(&pair.b).expect("there is one");
    if pair.is_at(&pair.a).is_some() {
        pair.a.migrate(&["resolve", "--i-fenced", "source", &migration]).succeeded();
        assert_eq!(pair.is_at(&pair.a), None);
    }
    // It may run already, and nobody has said so yet.
    let said = pair.b.migrate(&["resolve", "--i-fenced", "source", &migration]).succeeded();
    assert!(said.contains("is this host's"), "{said}");
    let store = pair.b.path(&format!("state/.migrations/{migration}/memory"));
    assert!(!std::path::Path::new(&store).exists(), "nobody needs {store}");
    let there = pair.b.imported(&pair.id);
    assert_eq!(there.state_status(), "running");
    there.goes_on(&before);
    there.end();
}

#[test]
fn what_the_other_host_does_not_allow_is_named_before_anything_is_stopped() {
    let Some(pair) = Pair::new() else { return };
    let bundle = bundle(&pair.a, &pair.id, "counter", &["--memory", "1048576"]).edit(|config| {
        config["hooks"] = json!({"poststop": [{"path": "/bin/true"}]});
    });
    let container = pair.a.run_detached(&pair.id, &bundle);
    let receiver = Receiver::on(&pair.b, &[]);
    let fragments = ["in the way of this migration: there: ", "hooks.poststop[0] runs \"/bin/true\""];
    let said = container.runs_on_beside(&["to", &receiver.at, &pair.id], 7, &fragments);
    assert!(said.contains("--allow hooks"), "{said}");
    container.runs_on_beside(&["to", "--dry-run", &receiver.at, &pair.id], 7, &fragments);
    drop(receiver);
    let receiver = Receiver::on(&pair.b, &["--allow", "hooks"]);
    pair.a.migrate(&["to", &receiver.at, &pair.id]).succeeded();
    gone(&container, &pair.a);
    pair.b.imported(&pair.id).end();
}

/// As with ssh, but that the program which leads there leads to another state root.
#[test]
fn a_program_in_place_of_ssh_leads_to_the_other_host() {
    let Some(pair) = Pair::new() else { return };
    let before = pair.run().reports();
    let script = pair.stage.path("shell");
    std::fs::write(&script, "#!/bin/sh\n[ \"$1\" = there ] && exec sh -c \"$2\"\n")
        .expect("write the script");
    let remote = pair.b.migrate_argv(&[]).join(" ");
    let command = format!("sh {script}");
    let flags = ["--ssh-command", &command, "--remote-command", &remote, "--json-progress"];
    let said = pair.a.migrate(&[&["to"], &flags[..], &["there", &pair.id]].concat()).succeeded();
    let phases: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let named: Vec<_> = phases.iter().filter_map(|line| line["phase"].as_str()).collect();
    let tracks = migrate::pages::track::supported().is_ok();
    let rounds = if tracks { &["rounds"][..] } else { &[] };
    assert_eq!(named, [&["preflight"], rounds, &["transfer", "restore", "switch"]].concat());
    assert_eq!(phases.iter().any(|line| line["round"]["bytes"].as_u64() > Some(0)), tracks);
    pair.b.imported(&pair.id).goes_on(&before);
    // Only the state root is the other host's; the processes are of the first.
    let delete = pair.b.migrate_argv(&["delete", "--force", &pair.id]);
    let delete: Vec<&str> = delete.iter().map(String::as_str).collect();
    pair.a.command(&delete).run().succeeded();
}

/// From there on CRIU does not listen to anybody, and lets the processes go when nobody answers.
#[test]
fn a_receiver_that_is_killed_before_the_container_is_frozen_leaves_nothing_that_runs() {
    let Some(pair) = Pair::new() else { return };
    let before = pair.run().reports();
    let at = format!("unix:{}", pair.b.path("receive.sock"));
    let moment = Moment { script: "post-restore", answered: true };
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            wait_until(PATIENCE, "somebody listens", || std::fs::metadata(pair.b.path("receive.sock")));
            pair.a.migrate(&["to", &at, &pair.id])
        });
        // The first one tells its version.
        let held = pair.b.hold_later_criu(&["receive", "--listen", &at], moment, 1);
        assert_eq!(pair.is_at(&pair.a).as_deref(), Some("paused"));
        let frozen = pair.run_before().status().expect("a report");
        held.kill_command(&pair.b);
        let there = pair.b.imported(&pair.id).status().expect("its copy");
        assert_eq!(there.counter(), frozen.counter(), "it has run there");
        sender.join().expect("the sender").failed(1, &["was not moved: it goes on here"]);
    });
    let ran = |line: &(i32, String)| line.1.contains("counter");
    assert!(!pair.b.processes().iter().any(ran), "{:?}", pair.b.processes());
    pair.comes_to_an_end(&before);
}

/// Its death lets the processes go, while nobody is there who could freeze them: what ran there is not taken for the container.
#[test]
fn a_criu_that_is_killed_before_the_container_is_frozen_leaves_nothing_that_runs() {
    let Some(pair) = Pair::new() else { return };
    let before = pair.run().reports();
    let at = format!("unix:{}", pair.b.path("receive.sock"));
    let log = pair.b.outside(&format!("/var/log/migrate/{}-restore/restore.log", pair.id));
    let comes_to =
        || std::fs::read_to_string(&log).is_ok_and(|log| log.contains("Running pre-resume scripts"));
    // The one before.
    let moment = Moment { script: "network-unlock", answered: true };
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            wait_until(PATIENCE, "somebody listens", || std::fs::metadata(pair.b.path("receive.sock")));
            pair.a.migrate(&["to", &at, &pair.id])
        });
        let held = pair.b.hold_later_criu(&["receive", "--listen", &at], moment, 1);
        let receiver = held.kill_later(&pair.b, comes_to);
        sender.join().expect("the sender").failed(1, &["was not moved: it goes on here"]);
        receiver.signal(Signal::SIGKILL);
        pair.b.signal_served(Signal::SIGKILL);
        receiver.wait();
    });
    let ran = |line: &(i32, String)| line.1.contains("counter");
    assert!(!pair.b.processes().iter().any(ran), "{:?}", pair.b.processes());
    pair.comes_to_an_end(&before);
}

/// The processes that bring the memory of the container at its destination: one works, the other one is there if it dies.
fn providers(host: &Host, id: &str) -> Option<[i64; 2]> {
    let record = std::fs::read(format!("{}/{id}/memory.json", host.state_root())).ok()?;
    let record: Value = serde_json::from_slice(&record).ok()?;
    Some([record["providers"][0]["pid"].as_i64()?, record["providers"][1]["pid"].as_i64()?])
}

fn signal(host: &Host, name: &str, pid: i64) {
    host.command(&["sh", "-c", &format!("kill -{name} {pid}")]).run().succeeded();
}

fn is_whole(pair: &Pair) {
    wait_until(PATIENCE, "all memory is there", || providers(&pair.b, &pair.id).map_or(Ok(()), Err));
}

/// A migration whose destination has begun to restore, and brings no memory: who does it stands still.
struct WithoutMemory {
    sender: Running,
    receiver: Running,
    provider: i64,
}

impl WithoutMemory {
    /// `decided`: the sender goes on.
    fn of(pair: &Pair, decided: bool) -> Self {
        let at = format!("unix:{}", pair.b.path("receive.sock"));
        let moment = Moment { script: "post-restore", answered: true };
        let (sender, held) = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                wait_until(PATIENCE, "somebody listens", || std::fs::metadata(pair.b.path("receive.sock")));
                pair.a.migrate_command(&["to", &at, &pair.id]).start()
            });
            let held = pair.b.hold_later_criu(&["receive", "--listen", &at], moment, 1);
            (sender.join().expect("a sender"), held)
        });
        let [provider, _] = providers(&pair.b, &pair.id).expect("its memory is brought on demand");
        signal(&pair.b, "STOP", provider);
        if !decided {
            sender.signal(Signal::SIGSTOP);
        }
        Self { sender, receiver: held.release(), provider }
    }
}

#[test]
fn a_container_runs_before_its_memory_is_there() {
    let Some(pair) = Pair::new() else { return };
    let before = pair.run().reports();
    let WithoutMemory { sender, receiver, provider } = WithoutMemory::of(&pair, true);
    sender.wait().succeeded();
    let migration = migration(&pair.b);
    let there = pair.b.imported(&pair.id);
    assert_eq!(there.state_status(), "running");
    // Whoever brings it has it open.
    for left in ["memory", "archive"] {
        let left = migration.as_ref().map(|id| pair.b.path(&format!("state/.migrations/{id}/{left}")));
        assert!(!left.is_some_and(|path| std::path::Path::new(&path).exists()), "nobody needs its name");
    }
    let images = pair.b.path("images");
    let said = "its memory is still being read from what the other host has sent";
    pair.b.migrate(&["checkpoint", "--image-path", &images, &pair.id]).failed(1, &[said]);
    signal(&pair.b, "CONT", provider);
    there.goes_on(&before);
    is_whole(&pair);
    receiver.signal(Signal::SIGKILL);
    pair.b.signal_served(Signal::SIGKILL);
    receiver.wait();
    there.end();
    pair.b.assert_no_trace();
}

/// What brings the memory is killed while the destination waits for the decision; `receiver_too`: and who waits.
fn memory_lost_before_the_decision(receiver_too: bool) {
    let Some(pair) = Pair::new() else { return };
    let before = pair.run().reports();
    let WithoutMemory { sender, receiver, provider } = WithoutMemory::of(&pair, false);
    recorded(&pair.b, "ready");
    assert_eq!(pair.is_at(&pair.b).as_deref(), Some("paused"));
    if receiver_too {
        receiver.signal(Signal::SIGKILL);
        pair.b.signal_served(Signal::SIGKILL);
    }
    signal(&pair.b, "KILL", provider);
    // Whoever holds it is told so, and ends it.
    let record = format!("{}/{}/memory.json", pair.b.state_root(), pair.id);
    wait_until(PATIENCE, "its memory is known to be lost", || {
        let text = std::fs::read_to_string(&record).unwrap_or_default();
        if text.contains("the process that brings it was killed") { Ok(()) } else { Err(text) }
    });
    assert_eq!(pair.is_at(&pair.b).as_deref(), Some("paused"));
    let receiver = if receiver_too {
        receiver.wait();
        Receiver::on(&pair.b, &[]).running.take().expect("one that runs")
    } else {
        receiver
    };
    sender.signal(Signal::SIGCONT);
    sender.wait().succeeded();
    let there = pair.b.imported(&pair.id);
    assert_eq!(there.state_status(), "running");
    there.goes_on(&before);
    is_whole(&pair);
    receiver.signal(Signal::SIGKILL);
    pair.b.signal_served(Signal::SIGKILL);
    receiver.wait();
    there.end();
    pair.b.assert_no_trace();
}

#[test]
fn memory_that_is_lost_before_the_decision_is_restored_again() {
    memory_lost_before_the_decision(false);
}

#[test]
fn memory_that_is_lost_together_with_the_receiver_is_restored_again() {
    memory_lost_before_the_decision(true);
}

/// From there on it is as with an archive.
#[test]
fn memory_that_is_lost_when_the_container_runs_ends_it() {
    let Some(pair) = Pair::new() else { return };
    pair.run().reports();
    let WithoutMemory { sender, receiver, provider } = WithoutMemory::of(&pair, true);
    sender.wait().succeeded();
    let there = pair.b.imported(&pair.id);
    signal(&pair.b, "KILL", provider);
    there.stops();
    pair.b.migrate(&["state", &pair.id]).succeeded();
    let log = std::fs::read_to_string(pair.b.path("migrate.log")).expect("read the log");
    assert!(
        log.contains("what the other host has sent is not complete: the process that brings it was killed"),
        "{log}"
    );
    receiver.signal(Signal::SIGKILL);
    pair.b.signal_served(Signal::SIGKILL);
    receiver.wait();
    pair.b.migrate(&["delete", &pair.id]).succeeded();
    pair.b.assert_no_trace();
}
