// SPDX-License-Identifier: Apache-2.0
//! What a clone of the caller does until it executes its program.
//!
//! Raw system calls on data prepared before, and nothing else: no allocation, no lock, no unwinding, and none of the C
//! library's calls that speak to other threads (its setuid(3) does).

use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use nix::sched::CloneFlags;

use super::{Prepared, Program, Session, Signals, SpawnFailure, Stage, clone3};

/// The first byte of the joiner's packet with the pid of its child.
pub(super) const PID: u8 = 1;
/// The first byte of the joiner's packet that says: do your part from outside, then let me go on.
pub(super) const WAITS: u8 = 2;

/// As many namespaces as there are kinds: more cannot be joined.
pub(super) const MOST_JOINED: usize = 8;

impl Prepared<'_> {
    /// The joiner: goes through the namespaces in the order that the kernel demands, and leaves a child there.
    pub(super) fn join_and_clone(&self, report_to: RawFd, go: Option<[RawFd; 2]>) -> ! {
        let fail = |stage, kind| fail(report_to, stage, kind);
        // Until it executes its program the child is a copy of the caller, with all of the caller's descriptors, in
        // sight of the processes in the joined namespaces.
        let hidden_at_once = self.spawn.outside.as_ref().is_none_or(|outside| outside.privileged);
        if hidden_at_once && !hide() {
            fail(Stage::Hide, 0);
        }
        self.join_namespaces(report_to);
        let user = CloneFlags::CLONE_NEWUSER;
        for kind in [user, super::CLONE_NEWTIME] {
            // SAFETY: unshare takes an integer.
            if self.spawn.namespaces.contains(kind) && unsafe { libc::unshare(kind.bits()) } != 0 {
                fail(Stage::Unshare, kind.bits());
            }
        }
        if let Some([reading, writing]) = go {
            wait_for_outside(report_to, reading, writing);
        }
        let joins_user = self.join.iter().any(|(_, kind)| *kind == user.bits());
        if joins_user || self.spawn.namespaces.contains(user) {
            become_ids(report_to, self.spawn.ids);
        }
        if !hidden_at_once && !hide() {
            fail(Stage::Hide, 0);
        }
        let mut args = Self::clone_args(self.spawn.namespaces - super::made_first(), 0);
        args.flags |= libc::CLONE_PARENT as u64;
        // SAFETY: the child goes straight into `become_program`.
        let pid = unsafe { clone3(&args) };
        if pid == 0 {
            self.become_program();
        }
        if pid < 0 {
            fail(Stage::Clone, 0);
        }
        let pid = (pid as i32).to_le_bytes();
        send(report_to, &[PID, 0, pid[0], pid[1], pid[2], pid[3], 0, 0]);
        // SAFETY: _exit ends the joiner.
        unsafe { libc::_exit(0) }
    }

    /// Those that the caller's own user namespace lets in come first, since its rights end with the step into another
    /// user namespace; those that only the other one lets in follow it.
    fn join_namespaces(&self, report_to: RawFd) {
        let user = CloneFlags::CLONE_NEWUSER.bits();
        let joins_user = self.join.iter().any(|(_, kind)| *kind == user);
        let mut joined = [false; MOST_JOINED];
        for (pass, wanted) in [(0, false), (1, true), (2, false)] {
            for ((namespace, kind), done) in self.join.iter().zip(&mut joined) {
                if *done || (*kind == user) != wanted {
                    continue;
                }
                // SAFETY: setns takes two integers.
                if unsafe { libc::setns(*namespace, *kind) } == 0 {
                    *done = true;
                } else if !(pass == 0 && joins_user && errno() == libc::EPERM) {
                    fail(report_to, Stage::Join, *kind);
                }
            }
        }
    }

    /// In the child: from the clone to its program.
    pub(super) fn become_program(&self) -> ! {
        let report = self.spawn.report.as_raw_fd();
        let fail = |stage| fail(report, stage, 0);
        for tasks in &self.enter {
            // SAFETY: write reads one byte of a constant.
            if unsafe { libc::write(*tasks, c"0".as_ptr().cast(), 1) } != 1 {
                fail(Stage::Cgroup);
            }
        }
        // SAFETY: unshare takes an integer.
        if !self.spawn.unshare.is_empty() && unsafe { libc::unshare(self.spawn.unshare.bits()) } != 0 {
            fail(Stage::Unshare);
        }
        // SAFETY: setsid takes nothing; it fails only for a group leader, which a clone is not.
        if self.spawn.session == Session::Own && unsafe { libc::setsid() } < 0 {
            fail(Stage::Session);
        }
        self.place_descriptors(report);
        if self.spawn.signals == Signals::Default && !default_signals() {
            fail(Stage::Signals);
        }
        let (at, path, flags) = match &self.spawn.program {
            Program::Fd(fd) => (fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH),
            Program::Path(path) => (libc::AT_FDCWD, path.as_ptr(), 0),
        };
        // SAFETY: both lists end with a null pointer, and the strings live in the caller's `Spawn`, copied with it.
        unsafe {
            libc::syscall(libc::SYS_execveat, at, path, self.argv.as_ptr(), self.envp.as_ptr(), flags);
        }
        fail(Stage::Execute)
    }

    fn place_descriptors(&self, report: RawFd) {
        for (number, fd) in self.stdio.iter().enumerate() {
            // SAFETY: dup3 takes integers; what 0 to 2 were is this child's own copy.
            if unsafe { libc::dup3(*fd, number as libc::c_int, 0) } < 0 {
                fail(report, Stage::Stdio, 0);
            }
        }
        if crate::sys::fd::cloexec_from(3).is_err() {
            fail(report, Stage::Inherit, 0);
        }
        if let Some(fd) = self.third {
            // SAFETY: as above, for number 3; dup3 refuses a descriptor that is there already, which then only has to
            // survive.
            let done =
                unsafe { if fd == 3 { libc::fcntl(3, libc::F_SETFD, 0) } else { libc::dup3(fd, 3, 0) } };
            if done < 0 {
                fail(report, Stage::Stdio, 0);
            }
        }
        for fd in &self.inherit {
            // SAFETY: F_SETFD takes integers.
            if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } < 0 {
                fail(report, Stage::Inherit, 0);
            }
        }
    }
}

fn hide() -> bool {
    // SAFETY: PR_SET_DUMPABLE takes integers.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 }
}

/// Tells the caller that its part is due, and waits. A caller that gave up closes its end.
fn wait_for_outside(report_to: RawFd, reading: RawFd, writing: RawFd) {
    // SAFETY: close takes an integer; with our own copy of the other end open the read would wait for ever.
    unsafe { libc::close(writing) };
    send(report_to, &[WAITS, 0, 0, 0, 0, 0, 0, 0]);
    let mut byte = 0_u8;
    loop {
        // SAFETY: read fills one byte of this stack.
        match unsafe { libc::read(reading, (&raw mut byte).cast(), 1) } {
            1 => return,
            -1 if errno() == libc::EINTR => {}
            // SAFETY: _exit ends the joiner.
            _ => unsafe { libc::_exit(1) },
        }
    }
}

/// User and group in the user namespace, without the caller's supplementary groups. Where setgroups(2) is denied they
/// stay.
fn become_ids(report_to: RawFd, (uid, gid): (u32, u32)) {
    let none = ptr::null::<libc::gid_t>();
    // SAFETY: the kernel reads no group at all; raw calls, since the C library's would look for other threads.
    unsafe {
        if libc::syscall(libc::SYS_setgroups, 0, none) != 0 && errno() != libc::EPERM {
            fail(report_to, Stage::LeaveGroups, 0);
        }
        if libc::syscall(libc::SYS_setresgid, gid, gid, gid) != 0 {
            fail(report_to, Stage::BecomeGroup, 0);
        }
        if libc::syscall(libc::SYS_setresuid, uid, uid, uid) != 0 {
            fail(report_to, Stage::BecomeUser, 0);
        }
    }
    if uid != 0 && !keep_capabilities() {
        fail(report_to, Stage::KeepCapabilities, 0);
    }
}

/// Who is not root loses all capabilities at execve(2) but the ambient ones (capabilities(7)).
fn keep_capabilities() -> bool {
    const VERSION_3: u32 = 0x2008_0522;
    let mut header = [VERSION_3, 0];
    // Effective, permitted and inheritable, first the lower 32 capabilities and then the higher ones.
    let mut sets = [0_u32; 6];
    // SAFETY: capget and capset read a header of two and read or fill sets of six 32-bit numbers, all on this stack; prctl
    // takes integers. An unknown capability is refused, and there is none to keep then.
    unsafe {
        if libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) != 0 {
            return false;
        }
        (sets[2], sets[5]) = (sets[1], sets[4]);
        if libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr()) != 0 {
            return false;
        }
        for capability in 0..64 {
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0);
        }
    }
    true
}

/// In the child, where no other thread is: every signal gets its default action, none is blocked but `SIGPIPE`.
fn default_signals() -> bool {
    crate::sys::process::default_actions();
    // SAFETY: both calls fill or read one sigset_t on this stack.
    unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut mask);
        libc::sigaddset(&raw mut mask, libc::SIGPIPE);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, ptr::null_mut()) == 0
    }
}

fn errno() -> i32 {
    // SAFETY: __errno_location points to this thread's errno.
    unsafe { *libc::__errno_location() }
}

fn send(report_to: RawFd, packet: &[u8; SpawnFailure::SIZE]) {
    // SAFETY: write reads the packet, which lives on the caller's stack.
    unsafe { libc::write(report_to, packet.as_ptr().cast(), packet.len()) };
}

fn fail(report_to: RawFd, stage: Stage, namespace: i32) -> ! {
    let namespace = CloneFlags::from_bits_retain(namespace);
    send(report_to, &SpawnFailure { stage, errno: errno(), namespace }.encode());
    // SAFETY: _exit ends the child.
    unsafe { libc::_exit(127) }
}
