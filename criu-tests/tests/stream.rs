// SPDX-License-Identifier: Apache-2.0
//! A checkpoint that never is a file: `checkpoint --export -` on one host, `restore --import -` on the other, a pipe
//! between them.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use criu_tests::{Bundle, Host, Need, PATIENCE, Stage, wait_until};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

#[test]
fn a_container_moves_through_a_pipe() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let (a, b) = (stage.host("a"), stage.host("b"));
    let bundle = Bundle::of_workload(&a, "counter", &["--memory", "8388608"]);
    let container = a.run_detached(&stage.id("here"), &bundle);
    let before = container.reports();

    let (reader, writer) = std::io::pipe().expect("make a pipe");
    let there = stage.id("there");
    let restore =
        b.migrate_command(&["restore", "-d", "-i", "-", &there]).without_stdio().stdin(reader).start();
    let checkpoint = a.migrate_command(&["checkpoint", "-e", "-", container.id()]).stdout(writer).start();
    checkpoint.wait().succeeded();
    assert_eq!(restore.wait().code, 0);

    let moved = b.imported(&there);
    moved.goes_on(&before);
    bundle.remove();
    assert!(a.container_ids().is_empty(), "left on the source: {:?}", a.container_ids());
    moved.end();
    a.assert_no_trace();
    b.assert_no_trace();
}

#[test]
fn a_stream_that_breaks_off_is_not_restored() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let (a, b) = (stage.host("a"), stage.host("b"));
    let bundle = Bundle::of_workload(&a, "pipes", &[]);
    let container = a.run_detached(&stage.id("here"), &bundle);
    let archive = stage.path("whole.tar");
    container.checkpoint(&["--leave-running", "--export", &archive]);

    // Everything but the last bytes, then the end of the stream.
    let (reader, mut writer) = std::io::pipe().expect("make a pipe");
    let size = std::fs::metadata(&archive).expect("the archive is there").len();
    let restore = b.migrate_command(&["restore", "-d", "-i", "-", &stage.id("there")]).stdin(reader).start();
    let mut most = File::open(&archive).expect("open the archive").take(size - 100);
    // The reader may have stopped before the end.
    let _ = std::io::copy(&mut most, &mut writer);
    drop(writer);
    restore.wait().failed(3, &["truncated"]);
    assert!(b.container_ids().is_empty(), "left on the destination: {:?}", b.container_ids());
    container.end();
    a.assert_no_trace();
    b.assert_no_trace();
}

#[test]
fn a_reader_that_goes_away_leaves_the_container_running() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "files", &[]);
    let container = host.run_detached(&stage.id("here"), &bundle);
    let before = container.reports();
    let (reader, writer) = std::io::pipe().expect("make a pipe");
    drop(reader);
    let output = host.migrate_command(&["checkpoint", "-e", "-", container.id()]).stdout(writer).run();
    output.failed(1, &["roken pipe"]);
    container.goes_on(&before);
    container.end();
    host.assert_no_trace();
}

/// The archive is written while the processes stand still, here until the test reads: its own clock tells how long that is at least
/// and at most.
#[test]
fn the_time_in_which_the_processes_stand_still_is_told() {
    const HELD: Duration = Duration::from_millis(300);
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"]);
    let container = host.run_detached(&stage.id("held"), &bundle);
    let before = container.reports();

    let (mut reader, writer) = std::io::pipe().expect("make a pipe");
    let ours = writer.try_clone().expect("dup");
    let began = Instant::now();
    let checkpoint = host
        .migrate_command(&["checkpoint", "--leave-running", "-e", "-", container.id()])
        .stdout(writer)
        .start();
    wait_until(PATIENCE, "the archive fills the pipe", || {
        let mut room = [PollFd::new(ours.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut room, PollTimeout::ZERO) {
            Ok(0) => Ok(()),
            other => Err(other),
        }
    });
    let full = Instant::now();
    wait_until(PATIENCE, "the container is held", || match full.elapsed() {
        held if held > HELD => Ok(()),
        held => Err(held),
    });
    drop(ours);
    std::io::copy(&mut reader, &mut std::io::sink()).expect("read the archive");
    let output = checkpoint.wait();
    let most = began.elapsed();
    assert_eq!(output.code, 0, "{}", output.stderr);

    let told = stood_still(&log_of(&host));
    assert!(told > HELD && told < most, "{told:?} of {most:?}");
    // A tick more or less: the workload's clock and CRIU's do not begin and end in the same moment.
    let gap = Duration::from_millis(container.goes_on(&before).number("largest_gap_ms"));
    assert!(gap > HELD && told < gap * 2, "told {told:?}, seen {gap:?}");
    container.end();
    host.assert_no_trace();
}

#[test]
fn a_checkpoint_tells_people_and_the_log_how_long_the_processes_stood_still() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = host.run_small(&stage.id("told"));
    for flag in ["--leave-running", "--leave-stopped"] {
        let images = stage.path(flag);
        let checkpoint = ["checkpoint", "--image-path", &images, "--print-stats", flag, container.id()];
        let mut argv = host.migrate_argv(&checkpoint);
        if flag == "--leave-running" {
            // Without the host's log, and to a program: what it has not asked for is no part of the answer.
            let at = argv.iter().position(|word| word == "--log").expect("a host has a log");
            argv.drain(at..at + 2);
            let quiet = host.command(&argv.iter().map(String::as_str).collect::<Vec<_>>()).run();
            assert_eq!((quiet.code, &quiet.stderr[..]), (0, ""));
            argv.insert(at, "--debug".to_owned());
        }
        let output = host.command(&argv.iter().map(String::as_str).collect::<Vec<_>>()).run();
        assert_eq!(output.code, 0, "{}", output.stderr);
        let stats: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON alone");
        let micros = |field: &str| stats[field].as_u64().unwrap_or_default();
        assert_eq!(micros("stood_still_us"), micros("freezing_time_us") + micros("frozen_time_us"));
        let said = if flag == "--leave-running" {
            output.stderr
        } else {
            assert_eq!(output.stderr, "", "what goes to the log is not on the terminal");
            log_of(&host)
        };
        let difference = stood_still(&said).abs_diff(Duration::from_micros(micros("stood_still_us")));
        assert!(difference < Duration::from_millis(1), "{said}{stats}");
    }
    host.migrate(&["delete", "--force", container.id()]).succeeded();
    host.assert_no_trace();
}

fn log_of(host: &Host) -> String {
    std::fs::read_to_string(host.path("migrate.log")).expect("read the log")
}

/// The time that a checkpoint tells.
fn stood_still(said: &str) -> Duration {
    let line = said.lines().find(|line| line.contains("level=info") && line.contains(" stood still for "));
    let time = line.and_then(|line| line.split(" stood still for ").nth(1)).unwrap_or_default();
    let time =
        time.trim_end_matches('"').strip_suffix(" ms").unwrap_or_else(|| panic!("no time in {said:?}"));
    Duration::from_secs_f64(time.parse::<f64>().expect("milliseconds") / 1000.0)
}
