// SPDX-License-Identifier: Apache-2.0
//! Forked children that wait or work while a descriptor is made in their place: they notice nothing. What each does and what it
//! expects is in its own code; its exit code tells, 0 for well.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use super::*;
use crate::sys::write_tracking::WriteTracking;

pub(in crate::sys) const LIMIT: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(20);

/// A child of this test. Dropped, it is gone.
pub(in crate::sys) struct Child(i32);

impl Child {
    /// Forks; the child makes raw system calls only, since the test has threads.
    pub(in crate::sys) fn fork(work: impl Fn() -> i32) -> Self {
        // SAFETY: the child runs `work`, which makes raw system calls on what was there before, and never returns.
        match unsafe { libc::fork() } {
            0 => {
                let code = work();
                // SAFETY: _exit takes an integer and does not return.
                unsafe { libc::_exit(code) }
            }
            pid => {
                assert!(pid > 0, "fork");
                Self(pid)
            }
        }
    }

    fn state(&self) -> u8 {
        proc::Stat::of(Pid::from_raw(self.0)).expect("it is there").state
    }

    /// Waits until it waits in this call, or is in this state.
    fn waits(&self, call: libc::c_long) {
        until("it waits", || proc::waits_in(self.0).expect("it is there") == Some(call));
    }

    pub(in crate::sys) fn tracee(&self) -> Tracee {
        // The vDSO is where it is here, in a child that executes nothing.
        Tracee { thread: self.0, process: self.0, instruction: instruction() }
    }

    fn take(&self) -> Taken {
        let taken = take_userfaultfd(self.tracee(), LIMIT).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(proc::tracer(self.0).expect("it is there"), 0);
        taken
    }

    pub(in crate::sys) fn code(self) -> i32 {
        let mut status = 0;
        // SAFETY: waitpid writes one integer.
        let waited = unsafe { libc::waitpid(self.0, &raw mut status, 0) };
        assert_eq!(waited, self.0);
        std::mem::forget(self);
        assert!(libc::WIFEXITED(status), "it was killed: {status:x}");
        libc::WEXITSTATUS(status)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0), Signal::SIGKILL);
        reap(self.0);
    }
}

pub(in crate::sys) fn until(what: &str, is: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
    }
}

fn instruction() -> u64 {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("our own");
    let line = maps.lines().find(|line| line.ends_with("[vdso]")).expect("there is one");
    let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-')).expect("a range");
    let number = |text| u64::from_str_radix(text, 16).expect("a number");
    let (start, end) = (number(range.0), number(range.1));
    let mut bytes = vec![0; (end - start) as usize];
    let own = nix::unistd::getpid().as_raw();
    crate::sys::remote_memory::read(own, std::slice::from_ref(&(start..end)), &mut bytes).expect("read");
    let at = bytes.windows(crate::sys::arch::CALL.len()).position(|window| window == crate::sys::arch::CALL);
    start + at.expect("it makes calls") as u64
}

/// Words that a child and its parent have in common.
pub(in crate::sys) fn shared() -> &'static [AtomicU64; 8] {
    let (both, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping of zeros, which are valid atomics; it is never unmapped.
    unsafe {
        let at = libc::mmap(ptr::null_mut(), 4096, both, flags, -1, 0);
        assert_ne!(at, libc::MAP_FAILED);
        &*at.cast()
    }
}

fn pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("pipe")
}

#[test]
fn the_descriptor_is_of_the_childs_memory_and_nothing_is_left_in_it() {
    let child = Child::fork(|| {
        loop {
            // SAFETY: pause takes nothing.
            unsafe { libc::pause() };
        }
    });
    until("it waits", || child.state() == b'S');
    let descriptors = || {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", child.0)).expect("its own");
        let mut names: Vec<_> =
            entries.map(|entry| std::fs::read_link(entry.expect("its own").path()).expect("open")).collect();
        names.sort();
        names
    };
    let before = descriptors();
    let taken = child.take();
    assert_eq!(descriptors(), before);
    assert!(taken.stood < LIMIT);
    match WriteTracking::begin(taken.userfaultfd) {
        // Our own memory at that address is another one: only the child's is registered.
        Ok(tracking) => tracking.register(&(0x1000..0x2000)).expect_err("nothing is there").kind(),
        Err(_) => io::ErrorKind::InvalidInput,
    };
    until("it waits on", || child.state() == b'S');
}

#[test]
fn a_sleep_is_as_long_as_it_was_to_be() {
    let child = Child::fork(|| {
        let time = libc::timespec { tv_sec: 0, tv_nsec: 600_000_000 };
        let begin = Instant::now();
        // SAFETY: nanosleep reads one structure and may be given no place for the rest.
        let slept = unsafe { libc::nanosleep(&raw const time, ptr::null_mut()) };
        let took = begin.elapsed();
        // Begun anew in its last third it would take another 400 ms.
        i32::from(slept != 0 || took < Duration::from_millis(600)) + 2 * i32::from(took.as_millis() > 950)
    });
    until("it sleeps", || child.state() == b'S');
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(450) {
        child.take();
    }
    assert_eq!(child.code(), 0);
}

#[test]
fn a_read_and_waits_for_events_do_not_end() {
    let (reader, writer) = pipe();
    let number = std::os::fd::AsRawFd::as_raw_fd(&reader);
    let read = || {
        let mut byte = [0_u8; 1];
        // SAFETY: read writes at most one byte to a buffer of one.
        let got = unsafe { libc::read(number, byte.as_mut_ptr().cast(), 1) };
        i32::from(got != 1 || byte != [7])
    };
    let epoll = || {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 5 };
        // SAFETY: epoll_ctl reads one event and epoll_wait writes at most one.
        let got = unsafe {
            let set = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, number, &raw mut event);
            event.u64 = 0;
            libc::epoll_pwait(set, &raw mut event, 1, -1, ptr::null())
        };
        i32::from(got != 1) + 2 * i32::from({ event.u64 } != 5)
    };
    let poll = || {
        let mut wanted = libc::pollfd { fd: number, events: libc::POLLIN, revents: 0 };
        // SAFETY: ppoll reads and writes one structure.
        let got = unsafe { libc::ppoll(&raw mut wanted, 1, ptr::null(), ptr::null()) };
        i32::from(got != 1)
    };
    let waits: [(_, &dyn Fn() -> i32); 3] =
        [(libc::SYS_epoll_pwait, &epoll), (libc::SYS_ppoll, &poll), (libc::SYS_read, &read)];
    for (call, wait) in waits {
        let child = Child::fork(wait);
        child.waits(call);
        for _ in 0..20 {
            child.take();
        }
        child.waits(call);
        nix::unistd::write(&writer, &[7]).expect("write");
        assert_eq!(child.code(), 0, "call {call}");
        if call != libc::SYS_read {
            nix::unistd::read(&reader, &mut [0]).expect("the byte is still there");
        }
    }
}

#[test]
fn a_wait_for_a_futex_and_one_for_a_signal_do_not_end() {
    let words = shared();
    let futex = words[0].as_ptr();
    let child = Child::fork(|| {
        // SAFETY: futex looks at the word that this process and its parent have in common.
        let woken = unsafe { libc::syscall(libc::SYS_futex, futex, libc::FUTEX_WAIT, 0, ptr::null::<u8>()) };
        i32::from(woken != 0)
    });
    child.waits(libc::SYS_futex);
    for _ in 0..20 {
        child.take();
    }
    child.waits(libc::SYS_futex);
    // SAFETY: as above.
    let woken = unsafe { libc::syscall(libc::SYS_futex, futex, libc::FUTEX_WAKE, 1) };
    assert_eq!(woken, 1);
    assert_eq!(child.code(), 0);

    let child = Child::fork(|| {
        // SAFETY: a set of numbers, made empty before it is used.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGUSR1);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut());
            i32::from(libc::sigwaitinfo(&raw const set, ptr::null_mut()) != libc::SIGUSR1)
        }
    });
    child.waits(libc::SYS_rt_sigtimedwait);
    for _ in 0..20 {
        child.take();
    }
    kill(Pid::from_raw(child.0), Signal::SIGUSR1).expect("kill");
    assert_eq!(child.code(), 0);
}

/// What a child's handler of real-time signals has got, and how often.
static GOT: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

extern "C" fn got(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO such a structure; a queued signal has a value.
    let value = unsafe { (*info).si_value().sival_ptr.addr() };
    GOT[0].fetch_add(value as u64, Ordering::Relaxed);
    GOT[1].fetch_add(1, Ordering::Relaxed);
}

/// Numbers that depend on each before it, so that a register that is lost once is seen.
fn work(mut state: u64) -> u64 {
    for _ in 0..5000 {
        state = (state ^ (state >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
    }
    state
}

#[test]
fn signals_are_handled_each_once_and_work_goes_on() {
    const SIGNALS: u64 = 400;
    let words = shared();
    let child = Child::fork(|| {
        // SAFETY: the action is a handler that only adds to atomics.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = got as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
            libc::sigaction(libc::SIGRTMIN(), &raw const action, ptr::null_mut());
        }
        words[0].store(1, Ordering::Relaxed);
        while GOT[1].load(Ordering::Relaxed) < SIGNALS {
            if work(3) != work(3) {
                return 2;
            }
            words[1].fetch_add(1, Ordering::Relaxed);
        }
        i32::from(GOT[0].load(Ordering::Relaxed) != (1..=SIGNALS).sum::<u64>())
    });
    until("it listens", || words[0].load(Ordering::Relaxed) == 1);
    for value in 1..=SIGNALS {
        let sent = libc::sigval { sival_ptr: ptr::without_provenance_mut(value as usize) };
        // SAFETY: plain integers; the pointer only carries a number.
        assert_eq!(unsafe { libc::sigqueue(child.0, libc::SIGRTMIN(), sent) }, 0);
        // The last one ends it.
        if value % 4 == 0 && value < SIGNALS {
            child.take();
        }
    }
    assert_eq!(child.code(), 0);
}

#[test]
fn a_stopped_process_stays_stopped() {
    let words = shared();
    let child = Child::fork(|| {
        while words[0].load(Ordering::Relaxed) == 0 {
            words[1].fetch_add(1, Ordering::Relaxed);
        }
        0
    });
    let pid = Pid::from_raw(child.0);
    kill(pid, Signal::SIGSTOP).expect("kill");
    until("it stops", || child.state() == b'T');
    let before = words[1].load(Ordering::Relaxed);
    child.take();
    until("it stops again", || child.state() == b'T');
    assert_eq!(words[1].load(Ordering::Relaxed), before);
    words[0].store(1, Ordering::Relaxed);
    kill(pid, Signal::SIGCONT).expect("kill");
    assert_eq!(child.code(), 0);
}

#[test]
fn a_filter_that_kills_for_the_call_does_not_see_it() {
    let (reader, writer) = pipe();
    let number = std::os::fd::AsRawFd::as_raw_fd(&reader);
    let child = Child::fork(|| {
        let (load, jump, give) = (0x20, 0x15, 0x06);
        let step = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
        let call = libc::SYS_userfaultfd as u32;
        let mut filter = [
            step(load, 0, 0),
            step(jump, 1, call),
            step(give, 0, libc::SECCOMP_RET_KILL_PROCESS),
            step(give, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
        // SAFETY: the program and its four steps live through the call, which copies them; read writes at most one byte.
        unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            if libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) != 0 {
                return 3;
            }
            let mut byte = [0_u8; 1];
            i32::from(libc::read(number, byte.as_mut_ptr().cast(), 1) != 1)
        }
    });
    child.waits(libc::SYS_read);
    assert!(proc::is_filtered(child.0).expect("it is there"));
    child.take();
    nix::unistd::write(&writer, b"x").expect("write");
    assert_eq!(child.code(), 0);
}

/// Between vfork(2) and the end of its child a process answers nobody.
#[test]
fn what_cannot_be_stopped_is_given_up_in_time_and_runs_on() {
    let words = shared();
    let child = Child::fork(|| {
        let args = [(libc::CLONE_VFORK as u64), 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0];
        // SAFETY: a clone on a copy of this memory that waits for a word and ends; its parent waits for its end.
        unsafe {
            if libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) == 0 {
                while words[0].load(Ordering::Relaxed) == 0 {
                    libc::sched_yield();
                }
                libc::_exit(0);
            }
        }
        0
    });
    until("it waits", || child.state() == b'D');
    let begin = Instant::now();
    let failure = take_userfaultfd(child.tracee(), Duration::from_millis(200)).expect_err("it cannot stop");
    assert_eq!(failure, Failure::new(Step::Stop, libc::ETIMEDOUT));
    assert!(begin.elapsed() < LIMIT);
    assert_eq!(proc::tracer(child.0).expect("it is there"), 0);
    words[0].store(1, Ordering::Relaxed);
    assert_eq!(child.code(), 0);
}

/// A cgroup of version 2, which has a freezer without any controller. Dropped, it is thawed and gone.
struct Freezer(std::path::PathBuf);

impl Freezer {
    fn new() -> Option<Self> {
        let tops = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(std::path::Path::new);
        let top = tops.into_iter().find(|top| top.join("cgroup.subtree_control").exists())?;
        let path = top.join(format!("migrate-tracee-{}", std::process::id()));
        std::fs::create_dir(&path).ok()?;
        Some(Self(path))
    }

    fn set(&self, file: &str, value: &str) {
        std::fs::write(self.0.join(file), value).expect("write to a cgroup");
    }

    fn says(&self, line: &str) -> bool {
        std::fs::read_to_string(self.0.join("cgroup.events"))
            .is_ok_and(|text| text.lines().any(|l| l == line))
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("cgroup.freeze"), "0");
        let deadline = Instant::now() + PATIENCE;
        while std::fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_frozen_process_is_given_up_in_time_and_runs_on() {
    let Some(freezer) = Freezer::new() else { return };
    let words = shared();
    let child = Child::fork(|| {
        while words[0].load(Ordering::Relaxed) == 0 {
            if work(3) != work(3) {
                return 2;
            }
            words[1].fetch_add(1, Ordering::Relaxed);
        }
        0
    });
    freezer.set("cgroup.procs", &child.0.to_string());
    freezer.set("cgroup.freeze", "1");
    until("it is frozen", || freezer.says("frozen 1"));
    let begin = Instant::now();
    let failure = take_userfaultfd(child.tracee(), Duration::from_millis(200)).expect_err("it is frozen");
    assert_eq!(failure, Failure::new(Step::Stop, libc::ETIMEDOUT));
    assert!(begin.elapsed() < LIMIT);
    assert_eq!(proc::tracer(child.0).expect("it is there"), 0);
    until("it is frozen again", || freezer.says("frozen 1"));
    let before = words[1].load(Ordering::Relaxed);
    freezer.set("cgroup.freeze", "0");
    until("it works", || words[1].load(Ordering::Relaxed) > before);
    child.take();
    words[0].store(1, Ordering::Relaxed);
    assert_eq!(child.code(), 0);
    until("the cgroup is empty", || freezer.says("populated 0"));
}

/// Killed at any moment, also while it stands: the descriptor is there or the process is gone.
#[test]
fn a_process_that_ends_meanwhile_keeps_nobody_waiting() {
    for moment in 0..100 {
        let child = Child::fork(|| {
            loop {
                std::hint::spin_loop();
            }
        });
        let pid = Pid::from_raw(child.0);
        let killer = std::thread::spawn(move || {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_micros(moment * 20) {
                std::hint::spin_loop();
            }
            kill(pid, Signal::SIGKILL)
        });
        match take_userfaultfd(child.tracee(), LIMIT) {
            Ok(_) => {}
            Err(failure) => assert_eq!(failure.step, Step::Gone, "{failure}, {moment} times 20 µs"),
        }
        killer.join().expect("it ends").expect("it is there");
    }
}

#[test]
fn what_is_not_there_or_is_traced_is_an_error() {
    let gone = Tracee { thread: i32::MAX, process: i32::MAX, instruction: 0 };
    assert_eq!(take_userfaultfd(gone, LIMIT).expect_err("nobody").step, Step::Gone);
    let child = Child::fork(|| {
        loop {
            // SAFETY: pause takes nothing.
            unsafe { libc::pause() };
        }
    });
    until("it waits", || child.state() == b'S');
    let elsewhere = Tracee { instruction: 0x1000, ..child.tracee() };
    assert_eq!(take_userfaultfd(elsewhere, LIMIT).expect_err("no instruction").step, Step::Instruction);
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_SEIZE takes integers.
    assert_eq!(unsafe { libc::ptrace(0x4206, child.0, nothing, nothing) }, 0);
    assert_eq!(take_userfaultfd(child.tracee(), LIMIT).expect_err("it is traced").step, Step::Attach);
    kill(Pid::from_raw(child.0), Signal::SIGKILL).expect("kill");
}
