// SPDX-License-Identifier: Apache-2.0
//! What a thread sets of the way in which the kernel schedules it and finds it memory: policy, I/O priority, processors,
//! memory nodes, and its execution domain. A program keeps all of them when it is executed.

use std::io;
use std::ptr;

use serde::{Deserialize, Serialize};

/// A scheduling policy with its parameters (sched_setattr(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedAttr {
    /// The kernel's number of the policy.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For `SCHED_OTHER` and `SCHED_BATCH`, -20 to 19.
    pub nice: i32,
    /// For `SCHED_FIFO` and `SCHED_RR`, 1 to 99.
    pub priority: u32,
    /// For `SCHED_DEADLINE`, in nanoseconds.
    pub runtime: u64,
    /// For `SCHED_DEADLINE`, in nanoseconds.
    pub deadline: u64,
    /// For `SCHED_DEADLINE`, in nanoseconds.
    pub period: u64,
}

/// The kernel's `struct sched_attr`, first version.
#[repr(C)]
struct RawSchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Sets the calling thread's scheduling policy.
///
/// # Errors
/// `EPERM` without CAP_SYS_NICE or with `SCHED_DEADLINE` on some processors only, `EINVAL`, `EBUSY`.
pub fn set_scheduler(attributes: SchedAttr) -> io::Result<()> {
    let SchedAttr { policy, flags, nice, priority, runtime, deadline, period } = attributes;
    let size = size_of::<RawSchedAttr>() as u32;
    let raw = RawSchedAttr { size, policy, flags, nice, priority, runtime, deadline, period };
    // SAFETY: the kernel reads one structure, whose size is in it; the rest are integers.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const raw, 0) })
}

const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_CLASS_SHIFT: libc::c_int = 13;

/// Sets the calling thread's I/O priority (ioprio_set(2)).
///
/// # Errors
/// `EPERM` for the real-time class without CAP_SYS_ADMIN or CAP_SYS_NICE, `EINVAL`.
pub fn set_io_priority(class: u8, level: u8) -> io::Result<()> {
    let priority = libc::c_int::from(class) << IOPRIO_CLASS_SHIFT | libc::c_int::from(level);
    // SAFETY: ioprio_set takes integers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) })
}

/// A thread's I/O priority, class and level in one (ioprio_get(2)).
///
/// # Errors
/// `ESRCH` when it is gone.
pub fn io_priority_of(thread: i32) -> io::Result<u16> {
    // SAFETY: integers.
    let value = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, thread) };
    check(value)?;
    u16::try_from(value).map_err(io::Error::other)
}

/// Whether an I/O priority has a class: without one it follows the nice value.
pub fn has_io_class(priority: u16) -> bool {
    priority >> IOPRIO_CLASS_SHIFT != 0
}

/// Sets what [`io_priority_of`] gives.
///
/// # Errors
/// As [`set_io_priority`]; `ESRCH` when the thread is gone.
pub fn set_io_priority_of(thread: i32, priority: u16) -> io::Result<()> {
    let priority = libc::c_int::from(priority);
    // SAFETY: integers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, thread, priority) })
}

/// Sets the calling thread's execution domain (personality(2)).
///
/// # Errors
/// `EINVAL` when the kernel does not change it.
pub fn set_personality(domain: u32) -> io::Result<()> {
    // SAFETY: personality takes an integer.
    check(unsafe { libc::personality(libc::c_ulong::from(domain)) }.into())
}

/// Sets the calling thread's memory policy (set_mempolicy(2)): mode with flags, and its nodes.
///
/// # Errors
/// `EINVAL` for nodes that are not there or allowed, or a mode that the kernel does not know.
pub fn set_memory_policy(mode: u32, nodes: &[u32]) -> io::Result<()> {
    let mask = mask(nodes);
    // The kernel looks at one bit less than it is told of.
    let (pointer, bits) = match mask.len() {
        0 => (ptr::null(), 0),
        words => (mask.as_ptr(), words * WORD + 1),
    };
    // SAFETY: the kernel reads `bits` - 1 bits at the pointer, which are there, or nothing at a null pointer.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) })
}

/// The processors that the calling thread may run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Affinity(Vec<libc::c_ulong>);

impl Affinity {
    /// These processors.
    pub fn of(processors: &[u32]) -> Self {
        Self(mask(processors))
    }

    /// As many as any kernel is built for: those that the cpuset allows.
    pub fn all() -> Self {
        Self(vec![libc::c_ulong::MAX; 8192 / WORD])
    }

    /// The present ones (sched_getaffinity(2)).
    ///
    /// # Errors
    /// The error of the call.
    pub fn now() -> io::Result<Self> {
        Self::of_thread(0)
    }

    /// Those of a thread.
    ///
    /// # Errors
    /// `ESRCH` when it is gone.
    pub fn of_thread(thread: i32) -> io::Result<Self> {
        let mut all = Self::all();
        // SAFETY: the kernel writes no more than the size given.
        let size = unsafe {
            libc::syscall(
                libc::SYS_sched_getaffinity,
                thread,
                size_of_val(all.0.as_slice()),
                all.0.as_mut_ptr(),
            )
        };
        check(size)?;
        all.0.truncate(size as usize / size_of::<libc::c_ulong>());
        Ok(all)
    }

    /// Their numbers, rising.
    pub fn numbers(&self) -> Vec<u32> {
        let words = self.0.iter().enumerate();
        words
            .flat_map(|(place, word)| {
                let set = (0..WORD).filter(move |bit| word >> bit & 1 == 1);
                set.filter_map(move |bit| u32::try_from(place * WORD + bit).ok())
            })
            .collect()
    }

    /// The first of them, as a mask with a bit for each.
    pub fn mask(&self) -> u64 {
        // The C library's type is not the same on all processors.
        #[allow(clippy::useless_conversion)]
        self.0.first().copied().unwrap_or_default().into()
    }

    /// Makes them the calling thread's (sched_setaffinity(2)).
    ///
    /// # Errors
    /// `EINVAL` when the cpuset allows none of them.
    pub fn set(&self) -> io::Result<()> {
        self.set_of(0)
    }

    /// Makes them a thread's.
    ///
    /// # Errors
    /// `EINVAL` when its cpuset allows none of them, `ESRCH` when it is gone.
    pub fn set_of(&self, thread: i32) -> io::Result<()> {
        // SAFETY: the kernel reads no more than the size given.
        check(unsafe {
            libc::syscall(
                libc::SYS_sched_setaffinity,
                thread,
                size_of_val(self.0.as_slice()),
                self.0.as_ptr(),
            )
        })
    }
}

const WORD: usize = libc::c_ulong::BITS as usize;

fn mask(numbers: &[u32]) -> Vec<libc::c_ulong> {
    let words = numbers.iter().max().map_or(0, |highest| *highest as usize / WORD + 1);
    let mut mask = vec![0; words];
    for number in numbers {
        mask[*number as usize / WORD] |= 1 << (*number as usize % WORD);
    }
    mask
}

fn check(returned: libc::c_long) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a thread of its own: everything here is a thread's.
    fn in_thread(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(test).join().expect("the test in the thread");
    }

    #[test]
    fn a_mask_has_its_bits() {
        assert_eq!(mask(&[]), Vec::<libc::c_ulong>::new());
        assert_eq!(mask(&[0, 2]), [5]);
        assert_eq!(mask(&[WORD as u32]), [0, 1]);
        assert_eq!(Affinity::of(&[0, 5, 64, 200]).numbers(), [0, 5, 64, 200]);
    }

    #[test]
    fn processors_are_set_and_reset() {
        in_thread(|| {
            let before = Affinity::now().expect("read");
            let first = before.0[0].trailing_zeros();
            Affinity::of(&[first]).set().expect("one of our own");
            assert_eq!(Affinity::now().expect("read").0[0], 1 << first);
            Affinity::all().set().expect("all");
            before.set().expect("those from before");
            assert_eq!(Affinity::now().expect("read"), before);
            let error = Affinity::of(&[8000]).set().expect_err("no such processor");
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        });
    }

    #[test]
    fn policies_are_set() {
        in_thread(|| {
            set_scheduler(SchedAttr { policy: 3, nice: 7, ..SchedAttr::default() }).expect("SCHED_BATCH");
            // SAFETY: the call takes an integer.
            assert_eq!(unsafe { libc::sched_getscheduler(0) }, libc::SCHED_BATCH);
            set_io_priority(2, 5).expect("best effort");
            let error = set_scheduler(SchedAttr { policy: 99, ..SchedAttr::default() }).expect_err("none");
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
            set_memory_policy(0, &[]).expect("MPOL_DEFAULT");
        });
    }
}
