// SPDX-License-Identifier: Apache-2.0
//! A checkpoint to archive, a place to unpack to, and what a tree of files looks like.
#![allow(dead_code, unreachable_pub)]

pub mod trees;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use migrate::Result;
use migrate::archive::{
    Archive, ArchiveWriter, Compression, CriuVersion, Manifest, SmallMember, Summary, UnpackOptions,
    UnpackedCheckpoint, WriteOptions,
};
use tempfile::TempDir;

/// What is archived: images and a root filesystem in a temporary directory.
pub struct Source {
    directory: TempDir,
    has_rootfs: bool,
}

impl Source {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("rootfs")).expect("mkdir");
        let images = directory.path().join("images");
        fs::create_dir_all(images.join("sub")).expect("mkdir");
        fs::write(images.join("inventory.img"), b"inventory").expect("write");
        fs::write(images.join("pages-1.img"), [vec![1; 5000], vec![0; 20_000], vec![2; 700]].concat())
            .expect("write");
        fs::write(images.join("sub/core.img"), b"core").expect("write");
        fs::write(images.join("dump.log"), b"still growing").expect("write");
        Self { directory, has_rootfs: true }
    }

    pub fn without_rootfs() -> Self {
        Self { has_rootfs: false, ..Self::new() }
    }

    pub fn rootfs(&self) -> PathBuf {
        self.directory.path().join("rootfs")
    }

    pub fn images(&self) -> PathBuf {
        self.directory.path().join("images")
    }

    pub fn spec(&self) -> &'static [u8] {
        br#"{"ociVersion":"1.2.0"}"#
    }

    pub fn manifest(&self) -> Manifest {
        let mut manifest = Manifest::new("web", UNIX_EPOCH + Duration::from_secs(1_795_454_430));
        manifest.criu = CriuVersion { number: 40201, text: "4.2.1".into() };
        manifest.kernel = "6.18.0".into();
        manifest.arch = "x86_64".into();
        manifest.cpu_features = vec!["sse2".into(), "avx2".into()];
        manifest.container.rootfs = self.has_rootfs;
        manifest
    }

    /// An archive that has no images yet.
    pub fn begin_without_images<W: Write>(&self, output: W, compression: Compression) -> ArchiveWriter<W> {
        let mut options = WriteOptions::default();
        options.compression = compression;
        let mut writer = ArchiveWriter::new(output, &options, &self.manifest()).expect("begin");
        writer.spec(self.spec()).expect("write");
        writer
    }

    /// An archive as far as its images.
    pub fn begin<W: Write>(&self, output: W, compression: Compression) -> ArchiveWriter<W> {
        let mut writer = self.begin_without_images(output, compression);
        let images = File::open(self.images()).expect("open");
        writer.images(images.as_fd(), &mut ()).expect("write");
        writer
    }

    /// A whole archive.
    pub fn archive(&self, compression: Compression) -> (Vec<u8>, Summary) {
        let mut writer = self.begin(Vec::new(), compression);
        if self.has_rootfs {
            let root = File::open(self.rootfs()).expect("open");
            writer.rootfs(root.as_fd(), &mut ()).expect("write");
        }
        writer.bytes(SmallMember::Stats, b"stats").expect("write");
        writer.bytes(SmallMember::DumpLog, b"log").expect("write");
        writer.finish().expect("whole")
    }
}

/// Where an archive is unpacked: a private directory with a root filesystem in it, and guards around it.
pub struct Target {
    directory: TempDir,
}

impl Target {
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("outer/private")
    }

    pub fn rootfs(&self) -> PathBuf {
        self.directory.path().join("outer/rootfs")
    }

    /// Whether nothing but the two directories is there, as it was made.
    pub fn nothing_escaped(&self) -> bool {
        let names = |path: PathBuf| {
            let entries = fs::read_dir(path).expect("list");
            let mut names: Vec<_> = entries.map(|e| e.expect("an entry").file_name()).collect();
            names.sort();
            names
        };
        let top = self.directory.path();
        names(top.to_owned()) == ["outer", "witness"]
            && names(top.join("outer")) == ["private", "rootfs", "witness"]
            && fs::read(top.join("witness")).expect("read") == b"untouched"
            && fs::read(top.join("outer/witness")).expect("read") == b"untouched"
            && fs::metadata(top.join("witness")).expect("stat").nlink() == 1
            && fs::metadata(top.join("outer/witness")).expect("stat").nlink() == 1
    }
}

/// Unpacks an archive into a new place.
pub fn unpack<R: Read + Send>(archive: R, options: &UnpackOptions) -> (Target, Result<UnpackedCheckpoint>) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let target = Target { directory };
    fs::create_dir_all(target.path()).expect("mkdir");
    fs::create_dir_all(target.rootfs()).expect("mkdir");
    fs::write(target.directory.path().join("witness"), "untouched").expect("write");
    fs::write(target.directory.path().join("outer/witness"), "untouched").expect("write");
    let private = File::open(target.path()).expect("open");
    let rootfs = File::open(target.rootfs()).expect("open");
    let unpacked = Archive::open(archive)
        .and_then(|archive| archive.unpack_into(private.as_fd(), Some(rootfs.as_fd()), options, &mut ()));
    (target, unpacked)
}

/// A file's facts as text, and its content.
type Description = (String, Vec<u8>);

/// Everything about a tree that must survive: by path, the facts and the content of each file. Sockets do not.
pub fn describe(root: &Path) -> BTreeMap<PathBuf, Description> {
    let mut found = BTreeMap::new();
    let mut first_names = BTreeMap::new();
    describe_into(root, root, &mut found, &mut first_names);
    found
}

fn describe_into(
    root: &Path,
    path: &Path,
    found: &mut BTreeMap<PathBuf, Description>,
    first_names: &mut BTreeMap<(u64, u64), PathBuf>,
) {
    let metadata = fs::symlink_metadata(path).expect("stat");
    if metadata.file_type().is_socket() {
        return;
    }
    let name = path.strip_prefix(root).expect("beneath the root").to_owned();
    let mut xattrs: Vec<_> = xattr::list(path)
        .expect("listxattr")
        .map(|name| format!("{name:?}={:?}", xattr::get(path, &name).expect("getxattr")))
        .collect();
    xattrs.sort();
    let identity = if metadata.is_dir() {
        PathBuf::new()
    } else {
        first_names.entry((metadata.dev(), metadata.ino())).or_insert_with(|| name.clone()).clone()
    };
    let links = if metadata.is_dir() { 0 } else { metadata.nlink() };
    let size = if metadata.is_dir() { 0 } else { metadata.size() };
    let facts = format!(
        "mode {:o} owner {}:{} mtime {}.{:09} size {size} device {:x} links {links} as {identity:?} {xattrs:?}",
        metadata.mode(),
        metadata.uid(),
        metadata.gid(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.rdev(),
    );
    let content = if metadata.is_file() {
        fs::read(path).expect("read")
    } else if metadata.is_symlink() {
        fs::read_link(path).expect("readlink").into_os_string().into_encoded_bytes()
    } else {
        Vec::new()
    };
    found.insert(name, (facts, content));
    if metadata.is_dir() {
        let mut names: Vec<_> =
            fs::read_dir(path).expect("list").map(|e| e.expect("an entry").path()).collect();
        names.sort();
        for child in names {
            describe_into(root, &child, found, first_names);
        }
    }
}

/// Asserts that two trees are the same, naming the first difference without printing contents.
pub fn root_tree_is_equal(before: &Path, after: &Path) {
    let (before, after) = (describe(before), describe(after));
    for (path, (facts, content)) in &before {
        let (facts_after, content_after) = after.get(path).unwrap_or_else(|| panic!("{path:?} is missing"));
        assert_eq!(facts, facts_after, "{path:?}");
        assert!(content == content_after, "{path:?}: another content");
    }
    assert_eq!(before.len(), after.len(), "files appeared");
}

/// Runs `action` on a thread with mounts of its own; they end with it.
pub fn in_private_mounts<T: Send>(action: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS | nix::sched::CloneFlags::CLONE_NEWNS)
                .expect("a mount namespace: this test needs root");
            let none: Option<&str> = None;
            let flags = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
            nix::mount::mount(none, "/", none, flags, none).expect("private mounts");
            action()
        });
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
