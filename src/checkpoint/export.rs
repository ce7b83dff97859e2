// SPDX-License-Identifier: Apache-2.0
//! A checkpoint into one file: before the dump the target is opened, while the processes stand still everything large
//! is written, afterwards come the statistics, the log and the index.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::hand_over::{Decide, MemoryTaker, TakeRest, TakeRootfs};
use super::volumes::Volume;
use super::{
    ArchiveLayout, ArchiveOptions, ArchivedRootfs, Export, Passed, ahead, base, network_status, passed,
    volumes,
};
use crate::archive::{
    ArchiveFile, ArchiveWriter, BaseTree, Completes, Compression, ContainerFacts, CriuVersion, Ending,
    EngineFacts, Layout, Manifest, PackedBase, Packer, Progress, Recipients, RootfsForm, SmallMember,
    WriteOptions,
};
use crate::criu::Version;
use crate::engine::Container;
use crate::pages::receive::Keeper;
use crate::spec::{Config, oci};
use crate::{Context, Error, ErrorKind, Result, sys};

/// What the members after the hold may take: statistics, log and index.
const TAIL: u64 = 4 << 20;

/// A log larger than this is not taken along.
const LOG_LIMIT: u64 = 2 << 20;

/// Statistics larger than this are none.
const STATS_LIMIT: u64 = 64 << 10;

/// The archive in the making.
pub(super) struct Exporter<'a> {
    target: Option<Target>,
    recipients: Option<Recipients>,
    layout: Layout,
    base: Option<BaseTree>,
    volumes: Vec<Volume>,
    network: Vec<u8>,
    manifest: Manifest,
    config: Vec<u8>,
    writer: Option<Writer>,
    progress: &'a mut (dyn Progress + Send),
    /// Bytes of memory that are in the archive and not among the images; `None` if all images are.
    pub(super) memory: Option<u64>,
    /// Who takes the memory instead of the archive.
    memory_to: Option<Box<dyn Keeper + Send>>,
    /// Who takes what it still needs of the memory when CRIU has listed it.
    rest: Option<TakeRest>,
    /// Who takes what it still needs of the root filesystem.
    rest_of_rootfs: Option<TakeRootfs>,
    /// Who says what becomes of the processes then.
    decide: Option<Decide>,
    /// Whether that is another host.
    for_peer: bool,
}

/// Where it goes.
enum Target {
    File(ArchiveFile),
    Stream(Box<dyn Write + Send>),
}

/// The writer once the manifest is written.
enum Writer {
    File(ArchiveWriter<ArchiveFile>),
    Stream(ArchiveWriter<Box<dyn Completes>>),
}

/// The same call on either writer.
macro_rules! on_either {
    ($writer:expr, $w:ident => $call:expr) => {
        match $writer {
            Writer::File($w) => $call,
            Writer::Stream($w) => $call,
        }
    };
}

impl<'a> Exporter<'a> {
    /// Opens the target, so that a bad one is known before anything is frozen. `before` learns where the half archive
    /// will be, before it is there.
    pub(super) fn begin(
        export: Export,
        options: &ArchiveOptions,
        container: &Container,
        config: &Config,
        progress: &'a mut (dyn Progress + Send),
        before: impl FnMut(&Path) -> Result<()>,
    ) -> Result<Self> {
        // What cannot be gone on from is known before anything is frozen, too.
        let layout = match &options.layout {
            ArchiveLayout::Full => Layout::Full,
            ArchiveLayout::Packed { base, around, identities } => {
                let read = |path: &PathBuf| PackedBase::read(path, around, identities);
                Layout::Packed(base.as_ref().map(read).transpose()?)
            }
        };
        let base = base::read(&container.state().rootfs, options)?;
        let volumes = volumes::of(container.id(), config, options)?;
        let network = network_status::of(container, config)?;
        let (mut memory_to, mut rest, mut rest_of_rootfs, mut decide) = (None, None, None, None);
        let for_peer = matches!(export, Export::Peer(_));
        let target = match export {
            Export::File(path) => Target::File(ArchiveFile::create_after(&path, before)?),
            Export::Stream(stream) => Target::Stream(stream),
            Export::Passed(Passed { file, take, give_up }) => {
                decide = Some(passed::decide(take, give_up));
                Target::File(ArchiveFile::create_after(&file, before)?)
            }
            Export::Peer(peer) => {
                match peer.memory {
                    MemoryTaker::OfCriu(keeper) => memory_to = Some(keeper),
                    MemoryTaker::Ahead(take) => rest = Some(take),
                }
                rest_of_rootfs = peer.rootfs;
                decide = Some(peer.decide);
                Target::Stream(peer.stream)
            }
        };
        let mut manifest = Manifest::new(container.id().as_str(), SystemTime::now());
        manifest.kernel = sys::proc::kernel_release().context(|| "uname()")?;
        manifest.arch = sys::arch::NAME.to_owned();
        manifest.cpu_features = sys::proc::cpu_features().context(|| "read /proc/cpuinfo")?;
        manifest.cgroup_version = Some(sys::proc::cgroup_version());
        manifest.container = ContainerFacts {
            hostname: config.spec.hostname().clone(),
            rootfs: options.rootfs != ArchivedRootfs::None,
            rootfs_form: rootfs_form(options, base.as_ref()),
            base: base.as_ref().map(BaseTree::facts),
            volumes: volumes.iter().map(|volume| volume.facts.clone()).collect(),
            terminal: config.spec.process().as_ref().and_then(oci::Process::terminal).unwrap_or(false),
        };
        manifest.engines = EngineFacts {
            image: options.rootfs_image.clone(),
            runtime: options.target_runtime.clone().or_else(own_path),
            volumes: options
                .target_volumes
                .as_ref()
                .map(|directory| directory.to_string_lossy().into_owned()),
            started: Some(container.state().created.clone()),
        };
        let recipients = options.recipients.clone();
        let (target, config) = (Some(target), config.bytes.clone());
        Ok(Self {
            target,
            recipients,
            layout,
            base,
            volumes,
            network,
            manifest,
            config,
            writer: None,
            progress,
            memory: None,
            memory_to,
            rest,
            rest_of_rootfs,
            decide,
            for_peer,
        })
    }

    /// Begins a file of memory.
    pub(super) fn begin_memory(&mut self, criu: Version, name: &str) -> Result<()> {
        if let Some(peer) = &mut self.memory_to {
            return peer.begin(name);
        }
        if self.writer.is_none() {
            self.begin_archive(Some(criu))?;
        }
        self.file()?.0.begin_image(name)
    }

    /// Takes memory from a stream.
    pub(super) fn memory(&mut self, mut from: &mut dyn Read, bytes: u64) -> Result<()> {
        if let Some(peer) = &mut self.memory_to {
            return peer.take(from, bytes);
        }
        let (writer, progress) = self.file()?;
        writer.image_data(&mut from, bytes, progress)
    }

    /// Ends the file of memory.
    pub(super) fn end_memory(&mut self) -> Result<()> {
        if let Some(peer) = &mut self.memory_to {
            return peer.end();
        }
        self.file()?.0.end_image()
    }

    /// Has what is left of the memory taken by who has taken most of it before.
    pub(super) fn rest_of_memory(&mut self, container: &Container, images: BorrowedFd<'_>) -> Result<()> {
        match self.rest.take() {
            Some(take) => take(&ahead::left(container, images)?),
            None => Ok(()),
        }
    }

    /// Who decides what becomes of the processes, if that is to be asked.
    pub(super) fn take_decide(&mut self) -> Option<Decide> {
        self.decide.take()
    }

    /// Whether somebody takes it over while CRIU holds the processes.
    pub(super) fn is_taken_over(&self) -> bool {
        self.decide.is_some()
    }

    /// Whether that is another host, which may have it although nobody knows here.
    pub(super) fn is_for_peer(&self) -> bool {
        self.for_peer
    }

    /// Lets the partial file stay from now on if memory is only there, and tells how to complete it.
    pub(super) fn keep(&mut self) -> Result<Option<Ending>> {
        if self.is_taken_over() {
            return Ok(None);
        }
        self.memory.map(|_| self.file()?.0.keep()).transpose()
    }

    fn file(&mut self) -> Result<(&mut ArchiveWriter<ArchiveFile>, &mut dyn Progress)> {
        match &mut self.writer {
            Some(Writer::File(writer)) => Ok((writer, &mut *self.progress)),
            _ => Err(Error::new(ErrorKind::System, "memory goes straight into files only")),
        }
    }

    /// Begins the archive, with all that comes before the images.
    fn begin_archive(&mut self, criu: Option<Version>) -> Result<()> {
        if let Some(version) = criu {
            self.manifest.criu = CriuVersion { number: version.as_number(), text: version.to_string() };
            self.manifest.set_frozen_at(SystemTime::now());
        }
        let target =
            self.target.take().ok_or_else(|| Error::new(ErrorKind::System, "the archive was begun twice"))?;
        let mut options = WriteOptions::default();
        let layout = std::mem::take(&mut self.layout);
        let manifest = &self.manifest;
        let is_packed = matches!(layout, Layout::Packed(_));
        let stream = |target: Box<dyn Completes>| -> Result<Writer> {
            let target = match layout {
                Layout::Packed(base) => {
                    let packer = Packer::new(target, &options, manifest, base)?;
                    // It compresses what is new.
                    options.compression = Compression::None;
                    Box::new(packer)
                }
                _ => target,
            };
            Ok(Writer::Stream(ArchiveWriter::new(target, &options, manifest)?))
        };
        let mut writer = match (target, &self.recipients) {
            (Target::File(file), None) if is_packed => stream(Box::new(file))?,
            (Target::File(file), None) => {
                Writer::File(ArchiveWriter::new(file, &WriteOptions::default(), manifest)?)
            }
            (Target::Stream(target), None) => stream(Box::new(target))?,
            (Target::File(file), Some(recipients)) => stream(Box::new(recipients.seal(file)?))?,
            (Target::Stream(target), Some(recipients)) => stream(Box::new(recipients.seal(target)?))?,
        };
        on_either!(&mut writer, w => w.spec(&self.config)?);
        self.writer = Some(writer);
        Ok(())
    }

    /// Writes everything that the processes' memory and files consist of, while they stand still: all of it that is not there yet.
    pub(super) fn images_and_rootfs(
        &mut self,
        container: &Container,
        images: BorrowedFd<'_>,
        criu: Option<Version>,
    ) -> Result<()> {
        let path = &container.state().rootfs;
        if let Some(take) = self.rest_of_rootfs.take() {
            take(fs::File::open(path).context(|| format!("open {}", path.display()))?.as_fd())?;
        }
        if self.writer.is_none() {
            self.begin_archive(criu)?;
        }
        let Self { writer: Some(writer), progress, .. } = self else { return Ok(()) };
        let rootfs = self.manifest.container.rootfs.then(|| fs::File::open(path)).transpose();
        let rootfs = rootfs.context(|| format!("open {}", path.display()))?;
        on_either!(writer, w => {
            w.images(images, *progress)?;
            if let Some(rootfs) = rootfs {
                let summary = match &self.base {
                    Some(base) => w.rootfs_difference(rootfs.as_fd(), base, *progress)?,
                    None => w.rootfs(rootfs.as_fd(), *progress)?,
                };
                if summary.skipped_sockets > 0 {
                    tracing::debug!(sockets = summary.skipped_sockets, "socket files are made by whoever listens, not archived");
                }
            }
            for volume in &self.volumes {
                let path = &volume.source;
                let root = fs::File::open(path).context(|| format!("open {}", path.display()))?;
                w.volume(&volume.facts.name, root.as_fd(), *progress)?;
            }
            w.bytes(SmallMember::Network, &self.network)?;
        });
        if let Writer::File(w) = writer {
            w.reserve(TAIL)?;
        }
        Ok(())
    }

    /// Adds what is known only after the dump, and completes the archive; returns its size in bytes. Without the directory
    /// of CRIU's log there is nothing to add.
    pub(super) fn finish(self, work_dir: Option<BorrowedFd<'_>>) -> Result<u64> {
        let mut writer = self.writer.ok_or_else(|| {
            Error::new(ErrorKind::System, "criu ended without announcing the end of the dump")
        })?;
        for (name, limit, member) in
            [("stats-dump", STATS_LIMIT, SmallMember::Stats), ("dump.log", LOG_LIMIT, SmallMember::DumpLog)]
        {
            if let Some(work_dir) = work_dir
                && let Some(bytes) = read_small(work_dir, Path::new(name), limit)?
            {
                on_either!(&mut writer, w => w.bytes(member, &bytes)?);
            }
        }
        match writer {
            Writer::File(w) => {
                let (file, summary) = w.finish()?;
                file.commit()?;
                Ok(summary.bytes_out)
            }
            Writer::Stream(w) => {
                let (stream, summary) = w.finish()?;
                Ok(stream.complete()?.unwrap_or(summary.bytes_out))
            }
        }
    }
}

/// Under which name the root filesystem goes into the archive. Engines that make it of an image lay a difference over it:
/// all of it is one, too.
fn rootfs_form(options: &ArchiveOptions, base: Option<&BaseTree>) -> RootfsForm {
    match (base, &options.rootfs_image) {
        (Some(_), _) => RootfsForm::Diff,
        (None, Some(_)) => RootfsForm::Over,
        (None, None) => RootfsForm::Full,
    }
}

/// This program's path, if that is text.
fn own_path() -> Option<String> {
    std::env::current_exe().ok()?.into_os_string().into_string().ok()
}

/// A small file that may be missing; one above the limit counts as missing.
fn read_small(dir: BorrowedFd<'_>, name: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let opened = openat(dir, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty());
    let file = match opened.map_err(io::Error::from) {
        Ok(fd) => fs::File::from(fd),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).context(|| format!("open {}", name.display())),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).context(|| format!("read {}", name.display()))?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}
