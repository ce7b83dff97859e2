// SPDX-License-Identifier: Apache-2.0
//! What must not be left: processes, mounts, cgroups, state, unfinished files.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::host::Host;
use crate::wait::{PATIENCE, wait_until};

impl Host {
    /// Asserts that nothing of any container is left on the host. Files that the test itself asked for may stay; the
    /// bundles are the test's own.
    ///
    /// # Panics
    /// When something is left.
    #[track_caller]
    pub fn assert_no_trace(&self) {
        assert!(self.container_ids().is_empty(), "left in the state root: {:?}", self.container_ids());
        // What was killed may still be on its way out; nothing else starts any more.
        wait_until(PATIENCE, "no process is left", || match self.processes() {
            none if none.is_empty() => Ok(()),
            some => Err(some),
        });
        let table = self.mountinfo();
        let mounts: Vec<&str> =
            table.lines().filter(|l| l.contains(self.directory()) || l.contains(".criu.")).collect();
        assert!(mounts.is_empty(), "left mounted: {mounts:#?}");
        let cgroups = self.cgroups();
        assert!(cgroups.is_empty(), "left cgroups: {cgroups:#?}");
        let unfinished = files_below(Path::new(self.directory()), &|name| name.contains(".partial"));
        assert!(unfinished.is_empty(), "left unfinished: {unfinished:#?}");
    }

    /// Every file in the host's directory, that of its state root among them.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = files_below(Path::new(self.directory()), &|_| true);
        files.sort();
        files
    }

    /// The cgroups of the containers of this test, of any host.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        cgroups_of(self.tag())
    }
}

/// Lets go of what a test has left frozen, which could not be killed else.
pub(crate) fn thaw_cgroups(tag: &str) {
    for directory in cgroups_of(tag) {
        // There is one of these, or none.
        let _ = fs::OpenOptions::new()
            .write(true)
            .open(directory.join("freezer.state"))
            .and_then(|mut file| file.write_all(b"THAWED"));
        let _ = fs::OpenOptions::new()
            .write(true)
            .open(directory.join("cgroup.freeze"))
            .and_then(|mut file| file.write_all(b"0"));
    }
}

/// Removes the cgroups of a test whose processes are all dead, the deepest first.
pub(crate) fn remove_cgroups(tag: &str) {
    for directory in cgroups_of(tag).into_iter().rev() {
        // Another host of the same test may still use it; that one's end will remove it.
        let _ = fs::remove_dir(directory);
    }
}

/// The cgroups of containers to which nobody has given a parent: those that Podman restores from others' archives.
const DEFAULT_PARENT: &str = "libpod_parent";

/// Those that there are.
pub(crate) fn default_parents() -> Vec<PathBuf> {
    cgroups_of(DEFAULT_PARENT)
}

/// Removes those that there were not yet `before`, when their processes are all dead.
pub(crate) fn remove_default_parents(before: &[PathBuf]) {
    for directory in default_parents().into_iter().rev().filter(|directory| !before.contains(directory)) {
        // As above; and another Podman on the machine may have come to use it.
        let _ = fs::remove_dir(directory);
    }
}

/// Cgroup directories whose name holds `tag`, and those below them; parents come before their children.
fn cgroups_of(tag: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![(PathBuf::from("/sys/fs/cgroup"), false)];
    while let Some((directory, inside)) = todo.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                let ours = inside || entry.file_name().to_string_lossy().contains(tag);
                if ours {
                    found.push(entry.path());
                }
                todo.push((entry.path(), ours));
            }
        }
    }
    found
}

fn files_below(directory: &Path, wanted: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if wanted(&entry.file_name().to_string_lossy()) {
            found.push(entry.path());
        }
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.extend(files_below(&entry.path(), wanted));
        }
    }
    found
}
