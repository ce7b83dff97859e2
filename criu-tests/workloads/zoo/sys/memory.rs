// SPDX-License-Identifier: Apache-2.0
//! Mappings that no reference points into: they are read and written by system calls, which say `EFAULT` where a load or
//! a store would end the process.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::check;

/// A mapping, or a part of the address space that behaves as one. It stays until the process ends or it is unmapped.
#[derive(Debug)]
pub(in crate::zoo) struct Map {
    at: usize,
    length: usize,
}

impl Map {
    /// Maps memory of nobody.
    pub(in crate::zoo) fn anonymous(length: usize, protection: i32, flags: i32) -> io::Result<Self> {
        Self::of(length, protection, flags | libc::MAP_ANONYMOUS, -1, 0)
    }

    /// Maps a file from `offset` on.
    pub(in crate::zoo) fn of_file(
        file: BorrowedFd<'_>,
        (offset, length): (i64, usize),
        protection: i32,
        flags: i32,
    ) -> io::Result<Self> {
        Self::of(length, protection, flags, file.as_raw_fd(), offset)
    }

    fn of(length: usize, protection: i32, flags: i32, fd: i32, offset: i64) -> io::Result<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, fd, offset) };
        if at == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(Self { at: at.addr(), length })
        }
    }

    /// Raises the end of the data segment and takes what is new.
    pub(in crate::zoo) fn of_break(length: usize) -> io::Result<Self> {
        // SAFETY: sbrk only moves the end of the data segment; the allocator, which may use it too, asks for where it is.
        let at = unsafe { libc::sbrk(length.cast_signed()) };
        if at.addr() == usize::MAX {
            Err(io::Error::last_os_error())
        } else {
            Ok(Self { at: at.addr(), length })
        }
    }

    /// What lies at this address anyway, without owning it.
    pub(in crate::zoo) fn of_address(at: usize, length: usize) -> Self {
        Self { at, length }
    }

    /// Its first address.
    pub(in crate::zoo) fn at(&self) -> usize {
        self.at
    }

    /// Its length in bytes.
    pub(in crate::zoo) fn length(&self) -> usize {
        self.length
    }

    /// Reads as a load would, with an error for a fault.
    pub(in crate::zoo) fn read(&self, offset: usize, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: length };
        let remote = self.part(offset, length);
        // SAFETY: the kernel writes to the buffer, which is as long as told; it only reads at the other address, and checks it.
        let got =
            unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
        if got == length.cast_signed() { Ok(bytes) } else { Err(fault(got)) }
    }

    /// Writes as a store would, with an error for a fault.
    pub(in crate::zoo) fn write(&self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        assert!(offset + bytes.len() <= self.length, "only this mapping may be written to");
        let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let remote = self.part(offset, bytes.len());
        // SAFETY: the kernel reads the buffer and writes within this mapping only, into which no reference points.
        let put =
            unsafe { libc::process_vm_writev(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
        if put == bytes.len().cast_signed() { Ok(()) } else { Err(fault(put)) }
    }

    fn part(&self, offset: usize, length: usize) -> libc::iovec {
        libc::iovec { iov_base: std::ptr::without_provenance_mut(self.at + offset), iov_len: length }
    }

    /// mprotect(2) of a part.
    pub(in crate::zoo) fn protect(&self, offset: usize, length: usize, protection: i32) -> io::Result<()> {
        // SAFETY: no reference points into this mapping.
        check(unsafe { libc::mprotect(self.part(offset, 0).iov_base, length, protection) }.into()).map(drop)
    }

    /// madvise(2) of a part.
    pub(in crate::zoo) fn advise(&self, offset: usize, length: usize, advice: i32) -> io::Result<()> {
        // SAFETY: no reference points into this mapping, so its content may go.
        check(unsafe { libc::madvise(self.part(offset, 0).iov_base, length, advice) }.into()).map(drop)
    }

    /// mlock2(2) of the whole.
    pub(in crate::zoo) fn lock(&self, flags: u32) -> io::Result<()> {
        // SAFETY: plain numbers; locking changes no content.
        check(unsafe { libc::syscall(libc::SYS_mlock2, self.at, self.length, flags) }).map(drop)
    }

    /// Moves it to the address `to` below, which it replaces.
    pub(in crate::zoo) fn moved_over(&self, to: &Self) -> io::Result<Self> {
        let (from, flags) = (self.part(0, 0).iov_base, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED);
        // SAFETY: both are mappings into which no reference points, and the caller goes on with what this gives.
        let at = unsafe { libc::mremap(from, self.length, self.length, flags, to.part(0, 0).iov_base) };
        if at == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(Self { at: at.addr(), length: self.length })
        }
    }

    /// Unmaps a part.
    pub(in crate::zoo) fn unmap(&self, offset: usize, length: usize) -> io::Result<()> {
        assert!(offset + length <= self.length, "only this mapping may be unmapped");
        // SAFETY: no reference points into this mapping.
        check(unsafe { libc::munmap(self.part(offset, 0).iov_base, length) }.into()).map(drop)
    }

    /// Calls what was written to it: a function without arguments that gives a number.
    pub(in crate::zoo) fn call(&self) -> u32 {
        // SAFETY: the exhibit wrote a whole function of this processor here, and made it executable.
        let function: extern "C" fn() -> u32 =
            unsafe { std::mem::transmute(std::ptr::without_provenance::<()>(self.at)) };
        function()
    }

    /// Reads by a load of this thread, where the kernel may not.
    pub(in crate::zoo) fn look(&self, offset: usize) -> u8 {
        assert!(offset < self.length, "only this mapping may be read");
        // SAFETY: it lies in this mapping, which the exhibit has made readable.
        unsafe { std::ptr::without_provenance::<u8>(self.at + offset).read_volatile() }
    }

    /// Writes by a store of this thread, which a protection key can forbid where the kernel may write.
    pub(in crate::zoo) fn touch(&self, offset: usize, byte: u8) {
        assert!(offset < self.length, "only this mapping may be written to");
        // SAFETY: it lies in this mapping, which the exhibit has made writable, and into which no reference points.
        unsafe { std::ptr::without_provenance_mut::<u8>(self.at + offset).write_volatile(byte) }
    }
}

fn fault(result: isize) -> io::Error {
    if result < 0 { io::Error::last_os_error() } else { io::Error::from_raw_os_error(libc::EFAULT) }
}

/// A function that gives a number, as this processor's instructions.
#[cfg(target_arch = "x86_64")]
pub(in crate::zoo) fn code_that_gives(number: u32) -> Vec<u8> {
    // mov eax, number; ret
    [&[0xb8], number.to_le_bytes().as_slice(), &[0xc3]].concat()
}

/// A function that gives a number, as this processor's instructions.
#[cfg(target_arch = "aarch64")]
pub(in crate::zoo) fn code_that_gives(number: u32) -> Vec<u8> {
    // movz w0, low; movk w0, high, lsl 16; ret
    let [low, high] = [number & 0xffff, number >> 16];
    [0x5280_0000 | low << 5, 0x72a0_0000 | high << 5, 0xd65f_03c0]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect()
}

/// What the system call, the vDSO's `clock_gettime` and the system call again give.
pub(in crate::zoo) fn clocks(clock: libc::clockid_t) -> io::Result<[libc::timespec; 3]> {
    let mut times = [libc::timespec { tv_sec: 0, tv_nsec: 0 }; 3];
    // SAFETY: each is a structure that lives and that the kernel or the vDSO fills.
    unsafe {
        check(libc::syscall(libc::SYS_clock_gettime, clock, &raw mut times[0]))?;
        check(libc::clock_gettime(clock, &raw mut times[1]).into())?;
        check(libc::syscall(libc::SYS_clock_gettime, clock, &raw mut times[2]))?;
    }
    Ok(times)
}

/// An AIO context (io_setup(2)) with room for this many events.
pub(in crate::zoo) fn aio_context(events: u32) -> io::Result<u64> {
    let mut context = 0_u64;
    // SAFETY: the kernel writes the context's number, which is zero before as it demands.
    check(unsafe { libc::syscall(libc::SYS_io_setup, events, &raw mut context) })?;
    Ok(context)
}

/// Submits one `pread` of a file into `buffer` and gives what the finished event says of it: our number and the result.
pub(in crate::zoo) fn aio_read(
    context: u64,
    file: BorrowedFd<'_>,
    buffer: &Map,
    number: u64,
) -> io::Result<(u64, i64)> {
    aio_submit(context, file, buffer, number)?;
    aio_take(context)
}

/// Submits one `pread` of a file into `buffer`.
pub(in crate::zoo) fn aio_submit(
    context: u64,
    file: BorrowedFd<'_>,
    buffer: &Map,
    number: u64,
) -> io::Result<()> {
    // `struct iocb`: data, key and flags, opcode (0, a pread) with the descriptor in its upper half, buffer, bytes, offset.
    let fd = u64::from(file.as_raw_fd().cast_unsigned());
    let mut block = [number, 0, fd << 32, buffer.at as u64, buffer.length as u64, 0, 0, 0];
    let blocks = [&raw mut block];
    // SAFETY: one block, which the kernel reads before it returns; the buffer is a mapping that stays, without references.
    check(unsafe { libc::syscall(libc::SYS_io_submit, context, 1, blocks.as_ptr()) }).map(drop)
}

/// Waits for one event.
pub(in crate::zoo) fn aio_take(context: u64) -> io::Result<(u64, i64)> {
    // `struct io_event`: data, block, result, second result.
    let mut event = [0_u64; 4];
    let none = std::ptr::null::<libc::timespec>();
    // SAFETY: room for the one event that is asked for.
    check(unsafe { libc::syscall(libc::SYS_io_getevents, context, 1, 1, event.as_mut_ptr(), none) })?;
    Ok((event[0], event[2].cast_signed()))
}
