// SPDX-License-Identifier: Apache-2.0
//! Regular files, directories and what stands for them.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};

use nix::fcntl::OFlag;

use super::held::{content, flags_of, new_file, open, same_content};
use super::{Child, Made, made, path};
use crate::lifecycle::{During as _, expect_eq};

super::exhibits![append_only, unlinked, offset_shared_by_fork];

/// Writes go to the end wherever the offset is.
fn append_only() -> Made {
    let at = path("append");
    drop(new_file(&at)?);
    let mut file = open(&at, OFlag::O_WRONLY | OFlag::O_APPEND)?;
    let mut lines = 0_u64;
    made(move || {
        expect_eq(
            "access mode and O_APPEND",
            flags_of(&file)? & (libc::O_ACCMODE | libc::O_APPEND),
            libc::O_WRONLY | libc::O_APPEND,
        )?;
        file.rewind().during("lseek")?;
        file.write_all(&lines.to_ne_bytes()).during("write")?;
        lines += 1;
        let written = fs::read(&at).during("read")?;
        let expected: Vec<u8> = (0..lines).flat_map(u64::to_ne_bytes).collect();
        expect_eq("content", written, expected)
    })
}

/// A file that only a descriptor keeps alive.
fn unlinked() -> Made {
    let at = path("unlinked");
    let mut file = new_file(&at)?;
    file.write_all(&content(10_000)).during("write")?;
    fs::remove_file(&at).during("unlink")?;
    made(move || {
        expect_eq("offset", file.stream_position().during("lseek")?, 10_000)?;
        expect_eq("names", std::os::unix::fs::MetadataExt::nlink(&file.metadata().during("fstat")?), 0)?;
        same_content(&file, 10_000)
    })
}

/// One open file of two processes: what one reads the other does not.
fn offset_shared_by_fork() -> Made {
    let at = path("shared");
    fs::write(&at, content(256)).during("write")?;
    let mut file = File::open(&at).during("open")?;
    let mut same = file.try_clone().during("dup")?;
    let mut child = Child::start(move || {
        Ok(move |_: &str| {
            let mut byte = [0];
            same.read_exact(&mut byte).during("read")?;
            Ok(byte[0].to_string())
        })
    })?;
    let expected = content(256);
    let mut offset = 0;
    made(move || {
        expect_eq("offset", file.stream_position().during("lseek")?, offset)?;
        let at = usize::try_from(offset).during("offset")?;
        child.expect("next byte", &expected[at].to_string())?;
        let mut byte = [0];
        file.read_exact(&mut byte).during("read")?;
        expect_eq("byte after the child's", byte[0], expected[at + 1])?;
        offset = (offset + 2) % 256;
        file.seek(std::io::SeekFrom::Start(offset)).during("lseek").map(drop)
    })
}
