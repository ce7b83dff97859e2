// SPDX-License-Identifier: Apache-2.0
//! A checkpoint that never is a file: `checkpoint --export -` on one host, `restore --import -` on the other, a pipe
//! between them.

use std::fs::File;
use std::io::Read as _;

use criu_tests::{Bundle, Need, Stage};

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
