// SPDX-License-Identifier: Apache-2.0
//! Owns the writing of an archive, member by member, in the order of [`super::member`].
//!
//! ```text
//! new ─▶ spec ─▶ images ─▶ [rootfs | rootfs_difference]        while the container is held frozen
//!        ─▶ [volume…] ─▶ [bytes(Network)] ─▶ [bytes(Stats)] ─▶ [bytes(DumpLog)] ─▶ finish
//! ```
//! Must not know CRIU: it takes directories and bytes.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use sha2::Sha256;

use super::entry::{BLOCK, Entry, Kind};
use super::index::{Digest, Index, IndexEntry};
use super::late::LateMembers;
use super::manifest::{Manifest, RootfsForm, SCHEMA};
use super::member::{
    BASE, DELETED, ENGINE_CONFIG, IMAGES, INDEX, MANIFEST, Place, SMALL_MAX, SPEC, STARTED, SmallMember,
    VOLUMES, WORK_FILES, rootfs_name, volume_member,
};
use super::rootfs::BaseTree;
use super::sink::Sink;
use super::{Progress, engine_config, printable, rootfs};
use crate::sys::beneath::open_beneath;
use crate::sys::metadata::metadata_at;
use crate::{Context, Error, ErrorKind, Result};

/// What errors call the longest part of it.
const ARCHIVE_ROOTFS: &str = "archive the root filesystem";

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// A plain tar.
    None,
    /// Zstandard with checksums, level 1 (fast) to 19 (small).
    Zstd {
        /// Level.
        level: i32,
    },
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd { level: 1 }
    }
}

impl Compression {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zstd { .. } => "zstd",
        }
    }
}

/// How an archive is written.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WriteOptions {
    /// Compression.
    pub compression: Compression,
    /// The time that the members carry.
    pub created: SystemTime,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { compression: Compression::default(), created: SystemTime::now() }
    }
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Members, the index included.
    pub members: u64,
    /// Bytes of the uncompressed stream.
    pub bytes_in: u64,
    /// Bytes that were written.
    pub bytes_out: u64,
    /// What the root filesystem consists of, if it is in the archive.
    pub rootfs: Option<RootfsSummary>,
}

/// What was written of a root filesystem.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RootfsSummary {
    /// Files of all kinds, the root directory included.
    pub entries: u64,
    /// Sockets, which are not in the archive: a tar cannot hold them.
    pub skipped_sockets: u64,
    /// Mount points, which are in the archive as empty directories or files.
    pub mount_points: u64,
}

/// An archive in the making. After an error it can only be dropped: no method makes it whole again.
pub struct ArchiveWriter<W: Write> {
    pub(super) sink: Sink<W>,
    pub(super) index: Vec<IndexEntry>,
    pub(super) mtime: (i64, u32),
    /// The last member that is complete; `None` after an error.
    pub(super) place: Option<Place>,
    manifest: Manifest,
    rootfs: Option<RootfsSummary>,
    /// Volumes that are complete.
    volumes: usize,
    total: u64,
    pub(super) late: LateMembers,
}

impl<W: Write> std::fmt::Debug for ArchiveWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArchiveWriter").field("place", &self.place).finish_non_exhaustive()
    }
}

/// An image file that is to be written: its path in the images directory, and its size if it is a file.
struct ImageFile {
    path: String,
    size: Option<u64>,
}

impl<W: Write> ArchiveWriter<W> {
    /// Begins an archive with its manifest; the manifest's `compression` is filled in.
    ///
    /// # Errors
    /// `InvalidInput` for a level out of range or a manifest above its limit; else as writing to `output`.
    pub fn new(output: W, options: &WriteOptions, manifest: &Manifest) -> Result<Self> {
        if let Compression::Zstd { level } = options.compression
            && !(1..=19).contains(&level)
        {
            let message = format!("compression level {level} is not one of 1 to 19");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let manifest = Manifest { compression: options.compression.name().into(), ..manifest.clone() };
        let seconds = options.created.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut writer = Self {
            sink: Sink::new(output, options.compression)?,
            index: Vec::new(),
            mtime: (i64::try_from(seconds).unwrap_or(0), 0),
            place: None,
            manifest,
            rootfs: None,
            volumes: 0,
            total: 0,
            late: LateMembers::default(),
        };
        writer.small(MANIFEST, &writer.manifest.to_bytes()?)?;
        writer.place = Some(Place::Manifest);
        Ok(writer)
    }

    /// Writes the container's configuration, the bytes of its `config.json`: as other engines want it, and as it is.
    ///
    /// # Errors
    /// `InvalidInput` out of order, above 64 MiB, or if it is no JSON object; else as writing.
    pub fn spec(&mut self, config: &[u8]) -> Result<()> {
        self.begin(Place::EngineConfig, ENGINE_CONFIG)?;
        self.small(ENGINE_CONFIG, &engine_config::config_dump(&self.manifest, config)?)?;
        self.small(SPEC, &engine_config::spec_dump(&self.manifest, config)?)?;
        self.small(STARTED, config)?;
        self.place = Some(Place::Started);
        Ok(())
    }

    /// Writes CRIU's images: every regular file in `directory` and its subdirectories, except the logs and
    /// statistics that CRIU leaves there when it has no work directory. Those that were written before with
    /// [`ArchiveWriter::begin_image`] must not be there.
    ///
    /// # Errors
    /// `Unsupported` for anything else in it (a link to a parent image directory), `System` if a file changes
    /// meanwhile; else as reading and writing.
    pub fn images(&mut self, directory: BorrowedFd<'_>, progress: &mut dyn Progress) -> Result<()> {
        self.begin_images()?;
        let mut files = Vec::new();
        list_images(directory, "", &mut files)?;
        self.expect(files.iter().filter_map(|file| file.size).sum(), progress);
        for image in files {
            let name = format!("{IMAGES}{}", image.path);
            let Some(size) = image.size else {
                self.directory(&name)?;
                continue;
            };
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
            let opened = open_beneath(directory, image.path.as_str(), flags, Mode::empty());
            let file = File::from(opened.context(|| format!("open image {}", image.path))?);
            self.member(&name, size, |sink| {
                sink.put_file(&file, size, &|| format!("image {}", image.path), progress)
            })?;
        }
        self.place = Some(Place::Image);
        Ok(())
    }

    /// Writes the whole root filesystem beneath `root`: nothing from other mounts, no sockets. Nobody may write to
    /// it meanwhile.
    ///
    /// # Errors
    /// `System`, naming the path, if a file changes meanwhile; `InvalidInput` if the manifest promised none; else
    /// as reading and writing.
    pub fn rootfs(&mut self, root: BorrowedFd<'_>, progress: &mut dyn Progress) -> Result<RootfsSummary> {
        if !self.manifest.container.rootfs {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "the manifest says that there is no root filesystem",
            ));
        }
        if self.manifest.container.rootfs_form == RootfsForm::Diff {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "the manifest says that there is only a difference",
            ));
        }
        let plan = rootfs::plan(root).context(|| ARCHIVE_ROOTFS)?;
        self.planned(&plan, root, progress)
    }

    /// Writes how the root filesystem beneath `root` differs from the base, what is gone, and what tells the base from
    /// others. For the rest as [`ArchiveWriter::rootfs`].
    ///
    /// # Errors
    /// As there; `InvalidInput` unless the manifest has the facts of this base; `Unsupported` for the name of something
    /// gone that is not UTF-8.
    pub fn rootfs_difference(
        &mut self,
        root: BorrowedFd<'_>,
        base: &BaseTree,
        progress: &mut dyn Progress,
    ) -> Result<RootfsSummary> {
        let container = &self.manifest.container;
        let is_this = container.base.as_ref().is_some_and(|facts| facts.digest == base.digest());
        if !container.rootfs || container.rootfs_form != RootfsForm::Diff || !is_this {
            return Err(Error::new(ErrorKind::InvalidInput, "the manifest names another base, or none"));
        }
        let difference =
            rootfs::difference(root, base).context(|| "compare the root filesystem with its base")?;
        let summary = self.planned(&difference.plan, root, progress)?;
        self.begin(Place::Deleted, DELETED)?;
        let deleted = serde_json::to_vec(&difference.deleted).context(|| format!("write {DELETED}"))?;
        self.small(DELETED, &deleted)?;
        self.small(BASE, base.marks())?;
        self.place = Some(Place::Base);
        Ok(summary)
    }

    /// Writes the planned part of the root filesystem.
    fn planned(
        &mut self,
        plan: &rootfs::Plan,
        root: BorrowedFd<'_>,
        progress: &mut dyn Progress,
    ) -> Result<RootfsSummary> {
        let name = rootfs_name(self.manifest.container.rootfs_form);
        self.begin(Place::Rootfs, name)?;
        self.expect(plan.file_bytes, progress);
        self.member(name, plan.size, |sink| {
            rootfs::emit(plan, root, sink, progress).context(|| ARCHIVE_ROOTFS)
        })?;
        let summary = RootfsSummary {
            entries: plan.entries(),
            skipped_sockets: plan.sockets(),
            mount_points: plan.mount_points(),
        };
        self.rootfs = Some(summary);
        self.place = Some(Place::Rootfs);
        Ok(summary)
    }

    /// Writes the next of the volumes that the manifest names: the tree beneath `root`. Nobody may write to it meanwhile.
    ///
    /// # Errors
    /// As [`ArchiveWriter::rootfs`]; `InvalidInput` if the manifest names another one, or none.
    pub fn volume(&mut self, name: &str, root: BorrowedFd<'_>, progress: &mut dyn Progress) -> Result<()> {
        if self.manifest.container.volumes.get(self.volumes).is_none_or(|next| next.name != name) {
            return Err(Error::new(ErrorKind::InvalidInput, "the manifest names another volume, or none"));
        }
        if self.volumes == 0 {
            self.begin(Place::VolumesDirectory, VOLUMES)?;
            self.directory(VOLUMES)?;
            self.place = Some(Place::VolumesDirectory);
        }
        let member = volume_member(name);
        self.begin(Place::Volume, &member)?;
        let attempt = || format!("archive volume {name}");
        let plan = rootfs::plan(root).context(attempt)?;
        self.expect(plan.file_bytes, progress);
        self.member(&member, plan.size, |sink| rootfs::emit(&plan, root, sink, progress).context(attempt))?;
        self.volumes += 1;
        self.place = Some(Place::Volume);
        Ok(())
    }

    /// Writes a member from memory.
    ///
    /// # Errors
    /// `InvalidInput` out of order or above 64 MiB; else as writing.
    pub fn bytes(&mut self, member: SmallMember, bytes: &[u8]) -> Result<()> {
        let place = member.place();
        self.begin(place, member.name())?;
        self.small(member.name(), bytes)?;
        self.place = Some(place);
        Ok(())
    }

    /// Writes the index and ends the archive. Returns where it was written to, which is still to be committed.
    ///
    /// # Errors
    /// `InvalidInput` if a member is missing; else as writing.
    pub fn finish(mut self) -> Result<(W, Summary)> {
        if self.manifest.container.rootfs && self.rootfs.is_none() {
            return Err(Error::new(ErrorKind::InvalidInput, "the manifest promises a root filesystem"));
        }
        self.late.must_be_settled()?;
        if self.manifest.container.volumes.len() != self.volumes {
            return Err(Error::new(ErrorKind::InvalidInput, "the manifest promises more volumes"));
        }
        self.begin(Place::Index, INDEX)?;
        let members = self.index.len() as u64 + 1;
        let bytes = Index::of(std::mem::take(&mut self.index)).to_bytes()?;
        // The first thing in a frame, so that it is found from the end.
        self.sink.cut()?;
        self.small(INDEX, &bytes)?;
        self.sink.put(&[0; 2 * BLOCK as usize])?;
        let bytes_in = self.sink.offset();
        let (output, bytes_out) = self.sink.finish()?;
        Ok((output, Summary { members, bytes_in, bytes_out, rootfs: self.rootfs }))
    }

    /// Checks that a member is next. Until it is complete the archive counts as broken.
    pub(super) fn begin(&mut self, place: Place, name: &str) -> Result<()> {
        match self.place.take() {
            Some(last) if last.may_be_followed_by(place, SCHEMA) => Ok(()),
            Some(last) => {
                self.place = Some(last);
                Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("member {name} out of order, after {last:?}"),
                ))
            }
            None => Err(Error::new(ErrorKind::InvalidInput, "an archive that failed is not continued")),
        }
    }

    /// Makes sure that an image may come next: after the directory of the images, or another one.
    pub(super) fn begin_images(&mut self) -> Result<()> {
        if self.place != Some(Place::Image) {
            self.begin(Place::ImagesDirectory, IMAGES)?;
            self.directory(IMAGES)?;
        }
        self.place = None;
        Ok(())
    }

    /// The end of the archive as it would be if no other member came, to be laid where it ends now.
    pub(super) fn end_so_far(&self) -> Result<Vec<u8>> {
        let end = ArchiveWriter {
            sink: self.sink.continued(Vec::new())?,
            index: self.index.clone(),
            mtime: self.mtime,
            place: self.place,
            manifest: self.manifest.clone(),
            rootfs: self.rootfs,
            volumes: self.volumes,
            total: self.total,
            late: LateMembers::default(),
        };
        Ok(end.finish()?.0)
    }

    /// So many bytes more are to come.
    pub(super) fn expect(&mut self, bytes: u64, progress: &mut dyn Progress) {
        self.total += bytes;
        progress.total(self.total);
    }

    pub(super) fn small(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        if bytes.len() as u64 > SMALL_MAX {
            let message = format!("member {name} has {} bytes, at most {SMALL_MAX} are allowed", bytes.len());
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        self.member(name, bytes.len() as u64, |sink| sink.put(bytes))
    }

    fn directory(&mut self, name: &str) -> Result<()> {
        let entry = Entry { mtime: self.mtime, ..Entry::new(name, Kind::Directory) };
        self.sink.header(&entry)?;
        let (offset, sha256) = (self.sink.offset(), Digest::of(Sha256::default()));
        self.index.push(IndexEntry { name: name.to_owned(), size: 0, offset, sha256 });
        Ok(())
    }

    /// Writes a member of `size` bytes, which `data` hands to the sink.
    fn member(&mut self, name: &str, size: u64, data: impl FnOnce(&mut Sink<W>) -> Result<()>) -> Result<()> {
        let entry = Entry { size, mtime: self.mtime, ..Entry::new(name, Kind::File) };
        self.sink.header(&entry)?;
        let offset = self.sink.offset();
        self.sink.begin_data(size)?;
        data(&mut self.sink)?;
        let sha256 = self.sink.end_data()?;
        self.index.push(IndexEntry { name: name.to_owned(), size, offset, sha256 });
        Ok(())
    }
}

/// Lists an images directory, sorted by name. `path` is empty, or ends in a slash.
fn list_images(root: BorrowedFd<'_>, path: &str, found: &mut Vec<ImageFile>) -> Result<()> {
    let attempt = || format!("list images directory {path}");
    let here = if path.is_empty() { "." } else { path };
    let opened =
        open_beneath(root, here, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()).context(attempt)?;
    let mut dir = Dir::from_fd(opened).context(attempt)?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        names.push(entry.context(attempt)?.file_name().to_owned());
    }
    names.sort_unstable();
    for name in names {
        let bytes = name.to_bytes();
        let text = OsStr::from_bytes(bytes).to_str();
        let is_work_file = path.is_empty() && text.is_some_and(|name| WORK_FILES.contains(&name));
        if matches!(bytes, b"." | b"..") || is_work_file {
            continue;
        }
        let text = text.ok_or_else(|| not_an_image(path, bytes))?;
        let metadata = metadata_at(dir.as_fd(), &name).context(|| format!("look at image {path}{text}"))?;
        let path = format!("{path}{text}");
        match metadata.file_type() {
            libc::S_IFREG => found.push(ImageFile { path, size: Some(metadata.size) }),
            libc::S_IFDIR => {
                let path = path + "/";
                found.push(ImageFile { path: path.clone(), size: None });
                list_images(root, &path, found)?;
            }
            _ => return Err(not_an_image(&path, b"")),
        }
    }
    Ok(())
}

fn not_an_image(path: &str, name: &[u8]) -> Error {
    let message = format!("image {path}{} is not a regular file with a plain name", printable(name));
    Error::new(ErrorKind::Unsupported, message)
        .with_hint("an archive holds complete images: dump without a parent image directory")
}
