// SPDX-License-Identifier: Apache-2.0
//! The configuration that a container was created with, read again only when it has changed on disk (`update`).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::state::{CONFIG, load_config};
use crate::spec::Config;
use crate::{Context, Result};

/// Inode, and when it was last changed in seconds and nanoseconds: the file is only ever replaced by rename.
type Version = (u64, i64, i64);

/// What was read last, and of which file.
#[derive(Debug, Default)]
pub(super) struct SavedConfig(Mutex<Option<(Version, Arc<Config>)>>);

impl SavedConfig {
    /// The configuration in a container's directory.
    pub(super) fn read(&self, dir: &Path) -> Result<Arc<Config>> {
        let path = dir.join(CONFIG);
        let file = fs::metadata(&path).context(|| format!("stat {}", path.display()))?;
        let version = (file.ino(), file.ctime(), file.ctime_nsec());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((at, config)) if *at == version => Ok(Arc::clone(config)),
            _ => {
                let config = Arc::new(load_config(dir)?);
                *known = Some((version, Arc::clone(&config)));
                Ok(config)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::save_config;
    use super::*;

    #[test]
    fn a_replaced_configuration_is_read_anew() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let saved = SavedConfig::default();
        saved.read(dir.path()).expect_err("there is none");
        save_config(dir.path(), br#"{"ociVersion": "1.0.0"}"#).expect("write");
        let first = saved.read(dir.path()).expect("read");
        assert!(Arc::ptr_eq(&first, &saved.read(dir.path()).expect("read")), "as it was");
        save_config(dir.path(), br#"{"ociVersion": "1.0.1"}"#).expect("write");
        assert_eq!(saved.read(dir.path()).expect("read").spec.version(), "1.0.1");
    }
}
