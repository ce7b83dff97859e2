// SPDX-License-Identifier: Apache-2.0
//! Options of CRIU that no flag has, from a file (criu(8), "CONFIGURATION FILES").

use std::path::{Path, PathBuf};

use super::InheritedFd;
use crate::{Context, Result};

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

/// A file of options with which CRIU hands out memory through this socket, and those that are in `further`. A request alone cannot have
/// it so (criu/cr-service.c).
///
/// # Errors
/// When `further` cannot be read.
pub fn lazy_socket(socket: InheritedFd, further: Option<&Path>) -> Result<Vec<u8>> {
    let read = |path: &Path| std::fs::read(path).context(|| format!("read {}", path.display()));
    let mut options = further.map(read).transpose()?.unwrap_or_default();
    options.extend(format!("\nps-socket {}\n", socket.0).into_bytes());
    Ok(options)
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

    #[test]
    fn a_socket_comes_after_what_else_is_wanted() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("own.conf");
        std::fs::write(&file, "log-level 4").expect("write");
        let options = lazy_socket(InheritedFd(9), Some(&file)).expect("readable");
        assert_eq!(options, b"log-level 4\nps-socket 9\n");
        assert_eq!(lazy_socket(InheritedFd(9), None).expect("nothing else"), b"\nps-socket 9\n");
        std::fs::remove_file(&file).expect("remove");
        lazy_socket(InheritedFd(9), Some(&file)).expect_err("it is gone");
    }
}
