// SPDX-License-Identifier: Apache-2.0
//! Images whose size is known only at their end: the archive is like any other, for every reader, and half of it can be
//! completed by whoever comes after a writer that was killed.

mod archive_support;

use std::fs::{self, File};
use std::io::Cursor;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};

use archive_support::{Source, unpack};
use migrate::ErrorKind;
use migrate::archive::{
    ArchiveFile, ArchiveWriter, Compression, Ending, Seekable, SmallMember, UnpackOptions, WriteOptions,
};

const LARGE: usize = 512 << 10;

/// Names and contents of the images, small and large, empty and not of whole blocks.
fn images() -> Vec<(String, Vec<u8>)> {
    let sizes = [0, 4096, LARGE - 1, LARGE, LARGE + 4096, (2 << 20) + 511];
    let image = |(i, size): (usize, &usize)| {
        (format!("pages-{}.img", i + 10), (0..*size).map(|at| (at / 97 + i) as u8).collect())
    };
    sizes.iter().enumerate().map(image).collect()
}

/// Everything that is written while a container is held.
fn held(source: &Source, target: &std::path::Path, compression: Compression) -> ArchiveWriter<ArchiveFile> {
    let file = ArchiveFile::create(target).expect("create");
    let mut writer = source.begin_without_images(file, compression);
    for (name, content) in images() {
        writer.begin_image(&name).expect("begin");
        // In pieces, as they come.
        for piece in content.chunks(300_000) {
            writer.image_data(&mut &piece[..], piece.len() as u64, &mut ()).expect("data");
        }
        writer.end_image().expect("end");
    }
    let directory = |path| File::open(path).expect("open");
    writer.images(directory(source.images()).as_fd(), &mut ()).expect("images");
    writer.rootfs(directory(source.rootfs()).as_fd(), &mut ()).expect("rootfs");
    writer.reserve(1 << 20).expect("room");
    writer
}

fn is_whole(bytes: &[u8]) {
    let (target, unpacked) = unpack(bytes, &UnpackOptions::default());
    unpacked.expect("each digest is right");
    for (name, content) in images() {
        let found = fs::read(target.path().join("checkpoint").join(&name)).expect("read");
        assert!(found == content, "{name} differs");
    }
    assert_eq!(fs::read(target.path().join("checkpoint/inventory.img")).expect("read"), b"inventory");
    let mut archive = Seekable::open(Cursor::new(bytes)).expect("ours").expect("seekable");
    for (name, content) in images() {
        let mut copy = Vec::new();
        archive.copy(&format!("checkpoint/{name}"), &mut copy).expect("whole");
        assert!(copy == content, "{name} differs");
    }
    assert_eq!(archive.copy("other", &mut Vec::new()).expect_err("none").kind(), ErrorKind::InvalidInput);
}

#[test]
fn they_are_read_like_others_by_us_and_by_tar_and_zstd() {
    let source = Source::new();
    let directory = tempfile::tempdir().expect("tempdir");
    for (name, compression) in [("a.tar", Compression::None), ("a.tar.zst", Compression::default())] {
        let target = directory.path().join(name);
        let mut writer = held(&source, &target, compression);
        writer.bytes(SmallMember::Stats, b"statistics").expect("stats");
        let (file, summary) = writer.finish().expect("finish");
        file.commit().expect("commit");
        let bytes = fs::read(&target).expect("read");
        assert_eq!(summary.bytes_out, bytes.len() as u64);
        is_whole(&bytes);

        let listed = if name.ends_with("zst") {
            let mut zstd = Command::new("zstd");
            let zstd = zstd.args(["--decompress", "--stdout"]).arg(&target);
            let mut zstd = zstd.stdout(Stdio::piped()).spawn().expect("zstd");
            let tar = zstd.stdout.take().expect("a pipe");
            let listed = Command::new("tar").args(["--list", "--verbose"]).stdin(tar).output();
            assert!(zstd.wait().expect("zstd").success());
            listed
        } else {
            Command::new("tar").args(["--list", "--verbose", "--file"]).arg(&target).output()
        };
        let listed = listed.expect("tar");
        assert!(listed.status.success() && listed.stderr.is_empty(), "{listed:?}");
        let text = String::from_utf8(listed.stdout).expect("text");
        for (name, content) in images() {
            let line = text.lines().find(|line| line.ends_with(&format!("checkpoint/{name}")));
            let line = line.unwrap_or_else(|| panic!("{name} is missing: {text}"));
            assert!(line.split_whitespace().any(|word| word == content.len().to_string()), "{line}");
        }
    }
}

#[test]
fn half_an_archive_is_completed_by_its_ending() {
    let source = Source::new();
    let directory = tempfile::tempdir().expect("tempdir");
    for compression in [Compression::None, Compression::default()] {
        let mut writer = held(&source, &directory.path().join("never"), compression);
        let Ending { position, bytes: ending, .. } = writer.keep().expect("what it takes");
        // What comes after that may be there or not.
        writer.bytes(SmallMember::Stats, &vec![7; 3 << 20]).expect("stats");
        drop(writer);
        let mut left =
            fs::read_dir(directory.path()).expect("list").map(|entry| entry.expect("an entry").path());
        let partial = left.next().expect("it stays");
        assert!(left.next().is_none() && partial.extension().is_some_and(|e| e == "partial"));
        let mut bytes = fs::read(&partial).expect("read");
        bytes.truncate(position as usize);
        bytes.extend(ending);
        is_whole(&bytes);
        fs::remove_file(&partial).expect("remove");
    }
}

#[test]
fn an_image_without_an_end_makes_no_archive() {
    let source = Source::without_rootfs();
    let directory = tempfile::tempdir().expect("tempdir");
    let file = ArchiveFile::create(&directory.path().join("a")).expect("create");
    let manifest = source.manifest();
    let mut writer = ArchiveWriter::new(file, &WriteOptions::default(), &manifest).expect("begin");
    assert_eq!(writer.begin_image("a").expect_err("too early").kind(), ErrorKind::InvalidInput);
    let mut writer = source.begin_without_images(Vec::new(), Compression::default());
    writer.image_data(&mut &b"abc"[..], 3, &mut ()).expect_err("there is no image");
    writer.begin_image("a").expect("begin");
    let content = vec![7; 1 << 20];
    let error = writer.image_data(&mut &content[..], (1 << 20) + 1, &mut ()).expect_err("cut short");
    assert!(error.chain().contains("read a member's data"), "{}", error.chain());
    writer.finish().map(drop).expect_err("it has no end");
    // A stream is written once: no size can come later.
    let mut writer = source.begin_without_images(Vec::new(), Compression::default());
    writer.begin_image("a").expect("begin");
    writer.image_data(&mut &content[..], 1 << 20, &mut ()).expect("data");
    writer.end_image().expect("end");
    assert_eq!(writer.finish().map(drop).expect_err("no size").kind(), ErrorKind::InvalidInput);
}
