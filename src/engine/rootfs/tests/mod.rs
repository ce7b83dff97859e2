// SPDX-License-Identifier: Apache-2.0
//! The root filesystem on a real kernel. Needs root.
//!
//! Each test builds its root filesystem in a temporary directory and works in a thread that has a mount namespace
//! and a filesystem context (root, working directory, umask) of its own, which end with the thread.

mod flags;
mod paths;
mod surroundings;
mod whole;

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::resolve::{Links, Mountpoint, Root};
use super::*;
use crate::sys::mountinfo::{self, MountInfo};
use crate::{Error, ErrorKind};

/// What a new bundle's `config.json` says about the root filesystem.
pub(super) fn default_config() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {"cwd": "/", "args": ["sh"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs", "readonly": true},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

pub(super) struct Bundle {
    pub(super) directory: TempDir,
    pub(super) config: Value,
    pub(super) context: PlanContext,
}

impl Bundle {
    /// The default configuration over an empty root filesystem.
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        fs::create_dir(directory.path().join("rootfs")).expect("mkdir");
        Self { directory, config: default_config(), context: PlanContext::default() }
    }

    /// Only these mounts; nothing masked, nothing read-only.
    pub(super) fn with_mounts(mounts: Value) -> Self {
        let mut bundle = Self::new();
        bundle.config["root"]["readonly"] = json!(false);
        bundle.config["linux"]["maskedPaths"] = json!([]);
        bundle.config["linux"]["readonlyPaths"] = json!([]);
        bundle.config["mounts"] = mounts;
        bundle
    }

    /// A host path beside the root filesystem.
    pub(super) fn host(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    pub(super) fn rootfs(&self, path: &str) -> PathBuf {
        self.host("rootfs").join(path)
    }

    pub(super) fn mkdir(&self, path: &str) -> PathBuf {
        fs::create_dir_all(self.host(path)).expect("mkdir");
        self.host(path)
    }

    pub(super) fn write(&self, path: &str, text: &str) -> PathBuf {
        fs::write(self.host(path), text).expect("write");
        self.host(path)
    }

    pub(super) fn plan(&self) -> RootfsPlan {
        let spec = serde_json::from_value(self.config.clone()).expect("the configuration is well formed");
        RootfsPlan::from_spec(&spec, self.directory.path(), &self.host("rootfs"), &self.context)
            .expect("the configuration is valid")
    }

    /// Runs `check` inside the finished root filesystem.
    pub(super) fn inside<T: Send>(&self, check: impl FnOnce() -> T + Send) -> T {
        let plan = self.plan();
        in_namespace(|| {
            let built = prepare(&plan, &OwnSources).and_then(Prepared::enter).and_then(Entered::protect);
            built.unwrap_or_else(|error| panic!("{}", error.chain()));
            check()
        })
    }

    /// The error that preparing ends in.
    pub(super) fn refused(&self) -> Error {
        let plan = self.plan();
        in_namespace(|| prepare(&plan, &OwnSources).map(drop).expect_err("preparing must fail"))
    }
}

pub(super) fn in_namespace<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)
                    .expect("these tests need root (CAP_SYS_ADMIN) for a mount namespace");
                let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
                mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("make / private");
                test()
            })
            .join()
            .unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// The topmost mount at a path of the calling thread's namespace.
fn mount_at(path: &str) -> Option<MountInfo> {
    let mounts = mountinfo::read().expect("mountinfo is readable");
    mounts.into_iter().rev().find(|mount| mount.mount_point == Path::new(path))
}

pub(super) fn mounted(path: &str) -> MountInfo {
    mount_at(path).unwrap_or_else(|| panic!("nothing is mounted on {path}"))
}
