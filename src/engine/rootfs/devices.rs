// SPDX-License-Identifier: Apache-2.0
//! The container's device nodes and the symbolic links beside them.
//!
//! Owns the default nodes of the runtime specification (config-linux.md, "Default Devices") and how a node is made:
//! mknod(2), then opened without following links and checked by fd, so that a node that was swapped meanwhile is
//! never chowned or trusted. Where mknod(2) is forbidden, the host's node is bind mounted. Must not know of cgroup
//! device rules.

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::spec::oci::{LinuxDevice, LinuxDeviceType};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, major, makedev, minor, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};
use serde::{Deserialize, Serialize};

use super::plan::absolute;
use super::resolve::{Links, Mountpoint, Root};
use crate::sys::mount::{Extent, attach, clone_tree, mount_id};
use crate::{Context, Error, ErrorKind, Result};

/// One device node, or named pipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DevicePlan {
    /// Absolute path in the container.
    pub path: PathBuf,
    /// What it is.
    pub kind: DeviceKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner, as seen in the container.
    pub uid: u32,
    /// Group, as seen in the container.
    pub gid: u32,
}

/// What a device node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DeviceKind {
    /// A character device.
    Char {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceKind::Char { major, minor } => write!(f, "character device {major}:{minor}"),
            DeviceKind::Block { major, minor } => write!(f, "block device {major}:{minor}"),
            DeviceKind::Fifo => f.write_str("named pipe"),
        }
    }
}

impl DeviceKind {
    fn file_type(self) -> SFlag {
        match self {
            DeviceKind::Char { .. } => SFlag::S_IFCHR,
            DeviceKind::Block { .. } => SFlag::S_IFBLK,
            DeviceKind::Fifo => SFlag::S_IFIFO,
        }
    }

    fn number(self) -> libc::dev_t {
        match self {
            DeviceKind::Char { major, minor } | DeviceKind::Block { major, minor } => {
                makedev(major.into(), minor.into())
            }
            DeviceKind::Fifo => 0,
        }
    }

    fn matches(self, stat: &FileStat) -> bool {
        stat.st_mode & SFlag::S_IFMT.bits() == self.file_type().bits()
            && (self == DeviceKind::Fifo || stat.st_rdev == self.number())
    }
}

/// `/dev/null`, whatever its path.
pub(super) const NULL: DeviceKind = DeviceKind::Char { major: 1, minor: 3 };

const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Links in `/dev`, made if nothing of that name is there; the last only if the kernel has `/proc/kcore`.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
];

/// The six default nodes and `linux.devices`; of two with one path the last counts.
pub(super) fn plan(configured: &[LinuxDevice]) -> Result<Vec<DevicePlan>> {
    let mut devices: Vec<DevicePlan> = DEFAULTS
        .iter()
        .map(|&(path, major, minor)| DevicePlan {
            path: PathBuf::from(path),
            kind: DeviceKind::Char { major, minor },
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .collect();
    for (index, device) in configured.iter().enumerate() {
        let planned = plan_device(index, device)?;
        // Always a link to the container's own multiplexer.
        if planned.path == Path::new("/dev/ptmx") {
            continue;
        }
        match devices.iter_mut().find(|known| known.path == planned.path) {
            Some(known) => *known = planned,
            None => devices.push(planned),
        }
    }
    Ok(devices)
}

fn plan_device(index: usize, device: &LinuxDevice) -> Result<DevicePlan> {
    let field = |name: &str| format!("linux.devices[{index}].{name}");
    let number = |name: &str, value: i64| {
        u32::try_from(value).map_err(|_| {
            Error::new(ErrorKind::InvalidConfig, format!("{}: {value} is no device number", field(name)))
        })
    };
    let major_minor = || Ok::<_, Error>((number("major", device.major())?, number("minor", device.minor())?));
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => {
            major_minor().map(|(major, minor)| DeviceKind::Char { major, minor })?
        }
        LinuxDeviceType::B => major_minor().map(|(major, minor)| DeviceKind::Block { major, minor })?,
        LinuxDeviceType::P => DeviceKind::Fifo,
        LinuxDeviceType::A => {
            let message = format!("{}: a node cannot be of type \"a\"", field("type"));
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
    };
    let path = absolute(&field("path"), device.path())?;
    if path.file_name().is_none() {
        let message = format!("{}: {} names no file", field("path"), device.path().display());
        return Err(Error::new(ErrorKind::InvalidConfig, message));
    }
    Ok(DevicePlan {
        path,
        kind,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

/// Makes the nodes and the links. The umask must be 0.
pub(super) fn create(root: &Root, devices: &[DevicePlan], by_bind: bool) -> Result<()> {
    // Devices lie in /dev nearly always: its fd is opened once.
    let mut parent: Option<(&Path, OwnedFd)> = None;
    for device in devices {
        let directory = device.path.parent().unwrap_or(Path::new("/"));
        let fd = match parent.take() {
            Some((path, fd)) if path == directory => fd,
            _ => root.open_or_create(directory, Mountpoint::Directory, Links::Follow)?.fd,
        };
        create_one(device, fd.as_fd(), by_bind)
            .context(|| format!("create device {} in the container", device.path.display()))?;
        parent = Some((directory, fd));
    }
    let dev = root.open_or_create(Path::new("/dev"), Mountpoint::Directory, Links::Follow)?.fd;
    create_links(dev.as_fd())
}

fn create_one(device: &DevicePlan, parent: BorrowedFd<'_>, by_bind: bool) -> Result<()> {
    let name = device.path.file_name().unwrap_or_default();
    if by_bind && device.kind != DeviceKind::Fifo {
        return bind_host_device(device, parent, name);
    }
    let statx = || "statx the mount's id";
    let mode = Mode::from_bits_truncate(device.mode);
    match mknodat(parent, name, device.kind.file_type(), mode, device.kind.number()) {
        // A node of the image's may be there already; whether it is the right one is checked below.
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(Errno::EPERM) => return bind_host_device(device, parent, name),
        Err(error) => return Err(error).context(|| "mknod"),
    }
    let node = open_node(parent, name)?;
    let stat = fstat(&node).context(|| "stat")?;
    require(device.kind, &stat, &device.path)?;
    // What the configuration has mounted here may be the host's own node: it keeps its owner and mode.
    if mount_id(node.as_fd()).context(statx)? != mount_id(parent).context(statx)? {
        return Ok(());
    }
    if stat.st_uid != device.uid || stat.st_gid != device.gid {
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        fchownat(&node, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)
            .context(|| format!("chown to {uid}:{gid}"))?;
    }
    if stat.st_mode & 0o7777 != device.mode {
        // An O_PATH fd cannot be given to fchmod(2); its link in /proc leads to exactly this node.
        let path = format!("/proc/self/fd/{}", node.as_raw_fd());
        nix::sys::stat::fchmodat(
            nix::fcntl::AT_FDCWD,
            path.as_str(),
            mode,
            nix::sys::stat::FchmodatFlags::FollowSymlink,
        )
        .context(|| format!("chmod to {:o}", device.mode))?;
    }
    Ok(())
}

fn open_node(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd> {
    openat(parent, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
        .context(|| "open without following links")
}

/// In the words that clients know.
fn require(kind: DeviceKind, stat: &FileStat, path: &Path) -> Result<()> {
    let path = path.display();
    let message = if kind.matches(stat) {
        return Ok(());
    } else if stat.st_mode & SFlag::S_IFMT.bits() == kind.file_type().bits() {
        let numbers = |device| format!("{}:{}", major(device), minor(device));
        let (found, expected) = (numbers(stat.st_rdev), numbers(kind.number()));
        format!("{path} has incorrect major:minor: {found} doesn't match expected {expected}")
    } else {
        format!("{path} has incorrect ftype: it is no {kind}")
    };
    Err(Error::new(ErrorKind::System, message).with_hint("remove the file from the root filesystem"))
}

fn bind_host_device(device: &DevicePlan, parent: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let source = open(&device.path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .context(|| "open the host's node of the same path")?;
    let stat = fstat(&source).context(|| "stat the host's node")?;
    require(device.kind, &stat, &device.path).context(|| "use the host's node of the same path")?;
    match mknodat(parent, name, SFlag::S_IFREG, Mode::empty(), 0) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(error) => return Err(error).context(|| "create the file to bind the host's node on"),
    }
    let target = open_node(parent, name)?;
    let stat = fstat(&target).context(|| "stat the file to bind the host's node on")?;
    if stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFLNK.bits() {
        return Err(Error::new(ErrorKind::System, "a symbolic link is in the device's place"));
    }
    let tree = clone_tree(source.as_fd(), Extent::Mount).context(|| "open_tree of the host's node")?;
    attach(tree.as_fd(), target.as_fd()).context(|| "bind the host's node")
}

fn create_links(dev: BorrowedFd<'_>) -> Result<()> {
    let kcore = Path::new("/proc/kcore").exists().then_some(("/proc/kcore", "core"));
    for (target, name) in LINKS.into_iter().chain(kcore) {
        match symlinkat(target, dev, name) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error).context(|| format!("link /dev/{name} in the container")),
        }
    }
    // Always the container's own instance, whatever the image has there.
    let link_ptmx = || symlinkat("pts/ptmx", dev, "ptmx");
    match link_ptmx() {
        Err(Errno::EEXIST) => unlinkat(dev, "ptmx", UnlinkatFlags::NoRemoveDir).and_then(|()| link_ptmx()),
        done => done,
    }
    .context(|| "link /dev/ptmx in the container")
}

/// Opens the container's `/dev/null` as a path fd and checks that it is the null device: a container that shares
/// its `/dev` could have put anything there (CVE-2025-31133).
pub(super) fn open_null(root: &Root) -> Result<OwnedFd> {
    let path = Path::new("/dev/null");
    let open = || {
        let null = root.open(path, Links::Refuse).context(|| "open without following links")?;
        require(NULL, &fstat(&null).context(|| "stat")?, path)?;
        Ok::<_, Error>(null)
    };
    open().context(|| "use /dev/null of the container")
}

/// Whether the fd is open on a null device.
pub(super) fn is_null(fd: BorrowedFd<'_>) -> Result<bool> {
    match fstat(fd) {
        Ok(stat) => Ok(NULL.matches(&stat)),
        // Not open at all.
        Err(Errno::EBADF) => Ok(false),
        Err(error) => Err(error).context(|| format!("stat fd {}", fd.as_raw_fd())),
    }
}
