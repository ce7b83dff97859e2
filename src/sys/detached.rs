// SPDX-License-Identifier: Apache-2.0
//! Programs that stay when the command that has started them has ended. Must not know what they are for.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::unistd::{ForkResult, Pid};

/// Starts a program in a session of its own, with nothing of the caller's but this descriptor as its stdin, and this variable as its
/// environment.
///
/// For callers with any number of threads: the standard library forks and executes, and nothing else runs between.
///
/// # Errors
/// That of fork(2) or execve(2).
pub fn start(program: &Path, stdin: OwnedFd, variable: (&str, &str)) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.arg0("migrate").env_clear().env(variable.0, variable.1).current_dir("/");
    command.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null());
    let prepare = || {
        nix::unistd::setsid()?;
        super::fd::cloexec_from(3)
    };
    // SAFETY: the closure runs between fork and exec and makes two raw system calls, without allocation or lock.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// Forks this process: `None` in the child.
///
/// # Errors
/// That of fork(2); `Unsupported` if there is a second thread, whose locks nobody would open in the child.
pub fn fork() -> io::Result<Option<Pid>> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "fork of a process with threads"));
    }
    // SAFETY: there is no other thread, so the child may do whatever the parent may.
    Ok(match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Some(child),
        ForkResult::Child => None,
    })
}

/// Forks this process: `None` in the child, which has none of these descriptors. Whoever owns them must not come to their end there.
///
/// # Errors
/// Those of [`fork`].
pub fn fork_without(descriptors: &[BorrowedFd<'_>]) -> io::Result<Option<Pid>> {
    let forked = fork()?;
    if forked.is_none() {
        descriptors.iter().try_for_each(|descriptor| nix::unistd::close(descriptor.as_raw_fd()))?;
    }
    Ok(forked)
}

/// Takes over what [`start`] gave as stdin, which is `/dev/null` from now on.
///
/// # Errors
/// That of dup(2) or open(2).
pub fn take_stdin() -> io::Result<OwnedFd> {
    let given = super::fd::above_stdio(super::fd::stdio(0))?;
    let null = std::fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    Ok(given)
}
