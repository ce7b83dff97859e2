// SPDX-License-Identifier: Apache-2.0
//! Archives in the form of Podman, CRI-O and containerd: what a restore needs is unpacked, and those that are cut off,
//! incomplete or made to do harm are refused.

mod archive_support;

use std::fs::{self, File};
use std::os::fd::AsFd;

use migrate::archive::{Opened, UnpackOptions, UnpackedForeign};
use migrate::{ErrorKind, Result};
use tar::{EntryType, Header};

/// A tar of members, as other programs write them: a name, what it is, and its data or where it leads.
fn tar(members: &[(&str, EntryType, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, text) in members {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let data = if *kind == EntryType::Regular { text.as_bytes() } else { b"" };
        header.set_size(data.len() as u64);
        if *kind == EntryType::Symlink || *kind == EntryType::Link {
            header.set_link_name(text).expect("a short target");
        }
        header.set_cksum();
        builder.append(&header, data).expect("memory");
    }
    let mut bytes = builder.into_inner().expect("memory");
    // Other programs fill the last record up.
    bytes.resize(bytes.len().next_multiple_of(10_240), 0);
    bytes
}

const FILE: EntryType = EntryType::Regular;
const DIRECTORY: EntryType = EntryType::Directory;

/// A container with two volumes.
const NAMED: &str =
    r#"{"namedVolumes":[{"volumeName":"v","dest":"/data"},{"volumeName":"left-behind","dest":"/log"}]}"#;

/// The members of a good archive, and others before and after them.
fn with<'a>(more: &[(&'a str, EntryType, &'a str)]) -> Vec<(&'a str, EntryType, &'a str)> {
    let good = [
        ("artifacts/", DIRECTORY, ""),
        ("config.dump", FILE, NAMED),
        ("spec.dump", FILE, "{}"),
        ("checkpoint/", DIRECTORY, ""),
        ("checkpoint/inventory.img", FILE, "inventory"),
    ];
    [&good, more].concat()
}

fn unpacked(bytes: &[u8]) -> (tempfile::TempDir, Result<UnpackedForeign>) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(directory.path().join("private")).expect("mkdir");
    let private = File::open(directory.path().join("private")).expect("open");
    let unpacked = Opened::open(bytes).and_then(|opened| match opened {
        Opened::Foreign(archive) => archive.unpack_into(private.as_fd(), &UnpackOptions::default(), &mut ()),
        Opened::Ours(_) => panic!("it is not ours"),
    });
    (directory, unpacked)
}

#[test]
fn what_a_restore_needs_is_unpacked() {
    let more = [
        ("checkpoint/sub/", DIRECTORY, ""),
        ("checkpoint/sub/a.img", FILE, "a"),
        ("rootfs-diff.tar", FILE, "difference"),
        ("ctr.log", FILE, "log"),
        ("volumes/v.tar", FILE, "volume"),
        ("something/else", EntryType::Symlink, "/etc/passwd"),
        ("deleted.files", FILE, "[]"),
    ];
    let plain = tar(&with(&more));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &plain).expect("memory");
    let gzip = gzip.finish().expect("memory");
    let zstd = zstd::encode_all(&plain[..], 1).expect("memory");
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    std::io::Write::write_all(&mut bzip2, &plain).expect("memory");
    let bzip2 = bzip2.finish().expect("memory");
    let xz = xz(&plain, 1 << 16);
    // With and without a prefix, and with no entries for directories.
    let dotted: Vec<_> = with(&more).into_iter().filter(|(_, kind, _)| *kind == FILE).collect();
    let names: Vec<_> = dotted.iter().map(|(name, ..)| format!("./{name}")).collect();
    let mut dotted: Vec<_> = names.iter().zip(&dotted).map(|(name, m)| (name.as_str(), m.1, m.2)).collect();
    dotted.retain(|(name, ..)| !name.contains("sub"));
    for (form, bytes) in [
        ("plain", plain),
        ("gzip", gzip),
        ("zstd", zstd),
        ("bzip2", bzip2),
        ("xz", xz),
        ("dotted", tar(&dotted)),
    ] {
        let (directory, unpacked) = unpacked(&bytes);
        let unpacked = unpacked.unwrap_or_else(|error| panic!("{form}: {}", error.chain()));
        assert!(unpacked.has_difference && unpacked.has_deletions && !unpacked.has_shared_memory, "{form}");
        let read = |name: &str| fs::read_to_string(directory.path().join("private").join(name));
        assert_eq!(read("rootfs-diff.tar").expect("kept"), "difference", "{form}");
        assert_eq!(read("checkpoint/inventory.img").expect("kept"), "inventory", "{form}");
        assert_eq!(read("volumes/v.tar").expect("kept"), "volume", "{form}");
        let named: Vec<_> = unpacked.volumes.iter().map(|v| (&v.name[..], &v.destination[..])).collect();
        assert_eq!(named, [("v", "/data")], "{form}: those that have content");
        for left_out in ["ctr.log", "something/else"] {
            read(left_out).expect_err(left_out);
        }
    }
}

/// With a dictionary of that size.
fn xz(bytes: &[u8], dictionary: u32) -> Vec<u8> {
    let mut options = lzma_rust2::XzOptions::with_preset(0);
    options.lzma_options.dict_size = dictionary;
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).expect("memory");
    std::io::Write::write_all(&mut xz, bytes).expect("memory");
    xz.finish().expect("memory")
}

#[test]
fn what_takes_too_much_memory_or_is_cut_off_is_refused() {
    let plain = tar(&with(&[]));
    let (_directory, result) = unpacked(&xz(&plain, 256 << 20));
    let error = result.expect_err("a dictionary of 256 MiB");
    assert_eq!(error.kind(), ErrorKind::InvalidArchive, "{}", error.chain());
    let whole = xz(&plain, 1 << 16);
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    std::io::Write::write_all(&mut bzip2, &plain).expect("memory");
    for whole in [whole, bzip2.finish().expect("memory")] {
        for cut in [1, 5, whole.len() / 2] {
            let (_directory, result) = unpacked(&whole[..whole.len() - cut]);
            assert_eq!(result.expect_err("it is cut off").kind(), ErrorKind::InvalidArchive);
        }
    }
}

#[test]
fn what_must_not_be_is_refused() {
    let cases = [
        ("a link for an image", ("checkpoint/x", EntryType::Symlink, "/etc/passwd"), "only regular files"),
        ("a hard link", ("checkpoint/x", EntryType::Link, "spec.dump"), "only regular files"),
        (
            "a link for the difference",
            ("rootfs-diff.tar", EntryType::Symlink, "/dev/zero"),
            "only regular files",
        ),
        ("upwards", ("checkpoint/../../x", FILE, "x"), "simplest form"),
        ("doubled", ("checkpoint//x", FILE, "x"), "simplest form"),
        ("beneath nothing", ("checkpoint/none/x", FILE, "x"), "its directory does not come before it"),
        ("twice", ("spec.dump", FILE, "{}"), "twice"),
        ("a directory", ("deleted.files/", DIRECTORY, ""), "a directory where a file must be"),
        ("a volume upwards", ("volumes/../x.tar", FILE, "x"), "simplest form"),
        ("a volume deeper", ("volumes/a/b.tar", FILE, "x"), "not the name of a volume"),
        ("a volume of no name", ("volumes/.tar", FILE, "x"), "not the name of a volume"),
        ("a link for a volume", ("volumes/v.tar", EntryType::Symlink, "/dev/zero"), "only regular files"),
        ("a directory for a volume", ("volumes/v.tar/", DIRECTORY, ""), "a directory where a file must be"),
        ("our manifest", ("migrate.json", FILE, "{}"), "first member"),
        ("our index", ("migrate.index", FILE, "{}"), "first member"),
    ];
    for (name, member, reason) in cases {
        let (directory, unpacked) = unpacked(&tar(&with(&[member])));
        let error = unpacked.map(|_| ()).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::InvalidArchive, "{name}: {}", error.chain());
        assert!(error.chain().contains(reason), "{name}: {}", error.chain());
        assert_eq!(fs::read_dir(directory.path()).expect("list").count(), 1, "{name}");
    }
    let continued = tar(&with(&[("checkpoint/parent", EntryType::Symlink, "../pre-checkpoint")]));
    let error = unpacked(&continued).1.map(|_| ()).expect_err("the earlier one is not here");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    for needed in ["config.dump", "spec.dump", "checkpoint/inventory.img"] {
        let mut members = with(&[]);
        members.retain(|(name, ..)| *name != needed);
        let error = unpacked(&tar(&members)).1.map(|_| ()).expect_err(needed);
        assert!(error.chain().contains(&format!("it has no member {needed}")), "{}", error.chain());
    }
    let whole = tar(&with(&[]));
    let end_mark = 512 * whole.chunks(512).rposition(|b| b.iter().any(|b| *b != 0)).expect("members") + 512;
    assert!(end_mark > 2048);
    for length in (512..end_mark + 1024).step_by(256) {
        let error = unpacked(&whole[..length]).1.map(|_| ()).expect_err("it is cut off");
        assert_eq!(error.kind(), ErrorKind::InvalidArchive, "{length}: {}", error.chain());
    }
    let error = unpacked(&[&whole[..], b"more"].concat()).1.map(|_| ()).expect_err("more than zeros");
    assert!(error.chain().contains("data after the end"), "{}", error.chain());
}
