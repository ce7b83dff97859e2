// SPDX-License-Identifier: Apache-2.0
//! What depends on the processor. No other file of the project says `target_arch`.

#[cfg(target_arch = "aarch64")]
#[path = "aarch64.rs"]
mod processor;
#[cfg(target_arch = "x86_64")]
#[path = "x86_64.rs"]
mod processor;

#[cfg(all(test, target_arch = "x86_64"))]
mod x86_64_sections;

pub use processor::{CALL, Registers, calling, position, result, undisturbed};

/// The processor architecture as the field names it in archives and images (`uname -m`).
pub const NAME: &str = if cfg!(target_arch = "x86_64") {
    "x86_64"
} else if cfg!(target_arch = "aarch64") {
    "aarch64"
} else {
    panic!("migrate runs on x86_64 and aarch64")
};

/// The word before the list of features in `/proc/cpuinfo`.
pub const CPU_FEATURES_KEY: &str = if cfg!(target_arch = "aarch64") { "Features" } else { "flags" };

/// The processor's own architecture in the words of seccomp profiles.
pub const SECCOMP: &str =
    if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" };
