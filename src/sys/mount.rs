// SPDX-License-Identifier: Apache-2.0
//! The file-descriptor based mount system calls of Linux 5.2 (attributes: 5.12), which neither libc nor nix wraps.
//!
//! Owns the raw calls and their constants. Knows nothing of containers, paths to protect or mount options as
//! words. A mount made here is *detached* until [`attach`] puts it exactly on the file that an fd refers to, so
//! no path is walked at the moment of mounting; dropping a detached mount's fd unmounts it.
//!
//! Sources: open_tree(2), move_mount(2), fsopen(2), fsconfig(2), fsmount(2), mount_setattr(2), statx(2).

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;

/// Read-only.
pub const MOUNT_ATTR_RDONLY: u64 = 0x1;
/// Ignore set-user-ID and set-group-ID bits.
pub const MOUNT_ATTR_NOSUID: u64 = 0x2;
/// Device nodes cannot be opened.
pub const MOUNT_ATTR_NODEV: u64 = 0x4;
/// Programs cannot be executed.
pub const MOUNT_ATTR_NOEXEC: u64 = 0x8;
/// The field that holds the access-time mode; to change the mode, clear the whole field.
pub const MOUNT_ATTR_ATIME: u64 = 0x70;
/// Access times relative to modification times: the value of the field when nothing is set.
pub const MOUNT_ATTR_RELATIME: u64 = 0x0;
/// No access times.
pub const MOUNT_ATTR_NOATIME: u64 = 0x10;
/// Always update access times.
pub const MOUNT_ATTR_STRICTATIME: u64 = 0x20;
/// No access times on directories.
pub const MOUNT_ATTR_NODIRATIME: u64 = 0x80;
/// Symbolic links on this mount are not followed.
pub const MOUNT_ATTR_NOSYMFOLLOW: u64 = 0x20_0000;
/// Owners of files are seen through a user namespace's mapping; see [`Attributes::id_map`].
const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;

const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x04;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
/// linux/stat.h; the C library's constants do not have it everywhere.
const STATX_MNT_ID_UNIQUE: libc::c_uint = 0x4000;
const EMPTY: &CStr = c"";

/// Longest key and value, in bytes, that one `fsconfig` call takes (`strndup_user(.., 256)` in fs/fsopen.c).
pub const FSCONFIG_MAX: usize = 255;

/// Whether a call concerns one mount or the whole tree below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// This mount alone.
    Mount,
    /// This mount and all mounts below it.
    Tree,
}

impl Extent {
    fn at_flags(self) -> libc::c_uint {
        let flags = match self {
            Extent::Mount => libc::AT_EMPTY_PATH,
            Extent::Tree => libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
        };
        flags.cast_unsigned()
    }
}

/// What [`set_attributes`] changes: `MOUNT_ATTR_*` bits, first cleared, then set. The layout is the kernel's
/// `struct mount_attr`, version 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Attributes {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear; [`MOUNT_ATTR_ATIME`] as a whole whenever an access-time mode is set.
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE`, or 0 for no change.
    pub propagation: u64,
    userns_fd: u64,
}

impl Attributes {
    /// Attributes without a change of propagation.
    pub fn new(set: u64, clear: u64) -> Self {
        Self { set, clear, ..Self::default() }
    }

    /// A change of propagation alone; `kind` is one `MS_*` propagation bit.
    pub fn propagation(kind: u64) -> Self {
        Self { propagation: kind, ..Self::default() }
    }

    /// Shows the owners of files through the mapping of this user namespace, whose descriptor must stay open until the
    /// attributes are set. Only a mount that is still detached takes it.
    pub fn id_map(user_namespace: BorrowedFd<'_>) -> Self {
        let fd = u64::from(user_namespace.as_raw_fd().unsigned_abs());
        Self { set: MOUNT_ATTR_IDMAP, userns_fd: fd, ..Self::default() }
    }
}

/// A detached copy of the mount at `source` (a bind mount that is nowhere yet): open_tree(2) with
/// `OPEN_TREE_CLONE`. The result refers to the copy's root: the file or directory that `source` refers to.
///
/// # Errors
/// The system call's: `EINVAL` for an unbindable mount or a mount of another namespace, `EPERM`.
pub fn clone_tree(source: BorrowedFd<'_>, extent: Extent) -> Result<OwnedFd, Errno> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | extent.at_flags();
    // SAFETY: the path is a valid C string that outlives the call, the fd is open; no other pointer is passed.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, source.as_raw_fd(), EMPTY.as_ptr(), flags) };
    owned(fd)
}

/// Puts the mount whose root `mount` refers to onto the file or directory that `target` refers to; a mount that
/// is attached elsewhere moves. `mount` keeps referring to the mount's root.
///
/// # Errors
/// The system call's: `ENOTDIR` for a file on a directory or the reverse, `EINVAL`, `EPERM`.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: both paths are valid C strings that outlive the call and both fds are open.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            EMPTY.as_ptr(),
            target.as_raw_fd(),
            EMPTY.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    };
    Errno::result(done).map(drop)
}

/// Changes attributes or propagation of the mount whose root `mount` refers to.
///
/// # Errors
/// The system call's: `EPERM` for a locked attribute, `EINVAL` if `mount` is not a mount's root, `ENOSYS` before
/// Linux 5.12.
pub fn set_attributes(mount: BorrowedFd<'_>, attributes: &Attributes, extent: Extent) -> Result<(), Errno> {
    // SAFETY: the path is a valid C string; `attributes` points to a live `repr(C)` struct of exactly the size
    // that is passed, and the kernel only reads it.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            EMPTY.as_ptr(),
            extent.at_flags(),
            ptr::from_ref(attributes),
            size_of::<Attributes>(),
        )
    };
    Errno::result(done).map(drop)
}

/// The identity of the mount that `file` lies on, as in the first column of mountinfo: unique among the mounts
/// that exist.
///
/// # Errors
/// statx(2)'s; `ENOSYS` if the kernel does not report it (before Linux 5.8).
pub fn mount_id(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    mount_id_of_kind(file, libc::STATX_MNT_ID)?.ok_or(Errno::ENOSYS)
}

/// The identity of the mount that `file` lies on that no other mount ever has (Linux 6.8); on an older kernel that of
/// [`mount_id`], which a new mount may get once this one is gone.
///
/// # Errors
/// As [`mount_id`].
pub fn lasting_mount_id(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    match mount_id_of_kind(file, STATX_MNT_ID_UNIQUE)? {
        Some(id) => Ok(id),
        None => mount_id(file),
    }
}

fn mount_id_of_kind(file: BorrowedFd<'_>, kind: libc::c_uint) -> Result<Option<u64>, Errno> {
    // SAFETY: an all-zero statx buffer is a valid value of this plain C struct.
    let mut buffer: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a valid C string, the fd is open and `buffer` is writable for the whole call.
    let done = unsafe {
        libc::statx(
            file.as_raw_fd(),
            EMPTY.as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC,
            kind,
            &raw mut buffer,
        )
    };
    Errno::result(done)?;
    Ok((buffer.stx_mask & kind != 0).then_some(buffer.stx_mnt_id))
}

/// A filesystem being configured: between fsopen(2) and fsmount(2).
#[derive(Debug)]
pub struct FilesystemContext(OwnedFd);

impl FilesystemContext {
    /// Starts to configure a filesystem of the given type, such as `tmpfs`.
    ///
    /// # Errors
    /// The system call's: `ENODEV` for a type that the kernel does not know.
    pub fn open(fstype: &str) -> Result<Self, Errno> {
        let fstype = c_string(fstype)?;
        // SAFETY: `fstype` is a valid C string that outlives the call.
        let fd = unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC) };
        owned(fd).map(Self)
    }

    /// Sets an option without a value, such as `ro`.
    ///
    /// # Errors
    /// The system call's: `EINVAL` for an option that the filesystem does not know; see [`Self::message`].
    pub fn set_flag(&self, key: &str) -> Result<(), Errno> {
        self.configure(FSCONFIG_SET_FLAG, Some(key), None)
    }

    /// Sets an option with a value, such as `size=64k`.
    ///
    /// # Errors
    /// The system call's: `EINVAL` for an option or value that the filesystem refuses; see [`Self::message`].
    pub fn set_string(&self, key: &str, value: &str) -> Result<(), Errno> {
        self.configure(FSCONFIG_SET_STRING, Some(key), Some(value))
    }

    /// Creates the filesystem, or takes the one that exists for these options, and returns a detached mount of it.
    ///
    /// # Errors
    /// Those of fsconfig(2)'s `FSCONFIG_CMD_CREATE` and of fsmount(2).
    pub fn mount(&self, attributes: u64) -> Result<OwnedFd, Errno> {
        self.configure(FSCONFIG_CMD_CREATE, None, None)?;
        let attributes = libc::c_uint::try_from(attributes).map_err(|_| Errno::EINVAL)?;
        // SAFETY: only integers are passed.
        let fd = unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) };
        owned(fd)
    }

    /// What the kernel says about the last failure, if anything: the first error line of the context's log.
    pub fn message(&self) -> Option<String> {
        let mut line = [0_u8; 512];
        // The kernel returns one message per read, `ENODATA` at the end.
        while let Ok(length) = nix::unistd::read(self.0.as_fd(), &mut line) {
            let text = String::from_utf8_lossy(line.get(..length)?);
            if let Some(error) = text.strip_prefix("e ") {
                return Some(error.trim_end().to_owned());
            }
        }
        None
    }

    fn configure(&self, command: libc::c_uint, key: Option<&str>, value: Option<&str>) -> Result<(), Errno> {
        let key = key.map(c_string).transpose()?;
        let value = value.map(c_string).transpose()?;
        // SAFETY: each pointer is null or a valid C string that outlives the call; the fd is a context's.
        let done = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                command,
                key.as_deref().map_or(ptr::null(), CStr::as_ptr),
                value.as_deref().map_or(ptr::null(), CStr::as_ptr),
                0,
            )
        };
        Errno::result(done).map(drop)
    }
}

fn c_string(text: &str) -> Result<CString, Errno> {
    CString::new(text).map_err(|_| Errno::EINVAL)
}

fn owned(returned: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = Errno::result(returned)?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just returned this fd as new and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
