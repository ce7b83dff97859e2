// SPDX-License-Identifier: Apache-2.0
//! Owns the writing of an archive, member by member, in the order of [`super::member`].
//!
//! ```text
//! new ─▶ spec ─▶ images ─▶ [rootfs]        while the container is held frozen
//!        ─▶ [bytes(Stats)] ─▶ [bytes(DumpLog)] ─▶ finish
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
use super::file::ArchiveFile;
use super::index::{Digest, Index, IndexEntry};
use super::manifest::Manifest;
use super::member::{IMAGES, INDEX, MANIFEST, Place, ROOTFS, SMALL_MAX, SPEC, SmallMember, WORK_FILES};
use super::sink::Sink;
use super::{Progress, printable, rootfs};
use crate::sys::beneath::open_beneath;
use crate::sys::metadata::metadata_at;
use crate::{Context, Error, ErrorKind, Result};

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
    sink: Sink<W>,
    index: Vec<IndexEntry>,
    mtime: (i64, u32),
    /// The last member that is complete; `None` after an error.
    place: Option<Place>,
    rootfs_promised: bool,
    rootfs: Option<RootfsSummary>,
    total: u64,
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
            rootfs_promised: manifest.container.rootfs,
            rootfs: None,
            total: 0,
        };
        writer.small(MANIFEST, &manifest.to_bytes()?)?;
        writer.place = Some(Place::Manifest);
        Ok(writer)
    }

    /// Writes the container's configuration: the bytes of its `config.json`.
    ///
    /// # Errors
    /// `InvalidInput` out of order or above 64 MiB; else as writing.
    pub fn spec(&mut self, config: &[u8]) -> Result<()> {
        self.begin(Place::Spec, SPEC)?;
        self.small(SPEC, config)?;
        self.place = Some(Place::Spec);
        Ok(())
    }

    /// Writes CRIU's images: every regular file in `directory` and its subdirectories, except the logs and
    /// statistics that CRIU leaves there when it has no work directory.
    ///
    /// # Errors
    /// `Unsupported` for anything else in it (a link to a parent image directory), `System` if a file changes
    /// meanwhile; else as reading and writing.
    pub fn images(&mut self, directory: BorrowedFd<'_>, progress: &mut dyn Progress) -> Result<()> {
        self.begin(Place::ImagesDirectory, IMAGES)?;
        let mut files = Vec::new();
        list_images(directory, "", &mut files)?;
        self.expect(files.iter().filter_map(|file| file.size).sum(), progress);
        self.directory(IMAGES)?;
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
        if !self.rootfs_promised {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "the manifest says that there is no root filesystem",
            ));
        }
        self.begin(Place::Rootfs, ROOTFS)?;
        let attempt = || "archive the root filesystem";
        let plan = rootfs::plan(root).context(attempt)?;
        self.expect(plan.file_bytes, progress);
        self.member(ROOTFS, plan.size, |sink| rootfs::emit(&plan, root, sink, progress).context(attempt))?;
        let summary = RootfsSummary {
            entries: plan.entries(),
            skipped_sockets: plan.sockets(),
            mount_points: plan.mount_points(),
        };
        self.rootfs = Some(summary);
        self.place = Some(Place::Rootfs);
        Ok(summary)
    }

    /// Writes a member from memory.
    ///
    /// # Errors
    /// `InvalidInput` out of order or above 64 MiB; else as writing.
    pub fn bytes(&mut self, member: SmallMember, bytes: &[u8]) -> Result<()> {
        let place = match member {
            SmallMember::Stats => Place::Stats,
            SmallMember::DumpLog => Place::DumpLog,
        };
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
        if self.rootfs_promised && self.rootfs.is_none() {
            return Err(Error::new(ErrorKind::InvalidInput, "the manifest promises a root filesystem"));
        }
        self.begin(Place::Index, INDEX)?;
        let members = self.index.len() as u64 + 1;
        let bytes = Index::of(std::mem::take(&mut self.index)).to_bytes()?;
        self.small(INDEX, &bytes)?;
        self.sink.put(&[0; 2 * BLOCK as usize])?;
        let bytes_in = self.sink.offset();
        let (output, bytes_out) = self.sink.finish()?;
        Ok((output, Summary { members, bytes_in, bytes_out, rootfs: self.rootfs }))
    }

    /// Checks that a member is next. Until it is complete the archive counts as broken.
    fn begin(&mut self, place: Place, name: &str) -> Result<()> {
        match self.place.take() {
            Some(last) if last.may_be_followed_by(place) => Ok(()),
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

    /// So many bytes more are to come.
    fn expect(&mut self, bytes: u64, progress: &mut dyn Progress) {
        self.total += bytes;
        progress.total(self.total);
    }

    fn small(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
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
        self.sink.begin_data()?;
        data(&mut self.sink)?;
        let sha256 = self.sink.end_data()?;
        self.sink.pad()?;
        self.index.push(IndexEntry { name: name.to_owned(), size, offset, sha256 });
        Ok(())
    }
}

impl ArchiveWriter<ArchiveFile> {
    /// Writes out what is held back and makes room for `bytes` more in the file, so that the members that are still
    /// to come cannot fail for want of space: to be called while the container can still go on at the source.
    ///
    /// # Errors
    /// `Storage` if there is no room.
    pub fn reserve(&mut self, bytes: u64) -> Result<()> {
        self.sink.flush()?;
        self.sink.target().reserve(bytes)
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
