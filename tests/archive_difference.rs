// SPDX-License-Identifier: Apache-2.0
//! Root filesystems of which only the difference travels come back as they were, over a copy of their base and over
//! nothing else.

mod archive_support;

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use archive_support::trees::{Placed, generated, is_root, make, odd_tree};
use archive_support::{Source, describe, root_tree_is_equal, unpack};
use migrate::archive::{
    ArchiveWriter, BaseTree, Limits, RootfsForm, UnpackOptions, WriteOptions, copy_tree, lay_over_base,
    member, remove_deleted, verify_base,
};
use migrate::{ErrorKind, Result};
use proptest::prelude::*;

fn open(path: &Path) -> File {
    File::open(path).expect("open")
}

/// A base, and beside it a copy that becomes the root filesystem.
struct Trees {
    directory: tempfile::TempDir,
}

impl Trees {
    fn new(fill: impl FnOnce(&Path)) -> Self {
        let trees = Self { directory: tempfile::tempdir().expect("a temporary directory") };
        for name in ["base", "rootfs"] {
            fs::create_dir(trees.path(name)).expect("mkdir");
        }
        fill(&trees.path("base"));
        trees.copy_base("rootfs");
        trees
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn copy_base(&self, to: &str) {
        let (from, to) = (open(&self.path("base")), open(&self.path(to)));
        copy_tree(from.as_fd(), to.as_fd(), &mut ()).expect("copy");
    }

    /// An archive of the difference.
    fn archive(&self) -> Result<Vec<u8>> {
        let base = BaseTree::read(open(&self.path("base")).as_fd())?;
        let source = Source::new();
        let mut manifest = source.manifest();
        manifest.container.rootfs_form = RootfsForm::Diff;
        manifest.container.base = Some(base.facts());
        let mut writer = ArchiveWriter::new(Vec::new(), &WriteOptions::default(), &manifest)?;
        writer.spec(source.spec())?;
        writer.images(open(&source.images()).as_fd(), &mut ())?;
        writer.rootfs_difference(open(&self.path("rootfs")).as_fd(), &base, &mut ())?;
        writer.finish().map(|(bytes, _)| bytes)
    }

    /// Takes the difference through an archive to another copy of the base. Gives what is in the archive, and what is gone.
    fn travel(&self) -> (Vec<String>, Vec<String>) {
        let archive = self.archive().expect("an archive");
        let (target, unpacked) = unpack(&archive[..], &UnpackOptions::default());
        let facts = unpacked.expect("it is whole").manifest.container.base.expect("it names its base");
        assert!(
            fs::read_dir(target.rootfs()).expect("list").next().is_none(),
            "nothing is laid over nothing"
        );
        let member = |name: &str| open(&target.path().join(name));
        fs::create_dir(self.path("restored")).expect("mkdir");
        self.copy_base("restored");
        let restored = open(&self.path("restored"));
        let marks = fs::read(target.path().join(member::BASE)).expect("read");
        verify_base(restored.as_fd(), &facts.digest, &marks).expect("a copy of the base");
        remove_deleted(member(member::DELETED), restored.as_fd(), &Limits::default()).expect("remove");
        let options = UnpackOptions::default();
        lay_over_base(member(member::ROOTFS_OVER), restored.as_fd(), &options, &mut ()).expect("lay over");
        let mut tar = tar::Archive::new(member(member::ROOTFS_OVER));
        let names = tar.entries().expect("a tar").map(|entry| {
            let entry = entry.expect("an entry");
            String::from_utf8_lossy(&entry.path_bytes()).into_owned()
        });
        let deleted = serde_json::from_reader(member(member::DELETED)).expect("a list");
        (names.collect(), deleted)
    }
}

#[test]
fn what_is_the_same_stays_at_home() {
    let trees = Trees::new(|root| {
        if is_root() {
            odd_tree(root);
        }
    });
    assert_eq!(trees.travel(), (vec![], vec![]));
    root_tree_is_equal(&trees.path("rootfs"), &trees.path("restored"));
}

/// One change of each kind, in a tree with one of everything.
#[test]
fn each_change_comes_back_and_little_else_travels() {
    assert!(is_root(), "this test needs root: devices and foreign owners are part of it");
    let trees = Trees::new(|root| {
        odd_tree(root);
        for directory in ["many/a/b", "to-file", "to-link", "renamed", "listed"] {
            fs::create_dir_all(root.join(directory)).expect("mkdir");
            fs::write(root.join(directory).join("f"), directory).expect("write");
        }
        fs::write(root.join("to-directory"), "").expect("write");
        xattr::set(root.join("listed"), "user.old", b"gone").expect("setxattr");
        fs::write(root.join("to-socket"), "").expect("write");
    });
    let root = trees.path("rootfs");
    let at = |name: &str| root.join(name);
    fs::remove_dir_all(at("many/a")).expect("rmdir");
    for replaced in ["to-file", "to-link"] {
        fs::remove_dir_all(at(replaced)).expect("rmdir");
    }
    fs::write(at("to-file"), "now").expect("write");
    symlink("etc", at("to-link")).expect("symlink");
    fs::remove_file(at("to-directory")).expect("unlink");
    fs::create_dir(at("to-directory")).expect("mkdir");
    fs::write(at("to-directory/.wh.file"), "a name like any other").expect("write");
    fs::rename(at("renamed"), at("new-name")).expect("rename");
    xattr::remove(at("listed"), "user.old").expect("removexattr");
    fs::remove_file(at("to-socket")).expect("unlink");
    let _socket = UnixListener::bind(at("to-socket")).expect("bind");
    // Through its first name, so that its other ones change without a difference of their own.
    let modified = fs::metadata(at("etc/passwd")).expect("stat").modified().expect("a time");
    fs::write(at("etc/passwd"), "toor:x:0:0\n").expect("write");
    open(&at("etc/passwd")).set_modified(modified).expect("utimens");
    fs::remove_file(at("leaf")).expect("unlink");
    fs::set_permissions(at("suid"), PermissionsExt::from_mode(0o755)).expect("chmod");
    fs::write(at("sparse"), "short").expect("write");

    let (names, deleted) = trees.travel();
    root_tree_is_equal(&root, &trees.path("restored"));
    assert_eq!(deleted, ["/leaf", "/many/a", "/renamed", "/to-socket"]);
    for unchanged in ["etc/empty", "fifo", "dev/null", "whiteout", "tmp/", "etc/long-link"] {
        assert!(!names.iter().any(|name| name == unchanged), "{unchanged} is in {names:?}");
    }
    assert!(
        names.iter().any(|name| name == "etc/deep/second"),
        "another name of what has changed: {names:?}"
    );
}

#[test]
fn another_base_is_refused_and_nothing_is_laid_over_it() {
    let trees = Trees::new(|root| fs::write(root.join("a"), "one").expect("write"));
    let base = BaseTree::read(open(&trees.path("base")).as_fd()).expect("read");
    fs::write(trees.path("rootfs").join("a"), "two").expect("write");
    let rootfs = open(&trees.path("rootfs"));
    let error = verify_base(rootfs.as_fd(), base.digest(), base.marks()).expect_err("another file");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("/a is the first file that is another"), "{error}");
}

#[test]
fn a_name_that_no_list_can_hold_is_told() {
    let name = OsString::from_vec(b"gone\xff".to_vec());
    let trees = Trees::new(|root| fs::write(root.join(&name), "").expect("write"));
    fs::remove_file(trees.path("rootfs").join(&name)).expect("unlink");
    let error = trees.archive().expect_err("it cannot be listed");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.chain().contains(r"gone\xff is gone, and its name is not UTF-8"), "{}", error.chain());
}

/// What a container does to a file that is there.
#[derive(Debug, Clone)]
enum Change {
    Remove,
    Write(Vec<u8>),
    Rename,
    Mode(u32),
    Attribute(Option<Vec<u8>>),
    Time(i64, u32),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        Just(Change::Remove),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Change::Write),
        Just(Change::Rename),
        (0_u32..=0o7777).prop_map(Change::Mode),
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)).prop_map(Change::Attribute),
        (-10_000_000_000_i64..10_000_000_000, 0_u32..1_000_000_000).prop_map(|(s, n)| Change::Time(s, n)),
    ]
}

/// Applies a change to one of the files beneath `root`. Renamed and removed names are those of a list.
fn apply(root: &Path, change: Change, at: prop::sample::Index, number: usize) {
    let mut paths: Vec<_> = describe(root).into_keys().filter(|path| !path.as_os_str().is_empty()).collect();
    // `deleted.files` holds no other names.
    paths.retain(|path| path.to_str().is_some() || !matches!(change, Change::Remove | Change::Rename));
    let under_odd = |path: &Path| path.to_str().is_none();
    if paths.is_empty() {
        return;
    }
    let path = root.join(at.get(&paths));
    let found = fs::symlink_metadata(&path).expect("stat");
    match change {
        Change::Remove if found.is_dir() => fs::remove_dir_all(&path).expect("rmdir"),
        Change::Remove => fs::remove_file(&path).expect("unlink"),
        Change::Write(bytes) if found.is_file() => fs::write(&path, bytes).expect("write"),
        Change::Rename if !under_odd(&path) => {
            fs::rename(&path, root.join(format!("renamed {number}"))).expect("rename");
        }
        Change::Mode(mode) if !found.is_symlink() => {
            let mode = if found.is_dir() { mode | 0o700 } else { mode };
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("chmod");
        }
        Change::Attribute(value) if found.is_file() || found.is_dir() => {
            let _ = xattr::remove(&path, "user.generated");
            if let Some(value) = value {
                xattr::set(&path, "user.generated", &value).expect("setxattr");
            }
        }
        Change::Time(seconds, nanoseconds) if found.is_file() || found.is_dir() => {
            let time = nix::sys::time::TimeSpec::new(seconds, nanoseconds.into());
            nix::sys::stat::futimens(open(&path), &time, &time).expect("utimens");
        }
        _ => {}
    }
}

fn added() -> impl Strategy<Value = Vec<Placed>> {
    generated(6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_difference_comes_back(
        files in generated(16),
        changes in proptest::collection::vec((change(), any::<prop::sample::Index>()), 0..10),
        added in added(),
    ) {
        let trees = Trees::new(|root| make(root, files));
        let root = trees.path("rootfs");
        for (number, (change, at)) in changes.into_iter().enumerate() {
            apply(&root, change, at, number);
        }
        make(&root, added);
        trees.travel();
        prop_assert_eq!(describe(&root), describe(&trees.path("restored")));
    }
}
