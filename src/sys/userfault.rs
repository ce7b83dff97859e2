// SPDX-License-Identifier: Apache-2.0
//! userfaultfd(2) from the side of who provides the memory: what a process asks for and does to its memory is read, pages
//! are put into it. Knows addresses; must not know where contents come from.
//!
//! The other side, CRIU, makes the descriptor and chooses its features (linux/userfaultfd.h).

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

const UFFDIO_WAKE: libc::Ioctl = 0x8010_aa02_u32 as libc::Ioctl;
const UFFDIO_COPY: libc::Ioctl = 0xc028_aa03_u32 as libc::Ioctl;
const UFFDIO_ZEROPAGE: libc::Ioctl = 0xc020_aa04_u32 as libc::Ioctl;

const EVENT_PAGEFAULT: u8 = 0x12;
const EVENT_FORK: u8 = 0x13;
const EVENT_REMAP: u8 = 0x14;
const EVENT_REMOVE: u8 = 0x15;
const EVENT_UNMAP: u8 = 0x16;

/// Messages that are read at once.
const MESSAGES: usize = 32;

#[repr(C)]
struct CopyArgument {
    to: u64,
    from: u64,
    length: u64,
    mode: u64,
    copied: i64,
}

#[repr(C)]
struct ZeroArgument {
    start: u64,
    length: u64,
    mode: u64,
    done: i64,
}

#[repr(C)]
struct Range {
    start: u64,
    length: u64,
}

/// `struct uffd_msg`: the event, and three numbers of it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    arguments: [u64; 3],
}

/// What a process asks for or has done. It waits until this has been read; after a fault, until the page is there.
#[derive(Debug)]
pub enum Event {
    /// A thread waits for the page with this address.
    Fault(u64),
    /// It has forked: the descriptor of the child, whose memory is what the parent's is now.
    Fork(Userfault),
    /// It has moved so many bytes.
    Remap {
        /// From this address.
        from: u64,
        /// To this one.
        to: u64,
        /// In bytes.
        length: u64,
    },
    /// Contents, or the mapping, are gone between these addresses.
    Removed(std::ops::Range<u64>),
}

/// What became of an attempt to put a page where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// So many bytes are there, at least a page, and who waited for them goes on.
    Bytes(u64),
    /// There is a page already.
    Exists,
    /// Nothing is mapped there, or something else.
    NoPlace,
    /// The process changes its memory at the moment: its events are to be read first.
    Busy,
    /// The process has ended.
    Ended,
}

/// The descriptor of one process's memory.
#[derive(Debug)]
pub struct Userfault(OwnedFd);

impl From<OwnedFd> for Userfault {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Userfault {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Userfault {
    /// Puts these bytes, whole pages, to this address.
    ///
    /// # Errors
    /// That of the call; what is to be expected is in [`Placed`].
    pub fn copy(&self, to: u64, bytes: &[u8]) -> io::Result<Placed> {
        let from = bytes.as_ptr() as u64;
        let mut argument = CopyArgument { to, from, length: bytes.len() as u64, mode: 0, copied: 0 };
        // SAFETY: UFFDIO_COPY reads and writes one such structure, and reads `length` bytes at `from`, which `bytes` borrows. It
        // writes to the memory of the process that the descriptor is of, never to ours: CRIU's tasks made it.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_COPY, &raw mut argument) };
        placed(done, argument.copied)
    }

    /// Puts a page of zeros there.
    ///
    /// # Errors
    /// As [`Userfault::copy`].
    pub fn zero(&self, start: u64, length: u64) -> io::Result<Placed> {
        let mut argument = ZeroArgument { start, length, mode: 0, done: 0 };
        // SAFETY: UFFDIO_ZEROPAGE reads and writes one such structure.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_ZEROPAGE, &raw mut argument) };
        placed(done, argument.done)
    }

    /// Lets threads go on that wait for these pages, which are there.
    ///
    /// # Errors
    /// That of the call.
    pub fn wake(&self, start: u64, length: u64) -> io::Result<()> {
        let mut range = Range { start, length };
        // SAFETY: UFFDIO_WAKE reads one such structure.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_WAKE, &raw mut range) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Reads what has been asked for and done until now; nothing if nothing has.
    ///
    /// # Errors
    /// That of read(2); `InvalidData` for an event that was not asked for.
    pub fn events(&self) -> io::Result<Vec<Event>> {
        let mut messages = [Message::default(); MESSAGES];
        let size = size_of_val(&messages);
        // SAFETY: read writes at most `size` bytes to `messages`, for which any bytes are valid.
        let read = unsafe { libc::read(self.0.as_raw_fd(), messages.as_mut_ptr().cast(), size) };
        let Ok(read) = usize::try_from(read) else {
            return match Errno::last() {
                Errno::EAGAIN | Errno::EINTR => Ok(Vec::new()),
                errno => Err(errno.into()),
            };
        };
        messages[..read / size_of::<Message>()].iter().map(event).collect()
    }
}

fn event(message: &Message) -> io::Result<Event> {
    let [first, second, third] = message.arguments;
    Ok(match message.event {
        // Flags, and then the address.
        EVENT_PAGEFAULT => Event::Fault(second),
        EVENT_FORK => {
            let number = i32::from_ne_bytes(
                first.to_ne_bytes()[..4].try_into().map_err(|_| io::ErrorKind::InvalidData)?,
            );
            // SAFETY: the kernel has installed this descriptor for this message in our table; nobody else knows its number.
            Event::Fork(Userfault(unsafe { OwnedFd::from_raw_fd(number) }))
        }
        EVENT_REMAP => Event::Remap { from: first, to: second, length: third },
        EVENT_REMOVE | EVENT_UNMAP => Event::Removed(first..second),
        other => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("event {other} of a userfaultfd"),
            ));
        }
    })
}

/// `count` is how many bytes, or an error number below zero; 0 when the kernel has not come so far.
fn placed(done: libc::c_int, count: i64) -> io::Result<Placed> {
    let errno = match u64::try_from(count) {
        Ok(0) if done != 0 => Errno::last_raw(),
        Ok(bytes) => return Ok(Placed::Bytes(bytes)),
        Err(_) => i32::try_from(-count).unwrap_or(libc::EIO),
    };
    match errno {
        libc::EEXIST => Ok(Placed::Exists),
        libc::ENOENT | libc::EINVAL => Ok(Placed::NoPlace),
        libc::EAGAIN => Ok(Placed::Busy),
        // Before Linux 4.13 it was the latter.
        libc::ESRCH | libc::ENOSPC => Ok(Placed::Ended),
        other => Err(io::Error::from_raw_os_error(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_answers_is_sorted_out() {
        assert_eq!(size_of::<Message>(), 32);
        assert_eq!(placed(0, 4096).expect("done"), Placed::Bytes(4096));
        assert_eq!(placed(-1, 8192).expect("in part"), Placed::Bytes(8192));
        for (errno, expected) in [
            (libc::EEXIST, Placed::Exists),
            (libc::ENOENT, Placed::NoPlace),
            (libc::EAGAIN, Placed::Busy),
            (libc::ESRCH, Placed::Ended),
        ] {
            assert_eq!(placed(-1, -i64::from(errno)).expect("expected"), expected);
        }
        let error = placed(-1, -i64::from(libc::ENOMEM)).expect_err("no memory");
        assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
    }

    const PAGE: usize = 4096;

    /// Memory of this process that is provided, as CRIU makes it; `None` where that is not allowed.
    fn provided(pages: usize) -> Option<(Userfault, u64)> {
        const API: libc::Ioctl = 0xc018_aa3f_u32 as libc::Ioctl;
        const REGISTER: libc::Ioctl = 0xc020_aa00_u32 as libc::Ioctl;
        // SAFETY: userfaultfd takes one integer, mmap makes a new mapping, and the others read and write one structure each.
        unsafe {
            let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK);
            if fd < 0 {
                return None;
            }
            let fault = Userfault(OwnedFd::from_raw_fd(fd as i32));
            // Fork, remap, remove and unmap are told.
            let mut api = [0xaa_u64, 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6, 0];
            if libc::ioctl(fault.0.as_raw_fd(), API, api.as_mut_ptr()) != 0 {
                return None;
            }
            let (length, both) = (pages * PAGE, libc::PROT_READ | libc::PROT_WRITE);
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let at = libc::mmap(std::ptr::null_mut(), length, both, flags, -1, 0) as u64;
            let mut register = [at, length as u64, 1, 0];
            assert_eq!(libc::ioctl(fault.0.as_raw_fd(), REGISTER, register.as_mut_ptr()), 0);
            Some((fault, at))
        }
    }

    fn next(fault: &Userfault) -> Event {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            if let Some(event) = fault.events().expect("read").into_iter().next() {
                return event;
            }
            assert!(std::time::Instant::now() < deadline, "there is no event");
            std::thread::yield_now();
        }
    }

    fn ignored(what: &str) {
        // Nobody may be there to read it.
        let _ = io::Write::write_all(&mut io::stderr(), format!("ignored, because {what}\n").as_bytes());
    }

    #[test]
    fn pages_are_brought_and_what_a_process_does_is_told() {
        let Some((fault, at)) = provided(8) else { return ignored("userfaultfd is not allowed") };
        let look = |address: u64| {
            // SAFETY: the mapping stays, and no reference points into it.
            std::thread::spawn(move || unsafe {
                std::ptr::without_provenance::<u8>(address as usize).read_volatile()
            })
        };
        let thread = look(at + 5);
        assert!(matches!(next(&fault), Event::Fault(address) if address - address % PAGE as u64 == at));
        assert_eq!(fault.copy(at, &[7; 2 * PAGE]).expect("copy"), Placed::Bytes(2 * PAGE as u64));
        assert_eq!(thread.join().expect("it goes on"), 7);
        assert_eq!(fault.copy(at, &[8; PAGE]).expect("copy"), Placed::Exists);
        let thread = look(at + 2 * PAGE as u64);
        assert!(matches!(next(&fault), Event::Fault(_)));
        assert_eq!(fault.zero(at + 2 * PAGE as u64, PAGE as u64).expect("zero"), Placed::Bytes(PAGE as u64));
        assert_eq!(thread.join().expect("it goes on"), 0);

        let pointer = |address: u64| std::ptr::without_provenance_mut::<libc::c_void>(address as usize);
        // SAFETY: no reference points into the mapping, so its contents and its place may change.
        let advised =
            std::thread::spawn(move || unsafe { libc::madvise(pointer(at), PAGE, libc::MADV_DONTNEED) });
        assert!(matches!(next(&fault), Event::Removed(range) if range == (at..at + PAGE as u64)));
        assert_eq!(advised.join().expect("it goes on"), 0);
        // SAFETY: as above; the child makes one system call.
        let child = std::thread::spawn(|| unsafe {
            match libc::fork() {
                0 => libc::_exit(0),
                pid => libc::waitpid(pid, std::ptr::null_mut(), 0),
            }
        });
        let Event::Fork(childs) = next(&fault) else { panic!("it has forked") };
        assert!(child.join().expect("it goes on") > 0);
        assert_eq!(childs.copy(at + 3 * PAGE as u64, &[9; PAGE]).expect("copy"), Placed::Ended);
        // SAFETY: as above; what it moves over is a mapping of this test's.
        let moved = std::thread::spawn(move || unsafe {
            let (length, flags) = (2 * PAGE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let place = libc::mmap(std::ptr::null_mut(), length, libc::PROT_NONE, flags, -1, 0);
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            libc::mremap(pointer(at + 4 * PAGE as u64), length, length, flags, place) as u64
        });
        let Event::Remap { from, to, length } = next(&fault) else { panic!("it has moved") };
        assert_eq!((from, length), (at + 4 * PAGE as u64, 2 * PAGE as u64));
        // The old place is told, too: it is not mapped any more.
        while !moved.is_finished() {
            fault.events().expect("read");
            std::thread::yield_now();
        }
        assert_eq!(moved.join().expect("it goes on"), to);
        let placed = loop {
            match fault.copy(to, &[3; PAGE]).expect("copy") {
                Placed::Busy => std::thread::yield_now(),
                placed => break placed,
            }
        };
        assert_eq!(placed, Placed::Bytes(PAGE as u64));
        assert_eq!(look(to).join().expect("it is there"), 3);
    }

    #[test]
    fn events_are_what_the_header_says() {
        let message = |event, arguments| Message { event, reserved: [0; 7], arguments };
        let of = |kind, arguments| event(&message(kind, arguments));
        assert!(matches!(of(EVENT_PAGEFAULT, [1, 0x5000, 0]), Ok(Event::Fault(0x5000))));
        assert!(matches!(of(EVENT_REMAP, [1, 2, 3]), Ok(Event::Remap { from: 1, to: 2, length: 3 })));
        assert!(matches!(of(EVENT_UNMAP, [1, 2, 0]), Ok(Event::Removed(range)) if range == (1..2)));
        assert!(of(0x77, [0; 3]).is_err());
    }
}
