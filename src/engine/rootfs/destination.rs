// SPDX-License-Identifier: Apache-2.0
//! Where nothing may be mounted: on the root itself, and on or in `/proc` what would make it something else than the
//! kernel's. Judges by descriptor, after links were followed. Must not mount.

use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::sys::stat::fstat;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::plan::{MountKind, MountPlan};
use super::resolve::{Found, Root};
use crate::{Context, Error, ErrorKind, Result};

/// What may be mounted below `/proc`: files that lxcfs and the like make for a container, and two that tools read.
const ALLOWED_IN_PROC: [&str; 11] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "net/dev",
    "slabinfo",
    "stat",
    "swaps",
    "sys/crypto/fips_enabled",
    "sys/kernel/ns_last_pid",
    "uptime",
];

/// `PROC_ROOT_INO` of linux/proc_ns.h.
const PROC_ROOT_INODE: u64 = 1;

/// Refuses what must not be mounted there. `bind_source` is the source of a bind mount.
pub(super) fn check_destination(
    root: &Root,
    plan: &MountPlan,
    target: &Found,
    bind_source: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let path = root.container_path(std::os::fd::AsFd::as_fd(&target.fd))?;
    let refuse = |why: String| {
        Err(Error::new(ErrorKind::InvalidConfig, format!("{}: {why}", plan.field("destination"))))
    };
    if path == Path::new("/") {
        return refuse(format!("mountpoint {} is on the top of rootfs", plan.destination.display()));
    }
    let Ok(in_proc) = path.strip_prefix("/proc") else {
        return Ok(());
    };
    if !in_proc.as_os_str().is_empty() {
        if ALLOWED_IN_PROC.iter().any(|name| in_proc == Path::new(name)) {
            return Ok(());
        }
        return refuse(format!("{} cannot be mounted because it is inside /proc", path.display()));
    }
    let is_proc = match (&plan.kind, bind_source) {
        (MountKind::Filesystem { fstype, .. }, _) => fstype == "proc",
        (MountKind::Bind { .. }, Some(source)) => is_procfs(plan, source)?,
        _ => false,
    };
    if is_proc { Ok(()) } else { refuse("/proc cannot be mounted because it is not of type proc".to_owned()) }
}

fn is_procfs(plan: &MountPlan, source: BorrowedFd<'_>) -> Result<bool> {
    if fstatfs(source).context(|| "statfs the source")?.filesystem_type() != PROC_SUPER_MAGIC {
        return Ok(false);
    }
    if fstat(source).context(|| "stat the source")?.st_ino != PROC_ROOT_INODE {
        // Engines have done this for years, so it stays possible.
        tracing::warn!(field = plan.field("source"), "a part of a procfs is mounted on /proc");
    }
    Ok(true)
}
