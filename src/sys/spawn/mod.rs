// SPDX-License-Identifier: Apache-2.0
//! Starts a process in new or joined namespaces from a program that may have any number of threads.
//!
//! ```text
//!   caller ── clone3(new namespaces) ─────────────────────────▶ child: enters its cgroups, executes
//!   caller ── clone3() ──▶ joiner: setns…, clone3(CLONE_PARENT) ─▶ child: the same
//!                             │    └─ reports the pid, exits
//!                             └─ between the two, for a new user or time namespace:
//!                                unshare, waits while the caller writes id maps and clock offsets, becomes root there
//! ```
//!
//! A user namespace is made before all others, so that it owns them, and a time namespace before the child: a process
//! is in its parent's.
//!
//! Between clone and exec the child runs on a copy of a memory in which other threads may have held any lock
//! (`child.rs`). The child is a direct child of the caller in both forms.

mod child;
mod failure;

use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::unistd::Pid;

use crate::{Context, Error, ErrorKind, Result};

pub use failure::{SpawnFailure, Stage};

/// A time namespace, for clone(2)'s flags; nix does not name it.
pub const CLONE_NEWTIME: CloneFlags = CloneFlags::from_bits_retain(0x80);

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
    /// Namespaces to join, in this order but for a user namespace, whose turn comes when those are joined that do not
    /// depend on it (setns(2)). Not a mount namespace: the program's loader would then come from the other root.
    pub join: Vec<(BorrowedFd<'a>, CloneFlags)>,
    /// Namespaces to make.
    pub namespaces: CloneFlags,
    /// User and group that it becomes in its user namespace, if it gets another than ours; it keeps all capabilities
    /// there until it has executed its program.
    pub ids: (u32, u32),
    /// What the caller does when the user and time namespaces are there, and nothing else yet.
    pub outside: Option<Outside<'a>>,
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

/// The caller's part in making a process: what only a process outside of its new namespaces may do.
pub struct Outside<'a> {
    /// Whether the caller may look into any process. Who may not can only write to the files in `/proc` of a process
    /// that is not hidden yet.
    pub privileged: bool,
    /// The work, on the `/proc` entry of the pid.
    pub work: &'a dyn Fn(Pid) -> Result<()>,
}

impl fmt::Debug for Outside<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outside").field("privileged", &self.privileged).finish_non_exhaustive()
    }
}

/// A started process: a child of the caller, which must wait for it.
#[derive(Debug)]
pub struct Spawned {
    /// Its pid in the caller's namespace.
    pub pid: Pid,
    /// The same process by descriptor.
    pub pidfd: OwnedFd,
}

impl Spawned {
    /// Ends a process that nobody will wait for, and waits for it.
    pub fn kill(&self) {
        // It is the caller's child: if it is gone already, there is nothing to kill, and still a zombie to reap.
        drop(super::pidfd::send_signal(self.pidfd.as_fd(), libc::SIGKILL));
        drop(super::pidfd::wait_ended(&self.pidfd, Duration::from_secs(10)));
        let _ = nix::sys::wait::waitpid(self.pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
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
    let direct =
        spawn.join.is_empty() && spawn.outside.is_none() && !spawn.namespaces.intersects(made_first());
    let spawned = if direct { raw.clone_directly() } else { raw.clone_through_joiner() };
    set_mask(&old, None)?;
    spawned
}

/// What the joiner makes before its child: the owner of the other namespaces, and what clone3(2) does not make.
fn made_first() -> CloneFlags {
    CloneFlags::CLONE_NEWUSER | CLONE_NEWTIME
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
        if spawn.join.len() > child::MOST_JOINED {
            return Err(Error::new(ErrorKind::InvalidInput, "more namespaces to join than there are kinds"));
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
        let pipe = || nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).context(|| "pipe2(O_CLOEXEC)");
        let (report, joiner_end) = pipe()?;
        let go = self.spawn.outside.as_ref().map(|_| pipe()).transpose()?;
        let numbers = go.as_ref().map(|(reading, writing)| [reading.as_raw_fd(), writing.as_raw_fd()]);
        let report_to = joiner_end.as_raw_fd();
        // The joiner starts in the cgroup and its child inherits it: from within a joined cgroup namespace the kernel
        // may refuse to move anybody in from outside (mount option nsdelegate).
        let mut args = Self::clone_args(CloneFlags::empty(), libc::SIGCHLD as u64);
        self.enter_cgroup(&mut args);
        // SAFETY: as in `clone_directly`; the joiner goes straight into `join_and_clone`.
        let joiner = unsafe { clone3(&args) };
        if joiner == 0 {
            self.join_and_clone(report_to, numbers);
        }
        if joiner < 0 {
            return Err(io::Error::last_os_error()).context(|| "clone3() of who joins the namespaces");
        }
        drop(joiner_end);
        let joiner = Pid::from_raw(joiner as i32);
        // The writing end goes with this call: a joiner that still waits ends.
        let pid = self.attend(joiner, report.into(), go.map(|(_, writing)| writing.into()));
        while let Err(nix::errno::Errno::EINTR) = nix::sys::wait::waitpid(joiner, None) {}
        let pid = pid?;
        // The child cannot be another process of that number: it is ours, and nobody has waited for it.
        let pidfd = super::pidfd::open(pid).context(|| format!("pidfd_open({pid})"))?;
        Ok(Spawned { pid, pidfd })
    }

    /// Follows the joiner until it has left a child, and does the caller's part on the way.
    fn attend(&self, joiner: Pid, mut report: File, mut go: Option<File>) -> Result<Pid> {
        loop {
            let mut packet = [0_u8; SpawnFailure::SIZE];
            match report.read_exact(&mut packet) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(Error::new(ErrorKind::System, "who was to join the namespaces was killed"));
                }
                other => other.context(|| "read the joined process's pid")?,
            }
            if let Some(failure) = SpawnFailure::decode(&packet) {
                return failure.into_result();
            }
            if packet[0] == child::PID {
                let pid = [packet[2], packet[3], packet[4], packet[5]];
                return Ok(Pid::from_raw(i32::from_le_bytes(pid)));
            }
            if let (Some(outside), Some(mut go)) = (&self.spawn.outside, go.take()) {
                (outside.work)(joiner)?;
                go.write_all(b"g").context(|| "let the process in its user namespace go on")?;
            }
        }
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
}

/// # Safety
/// The child (return value 0) must only make raw system calls on data prepared before, and must not return.
pub(in crate::sys) unsafe fn clone3(args: &libc::clone_args) -> libc::c_long {
    // SAFETY: the kernel reads one clone_args of the size given; the rest is the caller's duty.
    unsafe { libc::syscall(libc::SYS_clone3, ptr::from_ref(args), size_of::<libc::clone_args>()) }
}

#[cfg(test)]
mod tests {
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
            ids: (0, 0),
            outside: None,
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
        assert_eq!(error.chain(), "setns(CLONE_NEWUTS): invalid argument");
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
        assert_eq!(
            failure,
            SpawnFailure { stage: Stage::Execute, errno: libc::EACCES, namespace: CloneFlags::empty() }
        );
        assert_eq!(failure.to_string(), "execve: Permission denied (os error 13)");
    }
}
