// SPDX-License-Identifier: Apache-2.0
//! What is told of a checkpoint, as data. The JSON form is stable: fields are added, not changed, within a schema. It is
//! described in docs/inspect.md.

use serde::Serialize;

use super::header::Header;
use super::host::Comparison;
use crate::archive::Contents;
use crate::criu::DumpStats;

/// Version of the JSON form.
pub(super) const SCHEMA: u32 = 1;

/// Whether environments are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Environment {
    /// They are secrets.
    #[default]
    Hidden,
    /// They were asked for.
    Shown,
}

/// What is in a checkpoint.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Version of this form.
    pub schema: u32,
    /// What was read.
    pub path: String,
    /// `archive`, `images` or `container`.
    pub form: &'static str,
    /// Of which container it is, and who made it.
    pub checkpoint: Header,
    /// How large it is.
    pub size: Sizes,
    /// How many of each there are.
    pub summary: Summary,
    /// What the dump cost.
    pub statistics: Option<Statistics>,
    /// How this host differs from the one that it is from.
    pub host: Vec<Comparison>,
    /// The processes, in the order of the images: parents first.
    pub processes: Vec<ProcessReport>,
    /// The mounts of the container.
    pub mounts: Vec<MountReport>,
    /// What could not be read, and why.
    pub problems: Vec<String>,
}

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Sizes {
    /// The archive as it lies there, or the images.
    pub file: u64,
    /// Before compression.
    pub unpacked: u64,
    /// CRIU's images.
    pub images: u64,
    /// Of these, pages of memory.
    pub memory_pages: u64,
    /// Of these, pages of the memory of AMD graphics processors.
    pub amd_gpu_pages: u64,
    /// The root filesystem, or what was changed in it.
    pub rootfs: u64,
}

impl Sizes {
    pub(super) fn of_archive(file: u64, contents: &Contents) -> Self {
        let mut sizes = Self { file, unpacked: contents.bytes, ..Self::default() };
        for (name, size) in &contents.files {
            match name.strip_prefix("checkpoint/") {
                Some(image) => sizes.add_image(image, *size),
                None if name.starts_with("rootfs") => sizes.rootfs = sizes.rootfs.saturating_add(*size),
                None => {}
            }
        }
        sizes
    }

    pub(super) fn add_image(&mut self, name: &str, size: u64) {
        self.images = self.images.saturating_add(size);
        if name.starts_with("pages-") {
            self.memory_pages = self.memory_pages.saturating_add(size);
        } else if name.starts_with("amdgpu-pages-") {
            self.amd_gpu_pages = self.amd_gpu_pages.saturating_add(size);
        }
    }
}

/// How many of each there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Processes.
    pub processes: usize,
    /// Threads of all.
    pub threads: usize,
    /// Descriptors of all.
    pub descriptors: usize,
    /// Of these, sockets.
    pub sockets: usize,
    /// Mounts.
    pub mounts: usize,
}

impl Summary {
    pub(super) fn of(processes: &[ProcessReport], mounts: &[MountReport]) -> Self {
        let descriptors = || processes.iter().flat_map(|process| &process.descriptors);
        Self {
            processes: processes.len(),
            threads: processes.iter().map(|process| process.threads.len()).sum(),
            descriptors: descriptors().count(),
            sockets: descriptors().filter(|descriptor| descriptor.socket.is_some()).count(),
            mounts: mounts.len(),
        }
    }
}

/// What the dump cost; times in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Statistics {
    /// Until all processes stood still.
    pub freezing_time: u64,
    /// How long they stood still after that.
    pub frozen_time: u64,
    /// Collecting memory.
    pub memdump_time: u64,
    /// Writing it.
    pub memwrite_time: u64,
    /// Pages looked at.
    pub pages_scanned: u64,
    /// Pages that the parent images have.
    pub pages_skipped_parent: u64,
    /// Pages written.
    pub pages_written: u64,
    /// Pages left to be asked for later.
    pub pages_lazy: u64,
}

impl Statistics {
    pub(super) fn of(stats: &DumpStats) -> Self {
        let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self {
            freezing_time: micros(stats.freezing),
            frozen_time: micros(stats.frozen),
            memdump_time: micros(stats.memory_dump),
            memwrite_time: micros(stats.memory_write),
            pages_scanned: stats.pages_scanned,
            pages_skipped_parent: stats.pages_skipped_parent,
            pages_written: stats.pages_written,
            pages_lazy: stats.pages_lazy,
        }
    }
}

/// A process. Its numbers are those in the container.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ProcessReport {
    /// Its number.
    pub pid: u32,
    /// Its parent's; 0 of the first.
    pub parent: u32,
    /// Its process group.
    pub group: u32,
    /// Its session.
    pub session: u32,
    /// Its threads, itself among them.
    pub threads: Vec<u32>,
    /// Its name.
    pub name: String,
    /// Its command line; nothing where its memory is elsewhere.
    pub command_line: Option<Vec<String>>,
    /// `alive`, `stopped`, `zombie` or `unknown`.
    pub state: &'static str,
    /// Of a zombie: how it ended, as wait(2) says it.
    pub exit_status: Option<u32>,
    /// Its effective user.
    pub uid: Option<u32>,
    /// Its effective group.
    pub gid: Option<u32>,
    /// Path of its program.
    pub program: Option<String>,
    /// Its working directory.
    pub directory: Option<String>,
    /// Its environment, if it was asked for and its memory is here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<Vec<String>>,
    /// Its descriptors.
    pub descriptors: Vec<OpenDescriptor>,
    /// Its memory.
    pub memory: Option<MemoryReport>,
}

/// A descriptor of a process.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct OpenDescriptor {
    /// Its number.
    pub fd: u32,
    /// `file`, `directory`, `device`, `pipe`, `fifo`, `socket`, `terminal`, `memfd`, `namespace`, `eventfd` …
    pub kind: &'static str,
    /// The path, or what stands for it, as `pipe:[7]`.
    pub path: Option<String>,
    /// Flags as of open(2), and `cloexec`.
    pub flags: Vec<&'static str>,
    /// Where it is read or written next.
    pub position: Option<u64>,
    /// Size of the file.
    pub size: Option<u64>,
    /// Whether a restore must be given it.
    pub external: bool,
    /// If it is a socket, which.
    pub socket: Option<SocketReport>,
}

/// A socket.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct SocketReport {
    /// `inet`, `inet6`, `unix`, `netlink`, `packet`.
    pub family: &'static str,
    /// `stream`, `dgram`, `seqpacket`, `raw`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `tcp`, `udp` …, or a number.
    pub protocol: String,
    /// `listen`, `established` …
    pub state: &'static str,
    /// Its inode on the source.
    pub inode: u32,
    /// Address and port, path, or `@` and an abstract name.
    pub local: Option<String>,
    /// What it is connected to.
    pub remote: Option<String>,
    /// Of a unix socket: the inode of its peer.
    pub peer: Option<u32>,
}

/// A mount.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct MountReport {
    /// Where, from the root of the container.
    pub mountpoint: String,
    /// The file system's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The device or what stands for it.
    pub source: String,
    /// What of the file system is mounted.
    pub root: String,
    /// Flags of the mount, as `ro`, and options of the file system.
    pub options: Vec<String>,
    /// The name under which a restore must give it, of one that comes from outside.
    pub external: Option<String>,
    /// The mount namespace, if there are several.
    pub namespace: u32,
}

/// Memory of a process.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct MemoryReport {
    /// Bytes that are mapped.
    pub mapped: u64,
    /// What is mapped, by kind and file, the largest first.
    pub areas: Vec<MappedArea>,
    /// Where its pages are; nothing without a table.
    pub pages: Option<Pages>,
}

/// All areas of one kind and file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MappedArea {
    /// `heap`, `stack`, `file`, `anonymous` …
    pub kind: &'static str,
    /// Path of a mapped file.
    pub path: Option<String>,
    /// How many areas.
    pub count: usize,
    /// Bytes of all.
    pub bytes: u64,
}

/// Numbers of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Pages {
    /// In the checkpoint.
    pub present: u64,
    /// In an earlier dump.
    pub in_parent: u64,
    /// Listed as zero.
    pub zero: u64,
    /// Still with the source.
    pub lazy: u64,
    /// Bytes of those that are present.
    pub bytes: u64,
}

impl Report {
    /// The sentences about what could not be read.
    pub(super) fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }
}
