// SPDX-License-Identifier: Apache-2.0
//! A root filesystem that `migrate to` sends while the container runs and writes to it: what stands still is little, what arrives is what
//! was there, and whoever ends it in the middle leaves a container that runs on.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use criu_tests::{Bundle, Container, Host, LargePipes, Need, PATIENCE, Receiver, Stage, Status, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const MIB: u64 = 1 << 20;

/// Both hosts, and pipes as CRIU needs them.
struct Pair {
    _stage: Stage,
    a: Host,
    b: Host,
    id: String,
    _pipes: LargePipes,
}

impl Pair {
    fn new() -> Option<Self> {
        let stage = Stage::set(&[Need::Criu])?;
        let (a, b) = (stage.host("a"), stage.host("b"));
        let id = stage.id("files");
        Some(Self { a, b, id, _pipes: LargePipes::set(), _stage: stage })
    }

    fn run(&self, workload: &str, options: &[&str]) -> Container<'_> {
        let bundle = Bundle::of_workload(&self.a, workload, options).edit(|config| {
            config["linux"]["cgroupsPath"] = json!(format!("/{}-source", self.id));
        });
        self.a.run_detached(&self.id, &bundle)
    }

    /// Moves it, and tells what was reported.
    fn moves(&self, at: &str, args: &[&str]) -> Value {
        let report = self.a.path("report.json");
        self.a.migrate(&[&["to", "--report", &report], args, &[at, &self.id]].concat()).succeeded();
        serde_json::from_slice(&fs::read(report).expect("a report")).expect("JSON")
    }
}

/// It has looked at all of its files after that.
#[track_caller]
fn looks_at_all(container: &Container<'_>, before: &Status) {
    let done = |status: &Status| {
        status.field("ok") != "yes" || status.number("passes") >= before.number("passes") + 2
    };
    let status = wait_until(PATIENCE * 4, "all files are looked at", || {
        container.status().filter(done).ok_or_else(|| container.status())
    });
    status.assert_continues(before);
}

/// What a file is: kind, owner and rights, names, size, and content or target.
type Facts = (u32, u32, u32, u64, u64, (i64, i64), Vec<u8>);

/// All of a tree, by path from its root.
fn tree(root: &str) -> BTreeMap<Vec<u8>, Facts> {
    let mut all = BTreeMap::new();
    let mut pending = vec![PathBuf::from(root)];
    while let Some(full) = pending.pop() {
        let metadata = fs::symlink_metadata(&full).expect("stat");
        let kind = metadata.file_type();
        let content = if kind.is_file() {
            Sha256::digest(fs::read(&full).expect("read")).to_vec()
        } else if kind.is_symlink() {
            fs::read_link(&full).expect("a link").into_os_string().into_encoded_bytes()
        } else {
            Vec::new()
        };
        if kind.is_dir() {
            pending.extend(fs::read_dir(&full).expect("list").map(|entry| entry.expect("an entry").path()));
        }
        let (size, links) = if kind.is_dir() { (0, 0) } else { (metadata.size(), metadata.nlink()) };
        let time = (metadata.mtime(), metadata.mtime_nsec());
        let facts = (metadata.mode(), metadata.uid(), metadata.gid(), size, links, time, content);
        let path = full.as_os_str().as_bytes().strip_prefix(root.as_bytes()).expect("beneath it").to_vec();
        all.insert(path, facts);
    }
    all
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a number: {value}"))
}

#[test]
fn files_that_are_written_to_all_the_time_arrive_as_they_are() {
    let Some(pair) = Pair::new() else { return };
    let container = pair.run("scribe", &[]);
    let before = container.reports();
    let receiver = Receiver::on(&pair.b, &[]);
    let report = pair.moves(&receiver.at, &[]);
    let there = pair.b.imported(&pair.id);
    looks_at_all(&there, &before);
    let rounds = report["file_rounds"].as_array().expect("rounds of files");
    assert!(rounds.len() >= 2 && number(&rounds[0]["bytes"]) >= 60 * MIB, "{report}");
    assert!(number(&rounds[0]["files"]) >= 200, "{report}");
    let frozen = &report["frozen_files"];
    // Something was: a file is mapped, and written to, until the end.
    assert!((1..24 * MIB).contains(&number(&frozen["bytes"])), "{report}");
    there.end();
    drop(receiver);
    pair.a.assert_no_trace();
    pair.b.assert_no_trace();
}

/// Plants one of everything.
fn plant(rootfs: &str) {
    let at = |path: &str| format!("{rootfs}/data/{path}");
    for directory in ["deep/deeper", "closed", "empty"] {
        fs::create_dir_all(at(directory)).expect("mkdir");
    }
    fs::write(at("deep/file"), vec![7; 300_000]).expect("write");
    fs::hard_link(at("deep/file"), at("another name")).expect("link");
    fs::write(at("closed/program"), "#!/bin/sh\n").expect("write");
    fs::set_permissions(at("closed/program"), fs::Permissions::from_mode(0o4751)).expect("chmod");
    chown(at("closed"), Some(1000), Some(100)).expect("chown");
    fs::set_permissions(at("closed"), fs::Permissions::from_mode(0o500)).expect("chmod");
    let sparse = fs::File::create(at("sparse")).expect("create");
    sparse.set_len(64 * MIB).expect("grow");
    sparse.write_all_at(b"in the middle", 32 * MIB).expect("write");
    symlink("/nowhere/at/all", at("link")).expect("symlink");
    let odd = Path::new(rootfs).join("data").join(OsStr::from_bytes(b"not \xff text"));
    fs::write(odd, "").expect("write");
    nix::unistd::mkfifo(at("fifo").as_str(), nix::sys::stat::Mode::S_IRUSR).expect("mkfifo");
    let (null, mode) = (nix::sys::stat::makedev(1, 3), nix::sys::stat::Mode::S_IRUSR);
    nix::sys::stat::mknod(at("null").as_str(), nix::sys::stat::SFlag::S_IFCHR, mode, null).expect("mknod");
}

#[test]
fn the_tree_at_the_destination_is_the_one_at_the_source() {
    let Some(pair) = Pair::new() else { return };
    let container = pair.run("counter", &[]);
    let before = container.reports();
    plant(container.rootfs());
    let receiver = Receiver::on(&pair.b, &[]);
    let report = pair.moves(&receiver.at, &[]);
    assert!(number(&report["file_rounds"][0]["files"]) > 20, "{report}");
    let there = pair.b.imported(&pair.id);
    there.goes_on(&before);
    let trees = [container.rootfs(), there.rootfs()].map(|rootfs| {
        let mut tree = tree(rootfs);
        // What the workload writes to, and where that is.
        tree.retain(|path, _| {
            path.starts_with(b"/data") || path.starts_with(b"/etc") || path == b"/workload"
        });
        tree
    });
    assert_eq!(trees[0].keys().collect::<Vec<_>>(), trees[1].keys().collect::<Vec<_>>());
    for (path, facts) in &trees[0] {
        assert_eq!(facts, &trees[1][path], "{}", path.escape_ascii());
    }
    let sparse = fs::metadata(format!("{}/data/sparse", there.rootfs())).expect("stat");
    assert!(sparse.blocks() * 512 < MIB, "holes stay holes: {} blocks", sparse.blocks());
    there.end();
}

#[test]
fn without_rounds_the_root_filesystem_is_sent_while_it_stands_still() {
    let Some(pair) = Pair::new() else { return };
    let container = pair.run("scribe", &["--files", "20"]);
    let before = container.reports();
    let receiver = Receiver::on(&pair.b, &[]);
    let report = pair.moves(&receiver.at, &["--rootfs-rounds", "0"]);
    assert!(report["frozen_files"].is_null() && report["file_rounds"] == json!([]), "{report}");
    let there = pair.b.imported(&pair.id);
    looks_at_all(&there, &before);
    there.end();
}

/// Whether a root filesystem comes to the host.
fn comes(host: &Host) -> Result<(), usize> {
    let places: Vec<_> =
        fs::read_dir(host.path("state/.migrations")).into_iter().flatten().flatten().collect();
    if places.iter().any(|place| place.path().join("rootfs.coming/state/scribe").exists()) {
        return Ok(());
    }
    Err(places.len())
}

/// Nothing of a migration is left on a host.
#[track_caller]
fn nothing_is_left(host: &Host) {
    let left = || fs::read_dir(host.path("state/.migrations")).into_iter().flatten().count();
    wait_until(PATIENCE, "nothing is left", || match left() {
        0 => Ok(()),
        left => Err(left),
    });
}

#[test]
fn killed_meanwhile_the_sender_leaves_nothing() {
    let Some(pair) = Pair::new() else { return };
    let container = pair.run("scribe", &[]);
    let before = container.reports();
    let receiver = Receiver::on(&pair.b, &[]);
    let running = pair.a.migrate_command(&["to", &receiver.at, &pair.id]).start();
    wait_until(PATIENCE, "files come", || comes(&pair.b));
    running.signal(Signal::SIGKILL);
    running.wait();
    container.goes_on(&before);
    assert_eq!(container.state_status(), "running");
    nothing_is_left(&pair.a);
    nothing_is_left(&pair.b);
    looks_at_all(&container, &before);
    container.end();
}

/// What a receiver has kept that was killed meanwhile is removed by the next.
#[test]
fn killed_meanwhile_the_receiver_leaves_nothing_that_stays() {
    let Some(pair) = Pair::new() else { return };
    let container = pair.run("scribe", &[]);
    let before = container.reports();
    let receiver = Receiver::on(&pair.b, &[]);
    let running = pair.a.migrate_command(&["to", &receiver.at, &pair.id]).start();
    wait_until(PATIENCE, "files come", || comes(&pair.b));
    drop(receiver);
    running.wait().failed(1, &["was not moved: it goes on here"]);
    comes(&pair.b).expect("what has come is left");
    container.goes_on(&before);
    let receiver = Receiver::on(&pair.b, &[]);
    pair.moves(&receiver.at, &[]);
    let there = pair.b.imported(&pair.id);
    looks_at_all(&there, &before);
    nothing_is_left(&pair.b);
    there.end();
}
