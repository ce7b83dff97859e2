// SPDX-License-Identifier: Apache-2.0
//! The processes of a dump, one by one: the tree, and the images of a process that are about nothing else.
//!
//! ```text
//! inventory.img   the dump as a whole
//! pstree.img      the processes, parents first
//! core-ID.img     a thread: what it is called, whose it is, what it was doing
//! ids-PID.img     which table of descriptors, which mounts
//! fs-PID.img      its directories
//! ```
//! An image is hostile: that a process is its own ancestor, or there twice, is for the caller to see.

use super::proto::criu_images::{CoreEntry, FsEntry, InventoryEntry, KobjIdsEntry, PstreeEntry};
use std::os::fd::BorrowedFd;

use super::{Image, ImageFile, Kind};
use crate::Result;

/// A dump as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Inventory {
    /// Version of the images.
    pub version: u32,
    /// The security module whose labels the processes have, if any.
    pub security_module: Option<&'static str>,
}

/// The lock that a dump has left on the network: the restore takes it over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeftLock {
    /// Whether it is, or may be, one of iptables.
    pub iptables: bool,
    /// The id of CRIU's run, since 4.1.
    pub run: Option<String>,
}

/// A process in the tree. Numbers are those in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its number.
    pub pid: u32,
    /// Its parent's number; 0 of the first one.
    pub parent: u32,
    /// Its process group.
    pub group: u32,
    /// Its session.
    pub session: u32,
    /// Its threads, itself among them.
    pub threads: Vec<u32>,
}

/// What a process was doing when it was frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// It ran or waited.
    Alive,
    /// A signal has stopped it.
    Stopped,
    /// It has ended and nobody has asked how.
    Zombie,
    /// CRIU does not say, or in a way that is not known here.
    Unknown,
}

/// A thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Core {
    /// The machine as `uname -m` says it, if it is known here.
    pub machine: Option<&'static str>,
    /// Its name.
    pub name: Vec<u8>,
    /// What it was doing.
    pub state: TaskState,
    /// Of a zombie: how it ended, as wait(2) says it.
    pub exit_code: u32,
    /// Its effective user and group.
    pub owner: Option<(u32, u32)>,
}

/// Which tables a process has; processes may share them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TaskFiles {
    /// Number of its address space.
    pub memory: Option<u32>,
    /// Number of its table of descriptors.
    pub descriptors: Option<u32>,
    /// Number of its mount namespace.
    pub mounts: Option<u32>,
}

impl TaskFiles {
    fn of(ids: &KobjIdsEntry) -> Self {
        Self { memory: ids.vm_id, descriptors: ids.files_id, mounts: ids.mnt_ns_id }
    }
}

/// Reads `inventory.img`.
///
/// # Errors
/// `InvalidArchive` if it is damaged.
pub fn inventory(bytes: &[u8]) -> Result<Inventory> {
    let entry: InventoryEntry = Image::read(bytes, Kind::Inventory)?.only()?;
    let security_module = match entry.lsmtype {
        Some(1) => Some("selinux"),
        Some(2) => Some("apparmor"),
        _ => None,
    };
    Ok(Inventory { version: entry.img_version.unwrap_or(0), security_module })
}

/// The lock in `inventory.img`; `None` when there was to be none, or without an inventory.
///
/// # Errors
/// `InvalidArchive` if it is damaged; when it cannot be read.
pub fn left_lock(images: BorrowedFd<'_>) -> Result<Option<LeftLock>> {
    /// CRIU's `NETWORK_LOCK_IPTABLES` and its like.
    const NFTABLES: u32 = 2;
    const SKIP: u32 = 3;
    let Some(image) = ImageFile::open(images, "inventory.img", Kind::Inventory)? else { return Ok(None) };
    let entry: InventoryEntry = image.only()?;
    Ok(match entry.network_lock_method {
        Some(SKIP) => None,
        method => Some(LeftLock { iptables: method != Some(NFTABLES), run: entry.dump_criu_run_id }),
    })
}

/// Reads `pstree.img`.
///
/// # Errors
/// `InvalidArchive` if it is damaged.
pub fn tasks(bytes: &[u8]) -> Result<Vec<Task>> {
    let entries = Image::read(bytes, Kind::Tree)?.list::<PstreeEntry>()?;
    let task = |entry: PstreeEntry| Task {
        pid: entry.pid.unwrap_or(0),
        parent: entry.ppid.unwrap_or(0),
        group: entry.pgid.unwrap_or(0),
        session: entry.sid.unwrap_or(0),
        threads: entry.threads,
    };
    Ok(entries.into_iter().map(task).collect())
}

/// Reads `core-ID.img`, and the tables if they are in it, as of old.
///
/// # Errors
/// `InvalidArchive` if it is damaged.
pub fn core(bytes: &[u8]) -> Result<(Core, Option<TaskFiles>)> {
    let entry: CoreEntry = Image::read(bytes, Kind::Core)?.only()?;
    let machine = match entry.mtype {
        Some(1) => Some("x86_64"),
        Some(2) => Some("arm"),
        Some(3) => Some("aarch64"),
        Some(4) => Some("ppc64le"),
        Some(5) => Some("s390x"),
        Some(6) => Some("mips"),
        Some(7) => Some("loongarch64"),
        Some(8) => Some("riscv64"),
        _ => None,
    };
    let ids = entry.ids.as_ref().map(TaskFiles::of);
    let creds = entry.thread_core.into_option().and_then(|thread| thread.creds.into_option());
    let task = entry.tc.into_option().unwrap_or_default();
    let state = match task.task_state {
        Some(1) => TaskState::Alive,
        // 6 is how CRIU calls one while it works.
        Some(2 | 6) => TaskState::Zombie,
        Some(3) => TaskState::Stopped,
        _ => TaskState::Unknown,
    };
    let core = Core {
        machine,
        name: task.comm.unwrap_or_default(),
        state,
        exit_code: task.exit_code.unwrap_or(0),
        owner: creds.and_then(|creds| Some((creds.euid.or(creds.uid)?, creds.egid.or(creds.gid)?))),
    };
    Ok((core, ids))
}

/// Reads `ids-PID.img`.
///
/// # Errors
/// `InvalidArchive` if it is damaged.
pub fn task_ids(bytes: &[u8]) -> Result<TaskFiles> {
    Image::read(bytes, Kind::Ids)?.only().map(|ids| TaskFiles::of(&ids))
}

/// Reads `fs-PID.img`: the numbers of the files that are its working and its root directory.
///
/// # Errors
/// `InvalidArchive` if it is damaged.
pub fn task_directories(bytes: &[u8]) -> Result<(Option<u32>, Option<u32>)> {
    let entry: FsEntry = Image::read(bytes, Kind::Directories)?.only()?;
    Ok((entry.cwd_id, entry.root_id))
}

#[cfg(test)]
mod tests {
    use super::super::written;
    use super::*;

    #[test]
    fn a_tree_with_its_threads() {
        let image = written(
            Kind::Tree,
            &[&[8, 1, 16, 0, 24, 1, 32, 1, 40, 1, 40, 9], &[8, 7, 16, 1, 24, 7, 32, 1], &[]],
        );
        let found = tasks(&image).expect("good");
        let first = Task { pid: 1, parent: 0, group: 1, session: 1, threads: vec![1, 9] };
        let second = Task { pid: 7, parent: 1, group: 7, session: 1, threads: vec![] };
        assert_eq!(found[..2], [first, second]);
        assert_eq!(found[2].pid, 0, "what is not there is nothing");
    }

    #[test]
    fn a_thread_says_what_it_is() {
        // x86_64; tc with state 3, exit code 0 and a name; ids with a table 2 and mounts 13; creds 1000:100, effective 0:5.
        let tc = [0x1a, 8, 8, 3, 16, 0, 0x32, 2, b's', b'h'];
        let ids = [0x22, 4, 16, 2, 72, 13];
        let creds = [0x2a, 11, 0x52, 9, 8, 0xe8, 7, 16, 100, 24, 0, 32, 5];
        let image = written(Kind::Core, &[&[&[8, 1][..], &tc, &ids, &creds].concat()]);
        let (core, files) = core(&image).expect("good");
        assert_eq!((core.machine, &core.name[..], core.owner), (Some("x86_64"), &b"sh"[..], Some((0, 5))));
        assert_eq!(core.state, TaskState::Stopped);
        assert_eq!(files, Some(TaskFiles { memory: None, descriptors: Some(2), mounts: Some(13) }));
        let image = written(Kind::Ids, &[&[8, 4, 16, 2, 72, 13]]);
        let expected = TaskFiles { memory: Some(4), descriptors: Some(2), mounts: Some(13) };
        assert_eq!(task_ids(&image).expect("good"), expected);
    }

    #[test]
    fn an_inventory_tells_of_the_lock() {
        let dir = tempfile::tempdir().expect("tempdir");
        let images = std::fs::File::open(dir.path()).expect("open");
        let lock = |message: &[u8]| {
            std::fs::write(dir.path().join("inventory.img"), written(Kind::Inventory, &[message]))
                .expect("write");
            left_lock(std::os::fd::AsFd::as_fd(&images)).expect("good")
        };
        let run = |iptables, run: Option<&str>| Some(LeftLock { iptables, run: run.map(str::to_owned) });
        assert_eq!(lock(&[8, 2]), run(true, None), "of an old CRIU");
        assert_eq!(lock(&[8, 2, 88, 1, 106, 2, b'a', b'b']), run(true, Some("ab")));
        assert_eq!(lock(&[8, 2, 88, 2, 106, 2, b'a', b'b']), run(false, Some("ab")));
        assert_eq!(lock(&[8, 2, 88, 3, 106, 2, b'a', b'b']), None);
    }

    #[test]
    fn an_inventory_begins_in_its_own_way() {
        let image = written(Kind::Inventory, &[&[8, 2, 48, 2]]);
        let found = inventory(&image).expect("good");
        assert_eq!(found, Inventory { version: 2, security_module: Some("apparmor") });
        let error = inventory(&image[..6]).expect_err("cut off");
        assert_eq!(error.to_string(), "not an image of a whole dump: it is cut off, at byte 6");
        assert!(inventory(&image[..4]).is_err(), "it has one message");
    }
}
