// SPDX-License-Identifier: Apache-2.0
//! Archives come back as they were: odd file systems, images, options, streams and files.

mod archive_support;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use archive_support::{Source, describe, root_tree_is_equal, unpack};
use migrate::ErrorKind;
use migrate::archive::{
    Archive, ArchiveFile, ArchiveWriter, Compression, Progress, SmallMember, UnpackOptions, WriteOptions,
};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Gid, Uid, chown};
use proptest::prelude::*;

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A tree with one of everything that this user can make.
fn odd_tree(root: &Path) {
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
}

#[test]
fn an_odd_root_filesystem_comes_back() {
    assert!(is_root(), "this test needs root: devices and foreign owners are part of it");
    for compression in [Compression::None, Compression::Zstd { level: 1 }, Compression::Zstd { level: 19 }] {
        let source = Source::new();
        odd_tree(&source.rootfs());
        let _socket = UnixListener::bind(source.rootfs().join("socket")).expect("bind");
        let (bytes, summary) = source.archive(compression);
        let rootfs = summary.rootfs.expect("it was written");
        assert_eq!((rootfs.skipped_sockets, rootfs.mount_points), (1, 0));
        assert_eq!(summary.bytes_out, bytes.len() as u64);
        let (target, unpacked) = unpack(&bytes[..], &UnpackOptions::default());
        let unpacked = unpacked.expect("it is whole");
        assert_eq!(unpacked.rootfs.expect("it was asked for").entries, rootfs.entries);
        assert_eq!((unpacked.bytes, unpacked.members), (summary.bytes_in, summary.members));
        root_tree_is_equal(&source.rootfs(), &target.rootfs());
        let blocks = fs::metadata(target.rootfs().join("sparse")).expect("stat").blocks();
        assert!(blocks <= 64, "a sparse file has {blocks} blocks");
        assert_eq!(fs::read(target.path().join("config.json")).expect("read"), source.spec());
        for image in ["inventory.img", "pages-1.img", "sub/core.img"] {
            let (before, after) = (source.images().join(image), target.path().join("checkpoint").join(image));
            assert_eq!(fs::read(before).expect("read"), fs::read(&after).expect("read"), "{image}");
            assert_eq!(fs::metadata(after).expect("stat").mode() & 0o7777, 0o600);
        }
        assert!(!target.path().join("checkpoint/dump.log").exists(), "a log is not an image");
        assert_eq!(fs::read(target.path().join("stats-dump")).expect("read"), b"stats");
        assert_eq!(fs::read(target.path().join("dump.log")).expect("read"), b"log");
        assert_eq!(
            unpacked.manifest.compression,
            if compression == Compression::None { "none" } else { "zstd" }
        );
    }
}

#[test]
fn other_tars_read_our_archives() {
    let source = Source::new();
    odd_tree(&source.rootfs());
    let (bytes, _) = source.archive(Compression::None);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("a.tar");
    fs::write(&file, bytes).expect("write");
    let tar = |arguments: &[&str]| {
        let output = std::process::Command::new("tar").args(arguments).output().expect("tar is installed");
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("names")
    };
    let path = |name: &str| directory.path().join(name).to_str().expect("a name").to_owned();
    let names = tar(&["tf", &path("a.tar")]);
    let expected = "migrate.json\nspec.dump\ncheckpoint/\ncheckpoint/inventory.img\ncheckpoint/pages-1.img\n\
                    checkpoint/sub/\ncheckpoint/sub/core.img\nrootfs.tar\nstats-dump\ndump.log\nmigrate.index\n";
    assert_eq!(names, expected);
    tar(&["xf", &path("a.tar"), "-C", &path(".")]);
    fs::create_dir(path("root")).expect("mkdir");
    let options =
        ["--warning=no-timestamp", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-p", "--same-owner"];
    tar(&[&["xf", &path("rootfs.tar"), "-C", &path("root")][..], &options].concat());
    root_tree_is_equal(&source.rootfs(), Path::new(&path("root")));
}

#[test]
fn the_index_tells_where_members_are() {
    let source = Source::new();
    fs::write(source.rootfs().join("file"), "content").expect("write");
    let (bytes, _) = source.archive(Compression::None);
    let start = bytes.windows(10).rposition(|w| w == b"{\"schema\":").expect("an index");
    let end = start + bytes[start..].iter().position(|b| *b == 0).expect("padding");
    let index: serde_json::Value = serde_json::from_slice(&bytes[start..end]).expect("JSON");
    let members = index["members"].as_array().expect("a list");
    assert_eq!(index["total"]["members"], members.len());
    for member in members {
        let number = |key: &str| member[key].as_u64().expect("a number") as usize;
        let (offset, size) = (number("offset"), number("size"));
        let name = member["name"].as_str().expect("a name");
        assert!(bytes[..offset][offset - 512..].starts_with(name.as_bytes()), "{name}");
        match name {
            "spec.dump" => assert_eq!(&bytes[offset..][..size], source.spec()),
            "stats-dump" => assert_eq!(&bytes[offset..][..size], b"stats"),
            _ => {}
        }
    }
}

#[test]
fn the_root_filesystem_can_be_left_out_or_left_alone() {
    let source = Source::without_rootfs();
    let (bytes, summary) = source.archive(Compression::default());
    assert_eq!(summary.rootfs, None);
    let (_target, unpacked) = unpack(&bytes[..], &UnpackOptions::default());
    assert_eq!(unpacked.expect("it is whole").rootfs, None);

    let source = Source::new();
    fs::write(source.rootfs().join("file"), "content").expect("write");
    let (bytes, _) = source.archive(Compression::default());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let fd = File::open(directory.path()).expect("open");
    let archive = Archive::open(&bytes[..]).expect("a manifest");
    let unpacked = archive.unpack_into(fd.as_fd(), None, &UnpackOptions::default(), &mut ()).expect("whole");
    assert_eq!(unpacked.rootfs, None);
    assert!(directory.path().join("checkpoint/pages-1.img").exists());
}

#[test]
fn mount_points_are_empty() {
    assert!(is_root(), "this test needs root: it mounts");
    let source = Source::new();
    let root = source.rootfs();
    fs::create_dir_all(root.join("proc")).expect("mkdir");
    fs::create_dir_all(root.join("bound")).expect("mkdir");
    fs::create_dir_all(root.join("inside")).expect("mkdir");
    fs::write(root.join("inside/secret"), "not ours").expect("write");
    fs::write(root.join("file"), "").expect("write");
    let (bytes, summary) = archive_support::in_private_mounts(|| {
        let bind = |from: &Path, to: &str| {
            let none: Option<&str> = None;
            let flags = nix::mount::MsFlags::MS_BIND;
            nix::mount::mount(Some(from), &root.join(to), none, flags, none).expect("bind mount");
        };
        bind(Path::new("/proc"), "proc");
        bind(&root.join("inside"), "bound");
        bind(Path::new("/etc/passwd"), "file");
        source.archive(Compression::default())
    });
    assert_eq!(summary.rootfs.expect("written").mount_points, 3);
    let (target, unpacked) = unpack(&bytes[..], &UnpackOptions::default());
    unpacked.expect("it is whole");
    let rootfs = target.rootfs();
    assert_eq!(fs::read_dir(rootfs.join("proc")).expect("list").count(), 0);
    assert_eq!(fs::read_dir(rootfs.join("bound")).expect("list").count(), 0);
    assert_eq!(fs::read(rootfs.join("file")).expect("read"), b"");
    assert_eq!(fs::read(rootfs.join("inside/secret")).expect("read"), b"not ours");
}

#[test]
fn foreign_labels_are_ignored_and_reported() {
    assert!(is_root(), "this test needs root: trusted attributes");
    let source = Source::new();
    fs::write(source.rootfs().join("file"), "x").expect("write");
    xattr::set(source.rootfs().join("file"), "trusted.label", b"theirs").expect("setxattr");
    let (bytes, _) = source.archive(Compression::default());
    let (target, unpacked) = unpack(&bytes[..], &UnpackOptions::default());
    assert_eq!(unpacked.expect("whole").rootfs.expect("there").ignored_xattrs, ["trusted.label"]);
    assert_eq!(xattr::get(target.rootfs().join("file"), "trusted.label").expect("getxattr"), None);
}

#[test]
fn a_file_that_changes_meanwhile_is_named() {
    struct Meddler<'a>(&'a Path, bool);
    impl Progress for Meddler<'_> {
        fn total(&mut self, _: u64) {}
        fn advance(&mut self, _: u64) {
            if !std::mem::replace(&mut self.1, true) {
                fs::write(self.0.join("z-late"), "something longer").expect("write");
            }
        }
    }
    let source = Source::new();
    fs::write(source.rootfs().join("a-first"), "x").expect("write");
    fs::write(source.rootfs().join("z-late"), "short").expect("write");
    let mut writer = source.begin(Vec::new(), Compression::default());
    let root = File::open(source.rootfs()).expect("open");
    let path = source.rootfs();
    let error = writer.rootfs(root.as_fd(), &mut Meddler(&path, false)).expect_err("it changed");
    assert!(error.chain().contains("z-late"), "{}", error.chain());
    assert!(error.hint().expect("a remedy").contains("frozen"));
    let error = writer.bytes(SmallMember::Stats, b"x").expect_err("the archive is broken");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn members_are_written_in_order_or_not_at_all() {
    let source = Source::new();
    let mut writer =
        ArchiveWriter::new(Vec::new(), &WriteOptions::default(), &source.manifest()).expect("begin");
    let images = File::open(source.images()).expect("open");
    assert!(writer.images(images.as_fd(), &mut ()).is_err(), "the configuration comes first");
    writer.spec(b"{}").expect("it is next");
    assert!(writer.spec(b"{}").is_err(), "once only");
    writer.images(images.as_fd(), &mut ()).expect("it is next");
    writer.bytes(SmallMember::DumpLog, b"").expect("members may be left out");
    assert!(writer.bytes(SmallMember::Stats, b"").is_err(), "too late");
    assert!(writer.finish().is_err(), "the manifest promises a root filesystem");
    let mut options = WriteOptions::default();
    options.compression = Compression::Zstd { level: 20 };
    assert!(ArchiveWriter::new(Vec::new(), &options, &source.manifest()).is_err());
}

#[test]
fn images_are_files_and_directories() {
    let source = Source::new();
    symlink("../before", source.images().join("parent")).expect("symlink");
    let mut writer =
        ArchiveWriter::new(Vec::new(), &WriteOptions::default(), &source.manifest()).expect("begin");
    writer.spec(b"{}").expect("it is next");
    let images = File::open(source.images()).expect("open");
    let error = writer.images(images.as_fd(), &mut ()).expect_err("a link");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("parent"), "{error}");
}

#[test]
fn a_full_disk_leaves_nothing() {
    assert!(is_root(), "this test needs root: it mounts");
    let source = Source::new();
    let noise: Vec<u8> = (0_u32..1 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(source.rootfs().join("large"), [noise.clone(), noise].concat()).expect("write");
    let small = tempfile::tempdir().expect("a temporary directory");
    let (whole, _) = source.archive(Compression::None);
    archive_support::in_private_mounts(|| {
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("none"), small.path(), Some("tmpfs"), flags, Some("size=1m")).expect("tmpfs");
        let file = ArchiveFile::create(&small.path().join("a.tar")).expect("create");
        assert_eq!(file.reserve(64 << 20).expect_err("no room").kind(), ErrorKind::Storage);
        let mut writer = source.begin(file, Compression::None);
        writer.reserve(4096).expect("a little room");
        let root = File::open(source.rootfs()).expect("open");
        let error = writer.rootfs(root.as_fd(), &mut ()).expect_err("no room");
        assert_eq!(error.kind(), ErrorKind::Storage, "{}", error.chain());
        drop(writer);
        assert_eq!(fs::read_dir(small.path()).expect("list").count(), 0);

        let fd = File::open(small.path()).expect("open");
        fs::create_dir(small.path().join("rootfs")).expect("mkdir");
        let rootfs = File::open(small.path().join("rootfs")).expect("open");
        let archive = Archive::open(&whole[..]).expect("a manifest");
        let error = archive
            .unpack_into(fd.as_fd(), Some(rootfs.as_fd()), &UnpackOptions::default(), &mut ())
            .expect_err("no room");
        assert_eq!(error.kind(), ErrorKind::Storage, "{}", error.chain());

        let read_only = nix::mount::MsFlags::MS_REMOUNT | nix::mount::MsFlags::MS_RDONLY;
        drop((fd, rootfs));
        nix::mount::mount(Some("none"), small.path(), Some("tmpfs"), read_only, Some("size=1m"))
            .expect("remount");
        let error = ArchiveFile::create(&small.path().join("b.tar")).expect_err("read-only");
        assert_eq!(error.kind(), ErrorKind::Storage, "{}", error.chain());
    });
}

#[test]
fn a_file_archive_is_reserved_and_committed() {
    let source = Source::new();
    fs::write(source.rootfs().join("file"), "content").expect("write");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let target = directory.path().join("web.tar.zst");
    let mut writer = source.begin(ArchiveFile::create(&target).expect("create"), Compression::default());
    let root = File::open(source.rootfs()).expect("open");
    writer.rootfs(root.as_fd(), &mut ()).expect("written");
    writer.reserve(1 << 20).expect("room");
    writer.bytes(SmallMember::Stats, b"stats").expect("written");
    let (file, summary) = writer.finish().expect("whole");
    assert!(!target.exists(), "not before the commit");
    file.commit().expect("commit");
    assert_eq!(fs::metadata(&target).expect("stat").len(), summary.bytes_out);
    assert_eq!(fs::metadata(&target).expect("stat").mode() & 0o7777, 0o600);
    let (_target, unpacked) = unpack(File::open(&target).expect("open"), &UnpackOptions::default());
    let unpacked = unpacked.expect("whole");
    assert!(unpacked.has_stats && !unpacked.has_dump_log);
}

/// What a generated file is, besides its name.
#[derive(Debug, Clone)]
enum Made {
    File { content: Vec<u8>, mode: u32, xattr: Option<Vec<u8>> },
    Directory { mode: u32 },
    Symlink(Vec<u8>),
    HardLink,
    Fifo,
}

fn made() -> impl Strategy<Value = Made> {
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_back(files in proptest::collection::vec((name(), made(), any::<prop::sample::Index>()), 0..20)) {
        let source = Source::new();
        let mut directories = vec![source.rootfs()];
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
        let (bytes, _) = source.archive(Compression::default());
        let (target, unpacked) = unpack(&bytes[..], &UnpackOptions::default());
        unpacked.expect("it is whole");
        prop_assert_eq!(describe(&source.rootfs()), describe(&target.rootfs()));
    }
}
