// SPDX-License-Identifier: Apache-2.0
//! What the images `mountpoints-ID.img`, one a mount namespace, say of the mounts that are not in the images: the names under
//! which a restore must give them. Must not know what a name means.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use super::proto::criu_images::MountEntry;
use super::{Image, ImageFile, Kind, list};
use crate::{Context, Error, ErrorKind, Result};

/// Of all images of one checkpoint: the kernel allows 100,000 mounts in a namespace, and few have as many as a thousand.
const MOST: usize = 1_000_000;
/// CRIU gives mounts that it had to find by itself names that begin so, and needs no telling.
const OWN_NAMES: &str = "CRIU:";

/// A mount of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted, from the root of the container.
    pub mountpoint: String,
    /// The file system's type.
    pub kind: String,
    /// What of the file system is mounted.
    pub root: Vec<u8>,
    /// The device or what stands for it.
    pub source: Vec<u8>,
    /// The options of the file system.
    pub options: Vec<u8>,
    /// The flags of mount(2).
    pub flags: u32,
    /// The name under which a restore must give it, of one that comes from outside.
    pub external: Option<String>,
}

/// Reads `mountpoints-ID.img`.
///
/// # Errors
/// `InvalidArchive` if it is damaged.
pub fn mounts(bytes: &[u8]) -> Result<Vec<Mount>> {
    let entries = Image::read(bytes, Kind::Mounts)?.list::<MountEntry>()?;
    let mount = |entry: MountEntry| {
        let own = entry.fsname.filter(|name| !name.is_empty());
        let kind = own.map(|name| String::from_utf8_lossy(&name).into_owned());
        Mount {
            kind: kind.unwrap_or_else(|| file_system(entry.fstype).to_owned()),
            mountpoint: from_root(&entry.mountpoint.unwrap_or_default()),
            root: entry.root.unwrap_or_default(),
            source: entry.source.unwrap_or_default(),
            options: entry.options.unwrap_or_default(),
            flags: entry.flags.unwrap_or(0),
            external: entry.ext_key.filter(|key| !key.is_empty()),
        }
    };
    Ok(entries.into_iter().map(mount).collect())
}

/// CRIU's numbers of file systems.
fn file_system(number: Option<u32>) -> &'static str {
    const NAMES: [&str; 24] = [
        "other",
        "proc",
        "sysfs",
        "devtmpfs",
        "binfmt_misc",
        "tmpfs",
        "devpts",
        "simfs",
        "pstore",
        "securityfs",
        "fusectl",
        "debugfs",
        "cgroup",
        "aufs",
        "mqueue",
        "fuse",
        "auto",
        "overlay",
        "autofs",
        "tracefs",
        "rpc_pipefs",
        "nfs",
        "nfs4",
        "cgroup2",
    ];
    let at = number.and_then(|number| usize::try_from(number).ok()).unwrap_or(0);
    NAMES.get(at).unwrap_or(&NAMES[0])
}

/// CRIU writes them as relative paths.
fn from_root(mountpoint: &str) -> String {
    let rest = mountpoint.strip_prefix('.').unwrap_or(mountpoint);
    format!("/{}", rest.trim_start_matches('/'))
}

/// The mounts from outside in an image directory: name → where the first of that name was mounted.
///
/// # Errors
/// [`ErrorKind::InvalidArchive`] names the image that is damaged; else when one cannot be read.
pub fn mounts_from_outside(images: BorrowedFd<'_>) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut left = MOST;
    for namespace in list(images, "mountpoints-", ".img")? {
        let name = format!("mountpoints-{namespace}.img");
        let Some(mut image) = ImageFile::open(images, &name, Kind::Mounts)? else { continue };
        while let Some(mount) = image.next::<MountEntry>().context(|| format!("read {name}"))? {
            let too_many =
                || Error::new(ErrorKind::InvalidArchive, format!("{name} has more than {MOST} mounts"));
            left = left.checked_sub(1).ok_or_else(too_many)?;
            let Some(key) = mount.ext_key.filter(|key| !key.is_empty() && !key.starts_with(OWN_NAMES)) else {
                continue;
            };
            let mountpoint = mount.mountpoint.unwrap_or_default();
            found.entry(key).or_insert_with(|| from_root(&mountpoint));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::super::written;
    use super::*;

    /// An entry with its mount point (field 7), its flags (field 5, unknown here) and a name (field 18).
    fn entry(mountpoint: &str, key: Option<&str>) -> Vec<u8> {
        let length = |text: &str| u8::try_from(text.len()).expect("short");
        let mut bytes = vec![0x28, 0x01, 0x3a, length(mountpoint)];
        bytes.extend_from_slice(mountpoint.as_bytes());
        if let Some(key) = key {
            bytes.extend_from_slice(&[0x92, 0x01, length(key)]);
            bytes.extend_from_slice(key.as_bytes());
        }
        bytes
    }

    fn image(entries: &[Vec<u8>]) -> Vec<u8> {
        written(Kind::Mounts, &entries.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    #[test]
    fn names_come_with_their_mount_points() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let fd = File::open(dir.path()).expect("open it");
        assert_eq!(mounts_from_outside(fd.as_fd()).expect("read"), BTreeMap::new());
        let some = image(&[
            entry("./", None),
            entry("./proc/keys", Some("/dev/null")),
            entry("./etc/hosts", Some("/etc/hosts")),
            entry("./x", Some("CRIU:AUTOGENERATED")),
        ]);
        std::fs::write(dir.path().join("mountpoints-12.img"), some).expect("write");
        let nested = image(&[entry("./a", Some("a-key"))]);
        std::fs::write(dir.path().join("mountpoints-14.img"), nested).expect("write");
        let found = mounts_from_outside(fd.as_fd()).expect("read");
        let pair = |key: &str, mountpoint: &str| (key.to_owned(), mountpoint.to_owned());
        let expected =
            [pair("/dev/null", "/proc/keys"), pair("/etc/hosts", "/etc/hosts"), pair("a-key", "/a")];
        assert_eq!(found, BTreeMap::from(expected));
    }

    #[test]
    fn mounts_say_what_they_are() {
        let tmpfs = [&[8, 5][..], &entry("./run", None)].concat();
        let other = [&[8, 16, 0x72, 4][..], b"ext4", &entry("./d", Some("d"))].concat();
        let bytes = image(&[tmpfs, other, vec![8, 0xff, 1]]);
        let found = mounts(&bytes).expect("good");
        let facts: Vec<_> =
            found.iter().map(|m| (&m.mountpoint[..], &m.kind[..], m.external.as_deref())).collect();
        assert_eq!(facts, [("/run", "tmpfs", None), ("/d", "ext4", Some("d")), ("/", "other", None)]);
    }

    #[test]
    fn a_damaged_image_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let fd = File::open(dir.path()).expect("open it");
        let good = image(&[entry("./", None)]);
        for bytes in [&b"no image"[..], &good[..good.len() - 1]] {
            std::fs::write(dir.path().join("mountpoints-7.img"), bytes).expect("write");
            let error = mounts_from_outside(fd.as_fd()).expect_err("damaged");
            assert_eq!(error.kind(), ErrorKind::InvalidArchive);
            assert!(error.chain().starts_with("read mountpoints-7.img: "), "{}", error.chain());
        }
    }
}
