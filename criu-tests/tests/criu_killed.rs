// SPDX-License-Identifier: Apache-2.0
//! CRIU itself is killed with SIGKILL while `migrate` waits for it: the command ends, says so, and leaves nothing that CRIU
//! has made; the images of a restore stay as they were.
//!
//! A moment is a number of lines in CRIU's log, drawn at random from a fixed beginning; where the kill lands after it
//! differs from run to run, and the promise holds all the same.

use std::fs;
use std::time::{Duration, Instant};

use criu_tests::{
    Bundle, Host, Need, Output, PATIENCE, Running, Stage, contents, put_back, rounds, wait_until,
};

const CRIU_FAILED: i32 = 5;

/// A command takes as long to see CRIU's death and to clear up; it does this in a tenth of it on an idle machine.
const SOON: Duration = Duration::from_secs(15);

/// Numbers without a pattern, the same in each run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: usize) -> usize {
        // Knuth's constants; the upper bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit.max(1)
    }
}

fn lines(log: &str) -> usize {
    fs::read(log).map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count())
}

/// Kills CRIU once its log has this many lines, unless it is done before.
fn kill_after(host: &Host, running: &Running, log: &str, count: usize) {
    wait_until(PATIENCE, "CRIU gets on", || {
        let seen = lines(log);
        if seen > count || running.has_ended() { Ok(()) } else { Err((seen, host.processes())) }
    });
    if let Some(pid) = host.criu() {
        // It may end at the same moment.
        host.command(&["sh", "-c", &format!("kill -KILL {pid}")]).run();
    }
}

fn ends_soon(running: Running) -> Output {
    let begin = Instant::now();
    let output = running.wait();
    assert!(begin.elapsed() < SOON, "the command took {:?} after CRIU's death", begin.elapsed());
    output
}

/// One workload, several times its restore.
fn restores_are_killed(stage: &Stage, workload: &str, args: &[&str], count: usize) {
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, workload, args);
    let container = host.run_detached(&stage.id("killed"), &bundle);
    let (images, work) = (host.path("images"), host.path("work"));
    let restore = [
        "restore",
        "-d",
        "--work-path",
        &work,
        "--image-path",
        &images,
        "-b",
        &bundle.path(),
        container.id(),
    ];
    let log = format!("{work}/restore.log");
    let before = container.reports();
    container.checkpoint(&["--image-path", &images]);
    // How much CRIU logs when it comes to its end.
    host.migrate_detached(&restore);
    let mut before = container.goes_on(&before);
    let all = lines(&log);
    container.checkpoint(&["--image-path", &images]);
    let mut whole = contents(&images);
    // The files that go with them.
    let state = format!("{}/state", container.rootfs());
    let mut files = contents(&state);
    let mut draw = Draw(1);
    for _ in 0..count {
        fs::remove_dir_all(&work).expect("remove the log");
        let moment = draw.below(all);
        let running = host.migrate_command(&restore).without_stdio().start();
        kill_after(&host, &running, &log, moment);
        let output = ends_soon(running);
        if output.code == 0 {
            // The kill came too late. What it has written since does not go with the old images.
            before = container.goes_on(&before);
            container.checkpoint(&["--image-path", &images]);
            (whole, files) = (contents(&images), contents(&state));
        } else {
            assert_eq!(output.code, CRIU_FAILED, "{output:?}");
            put_back(&state, &files);
        }
        host.assert_no_trace();
        assert!(contents(&images) == whole, "the images are not what they were");
    }
    container.restore(&images, &bundle);
    container.goes_on(&before);
    container.end();
    host.assert_no_trace();
}

#[test]
fn during_a_restore() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    restores_are_killed(&stage, "counter", &["--memory", "67108864"], rounds(4, 100));
}

#[test]
fn during_a_restore_of_many_processes() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    restores_are_killed(&stage, "tree", &[], rounds(4, 100));
}

/// It may die inside the processes, and then nobody can promise what becomes of them: only that this is told, and that
/// the container can be removed.
#[test]
fn during_a_checkpoint() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "tree", &[]);
    let images = host.path("images");
    let log = format!("{images}/dump.log");
    let run = |round: usize| {
        let container = host.run_detached(&stage.id(&format!("killed{round}")), &bundle);
        let before = container.reports();
        (container, before)
    };
    let (container, _) = run(0);
    container.checkpoint(&["--image-path", &images]);
    let all = lines(&log);
    let (mut draw, mut told) = (Draw(2), 0);
    for round in 1..=rounds(4, 100) {
        fs::remove_dir_all(&images).expect("remove the images");
        // What the container before said last may be that it has lost a process.
        fs::remove_file(format!("{}{}", bundle.rootfs(), Bundle::STATUS)).expect("remove the report");
        let (container, before) = run(round);
        let moment = draw.below(all);
        let running = host.migrate_command(&["checkpoint", "--image-path", &images, container.id()]).start();
        kill_after(&host, &running, &log, moment);
        let output = ends_soon(running);
        if output.code == 0 {
            // The kill came too late.
            host.assert_no_trace();
            container.restore(&images, &bundle);
            container.goes_on(&before);
        } else {
            let status = container.state_status();
            assert!(["running", "stopped"].contains(&status.as_str()), "{status} after {output:?}");
            let said = deaths(&host);
            assert!(said > told, "nothing is said about CRIU's death: {output:?}");
            told = said;
        }
        host.migrate(&["delete", "--force", container.id()]).succeeded();
        host.assert_no_trace();
    }
}

/// How often the log tells that CRIU was killed.
fn deaths(host: &Host) -> usize {
    fs::read_to_string(host.path("migrate.log")).map_or(0, |log| log.matches("killed by SIGKILL").count())
}
