// SPDX-License-Identifier: Apache-2.0
//! Trees of files: one that has one of everything, and generated ones.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Gid, Uid, chown};
use proptest::prelude::*;

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A tree with one of everything that this user can make.
pub fn odd_tree(root: &Path) {
    fs::create_dir_all(root.join("etc/deep/er")).expect("mkdir");
    fs::write(root.join("etc/passwd"), "root:x:0:0\n").expect("write");
    fs::write(root.join("etc/empty"), "").expect("write");
    fs::write(root.join("etc/deep/er/block"), vec![7; 512]).expect("write");
    symlink("../usr/nowhere", root.join("etc/dangling")).expect("symlink");
    symlink("x".repeat(300), root.join("etc/long-link")).expect("symlink");
    fs::hard_link(root.join("etc/passwd"), root.join("etc/deep/second")).expect("link");
    fs::hard_link(root.join("etc/passwd"), root.join("third")).expect("link");
    fs::write(root.join(OsString::from_vec(b"not\xffutf8\n".to_vec())), "x").expect("write");
    fs::write(root.join("n".repeat(255)), "long").expect("write");
    let mut deep = root.to_owned();
    for _ in 0..12 {
        deep.push("d".repeat(60));
    }
    fs::create_dir_all(&deep).expect("mkdir");
    fs::write(deep.join("leaf"), "deep").expect("write");
    fs::hard_link(deep.join("leaf"), root.join("leaf")).expect("a link to a long path");
    // As deep as the temporary directory before it leaves room for a path.
    let mut steps = root.join("steps");
    while steps.as_os_str().len() < 3900 {
        steps.push("step".repeat(10));
    }
    fs::create_dir_all(&steps).expect("mkdir");
    symlink("..", steps.join("last")).expect("symlink");
    let sparse = File::create(root.join("sparse")).expect("create");
    sparse.write_all_at(b"end", 8 << 20).expect("write");
    fs::write(root.join("suid"), "s").expect("write");
    fs::set_permissions(root.join("suid"), PermissionsExt::from_mode(0o4751)).expect("chmod");
    fs::create_dir(root.join("tmp")).expect("mkdir");
    fs::set_permissions(root.join("tmp"), PermissionsExt::from_mode(0o1777)).expect("chmod");
    nix::unistd::mkfifo(&root.join("fifo"), Mode::from_bits_truncate(0o620)).expect("mkfifo");
    for (name, value) in [("user.note", &b"va\0lue\n"[..]), ("user.empty", b"")] {
        xattr::set(root.join("etc/passwd"), name, value).expect("the file system has user attributes");
        xattr::set(root.join("tmp"), name, value).expect("the file system has user attributes");
    }
    let old = File::options().write(true).open(root.join("etc/empty")).expect("open");
    let before_1970 = std::time::UNIX_EPOCH - std::time::Duration::new(100, 250);
    old.set_modified(before_1970).expect("utimens");
    let nanoseconds = File::open(root.join("suid")).expect("open");
    let after_2038 = std::time::UNIX_EPOCH + std::time::Duration::new(3_000_000_000, 999_999_999);
    nanoseconds.set_modified(after_2038).expect("utimens");
    if is_root() {
        odd_tree_of_root(root);
    }
    fs::set_permissions(root, PermissionsExt::from_mode(0o555)).expect("chmod");
}

fn odd_tree_of_root(root: &Path) {
    fs::create_dir(root.join("dev")).expect("mkdir");
    let mode = Mode::from_bits_truncate(0o666);
    mknod(&root.join("dev/null"), SFlag::S_IFCHR, mode, makedev(1, 3)).expect("mknod");
    mknod(&root.join("whiteout"), SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)).expect("mknod");
    let ids = (Some(Uid::from_raw(4_000_000_000)), Some(Gid::from_raw(100_000)));
    chown(&root.join("third"), ids.0, ids.1).expect("chown");
    chown(&root.join("suid"), Some(Uid::from_raw(1000)), None).expect("chown");
    fs::set_permissions(root.join("suid"), PermissionsExt::from_mode(0o6755)).expect("chmod");
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    xattr::set(root.join("etc/deep/er/block"), "security.capability", &capability).expect("setcap");
    xattr::set(root.join("tmp"), "trusted.overlay.opaque", b"y").expect("setxattr");
    std::os::unix::fs::lchown(root.join("etc/dangling"), Some(7), Some(8)).expect("lchown");
    mknod(&root.join("dev/zero"), SFlag::S_IFCHR, mode, makedev(1, 5)).expect("mknod");
    xattr::set(root.join("etc/deep"), "system.posix_acl_default", &acl()).expect("setfacl");
    fs::write(root.join("etc/deep/heir"), "has the mode of its directory's list").expect("write");
    xattr::set(root.join("third"), "system.posix_acl_access", &acl()).expect("setfacl");
    fs::set_permissions(root.join("etc"), PermissionsExt::from_mode(0o2755)).expect("chmod");
}

/// An access control list that has a user of its own in it (acl(5), as the kernel's attribute has it).
fn acl() -> Vec<u8> {
    let nobody = u32::MAX;
    let entries =
        [(1_u16, 6_u16, nobody), (2, 4, 1000), (4, 4, nobody), (0x10, 4, nobody), (0x20, 4, nobody)];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(rights.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// What a generated file is, besides its name.
#[derive(Debug, Clone)]
pub enum Made {
    File { content: Vec<u8>, mode: u32, xattr: Option<Vec<u8>> },
    Directory { mode: u32 },
    Symlink(Vec<u8>),
    HardLink,
    Fifo,
}

pub fn made() -> impl Strategy<Value = Made> {
    prop_oneof![
        4 => (content(), 0_u32..=0o7777, proptest::option::of(proptest::collection::vec(any::<u8>(), 0..50)))
            .prop_map(|(content, mode, xattr)| Made::File { content, mode, xattr }),
        3 => (0_u32..=0o7777).prop_map(|mode| Made::Directory { mode }),
        1 => proptest::collection::vec(1_u8..=255, 1..300).prop_map(Made::Symlink),
        2 => Just(Made::HardLink),
        1 => Just(Made::Fifo),
    ]
}

/// Runs of zeros and of something else, at odd lengths.
fn content() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec((any::<bool>(), 0_usize..9000), 0..4).prop_map(|runs| {
        runs.iter().flat_map(|(zero, length)| vec![if *zero { 0 } else { 0xa5 }; *length]).collect()
    })
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec((1_u8..=255).prop_filter("no slash", |b| *b != b'/'), 1..256)
        .prop_filter("not a dot", |name| name != b"." && name != b"..")
}

/// A file, and where it goes: to which of the directories that there are until then.
pub type Placed = (Vec<u8>, Made, prop::sample::Index);

/// Up to so many files.
pub fn generated(most: usize) -> impl Strategy<Value = Vec<Placed>> {
    proptest::collection::vec((name(), made(), any::<prop::sample::Index>()), 0..most)
}

/// Makes them beneath `root`.
pub fn make(root: &Path, files: Vec<Placed>) {
    let mut directories = vec![root.to_owned()];
    let mut regular = Vec::new();
    let mut modes = Vec::new();
    for (name, made, at) in files {
        let path = at.get(&directories).join(OsString::from_vec(name));
        if path.as_os_str().len() > 3500 || fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        match made {
            Made::File { content, mode, xattr } => {
                let mut file = File::create(&path).expect("create");
                file.write_all(&content).expect("write");
                if let Some(value) = xattr {
                    xattr::set(&path, "user.generated", &value).expect("setxattr");
                }
                modes.push((path.clone(), mode));
                regular.push(path);
            }
            Made::Directory { mode } => {
                fs::create_dir(&path).expect("mkdir");
                // A user who is not root must be able to read what is in it.
                modes.push((path.clone(), mode | 0o700));
                directories.push(path);
            }
            Made::Symlink(target) => symlink(std::ffi::OsStr::from_bytes(&target), &path).expect("symlink"),
            Made::HardLink => {
                if !regular.is_empty() {
                    fs::hard_link(at.get(&regular), &path).expect("link");
                }
            }
            Made::Fifo => nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).expect("mkfifo"),
        }
    }
    for (path, mode) in modes {
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("chmod");
    }
}
