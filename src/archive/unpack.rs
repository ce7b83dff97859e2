// SPDX-License-Identifier: Apache-2.0
//! Owns the unpacking of an archive into private directories, and the verdict of its index.
//!
//! ```text
//! source ─▶ decompress (thread) ─▶ TarReader ─▶ Hashed ─▶ files          ─┐
//!                                                └─▶ TarReader ─▶ rootfs ─┴─▶ index: Ok or InvalidArchive
//! ```
//! Whatever is wrong, files were made only beneath the directories given. Must not know what is done with them.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::fd::{AsFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statvfs::fstatvfs;
use sha2::{Digest as _, Sha256};

use super::entry::{Entry, Kind};
use super::index::{Digest, Index, IndexEntry};
use super::limits::Limits;
use super::manifest::{Manifest, RootfsForm};
use super::member::{BASE, IMAGES, INDEX, Place, rootfs_name, volume_member};
use super::open::Archive;
use super::read_ahead::{ReadAhead, reading_ahead};
use super::rootfs::{self, DeviceNodes, UnpackedRootfs};
use super::tar_reader::TarReader;
use super::{Progress, failed, invalid, printable, unreadable};
use crate::sys::beneath::open_beneath;
use crate::{Context, Error, ErrorKind, Result};

/// How an archive is unpacked.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct UnpackOptions {
    /// What the archive may ask for.
    pub limits: Limits,
    /// Which device nodes the root filesystem may hold.
    pub devices: DeviceNodes,
}

/// An archive that was unpacked and whose index has verified.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct UnpackedCheckpoint {
    /// The facts about the checkpoint.
    pub manifest: Manifest,
    /// What became of the root filesystem; `None` if there is none in the archive or it was not asked for.
    pub rootfs: Option<UnpackedRootfs>,
    /// Whether `stats-dump` was in the archive.
    pub has_stats: bool,
    /// Whether `dump.log` was in the archive.
    pub has_dump_log: bool,
    /// Members, the index included.
    pub members: u64,
    /// Bytes of the uncompressed stream.
    pub bytes: u64,
}

impl<R: Read + Send> Archive<R> {
    /// Unpacks into `directory`, which must be fresh and private: `config.json`, `checkpoint/`, and the other members
    /// under their names; and the root filesystem into `rootfs`, or not at all. Of one that is only a difference there are
    /// `rootfs-diff.tar`, `deleted.files` and `migrate.base` in `directory`. Returns only when every member has been
    /// compared with the index. A thread decompresses meanwhile.
    ///
    /// # Errors
    /// `InvalidArchive`, naming the member, if the archive is truncated, damaged, or asks for what it must not;
    /// `Storage` if there is no room. What was made until then is left in the directories for the caller to remove.
    pub fn unpack_into(
        self,
        directory: BorrowedFd<'_>,
        rootfs: Option<BorrowedFd<'_>>,
        options: &UnpackOptions,
        progress: &mut dyn Progress,
    ) -> Result<UnpackedCheckpoint> {
        self.read(Some(directory), rootfs, options, &[], progress)
    }

    /// Reads all of it and compares every member with the index, as [`Archive::unpack_into`] does, but writes nothing.
    ///
    /// # Errors
    /// Those of [`Archive::unpack_into`] that are about the archive.
    pub fn verify(self, limits: &Limits, progress: &mut dyn Progress) -> Result<UnpackedCheckpoint> {
        let options = UnpackOptions { limits: limits.clone(), ..UnpackOptions::default() };
        self.read(None, None, &options, &[], progress)
    }

    /// [`Archive::unpack_into`] of an archive whose stream lacks the data of some members: their files are made, of the right
    /// size, and are empty.
    pub(super) fn unpack_without(
        self,
        absent: &[IndexEntry],
        directory: BorrowedFd<'_>,
        rootfs: Option<BorrowedFd<'_>>,
        options: &UnpackOptions,
        progress: &mut dyn Progress,
    ) -> Result<UnpackedCheckpoint> {
        self.read(Some(directory), rootfs, options, absent, progress)
    }

    fn read(
        self,
        directory: Option<BorrowedFd<'_>>,
        rootfs: Option<BorrowedFd<'_>>,
        options: &UnpackOptions,
        absent: &[IndexEntry],
        progress: &mut dyn Progress,
    ) -> Result<UnpackedCheckpoint> {
        let Self { tar, manifest, found } = self;
        let (tar, decoded) = tar.swap(());
        reading_ahead(decoded, |ahead| {
            let (tar, ()) = tar.swap(ahead);
            let place = Place::Manifest;
            let (total, seen) = (0, Seen::default());
            Unpack { tar, found, directory, rootfs, options, absent, progress, manifest, place, total, seen }
                .run()
        })
    }
}

/// Which optional members were there.
#[derive(Debug, Default)]
struct Seen {
    /// Under which name there was a root filesystem.
    rootfs: Option<String>,
    base: bool,
    /// The volumes, by the names of their members.
    volumes: Vec<String>,
    stats: bool,
    dump_log: bool,
}

struct Unpack<'a> {
    tar: TarReader<ReadAhead>,
    found: Vec<IndexEntry>,
    /// Where members are written to, if anywhere.
    directory: Option<BorrowedFd<'a>>,
    rootfs: Option<BorrowedFd<'a>>,
    options: &'a UnpackOptions,
    /// Members whose data is not in the stream.
    absent: &'a [IndexEntry],
    progress: &'a mut dyn Progress,
    manifest: Manifest,
    /// Where the last member belongs.
    place: Place,
    /// Bytes of data announced so far.
    total: u64,
    seen: Seen,
}

impl Unpack<'_> {
    fn run(mut self) -> Result<UnpackedCheckpoint> {
        let mut rootfs = None;
        let index = loop {
            let Some(entry) = self.tar.next()? else {
                return Err(invalid(format!("archive is truncated: {INDEX} is missing"))
                    .with_hint("export again: the archive was not written to its end"));
            };
            let (name, place) = self.admit(&entry)?;
            match place {
                Place::Index => break self.index(&entry)?,
                Place::Rootfs if !self.is_difference() => rootfs = self.rootfs(name)?,
                _ if entry.kind == Kind::Directory => self.make_directory(name)?,
                _ => self.file(name, place, &entry)?,
            }
        };
        self.expect_end()?;
        index.verify(&self.found)?;
        let container = &self.manifest.container;
        let promised = container.rootfs.then(|| rootfs_name(container.rootfs_form));
        let has_base = container.rootfs && self.is_difference();
        if promised != self.seen.rootfs.as_deref() || has_base != self.seen.base {
            return Err(invalid("migrate.json and the members disagree whether there is a root filesystem"));
        }
        if !container.volumes.iter().map(|volume| volume_member(&volume.name)).eq(self.seen.volumes) {
            return Err(invalid("migrate.json and the members disagree about volumes"));
        }
        Ok(UnpackedCheckpoint {
            manifest: self.manifest,
            rootfs,
            has_stats: self.seen.stats,
            has_dump_log: self.seen.dump_log,
            members: self.found.len() as u64 + 1,
            bytes: self.tar.offset(),
        })
    }

    /// Checks a member's name, kind, place and size against what may come next.
    fn admit(&mut self, entry: &Entry) -> Result<(String, Place)> {
        let limits = &self.options.limits;
        let refused = |why: String| Err(invalid(format!("member {}: {why}", printable(&entry.path))));
        let Ok(name) = String::from_utf8(entry.path.clone()) else {
            return refused("a name that is not UTF-8".into());
        };
        let plain = name.strip_suffix('/').unwrap_or(&name);
        let simple = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= 255;
        if name.len() > limits.path_length || !plain.split('/').all(simple) {
            return refused("a name that is not in its simplest form".into());
        }
        let is_directory = entry.kind == Kind::Directory;
        if !(is_directory || entry.kind == Kind::File) || is_directory != name.ends_with('/') {
            return refused("only regular files and directories are allowed".into());
        }
        let schema = self.manifest.schema;
        let place = match Place::of(&name, schema) {
            Some(place) if is_directory == place.is_directory() => place,
            Some(Place::Image) => Place::Image,
            _ => return refused("a name that archives of this schema do not have".into()),
        };
        if !self.place.may_be_followed_by(place, schema) {
            return refused("it is there twice or out of order, or one before it is missing".into());
        }
        self.place = place;
        if self.found.len() as u64 >= limits.members {
            return refused(format!("more than {} members", limits.members));
        }
        let end = self.tar.offset().saturating_add(entry.size);
        if end > limits.total_bytes {
            return refused(format!(
                "the archive would have {end} bytes, at most {} are allowed",
                limits.total_bytes
            ));
        }
        if place.is_small() && entry.size > limits.small_member {
            return refused(format!("{} bytes, at most {} are allowed", entry.size, limits.small_member));
        }
        if !self.absent.iter().any(|absent| absent.name == name) {
            self.total += entry.size;
        }
        self.progress.total(self.total);
        Ok((name, place))
    }

    /// Whether the root filesystem is to be laid over another, once that is there: until then it is a file like others.
    fn is_difference(&self) -> bool {
        self.manifest.container.rootfs_form == RootfsForm::Diff
    }

    fn check_base(&mut self, marks: u64) -> Result<()> {
        self.seen.base = true;
        let Some(base) = &self.manifest.container.base else {
            return Err(invalid(format!("member {BASE}: migrate.json names no base")));
        };
        rootfs::check_facts(base, marks)
    }

    /// Writes a member of the private directory.
    fn file(&mut self, name: String, place: Place, entry: &Entry) -> Result<()> {
        let path = place.unpacked_name(self.manifest.schema).unwrap_or(&name);
        self.seen.stats |= place == Place::Stats;
        self.seen.dump_log |= place == Place::DumpLog;
        if place == Place::Rootfs {
            self.seen.rootfs = Some(name.clone());
        }
        if place == Place::Volume {
            self.seen.volumes.push(name.clone());
        }
        if place == Place::Base {
            self.check_base(entry.size)?;
        }
        let Some(directory) = self.directory else { return self.only_hash(name) };
        let attempt = || format!("unpack member {name}");
        check_space(directory, entry).context(attempt)?;
        let (parent, file_name) = path.rsplit_once('/').unwrap_or((".", path));
        let parent = open_parent(directory, parent, &name)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&parent, file_name, flags, Mode::from_bits_truncate(0o600));
        let file = File::from(file.map_err(|errno| not_made(errno, &name))?);
        if let Some(listed) = self.absent.iter().find(|absent| absent.name == name) {
            file.set_len(entry.size).context(attempt)?;
            let (size, offset) = (entry.size, self.tar.offset());
            self.found.push(IndexEntry { size, offset, ..listed.clone() });
            self.tar.pass_over();
            return Ok(());
        }
        let mut data = Hashed::new(&mut self.tar);
        rootfs::write_sparse(&mut data, &file, entry, self.progress).context(attempt)?;
        let entry = data.into_entry(name);
        self.found.push(entry);
        Ok(())
    }

    fn make_directory(&mut self, name: String) -> Result<()> {
        let Some(root) = self.directory else { return self.only_hash(name) };
        let path = name.trim_end_matches('/');
        let (parent, directory) = path.rsplit_once('/').unwrap_or((".", path));
        let parent = open_parent(root, parent, &name)?;
        mkdirat(&parent, directory, Mode::from_bits_truncate(0o700))
            .map_err(|errno| not_made(errno, &name))?;
        self.found.push(Hashed::new(&mut self.tar).into_entry(name));
        Ok(())
    }

    /// Reads a member that is not wanted anywhere.
    fn only_hash(&mut self, name: String) -> Result<()> {
        let mut data = Hashed::new(&mut self.tar);
        data.skip(self.progress).map_err(|error| unreadable(error, &name))?;
        self.found.push(data.into_entry(name));
        Ok(())
    }

    /// Unpacks the root filesystem, or only hashes it if it is not wanted.
    fn rootfs(&mut self, name: String) -> Result<Option<UnpackedRootfs>> {
        self.seen.rootfs = Some(name.clone());
        let Some(root) = self.rootfs else { return self.only_hash(name).map(|()| None) };
        let mut data = Hashed::new(&mut self.tar);
        let mut nested = TarReader::new(&mut data, rootfs::STREAM);
        let (devices, limits) = (self.options.devices, &self.options.limits);
        let unpacked = rootfs::unpack(&mut nested, root, devices, limits, self.progress)?;
        let entry = data.into_entry(name);
        self.found.push(entry);
        Ok(Some(unpacked))
    }

    fn index(&mut self, entry: &Entry) -> Result<Index> {
        let mut bytes = Vec::new();
        // Not allocated before it arrives: the size is only announced.
        self.tar.read_to_end(&mut bytes).map_err(|error| unreadable(error, INDEX))?;
        if bytes.len() as u64 != entry.size {
            return Err(invalid(format!("archive is truncated: it ends within {INDEX}")));
        }
        Index::from_bytes(&bytes)
    }

    /// The index is the last member, the tar ends after it, and so does the file.
    fn expect_end(&mut self) -> Result<()> {
        if let Some(entry) = self.tar.next()? {
            return Err(invalid(format!("member {} comes after {INDEX}", printable(&entry.path))));
        }
        self.tar.expect_end()
    }
}

/// What is unpacked as images must fit into the free space: better to know before than after writing it.
pub(super) fn check_space(directory: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
    let found = fstatvfs(directory).context(|| "look at the free space")?;
    let free = found.blocks_available().saturating_mul(found.fragment_size());
    if entry.size <= free {
        return Ok(());
    }
    let message = format!("{} bytes are needed, {free} are free", entry.size);
    Err(Error::new(ErrorKind::Storage, message).with_source(Errno::ENOSPC))
}

/// The data of the current member, hashed on its way.
struct Hashed<'a> {
    tar: &'a mut TarReader<ReadAhead>,
    hasher: Sha256,
    offset: u64,
    /// Bytes at the front of the buffer that the hasher has seen already.
    ahead: usize,
}

impl<'a> Hashed<'a> {
    fn new(tar: &'a mut TarReader<ReadAhead>) -> Self {
        let offset = tar.offset();
        Self { tar, hasher: Sha256::new(), offset, ahead: 0 }
    }

    /// What was found of the member, all of whose data has been read.
    fn into_entry(self, name: String) -> IndexEntry {
        let size = self.tar.offset() - self.offset;
        IndexEntry { name, size, offset: self.offset, sha256: Digest::of(self.hasher) }
    }

    fn skip(&mut self, progress: &mut dyn Progress) -> io::Result<()> {
        loop {
            let length = self.fill_buf()?.len();
            if length == 0 {
                return Ok(());
            }
            self.consume(length);
            progress.advance(length as u64);
        }
    }
}

impl BufRead for Hashed<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let bytes = self.tar.fill_buf()?;
        if let Some(new @ [_, ..]) = bytes.get(self.ahead..) {
            self.hasher.update(new);
            self.ahead = bytes.len();
        }
        Ok(bytes)
    }

    fn consume(&mut self, amount: usize) {
        self.tar.consume(amount);
        self.ahead -= amount;
    }
}

impl Read for Hashed<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let length = available.read(to)?;
        self.consume(length);
        Ok(length)
    }
}

pub(super) fn open_parent(root: BorrowedFd<'_>, path: &str, member: &str) -> Result<std::os::fd::OwnedFd> {
    open_beneath(root.as_fd(), path, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).map_err(|errno| {
        match errno {
            Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR | Errno::EXDEV => {
                invalid(format!("member {member}: its directory does not come before it")).with_source(errno)
            }
            _ => failed(errno, format!("create member {member}")),
        }
    })
}

fn not_made(errno: Errno, member: &str) -> Error {
    if errno == Errno::EEXIST && member.starts_with(IMAGES) && member != IMAGES {
        return invalid(format!("member {member} is there twice"));
    }
    failed(errno, format!("create member {member}"))
}
