// SPDX-License-Identifier: Apache-2.0
//! The kernel's `/proc`, and not what somebody has mounted on it.
//!
//! A write to `/proc/sys/x` or `/proc/self/attr/exec` can be led to another file by a mount on it or a link in its place
//! (CVE-2019-16884, CVE-2025-52881). So procfs is mounted anew, attached nowhere, where the kernel allows that; else
//! `/proc` is opened once and must be the root of a procfs. What is opened in it is opened beneath it, on the same
//! mount, without following links, and must be on procfs itself. Must not know what the files mean.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::beneath::open_beneath_same_mount;
use super::mount::{FilesystemContext, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID};

/// `PROC_ROOT_INO` of linux/proc_ns.h: no other file of a procfs has this inode number.
const ROOT_INODE: u64 = 1;

/// The root of a procfs, of the pid namespace that this process is in.
#[derive(Debug)]
pub struct Procfs(OwnedFd);

impl Procfs {
    /// Takes hold of it. Later changes of the mount table do not matter.
    ///
    /// # Errors
    /// `EINVAL` when `/proc` is no procfs, else that of opening it.
    pub fn open() -> io::Result<Self> {
        match Self::detached() {
            Ok(root) => Ok(Self(root)),
            Err(_) => Self::mounted(),
        }
    }

    /// One that is mounted nowhere. `EPERM` in a user namespace that sees no procfs without covered parts.
    fn detached() -> nix::Result<OwnedFd> {
        FilesystemContext::open("proc")?.mount(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)
    }

    fn mounted() -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let root = open("/proc", flags, Mode::empty())?;
        if !is_procfs(root.as_fd())? || fstat(&root)?.st_ino != ROOT_INODE {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "/proc is not the root of a procfs"));
        }
        Ok(Self(root))
    }

    /// Opens a file by its path from here, such as `sys/net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// `EXDEV` when something is mounted on the way or on the file, `ELOOP` for a link, else that of openat2(2).
    pub fn open_file(&self, path: &str, flags: OFlag) -> io::Result<OwnedFd> {
        let file = open_beneath_same_mount(self.0.as_fd(), path, flags, Mode::empty())?;
        if !is_procfs(file.as_fd())? {
            return Err(io::Error::from_raw_os_error(libc::EXDEV));
        }
        Ok(file)
    }

    /// Opens a file of the calling thread, by its path below `/proc/thread-self`, such as `attr/exec`. `pid` and `tid`
    /// as this procfs shows them are looked up.
    ///
    /// # Errors
    /// As [`Self::open_file`]; `ENOENT` when this procfs does not show the process.
    pub fn open_own(&self, path: &str, flags: OFlag) -> io::Result<OwnedFd> {
        // Made anew by the kernel for each reader, so this link cannot be a trap: `PID/task/TID`.
        let own = nix::fcntl::readlinkat(&self.0, "thread-self")?;
        let own = own.to_str().ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        self.open_file(&format!("{own}/{path}"), flags)
    }
}

fn is_procfs(fd: BorrowedFd<'_>) -> nix::Result<bool> {
    Ok(fstatfs(fd)?.filesystem_type() == PROC_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::Path;

    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    fn text(file: OwnedFd) -> String {
        io::read_to_string(File::from(file)).expect("readable")
    }

    #[test]
    fn files_are_read_and_links_are_not_followed() {
        for procfs in [Procfs::open(), Procfs::mounted()] {
            let procfs = procfs.expect("there is a procfs");
            let name = procfs.open_file("sys/kernel/ostype", OFlag::O_RDONLY).expect("open");
            assert_eq!(text(name), "Linux\n");
            let own = text(procfs.open_own("status", OFlag::O_RDONLY).expect("open"));
            let tid = nix::unistd::gettid();
            assert!(own.lines().any(|line| line == format!("Pid:\t{tid}")), "{own}");
            for link in ["self/status", "self/cwd", "mounts"] {
                let error = procfs.open_file(link, OFlag::O_RDONLY).expect_err("a link");
                assert_eq!(error.raw_os_error(), Some(libc::ELOOP), "{link}");
            }
        }
    }

    /// CVE-2025-52881 and CVE-2019-16884: something lies on the file, or on `/proc` itself.
    #[test]
    fn a_mount_on_the_way_is_an_error_or_not_seen() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let trap = tempfile::tempdir().expect("tempdir");
        let file = trap.path().join("ostype");
        std::fs::write(&file, "trap").expect("write");
        let work = || {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).expect("unshare");
            let none = None::<&Path>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("make / private");
            mount(Some(&file), "/proc/sys/kernel/ostype", none, MsFlags::MS_BIND, none).expect("bind");
            let covered = Procfs::mounted().expect("it is a procfs still");
            let error = covered.open_file("sys/kernel/ostype", OFlag::O_RDONLY).expect_err("covered");
            assert_eq!(error.raw_os_error(), Some(libc::EXDEV));
            let fresh = Procfs::open().expect("a fresh one");
            assert_eq!(text(fresh.open_file("sys/kernel/ostype", OFlag::O_RDONLY).expect("open")), "Linux\n");
            mount(Some(trap.path()), "/proc", none, MsFlags::MS_BIND, none).expect("bind");
            let error = Procfs::mounted().expect_err("it is a directory of somebody's");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        };
        std::thread::scope(|scope| scope.spawn(work).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}
