// SPDX-License-Identifier: Apache-2.0
//! Owns what an archive may ask of the host that unpacks it.

/// Bounds on an archive that is read. The defaults are far above what a container needs and keep a hostile archive
/// from using memory or time without end. The ratio of compression is not bounded: zeroed memory compresses ten
/// thousand times; images must fit into the free space of their target, and holes of files cost nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Members of the archive.
    pub members: u64,
    /// Bytes of the uncompressed archive.
    pub total_bytes: u64,
    /// Bytes of the configuration, of the statistics, of the log, and of the index, each.
    pub small_member: u64,
    /// Bytes of a path, in the archive and in the root filesystem.
    pub path_length: usize,
    /// Entries of the root filesystem.
    pub rootfs_entries: u64,
    /// Bytes of memory for what is set on directories when their content is complete: names, times, attributes.
    pub directory_memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            members: 1 << 18,
            total_bytes: 1 << 44,
            small_member: super::member::SMALL_MAX,
            path_length: 4095,
            rootfs_entries: 1 << 24,
            directory_memory: 1 << 28,
        }
    }
}
