// SPDX-License-Identifier: Apache-2.0
//! Owns the names of an archive's members, their order, and the sizes that bound them.
//!
//! ```text
//! migrate.json  spec.dump  checkpoint/  checkpoint/*  [rootfs.tar]  [stats-dump]  [dump.log]  migrate.index
//! ```
//! Names that Podman has for the same thing are Podman's.

/// The manifest: first, small, readable alone.
pub const MANIFEST: &str = "migrate.json";
/// The container's OCI configuration, as it was started.
pub const SPEC: &str = "spec.dump";
/// The directory of CRIU's images; its members follow it.
pub const IMAGES: &str = "checkpoint/";
/// The full root filesystem, a tar of its own.
pub const ROOTFS: &str = "rootfs.tar";
/// CRIU's statistics of the dump.
pub const STATS: &str = "stats-dump";
/// CRIU's log of the dump.
pub const DUMP_LOG: &str = "dump.log";
/// Size, offset and digest of every member before it: last.
pub const INDEX: &str = "migrate.index";

/// Name that the configuration gets when it is unpacked.
pub const UNPACKED_SPEC: &str = "config.json";

/// Largest manifest, in bytes.
pub const MANIFEST_MAX: u64 = 1 << 20;
/// Largest member that is handed over as a whole (configuration, statistics, log), and largest index, in bytes.
pub const SMALL_MAX: u64 = 64 << 20;

/// Files that CRIU leaves in an images directory when it has no work directory. They are not images.
pub(super) const WORK_FILES: [&str; 4] = ["dump.log", "stats-dump", "restore.log", "stats-restore"];

/// A member that is written from memory, after the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SmallMember {
    /// [`STATS`].
    Stats,
    /// [`DUMP_LOG`].
    DumpLog,
}

impl SmallMember {
    /// The member's name in the archive.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stats => STATS,
            Self::DumpLog => DUMP_LOG,
        }
    }
}

/// The place of a member in the order of an archive. Equal places repeat only for images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Manifest,
    Spec,
    ImagesDirectory,
    Image,
    Rootfs,
    Stats,
    DumpLog,
    Index,
}

impl Place {
    /// Where a member of that name belongs; `None` for a name that archives of this schema do not have.
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            MANIFEST => Self::Manifest,
            SPEC => Self::Spec,
            IMAGES => Self::ImagesDirectory,
            ROOTFS => Self::Rootfs,
            STATS => Self::Stats,
            DUMP_LOG => Self::DumpLog,
            INDEX => Self::Index,
            _ if name.starts_with(IMAGES) => Self::Image,
            _ => return None,
        })
    }

    /// Whether a member at `next` may follow one at `self`: everything in order, nothing mandatory left out.
    pub(super) fn may_be_followed_by(self, next: Self) -> bool {
        match next {
            Self::Manifest => false,
            Self::Spec => self == Self::Manifest,
            Self::ImagesDirectory => self == Self::Spec,
            Self::Image => self == Self::ImagesDirectory || self == Self::Image,
            Self::Rootfs | Self::Stats | Self::DumpLog | Self::Index => {
                self >= Self::ImagesDirectory && self < next
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_in_order() {
        let names = [MANIFEST, SPEC, IMAGES, "checkpoint/a.img", ROOTFS, STATS, DUMP_LOG, INDEX];
        let places: Vec<_> = names.iter().map(|n| Place::of(n).expect("a known name")).collect();
        for (i, before) in places.iter().enumerate() {
            for (j, after) in places.iter().enumerate() {
                let image_again = *before == Place::Image && i == j;
                let skips_mandatory = i < 2 && j != i + 1;
                let expected = image_again || (i < j && !skips_mandatory);
                assert_eq!(before.may_be_followed_by(*after), expected, "{} {}", names[i], names[j]);
            }
        }
        assert_eq!(Place::of("checkpoint"), None);
        assert_eq!(Place::of("config.dump"), None);
    }
}
