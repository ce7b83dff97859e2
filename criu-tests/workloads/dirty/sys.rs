// SPDX-License-Identifier: Apache-2.0
//! Memory that is mapped, moved, given up and written to at a known address. Nothing else of this workload has unsafe code.
#![allow(unsafe_code)]

use std::io;
use std::ptr;

use nix::unistd::Pid;

pub(super) const PAGE: usize = 4096;

extern "C" fn wait_for_ever(_: *mut libc::c_void) -> libc::c_int {
    loop {
        // SAFETY: pause takes nothing.
        unsafe { libc::pause() };
    }
}

/// A child with the very memory of this process, that waits.
pub(super) fn sharer() -> io::Result<Pid> {
    // Never unmapped: the child stands on it.
    let stack = Mapping::new(16 * PAGE, Kind::PLAIN)?;
    let flags = libc::CLONE_VM | libc::SIGCHLD;
    // SAFETY: the child runs on a stack of its own, which grows downwards from there, and makes system calls only.
    let pid = unsafe { libc::clone(wait_for_ever, stack.pointer(stack.pages()), flags, ptr::null_mut()) };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(Pid::from_raw(pid)) }
}

/// Flags of mmap(2) besides those of private anonymous memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind(libc::c_int);

impl Kind {
    pub(super) const PLAIN: Self = Self(0);
    /// Nothing is set aside for it.
    pub(super) const SPARSE: Self = Self(libc::MAP_NORESERVE);
    /// Of pages of two megabytes that were set aside.
    pub(super) const HUGE: Self = Self(libc::MAP_HUGETLB);
}

/// A mapping of this process's own, to which there are no references: only its words are read and written, one at a time.
#[derive(Debug)]
pub(super) struct Mapping {
    start: usize,
    length: usize,
}

impl Mapping {
    pub(super) fn new(length: usize, kind: Kind) -> io::Result<Self> {
        Self::at(ptr::null_mut(), length, kind.0)
    }

    fn at(hint: *mut libc::c_void, length: usize, flags: libc::c_int) -> io::Result<Self> {
        let (both, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags);
        // SAFETY: a new mapping, over nothing or over what the caller has just unmapped.
        let at = unsafe { libc::mmap(hint, length, both, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: at.addr(), length })
    }

    pub(super) fn start(&self) -> usize {
        self.start
    }

    pub(super) fn pages(&self) -> usize {
        self.length / PAGE
    }

    /// Asks for pages of two megabytes where they fit.
    pub(super) fn want_huge_pages(&self) -> io::Result<()> {
        self.advise(0..self.pages(), libc::MADV_HUGEPAGE)
    }

    /// Gives these pages up: they read as zeros.
    pub(super) fn give_up(&self, pages: std::ops::Range<usize>) -> io::Result<()> {
        self.advise(pages, libc::MADV_DONTNEED)
    }

    fn advise(&self, pages: std::ops::Range<usize>, advice: libc::c_int) -> io::Result<()> {
        assert!(pages.end <= self.pages(), "{pages:?} of {}", self.pages());
        // SAFETY: the pages are of this mapping, to which there are no references.
        let done = unsafe { libc::madvise(self.pointer(pages.start), pages.len() * PAGE, advice) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Moves all of it to another address.
    pub(super) fn moved(self) -> io::Result<Self> {
        let new = Self::new(self.length, Kind::PLAIN)?;
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: both are mappings of this process to which there are no references; the old one is not used any more.
        let at = unsafe { libc::mremap(self.pointer(0), self.length, self.length, flags, new.pointer(0)) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(new) }
    }

    /// Unmaps it and maps new memory to the same address.
    pub(super) fn anew(self) -> io::Result<Self> {
        // SAFETY: there are no references to it; it is mapped anew at once, and there is no other thread.
        if unsafe { libc::munmap(self.pointer(0), self.length) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Self::at(self.pointer(0), self.length, libc::MAP_FIXED_NOREPLACE)
    }

    /// Lets nobody read or write this page, or everybody again.
    pub(super) fn protect(&self, page: usize, accessible: bool) -> io::Result<()> {
        assert!(page < self.pages(), "page {page} of {}", self.pages());
        let rights = if accessible { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_NONE };
        // SAFETY: the page is of this mapping, to which there are no references.
        let done = unsafe { libc::mprotect(self.pointer(page), PAGE, rights) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    pub(super) fn write(&self, page: usize, word: u64) {
        assert!(page < self.pages(), "page {page} of {}", self.pages());
        // SAFETY: an aligned word of this mapping, to which there are no references.
        unsafe { self.pointer(page).cast::<u64>().write_volatile(word) }
    }

    pub(super) fn read(&self, page: usize) -> u64 {
        assert!(page < self.pages(), "page {page} of {}", self.pages());
        // SAFETY: as in `write`; any bytes are a word.
        unsafe { self.pointer(page).cast::<u64>().read_volatile() }
    }

    fn pointer(&self, page: usize) -> *mut libc::c_void {
        ptr::with_exposed_provenance_mut(self.start + page * PAGE)
    }
}
