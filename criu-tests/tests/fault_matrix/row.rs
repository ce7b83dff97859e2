// SPDX-License-Identifier: Apache-2.0
//! One migration in which something happens at a step, and what comes of it.

use std::fmt;
use std::time::{Duration, Instant};

use criu_tests::{
    Bundle, Container, Deal, Host, PATIENCE, Receiver, Relay, Running, Stage, Status, Tokens, journal,
    migration, read_trace, replay, wait_until,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::cases::{Fault, Step};

/// What came of it.
pub(crate) struct Outcome {
    /// Where the container runs, and who has seen to that.
    what: String,
    /// The longest time in which the observer saw nothing.
    gap: Duration,
    seconds: f64,
    /// What else is to be told.
    notes: Vec<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gap = self.gap.as_secs_f64();
        write!(f, "{} | {gap:.2} | {:.1} | {}", self.what, self.seconds, self.notes.join("; "))
    }
}

/// Two hosts, with a container on the first that takes tokens.
pub(crate) struct Pair {
    a: Host,
    b: Host,
    id: String,
    tokens: Tokens,
    fault: Fault,
    before: Status,
    stage: Stage,
}

impl Pair {
    pub(crate) fn new(stage: Stage, fault: Fault) -> Self {
        let (mut a, mut b) = (stage.host("a"), stage.host("b"));
        for host in [&mut a, &mut b] {
            host.trace_to(&stage.path("trace"));
        }
        let sh = |script: &str| b.command(&["sh", "-ec", script]).run().succeeded();
        let tokens = Tokens::new(&stage);
        match fault {
            Fault::Full => drop(sh(&format!("mount -t tmpfs -o size=160m,mode=755 none {}", b.state_root()))),
            Fault::Refuse => {
                let (from, to) = (stage.path("tokens"), b.path("tokens"));
                sh(&format!("mkdir {to} && mount --bind {from} {to}"));
            }
            _ => {}
        }
        let id = stage.id("moved");
        // More takes longer to be brought.
        let memory = if fault == Fault::Provider { "67108864" } else { "8388608" };
        let options = [&["--memory", memory, "--tick-ms", "3"][..], &Tokens::OPTION].concat();
        // What it writes itself is on a disk of its own, which has room.
        let kept = stage.path("kept");
        std::fs::create_dir_all(format!("{kept}/state")).expect("make a directory");
        let bundle = Bundle::of_workload(&a, "counter", &options).edit(|config| {
            // Hosts of one kernel share the tree of cgroups.
            config["linux"]["cgroupsPath"] = json!(format!("/{id}-source"));
            let state = json!({"destination": "/state", "type": "bind", "source": format!("{kept}/state"),
                               "options": ["bind", "rw"]});
            config["mounts"].as_array_mut().expect("a list").extend([tokens.mount(), state]);
        });
        a.migrate_detached(&["run", "-d", "-b", &bundle.path(), &id]);
        let before = a.container(&id, &kept).reports();
        Self { a, b, id, tokens, fault, before, stage }
    }

    pub(crate) fn trace(&self) -> String {
        self.stage.path("trace")
    }

    fn receiver(&self) -> Receiver<'_> {
        let mapped = match self.fault {
            Fault::Refuse => format!("/tokens={}", self.b.path("tokens")),
            _ => self.tokens.mapped(),
        };
        let state = format!("/state={}", self.stage.path("kept/state"));
        Receiver::on(&self.b, &["--map-mount", &mapped, "--map-mount", &state])
    }

    /// The container, which is at this host.
    fn container<'h>(&self, host: &'h Host) -> Container<'h> {
        host.container(&self.id, &self.stage.path("kept"))
    }

    /// Nothing happens on the way.
    pub(crate) fn moves(&self) {
        let receiver = self.receiver();
        self.a.migrate(&["to", &receiver.at, &self.id]).succeeded();
        // It has yet to hear that this was all.
        wait_until(
            PATIENCE,
            "nothing is left of it",
            || if self.left().is_empty() { Ok(()) } else { Err(()) },
        );
    }

    fn is_at(&self, host: &Host) -> Option<String> {
        // It may be about to be removed, or not have been written down when who was about to was killed.
        let said = wait_until(PATIENCE, "it is there or gone", || {
            match host.container_ids().contains(&self.id).then(|| host.migrate(&["state", &self.id])) {
                Some(said) if said.code == 0 => Ok(Some(said)),
                Some(said) if !said.stderr.contains("container does not exist") => Err(said.stderr),
                _ => Ok(None),
            }
        })?;
        let state: Value = serde_json::from_str(&said.succeeded()).expect("JSON");
        Some(state["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Where it is, which is not at both hosts.
    fn states(&self) -> [Option<String>; 2] {
        let states = [&self.a, &self.b].map(|host| self.is_at(host));
        assert!(!states.iter().all(|state| state.as_deref() == Some("running")), "it runs twice");
        states
    }

    /// Waits until a host has written this down.
    fn written(&self, host: &Host, what: &str) {
        wait_until(PATIENCE, what, || {
            let text = journal(host);
            if text.contains(&format!("\"{what}\"")) { Ok(()) } else { Err(text) }
        });
    }

    fn reached(&self, step: Step, relay: &Relay) {
        match step {
            Step::Said(..) => {
                let came = relay.reached.recv_timeout(PATIENCE);
                came.unwrap_or_else(|_| panic!("{step}: it is not said, but {}", relay.told()));
            }
            Step::Source(what) => self.written(&self.a, what),
            Step::Destination(what) => self.written(&self.b, what),
            Step::Restoring => wait_until(PATIENCE, "it is restored", || {
                if self.b.container_ids().contains(&self.id) { Ok(()) } else { Err(relay.told()) }
            }),
        }
    }

    /// Who brings its memory. From when it is restored on that one stands still, so that it comes no further.
    fn provider(&self, step: Step) -> Option<i64> {
        let path = self.b.path(&format!("state/{}/memory.json", self.id));
        let provider = wait_until(PATIENCE, "somebody brings its memory", || {
            let record: Value = serde_json::from_slice(&std::fs::read(&path).map_err(|e| e.to_string())?)
                .map_err(|e| e.to_string())?;
            record["providers"][0]["pid"].as_i64().ok_or_else(|| record.to_string())
        });
        if step == Step::Restoring {
            return Some(provider);
        }
        self.written(&self.b, "ready");
        self.send(&self.b, "STOP", provider).then_some(provider)
    }

    /// Whether the process was there.
    fn send(&self, host: &Host, signal: &str, pid: impl fmt::Display) -> bool {
        host.command(&["sh", "-c", &format!("kill -{signal} {pid}")]).run().code == 0
    }

    /// `until`: it has yet to be started, and is at work until this is written down.
    fn kill_criu(&self, host: &Host, until: Option<&str>) -> &'static str {
        let later = || until.is_some_and(|until| !journal(host).contains(&format!("\"{until}\"")));
        let found = wait_until(PATIENCE, "criu is there", || match host.criu() {
            None if later() => Err(()),
            found => Ok(found),
        });
        match found.is_some_and(|pid| self.send(host, "KILL", pid)) {
            true => "criu was killed",
            false => "no criu was there any more",
        }
    }

    /// Lets it happen.
    fn happen<'p>(
        &'p self,
        step: Step,
        (sender, receiver, relay): (&Running, &mut Option<Receiver<'p>>, &Relay),
    ) -> Vec<String> {
        let provider = match self.fault {
            Fault::Provider => self.provider(step),
            _ => None,
        };
        self.reached(step, relay);
        let mut notes = Vec::new();
        let mut deal = Deal::Pass;
        match self.fault {
            Fault::Sender => sender.signal(Signal::SIGKILL),
            Fault::Receiver => drop(receiver.take()),
            Fault::Both => {
                sender.signal(Signal::SIGKILL);
                drop(receiver.take());
            }
            Fault::SourceCriu => {
                let until = (step == Step::Source("begun")).then_some("prepared");
                notes.push(self.kill_criu(&self.a, until).to_owned());
            }
            Fault::DestinationCriu => notes.push(self.kill_criu(&self.b, Some("ready")).to_owned()),
            Fault::Provider => {
                let killed = provider.is_some_and(|pid| {
                    let there = self.b.outside(&format!("/proc/{pid}"));
                    let killed = self.send(&self.b, "KILL", pid);
                    let is_gone = || if std::fs::exists(&there).unwrap_or(true) { Err(()) } else { Ok(()) };
                    wait_until(PATIENCE, "it is gone", is_gone);
                    killed
                });
                notes.extend((!killed).then(|| "all memory was there".to_owned()));
            }
            Fault::Cut => deal = Deal::Cut,
            Fault::Lose => deal = Deal::Lose,
            Fault::LoseAnswers => deal = Deal::LoseAnswers,
            Fault::Delay => deal = Deal::Delay(Duration::from_millis(500)),
            Fault::Late => deal = Deal::Late,
            Fault::Full => {
                self.b.command(&["sh", "-c", &format!("cat /dev/zero > {}", self.filling())]).run();
            }
            Fault::Refuse => {
                let path = self.b.path("tokens");
                self.b.command(&["sh", "-ec", &format!("umount -l {path}; rmdir {path}")]).run().succeeded();
            }
        }
        if matches!(step, Step::Said(..)) {
            relay.deal(deal);
        }
        if receiver.is_none() {
            *receiver = Some(self.receiver());
        }
        notes
    }

    fn filling(&self) -> String {
        format!("{}/filling", self.b.state_root())
    }

    /// Waits until it runs at one host, and tells at which; `None` if it does not come to that.
    fn runs(&self, patience: Duration) -> Option<&'static str> {
        let begin = Instant::now();
        wait_until(patience + PATIENCE, "it is known where it runs", || {
            let [a, b] = self.states();
            match (a.as_deref(), b.as_deref()) {
                (Some("running"), None) => Ok(Some("source")),
                (None, Some("running")) => Ok(Some("destination")),
                _ if begin.elapsed() > patience => Ok(None),
                states => Err(format!("{states:?}")),
            }
        })
    }

    /// It goes on from where it was, and there is nothing else. Tells how long the observer saw nothing of it.
    pub(crate) fn comes_to_an_end(&self) -> Duration {
        let at = self.runs(PATIENCE).unwrap_or_else(|| panic!("it runs nowhere: {:?}", self.states()));
        let host = if at == "source" { &self.a } else { &self.b };
        let container = self.container(host);
        container.goes_on(&self.before);
        let network = format!("--net=/proc/{}/ns/net", container.state()["pid"]);
        let tables = host.command(&["nsenter", &network, "nft", "list", "tables"]).run().succeeded();
        assert_eq!(tables, "", "packets are kept away from it");
        let whole = |host: &Host| {
            let record = host.outside(&format!("{}/{}/memory.json", host.state_root(), self.id));
            wait_until(PATIENCE, "all memory is there", || {
                let text = std::fs::read_to_string(&record).unwrap_or_default();
                if text.is_empty() || text.contains("\"providers\":[]") { Ok(()) } else { Err(text) }
            });
        };
        whole(host);
        container.end();
        assert!(self.tokens.taken() > 10);
        self.tokens.longest_gap()
    }

    /// What has come and is of no more use to anybody is removed when another container comes.
    fn another_comes(&self) -> &'static str {
        let id = self.stage.id("another");
        let bundle = Bundle::of_workload(&self.a, "files", &[]).edit(|config| {
            config["linux"]["cgroupsPath"] = json!(format!("/{id}-source"));
        });
        self.a.run_detached(&id, &bundle);
        let receiver = Receiver::on(&self.b, &[]);
        self.a.migrate(&["to", &receiver.at, &id]).succeeded();
        wait_until(PATIENCE, "what had come is removed", || match self.left() {
            left if left.len() < 2 => Ok(()),
            left => Err(left),
        });
        self.b.imported(&id).end();
        "what had come is removed when another container comes"
    }

    /// What there is of migrations at the destination.
    fn left(&self) -> Vec<String> {
        let names = |path: String| {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        let all = self.b.outside(&self.b.path("state/.migrations"));
        names(all.clone()).into_iter().flat_map(|id| names(format!("{all}/{id}"))).collect()
    }

    /// Nothing is left on either host but, at the destination, a few words about a migration of which it was not told that it is over.
    fn nothing_is_left(&self, notes: &mut Vec<String>) {
        assert_eq!(migration(&self.a), None, "nothing is left to be continued");
        let left = self.left();
        if !left.is_empty() {
            assert_eq!(left, ["journal"]);
            let journal = journal(&self.b);
            // Of one that ran there the source may ask, and of one that never came so far the next one removes it.
            assert!(journal.contains("\"live\"") || !journal.contains("\"handoff\""), "{journal}");
            notes.push("destination keeps its journal".to_owned());
        }
        let ids = self.b.container_ids().into_iter().filter(|name| name != "filling");
        assert_eq!(ids.count(), 0, "{:?}", self.b.container_ids());
        let path = match self.fault {
            Fault::Full => Some(self.b.state_root()),
            Fault::Refuse => Some(self.b.path("tokens")),
            _ => None,
        };
        if let Some(path) = path {
            let mounted = self.b.mountinfo().contains(&format!(" {path} "));
            if mounted {
                self.b.command(&["umount", &path]).run().succeeded();
            }
        }
        self.a.assert_no_trace();
        self.b.assert_no_trace();
    }
}

/// Has it happen, and what recovers recover; then does what an operator does.
pub(crate) fn run(stage: Stage, step: Step, fault: Fault) -> Outcome {
    let begin = Instant::now();
    let pair = Pair::new(stage, fault);
    let mut receiver = Some(pair.receiver());
    let stop = match step {
        Step::Said(end, what) => Some((end, what)),
        _ => None,
    };
    let relay = Relay::between(&pair.stage.path("relay.sock"), &pair.b.path("receive.sock"), stop);
    let sender = pair.a.migrate_command(&["to", &relay.at, &pair.id]).start();
    let mut notes = pair.happen(step, (&sender, &mut receiver, &relay));
    let said = sender.wait();
    let alone = !fault.needs_an_operator(step);
    let found = pair.runs(if alone { Duration::from_secs(10) } else { Duration::from_secs(1) });
    if fault == Fault::Full {
        std::fs::remove_file(pair.b.outside(&pair.filling())).expect("make room");
    }
    let mut how = "by itself";
    if let Some(id) = migration(&pair.a) {
        let said = pair.a.migrate(&["to", "--continue", &id]);
        let known = said.code == 0 || said.stderr.contains("it goes on here");
        assert!(known, "{}: {}", said.code, said.stderr);
        match found {
            Some(_) => notes.push("`migrate to --continue` for the rest".to_owned()),
            None => how = "`migrate to --continue`",
        }
    }
    let told = || format!("{} {}\n{}\n{:?}", said.code, said.stderr, relay.told(), pair.states());
    let lost = match fault.may_lose(step) {
        Some(reason) if pair.runs(Duration::from_secs(1)).is_none() => Some(reason),
        _ => None,
    };
    let (what, gap) = match lost {
        Some(reason) => {
            for host in [&pair.a, &pair.b] {
                if pair.is_at(host).is_some() {
                    host.migrate(&["delete", "--force", &pair.id]).succeeded();
                }
            }
            pair.tokens.taken();
            (reason.to_owned(), pair.tokens.longest_gap())
        }
        None => {
            assert!(!alone || found.is_some(), "it does not recover by itself: {}", told());
            let at = pair.runs(PATIENCE).unwrap_or_else(|| panic!("it runs nowhere: {}", told()));
            if !fault.kills_the_receiver() {
                wait_until(PATIENCE, "what has come is removed", || match pair.left() {
                    left if left.len() < 2 => Ok(()),
                    left => Err(left),
                });
            } else if pair.left().len() > 1 {
                drop(receiver.take());
                notes.push(pair.another_comes().to_owned());
            }
            let gap = pair.comes_to_an_end();
            (format!("one copy, at the {at}, {how}"), gap)
        }
    };
    if fault == Fault::Delay {
        // What was said last is on its way.
        wait_until(PATIENCE, "it is forgotten", || {
            if pair.left().is_empty() { Ok(()) } else { Err(pair.left()) }
        });
    }
    drop(receiver);
    drop(relay);
    pair.nothing_is_left(&mut notes);
    replay(&read_trace(&pair.trace())).unwrap_or_else(|why| panic!("not as the model: {why}"));
    Outcome { what, gap, seconds: begin.elapsed().as_secs_f64(), notes }
}
