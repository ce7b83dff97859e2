// SPDX-License-Identifier: Apache-2.0
//! Where the programs are: the binary under test and the workloads, beside the running test.

use std::path::PathBuf;

/// The binary under test: `$MIGRATE_BIN`, else the one that the workspace was built to.
///
/// # Panics
/// When it has not been built.
pub fn migrate() -> String {
    std::env::var("MIGRATE_BIN").unwrap_or_else(|_| built("migrate"))
}

/// The workloads.
///
/// # Panics
/// When they have not been built.
pub fn workload() -> String {
    built("workload")
}

/// The crun that scripts/setup installs beside the system.
pub fn crun() -> String {
    format!("{}/crun", crun_prefix())
}

/// Where that lies, with its libraries.
pub(crate) fn crun_prefix() -> String {
    std::env::var("MIGRATE_CRUN_PREFIX").unwrap_or_else(|_| "/opt/migrate-crun".into())
}

/// Debian's registry, which scripts/setup puts beside the system.
pub(crate) fn docker_registry() -> String {
    let prefix = std::env::var("MIGRATE_REGISTRY_PREFIX").unwrap_or_else(|_| "/opt/migrate-registry".into());
    format!("{prefix}/docker-registry")
}

/// The sshd that scripts/setup puts beside the system, and where its library is.
pub(crate) fn sshd() -> (String, String) {
    let prefix = std::env::var("MIGRATE_SSHD_PREFIX").unwrap_or_else(|_| "/opt/migrate-sshd".into());
    (format!("{prefix}/usr/sbin/sshd"), format!("{prefix}/usr/sbin"))
}

/// The checkpointctl that scripts/setup installs beside the system.
///
/// It need not be there: a test says that it needs it.
pub fn checkpointctl() -> String {
    let prefix = std::env::var("MIGRATE_CHECKPOINTCTL_PREFIX");
    format!("{}/checkpointctl", prefix.unwrap_or_else(|_| "/opt/migrate-checkpointctl".into()))
}

/// The library's example of this name.
///
/// # Panics
/// When it has not been built.
pub fn example(name: &str) -> String {
    built(&format!("example-{name}"))
}

/// A program that uses the library.
///
/// # Panics
/// When it has not been built.
pub fn embedder() -> String {
    built("embedder")
}

fn built(name: &str) -> String {
    let test = std::env::current_exe().expect("a running test has an executable");
    // target/debug/deps/some_test-0123: programs are two levels up.
    let path: PathBuf = test.ancestors().nth(2).expect("a test lies below the target directory").join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --workspace` first", path.display());
    path.into_os_string().into_string().expect("the target directory's path is UTF-8")
}
