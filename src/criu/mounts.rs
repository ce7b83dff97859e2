// SPDX-License-Identifier: Apache-2.0
//! Reads what CRIU's `mountpoints-ID.img` images, one a mount namespace, say of the mounts that are not in the images:
//! the names under which a restore must give them. Knows the images' bytes; must not know what a name means.
//!
//! ```text
//! u32 0x54564319 (an image) · u32 0x55563928 (mounts) · { u32 length · MountEntry of that length }   (little endian)
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;

use nix::dir::Dir;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use protobuf::Message;

use crate::{Context, Error, ErrorKind, Result};

#[allow(missing_docs, unreachable_pub, missing_debug_implementations, clippy::all)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/proto/mod.rs"));
}

const IMAGE_MAGIC: u32 = 0x5456_4319;
const MOUNTS_MAGIC: u32 = 0x5556_3928;
/// Of all images of one checkpoint: the kernel allows 100,000 mounts in a namespace, and few have as many as a thousand.
const MAX_BYTES: u64 = 64 << 20;
/// CRIU gives mounts that it had to find by itself names that begin so, and needs no telling.
const OWN_NAMES: &str = "CRIU:";

/// The mounts from outside in an image directory: name → where the first of that name was mounted.
///
/// # Errors
/// [`ErrorKind::InvalidArchive`] names the image that is damaged; else when one cannot be read.
pub fn mounts_from_outside(images: BorrowedFd<'_>) -> Result<BTreeMap<String, String>> {
    let list = || "list the image directory";
    let mut directory =
        Dir::openat(images, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).context(list)?;
    let mut found = BTreeMap::new();
    let mut left = MAX_BYTES;
    for entry in directory.iter() {
        let entry = entry.context(list)?;
        let name = entry.file_name();
        if !(name.to_bytes().starts_with(b"mountpoints-") && name.to_bytes().ends_with(b".img")) {
            continue;
        }
        let what = || format!("read {}", name.to_string_lossy());
        // Not blocking: in a foreign directory the name may belong to a fifo.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = File::from(openat(images, name, flags, Mode::empty()).context(what)?);
        let mut bytes = Vec::new();
        file.take(left + 1).read_to_end(&mut bytes).context(what)?;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        left = left.checked_sub(length).ok_or_else(|| damaged("it is too long")).context(what)?;
        for (key, mountpoint) in parse(&bytes).context(what)? {
            found.entry(key).or_insert(mountpoint);
        }
    }
    Ok(found)
}

/// The mounts of one image that come from outside.
fn parse(bytes: &[u8]) -> Result<Vec<(String, String)>> {
    let (image, rest) = word(bytes)?;
    let (kind, mut rest) = word(rest)?;
    if (image, kind) != (IMAGE_MAGIC, MOUNTS_MAGIC) {
        return Err(damaged("it does not begin as an image of mounts"));
    }
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (length, after) = word(rest)?;
        let length = usize::try_from(length).map_err(|_| damaged("it is cut off"))?;
        let (message, after) = after.split_at_checked(length).ok_or_else(|| damaged("it is cut off"))?;
        rest = after;
        let mount = proto::criu_mounts::MountEntry::parse_from_bytes(message)
            .context_kind(ErrorKind::InvalidArchive, || "decode a mount")?;
        let Some(key) = mount.ext_key.filter(|key| !key.is_empty() && !key.starts_with(OWN_NAMES)) else {
            continue;
        };
        let mountpoint = mount.mountpoint.unwrap_or_default();
        found.push((key, format!("/{}", mountpoint.trim_start_matches(['.', '/']))));
    }
    Ok(found)
}

fn word(bytes: &[u8]) -> Result<(u32, &[u8])> {
    let (word, rest) = bytes.split_first_chunk::<4>().ok_or_else(|| damaged("it is cut off"))?;
    Ok((u32::from_le_bytes(*word), rest))
}

fn damaged(why: &'static str) -> Error {
    Error::new(ErrorKind::InvalidArchive, "not an image of criu's mounts").with_source(why)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

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
        let mut bytes = [IMAGE_MAGIC.to_le_bytes(), MOUNTS_MAGIC.to_le_bytes()].concat();
        for entry in entries {
            bytes.extend_from_slice(&u32::try_from(entry.len()).expect("short").to_le_bytes());
            bytes.extend_from_slice(entry);
        }
        bytes
    }

    fn some() -> Vec<u8> {
        image(&[
            entry("./", None),
            entry("./proc/keys", Some("/dev/null")),
            entry("./etc/hosts", Some("/etc/hosts")),
            entry("./x", Some("CRIU:AUTOGENERATED")),
        ])
    }

    #[test]
    fn names_come_with_their_mount_points() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let fd = File::open(dir.path()).expect("open it");
        assert_eq!(mounts_from_outside(fd.as_fd()).expect("read"), BTreeMap::new());
        std::fs::write(dir.path().join("mountpoints-12.img"), some()).expect("write");
        let nested = image(&[entry("./a", Some("a-key"))]);
        std::fs::write(dir.path().join("mountpoints-14.img"), nested).expect("write");
        let found = mounts_from_outside(fd.as_fd()).expect("read");
        let pair = |key: &str, mountpoint: &str| (key.to_owned(), mountpoint.to_owned());
        let expected =
            [pair("/dev/null", "/proc/keys"), pair("/etc/hosts", "/etc/hosts"), pair("a-key", "/a")];
        assert_eq!(found, BTreeMap::from(expected));
    }

    #[test]
    fn damaged_images_are_refused_by_name() {
        let good = some();
        // Cut off between two mounts it is an image of fewer.
        let lengths = [entry("./", None), entry("./proc/keys", Some("/dev/null"))].map(|e| 4 + e.len());
        let hosts = 4 + entry("./etc/hosts", Some("/etc/hosts")).len();
        let whole = [8, 8 + lengths[0], 8 + lengths[0] + lengths[1], 8 + lengths[0] + lengths[1] + hosts];
        for end in 0..good.len() {
            let parsed = parse(&good[..end]);
            if whole.contains(&end) {
                parsed.expect("an image of fewer mounts");
            } else {
                assert_eq!(parsed.expect_err("cut off").kind(), ErrorKind::InvalidArchive, "{end}");
            }
        }
        let mut huge = good.clone();
        huge[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(parse(&huge).is_err());
        assert!(parse(&image(&[vec![0x3a, 0x7f]])).is_err());

        let dir = tempfile::tempdir().expect("temporary directory");
        let fd = File::open(dir.path()).expect("open it");
        std::fs::write(dir.path().join("mountpoints-7.img"), "no image").expect("write");
        let error = mounts_from_outside(fd.as_fd()).expect_err("damaged");
        assert_eq!(error.kind(), ErrorKind::InvalidArchive);
        assert!(error.chain().starts_with("read mountpoints-7.img: "), "{}", error.chain());
    }
}
