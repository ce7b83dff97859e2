// SPDX-License-Identifier: Apache-2.0
//! Pipes, message queues, semaphores, shared memory segments.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;

use super::held::{content, same_bytes};
use super::{Made, made};
use crate::lifecycle::{During as _, expect_eq};

super::exhibits![pipe_with_data];

/// Bytes that nobody has read yet.
fn pipe_with_data() -> Made {
    let (reader, writer) = std::io::pipe().during("pipe")?;
    let (mut reader, mut writer) = (File::from(OwnedFd::from(reader)), File::from(OwnedFd::from(writer)));
    let held = content(6000);
    writer.write_all(&held).during("write")?;
    made(move || {
        let mut bytes = vec![0; held.len()];
        reader.read_exact(&mut bytes).during("read")?;
        same_bytes(&bytes, &held)?;
        writer.write_all(&held).during("write")?;
        expect_eq(
            "size",
            nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_GETPIPE_SZ).during("F_GETPIPE_SZ")?,
            65536,
        )
    })
}
