// SPDX-License-Identifier: Apache-2.0
//! Asks the host: its kernel, its `/proc`, and the CRIU that would be used.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use super::{Found, HostFacts, PROGRAMS};
use crate::cgroup::{Hierarchies, Version as CgroupVersion};
use crate::criu::{Criu, CriuClient, Kernel, SpawnOptions, search_path};
use crate::sys::command::{Ending, ShortCommand};
use crate::sys::namespace::in_private_mount_namespace;
use crate::{Error, sys};

/// `criu check` looks at one feature only; longer than this it hangs.
const PATIENCE: Duration = Duration::from_secs(10);
/// A library of this name is in the memory of a CRIU that is linked to libraries at all.
const ALWAYS_LINKED: &str = "libprotobuf-c";

impl HostFacts {
    /// Finds all of it out. CRIU is started twice, for some 100 ms.
    pub fn gather(criu: Option<&Path>) -> Self {
        let hierarchies = Hierarchies::detect().ok();
        let freezer = hierarchies.as_ref().is_some_and(|all| {
            all.with_controller("freezer").is_some() || all.iter().all(|h| h.version() == CgroupVersion::V2)
        });
        let mut lsm = Vec::new();
        if sys::apparmor::is_enabled(Path::new("/")) {
            lsm.push("AppArmor");
        }
        if sys::selinux::is_enabled().unwrap_or(false) {
            lsm.push("SELinux");
        }
        Self {
            root: nix::unistd::geteuid().is_root(),
            release: sys::proc::kernel_release().unwrap_or_else(|_| "unknown".to_owned()),
            kernel: Kernel::running(),
            criu: find(criu),
            userfaultfd: sys::memory_tracking::userfaultfd()
                .map(|found| found.write_protect_async)
                .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or_default())),
            pagemap_scan: sys::memory_tracking::can_scan_pages().unwrap_or(false),
            pipe_max_size: sys::proc::pipe_max_size().ok(),
            capabilities: sys::proc::effective_capabilities().unwrap_or(0),
            run_is_tmpfs: statfs("/run").is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC),
            programs: PROGRAMS.map(|(name, _)| (name, is_in_path(name))).to_vec(),
            lsm,
            cgroups: hierarchies.map(|all| all.layout()),
            freezer,
        }
    }
}

fn is_in_path(name: &str) -> bool {
    std::env::split_paths(&search_path()).any(|directory| directory.join(name).is_file())
}

fn find(explicit: Option<&Path>) -> Found {
    let unusable = |error: &Error| Found::Unusable(error.chain(), error.hint().map(str::to_owned));
    let criu = match Criu::find(explicit) {
        Ok(criu) => criu,
        Err(error) => return unusable(&error),
    };
    // What CRIU mounts or is given to know stays in a mount namespace that nobody else sees.
    let asked = in_private_mount_namespace(|mounts| {
        let mut client = CriuClient::spawn(&criu, SpawnOptions::default())?;
        client.reuse_kernel_facts(mounts);
        let version = client.version();
        let bpf = libraries(client.pid()).map(|linked| linked.contains("libbpf"));
        let features = client.features().map_err(|error| error.chain());
        Ok((version, features, bpf))
    });
    // Without the right to make a mount namespace there is none to be protected.
    let asked = asked.unwrap_or_else(|_| {
        let mut client = CriuClient::spawn(&criu, SpawnOptions::default())?;
        Ok((client.version(), client.features().map_err(|error| error.chain()), None))
    });
    match asked {
        Err(error) => unusable(&error),
        Ok((version, features, bpf)) => {
            let nftables = has_nftables(criu.path());
            Found::Answers { path: criu.path().to_owned(), version, features, nftables, bpf }
        }
    }
}

/// What the program has mapped; `None` if it is not linked to libraries.
fn libraries(pid: i32) -> Option<String> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    maps.contains(ALWAYS_LINKED).then_some(maps)
}

/// Asks CRIU whether it can lock connections with nftables: that takes its own build and the kernel.
fn has_nftables(criu: &Path) -> Option<bool> {
    let command = ShortCommand {
        path: criu.to_owned(),
        args: [criu.as_os_str(), "check".as_ref(), "--feature".as_ref(), "network_lock_nftables".as_ref()]
            .map(OsString::from)
            .to_vec(),
        environment: None,
        directory: Some("/".into()),
        input: &[],
        timeout: Some(PATIENCE),
    };
    match sys::command::run(&command).ok()?.ending {
        Ending::Exit(code) => Some(code == 0),
        Ending::Signal(_) | Ending::TimedOut => None,
    }
}
