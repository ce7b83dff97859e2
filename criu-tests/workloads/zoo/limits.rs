// SPDX-License-Identifier: Apache-2.0
//! Objects that CRIU does not carry: held and verified as the others, so that a failed checkpoint is seen not to have
//! harmed them.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use nix::mqueue::{MQ_OFlag, MqAttr, mq_open, mq_receive, mq_send};
use nix::sys::stat::Mode;

use super::held::{content, same_bytes};
use super::memory::{BOTH, PAGE};
use super::sys::limits;
use super::sys::memory::Map;
use super::{Made, made};
use crate::lifecycle::{Checked, During as _, expect_eq};

super::exhibits![
    io_uring,
    user_fault_descriptor,
    secret_memory,
    message_queue,
    performance_counter,
    landlock_rules,
    file_system_context,
    detached_mount,
    seccomp_listener,
    timerfd_that_wakes_the_machine,
    message_queue_that_is_closed,
];

/// The descriptor is of this kind.
fn is(fd: &OwnedFd, kind: &str) -> Checked {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).during("readlink")?;
    expect_eq("descriptor", link.to_string_lossy().as_ref(), kind)
}

fn held(fd: std::io::Result<OwnedFd>, kind: &'static str) -> Made {
    let fd = fd.during(kind)?;
    made(move || is(&fd, kind))
}

/// A submission and a completion ring.
fn io_uring() -> Made {
    held(limits::io_uring(8), "anon_inode:[io_uring]")
}

/// A mapping whose faults somebody else would serve.
fn user_fault_descriptor() -> Made {
    held(limits::user_fault_descriptor(), "anon_inode:[userfaultfd]")
}

/// Memory that not even the kernel reads.
fn secret_memory() -> Made {
    let fd = limits::secret_memory().during("memfd_secret")?;
    nix::unistd::ftruncate(&fd, PAGE as i64).during("ftruncate")?;
    let map = Map::of_file(fd.as_fd(), (0, PAGE), BOTH, libc::MAP_SHARED).during("mmap")?;
    map.touch(5, 77);
    made(move || expect_eq("byte", map.look(5), 77))
}

/// A POSIX message queue with a message in it.
fn message_queue() -> Made {
    let flags = MQ_OFlag::O_CREAT | MQ_OFlag::O_EXCL | MQ_OFlag::O_RDWR | MQ_OFlag::O_NONBLOCK;
    let attributes = MqAttr::new(0, 4, 128, 0);
    let queue = mq_open("/exhibit", flags, Mode::S_IRWXU, Some(&attributes)).during("mq_open")?;
    mq_send(&queue, &content(100), 3).during("mq_send")?;
    made(move || {
        let (mut bytes, mut priority) = ([0; 128], 0);
        let got = mq_receive(&queue, &mut bytes, &mut priority).during("mq_receive")?;
        expect_eq("priority", priority, 3)?;
        same_bytes(&bytes[..got], &content(100))?;
        mq_send(&queue, &bytes[..got], priority).during("mq_send")
    })
}

/// A software counter of this process.
fn performance_counter() -> Made {
    held(limits::performance_counter(), "anon_inode:[perf_event]")
}

/// Rules that nobody is held to yet.
fn landlock_rules() -> Made {
    held(limits::landlock_rules(), "anon_inode:[landlock-ruleset]")
}

/// A file system that is being configured (fsopen(2)).
fn file_system_context() -> Made {
    held(limits::file_system_context(c"tmpfs"), "anon_inode:[fscontext]")
}

/// A mount that is nowhere (open_tree(2)).
fn detached_mount() -> Made {
    let fd = limits::detached_mount(c"/scratch").during("open_tree")?;
    made(move || {
        let text = super::proc::text("/proc/self/mountinfo")?;
        let id = super::held::fdinfo(&fd, "mnt_id")?;
        let id = id.first().ok_or("fdinfo has no mnt_id")?;
        let listed = text.lines().any(|line| line.split(' ').next() == Some(id.as_str()));
        expect_eq("the mount is in the table", listed, false)
    })
}

/// Who is asked about system calls of a child.
fn seccomp_listener() -> Made {
    held(limits::seccomp_listener(), "anon_inode:seccomp notify")
}

/// On a clock of alarms.
fn timerfd_that_wakes_the_machine() -> Made {
    held(limits::alarm_timer(), "anon_inode:[timerfd]")
}

/// A POSIX message queue that nobody has open.
fn message_queue_that_is_closed() -> Made {
    let open = |flags: MQ_OFlag| {
        let attributes = MqAttr::new(0, 4, 128, 0);
        mq_open("/closed", flags | MQ_OFlag::O_RDWR, Mode::S_IRWXU, Some(&attributes)).during("mq_open")
    };
    let queue = open(MQ_OFlag::O_CREAT | MQ_OFlag::O_EXCL)?;
    mq_send(&queue, &content(100), 3).during("mq_send")?;
    nix::mqueue::mq_close(queue).during("mq_close")?;
    made(move || {
        let queue = open(MQ_OFlag::empty())?;
        let waiting = nix::mqueue::mq_getattr(&queue).during("mq_getattr")?.curmsgs();
        expect_eq("messages", waiting, 1)?;
        nix::mqueue::mq_close(queue).during("mq_close")
    })
}
