// SPDX-License-Identifier: Apache-2.0
//! Packed archives of containers: they go on from one archive and from a chain, whole or turned into the other layout; what is wrong
//! with one of a chain is refused before anything is restored; and neither a full disk nor a kill leaves anything under an archive's name.

use std::fs::{self, File};

use age::secrecy::ExposeSecret as _;
use age::x25519::Identity;
use criu_tests::{Bundle, Container, Host, Need, PATIENCE, Running, Stage, Status, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

/// The documented exit codes.
const GENERAL: i32 = 1;
const BAD_ARCHIVE: i32 = 3;
const STORAGE: i32 = 6;
const NOT_ALLOWED: i32 = 7;

const PACKED: [&str; 2] = ["--layout", "packed"];

fn size(path: &str) -> u64 {
    fs::metadata(path).expect("stat").len()
}

fn inspected(host: &Host, path: &str) -> Value {
    serde_json::from_str(&host.migrate(&["inspect", "--json", path]).succeeded()).expect("JSON")
}

/// Restores an archive, sees that the container goes on, and ends it.
fn goes_on(host: &Host, stage: &Stage, archive: &str, flags: &[&str], before: &Status) {
    let id = stage.id("back");
    host.migrate_detached(&[&["restore", "-d", "--import", archive], flags, &[&id]].concat());
    let back = host.imported(&id);
    back.goes_on(before);
    back.end();
}

/// Three archives of a container, each of which goes on from the one before, in a directory of their own; and its last status.
fn chain(host: &Host, stage: &Stage, workload: &str) -> ([String; 3], Status) {
    let bundle = Bundle::of_workload(host, workload, &[]);
    let container = host.run_detached(&stage.id("chain"), &bundle);
    let mut before = container.reports();
    let directory = stage.path("archives");
    fs::create_dir(&directory).expect("mkdir");
    let paths = ["one", "two", "three"].map(|name| format!("{directory}/{name}"));
    container.checkpoint(&[&["--leave-running", "--export", &paths[0]], &PACKED[..]].concat());
    for (base, path) in [(&paths[0], &paths[1]), (&paths[1], &paths[2])] {
        before = container.goes_on(&before);
        let leave: &[&str] = if path == &paths[1] { &["--leave-running"] } else { &[] };
        container.checkpoint(&[&["--export", path, "--base", base], &PACKED[..], leave].concat());
    }
    bundle.remove();
    (paths, before)
}

fn a_chain_of_three(workload: &str) {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let ([one, two, three], before) = chain(&host, &stage, workload);
    assert!(size(&two) * 3 < size(&one) && size(&three) * 3 < size(&one), "{} {}", size(&one), size(&three));
    let said = inspected(&host, &three);
    assert_eq!(said["checkpoint"]["layout"], "packed");
    let digests = [&two, &one].map(|path| inspected(&host, path)["checkpoint"]["digest"].clone());
    assert_eq!(said["checkpoint"]["bases"], Value::from(digests.to_vec()));
    assert!(said["problems"].as_array().is_some_and(Vec::is_empty), "{}", said["problems"]);
    let verified = host.migrate(&["verify", &three]).succeeded();
    assert!(verified.contains("every digest agrees"), "{verified}");
    host.migrate(&["diff", &one, &three]).succeeded();
    goes_on(&host, &stage, &three, &[], &before);
    host.assert_no_trace();
}

#[test]
fn a_chain_of_three_with_memory() {
    a_chain_of_three("counter");
}

#[test]
fn a_chain_of_three_with_threads() {
    a_chain_of_three("threads");
}

#[test]
fn a_chain_of_three_with_processes() {
    a_chain_of_three("tree");
}

#[test]
fn a_chain_of_three_with_files() {
    a_chain_of_three("files");
}

#[test]
fn an_archive_for_podman_is_gone_on_from() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &[]);
    let container = host.run_detached(&stage.id("here"), &bundle);
    let before = container.reports();
    let (full, next) = (stage.path("full"), stage.path("next"));
    container.checkpoint(&["--leave-running", "--export", &full]);
    let before = container.goes_on(&before);
    container.checkpoint(&[&["--export", &next, "--base", &full], &PACKED[..]].concat());
    bundle.remove();
    assert!(size(&next) * 3 < size(&full), "{} {}", size(&full), size(&next));
    host.migrate(&["verify", &next]).succeeded();
    let good = fs::read(&full).expect("read");
    let mut damaged = good.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&full, damaged).expect("write");
    let id = stage.id("back");
    host.migrate(&["restore", "-d", "--import", &next, &id]).failed(BAD_ARCHIVE, &["damaged"]);
    fs::write(&full, good).expect("write");
    goes_on(&host, &stage, &next, &[], &before);
    host.assert_no_trace();
}

#[test]
fn what_is_wrong_in_a_chain_is_refused() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let ([one, two, three], before) = chain(&host, &stage, "counter");
    let id = stage.id("back");
    let digest = inspected(&host, &two)["checkpoint"]["digest"].as_str().expect("a digest").to_owned();
    let refused = |archive: &str, flags: &[&str], code: i32, fragments: &[&str]| {
        host.migrate(&[&["restore", "-d", "--import", archive], flags, &[&id]].concat())
            .failed(code, fragments);
        assert_eq!(host.container_ids(), Vec::<String>::new());
    };
    // Missing: by name and digest, to whoever needs it.
    let away = stage.path("away");
    fs::rename(&two, &away).expect("rename");
    refused(&three, &[], GENERAL, &[&digest, "two", "was not found"]);
    host.migrate(&["verify", &three]).failed(GENERAL, &[&digest]);
    host.migrate(&["diff", &one, &three]).failed(GENERAL, &[&digest]);
    let said = inspected(&host, &three);
    assert_eq!(said["checkpoint"]["id"], stage.id("chain").as_str(), "it has its own facts");
    // Another one under its name.
    fs::copy(&one, &two).expect("copy");
    refused(&three, &[], BAD_ARCHIVE, &[&digest, "is not that one"]);
    fs::remove_file(&two).expect("remove");
    refused(&three, &["--base-archive", &one], BAD_ARCHIVE, &[&digest, "is not that one"]);
    // Damaged.
    let good = fs::read(&away).expect("read");
    let mut damaged = fs::read(&one).expect("read");
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&two, &good).expect("write");
    let whole = fs::read(&one).expect("read");
    fs::write(&one, &damaged).expect("write");
    refused(&three, &[], BAD_ARCHIVE, &["damaged"]);
    host.migrate(&["verify", &one]).failed(BAD_ARCHIVE, &["damaged"]);
    fs::write(&one, &whole[..whole.len() - 1000]).expect("write");
    refused(&one, &[], BAD_ARCHIVE, &["truncated"]);
    fs::write(&one, &whole).expect("write");
    // What a packed archive cannot be.
    refused(&three, &["--lazy-pages"], GENERAL, &["it is packed"]);
    let stream = host.migrate_command(&["restore", "-d", "--import", "-", &id]).without_stdio();
    // Nobody knows in which directory it is, where the others could be.
    assert_eq!(stream.stdin(File::open(&three).expect("open")).run().code, GENERAL);
    host.assert_no_trace();
    // Elsewhere, by file and by directory.
    fs::rename(&two, &away).expect("rename");
    let directory = stage.path("archives");
    goes_on(&host, &stage, &three, &["--base-archive", &away, "--base-archive", &directory], &before);
    host.assert_no_trace();
}

#[test]
fn a_base_that_will_not_do_is_known_before_the_checkpoint() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = host.run_small(&stage.id("small"));
    let (text, packed) = (stage.path("text"), stage.path("packed"));
    fs::write(&text, "no archive").expect("write");
    let export = ["checkpoint", "--export", &packed, container.id()];
    let with = |flags: &[&'static str], base: &str| {
        let words: Vec<String> = [&export[..], flags].concat().into_iter().map(str::to_owned).collect();
        [words, vec!["--base".to_owned(), base.to_owned()]].concat()
    };
    for (flags, base, fragment) in [
        (&PACKED[..], &text, "is no archive of migrate"),
        (&PACKED[..], &stage.path("nowhere"), "no such file"),
        (&[][..], &text, "--base goes with --layout packed"),
    ] {
        let words = with(flags, base);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        container.runs_on_beside(&words, GENERAL, &[fragment]);
    }
    assert!(!fs::exists(&packed).expect("look"));
    container.end();
    host.assert_no_trace();
}

#[test]
fn an_archive_goes_through_both_layouts() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let ([one, _, three], before) = chain(&host, &stage, "counter");
    let (full, packed, small) = (stage.path("full"), stage.path("packed"), stage.path("archives/small"));
    let convert = |from: &str, to: &str, layout: &str, more: &[&str]| {
        host.migrate(&[&["archives", "convert", from, to, "--layout", layout], more].concat()).succeeded();
    };
    convert(&three, &full, "podman", &[]);
    assert_eq!(inspected(&host, &full)["checkpoint"]["layout"], "full");
    convert(&full, &packed, "packed", &[]);
    convert(&packed, &small, "packed", &["--base", &one]);
    assert!(size(&small) * 3 < size(&packed), "{} {}", size(&small), size(&packed));
    for archive in [&full, &packed, &small] {
        host.migrate(&["verify", archive]).succeeded();
        let same = host.migrate(&["diff", &three, archive]).succeeded();
        assert_eq!(same, "nothing has changed\n");
    }
    // What is there already stays when the archive cannot be read.
    let mut damaged = fs::read(&packed).expect("read");
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let bad = stage.path("bad");
    fs::write(&bad, damaged).expect("write");
    let before_it = fs::read(&full).expect("read");
    host.migrate(&["archives", "convert", &bad, &full, "--layout", "podman"])
        .failed(BAD_ARCHIVE, &["damaged"]);
    assert!(fs::read(&full).expect("read") == before_it);
    host.migrate(&["archives", "convert", &bad]).failed(GENERAL, &["--layout podman or packed"]);
    host.migrate(&["archives", "list", "--layout", "packed"]).failed(GENERAL, &["only archives convert"]);
    for archive in [&full, &small] {
        goes_on(&host, &stage, archive, &[], &before);
    }
    host.assert_no_trace();
}

#[test]
fn packed_encrypted_and_signed() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let secret = Identity::generate();
    let (key, public) = (stage.path("key"), secret.to_public().to_string());
    fs::write(&key, format!("{}\n", secret.to_string().expose_secret())).expect("write a key");
    let ssh = stage.path("ssh");
    host.command(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &ssh]).run().succeeded();
    let (_bundle, container) = host.run_small(&stage.id("small"));
    let status = container.reports();
    let (one, two) = (stage.path("one"), stage.path("two"));
    let sealed = ["--encrypt-to", &public, "--layout", "packed"];
    container.checkpoint(&[&["--leave-running", "--export", &one], &sealed[..]].concat());
    let status = container.goes_on(&status);
    let export = ["--export", &two, "--base", &one, "--sign", &ssh];
    let words = [&["checkpoint"], &export[..], &sealed, &[container.id()]].concat();
    container.runs_on_beside(&words, NOT_ALLOWED, &["encrypted"]);
    container.checkpoint(&[&export[..], &sealed, &["--identity", &key]].concat());
    assert!(fs::read(&two).expect("read").starts_with(b"age-encryption.org/v1\n"));
    let id = stage.id("back");
    host.migrate(&["restore", "-d", "--import", &two, &id]).failed(NOT_ALLOWED, &["encrypted"]);
    let signers = format!("{ssh}.pub");
    // A byte behind the end changes nothing about the archive, but it is not what was signed.
    let changed = stage.path("changed");
    fs::write(&changed, [&fs::read(&two).expect("read")[..], b"x"].concat()).expect("write");
    let signature = format!("{two}.sig");
    let flags = ["--identity", &key, "--verify", &signers, "--signature", &signature];
    host.migrate(&[&["restore", "-d", "--import", &changed], &flags[..], &[&id]].concat())
        .failed(NOT_ALLOWED, &["is not what was signed"]);
    host.assert_no_trace();
    goes_on(&host, &stage, &two, &flags, &status);
    host.assert_no_trace();
}

#[test]
fn packed_as_an_image_and_on_standard_input() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (bundle, container) = host.run_small(&stage.id("here"));
    let before = container.reports();
    let (archive, image) = (stage.path("packed"), format!("oci:{}:1", stage.path("layout")));
    container.checkpoint(&[&["--leave-running", "--create-image", &image], &PACKED[..]].concat());
    container.checkpoint(&[&["--export", &archive], &PACKED[..]].concat());
    // Nobody takes it for a layer.
    let index = fs::read_to_string(format!("{}/index.json", stage.path("layout"))).expect("read");
    let index: Value = serde_json::from_str(&index).expect("JSON");
    let digest = index["manifests"][0]["digest"].as_str().expect("a digest").replace(':', "/");
    let manifest = fs::read_to_string(format!("{}/blobs/{digest}", stage.path("layout"))).expect("read");
    assert!(manifest.contains("application/vnd.migrate.checkpoint.v1"), "{manifest}");
    goes_on(&host, &stage, &image, &[], &before);
    let id = stage.id("back");
    let from = |archive: &str| {
        let stdin = File::open(archive).expect("open");
        host.migrate_command(&["restore", "-d", "--import", "-", &id]).without_stdio().stdin(stdin).run().code
    };
    assert_eq!(from(&archive), 0, "a file can be read as any other");
    let back = host.imported(&id);
    back.goes_on(&before);
    back.end();
    // Of a pipe only the beginning is there.
    let piped = [
        "sh",
        "-c",
        &format!("cat {archive} | {} restore -d --import - {id}", host.migrate_argv(&[]).join(" ")),
    ];
    let said = host.command(&piped).run().failed(BAD_ARCHIVE, &["cannot be read from its beginning"]);
    assert!(said.contains("save it to a file first"), "{said}");
    bundle.remove();
    host.assert_no_trace();
}

#[test]
fn what_an_archive_needs_is_not_pruned() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let ([one, two, three], _) = chain(&host, &stage, "files");
    let directory = stage.path("archives");
    let pruned = || {
        let said = host.migrate(&["archives", "prune", "--json", "--keep", "1", &directory]).succeeded();
        let said: Value = serde_json::from_str(&said).expect("JSON");
        said["archives"].as_array().expect("a list").len()
    };
    assert_eq!(pruned(), 0);
    host.migrate(&["verify", &three]).succeeded();
    // One that needs none takes the place of all.
    host.migrate(&["archives", "convert", &three, &stage.path("archives/new"), "--layout", "packed"])
        .succeeded();
    assert_eq!(pruned(), 3);
    assert!(![one, two, three].iter().any(|path| fs::exists(path).expect("look")));
    host.migrate(&["verify", &stage.path("archives/new")]).succeeded();
    host.assert_no_trace();
}

#[test]
fn a_conversion_that_fails_or_is_killed_leaves_no_archive() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (_bundle, container, disk) = beside_a_disk(&host, &stage, "size=2m");
    let secret = Identity::generate();
    let (key, public) = (stage.path("key"), secret.to_public().to_string());
    fs::write(&key, format!("{}\n", secret.to_string().expose_secret())).expect("write a key");
    let before = container.reports();
    let sealed = stage.path("sealed");
    container.checkpoint(&["--export", &sealed, "--layout", "packed", "--encrypt-to", &public]);
    let target = format!("{disk}/full");
    let words = ["archives", "convert", &sealed, &target, "--layout", "podman"];
    host.migrate(&words).failed(NOT_ALLOWED, &["encrypted"]);
    let with_key = [&words[..], &["--identity", &key]].concat();
    host.migrate(&with_key).failed(STORAGE, &["no space left"]);
    assert_eq!(names_on(&host, &disk), "", "left on the disk");
    host.command(&["mount", "-o", "remount,size=400m", &disk]).run().succeeded();
    let running = host.migrate_command(&with_key).start();
    wait_until(PATIENCE, "something is written", || {
        let names = names_on(&host, &disk);
        if running.has_ended() || !names.is_empty() { Ok(()) } else { Err(names) }
    });
    let has_name = || names_on(&host, &disk).lines().any(|name| name == target);
    assert_eq!(is_killed(running), !has_name(), "an archive that is not whole has its name");
    // Encrypted again, and back.
    let (full, packed) = (stage.path("full"), stage.path("packed"));
    let seal = ["--identity", &key, "--encrypt-to", &public];
    host.migrate(&[&["archives", "convert", &sealed, &full, "--layout", "podman"], &seal[..]].concat())
        .succeeded();
    host.migrate(&[&["archives", "convert", &full, &packed, "--layout", "packed"], &seal[..]].concat())
        .succeeded();
    assert!(fs::read(&packed).expect("read").starts_with(b"age-encryption.org/v1\n"));
    for archive in [&full, &packed] {
        goes_on(&host, &stage, archive, &["--identity", &key], &before);
    }
    host.command(&["umount", &disk]).run().succeeded();
    host.assert_no_trace();
}

/// A container with memory, and a disk of this size that only its host sees.
fn beside_a_disk<'h>(host: &'h Host, stage: &Stage, size: &str) -> (Bundle, Container<'h>, String) {
    let bundle = Bundle::of_workload(host, "counter", &["--memory", "67108864"]);
    let container = host.run_detached(&stage.id("packed"), &bundle);
    container.reports();
    let disk = host.path("disk");
    fs::create_dir(&disk).expect("make a directory");
    host.command(&["mount", "-t", "tmpfs", "-o", size, "tmpfs", &disk]).run().succeeded();
    (bundle, container, disk)
}

/// Kills a command. It may have come to its end before; then it must have succeeded.
fn is_killed(command: Running) -> bool {
    command.signal(Signal::SIGKILL);
    let output = command.wait();
    let killed = output.code == 128 + Signal::SIGKILL as i32;
    if !killed {
        output.succeeded();
    }
    killed
}

fn names_on(host: &Host, disk: &str) -> String {
    host.command(&["find", disk, "-mindepth", "1"]).run().succeeded()
}

#[test]
fn a_disk_that_fills_up() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    // Room for the images, and for some of the archive.
    let (_bundle, container, disk) = beside_a_disk(&host, &stage, "size=100m");
    let target = format!("{disk}/packed");
    for more in [&[][..], &["--leave-running"]] {
        let args = [&["checkpoint", "--export", &target, container.id()], &PACKED[..], more].concat();
        container.runs_on_beside(&args, STORAGE, &["no space left"]);
        assert_eq!(names_on(&host, &disk), "", "left on the disk");
    }
    container.end();
    host.command(&["umount", &disk]).run().succeeded();
    host.assert_no_trace();
}

#[test]
fn a_kill_in_the_middle_of_the_archive() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (_bundle, container, disk) = beside_a_disk(&host, &stage, "size=400m");
    let before = container.reports();
    let target = format!("{disk}/packed");
    let args = [&["checkpoint", "--export", &target, container.id()], &PACKED[..]].concat();
    let running = host.migrate_command(&args).start();
    let begun = |name: &str| {
        let written = fs::metadata(host.outside(name)).map_or(0, |file| file.len());
        name.ends_with(".partial") && written > 1 << 20
    };
    wait_until(PATIENCE, "a megabyte of the archive is written", || {
        let names = names_on(&host, &disk);
        if running.has_ended() || names.lines().any(begun) { Ok(()) } else { Err(names) }
    });
    let killed = is_killed(running);
    wait_until(PATIENCE, "CRIU ends by itself", || {
        if host.criu_runs() { Err(host.processes()) } else { Ok(()) }
    });
    assert_ne!(killed, fs::exists(host.outside(&target)).expect("look"), "under the archive's name");
    let mut before = before;
    if killed {
        before = container.goes_on(&before);
        // The next one clears up.
        container.checkpoint(&[&["--export", &target], &PACKED[..]].concat());
    }
    assert_eq!(names_on(&host, &disk).trim(), target);
    goes_on(&host, &stage, &target, &[], &before);
    host.command(&["umount", &disk]).run().succeeded();
    host.assert_no_trace();
}
