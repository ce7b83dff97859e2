// SPDX-License-Identifier: Apache-2.0
//! Where a checkpoint found the mounts of the host that the configuration does not name: `host-mounts.json` beside CRIU's
//! images. A restore cannot make them by itself, but can say what they were.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

use super::image_files;
use crate::{Context, Error, ErrorKind, Result};

const FILE: &str = "host-mounts.json";

const SCHEMA: u32 = 1;

/// More than all mounts that the kernel allows need.
const LIMIT: u64 = 64 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    schema: u32,
    /// Name in the images → path on the host of the checkpoint.
    mounts: BTreeMap<String, String>,
}

/// Writes them into an image directory: name in the images → path on the host. Without any there is no file.
///
/// # Errors
/// When it cannot be written, or one of an earlier checkpoint not removed.
pub fn write(images: BorrowedFd<'_>, mounts: BTreeMap<String, String>) -> Result<()> {
    if mounts.is_empty() {
        return image_files::remove(images, FILE);
    }
    let bytes = serde_json::to_vec(&Record { schema: SCHEMA, mounts });
    image_files::write(images, FILE, &bytes.context(|| "serialise the host's mounts")?)
}

/// Reads them from an image directory.
///
/// # Errors
/// [`ErrorKind::InvalidArchive`] when the file is not what [`write`] writes.
pub fn read(images: BorrowedFd<'_>) -> Result<BTreeMap<String, String>> {
    let Some(bytes) = image_files::read(images, FILE, LIMIT)? else { return Ok(BTreeMap::new()) };
    let record: Record = serde_json::from_slice(&bytes)
        .context_kind(ErrorKind::InvalidArchive, || format!("understand {FILE}"))?;
    match record.schema {
        SCHEMA => Ok(record.mounts),
        other => Err(Error::new(
            ErrorKind::InvalidArchive,
            format!("{FILE} has schema {other}, this program knows {SCHEMA}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_file_reads_back_and_a_bad_one_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fd = File::open(dir.path()).expect("open");
        assert_eq!(read(fd.as_fd()).expect("none"), BTreeMap::new());
        let mounts = BTreeMap::from([("/data".to_owned(), "/srv/data".to_owned())]);
        write(fd.as_fd(), mounts.clone()).expect("write");
        assert_eq!(read(fd.as_fd()).expect("read"), mounts);
        write(fd.as_fd(), BTreeMap::new()).expect("remove");
        assert!(!dir.path().join(FILE).exists(), "that of an earlier checkpoint is gone");
        for bad in ["[1,2]", r#"{"schema":2,"mounts":{}}"#, ""] {
            std::fs::write(dir.path().join(FILE), bad).expect("write");
            assert_eq!(read(fd.as_fd()).expect_err(bad).kind(), ErrorKind::InvalidArchive);
        }
    }
}
