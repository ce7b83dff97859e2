// SPDX-License-Identifier: Apache-2.0
//! This program's own executable in a form that a container cannot write to (CVE-2019-5736: a process in the
//! container reopens `/proc/PID/exe` of the runtime and overwrites the host's binary).
//!
//! The descriptor leads through a read-only mount of the one file that exists in no mount namespace: opening it
//! again for writing answers `EROFS`, and when the last descriptor of it is closed nobody can change the mount any
//! more. Nothing is copied. Where the kernel refuses such a mount, a sealed copy in memory does the same.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// This program's own executable.
pub fn path() -> &'static Path {
    Path::new("/proc/self/exe")
}

/// A descriptor to execute (with `AT_EMPTY_PATH`) that gives no way to write to the program's file.
///
/// # Errors
/// When neither the read-only mount nor the copy can be made.
pub fn sealed(program: &Path) -> io::Result<OwnedFd> {
    read_only_mount(program).or_else(|_| sealed_copy(program))
}

/// [`sealed`], as a copy that may be executed and not read by whoever does not own it. The kernel hides the process from
/// the first instruction on, even from the root of a user namespace that it is in by then, if this program's owner is
/// nobody there (`would_dump` in fs/exec.c).
///
/// # Errors
/// When the copy cannot be made.
pub fn sealed_and_hidden(program: &Path) -> io::Result<OwnedFd> {
    let copy = sealed_copy(program)?;
    nix::sys::stat::fchmod(&copy, nix::sys::stat::Mode::from_bits_truncate(0o111))?;
    Ok(copy)
}

fn read_only_mount(program: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(program.as_os_str().as_encoded_bytes())?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: open_tree reads the path, which lives through the call, and returns a new descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: open_tree has just made this descriptor for us alone.
    let tree = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: mount_setattr reads one mount_attr of the size given and an empty path.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(tree) } else { Err(io::Error::last_os_error()) }
}

fn sealed_copy(program: &Path) -> io::Result<OwnedFd> {
    Ok(super::fd::sealed_memfd(c"migrate", &fs::read(program)?)?.into())
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn neither_form_can_be_opened_for_writing() {
        let copy = sealed_copy(Path::new("/proc/self/exe")).expect("a copy in memory");
        let forms = if nix::unistd::geteuid().is_root() {
            vec![read_only_mount(Path::new("/proc/self/exe")).expect("a read-only mount"), copy]
        } else {
            vec![copy]
        };
        for form in forms {
            let path = format!("/proc/self/fd/{}", form.as_raw_fd());
            let opened = OpenOptions::new().append(true).open(&path);
            let refused = opened.and_then(|mut file| io::Write::write_all(&mut file, b"x"));
            refused.expect_err("the executable must not be writable");
        }
    }
}
