// SPDX-License-Identifier: Apache-2.0
//! Whether the running kernel enforces, or would, SELinux's rules. Must not know what is labelled.

use std::fs;
use std::io;

use super::mountinfo::{self, MountInfo};

/// Whether SELinux is there: its filesystem is mounted, and this process has a context of its.
///
/// # Errors
/// When the mount table cannot be read.
pub fn is_enabled() -> io::Result<bool> {
    let mounts = mountinfo::read()?;
    // `EINVAL` where no security module has a context for processes: not an error, but the answer.
    let context = fs::read("/proc/thread-self/attr/current").unwrap_or_default();
    Ok(judge(&mounts, &context))
}

/// As libselinux's `is_selinux_enabled`: a kernel that has no policy loaded yet calls every process `kernel`.
fn judge(mounts: &[MountInfo], context: &[u8]) -> bool {
    let context = context.strip_suffix(b"\0").unwrap_or(context);
    let is_mounted = mounts.iter().any(|mount| mount.fstype == "selinuxfs");
    is_mounted && !context.is_empty() && context != b"kernel"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded on a Fedora 39 and on a Debian 12 with AppArmor.
    #[test]
    fn recorded_hosts() {
        let fedora = b"25 1 0:23 / /sys rw,nosuid,nodev,noexec,relatime shared:2 - sysfs sysfs rw,seclabel\n\
                       30 25 0:21 / /sys/fs/selinux rw,nosuid,noexec,relatime shared:6 - selinuxfs selinuxfs rw\n";
        let debian = b"25 1 0:23 / /sys rw,nosuid,nodev,noexec,relatime shared:2 - sysfs sysfs rw\n\
                       30 25 0:7 / /sys/kernel/security rw,relatime shared:6 - securityfs securityfs rw\n";
        let table: [(&[u8], &[u8], bool); 5] = [
            (fedora, b"unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023\0", true),
            (fedora, b"kernel\0", false),
            (fedora, b"", false),
            (debian, b"unconfined\n", false),
            (debian, b"", false),
        ];
        for (mounts, context, expected) in table {
            let mounts = mountinfo::parse(mounts).expect("well formed");
            assert_eq!(judge(&mounts, context), expected, "{}", String::from_utf8_lossy(context));
        }
    }
}
