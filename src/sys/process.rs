// SPDX-License-Identifier: Apache-2.0
//! What a process sets of itself before it becomes the container's program, and limits set from outside.

use std::ffi::{CStr, CString};
use std::io;
use std::ptr;

use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, sigaction,
};
use nix::unistd::Pid;

/// Sets one resource limit of another process (prlimit(2)).
///
/// # Errors
/// `EPERM` when a hard limit is raised without CAP_SYS_RESOURCE, `ESRCH`, `EINVAL`.
pub fn set_limit(pid: Pid, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: prlimit64 reads one rlimit64 and writes nothing when the old limit's pointer is null.
    let done = unsafe { libc::prlimit64(pid.as_raw(), resource as _, &raw const limit, ptr::null_mut()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the resource limits of another process are ours to read. CRIU must, and its kernel asks for CAP_SYS_RESOURCE over
/// the process's user namespace unless all its ids are the caller's (prlimit(2)).
///
/// # Errors
/// `ESRCH` when the process is gone.
pub fn may_read_limits(pid: Pid) -> io::Result<bool> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: prlimit64 writes one rlimit64, and reads none when the new limit's pointer is null.
    let done =
        unsafe { libc::prlimit64(pid.as_raw(), libc::RLIMIT_NOFILE as _, ptr::null(), &raw mut limit) };
    match io::Error::last_os_error() {
        _ if done == 0 => Ok(true),
        error if error.raw_os_error() == Some(libc::EPERM) => Ok(false),
        error => Err(error),
    }
}

/// The user and the group that this process acts as.
pub fn effective_ids() -> (u32, u32) {
    (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
}

/// Sets the NIS domain name of this process's uts namespace (setdomainname(2)). Its file in `/proc/sys` belongs to the
/// host's root, whoever owns the namespace.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN over the namespace, `EINVAL` for a name that is too long.
pub fn set_domain_name(name: &str) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes as it is told, all of them the string's.
    let done = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives every signal its default action and empties the mask, as a program expects to find them.
///
/// # Errors
/// The error of setting the mask.
pub fn reset_signals() -> io::Result<()> {
    // A write of ours to a pipe without a reader may have left one pending: to ignore a signal discards it.
    // SAFETY: no handler is installed.
    unsafe { nix::sys::signal::signal(Signal::SIGPIPE, SigHandler::SigIgn)? };
    default_actions();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// Gives every signal its default action. Raw system calls only, for the time between clone and exec.
pub(super) fn default_actions() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: all-zero bytes with SIG_DFL are a valid sigaction; SIGKILL, SIGSTOP and the two that the C library
        // keeps for itself answer EINVAL, which is as it should be.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = libc::SIG_DFL;
            libc::sigaction(signal, &raw const action, ptr::null_mut());
        }
    }
}

/// A program with its arguments and environment, in the form that execve(2) takes.
#[derive(Debug)]
pub struct Image {
    program: CString,
    // What the pointers lead to: neither list changes.
    _argv: Vec<CString>,
    _envp: Vec<CString>,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
}

impl Image {
    /// One of these.
    pub fn new(program: CString, argv: Vec<CString>, envp: Vec<CString>) -> Self {
        let pointers = |list: &[CString]| {
            list.iter().map(|text| text.as_ptr()).chain(std::iter::once(ptr::null())).collect::<Vec<_>>()
        };
        let (argv_pointers, envp_pointers) = (pointers(&argv), pointers(&envp));
        Self { program, _argv: argv, _envp: envp, argv: argv_pointers, envp: envp_pointers }
    }

    /// Replaces this process's program, with this one system call alone.
    pub fn execute(&self) -> io::Error {
        // SAFETY: both lists end with a null pointer, and their strings live in this value, on the heap: moving it does
        // not move them.
        unsafe { libc::execve(self.program.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
        io::Error::last_os_error()
    }
}

/// What a signal means, in the words of the C library, in lower case: `bad system call`.
pub fn signal_meaning(number: i32) -> String {
    // SAFETY: strsignal gives a string that lives until the next call by this thread, and it is copied at once.
    let text = unsafe { libc::strsignal(number) };
    if text.is_null() {
        return format!("signal {number}");
    }
    // SAFETY: as above; it is not null and ends with a NUL.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().to_lowercase()
}

/// Keeps other processes of the same user from looking into this one (ptrace(2), `/proc/PID/{fd,exe,mem}`), until it
/// executes another program (`PR_SET_DUMPABLE` of prctl(2)).
///
/// # Errors
/// The error of prctl(2).
pub fn forbid_inspection() -> io::Result<()> {
    nix::sys::prctl::set_dumpable(false)?;
    Ok(())
}

/// Ends this process at once, without running anything at exit.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit does not return and touches nothing of this process's memory.
    unsafe { libc::_exit(code) }
}

/// Gives SIGCHLD its default action: inherited as ignored, it would have the kernel reap children unasked, and nobody
/// could learn how they ended (wait(2)).
///
/// # Errors
/// The error of sigaction(2).
pub fn keep_ended_children() -> io::Result<()> {
    // SAFETY: no handler is installed.
    unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigDfl)? };
    Ok(())
}

/// Lets SIGHUP, SIGINT and SIGTERM end this process, unless they are ignored, even if it is the first of its pid namespace,
/// to which the kernel passes no signal that has only its default action (pid_namespaces(7)). A program that it executes
/// has the default actions again.
///
/// # Errors
/// The error of sigaction(2).
pub fn end_on_signals() -> io::Result<()> {
    extern "C" fn end(signal: i32) {
        exit_now(128 + signal);
    }
    let signals = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];
    for signal in signals {
        let action = SigAction::new(SigHandler::Handler(end), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler only calls _exit(2), which is safe in a handler (signal-safety(7)).
        let before = unsafe { sigaction(signal, &action)? };
        if matches!(before.handler(), SigHandler::SigIgn) {
            // SAFETY: no handler is installed.
            unsafe { sigaction(signal, &before)? };
        }
    }
    pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&SigSet::from_iter(signals)), None)?;
    Ok(())
}

/// Makes this process a subreaper: its descendants' orphans become its children (prctl(2)).
///
/// # Errors
/// The error of prctl(2).
pub fn become_subreaper() -> io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_a_process_can_be_lowered_from_outside() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("cat");
        let pid = Pid::from_raw(child.id() as i32);
        set_limit(pid, libc::RLIMIT_NOFILE, 7, 9).expect("lowering needs no privilege");
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
        let line = limits.lines().find(|l| l.starts_with("Max open files")).expect("the line");
        assert_eq!(line.split_ascii_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["7", "9"]);
        drop(child.stdin.take());
        child.wait().expect("our child");
    }
}
