// SPDX-License-Identifier: Apache-2.0
//! A checkpoint into one file: before the dump the target is opened, while the processes stand still everything large
//! is written, afterwards come the statistics, the log and the index.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::SystemTime;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::Export;
use crate::archive::{
    ArchiveFile, ArchiveWriter, ContainerFacts, CriuVersion, Manifest, Progress, SmallMember, WriteOptions,
};
use crate::criu::Version;
use crate::engine::Container;
use crate::spec::{Config, oci};
use crate::{Context, Error, ErrorKind, Result, sys};

/// What the members after the hold may take: statistics, log and index.
const TAIL: u64 = 4 << 20;

/// A log larger than this is not taken along.
const LOG_LIMIT: u64 = 2 << 20;

/// Statistics larger than this are none.
const STATS_LIMIT: u64 = 64 << 10;

/// The archive in the making.
pub(super) struct Exporter {
    target: Option<Target>,
    manifest: Manifest,
    config: Vec<u8>,
    writer: Option<Writer>,
}

/// Where it goes.
enum Target {
    File(ArchiveFile),
    Stream(Box<dyn Write + Send>),
}

/// The writer once the manifest is written.
enum Writer {
    File(ArchiveWriter<ArchiveFile>),
    Stream(ArchiveWriter<Box<dyn Write + Send>>),
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

impl Exporter {
    /// Opens the target, so that a bad one is known before anything is frozen. `before` learns where the half archive
    /// will be, before it is there.
    pub(super) fn begin(
        export: Export,
        container: &Container,
        config: &Config,
        before: impl FnMut(&Path) -> Result<()>,
    ) -> Result<Self> {
        let target = match export {
            Export::File(path) => Target::File(ArchiveFile::create_after(&path, before)?),
            Export::Stream(stream) => Target::Stream(stream),
        };
        let mut manifest = Manifest::new(container.id().as_str(), SystemTime::now());
        manifest.kernel = sys::proc::kernel_release().context(|| "uname()")?;
        manifest.arch = sys::arch::NAME.to_owned();
        manifest.cpu_features = sys::proc::cpu_features().context(|| "read /proc/cpuinfo")?;
        manifest.container = ContainerFacts {
            hostname: config.spec.hostname().clone(),
            rootfs: true,
            terminal: config.spec.process().as_ref().and_then(oci::Process::terminal).unwrap_or(false),
        };
        Ok(Self { target: Some(target), manifest, config: config.bytes.clone(), writer: None })
    }

    /// Writes everything that the processes' memory and files consist of, while they stand still.
    pub(super) fn images_and_rootfs(
        &mut self,
        container: &Container,
        images: BorrowedFd<'_>,
        criu: Option<Version>,
        progress: &mut (dyn Progress + Send),
    ) -> Result<()> {
        if let Some(version) = criu {
            self.manifest.criu = CriuVersion { number: version.as_number(), text: version.to_string() };
            self.manifest.set_frozen_at(SystemTime::now());
        }
        let target =
            self.target.take().ok_or_else(|| Error::new(ErrorKind::System, "the archive was begun twice"))?;
        let options = WriteOptions::default();
        let mut writer = match target {
            Target::File(file) => Writer::File(ArchiveWriter::new(file, &options, &self.manifest)?),
            Target::Stream(stream) => Writer::Stream(ArchiveWriter::new(stream, &options, &self.manifest)?),
        };
        let rootfs = fs::File::open(&container.state().rootfs)
            .context(|| format!("open {}", container.state().rootfs.display()))?;
        on_either!(&mut writer, w => {
            w.spec(&self.config)?;
            w.images(images, progress)?;
            let summary = w.rootfs(rootfs.as_fd(), progress)?;
            if summary.skipped_sockets > 0 {
                tracing::debug!(sockets = summary.skipped_sockets, "socket files are made by whoever listens, not archived");
            }
        });
        if let Writer::File(w) = &mut writer {
            w.reserve(TAIL)?;
        }
        self.writer = Some(writer);
        Ok(())
    }

    /// Adds what is known only after the dump, and completes the archive; returns its size in bytes.
    pub(super) fn finish(self, work_dir: BorrowedFd<'_>) -> Result<u64> {
        let mut writer = self.writer.ok_or_else(|| {
            Error::new(ErrorKind::System, "criu ended without announcing the end of the dump")
        })?;
        for (name, limit, member) in
            [("stats-dump", STATS_LIMIT, SmallMember::Stats), ("dump.log", LOG_LIMIT, SmallMember::DumpLog)]
        {
            if let Some(bytes) = read_small(work_dir, Path::new(name), limit)? {
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
                let (mut stream, summary) = w.finish()?;
                stream.flush().context(|| "write the archive")?;
                Ok(summary.bytes_out)
            }
        }
    }
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
