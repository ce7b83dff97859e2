// SPDX-License-Identifier: Apache-2.0
//! Carries out one entry of `mounts`: finds or makes the destination inside the root, mounts exactly there, checks.
//!
//! Every mount is made detached, gets its attributes while nobody can reach it, and is attached to the fd of its
//! destination, so nothing that is swapped meanwhile can lead it elsewhere. Afterwards the destination is resolved
//! again and must lie on the new mount. Must not know of pivoting, devices or masked paths.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::cgroups;
use super::filesystem::{detached, needs_mount2};
use super::options::{MS_ATIME, MountOptions, Propagation, attributes, switches};
use super::plan::{MountKind, MountPlan};
use super::resolve::{Found, Links, Mountpoint, Root};
use crate::sys::mount::{
    Attributes, Extent, MOUNT_ATTR_ATIME, MOUNT_ATTR_NODIRATIME, attach, clone_tree, mount_id, set_attributes,
};
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

/// Mounts one entry. Returns the mount if it must still be made read-only once its content is complete.
pub(super) fn mount_entry(root: &Root, plan: &MountPlan) -> Result<Option<OwnedFd>> {
    let mounted = match &plan.kind {
        MountKind::Bind { source, recursive } => bind(root, plan, source, *recursive).map(|_| None),
        MountKind::Filesystem { fstype, source } => filesystem(root, plan, fstype, source),
        MountKind::Cgroup { layout, namespace } => {
            cgroups::mount_cgroups(root, plan, layout, *namespace).map(|()| None)
        }
    };
    mounted.context(|| {
        let what = match &plan.kind {
            MountKind::Bind { source, .. } => source.display().to_string(),
            MountKind::Filesystem { fstype, .. } => fstype.clone(),
            MountKind::Cgroup { .. } => "cgroup".to_owned(),
        };
        format!("mount {what} on {} (mounts[{}])", plan.destination.display(), plan.index)
    })
}

/// Bind mounts a host path on the entry's destination, made as a directory or file after the source.
pub(super) fn bind(root: &Root, plan: &MountPlan, source: &Path, recursive: bool) -> Result<OwnedFd> {
    let (source_fd, kind) = open_source(source)?;
    let target = root.open_or_create(&plan.destination, kind, Links::Follow)?;
    check_destination(root, plan, &target, Some(source_fd.as_fd()))?;
    let extent = if recursive { Extent::Tree } else { Extent::Mount };
    let tree = clone_tree(source_fd.as_fd(), extent).context(|| format!("open_tree {}", source.display()))?;
    set_bind_attributes(tree.as_fd(), &plan.options)?;
    put(root, plan, &tree, &target, Links::Follow)?;
    Ok(tree)
}

/// Opens a bind's source, and tells what its mount point must be.
pub(super) fn open_source(source: &Path) -> Result<(OwnedFd, Mountpoint)> {
    let fd = open(source, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .context(|| format!("open the source {}", source.display()))?;
    let is_directory = is_directory(fd.as_fd()).context(|| format!("stat {}", source.display()))?;
    Ok((fd, if is_directory { Mountpoint::Directory } else { Mountpoint::File }))
}

/// Links on the way to these are refused: a `/proc` that is elsewhere would make all that is written to or masked
/// in `/proc` go astray.
pub(super) fn links_for(plan: &MountPlan) -> Links {
    match &plan.kind {
        MountKind::Filesystem { fstype, .. } if fstype == "proc" || fstype == "sysfs" => Links::Refuse,
        _ => Links::Follow,
    }
}

fn filesystem(root: &Root, plan: &MountPlan, fstype: &str, source: &str) -> Result<Option<OwnedFd>> {
    let links = links_for(plan);
    let target = root.open_or_create(&plan.destination, Mountpoint::Directory, links)?;
    check_destination(root, plan, &target, None)?;
    let mut flags = plan.options.set;
    let mut data = plan.options.data.clone();
    let mut readonly_later = false;
    if plan.is_tmpfs() {
        readonly_later = flags & libc::MS_RDONLY != 0 && flags & libc::MS_REMOUNT == 0;
        if readonly_later {
            flags &= !libc::MS_RDONLY;
        }
        if !target.created && !data.iter().any(|word| word.starts_with("mode=")) {
            let mode = fstat(&target.fd).context(|| "stat the directory beneath")?.st_mode & 0o7777;
            data.push(format!("mode={mode:o}"));
        }
    }
    let mounted = if needs_mount2(fstype, flags, &data) {
        mount_by_path(root, plan, fstype, source, flags, &data, &target)?
    } else {
        let mounted = detached(fstype, source, flags, &data)?;
        put(root, plan, &mounted, &target, links)?;
        mounted
    };
    Ok(readonly_later.then_some(mounted))
}

/// mount(2) on the fd's link in /proc, for what the newer calls cannot express.
fn mount_by_path(
    root: &Root,
    plan: &MountPlan,
    fstype: &str,
    source: &str,
    flags: u64,
    data: &[String],
    target: &Found,
) -> Result<OwnedFd> {
    let data = data.join(",");
    let path = format!("/proc/self/fd/{}", target.fd.as_raw_fd());
    mount(
        Some(source),
        path.as_str(),
        Some(fstype),
        MsFlags::from_bits_retain(flags),
        (!data.is_empty()).then_some(data.as_str()),
    )
    .context(|| format!("mount {fstype} with flags {flags:#x} and data {data:?}"))?;
    let mounted = reopen(root, plan, links_for(plan))?;
    let is_new = mount_id_of(mounted.as_fd())? != mount_id_of(target.fd.as_fd())?;
    if !is_new && flags & libc::MS_REMOUNT == 0 {
        return Err(moved(plan));
    }
    finish(mounted.as_fd(), &plan.options)?;
    Ok(mounted)
}

/// Attaches the mount to its destination, checks that the destination's path leads to it, and applies propagation.
pub(super) fn put(
    root: &Root,
    plan: &MountPlan,
    mounted: &OwnedFd,
    target: &Found,
    links: Links,
) -> Result<()> {
    attach(mounted.as_fd(), target.fd.as_fd())
        .map_err(|errno| explain_attach(mounted.as_fd(), target.fd.as_fd(), errno))?;
    let there = reopen(root, plan, links)?;
    if mount_id_of(there.as_fd())? != mount_id_of(mounted.as_fd())? {
        return Err(moved(plan));
    }
    finish(mounted.as_fd(), &plan.options)
}

/// The kernel says `EINVAL` for much; the commonest reason is a file on a directory or the reverse.
fn explain_attach(mounted: BorrowedFd<'_>, target: BorrowedFd<'_>, errno: Errno) -> Error {
    let (message, errno) = match (is_directory(mounted), is_directory(target)) {
        (Ok(true), Ok(false)) => ("the destination is not a directory, the source is", Errno::ENOTDIR),
        (Ok(false), Ok(true)) => ("the destination is a directory, the source is not", Errno::EISDIR),
        _ => ("move_mount to the destination", errno),
    };
    let Err(error) = Err::<Infallible, _>(errno).context(|| message);
    error
}

fn is_directory(fd: BorrowedFd<'_>) -> std::result::Result<bool, Errno> {
    Ok(fstat(fd)?.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
}

fn finish(mounted: BorrowedFd<'_>, options: &MountOptions) -> Result<()> {
    if !options.recursive.is_empty() {
        let attributes = Attributes::new(options.recursive.set, options.recursive.clear);
        set_attributes(mounted, &attributes, Extent::Tree).context(|| "mount_setattr of the whole tree")?;
    }
    options.propagation.iter().try_for_each(|change| set_propagation(mounted, *change))
}

/// Changes the propagation of the mount whose root the fd refers to.
pub(super) fn set_propagation(mounted: BorrowedFd<'_>, change: Propagation) -> Result<()> {
    let extent = if change.recursive { Extent::Tree } else { Extent::Mount };
    set_attributes(mounted, &Attributes::propagation(change.kind.flag()), extent)
        .context(|| format!("make the mount {change:?}"))
}

fn reopen(root: &Root, plan: &MountPlan, links: Links) -> Result<OwnedFd> {
    root.open(&plan.destination, links).context(|| "reopen the destination")
}

fn mount_id_of(fd: BorrowedFd<'_>) -> Result<u64> {
    mount_id(fd).context(|| "statx the mount's id")
}

fn moved(plan: &MountPlan) -> Error {
    let message = format!("{} changed while it was mounted on", plan.destination.display());
    Error::new(ErrorKind::System, message)
}

/// Applies the flags of a bind mount as a bind remount of mount(2) does: if any flag was asked for, those that
/// were not are cleared, whatever the source's mount has; if none was, the source's flags stay. Flags that are
/// locked (a user namespace's owner may not clear them) stay too, unless the options clear them by name.
pub(super) fn set_bind_attributes(tree: BorrowedFd<'_>, options: &MountOptions) -> Result<()> {
    let Some(BindAttributes { replacing, keeping }) = bind_attributes(options) else {
        return Ok(());
    };
    match set_attributes(tree, &replacing, Extent::Mount) {
        Err(Errno::EPERM) => set_attributes(tree, &keeping, Extent::Mount),
        done => done,
    }
    .context(|| format!("mount_setattr set {:#x} clear {:#x}", keeping.set, keeping.clear))
}

#[derive(Debug, PartialEq, Eq)]
struct BindAttributes {
    /// Clears all that is not set.
    replacing: Attributes,
    /// Clears what the options name.
    keeping: Attributes,
}

fn bind_attributes(options: &MountOptions) -> Option<BindAttributes> {
    let MountOptions { set, clear, .. } = *options;
    let mut on = switches(set);
    let mut off = switches(clear);
    let sets_mode = set & MS_ATIME != 0;
    let undoes_mode = clear & (libc::MS_NOATIME | libc::MS_STRICTATIME) != 0;
    if sets_mode {
        on |= attributes(set);
    }
    if sets_mode || undoes_mode {
        off |= MOUNT_ATTR_ATIME;
    }
    if on | off == 0 {
        return None;
    }
    let mut others = switches(u64::MAX) & !on;
    if !sets_mode {
        // As in mount(2), access-time flags change only if one is given.
        others &= !MOUNT_ATTR_NODIRATIME;
    }
    Some(BindAttributes { replacing: Attributes::new(on, off | others), keeping: Attributes::new(on, off) })
}

/// Refuses to mount on the root itself, and on or in `/proc` what would make it something else than the kernel's.
pub(super) fn check_destination(
    root: &Root,
    plan: &MountPlan,
    target: &Found,
    bind_source: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let path = root.container_path(target.fd.as_fd())?;
    if path == Path::new("/") {
        let message = format!("{} leads to the root filesystem itself", plan.field("destination"));
        return Err(Error::new(ErrorKind::InvalidConfig, message));
    }
    let Ok(in_proc) = path.strip_prefix("/proc") else {
        return Ok(());
    };
    let allowed = if in_proc.as_os_str().is_empty() {
        match (&plan.kind, bind_source) {
            (MountKind::Filesystem { fstype, .. }, _) => fstype == "proc",
            (MountKind::Bind { .. }, Some(source)) => is_procfs(source)?,
            _ => false,
        }
    } else {
        ALLOWED_IN_PROC.iter().any(|name| in_proc == Path::new(name))
    };
    if allowed { Ok(()) } else { Err(not_in_proc(plan, &path)) }
}

fn not_in_proc(plan: &MountPlan, path: &Path) -> Error {
    let message =
        format!("{}: nothing but procfs may be mounted on {}", plan.field("destination"), path.display());
    Error::new(ErrorKind::InvalidConfig, message)
}

fn is_procfs(fd: BorrowedFd<'_>) -> Result<bool> {
    Ok(fstatfs(fd).context(|| "statfs the source")?.filesystem_type() == PROC_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::super::options;
    use super::*;
    use crate::sys::mount::{
        MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW,
        MOUNT_ATTR_RDONLY,
    };

    /// Bits set, bits cleared at first, bits cleared if some are locked.
    type Changes = Option<(u64, u64, u64)>;

    fn attributes_of(words: &[&str]) -> Changes {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let options = options::parse(&words, "options").expect("the words are known");
        bind_attributes(&options)
            .map(|found| (found.replacing.set, found.replacing.clear, found.keeping.clear))
    }

    #[test]
    fn a_bind_replaces_flags_only_if_one_is_named() {
        let all = MOUNT_ATTR_RDONLY
            | MOUNT_ATTR_NOSUID
            | MOUNT_ATTR_NODEV
            | MOUNT_ATTR_NOEXEC
            | MOUNT_ATTR_NOSYMFOLLOW;
        let table: [(&[&str], Changes); 6] = [
            (&["rbind", "rprivate"], None),
            (&["rbind", "sync"], None),
            (&["bind", "ro"], Some((MOUNT_ATTR_RDONLY, all & !MOUNT_ATTR_RDONLY, 0))),
            (&["bind", "rw"], Some((0, all, MOUNT_ATTR_RDONLY))),
            (
                &["bind", "noatime", "nodev"],
                Some((
                    MOUNT_ATTR_NOATIME | MOUNT_ATTR_NODEV,
                    all & !MOUNT_ATTR_NODEV | MOUNT_ATTR_ATIME | MOUNT_ATTR_NODIRATIME,
                    MOUNT_ATTR_ATIME,
                )),
            ),
            (&["bind", "atime"], Some((0, all | MOUNT_ATTR_ATIME, MOUNT_ATTR_ATIME))),
        ];
        for (words, expected) in table {
            assert_eq!(attributes_of(words), expected, "{words:?}");
        }
    }
}
