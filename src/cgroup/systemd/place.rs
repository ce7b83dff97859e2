// SPDX-License-Identifier: Apache-2.0
//! The name of a container's unit and its place among systemd's slices, from `linux.cgroupsPath` and its id. Pure.
//!
//! | `linux.cgroupsPath` | unit | slice |
//! |---|---|---|
//! | absent | `runc-ID.scope` | `system.slice`, of a user's manager `user.slice` |
//! | `SLICE:PREFIX:NAME` | `PREFIX-NAME.scope` | SLICE, or as above if it is empty |
//! | `SLICE:PREFIX:NAME.slice` | `NAME.slice` | the name says it |

use std::path::{Path, PathBuf};

use super::unit::Manager;
use crate::{Error, ErrorKind, Result};

/// systemd's limit of a unit's name.
const LONGEST_NAME: usize = 255;

/// A unit and the slice that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) unit: String,
    pub(super) slice: String,
    /// The name for people.
    pub(super) name: String,
}

impl Place {
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]: the path has another form, or what is in it cannot be a name of systemd's.
    pub(super) fn of(cgroups_path: Option<&Path>, id: &str, manager: Manager) -> Result<Self> {
        let path = cgroups_path.unwrap_or(Path::new(""));
        let bad = |why: String| Error::new(ErrorKind::InvalidConfig, why);
        let text =
            path.to_str().ok_or_else(|| bad(format!("linux.cgroupsPath is not text: {}", path.display())))?;
        let default_slice = match manager {
            Manager::System => "system.slice",
            Manager::User => "user.slice",
        };
        let (slice, prefix, name) = if text.is_empty() {
            ("", "runc", id)
        } else {
            let parts: Vec<&str> = text.split(':').collect();
            let &[slice, prefix, name] = parts.as_slice() else {
                let message = format!(
                    "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \"{text}\" instead"
                );
                return Err(bad(message).with_hint(
                    "without --systemd-cgroup, linux.cgroupsPath is a path in the cgroup filesystem",
                ));
            };
            (slice, prefix, name)
        };
        let unit = if name.ends_with(".slice") { name.to_owned() } else { format!("{prefix}-{name}.scope") };
        let letters = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        if name.is_empty() || unit.len() > LONGEST_NAME || !unit.chars().all(letters) {
            let message = format!("linux.cgroupsPath {text:?} gives the unit the name {unit:?}");
            return Err(bad(message).with_hint(
                "a unit's name has at most 255 letters, digits and characters of \":-_.\\@\": choose another",
            ));
        }
        let slice = if slice.is_empty() { default_slice } else { slice };
        let place = Self { unit, slice: slice.to_owned(), name: name.to_owned() };
        place.path()?;
        Ok(place)
    }

    pub(super) fn is_slice(&self) -> bool {
        self.unit.ends_with(".slice")
    }

    /// Where the unit's cgroup is beneath that of the manager.
    pub(super) fn path(&self) -> Result<PathBuf> {
        if self.is_slice() { expand(&self.unit) } else { Ok(expand(&self.slice)?.join(&self.unit)) }
    }
}

/// `a-b.slice` lies in `a.slice`; `-.slice` is the top.
fn expand(slice: &str) -> Result<PathBuf> {
    let invalid = || {
        Error::new(ErrorKind::InvalidConfig, format!("invalid slice name: {slice}"))
            .with_hint("a slice is called like \"a.slice\", or \"a-b.slice\" for one inside of it")
    };
    let name = slice.strip_suffix(".slice").filter(|name| !name.contains('/')).ok_or_else(invalid)?;
    let mut path = PathBuf::new();
    if name == "-" {
        return Ok(path);
    }
    let mut prefix = String::new();
    for component in name.split('-') {
        if component.is_empty() || component.chars().any(char::is_control) {
            return Err(invalid());
        }
        prefix.push_str(component);
        path.push(format!("{prefix}.slice"));
        prefix.push('-');
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        for (path, unit, slice, directory) in [
            ("", "runc-web.scope", "system.slice", "system.slice/runc-web.scope"),
            ("a.slice:p:n", "p-n.scope", "a.slice", "a.slice/p-n.scope"),
            (":p:n", "p-n.scope", "system.slice", "system.slice/p-n.scope"),
            ("-.slice:p:n", "p-n.scope", "-.slice", "p-n.scope"),
            (
                "kubepods-burstable-pod1.slice:cri-containerd:c0",
                "cri-containerd-c0.scope",
                "kubepods-burstable-pod1.slice",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-c0.scope",
            ),
            ("system.slice::n", "-n.scope", "system.slice", "system.slice/-n.scope"),
            (
                "system.slice:x:system-pod.slice",
                "system-pod.slice",
                "system.slice",
                "system.slice/system-pod.slice",
            ),
        ] {
            let place = Place::of(Some(Path::new(path)), "web", Manager::System).expect(path);
            assert_eq!((place.unit.as_str(), place.slice.as_str()), (unit, slice), "{path}");
            assert_eq!(place.path().expect(path), Path::new(directory), "{path}");
        }
        let user = Place::of(None, "web", Manager::User).expect("valid");
        assert_eq!(user.path().expect("valid"), Path::new("user.slice/runc-web.scope"));
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for (path, why) in [
            ("/a/b", "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups"),
            ("a.slice:n", "expected cgroupsPath"),
            ("a.slice:p:n:m", "expected cgroupsPath"),
            ("a:p:n", "invalid slice name: a"),
            (".slice:p:n", "invalid slice name"),
            ("a--b.slice:p:n", "invalid slice name"),
            ("-a.slice:p:n", "invalid slice name"),
            ("a/b.slice:p:n", "invalid slice name"),
            ("a.slice:p:", "the name \"p-.scope\""),
            ("a.slice:p:x/../y", "gives the unit the name"),
            ("a.slice:p:x y", "gives the unit the name"),
            ("a.slice:p:-.-.slice", "invalid slice name"),
        ] {
            let error = Place::of(Some(Path::new(path)), "web", Manager::System).expect_err(path);
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{path}");
            assert!(error.to_string().contains(why), "{path}: {error}");
        }
    }
}
