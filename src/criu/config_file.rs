// SPDX-License-Identifier: Apache-2.0
//! Options of CRIU that no flag has, from a file (criu(8), "CONFIGURATION FILES").

use std::path::{Path, PathBuf};

/// The annotation that names a container's own file.
pub const CONFIG_ANNOTATION: &str = "org.criu.config";

/// The file for containers that name none, as runc has it.
const DEFAULT: &str = "/etc/criu/runc.conf";

/// The file whose options come on top of those of the request: the one that the container's annotation names, and
/// none if that is empty; without an annotation the machine's, where there is one.
pub fn config_file(annotation: Option<&str>) -> Option<PathBuf> {
    choose(annotation, Path::new(DEFAULT))
}

fn choose(annotation: Option<&str>, default: &Path) -> Option<PathBuf> {
    match annotation {
        Some(path) => Some(path).filter(|path| !path.is_empty()).map(PathBuf::from),
        None => default.is_file().then(|| default.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotation_goes_before_the_machines_file() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let default = dir.path().join("runc.conf");
        assert_eq!(choose(None, &default), None);
        std::fs::write(&default, "").expect("write");
        assert_eq!(choose(None, &default), Some(default.clone()));
        assert_eq!(choose(Some("/own.conf"), &default), Some("/own.conf".into()));
        assert_eq!(choose(Some(""), &default), None);
    }
}
