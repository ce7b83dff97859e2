// SPDX-License-Identifier: Apache-2.0
//! Containers move between two machines with kernels of their own and cgroup v2, over ssh; and machines crash (docs/vm-lab.md). What is
//! written down of a migration is on a tmpfs, as by default, and gone with a crash, unless a test says otherwise.

use std::fs;
use std::io::Write as _;
use std::process::{Child, Stdio};

use criu_tests::{
    Armed, Bundle, CRASH, Host, MACHINE_PATIENCE, Machine, Need, Stage, Status, in_full, migrate, wait_until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use Machine::{Here, There};

/// One container, the state root that it has on both machines, and where it is.
struct Moving {
    stage: Stage,
    /// What its bundle is made with.
    maker: Host,
    root: String,
    id: String,
    rootfs: String,
}

impl Moving {
    /// `place`: where the state root is.
    fn new(place: &str) -> Option<Self> {
        let stage = Stage::set(&[Need::Criu, Need::CgroupV2, Need::OtherMachine])?;
        let (maker, id) = (stage.host("maker"), stage.id("moves"));
        Some(Self { root: format!("{place}/{id}-root"), rootfs: String::new(), stage, maker, id })
    }

    /// As [`Moving::new`], for what takes its time.
    fn in_full(place: &str) -> Option<Self> {
        if in_full() {
            return Self::new(place);
        }
        // With stderr closed nobody is there to read the reason.
        let _ = writeln!(std::io::stderr(), "ignored, because not everything is asked for");
        None
    }

    /// A line for a shell: the binary under test, which is at the same place on both machines.
    fn line(&self, args: &str) -> String {
        format!("{} --root {} {args}", migrate(), self.root)
    }

    /// That of `migrate to` from there to the other one.
    fn to(&self, from: Machine, args: &str) -> String {
        let (other, id) = (from.other().name(), &self.id);
        self.line(&format!("to --remote-command '{}' {args} {other} {id}", self.line("")))
    }

    /// Runs it here.
    fn begins(&mut self, workload: &str, options: &[&str]) -> Status {
        let bundle = Bundle::of_workload(&self.maker, workload, options);
        self.rootfs = bundle.rootfs();
        let run = self.line(&format!("run -d -b {} {}", bundle.path(), self.id));
        Here.run(&format!("{run} </dev/null >/dev/null 2>&1"));
        wait_until(MACHINE_PATIENCE, "the workload reports", || {
            self.status(Here).filter(|status| status.counter() >= 10).ok_or("not yet")
        })
    }

    /// It is where it came to by a migration.
    fn has_come(&mut self) {
        self.rootfs = format!("{}/{}/bundle/rootfs", self.root, self.id);
    }

    /// What the workload reports.
    fn status(&self, at: Machine) -> Option<Status> {
        let output = at.shell(&format!("cat {}{}", self.rootfs, Bundle::STATUS)).output().ok()?;
        output.status.success().then(|| Status::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    /// It runs there, as `migrate state` says and its own work shows.
    fn goes_on(&self, at: Machine, before: &Status) -> Status {
        assert_eq!(self.is_at(at).as_deref(), Some("running"), "at {at:?}");
        const PASSES: &str = "memory_passes";
        let passed = |s: &Status| !before.has(PASSES) || s.number(PASSES) >= before.number(PASSES) + 2;
        let far = |s: &Status| s.counter() >= before.counter() + 10 && passed(s);
        let status = wait_until(MACHINE_PATIENCE, "the workload goes on", || {
            let status = self.status(at);
            status.clone().filter(|s| far(s) || s.field("ok") != "yes").ok_or((before, status))
        });
        status.assert_continues(before);
        status
    }

    /// Its status there; `None` if it is not.
    fn is_at(&self, at: Machine) -> Option<String> {
        let output = at.shell(&self.line(&format!("state {}", self.id))).output().expect("start a shell");
        let state: Value = serde_json::from_slice(&output.stdout).ok()?;
        Some(state["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Moves it, and gives the report. Each machine has seen who runs it.
    fn moves(&mut self, from: Machine) -> Value {
        let report = format!("{}-report", self.root);
        from.run(&format!("{} >/dev/null", self.to(from, &format!("--report {report}"))));
        assert_eq!(self.is_at(from), None, "it is gone from where it was");
        self.has_come();
        serde_json::from_str(&from.run(&format!("cat {report}; rm {report}"))).expect("JSON")
    }

    /// What this machine has written down of its only migration, and the migration's id.
    fn journal(&self) -> Option<(String, String)> {
        let mut entries = fs::read_dir(format!("{}/.migrations", self.root)).ok()?.flatten();
        let (entry, others) = (entries.next()?, entries.count());
        assert_eq!(others, 0, "there is one migration");
        let text = fs::read(entry.path().join("journal")).unwrap_or_default();
        Some((entry.file_name().into_string().ok()?, String::from_utf8_lossy(&text).into_owned()))
    }

    /// Waits until this machine has written this down, and gives the migration's id.
    fn recorded(&self, what: &str) -> String {
        wait_until(MACHINE_PATIENCE, what, || match self.journal() {
            Some((id, text)) if text.contains(&format!("\"{what}\"")) => Ok(id),
            other => Err(other),
        })
    }

    /// Starts `migrate to` from here.
    fn starts(&self) -> Child {
        let mut command = Here.shell(&format!("exec {}", self.to(Here, "")));
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("start migrate")
    }

    /// The migration from here is brought to its end, if it is not over.
    fn is_continued(&self) {
        if let Some((id, _)) = self.journal() {
            let output =
                Here.shell(&self.line(&format!("to --continue {id}"))).output().expect("start migrate");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() || said.contains("it goes on here"), "{said}");
        }
        assert_eq!(self.journal(), None, "nothing is left to be continued");
    }

    /// Ends it where it is.
    fn ends(self, at: Machine) {
        at.run(&self.line(&format!("delete --force {}", self.id)));
        for machine in [Here, There] {
            machine.run(&format!("rm -rf {}", self.root));
        }
        drop((self.maker, self.stage));
    }
}

fn said(child: Child) -> (bool, String) {
    let output = child.wait_with_output().expect("wait for migrate");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn there_and_back(moving: Option<Moving>, workload: &str, options: &[&str]) -> Option<Value> {
    let mut moving = moving?;
    assert_ne!(Here.boot(), There.boot(), "they are two");
    let before = moving.begins(workload, options);
    let report = moving.moves(Here);
    let before = moving.goes_on(There, &before);
    moving.moves(There);
    moving.goes_on(Here, &before);
    moving.ends(Here);
    Some(report)
}

#[test]
fn a_container_goes_to_another_machine_and_back() {
    there_and_back(Moving::new("/run"), "counter", &["--memory", "4194304"]);
}

#[test]
fn a_tree_of_processes_goes_to_another_machine_and_back() {
    there_and_back(Moving::in_full("/run"), "tree", &["--memory", "1048576"]);
}

/// It checks all of its memory all the time, and writes to some.
#[test]
fn much_memory_goes_to_another_machine_and_back() {
    let moving = Moving::in_full("/run");
    let Some(report) = there_and_back(moving, "counter", &["--memory", "268435456"]) else { return };
    let sent = report["rounds"][0]["bytes"].as_u64();
    assert!(sent.is_some_and(|bytes| bytes >= 250 << 20), "{report}");
}

#[test]
fn a_destination_that_crashes_before_the_decision_leaves_the_container_where_it_was() {
    let Some(mut moving) = Moving::in_full("/run") else { return };
    let before = moving.begins("counter", &["--memory", "1048576"]);
    let boot = There.comes_up("");
    let mut crash = There.armed(&format!("read -r _; {CRASH}"));
    let sender = moving.starts();
    moving.recorded("prepared");
    crash.go_on();
    let (succeeded, said) = said(sender);
    assert!(!succeeded && said.contains("was not moved: it goes on here"), "{said}");
    let before = moving.goes_on(Here, &before);
    There.comes_up(&boot);
    moving.is_continued();
    moving.goes_on(Here, &before);
    moving.ends(Here);
}

/// What is written down, and what has come, is on a disk there or is not. The source has not decided yet, and is killed.
fn a_destination_crashes_when_it_is_ready(place: &str) -> Option<(Moving, Status)> {
    let mut moving = Moving::in_full(place)?;
    let before = moving.begins("counter", &["--memory", "1048576"]);
    let boot = There.comes_up("");
    let (root, id) = (&moving.root, &moving.id);
    let (begins, is_ready) = (
        format!("until [ -e {root}/{id} ]; do :; done; echo restores"),
        format!("until grep -aqs '\"ready\"' {root}/.migrations/*/journal; do :; done; echo ready"),
    );
    let mut destination = There.armed(&format!("{begins}; {is_ready}; read -r _; {CRASH}"));
    let sender = moving.starts();
    let signal = |signal| {
        kill(Pid::from_raw(sender.id().cast_signed()), signal).expect("signal migrate");
    };
    assert_eq!(destination.line(), "restores");
    signal(Signal::SIGSTOP);
    assert_eq!(destination.line(), "ready");
    signal(Signal::SIGKILL);
    destination.go_on();
    There.comes_up(&boot);
    drop((destination, said(sender)));
    moving.is_continued();
    Some((moving, before))
}

/// It knows nothing any more, and says that it will never run the container.
#[test]
fn a_destination_that_has_lost_what_it_promised_gives_the_container_back() {
    let Some((moving, before)) = a_destination_crashes_when_it_is_ready("/run") else { return };
    assert_eq!(moving.is_at(There), None);
    moving.goes_on(Here, &before);
    moving.ends(Here);
}

#[test]
fn a_destination_that_has_kept_what_came_restores_it_again() {
    let Some((mut moving, before)) = a_destination_crashes_when_it_is_ready("/var/lib") else { return };
    assert_eq!(moving.is_at(Here), None);
    moving.has_come();
    moving.goes_on(There, &before);
    moving.ends(There);
}

#[test]
fn a_destination_that_never_comes_back_is_fenced_by_an_operator() {
    let Some(mut moving) = Moving::in_full("/run") else { return };
    let before = moving.begins("counter", &["--memory", "1048576"]);
    let boot = There.comes_up("");
    let mut crash = There.armed(&format!("read -r _; {CRASH}"));
    let sender = moving.starts();
    let id = moving.recorded("committed");
    kill(Pid::from_raw(sender.id().cast_signed()), Signal::SIGKILL).expect("kill migrate");
    crash.go_on();
    drop(said(sender));
    if moving.is_at(Here).is_some() {
        wait_until(MACHINE_PATIENCE, "its criu ends by itself", || match criu_is_here() {
            Some(criu) => Err(criu),
            None => Ok(()),
        });
        assert_eq!(moving.is_at(Here).as_deref(), Some("paused"), "it may run elsewhere");
        Here.run(&moving.line(&format!("resolve --i-fenced destination --reason crashed {id}")));
    }
    moving.goes_on(Here, &before);
    There.comes_up(&boot);
    moving.is_continued();
    moving.ends(Here);
}

/// A process of this machine with one of these in its command line: its pid, and the line.
fn process(of: &[&str]) -> Option<(i32, String)> {
    let lines = Here.run("ps -e -o pid=,args=");
    let mut found = lines.lines().filter_map(|line| line.trim_start().split_once(' '));
    let (pid, line) = found.find(|(_, line)| of.iter().any(|words| line.contains(words)))?;
    Some((pid.parse().expect("a pid"), line.to_owned()))
}

fn criu_is_here() -> Option<(i32, String)> {
    process(&["criu swrk", "criu --rpc"])
}

/// The container is there, and its way back is begun. The machine there stops the sender, and crashes, as it is told to.
fn on_its_way_back(moving: Option<Moving>, script: &str) -> Option<(Moving, Status, Armed)> {
    let mut moving = moving?;
    let before = moving.begins("counter", &["--memory", "1048576"]);
    moving.moves(Here);
    let before = moving.goes_on(There, &before);
    let sender = moving.to(There, "");
    let armed = There.armed(&format!("{sender} >/dev/null 2>&1 </dev/null & {script}"));
    Some((moving, before, armed))
}

#[test]
fn a_source_that_crashes_after_the_decision_has_given_the_container_away() {
    let Some((moving, before, mut source)) =
        on_its_way_back(Moving::in_full("/run"), &format!("read -r _; {CRASH}"))
    else {
        return;
    };
    let boot = There.comes_up("");
    moving.recorded("committed");
    source.go_on();
    There.comes_up(&boot);
    assert_eq!(moving.is_at(There), None);
    moving.goes_on(Here, &before);
    moving.ends(Here);
}

/// Neither CRIU nor whoever receives is there any more: the kernel holds it, and the operator lets it go.
#[test]
fn a_frozen_cgroup_alone_holds_a_container_whose_source_has_crashed() {
    let script = format!("read -r _; kill -STOP $!; echo stopped; read -r _; {CRASH}");
    let Some((moving, before, mut source)) = on_its_way_back(Moving::new("/run"), &script) else { return };
    let boot = There.comes_up("");
    // All of it has come; what the source says from here on is not said.
    wait_until(MACHINE_PATIENCE, "it is being restored", || {
        fs::metadata(format!("{}/{}", moving.root, moving.id))
    });
    source.go_on();
    assert_eq!(source.line(), "stopped");
    let migration = moving.recorded("ready");
    source.go_on();
    There.comes_up(&boot);
    wait_until(MACHINE_PATIENCE, "criu has ended", || criu_is_here().map_or(Ok(()), Err));
    // Its connection leads nowhere, which it cannot know.
    if let Some((receiver, _)) = process(&[&moving.line("receive")]) {
        kill(Pid::from_raw(receiver), Signal::SIGKILL).expect("kill the receiver");
    }
    let events = format!("/sys/fs/cgroup/{}/cgroup.events", moving.id);
    let events = fs::read_to_string(events).expect("read what the kernel says of its cgroup");
    assert!(events.contains("populated 1\n") && events.contains("frozen 1\n"), "{events}");
    assert_eq!(moving.is_at(Here).as_deref(), Some("paused"));
    let frozen = moving.status(Here).expect("its report");
    assert_eq!(frozen.number("pid"), before.number("pid"));
    Here.run(&moving.line(&format!("resolve --i-fenced source --reason crashed {migration}")));
    let status = moving.goes_on(Here, &before);
    assert!(status.counter() > frozen.counter());
    moving.ends(Here);
}
