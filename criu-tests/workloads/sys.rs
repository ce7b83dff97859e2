// SPDX-License-Identifier: Apache-2.0
//! The system calls that the workloads need and nix does not give safely: realtime signals, `sigtimedwait`, `fork`,
//! shared anonymous memory, interval timers, inherited and received descriptors.
//!
//! The only file of this binary with unsafe code. Must not know: any workload.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use nix::unistd::Pid;

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn signal_set(signals: &[c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the whole set that it is given; sigaddset then changes an initialised one.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

/// How the kernel schedules this thread: policy and nice value (sched_setattr(2)), I/O priority (ioprio_get(2)),
/// execution domain (personality(2)), mode of the memory policy (get_mempolicy(2)).
pub(crate) fn scheduling() -> io::Result<[i64; 5]> {
    const IOPRIO_WHO_PROCESS: c_int = 1;
    let long = |result: libc::c_long| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) };
    let mut mode: c_int = 0;
    let none = std::ptr::null_mut::<libc::c_ulong>();
    // SAFETY: integers, null pointers where the kernel takes them, and one that it writes an int to.
    unsafe {
        long(libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, none, 0, 0, 0))?;
        Ok([
            i64::from(check(libc::sched_getscheduler(0))?),
            i64::from(libc::getpriority(libc::PRIO_PROCESS, 0)),
            long(libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0))?,
            i64::from(check(libc::personality(0xffff_ffff))?),
            i64::from(mode),
        ])
    }
}

/// A signal taken from the queue: its number and the value that was queued with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) number: c_int,
    pub(crate) value: usize,
}

/// Blocks `signals` in the calling thread and in the threads and children that it makes from now on.
pub(crate) fn block(signals: &[c_int]) -> io::Result<()> {
    let set = signal_set(signals);
    // SAFETY: the set is initialised and outlives the call; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Takes one of the blocked `signals`, waiting at most `timeout`.
pub(crate) fn take(signals: &[c_int], timeout: Duration) -> io::Result<Option<Taken>> {
    let set = signal_set(signals);
    let timeout =
        libc::timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() };
    let mut info = MaybeUninit::<libc::siginfo_t>::uninit();
    // SAFETY: set and timeout are initialised; the kernel fills `info` before it returns a signal number.
    let number = unsafe { libc::sigtimedwait(&raw const set, info.as_mut_ptr(), &raw const timeout) };
    if number < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR) => Ok(None),
            _ => Err(error),
        };
    }
    // SAFETY: sigtimedwait returned a signal, so `info` is filled. The value is read as the bits that the kernel
    // stored; for signals that carry none they are zero or another member of the union, all plain integers.
    let value = unsafe { info.assume_init().si_value().sival_ptr.addr() };
    Ok(Some(Taken { number, value }))
}

/// Queues `signal` with `value` to the calling process.
pub(crate) fn queue_to_self(signal: c_int, value: usize) -> io::Result<()> {
    let value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(value) };
    // SAFETY: plain integers; the pointer is never dereferenced, it only carries a number.
    check(unsafe { libc::sigqueue(libc::getpid(), signal, value) }).map(drop)
}

/// A non-blocking signalfd for `signals`, which the caller has blocked.
pub(crate) fn signalfd(signals: &[c_int]) -> io::Result<OwnedFd> {
    let set = signal_set(signals);
    // SAFETY: the set is initialised; -1 asks for a new descriptor, which nobody else owns.
    unsafe {
        let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// The next signal of a signalfd, if one is pending.
pub(crate) fn read_signalfd(fd: BorrowedFd<'_>) -> io::Result<Option<Taken>> {
    let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: the buffer is as large as the size says; a signalfd writes whole structures only, so it is filled
    // when `size` bytes were read.
    unsafe {
        let got = libc::read(fd.as_raw_fd(), info.as_mut_ptr().cast(), size);
        if got == size.cast_signed() {
            let info = info.assume_init();
            let value = usize::try_from(info.ssi_ptr).unwrap_or(usize::MAX);
            return Ok(Some(Taken { number: info.ssi_signo.cast_signed(), value }));
        }
    }
    match io::Error::last_os_error() {
        e if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
        e => Err(e),
    }
}

/// SIGTERM is nothing to this process from now on.
pub(crate) fn ignore_term() -> io::Result<()> {
    // SAFETY: SIG_IGN is no function that could be called at a bad moment.
    let before = unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Forks; the child runs `body` and exits with its result.
///
/// The process must have one thread only, which is checked: then the child may allocate and lock as it likes.
pub(crate) fn fork(body: impl FnOnce() -> i32) -> io::Result<Pid> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("fork from a process with several threads"));
    }
    // SAFETY: the process has one thread, so no lock is held by a thread that the child does not have. The child
    // leaves through _exit and never returns into the caller's frames.
    let pid = check(unsafe { libc::fork() })?;
    if pid == 0 {
        let code = catch_unwind(AssertUnwindSafe(body)).unwrap_or(101);
        // SAFETY: _exit takes an integer and does not return.
        unsafe { libc::_exit(code) }
    }
    Ok(Pid::from_raw(pid))
}

/// Memory that this process shares with the children forked after this call; never unmapped.
pub(crate) fn shared_words(count: usize) -> io::Result<&'static [AtomicU64]> {
    let length = count * size_of::<AtomicU64>();
    // SAFETY: a new anonymous mapping is page aligned, zeroed, `length` long and lives until the process ends;
    // all-zero is a valid AtomicU64, and atomics are the only access to it in any process.
    unsafe {
        let at = libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(std::slice::from_raw_parts(at.cast::<AtomicU64>(), count))
    }
}

/// Arms `ITIMER_REAL` (SIGALRM) with this period.
pub(crate) fn set_interval(period: Duration) -> io::Result<()> {
    let period =
        libc::timeval { tv_sec: period.as_secs().cast_signed(), tv_usec: period.subsec_micros().into() };
    let value = libc::itimerval { it_interval: period, it_value: period };
    // SAFETY: the new value is initialised; the old one is not asked for.
    check(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const value, std::ptr::null_mut()) }).map(drop)
}

/// The period that `ITIMER_REAL` is armed with.
pub(crate) fn interval() -> io::Result<Duration> {
    let mut value = MaybeUninit::<libc::itimerval>::zeroed();
    // SAFETY: getitimer fills the structure it is given, and all-zero is a valid one.
    let value = unsafe {
        check(libc::getitimer(libc::ITIMER_REAL, value.as_mut_ptr()))?;
        value.assume_init()
    };
    let seconds = Duration::from_secs(value.it_interval.tv_sec.cast_unsigned());
    Ok(seconds + Duration::from_micros(value.it_interval.tv_usec.cast_unsigned()))
}

/// Takes ownership of a descriptor that the program was started with. Call it once per number.
pub(crate) fn inherited(number: c_int) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only looks the number up. An open one was given to this program at its start, and by this
    // function's contract nothing else owns it.
    unsafe {
        check(libc::fcntl(number, libc::F_GETFD))?;
        Ok(OwnedFd::from_raw_fd(number))
    }
}

/// Receives one byte and the descriptors that come with it.
pub(crate) fn receive_descriptors(stream: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut byte = [0];
    let mut space = nix::cmsg_space!([c_int; 3]);
    let mut parts = [io::IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let got = recvmsg::<UnixAddr>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut fds = Vec::new();
    for control in got.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just made these descriptors for this process; nothing else knows them.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(fds)
}

/// Brings the loopback interface of the present network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: an all-zero ifreq is valid; the name is shorter than the field and stays terminated by its zeros. Both
    // requests read and write this structure only, and the flags member is the one they use.
    unsafe {
        let mut request: libc::ifreq = MaybeUninit::zeroed().assume_init();
        request.ifr_name[0] = b'l'.cast_signed();
        request.ifr_name[1] = b'o'.cast_signed();
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request))?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)).map(drop)
    }
}

/// The session keyring of the calling process, as `type;uid;gid;permissions;name` (keyctl(2)).
pub(crate) fn session_keyring() -> io::Result<String> {
    const DESCRIBE: libc::c_long = 6;
    const SESSION_KEYRING: libc::c_long = -3;
    let mut text = vec![0u8; 4096];
    // SAFETY: the kernel writes at most as many bytes as the buffer has.
    let length =
        unsafe { libc::syscall(libc::SYS_keyctl, DESCRIBE, SESSION_KEYRING, text.as_mut_ptr(), text.len()) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    // The length counts the NUL.
    text.truncate(length.saturating_sub(1));
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// A system call by its number, with six arguments that are plain integers or the address of a C string.
pub(crate) fn call([number, a, b, c, d, e, f]: [i64; 7]) -> io::Result<i64> {
    // SAFETY: the tests name calls that take integers and strings only, or that the kernel refuses.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Takes one connection, and from it one message with a descriptor.
pub(crate) fn accept_descriptor(listener: BorrowedFd<'_>) -> io::Result<(String, OwnedFd)> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, accept, recvmsg};
    let socket = accept(listener.as_raw_fd())?;
    let mut bytes = vec![0; 64 * 1024];
    let mut space = nix::cmsg_space!(std::os::fd::RawFd);
    let mut parts = [io::IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<UnixAddr>(socket, &mut parts, Some(&mut space), MsgFlags::empty())?;
    let length = message.bytes;
    let fds = message.cmsgs()?.find_map(|one| match one {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    let fd = fds.ok_or(io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel has just made this descriptor for the message, so nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok((String::from_utf8_lossy(&bytes[..length]).into_owned(), fd))
}

/// Answers one question of seccomp(2) with an error; false when there is nobody left to ask.
pub(crate) fn answer_one(questions: BorrowedFd<'_>, errno: c_int) -> io::Result<bool> {
    /// `SECCOMP_IOCTL_NOTIF_RECV` and `SECCOMP_IOCTL_NOTIF_SEND` of linux/seccomp.h.
    const RECEIVE: libc::c_ulong = 0xc050_2100;
    const SEND: libc::c_ulong = 0xc018_2101;
    let mut polled = libc::pollfd { fd: questions.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which lives.
    check(unsafe { libc::poll(&raw mut polled, 1, -1) })?;
    if polled.revents & libc::POLLIN == 0 {
        return Ok(false);
    }
    // `struct seccomp_notif`, whose first eight bytes are the question's id, and `struct seccomp_notif_resp`: id, value,
    // error, flags.
    let mut question = [0u64; 10];
    // SAFETY: the buffer has the size that is in the request's number, and is zeroed as the kernel demands.
    if unsafe { libc::ioctl(questions.as_raw_fd(), RECEIVE, question.as_mut_ptr()) } != 0 {
        let error = io::Error::last_os_error();
        // Who asked has died meanwhile.
        return if error.raw_os_error() == Some(libc::ENOENT) { Ok(true) } else { Err(error) };
    }
    let mut answer = [question[0], 0, u64::from((-errno).cast_unsigned())];
    // SAFETY: as above.
    if unsafe { libc::ioctl(questions.as_raw_fd(), SEND, answer.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(true)
}

/// A part of a file, mapped so that what is stored is in the file.
#[derive(Debug)]
pub(crate) struct MappedFile {
    at: *mut libc::c_void,
    length: usize,
}

impl MappedFile {
    /// Maps the file's first bytes, which it must have.
    pub(crate) fn of(file: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { at, length }) }
    }

    /// Stores bytes in it.
    ///
    /// # Panics
    /// When they are not within it.
    pub(crate) fn store(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset.checked_add(bytes.len()).is_some_and(|end| end <= self.length));
        // SAFETY: it is mapped as long as this lives, and the bytes are within it.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at.cast::<u8>().add(offset), bytes.len());
        }
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nobody refers to it any more.
        unsafe { libc::munmap(self.at, self.length) };
    }
}
