// SPDX-License-Identifier: Apache-2.0
//! Owns the rule by which a file that was read once need not be read again: when its content is known to be what it was as long as inode
//! and time of the last change are.
//!
//! | what could go unnoticed | what rules it out |
//! | --- | --- |
//! | a write in the same tick of the kernel's clock as the look before it | the last change lies some ticks before the round began |
//! | a write that had begun before the file was read, and ends later | nobody had the file open for writing when it was begun to be read |
//! | a store through a mapping whose page was written to before | nobody had it mapped so, either: a mapping keeps the file open |
//! | a store through a mapping made since | on such file systems the first one to a page changes the time; on others no file is settled |
//!
//! Must not know what follows from it.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::statfs::{FsType, fstatfs};

use super::super::base::Identity;
use crate::sys::lease::has_writer;
use crate::sys::metadata::{Metadata, metadata_at};

/// The kernel takes times of files from a clock that ticks, at the slowest, every 10 ms.
const TICKS: Duration = Duration::from_millis(20);

/// ext2 to ext4, XFS, Btrfs, F2FS (`linux/magic.h`). Not tmpfs, whose files are written to through mappings without a change of their time.
const TOLD: [u32; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010];

/// Whether a file system changes a file's time when it is written to, however that is done.
pub fn tells_of_writes(file: BorrowedFd<'_>) -> bool {
    fstatfs(file).is_ok_and(|found| is_told(found.filesystem_type()))
}

fn is_told(FsType(magic): FsType) -> bool {
    u32::try_from(magic).is_ok_and(|magic| TOLD.contains(&magic))
}

/// The rule, for one round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    /// Whether the file system tells of writes.
    told: bool,
    /// The last change of a settled file is earlier than this.
    before: (i64, u32),
}

impl Rule {
    /// For what is looked at from this moment on.
    pub(super) fn from(begin: SystemTime, told: bool) -> Self {
        let before = begin.checked_sub(TICKS).and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let before = before.unwrap_or_default();
        Self { told, before: (i64::try_from(before.as_secs()).unwrap_or(0), before.subsec_nanos()) }
    }

    /// Whether a file that is about to be read is settled, if [`Rule::still`] says so when it was read.
    pub(super) fn may_be(&self, file: &File, listed: &Metadata) -> bool {
        self.told
            && listed.changed < self.before
            && Self::still(file, listed)
            && has_writer(file.as_fd()) == Ok(false)
    }

    /// Whether it is the file that was listed, as it was.
    pub(super) fn still(file: &File, listed: &Metadata) -> bool {
        metadata_at(file.as_fd(), c"")
            .is_ok_and(|now| identity(&now) == identity(listed) && now.size == listed.size)
    }
}

pub(super) fn identity(metadata: &Metadata) -> Identity {
    (metadata.inode, metadata.changed)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;
    use crate::sys::lease::Mapping;

    struct Place(tempfile::TempDir);

    impl Place {
        /// A file that was written and closed, long enough ago.
        fn new() -> Self {
            let place = Self(tempfile::tempdir().expect("a temporary directory"));
            fs::write(place.0.path().join("f"), "content").expect("write");
            place
        }

        fn open(&self) -> File {
            File::open(self.0.path().join("f")).expect("open")
        }

        fn listed(&self) -> Metadata {
            let directory = File::open(self.0.path()).expect("open");
            metadata_at(directory.as_fd(), c"f").expect("statx")
        }
    }

    /// A round that begins so long after the file's last change.
    fn rule(listed: &Metadata, after: Duration, told: bool) -> Rule {
        let (seconds, nanoseconds) = listed.changed;
        let changed = UNIX_EPOCH + Duration::new(seconds.try_into().expect("after 1970"), nanoseconds);
        Rule::from(changed + after, told)
    }

    #[test]
    fn one_that_nobody_writes_to_is_settled_when_its_last_change_is_some_ticks_ago() {
        let place = Place::new();
        let listed = place.listed();
        for (after, told, expected) in
            [(1000, true, true), (21, true, true), (20, true, false), (0, true, false), (1000, false, false)]
        {
            let rule = rule(&listed, Duration::from_millis(after), told);
            assert_eq!(rule.may_be(&place.open(), &listed), expected, "{after} ms, {told}");
        }
    }

    #[test]
    fn one_that_somebody_could_write_to_is_not() {
        let place = Place::new();
        let listed = place.listed();
        let rule = rule(&listed, Duration::from_secs(1), true);
        let writer = File::options().read(true).write(true).open(place.0.path().join("f")).expect("open");
        assert!(!rule.may_be(&place.open(), &listed), "open for writing");
        let mapping = Mapping::of(&writer);
        drop(writer);
        assert!(!rule.may_be(&place.open(), &listed), "mapped");
        drop(mapping);
        assert!(rule.may_be(&place.open(), &listed));
    }

    #[test]
    fn one_that_is_another_by_now_is_not() {
        let place = Place::new();
        let listed = place.listed();
        let opened = place.open();
        assert!(Rule::still(&opened, &listed));
        let mut writer = File::options().append(true).open(place.0.path().join("f")).expect("open");
        writer.write_all(b"more").expect("write");
        assert!(!Rule::still(&opened, &listed), "written to");
        let listed = place.listed();
        fs::write(place.0.path().join("g"), "content").expect("write");
        fs::rename(place.0.path().join("g"), place.0.path().join("f")).expect("rename");
        assert!(!Rule::still(&place.open(), &listed), "another of its name");
    }

    #[test]
    fn file_systems_in_memory_do_not_tell() {
        for (magic, expected) in [(0xef53, true), (0x5846_5342, true), (0x0102_1994, false), (0x6969, false)]
        {
            assert_eq!(is_told(FsType(magic)), expected, "{magic:x}");
        }
    }
}
