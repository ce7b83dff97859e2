// SPDX-License-Identifier: Apache-2.0
//! Starts a process in new or joined namespaces from a program that may have any number of threads.
//!
//! ```text
//!   caller ── clone3(new namespaces) ─────────────────────────▶ child: enters its cgroups, executes
//!   caller ── clone3() ──▶ joiner: setns…, clone3(CLONE_PARENT) ─▶ child: the same
//!                             └─ reports the pid, exits
//! ```
//!
//! Between clone and exec the child runs on a copy of a memory in which other threads may have held any lock. It
//! makes raw system calls on data prepared before, and nothing else: no allocation, no lock, no unwinding. The child
//! is a direct child of the caller in both forms.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::unistd::Pid;

use crate::{Context, Error, ErrorKind, Result};

/// clone3(2); the C library's constant of this name is too narrow for the value.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The program to execute.
#[derive(Debug)]
pub enum Program<'a> {
    /// Through a descriptor, so that its path does not matter in the namespaces. Not for scripts.
    Fd(BorrowedFd<'a>),
    /// By path.
    Path(CString),
}

/// Which session (setsid(2)) the process is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Session {
    /// Its own: a signal to our process group or the end of our terminal does not reach it.
    #[default]
    Own,
    /// The caller's.
    Callers,
}

/// How the process finds its signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signals {
    /// All blocked: the program sets them itself.
    Blocked,
    /// With their default actions, and none blocked but `SIGPIPE`: a write to a caller that has died is then an error
    /// for the program and not its death.
    Default,
}

/// What to start, and where.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// The program.
    pub program: Program<'a>,
    /// Its arguments, the name first.
    pub argv: Vec<CString>,
    /// Its environment.
    pub envp: Vec<CString>,
    /// What becomes its descriptors 0 to 2. Each must have a number of 3 or more.
    pub stdio: [BorrowedFd<'a>; 3],
    /// A socket or pipe on which the child leaves a [`SpawnFailure`] if it cannot execute the program. Unless it is
    /// inherited too, its other end reads end of file when the program is executed.
    pub report: BorrowedFd<'a>,
    /// Further descriptors that it inherits under their numbers (3 or more). No other descriptor survives.
    pub inherit: Vec<BorrowedFd<'a>>,
    /// A descriptor that becomes number 3. Every other one that it needs must then have a higher number.
    pub third: Option<BorrowedFd<'a>>,
    /// Namespaces to join, in this order (setns(2)). Not a mount namespace: the program's loader would then come
    /// from the other root.
    pub join: Vec<(BorrowedFd<'a>, CloneFlags)>,
    /// Namespaces to make.
    pub namespaces: CloneFlags,
    /// A cgroup v2 directory to start in (CLONE_INTO_CGROUP).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The `tasks` files of cgroup v1 directories to enter, first of all. Entering by oneself costs microseconds
    /// where being moved costs milliseconds: the kernel need not wait for other processors.
    pub enter: Vec<BorrowedFd<'a>>,
    /// Namespaces to make when the cgroups are entered: a cgroup namespace is rooted where its maker is.
    pub unshare: CloneFlags,
    /// Its session.
    pub session: Session,
    /// Its signals.
    pub signals: Signals,
}

/// A started process: a child of the caller, which must wait for it.
#[derive(Debug)]
pub struct Spawned {
    /// Its pid in the caller's namespace.
    pub pid: Pid,
    /// The same process by descriptor.
    pub pidfd: OwnedFd,
}

/// Why a cloned child could not go on, as it reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", stage.call(), io::Error::from_raw_os_error(*errno))]
pub struct SpawnFailure {
    /// The step that failed.
    pub stage: Stage,
    /// The error number of its system call.
    pub errno: i32,
}

/// The steps of a cloned child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Joining a namespace.
    Join = 1,
    /// Making the child in the joined namespaces.
    Clone = 2,
    /// Keeping other processes from looking into it.
    Hide = 10,
    /// Entering a cgroup.
    Cgroup = 6,
    /// Making namespaces in the cgroup.
    Unshare = 7,
    /// Making a session.
    Session = 8,
    /// Setting the signals.
    Signals = 9,
    /// Putting stdio in place.
    Stdio = 3,
    /// Setting which descriptors survive.
    Inherit = 4,
    /// Executing the program.
    Execute = 5,
}

impl Stage {
    fn call(self) -> &'static str {
        match self {
            Self::Join => "setns",
            Self::Clone => "clone3",
            Self::Hide => "prctl(PR_SET_DUMPABLE, 0)",
            Self::Cgroup => "write(cgroup tasks, \"0\")",
            Self::Stdio => "dup3",
            Self::Inherit => "close_range",
            Self::Unshare => "unshare",
            Self::Session => "setsid",
            Self::Signals => "rt_sigprocmask",
            Self::Execute => "execve",
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [
            Self::Join,
            Self::Clone,
            Self::Hide,
            Self::Stdio,
            Self::Inherit,
            Self::Execute,
            Self::Cgroup,
            Self::Unshare,
            Self::Session,
            Self::Signals,
        ]
        .into_iter()
        .find(|stage| *stage as u8 == number)
    }
}

impl SpawnFailure {
    const SIZE: usize = 8;

    fn encode(self) -> [u8; Self::SIZE] {
        let errno = self.errno.to_le_bytes();
        [0, self.stage as u8, errno[0], errno[1], errno[2], errno[3], 0, 0]
    }

    /// As an error of this library, whose kind follows from the error number.
    ///
    /// # Errors
    /// Always.
    pub fn into_result<T>(self) -> Result<T> {
        Err(io::Error::from_raw_os_error(self.errno)).context(|| self.stage.call())
    }

    /// Reads a packet of the report socket; `None` when it is none of ours (ours begin with a zero byte).
    pub fn decode(packet: &[u8]) -> Option<Self> {
        let packet: &[u8; Self::SIZE] = packet.try_into().ok()?;
        if packet[0] != 0 {
            return None;
        }
        let errno = i32::from_le_bytes([packet[2], packet[3], packet[4], packet[5]]);
        Some(Self { stage: Stage::from_number(packet[1])?, errno })
    }
}

/// Starts the process.
///
/// # Errors
/// The error of clone3(2), of joining a namespace, or of the first preparation that failed. Nothing is left running.
pub fn spawn(spawn: &Spawn<'_>) -> Result<Spawned> {
    let raw = Prepared::new(spawn)?;
    let mut old = SigSet::empty();
    let set_mask = |mask: &SigSet, old: Option<&mut SigSet>| {
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(mask), old).context(|| "pthread_sigmask")
    };
    // A handler of the caller must not run in the child; the program sets its mask when it is up.
    set_mask(&SigSet::all(), Some(&mut old))?;
    let spawned = if spawn.join.is_empty() { raw.clone_directly() } else { raw.clone_through_joiner() };
    set_mask(&old, None)?;
    spawned
}

/// Everything the child touches, as plain numbers and pointers.
struct Prepared<'a> {
    spawn: &'a Spawn<'a>,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    inherit: Vec<RawFd>,
    join: Vec<(RawFd, libc::c_int)>,
    enter: Vec<RawFd>,
    stdio: [RawFd; 3],
    third: Option<RawFd>,
}

impl<'a> Prepared<'a> {
    fn new(spawn: &'a Spawn<'a>) -> Result<Self> {
        let pointers = |list: &[CString]| {
            list.iter().map(|text| text.as_ptr()).chain(std::iter::once(ptr::null())).collect::<Vec<_>>()
        };
        let stdio = spawn.stdio.map(|fd| fd.as_raw_fd());
        let inherit: Vec<RawFd> = spawn.inherit.iter().map(AsRawFd::as_raw_fd).collect();
        let lowest = if spawn.third.is_some() { 4 } else { 3 };
        let program = match &spawn.program {
            Program::Fd(fd) => Some(fd.as_raw_fd()),
            Program::Path(_) => None,
        };
        let needed = stdio.iter().chain(&inherit).copied().chain([spawn.report.as_raw_fd()]).chain(program);
        if needed.into_iter().any(|fd| fd < lowest) {
            return Err(Error::new(ErrorKind::InvalidInput, "a descriptor to hand over is in the way"));
        }
        Ok(Self {
            spawn,
            argv: pointers(&spawn.argv),
            envp: pointers(&spawn.envp),
            inherit,
            enter: spawn.enter.iter().map(AsRawFd::as_raw_fd).collect(),
            join: spawn.join.iter().map(|(fd, kind)| (fd.as_raw_fd(), kind.bits())).collect(),
            stdio,
            third: spawn.third.map(|fd| fd.as_raw_fd()),
        })
    }

    fn clone_directly(&self) -> Result<Spawned> {
        let mut pidfd: RawFd = -1;
        let mut args = Self::clone_args(self.spawn.namespaces, libc::SIGCHLD as u64);
        self.enter_cgroup(&mut args);
        args.flags |= libc::CLONE_PIDFD as u64;
        args.pidfd = &raw mut pidfd as u64;
        // SAFETY: the child, which gets a copy of this memory, goes straight into `become_program`, which makes only
        // raw system calls on prepared data and never returns.
        let pid = unsafe { clone3(&args) };
        match pid {
            0 => self.become_program(),
            pid if pid > 0 => {
                // SAFETY: CLONE_PIDFD has stored a new close-on-exec descriptor there.
                let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
                Ok(Spawned { pid: Pid::from_raw(pid as i32), pidfd })
            }
            _ => Err(io::Error::last_os_error()).context(|| format!("clone3({:?})", self.spawn.namespaces)),
        }
    }

    fn clone_through_joiner(&self) -> Result<Spawned> {
        let (report, joiner_end) =
            nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).context(|| "pipe2(O_CLOEXEC)")?;
        let report_to = joiner_end.as_raw_fd();
        // The joiner starts in the cgroup and its child inherits it: from within a joined cgroup namespace the kernel
        // may refuse to move anybody in from outside (mount option nsdelegate).
        let mut args = Self::clone_args(CloneFlags::empty(), libc::SIGCHLD as u64);
        self.enter_cgroup(&mut args);
        // SAFETY: as in `clone_directly`; the joiner goes straight into `join_and_clone`.
        let joiner = unsafe { clone3(&args) };
        if joiner == 0 {
            self.join_and_clone(report_to);
        }
        if joiner < 0 {
            return Err(io::Error::last_os_error()).context(|| "clone3() of who joins the namespaces");
        }
        drop(joiner_end);
        let mut packet = [0_u8; SpawnFailure::SIZE];
        let read = io::Read::read_exact(&mut std::fs::File::from(report), &mut packet);
        while let Err(nix::errno::Errno::EINTR) = nix::sys::wait::waitpid(Pid::from_raw(joiner as i32), None)
        {
        }
        match read {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(Error::new(ErrorKind::System, "who was to join the namespaces was killed"));
            }
            other => other.context(|| "read the joined process's pid")?,
        }
        if let Some(failure) = SpawnFailure::decode(&packet) {
            return failure.into_result();
        }
        let pid = Pid::from_raw(i32::from_le_bytes([packet[2], packet[3], packet[4], packet[5]]));
        // The child cannot be another process of that number: it is ours, and nobody has waited for it.
        let pidfd = super::pidfd::open(pid).context(|| format!("pidfd_open({pid})"))?;
        Ok(Spawned { pid, pidfd })
    }

    fn clone_args(namespaces: CloneFlags, exit_signal: u64) -> libc::clone_args {
        // SAFETY: all-zero bytes are a valid clone_args.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = namespaces.bits() as u64;
        args.exit_signal = exit_signal;
        args
    }

    fn enter_cgroup(&self, args: &mut libc::clone_args) {
        if let Some(cgroup) = self.spawn.cgroup {
            args.flags |= CLONE_INTO_CGROUP;
            args.cgroup = cgroup.as_raw_fd() as u64;
        }
    }

    // ---- below this line: in the child, raw system calls only ----

    fn join_and_clone(&self, report_to: RawFd) -> ! {
        // Until it executes its program the child is a copy of the caller, with all of the caller's descriptors, in
        // sight of the processes in the joined namespaces.
        // SAFETY: PR_SET_DUMPABLE takes integers.
        if unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) } != 0 {
            fail(report_to, Stage::Hide);
        }
        for (namespace, kind) in &self.join {
            // SAFETY: setns takes two integers.
            if unsafe { libc::setns(*namespace, *kind) } != 0 {
                fail(report_to, Stage::Join);
            }
        }
        let mut args = Self::clone_args(self.spawn.namespaces, 0);
        args.flags |= libc::CLONE_PARENT as u64;
        // SAFETY: as in `clone_directly`.
        let pid = unsafe { clone3(&args) };
        if pid == 0 {
            self.become_program();
        }
        if pid < 0 {
            fail(report_to, Stage::Clone);
        }
        let pid = (pid as i32).to_le_bytes();
        let packet = [1, 0, pid[0], pid[1], pid[2], pid[3], 0, 0];
        // SAFETY: write reads the packet, which lives on this stack; _exit ends the joiner.
        unsafe {
            libc::write(report_to, packet.as_ptr().cast(), packet.len());
            libc::_exit(0);
        }
    }

    fn become_program(&self) -> ! {
        let report = self.spawn.report.as_raw_fd();
        for tasks in &self.enter {
            // SAFETY: write reads one byte of a constant.
            if unsafe { libc::write(*tasks, c"0".as_ptr().cast(), 1) } != 1 {
                fail(report, Stage::Cgroup);
            }
        }
        // SAFETY: unshare takes an integer.
        if !self.spawn.unshare.is_empty() && unsafe { libc::unshare(self.spawn.unshare.bits()) } != 0 {
            fail(report, Stage::Unshare);
        }
        // SAFETY: setsid takes nothing; it fails only for a group leader, which a clone is not.
        if self.spawn.session == Session::Own && unsafe { libc::setsid() } < 0 {
            fail(report, Stage::Session);
        }
        for (number, fd) in self.stdio.iter().enumerate() {
            // SAFETY: dup3 takes integers; what 0 to 2 were is this child's own copy.
            if unsafe { libc::dup3(*fd, number as libc::c_int, 0) } < 0 {
                fail(report, Stage::Stdio);
            }
        }
        if super::fd::cloexec_from(3).is_err() {
            fail(report, Stage::Inherit);
        }
        if let Some(fd) = self.third {
            // SAFETY: as above, for number 3; dup3 refuses a descriptor that is there already, which then only has to
            // survive.
            let done =
                unsafe { if fd == 3 { libc::fcntl(3, libc::F_SETFD, 0) } else { libc::dup3(fd, 3, 0) } };
            if done < 0 {
                fail(report, Stage::Stdio);
            }
        }
        for fd in &self.inherit {
            // SAFETY: F_SETFD takes integers.
            if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } < 0 {
                fail(report, Stage::Inherit);
            }
        }
        if self.spawn.signals == Signals::Default && !default_signals() {
            fail(report, Stage::Signals);
        }
        let (at, path, flags) = match &self.spawn.program {
            Program::Fd(fd) => (fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH),
            Program::Path(path) => (libc::AT_FDCWD, path.as_ptr(), 0),
        };
        // SAFETY: both lists end with a null pointer, and the strings live in the caller's `Spawn`, copied with it.
        unsafe {
            libc::syscall(libc::SYS_execveat, at, path, self.argv.as_ptr(), self.envp.as_ptr(), flags);
        }
        fail(report, Stage::Execute)
    }
}

/// In the child, where no other thread is: every signal gets its default action, none is blocked but `SIGPIPE`.
fn default_signals() -> bool {
    super::process::default_actions();
    // SAFETY: both calls fill or read one sigset_t on this stack.
    unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut mask);
        libc::sigaddset(&raw mut mask, libc::SIGPIPE);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, ptr::null_mut()) == 0
    }
}

/// # Safety
/// The child (return value 0) must only make raw system calls on data prepared before, and must not return.
unsafe fn clone3(args: &libc::clone_args) -> libc::c_long {
    // SAFETY: the kernel reads one clone_args of the size given; the rest is the caller's duty.
    unsafe { libc::syscall(libc::SYS_clone3, ptr::from_ref(args), size_of::<libc::clone_args>()) }
}

fn fail(report_to: RawFd, stage: Stage) -> ! {
    // SAFETY: __errno_location points to this thread's errno.
    let errno = unsafe { *libc::__errno_location() };
    let packet = SpawnFailure { stage, errno }.encode();
    // SAFETY: write reads the packet, which lives on this stack; _exit ends the child.
    unsafe {
        libc::write(report_to, packet.as_ptr().cast(), packet.len());
        libc::_exit(127);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use nix::sys::wait::{WaitStatus, waitpid};

    use super::*;

    fn start(program: &str, args: &[&str], join: Vec<(BorrowedFd<'_>, CloneFlags)>) -> (WaitStatus, Vec<u8>) {
        try_start(program, args, join).expect("spawn")
    }

    fn try_start(
        program: &str,
        args: &[&str],
        join: Vec<(BorrowedFd<'_>, CloneFlags)>,
    ) -> Result<(WaitStatus, Vec<u8>)> {
        let executable = std::fs::File::open(program).expect("open the program");
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").expect("null");
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .expect("socketpair");
        let spawn = Spawn {
            program: Program::Fd(executable.as_fd()),
            argv: args.iter().map(|a| CString::new(*a).expect("no NUL")).collect(),
            envp: vec![],
            stdio: [null.as_fd(); 3],
            report: theirs.as_fd(),
            enter: vec![],
            unshare: CloneFlags::empty(),
            session: Session::Own,
            signals: Signals::Default,
            inherit: vec![],
            third: None,
            join,
            namespaces: CloneFlags::empty(),
            cgroup: None,
        };
        let child = super::spawn(&spawn)?;
        drop(theirs);
        let status = waitpid(child.pid, None).expect("our child");
        let mut packet = [0; 64];
        let read = nix::unistd::read(&ours, &mut packet).unwrap_or(0);
        Ok((status, packet[..read].to_vec()))
    }

    #[test]
    fn a_namespace_that_cannot_be_joined_is_not_an_error_of_clone() {
        let null = std::fs::File::open("/dev/null").expect("null");
        let error = try_start("/bin/true", &["true"], vec![(null.as_fd(), CloneFlags::CLONE_NEWUTS)])
            .expect_err("/dev/null is no namespace");
        assert_eq!(error.chain(), "setns: Invalid argument (os error 22)");
    }

    #[test]
    fn a_child_runs_and_is_ours_to_wait_for() {
        let (status, packet) = start("/bin/sh", &["sh", "-c", "exit 7"], vec![]);
        assert!(matches!(status, WaitStatus::Exited(_, 7)), "{status:?}");
        assert!(packet.is_empty());
    }

    #[test]
    fn a_child_behind_a_joiner_is_ours_to_wait_for() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let uts = std::fs::File::open("/proc/self/ns/uts").expect("uts");
        let join = vec![(uts.as_fd(), CloneFlags::CLONE_NEWUTS)];
        let (status, _) = start("/bin/sh", &["sh", "-c", "exit 8"], join);
        assert!(matches!(status, WaitStatus::Exited(_, 8)), "{status:?}");
    }

    #[test]
    fn what_cannot_be_executed_reports_the_call_and_why() {
        let (status, packet) = start("/etc/passwd", &["x"], vec![]);
        assert!(matches!(status, WaitStatus::Exited(_, 127)), "{status:?}");
        let failure = SpawnFailure::decode(&packet).expect("a failure packet");
        assert_eq!(failure, SpawnFailure { stage: Stage::Execute, errno: libc::EACCES });
        assert_eq!(failure.to_string(), "execve: Permission denied (os error 13)");
    }

    #[test]
    fn foreign_packets_are_not_failures() {
        assert_eq!(SpawnFailure::decode(b"{\"ready\""), None);
        assert_eq!(SpawnFailure::decode(&[0; 8]), None);
        assert_eq!(SpawnFailure::decode(&[0]), None);
    }
}
