// SPDX-License-Identifier: Apache-2.0
//! What one process has: attributes, limits, capabilities, ids; and ways to fork that share more than usual.

use std::ffi::{c_int, c_ulong};
use std::io;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::unistd::Pid;

use super::check;

/// `PR_GET_…` of prctl(2), for those that return a number.
pub(in crate::zoo) fn attribute(option: c_int) -> io::Result<i64> {
    // SAFETY: exhibits name options that return a number and take nothing; a pointer would be null.
    check(unsafe { libc::prctl(option, 0, 0, 0, 0) }.into())
}

/// `PR_SET_…` of prctl(2), for those that take a number.
pub(in crate::zoo) fn set_attribute(option: c_int, value: c_ulong) -> io::Result<()> {
    // SAFETY: exhibits name options that take one number.
    check(unsafe { libc::prctl(option, value, 0, 0, 0) }.into()).map(drop)
}

/// The execution domain and its flags.
pub(in crate::zoo) fn personality() -> io::Result<i64> {
    // SAFETY: an integer that changes nothing.
    check(unsafe { libc::personality(0xffff_ffff) }.into())
}

/// See [`personality`].
pub(in crate::zoo) fn set_personality(wanted: c_ulong) -> io::Result<()> {
    // SAFETY: an integer; the flags that exhibits set do not change what memory is mapped already.
    check(unsafe { libc::personality(wanted) }.into()).map(drop)
}

/// membarrier(2).
pub(in crate::zoo) fn membarrier(command: c_int) -> io::Result<i64> {
    // SAFETY: integers.
    check(unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) })
}

/// Every limit of getrlimit(2).
pub(in crate::zoo) const LIMITS: [libc::__rlimit_resource_t; 16] = [
    libc::RLIMIT_CPU,
    libc::RLIMIT_FSIZE,
    libc::RLIMIT_DATA,
    libc::RLIMIT_STACK,
    libc::RLIMIT_CORE,
    libc::RLIMIT_RSS,
    libc::RLIMIT_NPROC,
    libc::RLIMIT_NOFILE,
    libc::RLIMIT_MEMLOCK,
    libc::RLIMIT_AS,
    libc::RLIMIT_LOCKS,
    libc::RLIMIT_SIGPENDING,
    libc::RLIMIT_MSGQUEUE,
    libc::RLIMIT_NICE,
    libc::RLIMIT_RTPRIO,
    libc::RLIMIT_RTTIME,
];

/// A limit: soft and hard.
pub(in crate::zoo) fn limit(limit: libc::__rlimit_resource_t) -> io::Result<(u64, u64)> {
    let mut value = MaybeUninit::<libc::rlimit>::zeroed();
    // SAFETY: the kernel fills the structure; all-zero is a valid one.
    let value = unsafe {
        check(libc::getrlimit(limit, value.as_mut_ptr()).into())?;
        value.assume_init()
    };
    Ok((value.rlim_cur, value.rlim_max))
}

/// Sets soft and hard limit.
pub(in crate::zoo) fn set_limit(
    limit: libc::__rlimit_resource_t,
    (soft, hard): (u64, u64),
) -> io::Result<()> {
    let value = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: an initialised structure that outlives the call.
    check(unsafe { libc::setrlimit(limit, &raw const value) }.into()).map(drop)
}

/// `struct __user_cap_header_struct` for the calling thread.
#[repr(C)]
struct Header {
    version: u32,
    pid: c_int,
}

/// Effective, permitted and inheritable capabilities of this thread, each the lower half first.
pub(in crate::zoo) type Capabilities = [[u32; 3]; 2];

const VERSION_3: u32 = 0x2008_0522;

/// capget(2).
pub(in crate::zoo) fn capabilities() -> io::Result<Capabilities> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut sets = Capabilities::default();
    // SAFETY: version 3 has two structures of three words each, which is what there is.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) })?;
    Ok(sets)
}

/// capset(2).
pub(in crate::zoo) fn set_capabilities(sets: Capabilities) -> io::Result<()> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) }).map(drop)
}

/// `PR_CAP_AMBIENT_RAISE`.
pub(in crate::zoo) fn raise_ambient(capability: c_ulong) -> io::Result<()> {
    // SAFETY: integers.
    let result = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0) };
    check(result.into()).map(drop)
}

/// Real, effective and saved user ids, then group ids, set for the calling thread alone, and the supplementary groups.
pub(in crate::zoo) fn become_user(users: [u32; 3], groups: [u32; 3], others: &[u32]) -> io::Result<()> {
    // SAFETY: integers, and a list that is as long as it says. The raw system calls change the calling thread only.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, others.len(), others.as_ptr()))?;
        check(libc::syscall(libc::SYS_setresgid, groups[0], groups[1], groups[2]))?;
        check(libc::syscall(libc::SYS_setresuid, users[0], users[1], users[2])).map(drop)
    }
}

/// File system user id of the calling thread.
pub(in crate::zoo) fn set_fs_user(user: u32) {
    // SAFETY: an integer. The call cannot fail, it only may not do it.
    unsafe {
        libc::syscall(libc::SYS_setfsuid, user);
    }
}

/// Forks as clone(2) does with these further flags; the child runs `body` and ends with its result.
///
/// The process must have one thread only, and the flags must not share memory.
pub(in crate::zoo) fn fork_with(flags: c_int, body: impl FnOnce() -> i32) -> io::Result<Pid> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 || flags & (libc::CLONE_VM | libc::CLONE_VFORK) != 0 {
        return Err(io::Error::other(format!("fork with {flags:x} from a process with {threads} threads")));
    }
    // SAFETY: no memory is shared and there is one thread, so this is a fork: the child has a copy of everything, no lock
    // is held by a thread that it does not have, and it leaves through _exit.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) })?;
    if pid == 0 {
        let code = catch_unwind(AssertUnwindSafe(body)).unwrap_or(101);
        // SAFETY: an integer; does not return.
        unsafe { libc::_exit(code) }
    }
    i32::try_from(pid).map(Pid::from_raw).map_err(io::Error::other)
}

/// kcmp(2): whether two processes have the same descriptor table, file system information, …
pub(in crate::zoo) fn same(one: Pid, other: Pid, kind: c_int) -> io::Result<bool> {
    // SAFETY: integers.
    check(unsafe { libc::syscall(libc::SYS_kcmp, one.as_raw(), other.as_raw(), kind, 0, 0) })
        .map(|order| order == 0)
}

/// Ends the calling thread alone, without its destructors.
pub(in crate::zoo) fn exit_thread() -> ! {
    // SAFETY: an integer. The thread's stack stays mapped as long as the process lives.
    unsafe {
        libc::syscall(libc::SYS_exit, 0);
    }
    unreachable!("exit(2) does not return")
}

/// The nice value of a thread; 0 is the calling one.
pub(in crate::zoo) fn nice(thread: libc::id_t) -> io::Result<i64> {
    // SAFETY: integers. The raw call gives 20 - nice.
    check(unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, thread) }).map(|value| 20 - value)
}

/// See [`nice`].
pub(in crate::zoo) fn set_nice(thread: libc::id_t, value: c_int) -> io::Result<()> {
    // SAFETY: integers.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, thread, value) }.into()).map(drop)
}

/// Policy and priority of the calling thread.
pub(in crate::zoo) fn scheduler() -> io::Result<(c_int, c_int)> {
    let mut parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel fills the structure, which lives.
    unsafe {
        let policy = check(libc::sched_getscheduler(0).into())?;
        check(libc::sched_getparam(0, &raw mut parameters).into())?;
        Ok((c_int::try_from(policy).map_err(io::Error::other)?, parameters.sched_priority))
    }
}

/// See [`scheduler`].
pub(in crate::zoo) fn set_scheduler(policy: c_int, priority: c_int) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: an initialised structure that outlives the call.
    check(unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) }.into()).map(drop)
}

/// `IOPRIO_WHO_PROCESS`.
const WHO: c_int = 1;

/// I/O priority of the calling thread: class and level.
pub(in crate::zoo) fn io_priority() -> io::Result<i64> {
    // SAFETY: integers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_get, WHO, 0) })
}

/// See [`io_priority`].
pub(in crate::zoo) fn set_io_priority(value: i64) -> io::Result<()> {
    // SAFETY: integers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO, 0, value) }).map(drop)
}

/// Starts a process that has this one's memory and sleeps for ever; this one waits for it.
pub(in crate::zoo) fn wait_in_vfork() -> io::Result<()> {
    // SAFETY: the child, on this stack which its parent does not use meanwhile, does nothing but sleep.
    unsafe {
        let pid =
            libc::syscall(libc::SYS_clone, libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, 0, 0, 0, 0);
        if pid == 0 {
            loop {
                libc::pause();
            }
        }
        check(pid).map(drop)
    }
}
