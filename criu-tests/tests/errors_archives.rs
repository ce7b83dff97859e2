// SPDX-License-Identifier: Apache-2.0
//! Archives and image directories that cannot be restored: foreign, empty, truncated, damaged, of another version, not
//! there. Each is refused before a process is restored, and nothing is left.

use std::fs;

use criu_tests::{Bundle, Host, Need, Stage};
use serde_json::{Value, json};

/// The documented exit codes: of anything that has none of its own, and of an archive that cannot be used.
const GENERAL: i32 = 1;
const BAD_ARCHIVE: i32 = 3;

const SMALL: [&str; 2] = ["--memory", "1048576"];

/// Restores from a file that must be refused.
fn refused(stage: &Stage, host: &Host, archive: &str, code: i32, fragments: &[&str]) {
    host.migrate(&["restore", "-d", "--import", archive, &stage.id("refused")]).failed(code, fragments);
    host.assert_no_trace();
}

#[test]
fn files_that_are_no_archives() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let gzip: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let frame: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x00, 0x01, 0x00, 0x00, 0x99, 0xe9, 0xd8, 0x51];
    for content in [b"".as_slice(), b"a text\n", &[0; 10_240], gzip, frame, &[0xff; 4096]] {
        let file = stage.path("foreign");
        fs::write(&file, content).expect("write a file");
        refused(&stage, &host, &file, BAD_ARCHIVE, &[&file]);
    }
    // A tar of something else.
    let tar = stage.path("other.tar");
    host.command(&["tar", "-cf", &tar, "-C", "/etc", "hostname", "passwd"]).run().succeeded();
    refused(&stage, &host, &tar, BAD_ARCHIVE, &[&tar]);
    let missing = stage.path("missing");
    refused(&stage, &host, &missing, GENERAL, &[&missing]);
}

#[test]
fn archives_that_are_damaged() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = host.run_small(&stage.id("small"));
    let archive = stage.path("whole.tar");
    container.checkpoint(&["--export", &archive]);
    let whole = fs::read(&archive).expect("read the archive");
    let damaged = stage.path("damaged.tar");
    let size = whole.len();
    for length in [1, 100, size / 4, size / 2, size - 4096, size - 1] {
        fs::write(&damaged, &whole[..length]).expect("write a part");
        refused(&stage, &host, &damaged, BAD_ARCHIVE, &[&damaged]);
    }
    // What is behind the last frame is for readers that seek: a restore does without it. It ends with the number of its
    // rows and five bytes more.
    let rows = u32::from_le_bytes(whole[size - 9..size - 5].try_into().expect("four bytes"));
    let end = size - (8 + 8 * rows as usize + 9);
    for at in [0, 30, end / 5, end / 2, end * 4 / 5, end - 2000, end - 10] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&damaged, bytes).expect("write a damaged copy");
        refused(&stage, &host, &damaged, BAD_ARCHIVE, &[&damaged]);
    }
    // The whole one is good.
    host.migrate_detached(&["restore", "-d", "--import", &archive, &stage.id("good")]);
    let restored = host.imported(&stage.id("good"));
    restored.reports();
    // And does not go over a container that is there.
    let id = restored.id();
    restored.runs_on_beside(&["restore", "-d", "--import", &archive, id], GENERAL, &[id, "exist"]);
    restored.end();
    host.assert_no_trace();
}

#[test]
fn an_archive_of_another_version() {
    let Some(stage) = Stage::set(&[Need::Criu, Need::Zstd]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = host.run_small(&stage.id("small"));
    let (archive, members) = (stage.path("present.tar"), stage.path("members"));
    container.checkpoint(&["--export", &archive]);
    fs::create_dir(&members).expect("make a directory");
    host.command(&["tar", "--zstd", "-xf", &archive, "-C", &members]).run().succeeded();
    let list = host.command(&["tar", "--zstd", "-tf", &archive]).run().succeeded();
    let manifest = format!("{members}/migrate.json");
    let mut facts: Value = serde_json::from_slice(&fs::read(&manifest).expect("read")).expect("it is JSON");
    facts["schema"] = json!(999);
    fs::write(&manifest, facts.to_string()).expect("write");
    let future = stage.path("future.tar");
    let mut pack = vec!["tar", "--zstd", "--no-recursion", "-cf", &future, "-C", &members];
    pack.extend(list.lines());
    host.command(&pack).run().succeeded();
    refused(&stage, &host, &future, BAD_ARCHIVE, &["999"]);
}

#[test]
fn images_that_are_not_there() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &SMALL);
    let (missing, empty) = (host.path("missing"), host.path("empty"));
    fs::create_dir(&empty).expect("make a directory");
    for images in [&missing, &empty] {
        let output =
            host.migrate(&["restore", "-d", "--image-path", images, "-b", &bundle.path(), &stage.id("x")]);
        output.failed(GENERAL, &[images]);
        host.assert_no_trace();
    }
}
