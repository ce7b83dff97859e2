// SPDX-License-Identifier: Apache-2.0
//! Where a container's cgroup lies in a hierarchy, from `linux.cgroupsPath` and its id. Pure.
//!
//! | `linux.cgroupsPath` | v1 | v2 |
//! |---|---|---|
//! | absolute | from the top of the hierarchy | from the top |
//! | relative | beneath our own cgroup | beside our own cgroup |
//! | absent | `<id>` beneath our own cgroup | `<id>` beside our own cgroup |
//!
//! "Beside" on v2: our own cgroup holds processes, and a v2 cgroup with processes cannot give controllers to cgroups
//! beneath it (cgroups(7), "no internal processes").

use std::path::{Component, Path, PathBuf};

use super::hierarchy::{Hierarchy, Version};
use crate::{Error, ErrorKind, Result};

/// The container's directory relative to the mount point of `hierarchy`: at least one ordinary component.
///
/// # Errors
/// The path or the id climbs out of its start, is empty, or cannot be a path.
pub(super) fn place(hierarchy: &Hierarchy, cgroups_path: Option<&Path>, id: &str) -> Result<PathBuf> {
    let base = match hierarchy.version() {
        Version::V1 => hierarchy.own(),
        Version::V2 => hierarchy.own().parent().unwrap_or(Path::new("")),
    };
    match cgroups_path.filter(|path| !path.as_os_str().is_empty()) {
        None => Ok(base.join(single_name(id)?)),
        Some(path) if path.is_absolute() => clean(path),
        Some(path) => Ok(base.join(clean(path)?)),
    }
}

fn single_name(id: &str) -> Result<&str> {
    let mut components = Path::new(id).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(name)), None) if name == id && !id.contains('\0') => Ok(id),
        _ => {
            Err(Error::new(ErrorKind::InvalidInput, format!("the container id {id:?} cannot name a cgroup")))
        }
    }
}

/// Resolves `.` and `..` by text; the result is relative.
fn clean(path: &Path) -> Result<PathBuf> {
    let refuse = |why: &str| {
        Err(Error::new(ErrorKind::InvalidConfig, format!("linux.cgroupsPath {} {why}", path.display())))
    };
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir if !cleaned.pop() => return refuse("climbs above its start"),
            _ => {}
        }
    }
    if cleaned.as_os_str().is_empty() {
        return refuse("names no cgroup beneath its start");
    }
    if cleaned.as_os_str().as_encoded_bytes().iter().any(|b| matches!(b, b'\0' | b'\n')) {
        return refuse("holds a control character");
    }
    Ok(cleaned)
}

#[cfg(test)]
mod tests {
    use super::super::hierarchy::Hierarchies;
    use super::super::hierarchy::tests::{HYBRID_CGROUPS, HYBRID_MOUNTS, UNIFIED_MOUNTS};
    use super::*;

    #[test]
    fn places() {
        let hybrid = Hierarchies::parse(HYBRID_MOUNTS, HYBRID_CGROUPS).expect("recorded");
        let unified =
            Hierarchies::parse(UNIFIED_MOUNTS, "0::/user.slice/session-1.scope\n").expect("recorded");
        let memory = hybrid.with_controller("memory").expect("mounted");
        let v2 = unified.with_controller("").expect("mounted");
        for (path, on_memory, on_v2) in [
            (None, "jobs/d302/web", "user.slice/web"),
            (Some(""), "jobs/d302/web", "user.slice/web"),
            (Some("/a/b"), "a/b", "a/b"),
            (Some("//a/./x/../b/"), "a/b", "a/b"),
            (Some("a/b"), "jobs/d302/a/b", "user.slice/a/b"),
            (Some("./a"), "jobs/d302/a", "user.slice/a"),
        ] {
            let path = path.map(Path::new);
            assert_eq!(place(memory, path, "web").expect("valid"), Path::new(on_memory), "{path:?}");
            assert_eq!(place(v2, path, "web").expect("valid"), Path::new(on_v2), "{path:?}");
        }
        for path in ["/", ".", "..", "/..", "a/..", "../x", "/a/../../b", "a/../../b", "a\nb", "a\0b"] {
            let error = place(memory, Some(Path::new(path)), "web").expect_err(path);
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{path}");
            assert!(error.to_string().starts_with("linux.cgroupsPath "), "{error}");
        }
        for id in ["", ".", "..", "a/b", "/a", "a/", "a\0"] {
            assert_eq!(place(memory, None, id).expect_err(id).kind(), ErrorKind::InvalidInput, "{id}");
        }
    }
}
