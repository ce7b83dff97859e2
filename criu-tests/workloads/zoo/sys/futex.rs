// SPDX-License-Identifier: Apache-2.0
//! Mutexes that processes share (robust, priority-inheriting), bare futexes, restartable sequences.

use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::check;

/// A pthread mutex in memory that all processes forked after its making share.
#[derive(Clone, Copy)]
pub(in crate::zoo) struct Mutex(*mut libc::pthread_mutex_t);

// SAFETY: the memory is never unmapped, and a process-shared mutex may be used by every thread of every process.
unsafe impl Send for Mutex {}

/// What a [`Mutex`] is besides shared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::zoo) enum Kind {
    /// Who waits learns that the owner died.
    Robust,
    /// The owner inherits the priority of who waits.
    Inheriting,
}

/// What came of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::zoo) enum Locked {
    /// It is ours.
    Yes,
    /// It is ours, since its owner died.
    OwnerDied,
    /// Not in time.
    No,
}

fn done(errno: c_int) -> io::Result<()> {
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

impl Mutex {
    pub(in crate::zoo) fn new(kind: Kind) -> io::Result<Self> {
        let words = crate::sys::shared_words(size_of::<libc::pthread_mutex_t>().div_ceil(8))?;
        let at = words.as_ptr().cast_mut().cast::<libc::pthread_mutex_t>();
        let mut attributes = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        // SAFETY: the attributes are initialised first; the memory is large enough, aligned to a page, zeroed, shared and
        // used for nothing else, and it lives as long as the process.
        unsafe {
            done(libc::pthread_mutexattr_init(attributes.as_mut_ptr()))?;
            done(libc::pthread_mutexattr_setpshared(attributes.as_mut_ptr(), libc::PTHREAD_PROCESS_SHARED))?;
            done(match kind {
                Kind::Robust => {
                    libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST)
                }
                Kind::Inheriting => {
                    libc::pthread_mutexattr_setprotocol(attributes.as_mut_ptr(), libc::PTHREAD_PRIO_INHERIT)
                }
            })?;
            done(libc::pthread_mutex_init(at, attributes.as_ptr()))?;
        }
        Ok(Self(at))
    }

    /// Locks it, waiting at most this long.
    pub(in crate::zoo) fn lock(self, patience: Duration) -> io::Result<Locked> {
        let mut until = MaybeUninit::<libc::timespec>::uninit();
        // SAFETY: the clock fills the structure; the mutex was initialised and lives.
        let errno = unsafe {
            check(libc::clock_gettime(libc::CLOCK_REALTIME, until.as_mut_ptr()).into())?;
            let mut until = until.assume_init();
            until.tv_sec += patience.as_secs().cast_signed();
            libc::pthread_mutex_timedlock(self.0, &raw const until)
        };
        match errno {
            libc::EOWNERDEAD => Ok(Locked::OwnerDied),
            libc::ETIMEDOUT => Ok(Locked::No),
            errno => done(errno).map(|()| Locked::Yes),
        }
    }

    /// What the owner's death has left undone is done.
    pub(in crate::zoo) fn mend(self) -> io::Result<()> {
        // SAFETY: the mutex was initialised and lives; it is ours.
        done(unsafe { libc::pthread_mutex_consistent(self.0) })
    }

    pub(in crate::zoo) fn unlock(self) -> io::Result<()> {
        // SAFETY: the mutex was initialised and lives; a mutex that is not ours is refused.
        done(unsafe { libc::pthread_mutex_unlock(self.0) })
    }
}

/// Waits until the word is another than `seen`. Whether it is woken or finds another value makes no difference.
pub(in crate::zoo) fn wait_while(word: &AtomicU32, seen: u32) -> io::Result<()> {
    while word.load(Ordering::SeqCst) == seen {
        let none = std::ptr::null::<libc::timespec>();
        // SAFETY: the word lives, and no timeout is given.
        let result = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, seen, none) };
        match check(result) {
            Err(e) if !matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Wakes who waits for the word, in this process or another; gives how many.
pub(in crate::zoo) fn wake(word: &AtomicU32) -> io::Result<i64> {
    // SAFETY: the word lives.
    check(unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, c_int::MAX) })
}

/// Words that this process shares with its children.
pub(in crate::zoo) fn shared_words(count: usize) -> io::Result<&'static [AtomicU32]> {
    let words = crate::sys::shared_words(count.div_ceil(2))?;
    // SAFETY: an AtomicU64 is as good as two AtomicU32 side by side, and nothing uses the longer ones.
    Ok(unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<AtomicU32>(), count) })
}

/// On which processor the restartable sequence of this thread says that it is, and on which it is.
pub(in crate::zoo) fn processors() -> io::Result<(u32, u32)> {
    unsafe extern "C" {
        static __rseq_offset: isize;
        static __rseq_size: u32;
    }
    let mut cpu = 0_u32;
    // SAFETY: glibc's symbols; its area lies at that distance from the thread pointer and has a cpu_id at byte 4.
    unsafe {
        if __rseq_size == 0 {
            return Err(io::Error::other("no restartable sequence is registered"));
        }
        let none = std::ptr::null_mut::<u32>();
        check(libc::syscall(libc::SYS_getcpu, &raw mut cpu, none, none))?;
        let thread: *const u8;
        #[cfg(target_arch = "x86_64")]
        std::arch::asm!("mov {}, fs:0", out(reg) thread, options(nostack, preserves_flags, readonly));
        #[cfg(target_arch = "aarch64")]
        std::arch::asm!("mrs {}, tpidr_el0", out(reg) thread, options(nostack, preserves_flags, nomem));
        let told = thread.offset(__rseq_offset).add(4).cast::<u32>().read_volatile();
        Ok((told, cpu))
    }
}
