// SPDX-License-Identifier: Apache-2.0
//! Directories and archives made by hand, good ones and hostile ones.

use std::fs;
use std::path::Path;

use super::*;
use crate::ErrorKind;

/// An image with these messages.
fn image(kind: u32, messages: &[&[u8]]) -> Vec<u8> {
    let mut bytes = [0x5456_4319_u32, kind].map(u32::to_le_bytes).concat();
    for message in messages {
        bytes.extend(u32::try_from(message.len()).expect("short").to_le_bytes());
        bytes.extend_from_slice(message);
    }
    bytes
}

const TREE: u32 = 0x5027_3030;
const CORE: u32 = 0x5505_3847;
const IDS: u32 = 0x5443_2030;
const MEMORY: u32 = 0x5749_2820;
const PAGEMAP: u32 = 0x5608_4025;
const DESCRIPTORS: u32 = 0x5621_3732;
const FILES: u32 = 0x5630_3138;

/// A process 1 named `sh` with a descriptor 3 of `/etc/hosts`, and its child 7, a zombie. The arguments of the first are at
/// 0x1ff0, over the end of a page, its environment behind them.
pub(super) fn good() -> Vec<(&'static str, Vec<u8>)> {
    let mut pages = vec![b'?'; 0x3000];
    pages[0x1ff0..0x1ff0 + 24].copy_from_slice(b"/bin/sh\0-c\0sleep \x1b[2J 1\0");
    pages[0x2008..0x2010].copy_from_slice(b"A=b\0C=d\0");
    // arg 0x1ff0..0x2008, env 0x2008..0x2010, one heap area 0..0x3000.
    let memory: &[&[u8]] = &[
        &[64, 0xf0, 0x3f, 72, 0x88, 0x40, 80, 0x88, 0x40, 88, 0x90, 0x40, 96, 9],
        &[0x72, 9, 8, 0, 16, 0x80, 0x60, 40, 3, 56, 0x21],
    ];
    vec![
        ("pstree.img", image(TREE, &[&[8, 1, 24, 1, 32, 1, 40, 1, 40, 2], &[8, 7, 16, 1, 24, 1, 32, 1]])),
        ("core-1.img", image(CORE, &[&[8, 1, 0x1a, 6, 8, 1, 0x32, 2, b's', b'h']])),
        ("core-7.img", image(CORE, &[&[8, 1, 0x1a, 7, 8, 2, 16, 9, 0x32, 1, b'x']])),
        ("ids-1.img", image(IDS, &[&[16, 5]])),
        ("fdinfo-5.img", image(DESCRIPTORS, &[&[8, 9, 16, 1, 32, 3]])),
        (
            "files.img",
            image(FILES, &[&[&[8, 1, 16, 9, 0x1a, 14, 16, 2, 0x32, 10][..], b"/etc/hosts"].concat()]),
        ),
        ("mm-1.img", image(MEMORY, &[&memory.concat()])),
        ("pagemap-1.img", image(PAGEMAP, &[&[8, 3], &[8, 0, 16, 3, 32, 4], &[8, 0x80, 0x60, 16, 2, 32, 1]])),
        ("pages-3.img", pages),
    ]
}

pub(super) fn directory(images: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("temporary directory");
    for (name, bytes) in images {
        fs::write(directory.path().join(name), bytes).expect("write");
    }
    directory
}

/// With one image replaced.
fn changed(name: &str, bytes: Vec<u8>) -> tempfile::TempDir {
    let mut images = good();
    images.retain(|(other, _)| *other != name);
    images.push((Box::leak(name.to_owned().into_boxed_str()), bytes));
    directory(&images)
}

fn look(path: &Path) -> Report {
    inspect(path, &InspectOptions::default()).unwrap_or_else(|e| panic!("{}", e.chain()))
}

#[test]
fn a_directory_of_images() {
    let images = directory(&good());
    let report = look(images.path());
    assert_eq!((report.form, &report.problems[..]), ("images", &[][..]));
    let [first, second] = &report.processes[..] else { panic!("{report:?}") };
    assert_eq!((first.pid, first.parent, &first.name[..], first.threads.len()), (1, 0, "sh", 2));
    assert_eq!(
        first.command_line.as_deref().expect("its memory is here"),
        ["/bin/sh", "-c", "sleep \x1b[2J 1"]
    );
    assert_eq!((second.state, second.exit_status, second.parent), ("zombie", Some(9), 1));
    let open = &first.descriptors[0];
    assert_eq!(
        (open.fd, open.path.as_deref(), &open.flags[..]),
        (3, Some("/etc/hosts"), &["rdwr", "cloexec"][..])
    );
    assert_eq!(first.program.as_deref(), Some("/etc/hosts"));
    let pages = first.memory.as_ref().and_then(|memory| memory.pages).expect("a table");
    assert_eq!((pages.present, pages.in_parent, pages.bytes), (3, 2, 0x3000));
    assert_eq!((report.summary.processes, report.summary.threads, report.summary.descriptors), (2, 3, 1));
    let text = report.text(&[]);
    assert!(text.contains("\n1 sh {2 threads}  /bin/sh -c sleep \\u{1b}[2J 1\n└─ 7 x [zombie]\n"), "{text}");
}

#[test]
fn an_environment_is_told_only_to_who_asks() {
    let images = directory(&good());
    let hidden = serde_json::to_string(&look(images.path())).expect("JSON");
    assert!(!hidden.contains("A=b"), "{hidden}");
    let options = InspectOptions { environment: Environment::Shown, ..InspectOptions::default() };
    let report = inspect(images.path(), &options).expect("good");
    assert_eq!(report.processes[0].environment.as_deref().expect("asked for"), ["A=b", "C=d"]);
    assert!(report.text(&[Section::Environment]).contains("  C=d\n"));
}

/// The same from an archive, also of one in which the pages come first.
#[test]
fn an_archive_whatever_its_order() {
    for reversed in [false, true] {
        let mut images = good();
        images.sort();
        if reversed {
            images.reverse();
        }
        let mut tar = tar_of(&images);
        let path = tempfile::NamedTempFile::new().expect("temporary file");
        fs::write(path.path(), &tar).expect("write");
        let report = look(path.path());
        assert_eq!((report.form, report.problems.len()), ("archive", 0), "{:?}", report.problems);
        assert_eq!(report.processes[0].command_line.as_ref().map(Vec::len), Some(3));
        assert_eq!((report.size.memory_pages, report.size.unpacked), (0x3000, tar.len() as u64));
        tar.truncate(tar.len() - 600);
        fs::write(path.path(), &tar).expect("write");
        let error = inspect(path.path(), &InspectOptions::default()).expect_err("truncated");
        assert_eq!(error.kind(), ErrorKind::InvalidArchive);
    }
}

pub(super) fn tar_of(images: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let members: Vec<_> =
        images.iter().map(|(name, bytes)| (format!("checkpoint/{name}"), bytes.clone())).collect();
    archive_of(&members)
}

/// A tar of these files.
pub(super) fn archive_of(members: &[(impl AsRef<str>, Vec<u8>)]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, bytes) in members {
        let name = name.as_ref().as_bytes();
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name);
        header[100..108].copy_from_slice(b"0000600\0");
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", bytes.len()).as_bytes());
        header[136..148].copy_from_slice(b"00000000000\0");
        header[148..156].fill(b' ');
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar.extend_from_slice(&header);
        tar.extend_from_slice(bytes);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

#[test]
fn every_image_may_be_missing() {
    for (missing, _) in good() {
        let images: Vec<_> = good().into_iter().filter(|(name, _)| *name != missing).collect();
        let images = directory(&images);
        let found = inspect(images.path(), &InspectOptions::default());
        if missing == "pstree.img" {
            assert!(found.expect_err("no images").to_string().contains("has no pstree.img"));
        } else {
            let report = found.unwrap_or_else(|e| panic!("{missing}: {}", e.chain()));
            assert_eq!(report.processes.len(), 2, "{missing}");
            assert!(report.text(&[]).contains("7 "), "{missing}");
        }
    }
}

/// An image that is cut off anywhere, or begins otherwise, is named with the byte; the rest is told.
#[test]
fn every_image_may_be_damaged() {
    for (name, bytes) in good().into_iter().filter(|(name, _)| *name != "pages-3.img") {
        let mut flipped = bytes.clone();
        flipped[5] ^= 0x40;
        let mut huge = bytes.clone();
        huge[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        for damaged in [bytes[..bytes.len() - 1].to_vec(), flipped, huge] {
            let images = changed(name, damaged);
            let report = look(images.path());
            let told = report
                .problems
                .iter()
                .any(|told| told.starts_with(&format!("{name}: ")) && told.contains(" at byte "));
            assert!(told, "{name}: {:?}", report.problems);
            assert!(report.text(&[]).contains("\nnot read:\n"));
        }
    }
}

#[test]
fn a_tree_that_is_none_is_drawn_all_the_same() {
    // 1 and 2 are each other's parents, 3 is its own, 4 is there twice, 5 has a parent that is not there.
    let entries: [&[u8]; 6] =
        [&[8, 1, 16, 2], &[8, 2, 16, 1], &[8, 3, 16, 3], &[8, 4], &[8, 4], &[8, 5, 16, 99]];
    let images = changed("pstree.img", image(TREE, &entries));
    let report = look(images.path());
    assert!(
        report.problems.contains(&"pstree.img: process 4 is there twice".to_owned()),
        "{:?}",
        report.problems
    );
    let text = report.text(&[Section::Tree]);
    let drawn =
        "3 [unknown]\n4 [unknown]\n5 [unknown]\n1 sh  /bin/sh -c sleep \\u{1b}[2J 1\n└─ 2 [unknown]\n";
    assert!(text.starts_with(drawn), "{text}");
    // As deep as it has processes.
    let varint = |n: u32| vec![(n & 0x7f) as u8 | 0x80, (n >> 7 & 0x7f) as u8 | 0x80, (n >> 14) as u8];
    let chain: Vec<Vec<u8>> =
        (1..20_000).map(|pid| [&[8][..], &varint(pid), &[16], &varint(pid - 1)].concat()).collect();
    let chain: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
    let images = changed("pstree.img", image(TREE, &chain));
    let report = look(images.path());
    assert_eq!(report.processes.len(), 19_999);
    assert!(report.text(&[Section::Tree]).lines().all(|line| line.chars().count() < 200));
    assert_eq!(report.problems.len(), 100, "not one for each");
}

#[test]
fn tables_of_pages_lead_nowhere_else() {
    // Pages that the file does not have; a run of 2^63 pages; arguments that end before they begin, or never.
    for table in
        [&[8, 0, 16, 3, 32, 4][..], &[8, 0, 32, 4, 40, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]]
    {
        let images = changed("pages-3.img", vec![0; 100]);
        fs::write(images.path().join("pagemap-1.img"), image(PAGEMAP, &[&[8, 3], table])).expect("write");
        let report = look(images.path());
        assert_eq!(report.processes[0].command_line, None);
        assert!(
            report.problems[0].starts_with("pages-3.img: it is cut off before byte "),
            "{:?}",
            report.problems
        );
    }
    let never = [64, 0, 72, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    for ends in [&never[..], &[64, 0x80, 0x20, 72, 1]] {
        let images = changed("mm-1.img", image(MEMORY, &[ends]));
        look(images.path());
    }
}

#[test]
fn what_is_no_image_directory_or_archive_is_refused() {
    let empty = directory(&[]);
    let error = inspect(empty.path(), &InspectOptions::default()).expect_err("empty");
    assert_eq!(error.kind(), ErrorKind::InvalidArchive);
    let file = empty.path().join("text");
    fs::write(&file, "no archive").expect("write");
    let error = inspect(&file, &InspectOptions::default()).expect_err("text");
    assert!(error.chain().contains("not a checkpoint archive"), "{}", error.chain());
    let images = directory(&good());
    fs::remove_file(images.path().join("files.img")).expect("remove");
    std::os::unix::fs::symlink("/etc/passwd", images.path().join("files.img")).expect("link");
    let report = look(images.path());
    assert!(
        report.problems.iter().any(|told| told.starts_with("files.img: cannot be opened")),
        "{:?}",
        report.problems
    );
}
