// SPDX-License-Identifier: Apache-2.0
//! System V IPC.

use std::io;
use std::mem::MaybeUninit;

use super::memory::Map;
use super::{check, number};

/// A new shared memory segment.
pub(in crate::zoo) fn segment(key: i32, length: usize, mode: i32) -> io::Result<i32> {
    // SAFETY: plain numbers.
    let id = check(unsafe { libc::shmget(key, length, libc::IPC_CREAT | libc::IPC_EXCL | mode) }.into())?;
    number(id)
}

/// Attaches a segment of this length.
pub(in crate::zoo) fn attach(id: i32, length: usize, flags: i32) -> io::Result<Map> {
    // SAFETY: the kernel chooses a free address.
    let at = unsafe { libc::shmat(id, std::ptr::null(), flags) };
    if at.addr() == usize::MAX {
        Err(io::Error::last_os_error())
    } else {
        Ok(Map::of_address(at.addr(), length))
    }
}

/// Key, mode, length, number of attachments of a segment.
pub(in crate::zoo) fn segment_state(id: i32) -> io::Result<(i32, u32, usize, u64)> {
    let mut state = MaybeUninit::<libc::shmid_ds>::zeroed();
    // SAFETY: the kernel fills the structure, and all-zero is a valid one.
    let state = unsafe {
        check(libc::shmctl(id, libc::IPC_STAT, state.as_mut_ptr()).into())?;
        state.assume_init()
    };
    Ok((state.shm_perm.__key, u32::from(state.shm_perm.mode), state.shm_segsz, state.shm_nattch))
}

/// Marks a segment to go with its last attachment.
pub(in crate::zoo) fn remove_segment(id: i32) -> io::Result<()> {
    // SAFETY: IPC_RMID takes no structure.
    check(unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) }.into()).map(drop)
}

/// A new set of semaphores.
pub(in crate::zoo) fn semaphores(key: i32, count: i32, mode: i32) -> io::Result<i32> {
    // SAFETY: plain numbers.
    let id = check(unsafe { libc::semget(key, count, libc::IPC_CREAT | libc::IPC_EXCL | mode) }.into())?;
    number(id)
}

/// The values of the first `count` semaphores.
pub(in crate::zoo) fn values(id: i32, count: i32) -> io::Result<Vec<i32>> {
    // SAFETY: GETVAL takes no fourth argument.
    let value = |place| number(check(unsafe { libc::semctl(id, place, libc::GETVAL) }.into())?);
    (0..count).map(value).collect()
}

/// Adds to one semaphore, without waiting.
pub(in crate::zoo) fn add(id: i32, place: u16, amount: i16, flags: i32) -> io::Result<()> {
    let sem_flg = i16::try_from(flags | libc::IPC_NOWAIT).map_err(io::Error::other)?;
    let mut operation = libc::sembuf { sem_num: place, sem_op: amount, sem_flg };
    // SAFETY: one operation, which lives.
    check(unsafe { libc::semop(id, &raw mut operation, 1) }.into()).map(drop)
}

/// A new message queue.
pub(in crate::zoo) fn queue(key: i32, mode: i32) -> io::Result<i32> {
    // SAFETY: plain numbers.
    number(check(unsafe { libc::msgget(key, libc::IPC_CREAT | libc::IPC_EXCL | mode) }.into())?)
}

/// A message: a type and bytes.
#[repr(C)]
struct Message {
    kind: libc::c_long,
    text: [u8; 256],
}

/// Sends a message of at most 256 bytes.
pub(in crate::zoo) fn send(id: i32, kind: i64, text: &[u8]) -> io::Result<()> {
    let mut message = Message { kind, text: [0; 256] };
    message.text[..text.len()].copy_from_slice(text);
    // SAFETY: the message has at least as many bytes as are sent.
    check(unsafe { libc::msgsnd(id, (&raw const message).cast(), text.len(), libc::IPC_NOWAIT) }.into())
        .map(drop)
}

/// Takes the first message, or the first of a type.
pub(in crate::zoo) fn receive(id: i32, kind: i64) -> io::Result<(i64, Vec<u8>)> {
    let mut message = Message { kind: 0, text: [0; 256] };
    // SAFETY: the kernel writes at most 256 bytes after the type.
    let length = unsafe { libc::msgrcv(id, (&raw mut message).cast(), 256, kind, libc::IPC_NOWAIT) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    Ok((message.kind, message.text[..length].to_vec()))
}

/// Detaches a segment.
#[expect(clippy::needless_pass_by_value, reason = "nothing may use it afterwards")]
pub(in crate::zoo) fn detach(map: Map) -> io::Result<()> {
    // SAFETY: no reference points into the mapping, which is given up.
    check(unsafe { libc::shmdt(std::ptr::without_provenance(map.at())) }.into()).map(drop)
}

fn queue_state(id: i32) -> io::Result<libc::msqid_ds> {
    let mut state = MaybeUninit::<libc::msqid_ds>::zeroed();
    // SAFETY: the kernel fills the structure, and all-zero is a valid one.
    unsafe {
        check(libc::msgctl(id, libc::IPC_STAT, state.as_mut_ptr()).into())?;
        Ok(state.assume_init())
    }
}

/// How many bytes a queue may hold.
pub(in crate::zoo) fn limit_of_queue(id: i32) -> io::Result<u64> {
    queue_state(id).map(|state| state.msg_qbytes)
}

/// Sets that.
pub(in crate::zoo) fn limit_queue(id: i32, bytes: u64) -> io::Result<()> {
    let mut state = queue_state(id)?;
    state.msg_qbytes = bytes;
    // SAFETY: the structure is what the kernel gave, but for the limit.
    check(unsafe { libc::msgctl(id, libc::IPC_SET, &raw mut state) }.into()).map(drop)
}
