// SPDX-License-Identifier: Apache-2.0
//! Owns `statx(2)`: what one call tells about a file, mount points included.
//!
//! Thin: no policy. Must not know why the caller asks.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// What `statx(2)` told about a file, never following a symbolic link in the last component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metadata {
    /// File type and permission bits, as `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes; of a symbolic link, the length of its target.
    pub size: u64,
    /// Number of hard links.
    pub links: u32,
    /// Inode number.
    pub inode: u64,
    /// Device that holds the file, major and minor.
    pub device: (u32, u32),
    /// Device that a device node stands for, major and minor.
    pub node: (u32, u32),
    /// Last modification: seconds since 1970 (negative before) and nanoseconds.
    pub modified: (i64, u32),
    /// Last change of the file or of what is known about it, in the same form. Nobody can set it.
    pub changed: (i64, u32),
    /// Whether the file is the root of a mount (Linux 5.8).
    pub mount_root: bool,
}

impl Metadata {
    /// The file type bits of the mode (`libc::S_IFREG` and so on).
    pub fn file_type(&self) -> u32 {
        self.mode & libc::S_IFMT
    }
}

/// Describes `name` in `dir`, or `dir` itself if `name` is empty.
///
/// # Errors
/// As `statx(2)`.
pub fn metadata_at(dir: BorrowedFd<'_>, name: &CStr) -> nix::Result<Metadata> {
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT;
    // SAFETY: `name` ends in NUL, `found` is writable for a whole `statx`, and all-zero is a valid value of it.
    let found = unsafe {
        let result =
            libc::statx(dir.as_raw_fd(), name.as_ptr(), flags, libc::STATX_BASIC_STATS, found.as_mut_ptr());
        Errno::result(result)?;
        found.assume_init()
    };
    let mount_root = libc::STATX_ATTR_MOUNT_ROOT as u64;
    Ok(Metadata {
        mode: u32::from(found.stx_mode),
        uid: found.stx_uid,
        gid: found.stx_gid,
        size: found.stx_size,
        links: found.stx_nlink,
        inode: found.stx_ino,
        device: (found.stx_dev_major, found.stx_dev_minor),
        node: (found.stx_rdev_major, found.stx_rdev_minor),
        modified: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
        changed: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
        mount_root: found.stx_attributes & mount_root != 0,
    })
}

/// Sets an extended attribute of the file that a descriptor, which may be a path descriptor, refers to (setxattr(2)).
///
/// # Errors
/// The system call's: `ENOTSUP` where the filesystem has none of this kind.
pub fn set_attribute(file: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> nix::Result<()> {
    // The call for descriptors refuses path descriptors; this link leads to exactly the same file.
    let path =
        std::ffi::CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|_| Errno::EINVAL)?;
    // SAFETY: path and name end in NUL, and `value` is readable for the length that is passed.
    let done = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(done).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn it_agrees_with_the_standard_library_and_knows_mount_points() {
        let root = fs::File::open("/").expect("open /");
        let ours = metadata_at(root.as_fd(), c"etc/passwd").expect("statx");
        let theirs = fs::metadata("/etc/passwd").expect("stat");
        assert_eq!((ours.mode, ours.uid, ours.gid), (theirs.mode(), theirs.uid(), theirs.gid()));
        assert_eq!((ours.size, ours.inode), (theirs.size(), theirs.ino()));
        assert_eq!(ours.modified, (theirs.mtime(), theirs.mtime_nsec() as u32));
        assert!(!ours.mount_root);
        assert!(metadata_at(root.as_fd(), c"proc").expect("statx").mount_root);
        assert_eq!(metadata_at(root.as_fd(), c"").expect("statx").file_type(), libc::S_IFDIR);
        assert_eq!(metadata_at(root.as_fd(), c"no such file"), Err(Errno::ENOENT));
    }
}
