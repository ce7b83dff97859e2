// SPDX-License-Identifier: Apache-2.0
//! Where a terminal comes from and where it is put in a root filesystem: `/dev/pts/ptmx` and `/dev/console`.
//!
//! Both are in directories that another container may share and change at any moment, so each is opened once, without
//! following links, checked by its fd, and used by its fd only (CVE-2025-52565). Must not know what a terminal is for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sys::stat::{FileStat, SFlag, fstat, makedev};
use nix::sys::statfs::{FsType, fstatfs};

use super::resolve::{Links, Mountpoint, Root};
use crate::sys::mount::{Extent, attach, clone_tree};
use crate::{Context, Error, ErrorKind, Result};

/// `DEVPTS_SUPER_MAGIC` of linux/magic.h.
const DEVPTS: FsType = FsType(0x1cd1);

/// The inode number of every devpts' own multiplexer (`devpts_fill_super` and `mknod_ptmx` in fs/devpts/inode.c).
const PTMX_INODE: u64 = 2;

/// The container's terminal multiplexer as a path fd.
pub(super) fn open_ptmx(root: &Root) -> Result<OwnedFd> {
    let open = || {
        let ptmx = root
            .open(Path::new("/dev/pts/ptmx"), Links::Refuse)
            .context(|| "open without following links")?;
        let stat = fstat(&ptmx).context(|| "stat")?;
        let filesystem = fstatfs(&ptmx).context(|| "statfs")?.filesystem_type();
        if filesystem != DEVPTS || stat.st_ino != PTMX_INODE || !is_character(&stat, makedev(5, 2)) {
            return Err(Error::new(ErrorKind::System, "the file there is no multiplexer of a devpts"));
        }
        Ok(ptmx)
    };
    open().map_err(|error| {
        let kind = error.kind();
        Error::new(kind, "use /dev/pts/ptmx of the container")
            .with_source(error)
            .with_hint("process.terminal needs a mount of type devpts on /dev/pts")
    })
}

/// Binds a terminal on `/dev/console`, which is made if it is missing.
pub(super) fn bind(root: &Root, terminal: BorrowedFd<'_>) -> Result<()> {
    let bind = || {
        let target = root.open_or_create(Path::new("/dev/console"), Mountpoint::File, Links::Refuse)?;
        let tree = clone_tree(terminal, Extent::Mount).context(|| "open_tree of the terminal")?;
        attach(tree.as_fd(), target.fd.as_fd()).context(|| "move_mount")
    };
    bind().context(|| "bind the terminal on /dev/console of the container")
}

fn is_character(stat: &FileStat, number: libc::dev_t) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits() && stat.st_rdev == number
}
