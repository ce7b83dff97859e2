// SPDX-License-Identifier: Apache-2.0
//! Archives that are damaged, foreign or made to do harm: each is refused with its own words, and nothing outside the
//! target directories is touched.

mod archive_support;

use std::fs;

use archive_support::{Source, unpack};
use migrate::ErrorKind;
use migrate::archive::{Archive, Compression, DeviceNodes, UnpackOptions};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

/// A member or entry to be written as it is, right or wrong.
#[derive(Clone)]
struct Item {
    name: Vec<u8>,
    kind: EntryType,
    data: Vec<u8>,
    link: Vec<u8>,
    /// A size that is not that of the data.
    declared: Option<u64>,
    device: (u32, u32),
}

fn item(name: &str, kind: EntryType, data: &[u8]) -> Item {
    let (name, data) = (name.as_bytes().to_vec(), data.to_vec());
    Item { name, kind, data, link: Vec::new(), declared: None, device: (0, 0) }
}

fn file(name: &str, data: &[u8]) -> Item {
    item(name, EntryType::Regular, data)
}

fn dir(name: &str) -> Item {
    item(name, EntryType::Directory, b"")
}

fn link(name: &str, kind: EntryType, target: &str) -> Item {
    Item { link: target.as_bytes().to_vec(), ..item(name, kind, b"") }
}

fn device(name: &str, kind: EntryType, major: u32, minor: u32) -> Item {
    Item { device: (major, minor), ..item(name, kind, b"") }
}

fn header(item: &Item) -> Header {
    let mut header = Header::new_ustar();
    header.as_mut_bytes()[..item.name.len()].copy_from_slice(&item.name);
    header.as_mut_bytes()[157..157 + item.link.len()].copy_from_slice(&item.link);
    header.set_entry_type(item.kind);
    header.set_mode(if item.kind == EntryType::Directory { 0o755 } else { 0o644 });
    header.set_uid(u64::from(nix::unistd::geteuid().as_raw()));
    header.set_gid(u64::from(nix::unistd::getegid().as_raw()));
    header.set_mtime(0);
    header.set_size(item.declared.unwrap_or(item.data.len() as u64));
    let ustar = header.as_ustar_mut().expect("a ustar header");
    ustar.set_device_major(item.device.0);
    ustar.set_device_minor(item.device.1);
    header.set_cksum();
    header
}

/// A tar of these items, without the end mark.
fn tar(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items {
        out.extend_from_slice(header(item).as_bytes());
        out.extend_from_slice(&item.data);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out
}

fn ended(mut tar: Vec<u8>) -> Vec<u8> {
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// The right index of these items.
fn index(items: &[Item]) -> serde_json::Value {
    let mut offset = 0;
    let mut members = Vec::new();
    for item in items {
        offset += 512;
        let digest: String = Sha256::digest(&item.data).iter().map(|b| format!("{b:02x}")).collect();
        let name = std::str::from_utf8(&item.name).unwrap_or("?");
        let size = item.data.len();
        members.push(serde_json::json!({"name": name, "size": size, "offset": offset, "sha256": digest}));
        offset += size.next_multiple_of(512);
    }
    let bytes: usize = items.iter().map(|item| item.data.len()).sum();
    serde_json::json!({"schema": 1, "members": members, "total": {"members": items.len(), "bytes": bytes}})
}

/// An archive of these items with its right index.
fn indexed(items: &[Item]) -> Vec<u8> {
    with_index(items, &index(items))
}

fn with_index(items: &[Item], index: &serde_json::Value) -> Vec<u8> {
    let index = file("migrate.index", index.to_string().as_bytes());
    ended(tar(&[items, &[index]].concat()))
}

fn manifest(rootfs: bool) -> Item {
    let json = serde_json::json!({
        "schema": 1, "id": "web", "tool": {"name": "migrate", "version": "0.1.0"}, "created": "now",
        "criu": {"number": 40201, "text": "4.2.1"}, "kernel": "6.18", "arch": "x86_64", "layout": "full",
        "container": {"rootfs": rootfs},
    });
    file("migrate.json", json.to_string().as_bytes())
}

/// The members of a small right archive without a root filesystem.
fn members() -> Vec<Item> {
    vec![
        manifest(false),
        file("spec.dump", b"{}"),
        dir("checkpoint/"),
        file("checkpoint/a.img", b"image a"),
        file("checkpoint/b.img", b"image b"),
        file("stats-dump", b"stats"),
    ]
}

/// The archive with another list of members.
fn changed(change: impl FnOnce(&mut Vec<Item>)) -> Vec<u8> {
    let mut items = members();
    change(&mut items);
    indexed(&items)
}

/// The archive with these entries as its root filesystem.
fn rootfs(entries: &[Item]) -> Vec<u8> {
    rootfs_of_bytes(&ended(tar(entries)))
}

fn rootfs_of_bytes(bytes: &[u8]) -> Vec<u8> {
    changed(|items| {
        items[0] = manifest(true);
        items.insert(5, file("rootfs.tar", bytes));
    })
}

/// The archive with another index.
fn index_changed(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let items = members();
    let mut index = index(&items);
    change(&mut index);
    with_index(&items, &index)
}

/// Asserts that an archive is refused for that reason and that nothing got out, plain and compressed.
fn refused(name: &str, archive: &[u8], reason: &str) {
    refused_with(name, archive, reason, &UnpackOptions::default());
}

fn refused_with(name: &str, archive: &[u8], reason: &str, options: &UnpackOptions) {
    let compressed = zstd::encode_all(archive, 1).expect("memory");
    for (form, bytes) in [("plain", archive), ("zstd", &compressed)] {
        let (target, result) = unpack(bytes, options);
        let error = result.map(|_| ()).expect_err(name);
        let text = error.chain();
        assert_eq!(error.kind(), ErrorKind::InvalidArchive, "{name}, {form}: {text}");
        assert!(text.contains(reason), "{name}, {form}: {text:?} does not tell {reason:?}");
        assert!(target.nothing_escaped(), "{name}, {form}");
    }
}

#[test]
fn the_small_archive_is_right() {
    for archive in [
        indexed(&members()),
        rootfs(&[dir("./"), dir("etc/"), file("etc/passwd", b"x"), link("l", EntryType::Link, "etc/passwd")]),
        rootfs(&[dir("./"), device("null", EntryType::Char, 1, 3), device("w", EntryType::Char, 0, 0)]),
        rootfs(&[link("a", EntryType::Symlink, "/etc/passwd"), link("b", EntryType::Link, "a")]),
        rootfs(&[]),
    ] {
        let (target, unpacked) = unpack(&archive[..], &UnpackOptions::default());
        unpacked.expect("nothing is wrong with it");
        assert!(target.nothing_escaped());
    }
    let archive = rootfs(&[device("disk", EntryType::Block, 8, 0)]);
    let mut options = UnpackOptions::default();
    options.devices = DeviceNodes::Any;
    unpack(&archive[..], &options).1.expect("it was allowed");
}

#[test]
fn foreign_files_are_named() {
    let mut noise = 7_u32;
    let mut random = || {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (noise >> 24) as u8
    };
    let podman = [dir("artifacts/"), file("devshm-checkpoint.tar", b"x"), file("config.dump", b"{}")];
    let crio = [file("stats-dump", b"x"), dir("checkpoint/"), file("./spec.dump", b"{}")];
    for (name, bytes, reason) in [
        ("empty", vec![], "archive is empty"),
        ("one byte", vec![b'm'], "first 1 bytes are neither"),
        ("random", (0..5000).map(|_| random()).collect(), "neither a tar header nor compressed"),
        ("gzip", b"\x1f\x8b\x08\0rest".to_vec(), "truncated"),
        ("xz", b"\xfd7zXZ\0rest".to_vec(), "truncated"),
        ("bzip2", b"BZh9rest".to_vec(), "archive"),
        ("lz4", b"\x04\x22\x4d\x18rest".to_vec(), "compressed with lz4: not supported yet"),
        ("half a magic", b"\x28\xb5\x2f".to_vec(), "not a checkpoint archive"),
        ("only a magic", b"\x28\xb5\x2f\xfd".to_vec(), "truncated"),
        ("zstd of nothing", zstd::encode_all(&b""[..], 1).expect("memory"), "truncated"),
        ("zstd of text", zstd::encode_all(&[b'x'; 5000][..], 1).expect("memory"), "wrong checksum"),
        ("a tar", ended(tar(&[file("hello.c", b"int")])), "its first member is hello.c"),
        ("an empty tar", zstd::encode_all(&[0_u8; 10240][..], 1).expect("memory"), "no members"),
        ("podman", ended(tar(&podman)), "archive of Podman, CRI-O or containerd"),
        ("cri-o", zstd::encode_all(&ended(tar(&crio))[..], 1).expect("memory"), "archive of Podman"),
        ("manifest second", changed(|items| items.swap(0, 1)), "archive of Podman"),
        ("manifest third", ended(tar(&[file("a", b""), manifest(false)])), "its first member is a"),
    ] {
        let error = Archive::open(&bytes[..]).map(|_| ()).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::InvalidArchive, "{name}");
        assert!(error.chain().contains(reason), "{name}: {}", error.chain());
    }
    let error = Archive::open(&b"LZIP"[..]).expect_err("lzip");
    assert!(error.hint().expect("a remedy").contains("lzip -dc"));
}

#[test]
fn wrong_manifests_are_named() {
    let text = String::from_utf8(manifest(false).data).expect("text");
    let with = |json: &str| changed(|items| items[0] = file("migrate.json", json.as_bytes()));
    let huge = format!("{text}{}", " ".repeat(1 << 20));
    refused("not JSON", &with("hello"), "migrate.json is not a manifest");
    refused("empty", &with(""), "migrate.json is not a manifest");
    refused("a number", &with("1"), "migrate.json is not a manifest");
    refused("nested", &with(&"[".repeat(100_000)), "migrate.json is not a manifest");
    refused(
        "schema",
        &with(&text.replace("\"schema\":1", "\"schema\":7")),
        "has schema 7, this version reads schemas 1 to 4",
    );
    refused("layout", &with(&text.replace("full", "packed")), "layout \"packed\"");
    refused("huge", &with(&huge), "at most 1048576 bytes");
    refused(
        "a link",
        &changed(|items| items[0] = link("migrate.json", EntryType::Symlink, "x")),
        "migrate.json",
    );
    refused("no rootfs", &changed(|items| items[0] = manifest(true)), "disagree");
    let newer = "a name that archives of this schema do not have";
    refused("newer", &changed(|items| items.insert(1, file("config.dump", b"{}"))), newer);
    refused("newer", &changed(|items| items.insert(5, file("rootfs-diff.tar", &[0; 1024]))), newer);
    let now = with(&text.replace("\"schema\":1", "\"schema\":2"));
    refused(
        "older",
        &now,
        "member spec.dump: it is there twice or out of order, or one before it is missing",
    );
    refused("a rootfs", &changed(|items| items.insert(5, file("rootfs.tar", &[0; 1024]))), "disagree");
}

#[test]
fn wrong_indexes_are_named() {
    let items = members();
    refused("no index", &ended(tar(&items)), "truncated: migrate.index is missing");
    refused("no end", &tar(&items), "truncated");
    let digest = |i: &mut serde_json::Value| i["members"][3]["sha256"] = "0".repeat(64).into();
    refused("digest", &index_changed(digest), "member checkpoint/a.img is damaged: SHA-256");
    refused(
        "size",
        &index_changed(|i| i["members"][3]["size"] = 8.into()),
        "checkpoint/a.img is damaged: size",
    );
    refused(
        "offset",
        &index_changed(|i| i["members"][1]["offset"] = 8.into()),
        "spec.dump is damaged: offset",
    );
    refused(
        "name",
        &index_changed(|i| i["members"][3]["name"] = "x".into()),
        "checkpoint/a.img is damaged: name",
    );
    refused("total", &index_changed(|i| i["total"]["bytes"] = 8.into()), "migrate.index counts");
    refused("schema", &index_changed(|i| i["schema"] = 2.into()), "migrate.index has schema 2");
    refused(
        "no total",
        &index_changed(|i| drop(i.as_object_mut().expect("an object").remove("total"))),
        "not an index",
    );
    refused(
        "negative",
        &index_changed(|i| i["members"][1]["size"] = (-1).into()),
        "migrate.index is not an index",
    );
    refused("not JSON", &with_index(&items, &"hello".into()), "migrate.index is not an index");
    let shorter = |i: &mut serde_json::Value| drop(i["members"].as_array_mut().expect("a list").pop());
    refused("extra member", &index_changed(shorter), "member stats-dump is not listed");
    let longer = |i: &mut serde_json::Value| {
        let again = i["members"][1].clone();
        i["members"].as_array_mut().expect("a list").push(again);
    };
    refused("missing member", &index_changed(longer), "spec.dump is listed in migrate.index but is missing");
    let index_item = file("migrate.index", index(&items).to_string().as_bytes());
    let two = [&items[..], &[index_item.clone(), index_item.clone()]].concat();
    refused("two indexes", &ended(tar(&two)), "member migrate.index comes after migrate.index");
    let after = [&items[..], &[index_item, file("dump.log", b"")]].concat();
    refused("after the index", &ended(tar(&after)), "member dump.log comes after migrate.index");
}

#[test]
fn wrong_members_are_named() {
    for (name, position, wrong, reason) in [
        ("spec twice", 2, file("spec.dump", b"{}"), "member spec.dump: it is there twice"),
        ("image twice", 4, file("checkpoint/a.img", b"x"), "member checkpoint/a.img is there twice"),
        ("stats twice", 6, file("stats-dump", b""), "member stats-dump: it is there twice"),
        (
            "late image",
            6,
            file("checkpoint/c.img", b""),
            "member checkpoint/c.img: it is there twice or out of order",
        ),
        (
            "unknown",
            6,
            file("devshm-checkpoint.tar", b""),
            "member devshm-checkpoint.tar: a name that archives",
        ),
        (
            "parent",
            4,
            file("checkpoint/../a", b""),
            "member checkpoint/../a: a name that is not in its simplest form",
        ),
        ("absolute", 4, file("/etc/passwd", b""), "member /etc/passwd: a name that is not"),
        ("dot", 4, file("./checkpoint/c", b""), "member ./checkpoint/c: a name that is not"),
        ("double slash", 4, file("checkpoint//c", b""), "member checkpoint//c: a name that is not"),
        (
            "no directory",
            4,
            file("checkpoint/sub/c", b""),
            "checkpoint/sub/c: its directory does not come before",
        ),
        (
            "file as directory",
            4,
            file("checkpoint/a.img/c", b""),
            "checkpoint/a.img/c: its directory does not",
        ),
        (
            "fifo",
            4,
            item("checkpoint/c", EntryType::Fifo, b""),
            "checkpoint/c: only regular files and directories",
        ),
        ("device", 4, device("checkpoint/c", EntryType::Char, 1, 3), "checkpoint/c: only regular files"),
        ("symlink", 4, link("checkpoint/c", EntryType::Symlink, "/etc"), "checkpoint/c: only regular files"),
        (
            "hard link",
            4,
            link("checkpoint/c", EntryType::Link, "spec.dump"),
            "checkpoint/c: only regular files",
        ),
        ("spec as directory", 1, dir("spec.dump/"), "member spec.dump/"),
        ("long type", 4, item("x", EntryType::GNULongName, b"name"), "an entry of an unknown type"),
        (
            "global records",
            4,
            item("x", EntryType::XGlobalHeader, b"9 a=1234\n"),
            "an entry of an unknown type",
        ),
        ("bad records", 4, item("x", EntryType::XHeader, b"99 a=1\n"), "a malformed PAX record"),
        ("records last", 6, item("x", EntryType::XHeader, b"6 a=b\n"), ""),
        (
            "not UTF-8",
            4,
            Item { name: b"checkpoint/\xff".to_vec(), ..file("", b"") },
            "checkpoint/\\xff: a name that is not UTF-8",
        ),
        (
            "huge",
            4,
            Item { declared: Some(1 << 50), ..file("checkpoint/huge", b"") },
            "member checkpoint/huge: the archive would have",
        ),
        (
            "endless",
            4,
            Item { declared: Some(u64::MAX - 3), ..file("checkpoint/huge", b"") },
            "a size that is out of range",
        ),
        (
            "large log",
            6,
            Item { declared: Some(65 << 20), ..file("dump.log", b"") },
            "member dump.log: 68157440 bytes, at most",
        ),
        (
            "records too large",
            4,
            Item { declared: Some(5 << 20), ..item("x", EntryType::XHeader, b"") },
            "PAX records of an impossible size",
        ),
    ] {
        refused(name, &changed(|items| items.insert(position, wrong)), reason);
    }
    let without = |at: usize| changed(|items| drop(items.remove(at)));
    refused(
        "no spec",
        &without(1),
        "member checkpoint/: it is there twice or out of order, or one before it is missing",
    );
    refused("no images", &without(2), "member checkpoint/a.img: it is there twice or out of order");
    let mut mislead =
        changed(|items| items.insert(4, Item { declared: Some(9), ..file("checkpoint/c", b"") }));
    refused("data missing", &mislead, "");
    mislead = indexed(&members());
    mislead.extend_from_slice(b"trailing");
    refused("trailing garbage", &mislead, "data after the end of the archive");
    mislead = indexed(&members());
    mislead.resize(mislead.len() + 512, 0);
    refused("trailing zeros", &mislead, "data after the end of the archive");
    let mut concatenated = zstd::encode_all(&indexed(&members())[..], 1).expect("memory");
    concatenated.extend_from_slice(b"trailing");
    let error =
        unpack(&concatenated[..], &UnpackOptions::default()).1.expect_err("trailing garbage after the frame");
    assert_eq!(error.kind(), ErrorKind::InvalidArchive, "{}", error.chain());
}

/// What is said of a difference, and what is there of it.
#[test]
fn wrong_differences_are_named() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let base = serde_json::json!({"digest": digest, "entries": 1});
    let archive = |base: &serde_json::Value, form: &str, members: &[(&str, &[u8])]| {
        let json = serde_json::json!({
            "schema": 3, "id": "web", "tool": {"name": "migrate", "version": "0.1.0"}, "created": "now",
            "criu": {"number": 40201, "text": "4.2.1"}, "kernel": "6.18", "arch": "x86_64", "layout": "full",
            "container": {"rootfs": true, "rootfs_form": form, "base": base},
        });
        let mut items = vec![file("migrate.json", json.to_string().as_bytes())];
        items.extend(["config.dump", "spec.dump", "migrate.config"].map(|name| file(name, b"{}")));
        items.push(dir("checkpoint/"));
        items.extend(members.iter().map(|(name, bytes)| file(name, bytes)));
        indexed(&items)
    };
    let right = [("rootfs-diff.tar", &[0; 1024][..]), ("deleted.files", b"[]"), ("migrate.base", b"1234")];
    let (_target, unpacked) = unpack(&archive(&base, "diff", &right)[..], &UnpackOptions::default());
    unpacked.expect("the right one");
    let none = serde_json::Value::Null;
    let short = serde_json::json!({"digest": "sha256:0", "entries": 1});
    let another = serde_json::json!({"digest": digest, "entries": 2});
    for (name, base, form, members, reason) in [
        ("no base in the manifest", &none, "diff", &right[..], "migrate.json names no base"),
        ("no digest", &short, "diff", &right, "says of the base what cannot be"),
        ("another number", &another, "diff", &right, "says of the base what cannot be"),
        ("nothing deleted", &base, "diff", &[right[0], right[2]], "one before it is missing"),
        ("no marks", &base, "diff", &right[..2], "one before it is missing"),
        ("only the tar", &base, "diff", &right[..1], "disagree whether there is a root filesystem"),
        ("only the rest", &base, "diff", &right[1..], "one before it is missing"),
        ("nothing", &base, "diff", &[], "disagree whether there is a root filesystem"),
        ("no difference", &base, "over", &right, "disagree whether there is a root filesystem"),
        ("another form", &base, "none", &right, "is not a manifest"),
    ] {
        refused(name, &archive(base, form, members), reason);
    }
}

/// Which volumes there are, and what is said of them.
#[test]
fn wrong_volumes_are_named() {
    let archive = |volumes: &[&str], members: &[Item]| {
        let volumes: Vec<_> =
            volumes.iter().map(|name| serde_json::json!({"name": name, "destination": "/data"})).collect();
        let json = serde_json::json!({
            "schema": 3, "id": "web", "tool": {"name": "migrate", "version": "0.1.0"}, "created": "now",
            "criu": {"number": 40201, "text": "4.2.1"}, "kernel": "6.18", "arch": "x86_64", "layout": "full",
            "container": {"rootfs": false, "volumes": volumes},
        });
        let mut items = vec![file("migrate.json", json.to_string().as_bytes())];
        items.extend(["config.dump", "spec.dump", "migrate.config"].map(|name| file(name, b"{}")));
        items.push(dir("checkpoint/"));
        items.extend(members.iter().cloned());
        indexed(&items)
    };
    let (all, one, two) = (dir("volumes/"), file("volumes/1.tar", b""), file("volumes/2.tar", b""));
    let right = archive(&["1", "2"], &[all.clone(), one.clone(), two.clone()]);
    let (target, unpacked) = unpack(&right[..], &UnpackOptions::default());
    unpacked.expect("the right one");
    assert!(target.path().join("volumes/2.tar").exists());
    for (name, volumes, members, reason) in [
        ("one less", &["1", "2"][..], vec![all.clone(), one.clone()], "disagree about volumes"),
        ("one more", &["1"], vec![all.clone(), one.clone(), two.clone()], "disagree about volumes"),
        ("another order", &["2", "1"], vec![all.clone(), one.clone(), two.clone()], "disagree about volumes"),
        ("none", &["1"], vec![], "disagree about volumes"),
        (
            "elsewhere",
            &["../1"],
            vec![all.clone(), file("volumes/../1.tar", b"")],
            "not in its simplest form",
        ),
        (
            "the directory above",
            &[".."],
            vec![all.clone(), file("volumes/...tar", b"")],
            "a name that archives",
        ),
        (
            "the directory of all",
            &["."],
            vec![all.clone(), file("volumes/..tar", b"")],
            "a name that archives",
        ),
        ("deeper", &["1/2"], vec![all.clone(), file("volumes/1/2.tar", b"")], "a name that archives"),
        ("no directory", &["1"], vec![one.clone()], "one before it is missing"),
        ("only a directory", &[], vec![all.clone(), file("stats-dump", b"")], "one before it is missing"),
        ("twice", &["1", "1"], vec![all.clone(), one.clone(), one.clone()], "File exists"),
        ("a file for all", &[], vec![file("volumes", b"")], "a name that archives"),
    ] {
        if name == "twice" {
            let (_target, result) = unpack(&archive(volumes, &members)[..], &UnpackOptions::default());
            assert!(result.expect_err(name).chain().contains("volumes/1.tar"), "{name}");
            continue;
        }
        refused(name, &archive(volumes, &members), reason);
    }
}

#[test]
fn wrong_root_filesystems_are_named() {
    use EntryType::{Block, Char, Link, Symlink};
    let long = "x".repeat(40);
    for (name, entries, reason) in [
        ("parent", vec![file("../escaped", b"x")], "../escaped: a path with \"..\" in it"),
        ("inner parent", vec![dir("a/"), file("a/../../escaped", b"x")], "a/../../escaped: a path with"),
        ("absolute", vec![file("/etc/escaped", b"x")], "/etc/escaped: an absolute path"),
        (
            "through a link",
            vec![link("a", Symlink, ".."), file("a/escaped", b"x")],
            "a/escaped: a part of its path",
        ),
        (
            "through an absolute link",
            vec![link("a", Symlink, "/tmp"), file("a/escaped", b"")],
            "a/escaped: a part",
        ),
        (
            "deep link",
            vec![dir("a/"), link("a/b", Symlink, "../.."), dir("a/b/escaped/")],
            "a/b/escaped/: a part",
        ),
        ("over a link", vec![link("a", Symlink, "../witness"), file("a", b"x")], "a: appears twice"),
        (
            "directory over a link",
            vec![link("a", Symlink, ".."), dir("a/"), file("a/x", b"")],
            "a/: appears twice",
        ),
        ("link to outside", vec![link("a", Link, "../witness")], "../witness: a path with \"..\" in it"),
        ("link to absolute", vec![link("a", Link, "/etc/passwd")], "/etc/passwd: an absolute path"),
        ("link through a link", vec![link("a", Symlink, ".."), link("b", Link, "a/witness")], "hard link b"),
        ("link to nothing", vec![link("b", Link, "a")], "b: a hard link to a, which does not come before it"),
        ("link to a directory", vec![dir("a/"), link("b", Link, "a")], "b: a hard link to a directory"),
        ("link to the root", vec![link("b", Link, "./")], "b: a hard link to a directory"),
        ("disk", vec![device("disk", Block, 8, 0)], "disk: block device 8:0 is not one"),
        ("memory", vec![device("mem", Char, 1, 1)], "mem: character device 1:1 is not one"),
        ("block null", vec![device("null", Block, 1, 3)], "null: block device 1:3"),
        ("twice", vec![file("a", b"1"), file("a", b"2")], "a: appears twice"),
        ("directory twice", vec![dir("a/"), dir("a/")], "a/: appears twice"),
        ("root twice", vec![dir("./"), dir(".")], ".: appears twice"),
        ("root as a file", vec![file("./", b"")], "./: the root is not a directory"),
        ("no directory", vec![file("a/b", b"")], "a/b: its directory does not come before it"),
        (
            "file as directory",
            vec![file("a", b""), file("a/b", b"")],
            "a/b: a part of its path is not a directory",
        ),
        ("file with a slash", vec![file("a/", b"")], "a/: a directory's name, but no directory"),
        ("empty name", vec![dir("a/"), file("a//b", b"")], "a//b: a path that is not in its simplest form"),
        (
            "data for a link",
            vec![Item { data: b"x".to_vec(), ..link("a", Symlink, "b") }],
            "data for an entry that has none",
        ),
        ("no target", vec![link("a", Symlink, "")], "a link without a target"),
        (
            "sparse",
            vec![item("x", EntryType::XHeader, b"22 GNU.sparse.major=1\n"), file("a", b"")],
            "a sparse file map",
        ),
        (
            "NUL",
            vec![item("x", EntryType::XHeader, b"12 path=a\0b\n"), file("a", b"")],
            "a name with a NUL byte",
        ),
        (
            "record path",
            vec![item("x", EntryType::XHeader, b"16 path=../../x\n"), file("a", b"")],
            "../../x: a path with",
        ),
        ("socket", vec![item("s", EntryType::new(b's'), b"")], "an entry of an unknown type"),
        (
            "too long",
            vec![dir("./"), Item { declared: Some(5000), ..file(&long, b"x") }],
            "rootfs.tar has fewer bytes than",
        ),
    ] {
        refused(name, &rootfs(&entries), reason);
    }
    let whole = ended(tar(&[dir("./"), file("a", b"x")]));
    refused(
        "nested shorter",
        &rootfs_of_bytes(&whole[..whole.len() - 512]),
        "rootfs.tar has fewer bytes than",
    );
    refused(
        "nested longer",
        &rootfs_of_bytes(&[&whole[..], &[0; 512]].concat()),
        "data after the end of rootfs.tar",
    );
    refused("nested empty", &rootfs_of_bytes(b""), "rootfs.tar has fewer bytes than");
    refused("nested garbage", &rootfs_of_bytes(&[b'x'; 2048]), "at the beginning of rootfs.tar");
}

#[test]
fn limits_are_kept() {
    let mut options = UnpackOptions::default();
    options.limits.rootfs_entries = 2;
    refused_with("entries", &rootfs(&[dir("./"), dir("a/"), dir("b/")]), "more than 2 entries", &options);
    options = UnpackOptions::default();
    options.limits.directory_memory = 500;
    refused_with(
        "directories",
        &rootfs(&[dir("a/"), dir("b/"), dir("c/"), dir("d/")]),
        "500 bytes of memory",
        &options,
    );
    options = UnpackOptions::default();
    options.limits.members = 4;
    refused_with("members", &indexed(&members()), "checkpoint/b.img: more than 4 members", &options);
    options = UnpackOptions::default();
    options.limits.total_bytes = 4096;
    refused_with("bytes", &indexed(&members()), "at most 4096 are allowed", &options);
    options = UnpackOptions::default();
    options.limits.small_member = 4;
    refused_with("small", &indexed(&members()), "stats-dump: 5 bytes, at most 4", &options);
    options = UnpackOptions::default();
    options.limits.path_length = 16;
    let deep = rootfs(&[file("a-long-name-in-the-root", b"")]);
    refused_with("paths", &deep, "the path is too long", &options);
    let archive =
        changed(|items| items.insert(4, Item { declared: Some(1 << 43), ..file("checkpoint/c", b"") }));
    let error = unpack(&archive[..], &UnpackOptions::default()).1.expect_err("more than the disk has");
    assert_eq!(error.kind(), ErrorKind::Storage, "{}", error.chain());
    assert!(error.chain().contains("member checkpoint/c"), "{}", error.chain());
}

/// Every cut and every flipped bit of a real archive is noticed; a flip says which member, if it is in one's data.
#[test]
fn damage_is_noticed_wherever_it_is() {
    let source = Source::new();
    fs::create_dir(source.rootfs().join("etc")).expect("mkdir");
    fs::write(source.rootfs().join("etc/passwd"), "root:x:0:0").expect("write");
    for compression in [Compression::None, Compression::Zstd { level: 3 }] {
        let (bytes, _) = source.archive(compression);
        let step = if compression == Compression::None { 97 } else { 7 };
        for length in (0..bytes.len()).step_by(step) {
            let (target, result) = unpack(&bytes[..length], &UnpackOptions::default());
            let Err(error) = result else {
                // Nothing is missing but the table for readers that seek, which stands behind the last frame.
                let whole = zstd::decode_all(&bytes[..length]).is_ok_and(|content| {
                    content == zstd::decode_all(&bytes[..]).expect("it was decoded before")
                });
                assert!(compression != Compression::None && whole, "{length} of {}", bytes.len());
                continue;
            };
            assert_eq!(error.kind(), ErrorKind::InvalidArchive, "{length}: {}", error.chain());
            let told = ["truncated", "empty", "not a checkpoint archive", "fewer bytes"];
            assert!(told.iter().any(|told| error.chain().contains(told)), "{length}: {}", error.chain());
            assert!(target.nothing_escaped());
        }
        for position in (0..bytes.len()).step_by(step) {
            let mut damaged = bytes.clone();
            damaged[position] ^= 1 << (position % 8);
            let (target, result) = unpack(&damaged[..], &UnpackOptions::default());
            assert!(target.nothing_escaped());
            let Err(error) = result else {
                // Some bits of a zstd frame mean nothing: then the content must be the same.
                let content = |bytes: &[u8]| zstd::decode_all(bytes).expect("it was decoded before");
                assert!(
                    compression != Compression::None && content(&bytes) == content(&damaged),
                    "{position}"
                );
                continue;
            };
            let kind = error.kind();
            assert!(
                matches!(kind, ErrorKind::InvalidArchive | ErrorKind::Storage),
                "{position}: {}",
                error.chain()
            );
        }
    }
}

#[test]
fn a_flipped_bit_names_its_member() {
    let items = members();
    let archive = indexed(&items);
    let mut at = 0;
    for item in &items {
        at += 512;
        if !item.data.is_empty() && item.name != b"migrate.json" {
            let mut damaged = archive.clone();
            damaged[at] ^= 0x10;
            let name = std::str::from_utf8(&item.name).expect("text");
            refused(name, &damaged, &format!("member {name} is damaged: SHA-256"));
        }
        at += item.data.len().next_multiple_of(512);
    }
}
