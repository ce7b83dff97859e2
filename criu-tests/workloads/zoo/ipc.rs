// SPDX-License-Identifier: Apache-2.0
//! System V IPC: objects of the ipc namespace, which no descriptor holds.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;

use super::held::{Absences, content, same_bytes};
use super::sys::ipc;
use super::{Child, Made, made};
use crate::lifecycle::{During as _, expect_eq};

super::exhibits![
    shared_segment,
    shared_segment_of_two_processes,
    shared_segment_that_is_removed,
    shared_segment_of_nobody,
    semaphores,
    messages,
    semaphores_to_be_undone,
    messages_within_another_limit,
    shared_segment_of_huge_pages,
];

const KEY: i32 = 0x6d69_6772;
const LENGTH: usize = 64 << 10;

/// Attached twice, once to read only.
fn shared_segment() -> Made {
    let id = ipc::segment(KEY, LENGTH, 0o640).during("shmget")?;
    let writer = ipc::attach(id, LENGTH, 0).during("shmat")?;
    let reader = ipc::attach(id, LENGTH, libc::SHM_RDONLY).during("shmat")?;
    writer.write(0, &content(LENGTH)).during("write")?;
    made(move || {
        expect_eq("segment", ipc::segment_state(id).during("shmctl")?, (KEY, 0o640, LENGTH, 2))?;
        same_bytes(&reader.read(0, LENGTH).during("read")?, &content(LENGTH))?;
        let refused = reader.write(0, b"x").err().and_then(|e| e.raw_os_error());
        expect_eq("a write through the mapping to read", refused, Some(libc::EFAULT))
    })
}

/// What one process writes the other reads.
fn shared_segment_of_two_processes() -> Made {
    let id = ipc::segment(libc::IPC_PRIVATE, LENGTH, 0o600).during("shmget")?;
    let own = ipc::attach(id, LENGTH, 0).during("shmat")?;
    let mut child = Child::start(move || {
        let theirs = ipc::attach(id, LENGTH, 0).during("shmat")?;
        Ok(move |_: &str| {
            let bytes = theirs.read(4096, 8).during("read")?;
            theirs.write(8192, &bytes).during("write")?;
            Ok(String::new())
        })
    })?;
    let mut round = 0_u64;
    made(move || {
        round += 1;
        own.write(4096, &round.to_ne_bytes()).during("write")?;
        child.check("copy")?;
        expect_eq("copied", own.read(8192, 8).during("read")?, round.to_ne_bytes().to_vec())?;
        // The child has the parent's attachment, too.
        expect_eq("attachments", ipc::segment_state(id).during("shmctl")?.3, 3)
    })
}

/// It lives as long as it is attached.
fn shared_segment_that_is_removed() -> Made {
    let id = ipc::segment(KEY, LENGTH, 0o600).during("shmget")?;
    let map = ipc::attach(id, LENGTH, 0).during("shmat")?;
    ipc::remove_segment(id).during("IPC_RMID")?;
    map.write(0, &content(LENGTH)).during("write")?;
    made(move || {
        const SHM_DEST: u32 = 0o1000;
        let (key, mode, ..) = ipc::segment_state(id).during("shmctl")?;
        expect_eq("key and mode", (key, mode & SHM_DEST), (0, SHM_DEST))?;
        same_bytes(&map.read(0, LENGTH).during("read")?, &content(LENGTH))
    })
}

/// Nobody has attached it.
fn shared_segment_of_nobody() -> Made {
    let id = ipc::segment(KEY, LENGTH, 0o600).during("shmget")?;
    let map = ipc::attach(id, LENGTH, 0).during("shmat")?;
    map.write(0, &content(LENGTH)).during("write")?;
    ipc::detach(map).during("shmdt")?;
    made(move || {
        expect_eq("segment", ipc::segment_state(id).during("shmctl")?, (KEY, 0o600, LENGTH, 0))?;
        let map = ipc::attach(id, LENGTH, 0).during("shmat")?;
        same_bytes(&map.read(0, LENGTH).during("read")?, &content(LENGTH))?;
        ipc::detach(map).during("shmdt")
    })
}

/// A set, with values; one of them lets nobody through.
fn semaphores() -> Made {
    let id = ipc::semaphores(KEY, 3, 0o600).during("semget")?;
    for (place, value) in [(0, 5), (2, 77)] {
        ipc::add(id, place, value, 0).during("semop")?;
    }
    made(move || {
        expect_eq("values", ipc::values(id, 3).during("GETVAL")?, vec![5, 0, 77])?;
        let refused = ipc::add(id, 1, -1, 0).err().and_then(|e| e.raw_os_error());
        expect_eq("the one that is zero", refused, Some(Errno::EAGAIN as i32))?;
        ipc::add(id, 0, -2, 0).and_then(|()| ipc::add(id, 0, 2, 0)).during("semop")
    })
}

/// Messages of several types that nobody has taken.
fn messages() -> Made {
    let id = ipc::queue(KEY, 0o600).during("msgget")?;
    for kind in 1..=5 {
        ipc::send(id, kind, &content(kind as usize * 40)).during("msgsnd")?;
    }
    let mut first = 1;
    made(move || {
        // Out of turn, by its type.
        let other = 1 + (first + 1) % 5;
        for wanted in [other, 0] {
            let (kind, text) = ipc::receive(id, wanted).during("msgrcv")?;
            same_bytes(&text, &content(kind as usize * 40))?;
            ipc::send(id, kind, &text).during("msgsnd")?;
            if wanted == other {
                expect_eq("type", kind, other)?;
            }
        }
        first = 1 + first % 5;
        Ok(())
    })
}

/// What a process added is to be taken away when it ends, which it does after the first time away.
fn semaphores_to_be_undone() -> Made {
    let id = ipc::semaphores(KEY, 1, 0o600).during("semget")?;
    let mut child = Child::start(move || {
        ipc::add(id, 0, 3, libc::SEM_UNDO).during("semop")?;
        Ok(move |_: &str| Ok(ipc::values(id, 1).during("GETVAL")?[0].to_string()))
    })?;
    let (mut absences, mut ended) = (Absences::default(), false);
    absences.is_back()?;
    made(move || {
        if !ended && !absences.is_back()? {
            return child.expect("value", "3");
        }
        if !ended {
            kill(child.pid(), Signal::SIGKILL).during("kill")?;
            waitpid(child.pid(), None).during("waitpid")?;
            ended = true;
        }
        expect_eq("value after the end of who had added", ipc::values(id, 1).during("GETVAL")?, vec![0])
    })
}

/// A queue that may hold less than the usual.
fn messages_within_another_limit() -> Made {
    let id = ipc::queue(KEY, 0o600).during("msgget")?;
    ipc::limit_queue(id, 100).during("IPC_SET")?;
    ipc::send(id, 1, &content(90)).during("msgsnd")?;
    made(move || {
        expect_eq("limit", ipc::limit_of_queue(id).during("IPC_STAT")?, 100)?;
        let refused = ipc::send(id, 1, &content(20)).err().and_then(|e| e.raw_os_error());
        expect_eq("a message too many", refused, Some(Errno::EAGAIN as i32))?;
        let (_, text) = ipc::receive(id, 0).during("msgrcv")?;
        same_bytes(&text, &content(90))?;
        ipc::send(id, 1, &text).during("msgsnd")
    })
}

/// Of pages of two megabytes.
fn shared_segment_of_huge_pages() -> Made {
    const HUGE: usize = 2 << 20;
    let id = ipc::segment(KEY, HUGE, 0o600 | libc::SHM_HUGETLB).during("shmget")?;
    let map = ipc::attach(id, HUGE, 0).during("shmat")?;
    map.write(HUGE / 2, &content(4096)).during("write")?;
    made(move || {
        let area = super::advice::Area::at(map.at())?;
        expect_eq("kilobytes of a page", area.number("KernelPageSize")?, 2048)?;
        same_bytes(&map.read(HUGE / 2, 4096).during("read")?, &content(4096))
    })
}
