// SPDX-License-Identifier: Apache-2.0
//! The directory of programs that CRIU finds before the system's. It stays in the container's, and goes with that.

use std::fs;
use std::io::ErrorKind::{AlreadyExists, NotFound};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::engine::Container;
use crate::{Context, Result};

/// Makes the directory with this program as `tar`. Who cannot start that one, because it is gone or is not for their eyes, goes
/// on to the system's.
pub(super) fn with_tar(container: &Container, program: &Path) -> Result<PathBuf> {
    let directory = container.dir().join("programs");
    let tar = directory.join("tar");
    let attempt = || format!("make {}", tar.display());
    match fs::create_dir(&directory) {
        Err(e) if e.kind() != AlreadyExists => return Err(e).context(attempt),
        _ => {}
    }
    match fs::remove_file(&tar) {
        Err(e) if e.kind() != NotFound => return Err(e).context(attempt),
        _ => {}
    }
    symlink(program, &tar).context(attempt)?;
    Ok(directory)
}
