// SPDX-License-Identifier: Apache-2.0
//! Archives that mean harm, given to the command: each is refused with its exit code and words that name what is wrong, before
//! a process is restored; nothing of it is left, nothing outside was touched, and a good archive restores afterwards.
//!
//! | | |
//! |---|---|
//! | `form` | members, sizes, records, index, manifest |
//! | `root` | what is in the root filesystem |
//! | `wishes` | what the configuration wants of the host |
//! | `images` | what lies among CRIU's images |
//!
//! What a reader of archives alone can be shown is in `tests/archive_hostile.rs`.

mod archive;
mod form;
mod images;
mod root;
mod wishes;

use std::fs;

use archive::{Archive, taken_apart};
use criu_tests::{Need, Stage};

/// The documented exit codes.
const BAD_ARCHIVE: i32 = 3;
const NOT_ALLOWED: i32 = 7;

/// An archive that is refused.
struct Case {
    name: &'static str,
    make: fn(Archive) -> Vec<u8>,
    code: i32,
    says: &'static str,
}

/// One of [`BAD_ARCHIVE`].
const fn bad(name: &'static str, says: &'static str, make: fn(Archive) -> Vec<u8>) -> Case {
    Case { name, make, code: BAD_ARCHIVE, says }
}

/// Gives each to `restore`, and then a good one.
fn refused(cases: &[Case]) {
    let Some(stage) = Stage::set(&[Need::Criu, Need::Zstd]) else { return };
    let host = stage.host("a");
    let good = taken_apart(&stage, &host);
    let small = good.with_root(&[]);
    let file = stage.path("archive.tar");
    let witness = host.path("witness");
    fs::write(&witness, "untouched").expect("write");
    let before = host.files();
    for case in cases {
        fs::write(&file, (case.make)(small.clone())).expect("write an archive");
        let output = host.migrate(&["restore", "-d", "--import", &file, &stage.id("refused")]);
        assert_eq!(output.code, case.code, "{}: {}", case.name, output.stderr);
        let said = output.failed(case.code, &[&file]);
        assert!(said.contains(case.says), "{}: {:?} is not in {said}", case.name, case.says);
        host.assert_no_trace();
        assert_eq!(host.files(), before, "{}", case.name);
    }
    assert_eq!(fs::read_to_string(&witness).expect("read"), "untouched");
    fs::write(&file, good.bytes()).expect("write the good one");
    host.migrate_detached(&["restore", "-d", "--import", &file, &stage.id("good")]);
    let restored = host.imported(&stage.id("good"));
    restored.reports();
    restored.end();
    host.assert_no_trace();
}
