// SPDX-License-Identifier: Apache-2.0
//! Packed archives: equal pages once, nothing of what an earlier archive has; the archive that is packed comes back byte for byte; and
//! whatever is wrong with one of a chain is refused before anything is used.

mod archive_support;

use std::fs::{self, File};
use std::io::{Cursor, Read};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use archive_support::{Source, Target, describe, unpack};
use migrate::ErrorKind;
use migrate::archive::{
    Archive, ArchiveFile, ArchiveWriter, Bases, Completes, Compression, Identities, Layout, Manifest,
    PackedBase, PackedStream, Packer, SmallMember, UnpackOptions, WriteOptions, convert, packed_stream,
};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const PAGE: usize = 4096;

/// Pages without any order, each its own.
fn noise(pages: usize, mut seed: u64) -> Vec<u8> {
    let step = |_| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 32) as u8
    };
    (0..pages * PAGE).map(step).collect()
}

fn base(path: &Path) -> PackedBase {
    PackedBase::read(path, &[], &Identities::default()).expect("a good base")
}

/// Writes what `source` holds as a packed archive.
fn pack(source: &Source, to: &Path, base: Option<PackedBase>) {
    let file = ArchiveFile::create(to).expect("create");
    let mut options = WriteOptions::default();
    let packer = Packer::new(file, &options, &source.manifest(), base).expect("begin");
    options.compression = Compression::None;
    let mut writer = ArchiveWriter::new(packer, &options, &source.manifest()).expect("begin");
    writer.spec(source.spec()).expect("write");
    let (images, root) =
        (File::open(source.images()).expect("open"), File::open(source.rootfs()).expect("open"));
    writer.images(images.as_fd(), &mut ()).expect("write");
    writer.rootfs(root.as_fd(), &mut ()).expect("write");
    writer.bytes(SmallMember::Stats, b"stats").expect("write");
    let (packer, _) = writer.finish().expect("whole");
    let size = Box::new(packer).complete().expect("complete").expect("it counts");
    assert_eq!(fs::metadata(to).expect("stat").len(), size);
}

fn stream(path: &Path, bases: &[PathBuf]) -> migrate::Result<PackedStream> {
    let bases = Bases::new(bases.to_vec(), Identities::default());
    let file = File::open(path).expect("open");
    packed_stream(file, &Identities::default(), bases).map(|stream| stream.expect("it is packed"))
}

fn unpack_packed(path: &Path, bases: &[PathBuf]) -> (Target, migrate::Result<()>) {
    let (target, unpacked) = unpack(stream(path, bases).expect("a recipe"), &UnpackOptions::default());
    (target, unpacked.map(drop))
}

/// A container with memory and files, and where its archives go.
fn container() -> (Source, TempDir) {
    let source = Source::new();
    let memory =
        [noise(700, 1), vec![0; 300 * PAGE], vec![7; 200 * PAGE], noise(100, 2), noise(700, 1)].concat();
    fs::write(source.images().join("pages-7.img"), memory).expect("write");
    fs::write(source.rootfs().join("large"), [&noise(30, 3)[..], b"tail"].concat()).expect("write");
    fs::write(source.rootfs().join("copy"), [&noise(30, 3)[..], b"tail"].concat()).expect("write");
    fs::write(source.rootfs().join("text"), "text").expect("write");
    (source, tempfile::tempdir().expect("a temporary directory"))
}

/// Changes one page of memory and one file.
fn change(source: &Source, seed: u64) {
    let path = source.images().join("pages-7.img");
    let mut memory = fs::read(&path).expect("read");
    let at = 41 * PAGE * seed as usize;
    memory[at..at + PAGE].copy_from_slice(&noise(1, 1000 + seed));
    fs::write(path, memory).expect("write");
    fs::write(source.rootfs().join("text"), format!("text {seed}")).expect("write");
}

fn same(source: &Source, target: &Target) {
    let memory = |directory: PathBuf| fs::read(directory.join("pages-7.img")).expect("read");
    assert!(memory(target.path().join("checkpoint")) == memory(source.images()));
    assert_eq!(describe(&target.rootfs()), describe(&source.rootfs()));
}

#[test]
fn equal_pages_are_there_once_and_all_comes_back() {
    let (source, directory) = container();
    let packed = directory.path().join("packed");
    pack(&source, &packed, None);
    let size = fs::metadata(&packed).expect("stat").len() as usize;
    assert!(size < (830 + 30) * PAGE && size > 830 * PAGE, "{size} bytes");
    let (target, unpacked) = unpack_packed(&packed, &[]);
    unpacked.expect("each digest is right");
    same(&source, &target);
    // What is packed is an archive like any other.
    let mut whole = Vec::new();
    stream(&packed, &[]).expect("a recipe").read_to_end(&mut whole).expect("whole");
    let (target, unpacked) = unpack(&whole[..], &UnpackOptions::default());
    assert_eq!(unpacked.expect("whole").bytes, whole.len() as u64);
    same(&source, &target);
}

#[test]
fn what_cannot_read_it_says_so() {
    let (source, directory) = container();
    let packed = directory.path().join("packed");
    pack(&source, &packed, None);
    let bytes = fs::read(&packed).expect("read");
    let error = Archive::open(&bytes[..]).expect_err("a stream");
    assert_eq!(error.kind(), ErrorKind::InvalidArchive);
    assert!(error.to_string().contains("cannot be read from its beginning"), "{error}");
    let manifest = zstd::decode_all(&bytes[..]).expect("a tar");
    let text = String::from_utf8_lossy(&manifest[..1024]).into_owned();
    assert!(text.contains("\"schema\": 4") && text.contains("\"layout\": \"packed\""), "{text}");
    // Full archives are not packed.
    let (full, _) = source.archive(Compression::default());
    assert!(PackedStream::open(Cursor::new(&full), Bases::default()).expect("it can be read").is_none());
    for noise in [&b""[..], b"text", &[0; 2000]] {
        assert!(PackedStream::open(Cursor::new(noise), Bases::default()).expect("it can be read").is_none());
    }
}

/// Three archives, each of which goes on from the one before.
fn chain() -> (Source, TempDir, [PathBuf; 3]) {
    let (source, directory) = container();
    let paths = ["one", "two", "three"].map(|name| directory.path().join(name));
    pack(&source, &paths[0], None);
    change(&source, 1);
    pack(&source, &paths[1], Some(base(&paths[0])));
    change(&source, 2);
    pack(&source, &paths[2], Some(base(&paths[1])));
    (source, directory, paths)
}

#[test]
fn a_chain_has_only_what_has_changed() {
    let (source, directory, paths) = chain();
    let [one, _, three] = paths.each_ref().map(|path| fs::metadata(path).expect("stat").len());
    // Of each only what is new: some pages, and the small members.
    assert!(three < 8 * PAGE as u64 && three * 100 < one * 3, "{one} {three}");
    let (target, unpacked) = unpack_packed(&paths[2], &[directory.path().to_owned()]);
    unpacked.expect("each digest is right");
    same(&source, &target);
    // By their files, however they are called.
    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    let moved = ["a", "b"].map(|name| elsewhere.path().join(name));
    paths.iter().zip(&moved).for_each(|(from, to)| fs::rename(from, to).expect("rename"));
    for places in [&moved[..], &[elsewhere.path().to_owned()]] {
        unpack_packed(&paths[2], places).1.expect("each digest is right");
    }
    let mut stream = stream(&paths[2], &moved[1..]).expect("a recipe");
    let error = stream.require_bases().expect_err("one is missing");
    assert_eq!(error.kind(), ErrorKind::InvalidArchive, "{error}");
    assert!(error.to_string().contains("needs another one, one, of the digest sha256:"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("--base-archive")));
}

#[test]
fn an_archive_that_is_not_packed_is_gone_on_from() {
    let (source, directory) = container();
    let [full, next] = ["full", "next"].map(|name| directory.path().join(name));
    for compression in [Compression::None, Compression::default()] {
        fs::write(&full, source.archive(compression).0).expect("write");
        change(&source, 1);
        pack(&source, &next, Some(base(&full)));
        assert!(fs::metadata(&next).expect("stat").len() < 10 * PAGE as u64);
        let places = [directory.path().to_owned()];
        let (target, unpacked) = unpack_packed(&next, &places);
        unpacked.expect("each digest is right");
        same(&source, &target);
        let mut damaged = fs::read(&full).expect("read");
        // In memory that is needed.
        let there = damaged.len() / 4;
        damaged[there] ^= 1;
        fs::write(&full, damaged).expect("write");
        let error = unpack_packed(&next, &places).1.expect_err("damaged");
        assert_eq!(error.kind(), ErrorKind::InvalidArchive, "{}", error.chain());
    }
    for text in [&b""[..], b"text", &source.archive(Compression::None).0[..5000]] {
        fs::write(&full, text).expect("write");
        let error = PackedBase::read(&full, &[], &Identities::default()).expect_err("no archive");
        assert!(
            matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidArchive),
            "{}",
            error.chain()
        );
    }
}

#[test]
fn a_base_that_is_missing_is_named_with_its_digest() {
    let (_source, directory, paths) = chain();
    let digest = stream(&paths[1], &[]).expect("a recipe").digest();
    fs::remove_file(&paths[1]).expect("remove");
    let (target, unpacked) = unpack_packed(&paths[2], &[directory.path().to_owned()]);
    let error = unpacked.expect_err("it is missing");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.chain());
    assert!(error.chain().contains(&digest), "{}", error.chain());
    assert!(error.hint().is_some_and(|hint| hint.contains("--base-archive")));
    assert!(target.nothing_escaped());
}

#[test]
fn a_base_that_is_damaged_or_another_is_refused() {
    let (source, directory, paths) = chain();
    let good = fs::read(&paths[1]).expect("read");
    change(&source, 3);
    pack(&source, &paths[1], Some(base(&paths[0])));
    let places = [directory.path().to_owned()];
    let error = stream(&paths[2], &places).expect("a recipe").require_bases().expect_err("another one");
    assert_eq!(error.kind(), ErrorKind::InvalidArchive);
    assert!(error.to_string().contains("two is not that one"), "{error}");
    // A bit in each of the first base's parts: it is found when the part is read, or before.
    fs::write(&paths[1], &good).expect("write");
    let first = fs::read(&paths[0]).expect("read");
    let mut refused = 0;
    for at in (0..first.len()).step_by(first.len() / 40) {
        let mut damaged = first.clone();
        damaged[at] ^= 4;
        fs::write(&paths[0], &damaged).expect("write");
        let (target, unpacked) = unpack_packed(&paths[2], &places);
        match unpacked {
            // What was hit is not needed.
            Ok(()) => same_memory(&source, &target, 3),
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::InvalidArchive | ErrorKind::NotFound),
                    "{}",
                    error.chain()
                );
                refused += 1;
            }
        }
    }
    assert!(refused > 30, "{refused} were refused");
}

/// What is unpacked is what it was before the last change.
fn same_memory(source: &Source, target: &Target, last: usize) {
    let mut memory = fs::read(target.path().join("checkpoint/pages-7.img")).expect("read");
    let at = 41 * PAGE * last;
    memory[at..at + PAGE].copy_from_slice(&noise(1, 1000 + last as u64));
    assert!(memory == fs::read(source.images().join("pages-7.img")).expect("read"));
}

#[test]
fn whatever_bit_is_wrong_or_missing_it_is_refused() {
    let (source, directory) = container();
    let packed = directory.path().join("packed");
    pack(&source, &packed, None);
    let good = fs::read(&packed).expect("read");
    for at in (0..good.len()).step_by(good.len() / 60) {
        let mut damaged = good.clone();
        damaged[at] ^= 4;
        let opened = PackedStream::open(Cursor::new(damaged), Bases::default());
        let read = match opened {
            Err(error) => Err(error),
            Ok(None) => continue,
            Ok(Some(mut packed)) => packed.verify(&mut ()).map(drop),
        };
        assert_eq!(read.expect_err("damaged").kind(), ErrorKind::InvalidArchive, "{at}");
    }
    for length in (1024..good.len()).step_by(good.len() / 60) {
        let opened = PackedStream::open(Cursor::new(good[..length].to_vec()), Bases::default());
        assert_eq!(opened.expect_err("cut").kind(), ErrorKind::InvalidArchive, "{length}");
    }
}

fn converted(from: &Path, to: &Path, layout: Layout, places: &[PathBuf]) -> migrate::Result<()> {
    let target = Box::new(ArchiveFile::create(to).expect("create"));
    let bases = Bases::new(places.to_vec(), Identities::default());
    convert(&File::open(from).expect("open"), &Identities::default(), &bases, target, layout, &mut ())
}

#[test]
fn an_archive_goes_from_one_layout_to_the_other_and_back() {
    let (source, directory, paths) = chain();
    let places = [directory.path().to_owned()];
    let at = |name: &str| directory.path().join(name);
    converted(&paths[2], &at("full"), Layout::Full, &places).expect("converted");
    let (target, unpacked) = unpack(File::open(at("full")).expect("open"), &UnpackOptions::default());
    assert_eq!(unpacked.expect("a full archive").manifest.layout, "full");
    same(&source, &target);
    converted(&at("full"), &at("packed"), Layout::Packed(None), &[]).expect("converted");
    let (target, unpacked) = unpack_packed(&at("packed"), &[]);
    unpacked.expect("a packed archive");
    same(&source, &target);
    converted(&at("packed"), &at("small"), Layout::Packed(Some(base(&paths[0]))), &[]).expect("converted");
    assert!(fs::metadata(at("small")).expect("stat").len() < 10 * PAGE as u64);
    unpack_packed(&at("small"), &places).1.expect("a packed archive");
    // One that cannot be read leaves nothing.
    fs::remove_file(&paths[0]).expect("remove");
    let error = converted(&paths[2], &at("none"), Layout::Full, &places).expect_err("its base is gone");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let names =
        fs::read_dir(directory.path()).expect("list").map(|entry| entry.expect("an entry").file_name());
    assert!(!names.into_iter().any(|name| name == "none" || name.to_string_lossy().contains("partial")));
}

/// Memory of these pages: 0 is all zeros, any other number a page of its own.
fn memory_of(pages: &[u8]) -> Vec<u8> {
    let page = |number: u8| if number == 0 { vec![0; PAGE] } else { noise(1, u64::from(number)) };
    pages.iter().flat_map(|number| page(*number)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever memory there is, and whatever the archive is that it goes on from.
    #[test]
    fn what_is_packed_comes_back(
        before in proptest::collection::vec(0_u8..12, 0..200),
        after in proptest::collection::vec(0_u8..16, 0..200),
        rest in 0_usize..PAGE,
    ) {
        let (source, directory) = (Source::new(), tempfile::tempdir().expect("a temporary directory"));
        let path = source.images().join("pages-7.img");
        let [one, two] = ["one", "two"].map(|name| directory.path().join(name));
        fs::write(&path, memory_of(&before)).expect("write");
        pack(&source, &one, None);
        fs::write(&path, [memory_of(&after), vec![9; rest]].concat()).expect("write");
        pack(&source, &two, Some(base(&one)));
        let (target, unpacked) = unpack_packed(&two, &[directory.path().to_owned()]);
        unpacked.expect("each digest is right");
        same(&source, &target);
    }
}

// --- made to do harm ---

/// A member, and what the tar and the index say its size is.
fn member(tar: &mut Vec<u8>, index: &mut Vec<String>, name: &str, data: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).expect("a short name");
    header.set_size(data.len() as u64);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    tar.extend_from_slice(header.as_bytes());
    let (size, offset) = (data.len(), tar.len());
    let digest = Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    index.push(format!(r#"{{"name":"{name}","size":{size},"offset":{offset},"sha256":"{digest}"}}"#));
    tar.extend_from_slice(data);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

/// An archive of these members, whose index agrees with them.
fn archive_of(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let (mut tar, mut index) = (Vec::new(), Vec::new());
    members.iter().for_each(|(name, data)| member(&mut tar, &mut index, name, data));
    let (count, bytes) = (members.len(), members.iter().map(|(_, data)| data.len()).sum::<usize>());
    let total = format!(r#""total":{{"members":{count},"bytes":{bytes}}}"#);
    let index = format!(r#"{{"schema":1,"members":[{}],{total}}}"#, index.join(","));
    member(&mut tar, &mut Vec::new(), "migrate.index", index.as_bytes());
    tar.resize(tar.len() + 1024, 0);
    tar
}

fn number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A recipe that says it makes so many bytes of these pieces.
fn recipe(length: u64, pieces: &[(u64, u64, u64)]) -> Vec<u8> {
    let mut out = [&b"migrpack"[..], &1_u64.to_le_bytes(), &length.to_le_bytes()].concat();
    out.extend((pieces.len() as u64).to_le_bytes());
    for (store, length, at) in pieces {
        number(*store, &mut out);
        number(*length, &mut out);
        if *store > 0 {
            number(*at, &mut out);
        }
    }
    out
}

fn packed_manifest(bases: usize) -> Vec<u8> {
    let manifest = serde_json::to_value(Manifest::new("web", std::time::UNIX_EPOCH)).expect("JSON");
    let mut manifest = manifest;
    manifest["schema"] = 4.into();
    manifest["layout"] = "packed".into();
    let base = serde_json::json!({"digest": "sha256:00", "name": "../../etc/passwd"});
    manifest["bases"] = vec![base; bases].into();
    serde_json::to_vec(&manifest).expect("JSON")
}

fn hostile(bases: usize, recipe: Vec<u8>, store: &[u8]) -> Vec<u8> {
    let pages = 0_u64.to_le_bytes().to_vec();
    archive_of(&[
        ("migrate.json", packed_manifest(bases)),
        ("migrate.store/0", store.to_vec()),
        ("migrate.recipe", recipe),
        ("migrate.pages", pages),
    ])
}

/// Opens an archive, and reads it to its end as a restore does.
fn read_all(archive: Vec<u8>) -> migrate::Result<()> {
    let bases = Bases::new(vec![PathBuf::from("/nowhere")], Identities::default());
    let stream = PackedStream::open(Cursor::new(archive), bases)?.expect("it says that it is packed");
    let (target, unpacked) = unpack(stream, &UnpackOptions::default());
    assert!(target.nothing_escaped());
    unpacked.map(drop)
}

#[test]
fn recipes_that_lie_are_refused() {
    let cases: [(&str, Vec<u8>, &str); 8] = [
        ("beyond the store", recipe(4096, &[(1, 4096, 1)]), "leads beyond the archive's store"),
        ("far beyond", recipe(4096, &[(1, 4096, u64::MAX - 1)]), "leads beyond the archive's store"),
        ("of nobody", recipe(4096, &[(3, 4096, 0)]), "does not name"),
        (
            "a count that lies",
            [&recipe(4096, &[])[..24], &u64::MAX.to_le_bytes()].concat(),
            "pieces, at most",
        ),
        ("more than it makes", recipe(4096, &[(1, 4096, 0), (0, 1, 0)]), "do not add up"),
        ("a page 2^40 times", recipe(4096 << 40, &[(0, 4096 << 40, 0)]), "bytes, at most"),
        ("no recipe", b"migrate!".repeat(4), "is no recipe"),
        ("empty", Vec::new(), "is too short"),
    ];
    for (what, recipe, expected) in cases {
        let error = read_all(hostile(1, recipe, &[7; 4096])).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::InvalidArchive, "{what}");
        assert!(error.to_string().contains(expected), "{what}: {error}");
    }
}

#[test]
fn what_it_makes_is_read_like_any_archive() {
    // As many references to one page as there may be, and zeros without end: neither is a tar.
    let bomb: Vec<_> = std::iter::repeat_n((1, 4096, 0), 100_000).collect();
    for (recipe, store) in
        [(recipe(4096 * 100_000, &bomb), [7; 4096]), (recipe(1 << 43, &[(0, 1 << 43, 0)]), [0; 4096])]
    {
        let error = read_all(hostile(0, recipe, &store)).expect_err("no archive");
        assert_eq!(error.kind(), ErrorKind::InvalidArchive);
    }
    // A packed archive in a packed archive.
    let inner = hostile(0, recipe(4096, &[(1, 4096, 0)]), &[7; 4096]);
    let length = inner.len() as u64;
    let outer = hostile(0, recipe(length, &[(1, length, 0)]), &inner);
    let error = read_all(outer).expect_err("it would not end");
    assert!(error.to_string().contains("cannot be read from its beginning"), "{error}");
}

#[test]
fn bases_are_found_by_digest_and_nowhere_else() {
    let archive = hostile(1, recipe(4096, &[(2, 4096, 0)]), &[7; 4096]);
    let error = read_all(archive).expect_err("there is no base");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.chain());
    assert!(error.chain().contains("of the digest sha256:00"), "{}", error.chain());
    // Itself, by whatever name: its digest is another one.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("passwd");
    fs::write(&path, hostile(1, recipe(4096, &[(2, 4096, 0)]), &[7; 4096])).expect("write");
    let mut itself = stream(&path, &[directory.path().to_owned(), path.clone()]).expect("a recipe");
    assert_eq!(itself.require_bases().expect_err("not itself").kind(), ErrorKind::InvalidArchive);
    let error = read_all(hostile(33, recipe(4096, &[(2, 4096, 0)]), &[7; 4096])).expect_err("too many");
    assert!(error.to_string().contains("is not that of a packed archive"), "{error}");
}

#[test]
fn members_are_those_of_a_packed_archive_and_in_order() {
    let good = [
        ("migrate.json", packed_manifest(0)),
        ("migrate.store/0", vec![7; 512 << 10]),
        ("migrate.store/1", vec![7; 10]),
        ("migrate.recipe", recipe(10, &[(1, 10, 512 << 10)])),
        ("migrate.pages", 0_u64.to_le_bytes().to_vec()),
    ];
    assert!(PackedStream::open(Cursor::new(archive_of(&good)), Bases::default()).expect("good").is_some());
    let refused = |members: &[(&str, Vec<u8>)], what: &str| {
        let error = PackedStream::open(Cursor::new(archive_of(members)), Bases::default()).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::InvalidArchive, "{what}");
    };
    for missing in 1..good.len() {
        let mut members = good.to_vec();
        members.remove(missing);
        refused(&members, good[missing].0);
    }
    for (at, name, size) in [
        (1, "migrate.store/0", 100),
        (2, "migrate.store/1", (512 << 10) + 1),
        (2, "migrate.store/1", 0),
        (2, "migrate.store/2", 10),
        (2, "rootfs.tar", 10),
        (4, "migrate.more", 8),
    ] {
        let mut members = good.to_vec();
        members[at] = (name, vec![0; size]);
        refused(&members, name);
    }
    let mut members = good.to_vec();
    members.swap(3, 4);
    refused(&members, "swapped");
}

// --- as they were written once ---

const GOLDEN: [&str; 2] = ["schema-4.tar.zst", "schema-4-next.tar.zst"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Pages of which some are equal, and some all zeros.
fn golden_memory(changed: u8) -> Vec<u8> {
    (0..20).flat_map(|page| if page == 7 { [changed; PAGE] } else { [page % 5; PAGE] }).collect()
}

/// One that needs none, and one that needs that.
#[test]
fn the_packed_archives_of_earlier_versions_open() {
    for (name, changed) in [(GOLDEN[0], 100), (GOLDEN[1], 101)] {
        let (target, unpacked) = unpack_packed(&golden(name), &[golden("")]);
        unpacked.unwrap_or_else(|error| panic!("{name}: {}", error.chain()));
        let read = |name: &str| fs::read(target.path().join(name)).expect(name);
        assert!(read("checkpoint/pages-7.img") == golden_memory(changed), "{name}");
        assert_eq!(read("checkpoint/sub/core.img"), b"core");
        assert_eq!(fs::read(target.rootfs().join("motd")).expect("read"), b"hello\n");
    }
}

/// Writes the golden files, before there is another form of them.
#[test]
#[ignore = "they are written once"]
fn the_golden_files_are_written() {
    let source = Source::new();
    fs::write(source.rootfs().join("motd"), "hello\n").expect("write");
    fs::write(source.images().join("pages-7.img"), golden_memory(100)).expect("write");
    pack(&source, &golden(GOLDEN[0]), None);
    fs::write(source.images().join("pages-7.img"), golden_memory(101)).expect("write");
    pack(&source, &golden(GOLDEN[1]), Some(base(&golden(GOLDEN[0]))));
}
