// SPDX-License-Identifier: Apache-2.0
//! Objects that CRIU does not carry: held and verified as the others, so that a failed checkpoint is seen not to have
//! harmed them.

use super::{Made, made, sys};
use crate::lifecycle::{During as _, expect_eq};

super::exhibits![io_uring];

/// A submission and a completion ring.
fn io_uring() -> Made {
    let ring = sys::limits::io_uring(8).during("io_uring_setup")?;
    made(move || {
        let is = std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&ring)));
        expect_eq("descriptor", is.during("readlink")?.to_string_lossy().as_ref(), "anon_inode:[io_uring]")
    })
}
