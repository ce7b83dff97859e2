// SPDX-License-Identifier: Apache-2.0
//! An archive is a row of frames with a table of them at its end: other readers skip the table, ours finds members by it.

mod archive_support;

use std::cell::Cell;
use std::fs;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::rc::Rc;

use archive_support::{Source, unpack};
use migrate::ErrorKind;
use migrate::archive::{Compression, Seekable, UnpackOptions};

/// Bytes without any order.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(step).collect()
}

/// Whether the table of frames is at the end.
fn has_table(archive: &[u8]) -> bool {
    archive.ends_with(b"\xb1\xea\x92\x8f")
}

#[test]
fn any_size_of_a_member_comes_back_by_either_way() {
    let (large, chunk) = (512 << 10, 2 << 20);
    let source = Source::new();
    let content = noise(3 * chunk);
    let mut expected = Vec::new();
    for size in [
        0,
        1,
        large - 1,
        large,
        large + 1,
        chunk - 512,
        chunk - 1,
        chunk,
        chunk + 1,
        2 * chunk,
        3 * chunk - 5,
    ] {
        let name = format!("pages-{size}.img");
        fs::write(source.images().join(&name), &content[..size]).expect("write");
        expected.push((format!("checkpoint/{name}"), size));
    }
    for compression in [Compression::None, Compression::default()] {
        let (bytes, summary) = source.archive(compression);
        assert_eq!(has_table(&bytes), compression != Compression::None);
        assert_eq!(summary.bytes_out, bytes.len() as u64);
        let (_target, unpacked) = unpack(&bytes[..], &UnpackOptions::default());
        assert_eq!(unpacked.expect("each digest is right").bytes, summary.bytes_in);

        let mut archive = Seekable::open(Cursor::new(&bytes)).expect("ours").expect("seekable");
        assert_eq!(archive.members().count() as u64 + 1, summary.members);
        assert_eq!(archive.uncompressed_size(), summary.bytes_in);
        for (name, size) in &expected {
            let member = archive.member(name, u64::MAX).expect("whole").expect("a member");
            assert!(member == content[..*size], "{name} differs");
        }
        assert_eq!(archive.member("migrate.config", 1 << 20).expect("whole").as_deref(), Some(source.spec()));
        assert!(archive.member("spec", 1 << 20).expect("whole").is_none());
        let name = format!("checkpoint/pages-{}.img", 2 * chunk);
        let part =
            archive.piece(&name, chunk as u64 - 7..chunk as u64 + 7).expect("whole").expect("a member");
        assert!(part == content[chunk - 7..chunk + 7]);
        let beyond = archive.piece(&name, 1..2 * chunk as u64 + 1).expect_err("one byte too many");
        assert_eq!(beyond.kind(), ErrorKind::InvalidInput);
        let error = archive.member(&name, 1 << 20).expect_err("it is larger");
        assert!(error.to_string().contains("at most 1048576 are allowed"), "{error}");
    }
}

#[test]
fn the_table_is_nothing_to_who_reads_from_the_beginning() {
    let source = Source::new();
    fs::write(source.images().join("pages-2.img"), noise(5 << 20)).expect("write");
    let (plain, _) = source.archive(Compression::None);
    let (packed, _) = source.archive(Compression::default());
    // The manifest tells how the archive is compressed, and so the index differs, too.
    let names = |tar: &[u8]| {
        let mut tar = tar::Archive::new(tar);
        let entries = tar.entries().expect("a tar");
        entries.map(|e| e.expect("an entry").path().expect("a name").into_owned()).collect::<Vec<_>>()
    };
    let unpacked = zstd::decode_all(&packed[..]).expect("frames, and one to skip");
    assert_eq!(names(&unpacked), names(&plain));
    assert!(packed.len() > 5 << 20 && packed.len() < (5 << 20) + (16 << 10), "{}", packed.len());
}

/// Counts what is read.
struct Counting<R>(R, Rc<Cell<u64>>);

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(to)?;
        self.1.set(self.1.get() + read as u64);
        Ok(read)
    }
}

impl<R: Seek> Seek for Counting<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

#[test]
fn a_member_is_read_without_the_large_ones() {
    let source = Source::new();
    fs::write(source.images().join("pages-2.img"), noise(24 << 20)).expect("write");
    for compression in [Compression::None, Compression::default()] {
        let (bytes, _) = source.archive(compression);
        let read = Rc::new(Cell::new(0));
        let file = Counting(Cursor::new(&bytes), Rc::clone(&read));
        let mut archive = Seekable::open(file).expect("ours").expect("seekable");
        let member = archive.member("checkpoint/inventory.img", 100).expect("whole");
        assert_eq!(member.as_deref(), Some(&b"inventory"[..]));
        archive.piece("checkpoint/pages-2.img", 9 << 20..(9 << 20) + 4096).expect("whole");
        assert!(read.get() < 3 << 20, "{} of {} bytes", read.get(), bytes.len());
    }
}

#[test]
fn what_is_damaged_is_told_or_left_to_who_reads_from_the_beginning() {
    let source = Source::without_rootfs();
    for compression in [Compression::None, Compression::default()] {
        let (good, _) = source.archive(compression);
        let members = |bytes: &[u8]| {
            let Some(mut archive) = Seekable::open(Cursor::new(bytes))? else { return Ok(None) };
            let names: Vec<String> = archive.members().map(|(name, _)| name.to_owned()).collect();
            let read = names.iter().map(|name| archive.member(name, 1 << 20));
            read.collect::<migrate::Result<Vec<_>>>().map(Some)
        };
        let expected = members(&good).expect("good").expect("seekable");
        let (mut told, mut left) = (0, 0);
        // Nearly all of a plain one are pages and padding, as any others.
        let step = if compression == Compression::None { 97 } else { 1 };
        for position in (0..good.len()).step_by(step) {
            let mut bytes = good.clone();
            bytes[position] ^= 0x10;
            match members(&bytes) {
                Ok(None) => left += 1,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::InvalidArchive, "{position}: {}", error.chain());
                    told += 1;
                }
                // Headers of the members, padding, and names and totals in the index are not looked at.
                Ok(Some(found)) => {
                    assert!(found.iter().zip(&expected).all(|(a, b)| a.is_none() || a == b), "{position}");
                }
            }
        }
        assert!(told > 9 && (left > 9 || step > 1), "{told} told, {left} left");
        for length in (0..good.len()).step_by(step) {
            assert!(members(&good[..length]).is_ok_and(|found| found.is_none()), "{length}");
        }
    }
}

#[test]
fn what_other_programs_write_is_read_from_the_beginning() {
    let (plain, _) = Source::new().archive(Compression::None);
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(3);
    tar.append_data(&mut header, "config.dump", &b"abc"[..]).expect("memory");
    let foreign = tar.into_inner().expect("memory");
    for bytes in [&zstd::encode_all(&plain[..], 1).expect("memory"), &foreign, &b"text".to_vec(), &Vec::new()]
    {
        assert!(Seekable::open(Cursor::new(bytes)).expect("nothing is wrong").is_none());
    }
}
