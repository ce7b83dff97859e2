// SPDX-License-Identifier: Apache-2.0
//! Files in the place of those that a container wrote its output to on another host: CRIU takes one only if it has the same size and
//! permissions. What was written there is not here: up to that size the file is empty space.

use std::fs::{File, Permissions};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::PermissionsExt;

use crate::criu::image::files_from_outside;
use crate::engine::descriptors;
use crate::{Context, Result};

/// Makes regular files that were given for output like those that the images name.
pub(in crate::restore) fn fit_output(images: BorrowedFd<'_>, stdio: [BorrowedFd<'_>; 3]) -> Result<()> {
    let names = descriptors::read(images)?;
    for file in files_from_outside(images).context(|| "look for files from outside in the images")? {
        let given = [1, 2]
            .into_iter()
            .find(|number| names[*number].as_bytes() == file.name)
            .map(|number| stdio[number]);
        let Some(given) = given else { continue };
        if file.mode & libc::S_IFMT == libc::S_IFREG {
            fit(given, file.mode & 0o777, file.size)
                .context(|| "prepare a file for the container's output")?;
        }
    }
    Ok(())
}

fn fit(given: BorrowedFd<'_>, mode: u32, size: u64) -> std::io::Result<()> {
    let file = File::from(given.try_clone_to_owned()?);
    if file.metadata()?.is_file() {
        file.set_permissions(Permissions::from_mode(mode))?;
        file.set_len(size)?;
    }
    Ok(())
}
