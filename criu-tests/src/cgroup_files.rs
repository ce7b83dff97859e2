// SPDX-License-Identifier: Apache-2.0
//! A container's cgroup files, under whichever name the machine's version has for them.

use std::fs;
use std::path::PathBuf;

use crate::host::Host;

impl Host {
    /// The file of this test's container `id`: of cgroup v1, else of v2.
    ///
    /// # Panics
    /// When there is neither.
    #[track_caller]
    pub fn cgroup_file(&self, id: &str, v1: &str, v2: &str) -> PathBuf {
        let groups = self.cgroups();
        let own = groups.iter().filter(|group| group.ends_with(id));
        let mut files = [v1, v2].into_iter().flat_map(|file| own.clone().map(move |group| group.join(file)));
        files
            .find(|file| file.exists())
            .unwrap_or_else(|| panic!("{id} has neither {v1} nor {v2} in {groups:?}"))
    }

    /// What that file holds, without white space around it.
    ///
    /// # Panics
    /// When it cannot be read.
    #[track_caller]
    pub fn cgroup_value(&self, id: &str, v1: &str, v2: &str) -> String {
        let file = self.cgroup_file(id, v1, v2);
        fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).trim().to_owned()
    }
}
