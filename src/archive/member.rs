// SPDX-License-Identifier: Apache-2.0
//! Owns the names of an archive's members, their order, and the sizes that bound them.
//!
//! ```text
//! schema 1  migrate.json  spec.dump  checkpoint/  checkpoint/*  [rootfs.tar]  [stats-dump]  [dump.log]  migrate.index
//! schema 2  migrate.json  config.dump  spec.dump  migrate.config  checkpoint/  checkpoint/*
//!           [rootfs.tar | rootfs-diff.tar]  [network.status]  [stats-dump]  [dump.log]  migrate.index
//! schema 3  … [rootfs.tar | rootfs-diff.tar | rootfs-diff.tar  deleted.files  migrate.base]
//!           [volumes/  volumes/*.tar]  [network.status] …
//! schema 4  migrate.json  migrate.store/*  migrate.recipe  migrate.pages  migrate.index         (packed: an archive of schema 3 in pieces)
//! ```
//! Names that Podman has for the same thing are Podman's.

use super::manifest::RootfsForm;

/// The manifest: first, small, readable alone.
pub const MANIFEST: &str = "migrate.json";
/// What Podman and its like know of a container besides its OCI configuration.
pub const ENGINE_CONFIG: &str = "config.dump";
/// The container's OCI configuration, in schema 2 with annotations for other engines.
pub const SPEC: &str = "spec.dump";
/// The container's OCI configuration, as it was started.
pub const STARTED: &str = "migrate.config";
/// The directory of CRIU's images; its members follow it.
pub const IMAGES: &str = "checkpoint/";
/// The full root filesystem, a tar of its own.
pub const ROOTFS: &str = "rootfs.tar";
/// The root filesystem as files that other engines lay over those of an image.
pub const ROOTFS_OVER: &str = "rootfs-diff.tar";
/// What a difference takes away: paths from the root.
pub const DELETED: &str = "deleted.files";
/// What tells one file from another in the tree that a difference is of: a few bytes for each.
pub const BASE: &str = "migrate.base";
/// The directory of volumes; its members, each a tar of its own, follow it.
pub const VOLUMES: &str = "volumes/";
/// What was in a `/dev/shm` of Podman's, a tar of its own.
pub const DEVSHM: &str = "devshm-checkpoint.tar";
/// Addresses of the container, as Podman writes them.
pub const NETWORK: &str = "network.status";
/// CRIU's statistics of the dump.
pub const STATS: &str = "stats-dump";
/// CRIU's log of the dump.
pub const DUMP_LOG: &str = "dump.log";
/// How the names of the parts begin in which a packed archive has its pages, each once; a number from 0 on follows.
pub const STORE: &str = "migrate.store/";
/// Of which parts of which stores the tar of a packed archive is made.
pub const RECIPE: &str = "migrate.recipe";
/// What the pages in a packed archive are, for those that go on from it.
pub const PAGES: &str = "migrate.pages";
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
    /// [`NETWORK`].
    Network,
    /// [`STATS`].
    Stats,
    /// [`DUMP_LOG`].
    DumpLog,
}

impl SmallMember {
    /// The member's name in the archive.
    pub fn name(self) -> &'static str {
        match self {
            Self::Network => NETWORK,
            Self::Stats => STATS,
            Self::DumpLog => DUMP_LOG,
        }
    }

    /// Its place among the others.
    pub(super) fn place(self) -> Place {
        match self {
            Self::Network => Place::Network,
            Self::Stats => Place::Stats,
            Self::DumpLog => Place::DumpLog,
        }
    }
}

/// The name of the member that holds a volume of that name.
pub(super) fn volume_member(name: &str) -> String {
    format!("{VOLUMES}{name}.tar")
}

/// A volume is restored into a directory of its name, which must not be one that is there.
pub(super) fn is_volume(name: &str) -> bool {
    let inner = name.strip_prefix(VOLUMES).and_then(|name| name.strip_suffix(".tar"));
    inner.is_some_and(|inner| !matches!(inner, "" | "." | "..") && !inner.contains('/'))
}

/// The name of the member that holds a root filesystem of this form.
pub(super) fn rootfs_name(form: RootfsForm) -> &'static str {
    match form {
        RootfsForm::Full => ROOTFS,
        RootfsForm::Over | RootfsForm::Diff => ROOTFS_OVER,
    }
}

/// The place of a member in the order of an archive. Equal places repeat only for images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Manifest,
    EngineConfig,
    Spec,
    Started,
    ImagesDirectory,
    Image,
    Rootfs,
    Deleted,
    Base,
    VolumesDirectory,
    Volume,
    Network,
    Stats,
    DumpLog,
    Index,
}

impl Place {
    /// Where a member of that name belongs; `None` for a name that archives of this schema do not have.
    pub(super) fn of(name: &str, schema: u32) -> Option<Self> {
        Some(match name {
            MANIFEST => Self::Manifest,
            SPEC => Self::Spec,
            IMAGES => Self::ImagesDirectory,
            ROOTFS => Self::Rootfs,
            STATS => Self::Stats,
            DUMP_LOG => Self::DumpLog,
            INDEX => Self::Index,
            _ if name.starts_with(IMAGES) => Self::Image,
            _ if schema < 2 => return None,
            ENGINE_CONFIG => Self::EngineConfig,
            STARTED => Self::Started,
            ROOTFS_OVER => Self::Rootfs,
            NETWORK => Self::Network,
            _ if schema < 3 => return None,
            DELETED => Self::Deleted,
            BASE => Self::Base,
            VOLUMES => Self::VolumesDirectory,
            _ if is_volume(name) => Self::Volume,
            _ => return None,
        })
    }

    /// Whether a member at `next` may follow one at `self`: everything in order, nothing mandatory left out.
    pub(super) fn may_be_followed_by(self, next: Self, schema: u32) -> bool {
        match next {
            Self::Manifest => false,
            Self::EngineConfig => self == Self::Manifest,
            Self::Spec if schema < 2 => self == Self::Manifest,
            Self::Spec => self == Self::EngineConfig,
            Self::Started => self == Self::Spec,
            Self::ImagesDirectory if schema < 2 => self == Self::Spec,
            Self::ImagesDirectory => self == Self::Started,
            Self::Image => self == Self::ImagesDirectory || self == Self::Image,
            Self::Deleted => self == Self::Rootfs,
            Self::Base => self == Self::Deleted,
            Self::Volume => matches!(self, Self::VolumesDirectory | Self::Volume),
            Self::Rootfs
            | Self::VolumesDirectory
            | Self::Network
            | Self::Stats
            | Self::DumpLog
            | Self::Index => {
                self >= Self::ImagesDirectory
                    && self < next
                    && !matches!(self, Self::Deleted | Self::VolumesDirectory)
            }
        }
    }

    /// Where a member of that place is unpacked to; `None` for its own name.
    pub(super) fn unpacked_name(self, schema: u32) -> Option<&'static str> {
        match self {
            Self::Spec if schema < 2 => Some(UNPACKED_SPEC),
            Self::Started => Some(UNPACKED_SPEC),
            _ => None,
        }
    }

    /// Whether only a directory can be there, and not among others.
    pub(super) fn is_directory(self) -> bool {
        matches!(self, Self::ImagesDirectory | Self::VolumesDirectory)
    }

    /// Whether its size is bounded like that of what is handed over as a whole.
    pub(super) fn is_small(self) -> bool {
        !self.is_directory() && !matches!(self, Self::Image | Self::Rootfs | Self::Volume)
    }
}

#[cfg(test)]
mod tests {
    use super::super::manifest::SCHEMA;
    use super::*;

    fn orderly(names: &[&str], mandatory: usize, schema: u32) {
        let places: Vec<_> = names.iter().map(|n| Place::of(n, schema).expect("a known name")).collect();
        for (i, before) in places.iter().enumerate() {
            for (j, after) in places.iter().enumerate() {
                let image_again = *before == Place::Image && i == j;
                let skips_mandatory = i < mandatory && j != i + 1;
                let expected = image_again || (i < j && !skips_mandatory);
                let found = before.may_be_followed_by(*after, schema);
                assert_eq!(found, expected, "{} {}", names[i], names[j]);
            }
        }
    }

    #[test]
    fn members_come_in_order() {
        let rest = [IMAGES, "checkpoint/a.img", ROOTFS, STATS, DUMP_LOG, INDEX];
        orderly(&[&[MANIFEST, SPEC], &rest[..]].concat(), 2, 1);
        let rest = [IMAGES, "checkpoint/a.img", ROOTFS_OVER, NETWORK, STATS, DUMP_LOG, INDEX];
        orderly(&[&[MANIFEST, ENGINE_CONFIG, SPEC, STARTED], &rest[..]].concat(), 4, 2);
        let volumes = [VOLUMES, "volumes/a.tar"].map(|name| Place::of(name, SCHEMA).expect("known"));
        let network = Place::of(NETWORK, SCHEMA).expect("known");
        assert!(volumes[0].may_be_followed_by(volumes[1], 3) && volumes[1].may_be_followed_by(volumes[1], 3));
        assert!(volumes[1].may_be_followed_by(network, 3) && !volumes[0].may_be_followed_by(network, 3));
        for other in
            ["volumes", "volumes/.tar", "volumes/..tar", "volumes/...tar", "volumes/a", "volumes/a/b.tar"]
        {
            assert_eq!(Place::of(other, SCHEMA), None, "{other}");
        }
        assert_eq!(Place::of("checkpoint", SCHEMA), None);
        assert_eq!(Place::of("ctr.log", SCHEMA), None);
        for newer in [ENGINE_CONFIG, STARTED, ROOTFS_OVER, NETWORK] {
            assert_eq!(Place::of(newer, 1), None);
        }
        // One root filesystem, whatever it is called.
        let rootfs = Place::of(ROOTFS, 2).expect("known");
        assert!(!rootfs.may_be_followed_by(Place::of(ROOTFS_OVER, 2).expect("known"), 2));
    }
}
