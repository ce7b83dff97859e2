// SPDX-License-Identifier: Apache-2.0
//! Archives come back as they were: odd file systems, images, options, streams and files.

mod archive_support;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use archive_support::trees::{generated, is_root, make, odd_tree};
use archive_support::{Source, describe, root_tree_is_equal, unpack};
use migrate::ErrorKind;
use migrate::archive::{
    Archive, ArchiveFile, ArchiveWriter, Compression, OLDEST_SCHEMA, Progress, SCHEMA, SmallMember,
    UnpackOptions, WriteOptions,
};
use proptest::prelude::*;

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
    let expected = "migrate.json\nconfig.dump\nspec.dump\nmigrate.config\ncheckpoint/\ncheckpoint/inventory.img\ncheckpoint/pages-1.img\n\
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
            "migrate.config" => assert_eq!(&bytes[offset..][..size], source.spec()),
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

/// One archive of each schema that there was, as it was written then.
#[test]
fn the_archives_of_all_schemas_open() {
    for schema in OLDEST_SCHEMA..=SCHEMA {
        let path = format!("{}/tests/golden/schema-{schema}.tar.zst", env!("CARGO_MANIFEST_DIR"));
        let (target, unpacked) = unpack(File::open(&path).expect("a golden file"), &UnpackOptions::default());
        let unpacked = unpacked.unwrap_or_else(|error| panic!("{path}: {}", error.chain()));
        assert_eq!((unpacked.manifest.schema, unpacked.manifest.id.as_str()), (schema, "web"));
        let read = |name: &str| fs::read(target.path().join(name)).expect(name);
        assert_eq!(read("config.json"), Source::new().spec(), "{path}");
        assert_eq!((read("checkpoint/sub/core.img"), read("stats-dump")), (b"core".into(), b"stats".into()));
        assert_eq!(fs::read(target.rootfs().join("etc/link")).expect("read"), b"hello\n", "{path}");
    }
}

/// Writes the golden file of this schema, before there is a next one.
#[test]
#[ignore = "it is written once"]
fn a_golden_file_is_written() {
    let source = Source::new();
    fs::create_dir(source.rootfs().join("etc")).expect("mkdir");
    fs::write(source.rootfs().join("etc/motd"), "hello\n").expect("write");
    symlink("motd", source.rootfs().join("etc/link")).expect("symlink");
    let (bytes, _) = source.archive(Compression::Zstd { level: 19 });
    fs::write(format!("tests/golden/schema-{SCHEMA}.tar.zst"), bytes).expect("write");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_back(files in generated(20)) {
        let source = Source::new();
        make(&source.rootfs(), files);
        let (bytes, _) = source.archive(Compression::default());
        let (target, unpacked) = unpack(&bytes[..], &UnpackOptions::default());
        unpacked.expect("it is whole");
        prop_assert_eq!(describe(&source.rootfs()), describe(&target.rootfs()));
    }
}
