// SPDX-License-Identifier: Apache-2.0
//! The stage of one test: a directory, a name that nothing else on the machine uses, and the lock that lets one test at a
//! time work (with several dumps in parallel on a small machine CRIU itself reports errors that are none).

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

use crate::host::Host;
use crate::requirements::{Need, unfit_machine};

/// What one test works with.
#[derive(Debug)]
pub struct Stage {
    directory: TempDir,
    tag: String,
    _turn: Flock<File>,
}

impl Stage {
    /// Waits for the test's turn and makes the stage; `None` when the machine lacks something, which is said on stderr.
    ///
    /// # Panics
    /// When the machine lacks something and `MIGRATE_TEST_ALL` says that every test must run: `1`, or `vm`, which is said
    /// in a virtual machine and includes what only such a one has.
    pub fn set(needs: &[Need]) -> Option<Self> {
        let all = std::env::var("MIGRATE_TEST_ALL").unwrap_or_default();
        let must_run = match all.as_str() {
            "vm" => !needs.iter().any(|need| need.is_of_some_machines()),
            "1" => !needs.iter().any(|need| need.is_of_a_virtual_machine() || need.is_of_some_processors()),
            _ => false,
        };
        let missing = unfit_machine().or_else(|| needs.iter().find_map(|n| n.missing()));
        if let Some(why) = missing {
            assert!(!must_run, "this test must run, but {why}");
            // With stderr closed nobody is there to read the reason.
            let _ = writeln!(std::io::stderr(), "ignored, because {why}");
            return None;
        }
        let turn =
            File::create(std::env::temp_dir().join("migrate-criu-tests.lock")).expect("create the lock file");
        let turn = Flock::lock(turn, FlockArg::LockExclusive).map_err(|(_, e)| e).expect("flock");
        let directory = tempfile::Builder::new().prefix("mtest-").tempdir().expect("make a directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let name = directory.path().file_name().and_then(|n| n.to_str()).expect("a name of our own making");
        Some(Self { tag: name.to_owned(), directory, _turn: turn })
    }

    /// A new host.
    pub fn host(&self, name: &str) -> Host {
        Host::new(self.path(name), &self.tag)
    }

    /// A path on neither host, for what goes from one to the other.
    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).into_os_string().into_string().expect("a path of our own making")
    }

    /// A container id that nothing else on this machine uses: hosts of one kernel share the cgroup tree.
    pub fn id(&self, name: &str) -> String {
        format!("{}-{name}", self.tag)
    }
}
