// SPDX-License-Identifier: Apache-2.0
//! Rounds from one directory to another, and streams that nobody honest has written.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::super::pack::open_file;
use super::super::walk::walk;
use super::stream::Stream;
use super::*;
use crate::archive::entry::{Entry, Kind};
use crate::archive::{Tree, UnpackOptions};
use crate::sys::lease::Mapping;
use crate::{ErrorKind, Result};

/// Two directories, of which one is to become like the other.
struct Pair {
    place: tempfile::TempDir,
    sent: SentTree,
    options: UnpackOptions,
}

impl Pair {
    fn new() -> Self {
        let place = tempfile::tempdir().expect("a temporary directory");
        for name in ["from", "to"] {
            fs::create_dir(place.path().join(name)).expect("mkdir");
        }
        Self { place, sent: SentTree::new(true), options: UnpackOptions::default() }
    }

    fn from(&self, path: &str) -> PathBuf {
        self.place.path().join("from").join(path)
    }

    fn open(&self, name: &str) -> File {
        File::open(self.place.path().join(name)).expect("open")
    }

    fn round(&mut self, tree: Tree, go_on: &sent::GoOn<'_>) -> SentRound {
        let mut stream = Vec::new();
        let from = self.open("from");
        let round = self.sent.round(from.as_fd(), tree, &mut stream, go_on).expect("a round");
        lay_round(self.open("to").as_fd(), &stream[..], &mut self.options).expect("what a round has sent");
        round
    }

    fn rounds(&mut self) -> SentRound {
        self.round(Tree::Lives, &|| Ok(()))
    }

    /// The last round, after which both are the same.
    fn end(&mut self) -> SentRound {
        let round = self.round(Tree::StandsStill, &|| Ok(()));
        for (here, there) in listing(&self.open("from")).into_iter().zip(listing(&self.open("to"))) {
            assert!(here == there, "{here:?} is {there:?} there");
        }
        assert_eq!(listing(&self.open("from")).len(), listing(&self.open("to")).len());
        round
    }
}

/// Everything that an archive keeps of a tree.
fn listing(root: &File) -> Vec<(Entry, Vec<u8>)> {
    let mut all = Vec::new();
    walk(root.as_fd(), &mut |entry, dir, name| {
        let mut content = Vec::new();
        if entry.kind == Kind::File {
            open_file(dir, name).expect("open").read_to_end(&mut content).expect("read");
        }
        all.push((entry, content));
        Ok(())
    })
    .expect("a tree");
    all
}

/// A tree with something of everything.
fn plant(pair: &Pair) {
    for directory in ["d/deep/deeper", "e", "gone/with/all"] {
        fs::create_dir_all(pair.from(directory)).expect("mkdir");
    }
    for (name, length) in
        [("a", 10), ("d/b", 200_000), ("d/deep/c", 65_536), ("e/empty", 0), ("gone/with/it", 5)]
    {
        fs::write(pair.from(name), (0..length).map(|n| n as u8).collect::<Vec<_>>()).expect("write");
    }
    fs::hard_link(pair.from("d/b"), pair.from("e/second")).expect("link");
    symlink("../outside", pair.from("e/link")).expect("symlink");
    nix::unistd::mkfifo(&pair.from("fifo"), nix::sys::stat::Mode::S_IRUSR).expect("mkfifo");
}

/// What somebody may do to the tree.
const DEEDS: [fn(&Pair); 16] = [
    |pair| fs::write(pair.from("a"), "another length").expect("write"),
    |pair| {
        let file = File::options().write(true).open(pair.from("d/b")).expect("open");
        file.write_all_at(b"in the middle", 100_000).expect("write");
    },
    |pair| {
        let mut file = File::options().append(true).open(pair.from("d/deep/c")).expect("open");
        file.write_all(&[9; 70_000]).expect("write");
    },
    |pair| {
        File::options().write(true).open(pair.from("d/deep/c")).expect("open").set_len(30_000).expect("cut");
    },
    |pair| fs::remove_dir_all(pair.from("gone")).expect("remove"),
    |pair| fs::rename(pair.from("d/deep"), pair.from("e/moved")).expect("rename"),
    |pair| {
        fs::write(pair.from("d/new"), "replaces").expect("write");
        fs::rename(pair.from("d/new"), pair.from("d/b")).expect("rename");
    },
    |pair| fs::set_permissions(pair.from("e"), fs::Permissions::from_mode(0o510)).expect("chmod"),
    |pair| fs::set_permissions(pair.from("a"), fs::Permissions::from_mode(0o4755)).expect("chmod"),
    |pair| {
        fs::remove_file(pair.from("e/link")).expect("unlink");
        fs::create_dir_all(pair.from("e/link/is/one")).expect("mkdir");
    },
    |pair| {
        fs::remove_dir_all(pair.from("e/link")).expect("remove");
        fs::write(pair.from("e/link"), "a file").expect("write");
    },
    |pair| fs::hard_link(pair.from("a"), pair.from("d/a name that comes first")).expect("link"),
    |pair| fs::remove_file(pair.from("e/second")).expect("unlink"),
    |pair| fs::write(pair.from("e/empty"), "not any more").expect("write"),
    |pair| {
        fs::remove_file(pair.from("fifo")).expect("unlink");
        symlink("a", pair.from("fifo")).expect("symlink");
    },
    |pair| fs::write(pair.from("e/empty"), "").expect("write"),
];

#[test]
fn after_the_last_round_the_trees_are_the_same() {
    // All at once, and each in a round of its own.
    for step in [1, DEEDS.len()] {
        let mut pair = Pair::new();
        plant(&pair);
        let first = pair.rounds();
        assert_eq!((first.files, first.removed, first.bytes), (16, 0, 265_551));
        for deeds in DEEDS.chunks(step) {
            deeds.iter().for_each(|deed| deed(&pair));
            pair.rounds();
        }
        pair.end();
        assert_eq!(pair.end(), SentRound::default(), "nothing is other any more");
    }
}

#[test]
fn what_changes_in_the_middle_of_a_round_is_as_it_is_in_the_end() {
    // Each deed at each moment of a walk, which asks before each file and each piece of one.
    for moment in 0..30 {
        let mut pair = Pair::new();
        plant(&pair);
        pair.rounds();
        // So that it has something to send.
        for name in ["a", "d/b", "d/deep/c", "gone/with/it", "e/new"] {
            fs::write(pair.from(name), vec![7; 150_000]).expect("write");
        }
        let (asked, from) = (Cell::new(0), pair.open("from"));
        let mut stream = Vec::new();
        let mut sent = std::mem::replace(&mut pair.sent, SentTree::new(true));
        let go_on = || {
            if asked.replace(asked.get() + 1) == moment {
                DEEDS.iter().for_each(|deed| deed(&pair));
            }
            Ok(())
        };
        sent.round(from.as_fd(), Tree::Lives, &mut stream, &go_on).expect("a round");
        assert!(asked.get() > moment, "it asks: {}", asked.get());
        lay_round(pair.open("to").as_fd(), &stream[..], &mut pair.options).expect("what a round has sent");
        pair.sent = sent;
        pair.end();
    }
}

#[test]
fn of_a_large_file_only_what_is_other_is_sent_and_it_stays_the_same_file() {
    let mut pair = Pair::new();
    fs::write(pair.from("large"), vec![1; 1 << 20]).expect("write");
    assert_eq!(pair.rounds(), SentRound { files: 2, removed: 0, bytes: 1 << 20 });
    let inode = |pair: &Pair| fs::metadata(pair.place.path().join("to/large")).expect("stat").ino();
    let before = inode(&pair);
    let file = File::options().write(true).open(pair.from("large")).expect("open");
    file.write_all_at(&[2; 10], 700_000).expect("write");
    assert_eq!(pair.end(), SentRound { files: 1, removed: 0, bytes: 64 << 10 });
    fs::set_permissions(pair.from("large"), fs::Permissions::from_mode(0o640)).expect("chmod");
    assert_eq!(pair.end(), SentRound { files: 1, removed: 0, bytes: 0 });
    assert_eq!(inode(&pair), before);
}

#[test]
fn what_has_another_path_is_not_sent_again() {
    let mut pair = Pair::new();
    fs::create_dir(pair.from("d")).expect("mkdir");
    for name in ["d/a", "d/b"] {
        fs::write(pair.from(name), vec![1; 100_000]).expect("write");
    }
    fs::hard_link(pair.from("d/b"), pair.from("d/c")).expect("link");
    // So that they are settled, whose directory is renamed.
    let since = std::time::Instant::now();
    while since.elapsed() < std::time::Duration::from_millis(25) {
        std::thread::yield_now();
    }
    pair.rounds();
    fs::rename(pair.from("d"), pair.from("e")).expect("rename");
    assert_eq!(pair.rounds(), SentRound { files: 5, removed: 1, bytes: 0 });
    assert_eq!(pair.end(), SentRound::default());
    fs::rename(pair.from("e/a"), pair.from("moved")).expect("rename");
    fs::write(pair.from("e/a"), "another").expect("write");
    assert_eq!(pair.end().bytes, 7);
    fs::rename(pair.from("moved"), pair.from("e/a")).expect("rename");
    assert_eq!(pair.end().bytes, 100_000, "the content of another");
    fs::rename(pair.from("e/c"), pair.from("a")).expect("rename");
    fs::remove_file(pair.from("e/b")).expect("unlink");
    assert_eq!(pair.end().bytes, 0);
}

#[test]
fn what_is_written_through_a_mapping_in_memory_is_found() {
    let Ok(place) = tempfile::tempdir_in("/dev/shm") else { return };
    let root = File::open(place.path()).expect("open");
    if tells_of_writes(root.as_fd()) {
        return;
    }
    let mut sent = SentTree::new(tells_of_writes(root.as_fd()));
    let file =
        File::options().read(true).write(true).create(true).truncate(true).open(place.path().join("f"));
    let file = file.expect("make a file");
    file.write_all_at(&[1; 4096], 0).expect("write");
    let mut round = |tree| sent.round(root.as_fd(), tree, std::io::sink(), &|| Ok(())).expect("a round");
    assert_eq!(round(Tree::Lives).bytes, 4096);
    let mut mapped = Mapping::of(&file);
    drop(file);
    // A page that was only read by then is writable, too.
    assert_eq!(mapped.first(), 1);
    let before = fs::metadata(place.path().join("f")).expect("stat");
    mapped.set_first(5);
    drop(mapped);
    let after = fs::metadata(place.path().join("f")).expect("stat");
    assert_eq!((before.ctime(), before.ctime_nsec()), (after.ctime(), after.ctime_nsec()), "nothing tells");
    assert_eq!(round(Tree::StandsStill).bytes, 4096);
}

#[test]
fn a_frozen_tree_that_changes_is_told() {
    let mut pair = Pair::new();
    plant(&pair);
    let from = pair.open("from");
    let asked = Cell::new(0);
    let go_on = || {
        if asked.replace(asked.get() + 1) == 8 {
            fs::write(pair.from("d/b"), "shorter").expect("write");
        }
        Ok(())
    };
    let error = SentTree::new(true).round(from.as_fd(), Tree::StandsStill, std::io::sink(), &go_on);
    let error = error.expect_err("it changes");
    assert!(error.to_string().contains("while it was being archived"), "{error}");
    let stop = || Err(crate::Error::new(ErrorKind::System, "given up"));
    let error = pair.sent.round(from.as_fd(), Tree::Lives, std::io::sink(), &stop).expect_err("given up");
    assert_eq!(error.to_string(), "given up");
}

/// Lays a stream over a tree with a link that leads out of it.
fn lay(write: impl FnOnce(&mut Stream<&mut Vec<u8>>) -> Result<()>) -> Result<()> {
    let mut pair = Pair::new();
    fs::write(pair.place.path().join("outside"), "outside").expect("write");
    let to = pair.place.path().join("to");
    symlink("../outside", to.join("link")).expect("symlink");
    symlink("..", to.join("up")).expect("symlink");
    nix::unistd::mkfifo(&to.join("fifo"), nix::sys::stat::Mode::S_IRUSR).expect("mkfifo");
    fs::create_dir(to.join("d")).expect("mkdir");
    let mut bytes = Vec::new();
    let mut stream = Stream::new(&mut bytes).expect("memory");
    write(&mut stream).expect("memory");
    stream.finish().expect("memory");
    let laid = lay_round(pair.open("to").as_fd(), &bytes[..], &mut pair.options);
    let text = fs::read_to_string(pair.place.path().join("outside")).expect("what is outside stays");
    assert_eq!(text, "outside");
    laid
}

fn file(path: &str, size: u64) -> Entry {
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    Entry { size, uid, gid, ..Entry::new(path, Kind::File) }
}

#[test]
fn a_hostile_round_stays_beneath_the_root() {
    lay(|stream| stream.removed([&b"link"[..], b"none", b"none/at/all"].into_iter()))
        .expect("the link itself");
    for path in ["../outside", "/etc/passwd", "up/outside", "link/x", ".", "d/..", "a//b", ""] {
        if !path.is_empty() {
            let gone = lay(|stream| stream.removed([path.as_bytes()].into_iter()));
            assert!(gone.is_err() || path == "link/x", "{path}");
        }
        let error = lay(|stream| {
            stream.patch(&file(path, 3))?;
            stream.piece(0, b"bad")?;
            stream.end_patch()
        })
        .expect_err(path);
        assert_eq!(error.kind(), ErrorKind::InvalidArchive, "{path}: {error}");
        lay(|stream| stream.entry(&file(path, 0))).expect_err(path);
        lay(|stream| stream.moved(path.as_bytes(), b"here")).expect_err(path);
        lay(|stream| {
            stream.entry(&file("here", 0))?;
            stream.moved(b"here", path.as_bytes())
        })
        .expect_err(path);
    }
    for path in ["link", "fifo", "d", "none"] {
        lay(|stream| {
            stream.patch(&file(path, 3))?;
            stream.end_patch()
        })
        .expect_err(path);
    }
    lay(|stream| stream.entry(&Entry { device: (8, 0), ..Entry::new("sda", Kind::Block) }))
        .expect_err("a disk");
}

#[test]
fn pieces_and_sizes_are_bounded() {
    let patched = |size, offset, length: usize| {
        lay(|stream| {
            stream.entry(&file("f", 0))?;
            stream.patch(&file("f", size))?;
            stream.piece(offset, &vec![1; length])?;
            stream.end_patch()
        })
    };
    patched(100, 90, 10).expect("in it");
    for (size, offset, length) in [(100, 91, 10), (100, u64::MAX, 10), (1 << 20, 0, PIECE + 1)] {
        assert_eq!(patched(size, offset, length).expect_err("not in it").kind(), ErrorKind::InvalidArchive);
    }
    let mut pair = Pair::new();
    plant(&pair);
    let mut stream = Vec::new();
    let from = pair.open("from");
    pair.sent.round(from.as_fd(), Tree::Lives, &mut stream, &|| Ok(())).expect("a round");
    for (bytes, entries) in [(100_000, 100), (1 << 20, 10)] {
        let place = tempfile::tempdir().expect("a temporary directory");
        let root = File::open(place.path()).expect("open");
        pair.options.limits.total_bytes = bytes;
        pair.options.limits.rootfs_entries = entries;
        let error = lay_round(root.as_fd(), &stream[..], &mut pair.options).expect_err("too much");
        assert!(
            error.chain().contains("larger than it may be") || error.chain().contains("entries"),
            "{error}"
        );
    }
    let taken = |to: &Path, left: u64| {
        let mut options = UnpackOptions::default();
        options.limits.total_bytes = left;
        lay_round(File::open(to).expect("open").as_fd(), &stream[..], &mut options).map(|()| options.limits)
    };
    let place = tempfile::tempdir().expect("a temporary directory");
    let limits = taken(place.path(), 1 << 20).expect("room");
    assert!(limits.total_bytes < (1 << 20) - 265_551 && limits.rootfs_entries < 1 << 24, "{limits:?}");
}

proptest! {
    #[test]
    fn any_bytes_are_a_round_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let place = tempfile::tempdir().expect("a temporary directory");
        let root = File::open(place.path()).expect("open");
        let _ = lay_round(root.as_fd(), &bytes[..], &mut UnpackOptions::default());
    }
}
