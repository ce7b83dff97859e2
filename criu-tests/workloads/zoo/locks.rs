// SPDX-License-Identifier: Apache-2.0
//! Locks and leases: each is looked at in the kernel's list and tried by another process.

use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::held::new_file;
use super::{Child, Made, made, path};
use crate::lifecycle::{During as _, expect_eq};

super::exhibits![flock_exclusive];

/// Another open file of the same path does not get the lock, whichever way it asks.
fn flock_exclusive() -> Made {
    let at = path("locked");
    let held = Flock::lock(new_file(&at)?, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, e)| format!("flock: {e}"))?;
    let mut other = Child::start(move || {
        Ok(move |kind: &str| {
            let kind =
                if kind == "shared" { FlockArg::LockSharedNonblock } else { FlockArg::LockExclusiveNonblock };
            let got = Flock::lock(File::open(&at).during("open")?, kind).err().map(|(_, e)| e);
            Ok(format!("{got:?}"))
        })
    })?;
    made(move || {
        expect_eq("names", std::os::unix::fs::MetadataExt::nlink(&held.metadata().during("fstat")?), 1)?;
        let refused = format!("{:?}", Some(Errno::EWOULDBLOCK));
        other.expect("shared", &refused)?;
        other.expect("exclusive", &refused)
    })
}
