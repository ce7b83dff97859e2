// SPDX-License-Identifier: Apache-2.0
//! Owns the reading of archives that Podman, CRI-O and containerd write: names, order and entries are theirs.
//!
//! ```text
//! source ─▶ decompress ─▶ TarReader ─▶ files in a private directory ─▶ ForeignRootfs: base, difference, deletions
//! ```
//! They have no index: what can be verified is that the stream is whole (checksums of the compression, of each header,
//! the end marks) and that what a restore needs is there. Must not know what is done with it.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};

use super::engine_config;
use super::entry::{Entry, Kind};
use super::limits::Limits;
use super::manifest::VolumeFacts;
use super::member::{
    DELETED, DEVSHM, ENGINE_CONFIG, IMAGES, INDEX, MANIFEST, ROOTFS_OVER, SMALL_MAX, SPEC, VOLUMES,
    is_volume, volume_member,
};
use super::open::{Decoded, decoded};
use super::rootfs::{self, DeviceNodes, Ground};
use super::sink::Sink;
use super::tar_reader::TarReader;
use super::unpack::{check_space, open_parent};
use super::writer::Compression;
use super::{Progress, UnpackOptions, invalid, printable};
use crate::{Context, Error, ErrorKind, Result};

/// Members that are left out: logs, facts about the other engine, and what only that can use.
const LEFT_OUT: [&[u8]; 14] = [
    b"artifacts",
    b"network.status",
    b"stats-dump",
    b"dump.log",
    b"ctr.log",
    b"container.log",
    b"io.kubernetes.cri-o.LogPath",
    b"bind.mounts",
    b"status.dump",
    b"status",
    b"pod.options",
    b"pod.dump",
    b"pre-checkpoint",
    b".",
];

/// Members of the images' directory that the images are no images without.
const PARENT: &[u8] = b"checkpoint/parent";

/// An archive of another engine. Nothing of it is known but its first member's name.
pub struct ForeignArchive<R: Read> {
    tar: TarReader<Decoded<R>>,
    first: Entry,
}

impl<R: Read> std::fmt::Debug for ForeignArchive<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ForeignArchive").finish_non_exhaustive()
    }
}

/// What became of an archive of another engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnpackedForeign {
    /// Whether files have changed or come, in `rootfs-diff.tar`.
    pub has_difference: bool,
    /// Whether files have gone, in `deleted.files`.
    pub has_deletions: bool,
    /// Whether there is a `/dev/shm`, in `devshm-checkpoint.tar`.
    pub has_shared_memory: bool,
    /// The volumes whose content there is, in `volumes/NAME.tar`.
    pub volumes: Vec<VolumeFacts>,
}

/// What another engine calls a member, without decoration.
fn plain(path: &[u8]) -> &[u8] {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let path = path.strip_suffix(b"/").unwrap_or(path);
    if path.is_empty() { b"." } else { path }
}

fn is_left_out(name: &[u8]) -> bool {
    LEFT_OUT.contains(&name) || [&b"artifacts/"[..], b"pre-checkpoint/"].iter().any(|d| name.starts_with(d))
}

fn is_kept(name: &[u8]) -> bool {
    let files = [ENGINE_CONFIG, SPEC, ROOTFS_OVER, DELETED, DEVSHM];
    let directories = [IMAGES.as_bytes(), VOLUMES.as_bytes()];
    files.iter().any(|file| file.as_bytes() == name)
        || directories.iter().any(|directory| name == plain(directory) || name.starts_with(directory))
}

impl<R: Read> ForeignArchive<R> {
    /// Takes over a tar, if its first member is another engine's.
    pub(super) fn of(tar: TarReader<Decoded<R>>, first: Entry) -> std::result::Result<Self, ()> {
        let name = plain(&first.path);
        if is_left_out(name) || is_kept(name) { Ok(Self { tar, first }) } else { Err(()) }
    }

    /// Unpacks what a restore uses into `directory`, which must be fresh and private: `config.dump`, `spec.dump`,
    /// `checkpoint/`, and as files what [`lay_over`] and [`lay_over_base`] take. Reads to the end.
    ///
    /// # Errors
    /// `InvalidArchive`, naming the member, if it is truncated, damaged, lacks what a restore needs, or asks for what it
    /// must not; `Unsupported` for one that continues an earlier one; `Storage` if there is no room.
    pub fn unpack_into(
        mut self,
        directory: BorrowedFd<'_>,
        options: &UnpackOptions,
        progress: &mut dyn Progress,
    ) -> Result<UnpackedForeign> {
        let mut seen = Vec::new();
        let mut members = 0;
        let mut next = Some(self.first.clone());
        while let Some(entry) = next {
            members += 1;
            if members > options.limits.members {
                return Err(invalid(format!("more than {} members", options.limits.members)));
            }
            if let Some(name) = admit(&entry, self.tar.offset(), &options.limits)? {
                self.member(&name, &entry, directory, progress)?;
                seen.push(name);
            }
            next = self.tar.next()?;
        }
        self.tar.drain()?;
        let has = |name: &str| seen.iter().any(|member| member == name);
        for needed in [ENGINE_CONFIG, SPEC, "checkpoint/inventory.img"] {
            if !has(needed) {
                return Err(invalid(format!("not a checkpoint archive: it has no member {needed}")));
            }
        }
        let mut volumes = engine_config::named_volumes(&read_small(directory, ENGINE_CONFIG)?)?;
        volumes.retain(|volume| has(&volume_member(&volume.name)));
        Ok(UnpackedForeign {
            has_difference: has(ROOTFS_OVER),
            has_deletions: has(DELETED),
            has_shared_memory: has(DEVSHM),
            volumes,
        })
    }

    fn member(
        &mut self,
        name: &str,
        entry: &Entry,
        directory: BorrowedFd<'_>,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let attempt = || format!("unpack member {name}");
        let (parent, file_name) = name.rsplit_once('/').unwrap_or((".", name));
        if [IMAGES, VOLUMES].map(plain_text).contains(&parent) {
            make_directory(directory, parent).context(attempt)?;
        }
        let dir = open_parent(directory, parent, name)?;
        if entry.kind == Kind::Directory {
            return make_directory(dir.as_fd(), file_name).context(attempt);
        }
        check_space(directory, entry).context(attempt)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = match openat(&dir, file_name, flags, Mode::from_bits_truncate(0o600)) {
            Err(Errno::EEXIST) => return Err(invalid(format!("member {name} is there twice"))),
            other => File::from(other.context(attempt)?),
        };
        progress.total(self.tar.offset().saturating_add(entry.size));
        rootfs::write_sparse(&mut self.tar, &file, entry, progress).context(attempt)
    }
}

/// Checks a member; `None` for one that is left out.
fn admit(entry: &Entry, offset: u64, limits: &Limits) -> Result<Option<String>> {
    let refused = |why: &str| Err(invalid(format!("member {}: {why}", printable(&entry.path))));
    if offset.saturating_add(entry.size) > limits.total_bytes {
        return refused("the archive is too large");
    }
    let name = plain(&entry.path);
    if is_left_out(name) {
        return Ok(None);
    }
    if name == MANIFEST.as_bytes() || name == INDEX.as_bytes() {
        return refused(&format!("in an archive of migrate's {MANIFEST} is the first member"));
    }
    if !is_kept(name) {
        tracing::debug!(member = printable(name), "unknown member of a foreign archive left out");
        return Ok(None);
    }
    if name == PARENT {
        let message = "the archive continues an earlier one (checkpoint/parent): that cannot be restored";
        return Err(Error::new(ErrorKind::Unsupported, message)
            .with_hint("let its engine write a whole one, without --with-previous"));
    }
    if !matches!(entry.kind, Kind::File | Kind::Directory) {
        return refused("only regular files and directories are allowed");
    }
    let Some(text) = std::str::from_utf8(name).ok() else { return refused("a name that is not UTF-8") };
    let simple = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= 255;
    if text.len() > limits.path_length || !text.split('/').all(simple) {
        return refused("a name that is not in its simplest form");
    }
    let is_directory = [IMAGES, VOLUMES].map(plain_text).contains(&text);
    if (entry.kind == Kind::Directory) != is_directory && !text.starts_with(IMAGES) {
        return refused("a directory where a file must be, or the reverse");
    }
    if text.starts_with(VOLUMES) && !is_volume(text) {
        return refused("not the name of a volume's content");
    }
    let large = [IMAGES, VOLUMES].iter().any(|directory| text.starts_with(directory))
        || matches!(text, ROOTFS_OVER | DEVSHM);
    if !large && entry.size > limits.small_member {
        return refused("too large");
    }
    Ok(Some(text.to_owned()))
}

/// Reads a member that was unpacked and is small.
fn read_small(directory: BorrowedFd<'_>, name: &str) -> Result<Vec<u8>> {
    let attempt = || format!("read {name}");
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = File::from(openat(directory, name, flags, Mode::empty()).context(attempt)?);
    let mut bytes = Vec::new();
    file.take(SMALL_MAX).read_to_end(&mut bytes).context(attempt)?;
    Ok(bytes)
}

fn plain_text(directory: &str) -> &str {
    directory.trim_end_matches('/')
}

/// Makes a directory, if it is not there.
fn make_directory(at: BorrowedFd<'_>, name: &str) -> nix::Result<()> {
    match mkdirat(at, name, Mode::from_bits_truncate(0o700)) {
        Err(Errno::EEXIST) => Ok(()),
        other => other,
    }
}

/// Lays `rootfs-diff.tar`, compressed or not, over the files in `root`.
///
/// # Errors
/// As unpacking a root filesystem.
pub fn lay_over(
    difference: File,
    root: BorrowedFd<'_>,
    options: &UnpackOptions,
    progress: &mut dyn Progress,
) -> Result<()> {
    let mut tar = TarReader::new(decoded(difference)?, rootfs::STREAM);
    rootfs::unpack_over(&mut tar, root, Ground::Layers, options.devices, &options.limits, progress).map(drop)
}

/// Lays an archive's `rootfs-diff.tar` over the base in `root`, which it was compared with.
///
/// # Errors
/// As unpacking a root filesystem.
pub fn lay_over_base(
    difference: File,
    root: BorrowedFd<'_>,
    options: &UnpackOptions,
    progress: &mut dyn Progress,
) -> Result<()> {
    let mut tar = TarReader::new(BufReader::with_capacity(128 << 10, difference), rootfs::STREAM);
    rootfs::unpack_over(&mut tar, root, Ground::Base, options.devices, &options.limits, progress).map(drop)
}

/// Removes the files in `root` that a `deleted.files` lists.
///
/// # Errors
/// `InvalidArchive` for what is no such list or leads elsewhere; else what the file system says.
pub fn remove_deleted(list: File, root: BorrowedFd<'_>, limits: &Limits) -> Result<()> {
    let mut bytes = Vec::new();
    list.take(limits.small_member).read_to_end(&mut bytes).context(|| format!("read {DELETED}"))?;
    rootfs::remove_listed(root, &bytes, limits.path_length)
}

/// Copies a tree of the caller's into the empty directory `to`, with everything that an archive keeps of files.
///
/// # Errors
/// As archiving and unpacking a root filesystem.
pub fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>, progress: &mut dyn Progress) -> Result<()> {
    let (reader, writer) = io::pipe().context(|| "make a pipe")?;
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let mut sink = Sink::new(writer, Compression::None)?;
            let plan = rootfs::plan(from)?;
            rootfs::emit(&plan, from, &mut sink, &mut ())?;
            sink.finish().map(drop)
        });
        let mut tar = TarReader::new(BufReader::with_capacity(128 << 10, reader), rootfs::STREAM);
        let written = rootfs::unpack(&mut tar, to, DeviceNodes::Any, &Limits::default(), progress);
        drop(tar);
        let read = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // Each fails when the other does; the one that cannot be about the pipe is the cause.
        match (read, written) {
            (Err(error), Err(_)) if error.kind() != ErrorKind::System => Err(error),
            (_, Err(error)) => Err(error),
            (read, Ok(_)) => read,
        }
    })
}
