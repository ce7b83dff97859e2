// SPDX-License-Identifier: Apache-2.0
//! The flags of a bind mount, as a bind remount of mount(2) applies them.
//!
//! If an option word sets or clears any flag, the flags that none names are cleared, whatever the source's mount has; if
//! none does, the source's stay. Only a word that sets an access-time mode changes it. Flags that are locked (the
//! container's user namespace does not own the source's mount) stay too, unless a word clears one: that is an error.
//! Must not know where the tree goes.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::statvfs::{FsFlags, fstatvfs};

use super::options::{MS_ATIME, MountOptions, attributes, switches};
use crate::sys::mount::{Attributes, Extent, MOUNT_ATTR_ATIME, MOUNT_ATTR_NODIRATIME, set_attributes};
use crate::{Context, Result};

/// What the kernel locks of a mount that comes into a user namespace (`MNT_LOCK_*`), and how statfs(2) shows it.
const LOCKABLE: [(FsFlags, u64); 4] = [
    (FsFlags::ST_RDONLY, libc::MS_RDONLY),
    (FsFlags::ST_NOSUID, libc::MS_NOSUID),
    (FsFlags::ST_NODEV, libc::MS_NODEV),
    (FsFlags::ST_NOEXEC, libc::MS_NOEXEC),
];

/// The same for access times, which are locked as one.
const LOCKABLE_ATIME: [(FsFlags, u64); 3] = [
    (FsFlags::ST_NOATIME, libc::MS_NOATIME),
    (FsFlags::ST_NODIRATIME, libc::MS_NODIRATIME),
    (FsFlags::ST_RELATIME, libc::MS_RELATIME),
];

/// Applies the options' flags to a tree that has its source's.
pub(super) fn set_bind_attributes(tree: BorrowedFd<'_>, options: &MountOptions) -> Result<()> {
    let Some(wanted) = bind_attributes(options, 0) else { return Ok(()) };
    let attempt = |wanted: &Attributes| {
        let (set, clear) = (wanted.set, wanted.clear);
        move || format!("mount_setattr set {set:#x} clear {clear:#x}")
    };
    match set_attributes(tree, &wanted, Extent::Mount) {
        Err(Errno::EPERM) => {}
        done => return done.context(attempt(&wanted)),
    }
    let present = present_flags(tree).context(|| "statfs the source")?;
    match keeping_locked(options, present) {
        Some(kept) => set_attributes(tree, &kept, Extent::Mount).context(attempt(&kept)),
        None => Err(Errno::EPERM)
            .context(|| "operation not permitted: the source's mount has flags that are locked"),
    }
}

/// The mount's flags that may be locked, as `MS_*` bits.
fn present_flags(mount: BorrowedFd<'_>) -> nix::Result<u64> {
    let flags = fstatvfs(mount)?.flags();
    let bits = |table: &[(FsFlags, u64)]| {
        table.iter().filter(|(shown, _)| flags.contains(*shown)).fold(0, |bits, (_, bit)| bits | bit)
    };
    let atime = bits(&LOCKABLE_ATIME);
    // This mode has no sign of its own: it is the absence of the two others.
    let strict = if atime & (libc::MS_NOATIME | libc::MS_RELATIME) == 0 { libc::MS_STRICTATIME } else { 0 };
    Ok(bits(&LOCKABLE) | atime | strict)
}

/// What to set instead when some of the flags that are present are locked; `None` if the options contradict them.
fn keeping_locked(options: &MountOptions, present: u64) -> Option<Attributes> {
    let asked_atime = options.set & MS_ATIME;
    if options.clear & present != 0 || (asked_atime != 0 && asked_atime != present & MS_ATIME) {
        return None;
    }
    bind_attributes(options, present & !MS_ATIME)
}

fn bind_attributes(options: &MountOptions, kept: u64) -> Option<Attributes> {
    let clear = options.clear;
    // That it is a bind mount is no flag of it.
    let set = options.set & !(libc::MS_BIND | libc::MS_REC | libc::MS_REMOUNT);
    if set == 0 && clear == 0 {
        return None;
    }
    let mut on = switches(set | kept);
    let mut off = switches(u64::MAX) & !on;
    if set & MS_ATIME != 0 {
        on |= attributes(set);
        off |= MOUNT_ATTR_ATIME;
    } else {
        // As in mount(2), access-time flags change only if one is given.
        off &= !MOUNT_ATTR_NODIRATIME;
    }
    Some(Attributes::new(on, off))
}

#[cfg(test)]
mod tests {
    use super::super::options;
    use super::*;
    use crate::sys::mount::{
        MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW,
        MOUNT_ATTR_RDONLY,
    };

    const ALL: u64 =
        MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSYMFOLLOW;

    fn parsed(words: &[&str]) -> MountOptions {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        options::parse(&words, "options").expect("the words are known")
    }

    /// Bits set, bits cleared; `None` if nothing is changed, or cannot be.
    type Bits = Option<(u64, u64)>;

    fn bits(attributes: Option<Attributes>) -> Bits {
        attributes.map(|found| (found.set, found.clear))
    }

    #[test]
    fn a_bind_replaces_flags_only_if_one_is_named() {
        let table: [(&[&str], Bits); 8] = [
            (&["rbind", "rprivate"], None),
            (&["rbind", "sync"], Some((0, ALL))),
            (&["bind", "ro"], Some((MOUNT_ATTR_RDONLY, ALL & !MOUNT_ATTR_RDONLY))),
            (&["bind", "rw"], Some((0, ALL))),
            (
                &["bind", "noatime", "nodev"],
                Some((
                    MOUNT_ATTR_NOATIME | MOUNT_ATTR_NODEV,
                    ALL & !MOUNT_ATTR_NODEV | MOUNT_ATTR_ATIME | MOUNT_ATTR_NODIRATIME,
                )),
            ),
            // Words that undo an access-time mode do not choose another one.
            (&["bind", "atime"], Some((0, ALL))),
            (&["bind", "norelatime"], Some((0, ALL))),
            (&["bind", "nodiratime"], Some((MOUNT_ATTR_NODIRATIME, ALL | MOUNT_ATTR_ATIME))),
        ];
        for (words, expected) in table {
            assert_eq!(bits(bind_attributes(&parsed(words), 0)), expected, "{words:?}");
        }
    }

    #[test]
    fn locked_flags_are_kept_or_contradicted() {
        let present = libc::MS_RDONLY | libc::MS_NOEXEC | libc::MS_NODIRATIME | libc::MS_RELATIME;
        let kept = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC;
        let table: [(&[&str], Bits); 7] = [
            (&["bind", "dev"], Some((kept, ALL & !kept))),
            (&["bind", "nosuid"], Some((kept | MOUNT_ATTR_NOSUID, ALL & !kept & !MOUNT_ATTR_NOSUID))),
            (&["bind", "rw"], None),
            (&["bind", "exec", "ro"], None),
            (&["bind", "strictatime"], None),
            (&["bind", "relatime"], None),
            (&["bind", "norelatime"], None),
        ];
        for (words, expected) in table {
            assert_eq!(bits(keeping_locked(&parsed(words), present)), expected, "{words:?}");
        }
        assert!(keeping_locked(&parsed(&["bind", "nodiratime", "relatime"]), present).is_some());
    }
}
