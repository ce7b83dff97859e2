// SPDX-License-Identifier: Apache-2.0
//! What a dump or a restore has cost: the images `stats-dump` and `stats-restore`. Must not know who asked for it.

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;

use super::proto::criu_stats::StatsImage;
use super::{Image, Kind, open};
use crate::{Context, Error, ErrorKind, Result};

/// What a dump cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DumpStats {
    /// From the request to stop the tasks until all stood still.
    pub freezing: Duration,
    /// How long the tasks stood still, as CRIU counts it.
    pub frozen: Duration,
    /// Of that, the time in which memory was collected.
    pub memory_dump: Duration,
    /// And the time in which it was written.
    pub memory_write: Duration,
    /// Pages looked at.
    pub pages_scanned: u64,
    /// Pages left out because the parent images have them.
    pub pages_skipped_parent: u64,
    /// Pages written.
    pub pages_written: u64,
    /// Pages left to be asked for later.
    pub pages_lazy: u64,
}

/// What a restore cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RestoreStats {
    /// Until all processes were created.
    pub forking: Duration,
    /// Until they could run.
    pub restoring: Duration,
    /// Pages compared with an ancestor's.
    pub pages_compared: u64,
    /// Pages shared with an ancestor instead of written.
    pub pages_skipped_cow: u64,
    /// Pages written.
    pub pages_restored: u64,
}

impl DumpStats {
    /// CRIU counts microseconds in 32 bits: a longer time comes out as a short one.
    pub const LONGEST: Duration = Duration::from_micros(u32::MAX as u64);

    /// How long the tasks stood still: from the first that was stopped until they went on or were killed. What the caller did
    /// in `post-dump` is in it.
    pub fn stood_still(&self) -> Duration {
        self.freezing + self.frozen
    }

    /// Reads `stats-dump` in CRIU's work directory (the images' directory if no other was given).
    ///
    /// # Errors
    /// `NotFound` by the source's errno if there is none, `InvalidArchive` if it is damaged.
    pub fn read(dir: BorrowedFd<'_>) -> Result<Self> {
        Self::parse(open_image(dir, "stats-dump")?).context(|| "read stats-dump")
    }

    /// Reads the bytes of a `stats-dump` image.
    ///
    /// # Errors
    /// `InvalidArchive` if they are no such image.
    pub fn parse(bytes: impl Read) -> Result<Self> {
        let image = parse(bytes)?;
        let dump = image.dump.into_option().ok_or_else(|| damaged("it holds no dump statistics"))?;
        Ok(Self {
            freezing: micros(dump.freezing_time),
            frozen: micros(dump.frozen_time),
            memory_dump: micros(dump.memdump_time),
            memory_write: micros(dump.memwrite_time),
            pages_scanned: dump.pages_scanned.unwrap_or(0),
            pages_skipped_parent: dump.pages_skipped_parent.unwrap_or(0),
            pages_written: dump.pages_written.unwrap_or(0),
            pages_lazy: dump.pages_lazy.unwrap_or(0),
        })
    }
}

impl RestoreStats {
    /// The name of the image, which CRIU writes when the restored processes run.
    pub const FILE: &str = "stats-restore";

    /// Reads it in CRIU's work directory.
    ///
    /// # Errors
    /// As [`DumpStats::read`].
    pub fn read(dir: BorrowedFd<'_>) -> Result<Self> {
        Self::parse(open_image(dir, Self::FILE)?).context(|| format!("read {}", Self::FILE))
    }

    /// Reads the bytes of a `stats-restore` image.
    ///
    /// # Errors
    /// As [`DumpStats::parse`].
    pub fn parse(bytes: impl Read) -> Result<Self> {
        let image = parse(bytes)?;
        let restore = image.restore.into_option().ok_or_else(|| damaged("it holds no restore statistics"))?;
        Ok(Self {
            forking: micros(restore.forking_time),
            restoring: micros(restore.restore_time),
            pages_compared: restore.pages_compared.unwrap_or(0),
            pages_skipped_cow: restore.pages_skipped_cow.unwrap_or(0),
            pages_restored: restore.pages_restored.unwrap_or(0),
        })
    }
}

fn micros(value: Option<u32>) -> Duration {
    Duration::from_micros(value.unwrap_or(0).into())
}

fn parse(bytes: impl Read) -> Result<StatsImage> {
    Image::read(bytes, Kind::Stats)?.next()?.ok_or_else(|| damaged("it is cut off"))
}

fn damaged(why: &'static str) -> Error {
    Error::new(ErrorKind::InvalidArchive, format!("not an image of statistics: {why}"))
}

fn open_image(dir: BorrowedFd<'_>, name: &str) -> Result<File> {
    open(dir, name)?.ok_or(Errno::ENOENT).context(|| format!("open {name}"))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::super::written;
    use super::*;

    fn image(message: &[u8]) -> Vec<u8> {
        written(Kind::Stats, &[message])
    }

    /// Field 1 (dump) with freezing 300 µs, frozen 45000 µs, pages_written 12, pages_lazy 3.
    const DUMP: &[u8] = &[0x0a, 0x0b, 0x08, 0xac, 0x02, 0x10, 0xc8, 0xdf, 0x02, 0x38, 0x0c, 0x48, 0x03];

    #[test]
    fn a_dump_image_gives_its_times_and_pages() {
        let stats = DumpStats::parse(&image(DUMP)[..]).expect("a good image");
        let expected = DumpStats {
            freezing: Duration::from_micros(300),
            frozen: Duration::from_millis(45),
            pages_written: 12,
            pages_lazy: 3,
            ..DumpStats::default()
        };
        assert_eq!(stats, expected);
        assert_eq!(stats.stood_still(), Duration::from_micros(45_300));
    }

    #[test]
    fn a_restore_image_gives_its_times() {
        let stats = RestoreStats::parse(&image(&[0x12, 0x05, 0x18, 0x05, 0x20, 0xac, 0x02])[..])
            .expect("a good image");
        assert_eq!(stats.forking, Duration::from_micros(5));
        assert_eq!(stats.restoring, Duration::from_micros(300));
    }

    #[test]
    fn damaged_images_are_refused_at_every_length() {
        let good = image(DUMP);
        for end in 0..good.len() {
            let error = DumpStats::parse(&good[..end]).expect_err("cut off");
            assert_eq!(error.kind(), ErrorKind::InvalidArchive, "{end}");
        }
        let mut foreign = good.clone();
        foreign[0] ^= 1;
        assert!(DumpStats::parse(&foreign[..]).is_err());
        let mut huge = good.clone();
        huge[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(DumpStats::parse(&huge[..]).is_err());
        assert!(DumpStats::parse(&image(&[0x0a, 0x7f, 0x08])[..]).is_err());
        assert!(DumpStats::parse(&image(&[])[..]).is_err());
        assert!(RestoreStats::parse(&good[..]).is_err());
    }

    #[test]
    fn an_image_is_read_from_its_directory() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let fd = File::open(dir.path()).expect("open it");
        let error = DumpStats::read(fd.as_fd()).expect_err("there is none");
        assert!(error.is_errno(libc::ENOENT));
        std::fs::write(dir.path().join("stats-dump"), image(DUMP)).expect("write it");
        assert_eq!(DumpStats::read(fd.as_fd()).expect("read it").pages_written, 12);
    }
}
