// SPDX-License-Identifier: Apache-2.0
//! What is done with bytes from others, one function for each reader: for libFuzzer (main.rs) and for the usual tests
//! (tests/fuzz_smoke.rs). A target is right when nothing panics, overflows, hangs or fills memory.

use std::fs::{self, File};
use std::io::{Cursor, Read as _, Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::OnceLock;

use migrate::archive::{
    Archive, Bases, Identities, Limits, Manifest, Opened, PackedStream, UnpackOptions, opened, remove_deleted,
};
use migrate::criu::{DumpStats, RestoreStats, mounts_from_outside, process_names, require_complete};
use migrate::inspect::InspectOptions;
use migrate::pages::wire::{Form, Message};
use migrate::spec::{Config, host_access, validate};
use tempfile::TempDir;

pub(crate) type Target = fn(&[u8]);

/// Each by its name.
pub(crate) const TARGETS: [(&str, Target); 9] = [
    ("manifest", manifest),
    ("archive", archive),
    ("packed", packed),
    ("foreign", foreign),
    ("inspect", inspect),
    ("envelope", envelope),
    ("images", images),
    ("pages", pages),
    ("config", config),
];

fn manifest(bytes: &[u8]) {
    let _ = Manifest::from_bytes(bytes);
}

/// A directory in memory.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").expect("a temporary directory in memory")
}

/// Two directories in another one, in which nothing else may be afterwards.
fn two_directories(unpack: impl FnOnce(&File, &File)) {
    let directory = scratch();
    let [private, rootfs] = ["private", "rootfs"].map(|name| {
        let path = directory.path().join(name);
        fs::create_dir(&path).expect("mkdir");
        File::open(path).expect("open")
    });
    unpack(&private, &rootfs);
    let beside = fs::read_dir(directory.path()).expect("list").count();
    assert_eq!(beside, 2, "something got out");
}

/// The tar, its members and the root filesystem's, the manifest and the index, as far as unpacking comes.
fn archive(bytes: &[u8]) {
    two_directories(|private, rootfs| {
        let _ = Archive::open(bytes).and_then(|archive| {
            archive.unpack_into(private.as_fd(), Some(rootfs.as_fd()), &UnpackOptions::default(), &mut ())
        });
    });
}

/// The parts of a packed archive, its recipe, and what is made of it, as far as unpacking comes.
fn packed(bytes: &[u8]) {
    let Ok(Some(mut stream)) = PackedStream::open(Cursor::new(bytes), Bases::default()) else { return };
    let _ = stream.verify(&mut ());
    two_directories(|private, rootfs| {
        let _ = Archive::open(stream).and_then(|archive| {
            archive.unpack_into(private.as_fd(), Some(rootfs.as_fd()), &UnpackOptions::default(), &mut ())
        });
    });
}

/// The same of other engines, and what they say has changed in the root filesystem.
fn foreign(bytes: &[u8]) {
    two_directories(|private, rootfs| {
        let options = UnpackOptions::default();
        if let Ok(Opened::Foreign(archive)) = Opened::open(bytes) {
            let _ = archive.unpack_into(private.as_fd(), &options, &mut ());
        }
        let list = tempfile::tempfile_in("/dev/shm").expect("a temporary file in memory");
        (&list).write_all(bytes).and_then(|()| (&list).rewind()).expect("write");
        let _ = remove_deleted(list, rootfs.as_fd(), &Limits::default());
    });
}

/// What is read from the index and what from the beginning, with all images that are in it.
fn inspect(bytes: &[u8]) {
    let directory = scratch();
    let file = directory.path().join("archive");
    fs::write(&file, bytes).expect("write");
    let mut options = InspectOptions::default();
    options.criu = Some("/nowhere".into());
    if let Ok(report) = migrate::inspect::inspect(&file, &options) {
        let _ = serde_json::to_vec(&report).expect("it can be written");
    }
    let _ = migrate::inspect::verify(&file, &[], &mut ());
}

/// What CRIU sends to a page server.
fn pages(bytes: &[u8]) {
    for form in [Form::Narrow, Form::Wide] {
        let mut rest = bytes;
        while let Ok(Some(message)) = Message::read(&mut rest, form) {
            let mut again = Vec::new();
            message.write(&mut again, form).expect("what was read can be written");
            let second = Message::read(&mut &again[..], form).expect("what was written can be read");
            assert_eq!(second, Some(message));
        }
    }
}

fn envelope(bytes: &[u8]) {
    let source = Box::new(Cursor::new(bytes.to_vec()));
    if let Ok(mut reader) = opened(source, &Identities::default()) {
        let _ = reader.read_to_end(&mut Vec::new());
    }
}

/// As much as the images in `images` say.
const MEMORY: u64 = 110_592;

/// The first byte says which image it is.
fn images(bytes: &[u8]) {
    static DIRECTORY: OnceLock<TempDir> = OnceLock::new();
    let Some((which, rest)) = bytes.split_first() else { return };
    let _ = DumpStats::parse(rest);
    let _ = RestoreStats::parse(rest);
    let directory = DIRECTORY.get_or_init(scratch).path();
    let write = |name: &str, bytes: &[u8]| fs::write(directory.join(name), bytes).expect("write");
    const NAMES: [&str; 4] = ["pstree.img", "core-1.img", "pagemap-1.img", "mountpoints-1.img"];
    for (number, name) in NAMES.iter().enumerate() {
        let chosen = usize::from(*which) % NAMES.len() == number;
        write(name, if chosen { rest } else { seed(name) });
    }
    File::create(directory.join("pages-1.img")).and_then(|pages| pages.set_len(MEMORY)).expect("write");
    let directory = open(directory);
    let _ = mounts_from_outside(directory.as_fd());
    let _ = require_complete(directory.as_fd());
    let _ = process_names(directory.as_fd());
}

fn open(directory: &Path) -> File {
    File::open(directory).expect("open the directory")
}

/// A real image, so that what depends on it is reached.
fn seed(name: &str) -> &'static [u8] {
    match name {
        "pstree.img" => include_bytes!("../images/pstree.img"),
        "core-1.img" => include_bytes!("../images/core-1.img"),
        "pagemap-1.img" => include_bytes!("../images/pagemap-1.img"),
        _ => include_bytes!("../images/mountpoints-1.img"),
    }
}

fn config(bytes: &[u8]) {
    if let Ok(config) = Config::parse(bytes.to_vec()) {
        let _ = validate(&config.spec);
        let _ = host_access(&config.spec, None);
    }
}
