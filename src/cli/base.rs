// SPDX-License-Identifier: Apache-2.0
//! The files that a root filesystem differs from, as they are named on the command line: a directory, or an image in a layout
//! of the OCI, which is unpacked for as long as the command needs it.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use super::progress::Bar;
use crate::registry::{Reference, unpack_image};
use crate::{Context, Error, Result};

/// What a name of files means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BaseArg {
    Directory(PathBuf),
    Image(Reference),
}

impl FromStr for BaseArg {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.starts_with("oci:") {
            text.parse().map(Self::Image)
        } else {
            Ok(Self::Directory(text.into()))
        }
    }
}

impl BaseArg {
    /// Makes a directory of it.
    pub(super) fn directory(&self) -> Result<BaseDirectory> {
        let image = match self {
            Self::Directory(path) => return Ok(BaseDirectory { path: path.clone(), unpacked: None }),
            Self::Image(image) => image,
        };
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
        // On a disk: `/tmp` is memory on some machines.
        let named = std::env::var_os("TMPDIR").filter(|name| !name.is_empty());
        let around = named.map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let around = around.join(format!("migrate-base-{}-{nanos}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&around).context(|| format!("make {}", around.display()))?;
        let directory = BaseDirectory { path: around.join("rootfs"), unpacked: Some(around) };
        let path = directory.path();
        fs::DirBuilder::new().mode(0o755).create(path).context(|| format!("make {}", path.display()))?;
        unpack_image(image, path, &mut Bar::new("unpacking the base"))?;
        Ok(directory)
    }
}

/// A directory with those files. What was unpacked for it goes with this.
#[derive(Debug)]
pub(super) struct BaseDirectory {
    path: PathBuf,
    unpacked: Option<PathBuf>,
}

impl BaseDirectory {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BaseDirectory {
    fn drop(&mut self) {
        if let Some(path) = &self.unpacked
            && let Err(error) = fs::remove_dir_all(path)
        {
            tracing::warn!("{} stays: {error}", path.display());
        }
    }
}
