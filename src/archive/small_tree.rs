// SPDX-License-Identifier: Apache-2.0
//! Owns a small directory tree as a tar in a gzip stream: what `tar --create --gzip` makes of it, without its three processes.
//!
//! ```text
//! header 10 · deflate blocks that are stored, of at most 65535 bytes each · CRC-32 · length      (RFC 1951, 1952)
//! ```
//! Nothing is compressed: it is small. Must not know what the tree is for.

use std::os::fd::BorrowedFd;

use super::rootfs::emit_small;
use super::sink::Sink;
use super::writer::Compression;
use crate::Result;

/// Larger trees are for those who compress, and store holes as such.
const MOST: u64 = 1 << 20;

/// A header without a name and a time, from Unix.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];

/// The tree beneath `root`, without what is mounted in it and without sockets.
///
/// # Errors
/// `Unsupported` for one that is not small; else what the file system says.
pub fn small_tree(root: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let mut sink = Sink::new(Vec::new(), Compression::None)?;
    emit_small(root, &mut sink, MOST)?;
    let (tar, _) = sink.finish()?;
    Ok(gzip(&tar))
}

/// A gzip stream of these bytes, fewer than 2^32.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = HEADER.to_vec();
    let mut blocks = bytes.chunks(usize::from(u16::MAX)).peekable();
    while let Some(block) = blocks.next() {
        let length = block.len() as u16;
        out.push(u8::from(blocks.peek().is_none()));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
    }
    out.extend_from_slice(&crc32(bytes).to_le_bytes());
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out
}

/// The checksum of RFC 1952.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| (crc >> 8) ^ CRC_TABLE[usize::from(crc as u8 ^ byte)])
}

/// The remainders of single bytes by the polynomial of RFC 1952.
static CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
    use std::os::unix::net::UnixListener;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use nix::sys::stat::{Mode, SFlag, mknod};
    use nix::unistd::{geteuid, mkfifo};

    use super::*;

    fn of(path: &Path) -> Result<Vec<u8>> {
        small_tree(File::open(path).expect("open").as_fd())
    }

    #[test]
    fn the_check_sum_is_that_of_gzip() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    /// What CRIU has a restore do with it.
    #[test]
    fn the_system_s_tar_reads_it() {
        let (from, to) = (tempfile::tempdir().expect("tempdir"), tempfile::tempdir().expect("tempdir"));
        let at = |name: &str| from.path().join(name);
        fs::create_dir_all(at("deep/er")).expect("mkdir");
        fs::set_permissions(at("deep"), fs::Permissions::from_mode(0o1750)).expect("chmod");
        fs::write(at("deep/er/file"), vec![7; 200_000]).expect("write");
        fs::write(at("-rf *"), "a name").expect("write");
        fs::hard_link(at("-rf *"), at("deep/other name")).expect("link");
        symlink("/etc/shadow", at("link")).expect("symlink");
        mkfifo(&at("fifo"), Mode::from_bits_truncate(0o640)).expect("mkfifo");
        let long = "x".repeat(200);
        fs::write(at(&long), "").expect("write");
        let _listener = UnixListener::bind(at("socket")).expect("bind");
        let root = geteuid().is_root();
        if root {
            let null = nix::sys::stat::makedev(1, 3);
            mknod(&at("null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), null).expect("mknod");
        }

        let stream = tempfile::NamedTempFile::new().expect("a temporary file");
        fs::write(stream.path(), of(from.path()).expect("a small tree")).expect("write");
        let tar = Command::new("tar")
            .args(["--extract", "--gzip", "--no-unquote", "--no-wildcards", "--directory"])
            .arg(to.path())
            .stdin(Stdio::from(stream.reopen().expect("open")))
            .output()
            .expect("tar");
        assert!(tar.status.success() && tar.stderr.is_empty(), "{tar:?}");

        let to = |name: &str| to.path().join(name);
        assert_eq!(fs::read(to("deep/er/file")).expect("read"), vec![7; 200_000]);
        assert_eq!(fs::read_to_string(to("-rf *")).expect("read"), "a name");
        let same = |name: &str| fs::symlink_metadata(to(name)).expect("stat");
        assert_eq!(same("-rf *").ino(), same("deep/other name").ino());
        assert_eq!(fs::read_link(to("link")).expect("a link"), Path::new("/etc/shadow"));
        assert!(same("fifo").file_type().is_fifo() && !to("socket").exists());
        assert!(to(&long).exists());
        for name in ["deep", "deep/er/file", "fifo"] {
            let (was, is) = (fs::symlink_metadata(at(name)).expect("stat"), same(name));
            assert_eq!((is.mtime(), is.uid()), (was.mtime(), was.uid()), "{name}");
            if root {
                assert_eq!(is.mode(), was.mode(), "{name}");
            }
        }
        if root {
            assert_eq!(same("null").rdev(), nix::sys::stat::makedev(1, 3));
        }
    }

    #[test]
    fn a_large_tree_is_refused_and_holes_count() {
        let tree = tempfile::tempdir().expect("tempdir");
        let file = File::create(tree.path().join("holes")).expect("create");
        file.set_len(MOST - 4096).expect("grow");
        of(tree.path()).expect("small enough");
        file.set_len(1 << 40).expect("grow");
        assert_eq!(of(tree.path()).expect_err("large").kind(), crate::ErrorKind::Unsupported);
    }
}
