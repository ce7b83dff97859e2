// SPDX-License-Identifier: Apache-2.0
//! Dispositions, handlers that count, alternate stacks, signals that wait.

use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use nix::sys::signal::SigSet;

use super::check;
use super::memory::Map;

static CAUGHT: [AtomicU64; 65] = [const { AtomicU64::new(0) }; 65];
static STACK: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(signal: i32) {
    let here = 0_u8;
    STACK.store((&raw const here).addr(), Ordering::SeqCst);
    if let Some(caught) = usize::try_from(signal).ok().and_then(|signal| CAUGHT.get(signal)) {
        caught.fetch_add(1, Ordering::SeqCst);
    }
}

/// How often the handler has run for a signal.
pub(in crate::zoo) fn caught(signal: i32) -> u64 {
    usize::try_from(signal).ok().and_then(|signal| CAUGHT.get(signal)).map_or(0, |n| n.load(Ordering::SeqCst))
}

/// Whether the handler ran on this stack when it ran last.
pub(in crate::zoo) fn ran_on(stack: &Map) -> bool {
    (stack.at()..stack.at() + stack.length()).contains(&STACK.load(Ordering::SeqCst))
}

/// What is to be done with a signal: `None` is to ignore it, else it is counted.
pub(in crate::zoo) fn handle(signal: i32, flags: Option<i32>, blocked: &[i32]) -> io::Result<()> {
    // SAFETY: an all-zero sigaction is valid and is completed here; the handler only uses atomics and its own stack.
    unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction =
            if flags.is_some() { (count as extern "C" fn(i32)) as usize } else { libc::SIG_IGN };
        action.sa_flags = flags.unwrap_or(0);
        for signal in blocked {
            libc::sigaddset(&raw mut action.sa_mask, *signal);
        }
        check(libc::sigaction(signal, &raw const action, std::ptr::null_mut()).into()).map(drop)
    }
}

/// Disposition of a signal: the handler's address (0 default, 1 ignored), flags, mask as bits.
pub(in crate::zoo) fn disposition(signal: i32) -> io::Result<(usize, i32, u64)> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the structure is filled, and all-zero is a valid one; the set is read as the bits that it is.
    unsafe {
        check(libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()).into())?;
        let action = action.assume_init();
        let mask = (1..=64).filter(|n| libc::sigismember(&raw const action.sa_mask, *n) == 1);
        Ok((action.sa_sigaction, action.sa_flags, mask.fold(0, |bits, n| bits | 1 << (n - 1))))
    }
}

/// Sets the calling thread's alternate stack.
pub(in crate::zoo) fn set_stack(stack: &Map) -> io::Result<()> {
    let stack = libc::stack_t {
        ss_sp: std::ptr::without_provenance_mut(stack.at()),
        ss_flags: 0,
        ss_size: stack.length(),
    };
    // SAFETY: the mapping stays for as long as the process lives, and nothing else uses it.
    check(unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) }.into()).map(drop)
}

/// Address and length of the calling thread's alternate stack.
pub(in crate::zoo) fn stack() -> io::Result<(usize, usize, i32)> {
    let mut stack = MaybeUninit::<libc::stack_t>::zeroed();
    // SAFETY: the structure is filled, and all-zero is a valid one.
    let stack = unsafe {
        check(libc::sigaltstack(std::ptr::null(), stack.as_mut_ptr()).into())?;
        stack.assume_init()
    };
    Ok((stack.ss_sp.addr(), stack.ss_size, stack.ss_flags))
}

/// Queues a signal with a value to one thread of this process.
pub(in crate::zoo) fn queue_to_thread(thread: i32, signal: i32, value: usize) -> io::Result<()> {
    // The beginning of `siginfo_t` for a signal that a process queues: number, error, code, padding; pid and uid, value.
    let code = u64::from(libc::SI_QUEUE.cast_unsigned());
    let pid = u64::from(std::process::id());
    let mut info = [0_u64; 16];
    info[..4].copy_from_slice(&[u64::from(signal.cast_unsigned()), code, pid, value as u64]);
    // SAFETY: the structure has 128 bytes, as the kernel reads.
    check(unsafe {
        libc::syscall(libc::SYS_rt_tgsigqueueinfo, std::process::id(), thread, signal, info.as_ptr())
    })
    .map(drop)
}

/// The signals that wait, for the thread or the process.
pub(in crate::zoo) fn pending() -> io::Result<SigSet> {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: sigpending fills the set, whose bits are all valid.
    unsafe {
        check(libc::sigpending(set.as_mut_ptr()).into())?;
        Ok(SigSet::from_sigset_t_unchecked(set.assume_init()))
    }
}
