// SPDX-License-Identifier: Apache-2.0
//! What the kernel can tell of changes to memory: userfaultfd(2) with its features, and `PAGEMAP_SCAN`
//! (Documentation/admin-guide/mm/pagemap.rst). Only asks; changes nothing.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::pagemap::{PAGEMAP_SCAN, ScanArgument};
use super::write_tracking::{API, UFFDIO_API, UffdApi, WRITE_PROTECT_ASYNC};

/// What userfaultfd can do here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Userfaultfd {
    /// Writes are noted without anybody waiting for them (`UFFD_FEATURE_WP_ASYNC`).
    pub write_protect_async: bool,
}

/// Asks the kernel for its userfaultfd.
///
/// # Errors
/// `ENOSYS` for a kernel without, `EPERM` for a caller who may not.
pub fn userfaultfd() -> io::Result<Userfaultfd> {
    // SAFETY: userfaultfd takes one integer.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us alone.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let mut api = UffdApi { api: API, features: 0, ioctls: 0 };
    // SAFETY: UFFDIO_API reads and writes one such structure, which lives through the call.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, &raw mut api) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Userfaultfd { write_protect_async: api.features & WRITE_PROTECT_ASYNC != 0 })
}

/// Whether pages that were written to can be listed with `PAGEMAP_SCAN`.
///
/// # Errors
/// That of opening `/proc/self/pagemap`.
pub fn can_scan_pages() -> io::Result<bool> {
    let pagemap = File::open("/proc/self/pagemap")?;
    let mut argument = ScanArgument::default();
    // SAFETY: PAGEMAP_SCAN reads and writes one such structure, which lives through the call; it has no vector.
    let done = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut argument) };
    Ok(done >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ENOTTY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers() {
        // Both came with the same release.
        let scan = can_scan_pages().expect("our own pagemap");
        if let Ok(userfaultfd) = userfaultfd() {
            assert!(scan || !userfaultfd.write_protect_async);
        }
    }
}
