// SPDX-License-Identifier: Apache-2.0
//! Processes that are in the way: traced ones, ones in namespaces of their own, ones that share what lies outside.

use nix::sched::{CloneFlags, unshare};
use nix::unistd::Pid;

use super::{Held, Make, Place};
use crate::lifecycle::During as _;
use crate::sys;

pub(super) const KINDS: &[(&str, Make)] = &[
    ("traced", traced),
    ("own-network", |_| in_namespaces(CloneFlags::CLONE_NEWNET)),
    ("own-ipc", |_| in_namespaces(CloneFlags::CLONE_NEWIPC)),
    ("own-users", |_| in_namespaces(CloneFlags::CLONE_NEWUSER)),
    ("shared-memory", shared_memory),
    ("none", |_| Ok(Box::new(()))),
];

/// A child that this process traces, as a debugger does.
fn traced(_: &Place) -> Held {
    const SEIZE: i64 = 0x4206;
    let child = sleeping(|| Ok(()))?;
    sys::call([libc::SYS_ptrace, SEIZE, child.as_raw().into(), 0, 0, 0, 0]).during("ptrace")?;
    Ok(Box::new(vec![child]))
}

/// A child in namespaces of its own.
fn in_namespaces(flags: CloneFlags) -> Held {
    Ok(Box::new(vec![sleeping(move || unshare(flags))?]))
}

/// A System V shared memory segment, attached.
fn shared_memory(_: &Place) -> Held {
    const PRIVATE: i64 = 0;
    let id = sys::call([libc::SYS_shmget, PRIVATE, 4096, 0o600, 0, 0, 0]).during("shmget")?;
    sys::call([libc::SYS_shmat, id, 0, 0, 0, 0, 0]).during("shmat")?;
    // Gone with the last process that has it: the test leaves nothing on the host.
    sys::call([libc::SYS_shmctl, id, 0, 0, 0, 0, 0]).during("shmctl")?;
    Ok(Box::new(()))
}

/// A child that prepares and sleeps until it is killed with the container. Comes back when it is prepared.
fn sleeping(prepare: impl FnOnce() -> nix::Result<()>) -> Result<Pid, String> {
    let (mut ready, tell) = std::io::pipe().during("pipe")?;
    let child = sys::fork(move || {
        use std::io::Write as _;
        let prepared = prepare();
        let mut tell = tell;
        if prepared.is_err() || tell.write_all(b"+").is_err() {
            return 1;
        }
        drop(tell);
        loop {
            // It ends with its container.
            nix::unistd::pause();
        }
    })
    .during("fork")?;
    let mut byte = [0];
    std::io::Read::read_exact(&mut ready, &mut byte).during("the child")?;
    Ok(child)
}
