// SPDX-License-Identifier: Apache-2.0
//! Which pages a container's processes write to, seen from outside: what was noted is compared with what is in memory, and the processes notice
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::time::{Duration, Instant};

use criu_tests::{
    Bundle, Container, Host, HugePages, Need, PATIENCE, Stage, Status, in_full, rounds, wait_until,
};
use migrate::ErrorKind;
use migrate::pages::track::{self, DirtyProcess, DirtyRound, DirtyTracker, MemoryHashes};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const PAGE: u64 = 4096;
const HUGE: u64 = 2 << 20;

/// Whether the kernel can do it; without, `migrate` says so.
fn is_supported() -> bool {
    track::supported().map_err(|error| assert!(error.hint().is_some_and(|hint| hint.contains("6.7")))).is_ok()
}

/// What `/proc/PID/stat` says: state and parent.
fn stat(pid: i32) -> Option<(char, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// A line of `/proc/PID/status`.
fn line(pid: i32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it is there");
    let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("the kernel tells it");
    line.trim_start_matches(':').trim().to_owned()
}

/// The workload's processes on a host, by their numbers here, the oldest first.
fn processes(host: &Host) -> Vec<i32> {
    let init: i32 = host.entering()[2].parse().expect("a pid");
    let is_below = |mut pid: i32| {
        while let Some((_, parent)) = stat(pid).filter(|_| pid != init) {
            pid = parent;
        }
        pid == init
    };
    let is_workload = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"/workload\0") && *pid != init && is_below(*pid)
    };
    let all = fs::read_dir("/proc").expect("list processes").flatten();
    let mut pids: Vec<i32> =
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_workload).collect();
    pids.sort_unstable();
    pids
}

fn signal(pids: &[i32], signal: Signal) {
    pids.iter().for_each(|pid| kill(Pid::from_raw(*pid), signal).expect("it is there"));
}

/// Looks at processes that stand still meanwhile, so that nothing changes between two looks.
fn standing<T>(pids: &[i32], look: impl FnOnce() -> T) -> T {
    signal(pids, Signal::SIGSTOP);
    wait_until(PATIENCE, "they stand still", || {
        let states: Vec<_> = pids.iter().map(|pid| stat(*pid).map(|(state, _)| state)).collect();
        if states.iter().all(|state| *state == Some('T')) { Ok(()) } else { Err(states) }
    });
    let seen = look();
    signal(pids, Signal::SIGCONT);
    seen
}

/// Has the workload take its next step.
fn step(container: &Container<'_>, first: i32) -> Status {
    let before = container.reports().number("step");
    signal(&[first], Signal::SIGUSR1);
    let status = wait_until(PATIENCE, "it takes a step", || {
        container
            .status()
            .filter(|status| status.number("step") == before + 1)
            .ok_or_else(|| container.status())
    });
    status.assert_ok();
    status
}

fn pages(ranges: &[Range<u64>]) -> BTreeSet<u64> {
    ranges.iter().flat_map(|range| range.clone().step_by(PAGE as usize)).collect()
}

/// The pages of a list that lie in the memory in which the workload takes its steps.
fn in_memory(status: &Status, pages: &BTreeSet<u64>) -> BTreeSet<u64> {
    pages.range(status.number("start")..status.number("end")).copied().collect()
}

fn written(status: &Status) -> BTreeSet<u64> {
    status.field("written").split(',').map(|address| address.parse().expect("an address")).collect()
}

/// What is in memory, compared with what was noted.
#[derive(Default)]
struct Judge {
    tracker: DirtyTracker,
    hashes: BTreeMap<i32, MemoryHashes>,
}

impl Judge {
    /// One round on processes that stand still: every page of theirs that is another than the last time must have been told.
    #[track_caller]
    fn round(&mut self, pids: &[i32]) -> DirtyRound {
        standing(pids, || {
            let round = self.tracker.round(pids).unwrap_or_else(|error| panic!("{}", error.chain()));
            for process in &round.processes {
                self.compare(process);
            }
            round
        })
    }

    #[track_caller]
    fn compare(&mut self, process: &DirtyProcess) {
        let (dirty, unseen) = (pages(&process.dirty), pages_within(&process.untracked));
        let populated = self.tracker.populated(process.pid).expect("listed").expect("it is tracked");
        let hashes = self.hashes.entry(process.pid).or_default();
        let found = hashes.compare(&mut process.reader().expect("ours"), &populated).expect("compared");
        let missed: Vec<u64> = pages(&found.changed)
            .into_iter()
            .filter(|page| !dirty.contains(page) && !unseen(*page))
            .collect();
        assert!(missed.is_empty(), "{missed:x?} have changed in {}", process.pid);
    }
}

fn pages_within(ranges: &[Range<u64>]) -> impl Fn(u64) -> bool {
    move |page| ranges.iter().any(|range| range.contains(&page))
}

/// A workload with memory of a kind, and its first process.
fn of_kind<'h>(host: &'h Host, stage: &Stage, kind: &str) -> (Bundle, Container<'h>, i32) {
    let bundle = Bundle::of_workload(host, "dirty", &["--kind", kind]);
    let container = host.run_detached(&stage.id(kind), &bundle);
    container.reports();
    let first = *processes(host).first().expect("it runs");
    (bundle, container, first)
}

fn is_untraced(pids: &[i32]) {
    for pid in pids {
        wait_until(PATIENCE, "nobody traces it", || {
            let tracer = line(*pid, "TracerPid");
            if tracer == "0" { Ok(()) } else { Err(tracer) }
        });
    }
}

#[test]
fn every_write_is_told_and_nothing_else() {
    let Some(stage) = Stage::set(&[]) else { return };
    if !is_supported() {
        return;
    }
    let host = stage.host("a");
    let (_bundle, container, first) = of_kind(&host, &stage, "steps");
    let mut judge = Judge::default();
    let begin = judge.round(&[first]);
    assert_eq!(begin.processes.len(), 1);
    for _ in 0..rounds(14, 60) {
        let status = step(&container, first);
        let round = judge.round(&[first]);
        let process = round.processes.first().expect("it is tracked");
        assert!(process.adopted.is_none());
        let told = in_memory(&status, &pages(&process.dirty));
        let populated = judge.tracker.populated(first).expect("listed").expect("it is tracked");
        let expected = match status.number("step") % 6 {
            // It has moved as a whole.
            2 => in_memory(&status, &pages(&populated)),
            // The page of zeros that was looked at.
            4 => &written(&status) | &BTreeSet::from([status.number("start") + 7 * PAGE]),
            _ => written(&status),
        };
        assert_eq!(told, expected, "step {}", status.number("step"));
    }
    is_untraced(&[first]);
    container.end();
    host.assert_no_trace();
}

#[test]
fn memory_that_was_never_touched_costs_nothing() {
    let Some(stage) = Stage::set(&[]) else { return };
    if !is_supported() {
        return;
    }
    let host = stage.host("a");
    let (_bundle, container, first) = of_kind(&host, &stage, "sparse");
    let tables = || {
        let text = line(first, "VmPTE");
        text.trim_end_matches(" kB").parse::<u64>().expect("kilobytes")
    };
    let before = tables();
    let mut judge = Judge::default();
    let status = container.reports();
    let round = judge.round(&[first]);
    assert_eq!(in_memory(&status, &pages(&round.processes[0].dirty)).len(), 16);
    for _ in 0..4 {
        let status = step(&container, first);
        let round = judge.round(&[first]);
        assert_eq!(in_memory(&status, &pages(&round.processes[0].dirty)), written(&status));
    }
    let populated = judge.tracker.populated(first).expect("listed").expect("it is tracked");
    assert_eq!(in_memory(&status, &pages(&populated)).len(), 16);
    // A page table for each of the workload's own new pages, not for 64 GiB.
    assert!(tables() <= before + 16, "{} kB of page tables, before {before}", tables());
    container.end();
    host.assert_no_trace();
}

#[test]
fn a_write_to_a_huge_page_is_one_page() {
    let Some(stage) = Stage::set(&[]) else { return };
    if !is_supported() {
        return;
    }
    let host = stage.host("a");
    let (_bundle, container, first) = of_kind(&host, &stage, "thp");
    let mut judge = Judge::default();
    let all = judge.round(&[first]);
    assert!(all.dirty_bytes() >= 16 * HUGE, "{}", all.dirty_bytes());
    for _ in 0..4 {
        let status = step(&container, first);
        let round = judge.round(&[first]);
        assert_eq!(in_memory(&status, &pages(&round.processes[0].dirty)), written(&status));
    }
    container.end();
    host.assert_no_trace();
}

#[test]
fn a_huge_page_that_was_set_aside_is_told_as_a_whole() {
    let Some(stage) = Stage::set(&[Need::HugePages]) else { return };
    if !is_supported() {
        return;
    }
    let huge = HugePages::reserve(2);
    let host = stage.host("a");
    let (_bundle, container, first) = of_kind(&host, &stage, "hugetlb");
    let mut judge = Judge::default();
    let all = judge.round(&[first]);
    assert!(all.dirty_bytes() >= 2 * HUGE, "{}", all.dirty_bytes());
    for _ in 0..3 {
        let status = step(&container, first);
        let round = judge.round(&[first]);
        let page = *written(&status).first().expect("it has written") / HUGE * HUGE;
        let whole = std::slice::from_ref(&(page..page + HUGE)).to_vec();
        assert_eq!(in_memory(&status, &pages(&round.processes[0].dirty)), pages(&whole));
    }
    container.end();
    host.assert_no_trace();
    drop(huge);
}

/// Whether a process has come to where it waits.
fn waits_in_a_call(pid: i32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse::<i64>().ok()).is_some_and(|number| number >= 0)
}

#[test]
fn a_child_is_tracked_by_itself() {
    let Some(stage) = Stage::set(&[]) else { return };
    if !is_supported() {
        return;
    }
    let host = stage.host("a");
    let (_bundle, container, first) = of_kind(&host, &stage, "fork");
    let mut judge = Judge::default();
    judge.round(&[first]);
    step(&container, first);
    let both = wait_until(PATIENCE, "there is a child", || {
        let pids = processes(&host);
        if pids.len() == 2 && waits_in_a_call(pids[1]) { Ok(pids) } else { Err(pids) }
    });
    let round = judge.round(&both);
    let adopted: Vec<bool> = round.processes.iter().map(|process| process.adopted.is_some()).collect();
    assert_eq!(adopted, [false, true]);
    let status = step(&container, first);
    let round = judge.round(&both);
    let told = |index: usize| in_memory(&status, &pages(&round.processes[index].dirty));
    // The child has a copy, and waits.
    assert_eq!((told(0), told(1)), (written(&status), BTreeSet::new()));
    container.end();
    host.assert_no_trace();
}

#[test]
fn one_memory_of_two_processes_is_tracked_once() {
    let Some(stage) = Stage::set(&[]) else { return };
    if !is_supported() {
        return;
    }
    let host = stage.host("a");
    let (_bundle, container, first) = of_kind(&host, &stage, "clan");
    let both = processes(&host);
    let mut judge = Judge::default();
    for adopted in [true, false, false] {
        let status = step(&container, first);
        let round = judge.round(&both);
        let [process] = round.processes.as_slice() else { panic!("{round:?}") };
        assert_eq!((process.pid, process.adopted.is_some()), (first, adopted));
        let told = in_memory(&status, &pages(&process.dirty));
        assert!(adopted || told == written(&status), "{told:?}");
    }
    // Only one of them is asked for by now, and then the other.
    assert_eq!(judge.tracker.round(&both[..1]).expect("tracked").processes.len(), 1);
    let other = judge.tracker.round(&both[1..]).expect("tracked");
    assert!(other.processes[0].adopted.is_some() && other.dirty_bytes() > 256 * PAGE, "{other:?}");
    container.end();
    host.assert_no_trace();
}

#[test]
fn a_profile_that_kills_for_userfaultfd_does_not() {
    let Some(stage) = Stage::set(&[]) else { return };
    if !is_supported() {
        return;
    }
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "dirty", &[]).edit(|config| {
        let rule = json!({"names": ["userfaultfd"], "action": "SCMP_ACT_KILL_PROCESS"});
        config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    });
    let container = host.run_detached(&stage.id("strict"), &bundle);
    let first = *processes(&host).first().expect("it runs");
    assert_eq!(line(first, "Seccomp"), "2");
    let before = container.reports();
    for _ in 0..10 {
        let mut tracker = DirtyTracker::default();
        assert!(tracker.round(&[first]).expect("tracked").dirty_bytes() > 0);
        assert_eq!(tracker.round(&[first]).expect("tracked").processes.len(), 1);
    }
    container.goes_on(&before);
    container.end();
    host.assert_no_trace();
}

#[test]
fn a_paused_container_is_an_error_in_time_and_goes_on_later() {
    let Some(stage) = Stage::set(&[]) else { return };
    if !is_supported() {
        return;
    }
    let host = stage.host("a");
    let (_bundle, container) = host.run_small(&stage.id("paused"));
    let before = container.reports();
    let pids = processes(&host);
    host.migrate(&["pause", container.id()]).succeeded();
    let begin = Instant::now();
    let error = DirtyTracker::new(Duration::from_millis(200)).round(&pids).expect_err("it is frozen");
    assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
    assert_eq!(error.kind(), ErrorKind::WrongStatus, "{}", error.chain());
    assert!(error.hint().is_some_and(|hint| hint.contains("frozen")), "{}", error.chain());
    is_untraced(&pids);
    assert_eq!(container.state_status(), "paused");
    host.migrate(&["resume", container.id()]).succeeded();
    container.goes_on(&before);
    assert!(DirtyTracker::default().round(&pids).expect("tracked").dirty_bytes() > 1 << 20);
    container.end();
    host.assert_no_trace();
}

/// Each of these checks itself, and takes a call that ends early for a fault.
#[test]
fn whoever_waits_or_works_notices_nothing() {
    let Some(stage) = Stage::set(&[]) else { return };
    if !is_supported() {
        return;
    }
    let host = stage.host("a");
    for workload in ["threads", "timers", "pipes", "tree"] {
        let bundle = Bundle::of_workload(&host, workload, &[]);
        let container = host.run_detached(&stage.id(workload), &bundle);
        let before = container.reports();
        let pids = processes(&host);
        for _ in 0..rounds(20, 200) {
            // A new one each time, so that threads are stopped each time.
            let mut tracker = DirtyTracker::default();
            for _ in 0..3 {
                tracker.round(&pids).unwrap_or_else(|error| panic!("{workload}: {}", error.chain()));
            }
        }
        is_untraced(&pids);
        container.goes_on(&before);
        container.end();
        bundle.remove();
    }
    host.assert_no_trace();
}

#[test]
fn what_several_share_is_compared() {
    let Some(stage) = Stage::set(&[]) else { return };
    if !is_supported() {
        return;
    }
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "tree", &[]);
    let container = host.run_detached(&stage.id("shared"), &bundle);
    let before = container.reports();
    let pids = processes(&host);
    let round = DirtyTracker::default().round(&pids).expect("tracked");
    let process = round.processes.iter().find(|process| !process.untracked.is_empty());
    let process = process.unwrap_or_else(|| panic!("{round:?}"));
    let (mut hashes, mut reader) = (MemoryHashes::default(), process.reader().expect("ours"));
    hashes.compare(&mut reader, &process.untracked).expect("read");
    container.goes_on(&before);
    let changes = hashes.compare(&mut reader, &process.untracked).expect("read");
    assert!(!changes.changed.is_empty(), "{changes:?}");
    container.end();
    host.assert_no_trace();
}

#[test]
fn a_tracked_container_is_checkpointed_and_restored() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    if !is_supported() {
        return;
    }
    let host = stage.host("a");
    for (name, args) in [("counter", &["--memory", "16777216"][..]), ("dirty", &["--kind", "sparse"])] {
        let bundle = Bundle::of_workload(&host, name, args);
        let container = host.run_detached(&stage.id(name), &bundle);
        let before = container.reports();
        let mut tracker = DirtyTracker::default();
        let pids = processes(&host);
        for _ in 0..3 {
            tracker.round(&pids).expect("tracked");
        }
        let images = host.path(&format!("{name}-images"));
        container.checkpoint(&["--image-path", &images]);
        let size: u64 = fs::read_dir(&images)
            .expect("list")
            .map(|entry| entry.expect("an image").metadata().expect("it is there").len())
            .sum();
        assert!(size < 32 << 20, "{name}: {size} bytes of images");
        assert!(tracker.round(&pids).expect("they are gone").processes.is_empty());
        container.restore(&images, &bundle);
        container.goes_on(&before);
        container.end();
    }
    host.assert_no_trace();
}

/// A measurement, too: what it prints is in docs/results.
#[test]
fn what_it_costs_is_told_and_bounded() {
    let Some(stage) = Stage::set(&[]) else { return };
    if !is_supported() {
        return;
    }
    let host = stage.host("a");
    let memory: u64 = if in_full() { 1 << 30 } else { 128 << 20 };
    let bundle = Bundle::of_workload(&host, "dirty", &["--kind", "large", "--memory", &memory.to_string()]);
    let container = host.run_detached(&stage.id("large"), &bundle);
    let pids = processes(&host);
    let mut tracker = DirtyTracker::default();
    let timed = |tracker: &mut DirtyTracker| {
        let begin = Instant::now();
        let round = tracker.round(&pids).expect("tracked");
        (round, begin.elapsed())
    };
    let (all, first) = timed(&mut tracker);
    let stood = all.processes[0].adopted.expect("it is new");
    assert!(all.dirty_bytes() >= memory && stood < Duration::from_secs(1), "{stood:?}");
    let mut lines = vec![format!("{memory} bytes: stood {stood:?}, first round {first:?}")];
    for _ in 0..3 {
        let (_, idle) = timed(&mut tracker);
        step(&container, pids[0]);
        let (round, busy) = timed(&mut tracker);
        assert!(round.dirty_bytes() >= 5000 * PAGE, "{}", round.dirty_bytes());
        let begin = Instant::now();
        let mut reader = round.processes[0].reader().expect("ours");
        let totals = reader.read(&round.processes[0].dirty, &mut |_, _| Ok(())).expect("read");
        let (read, took) = (totals.bytes + totals.zeros, begin.elapsed());
        let dirty = round.dirty_bytes();
        assert_eq!(read + totals.gone, dirty);
        lines.push(format!("idle {idle:?}; {dirty} dirty bytes {busy:?}; read in {took:?}"));
    }
    let begin = Instant::now();
    drop(tracker);
    lines.push(format!("dropped in {:?}", begin.elapsed()));
    if in_full() {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), (lines.join("\n") + "\n").as_bytes());
    }
    container.end();
    host.assert_no_trace();
}

fn is_tracked(pid: i32) -> bool {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    smaps.lines().any(|line| line.starts_with("VmFlags:") && line.split(' ').any(|flag| flag == "uw"))
}

#[test]
fn a_killed_tracker_leaves_nothing_behind() {
    let Some(stage) = Stage::set(&[]) else { return };
    if !is_supported() {
        return;
    }
    let host = stage.host("a");
    let (_bundle, container, first) = of_kind(&host, &stage, "steps");
    let before = container.reports();
    let measure = ["check", "--dirty-rate", "600", container.id()];
    let tracker = host.migrate_command(&measure).start();
    wait_until(PATIENCE, "it is tracked", || if is_tracked(first) { Ok(()) } else { Err(()) });
    tracker.signal(Signal::SIGKILL);
    assert_eq!(tracker.wait().code, 128 + Signal::SIGKILL as i32);
    wait_until(PATIENCE, "it is not tracked any more", || if is_tracked(first) { Err(()) } else { Ok(()) });
    // At any moment, among them those in which a thread stands.
    for attempt in 0..rounds(20, 300) {
        let tracker = host.migrate_command(&measure).start();
        let begin = Instant::now();
        let moment = Duration::from_micros(attempt as u64 * 1777 % 40_000);
        wait_until(PATIENCE, "the moment", || if begin.elapsed() >= moment { Ok(()) } else { Err(()) });
        tracker.signal(Signal::SIGKILL);
        tracker.wait();
        is_untraced(&[first]);
    }
    container.goes_on(&before);
    step(&container, first);
    container.end();
    host.assert_no_trace();
}

#[test]
fn rates_are_told_to_people_and_programs() {
    let Some(stage) = Stage::set(&[]) else { return };
    if !is_supported() {
        return;
    }
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "16777216"]);
    let container = host.run_detached(&stage.id("rate"), &bundle);
    let before = container.reports();
    let text = host.migrate(&["check", "--dirty-rate", "2", "--json", container.id()]).succeeded();
    let rates: Value = serde_json::from_str(&text).expect("JSON");
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{rates}"));
    assert!(number(&rates["memory_bytes"]) > 16 << 20, "{rates}");
    // It writes to one page of its memory in ten milliseconds, and to some of its own.
    let rate = number(&rates["dirty_bytes_per_second"]);
    assert!((4096..8 << 20).contains(&rate), "{rates}");
    let [process] = rates["processes"].as_array().map(Vec::as_slice).unwrap_or_default() else {
        panic!("{rates}")
    };
    assert_eq!((&process["command"], number(&process["untracked_bytes"])), (&json!("workload"), 0));
    assert!(number(&process["peak_bytes_per_second"]) >= number(&process["dirty_bytes_per_second"]));
    let text = host.migrate(&["check", "--dirty-rate", "1", container.id()]).succeeded();
    assert!(text.starts_with("PID") && text.contains("workload") && text.contains("KiB/s"), "{text}");
    container.goes_on(&before);
    host.migrate(&["pause", container.id()]).succeeded();
    host.migrate(&["check", "--dirty-rate", "1", container.id()]).failed(1, &["does not run: paused"]);
    host.migrate(&["resume", container.id()]).succeeded();
    host.migrate(&["check", "--dirty-rate", "1"]).failed(1, &["give its id"]);
    container.end();
    host.assert_no_trace();
}
