// SPDX-License-Identifier: Apache-2.0
//! userfaultfd(2) from the side of who wants to know which pages are written to: memory is registered, and the kernel notes writes
//! by itself, without anybody waiting (`UFFD_FEATURE_WP_ASYNC`, Linux 6.7). What it has noted, `PAGEMAP_SCAN` tells.
//!
//! Memory that moves (mremap(2)) or is mapped anew, and that of a forked child, is not registered any more.

#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};

/// `UFFD_API` and `UFFDIO_API` of linux/userfaultfd.h.
pub(in crate::sys) const API: u64 = 0xaa;
pub(in crate::sys) const UFFDIO_API: libc::Ioctl = 0xc018_aa3f_u32 as libc::Ioctl;
const UFFDIO_REGISTER: libc::Ioctl = 0xc020_aa00_u32 as libc::Ioctl;
const UFFDIO_UNREGISTER: libc::Ioctl = 0x8010_aa01_u32 as libc::Ioctl;

/// `UFFDIO_REGISTER_MODE_WP`.
const MODE_WRITE_PROTECT: u64 = 1 << 1;
/// `UFFD_FEATURE_WP_ASYNC` (Linux 6.7).
pub(in crate::sys) const WRITE_PROTECT_ASYNC: u64 = 1 << 15;
/// `UFFD_FEATURE_WP_HUGETLBFS_SHMEM` and `UFFD_FEATURE_WP_UNPOPULATED`.
const HUGE_AND_SHARED: u64 = 1 << 12;
const UNPOPULATED: u64 = 1 << 13;

#[repr(C)]
pub(in crate::sys) struct UffdApi {
    pub(in crate::sys) api: u64,
    pub(in crate::sys) features: u64,
    pub(in crate::sys) ioctls: u64,
}

#[repr(C)]
struct Registration {
    start: u64,
    length: u64,
    mode: u64,
    ioctls: u64,
}

/// The memory of one process, whose writes are noted. Closed, nothing of it is left.
#[derive(Debug)]
pub struct WriteTracking(OwnedFd);

impl WriteTracking {
    /// Makes it of a userfaultfd that nothing was done with. It is of the process that made it, whoever has it.
    ///
    /// # Errors
    /// `EINVAL` for a kernel before Linux 6.7.
    pub fn begin(userfaultfd: OwnedFd) -> io::Result<Self> {
        let features = WRITE_PROTECT_ASYNC | HUGE_AND_SHARED | UNPOPULATED;
        let mut api = UffdApi { api: API, features, ioctls: 0 };
        // SAFETY: UFFDIO_API reads and writes one such structure, which lives through the call.
        let done = unsafe { libc::ioctl(userfaultfd.as_raw_fd(), UFFDIO_API, &raw mut api) };
        if done == 0 { Ok(Self(userfaultfd)) } else { Err(io::Error::last_os_error()) }
    }

    /// Notes writes to these addresses from now on. What is registered already may be among them.
    ///
    /// # Errors
    /// `EINVAL` for what is not mapped or cannot be tracked, `EBUSY` for what belongs to a userfaultfd of the process's own,
    /// `ENOMEM` when that memory is gone.
    pub fn register(&self, range: &Range<u64>) -> io::Result<()> {
        let length = range.end.saturating_sub(range.start);
        let mut argument = Registration { start: range.start, length, mode: MODE_WRITE_PROTECT, ioctls: 0 };
        // SAFETY: UFFDIO_REGISTER reads and writes one such structure.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_REGISTER, &raw mut argument) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Notes them no more.
    ///
    /// # Errors
    /// As [`WriteTracking::register`].
    pub fn unregister(&self, range: &Range<u64>) -> io::Result<()> {
        let mut argument = [range.start, range.end.saturating_sub(range.start)];
        // SAFETY: UFFDIO_UNREGISTER reads two numbers of 64 bits.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_UNREGISTER, argument.as_mut_ptr()) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::FromRawFd as _;

    use super::*;
    use crate::sys::pagemap::{Backing, Pagemap, Pages};

    const PAGE: usize = 4096;

    /// A mapping of this test's, to which there are no references.
    fn mapping(pages: usize) -> usize {
        let (both, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, which is never unmapped.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), pages * PAGE, both, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        at.expose_provenance()
    }

    fn write(address: usize) {
        // SAFETY: a byte of a mapping of this test's.
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(address).write_volatile(1) }
    }

    #[test]
    fn writes_to_registered_memory_are_told_once_and_holes_stay_holes() {
        // SAFETY: userfaultfd takes one integer.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
        let Ok(fd) = i32::try_from(fd).map_err(drop).and_then(|fd| if fd < 0 { Err(()) } else { Ok(fd) })
        else {
            return;
        };
        // SAFETY: the kernel has just made it for us alone.
        let Ok(tracking) = WriteTracking::begin(unsafe { OwnedFd::from_raw_fd(fd) }) else { return };
        let pagemap = Pagemap::open(nix::unistd::getpid().as_raw()).expect("our own");
        let start = mapping(8);
        let range = start as u64..(start + 8 * PAGE) as u64;
        let scan = |which| {
            let mut found = Vec::new();
            pagemap.scan(&range, Backing::Nothing, which, &mut found).map(|()| {
                let page = |address: u64| (address as usize - start) / PAGE;
                found.into_iter().map(|run| (page(run.start), page(run.end))).collect::<Vec<_>>()
            })
        };
        [1, 2, 5].into_iter().for_each(|page| write(start + page * PAGE));
        let unregistered = |result: io::Result<_>| result.expect_err("not registered").raw_os_error();
        assert_eq!(unregistered(scan(Pages::Written)), Some(libc::EPERM));
        tracking.register(&range).expect("registered");
        tracking.register(&range).expect("once more");
        assert_eq!(scan(Pages::Written).expect("scanned"), [(1, 3), (5, 6)]);
        assert_eq!(scan(Pages::Written).expect("scanned"), []);
        write(start + 5 * PAGE);
        write(start + 7 * PAGE);
        assert_eq!(scan(Pages::Written).expect("scanned"), [(5, 6), (7, 8)]);
        assert_eq!(scan(Pages::Written).expect("scanned"), []);
        for which in [Pages::All, Pages::Own, Pages::Any] {
            assert_eq!(scan(which).expect("scanned"), [(1, 3), (5, 6), (7, 8)], "{which:?}");
        }
        tracking.unregister(&range).expect("unregistered");
        assert_eq!(unregistered(scan(Pages::Written)), Some(libc::EPERM));
        assert!(tracking.register(&(0..PAGE as u64)).is_err(), "nothing is there");
    }
}
