// SPDX-License-Identifier: Apache-2.0
//! The kernel parameters of a network namespace: the files of `/proc/sys/net` (proc(5)), which are those of whatever
//! namespace the thread is in that opens them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::beneath::open_beneath;

const ROOT: &str = "/proc/sys/net";

/// The kernel's own limit for most of them is a page.
const LONGEST: u64 = 4096;

/// The parameters that can be set and have a value, by their path beneath `/proc/sys/net`, for the network namespace of
/// the calling thread.
///
/// # Errors
/// A directory cannot be listed.
pub fn read() -> io::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    read_directory(Path::new(ROOT), "", &mut found)?;
    Ok(found)
}

fn read_directory(directory: &Path, path: &str, found: &mut BTreeMap<String, String>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let name = format!("{path}{name}");
        if entry.file_type()?.is_dir() {
            match read_directory(&entry.path(), &format!("{name}/"), found) {
                // That of an interface which has just gone.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        } else if let Some(value) = read_one(&entry.path()) {
            found.insert(name, value);
        }
    }
    Ok(())
}

/// Some cannot be read, or not before they are set; some cannot be set.
fn read_one(path: &Path) -> Option<String> {
    let file = File::open(path).ok()?;
    if file.metadata().ok()?.permissions().mode() & 0o200 == 0 {
        return None;
    }
    let mut value = Vec::with_capacity(256);
    file.take(LONGEST).read_to_end(&mut value).ok()?;
    String::from_utf8(value).ok().map(|value| value.trim_end().to_owned())
}

/// Sets a parameter in the network namespace of the calling thread.
///
/// # Errors
/// `ENOENT` where there is none of this name, `EINVAL` for a value that the kernel does not take.
pub fn write(name: &str, value: &str) -> io::Result<()> {
    let root = File::open(ROOT)?;
    let file = open_beneath(root.as_fd(), name, OFlag::O_WRONLY | OFlag::O_TRUNC, Mode::empty())?;
    // One write is one value.
    File::from(file).write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn a_namespace_has_parameters_of_its_own() {
        let work = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare needs root");
            let name = "ipv4/tcp_keepalive_time";
            assert_eq!(read().expect("read")[name], "7200");
            write(name, "1234").expect("write");
            let now = read().expect("read");
            assert_eq!(now[name], "1234");
            assert!(now.contains_key("ipv6/conf/lo/forwarding"), "those of an interface");
            assert!(!now.contains_key("ipv4/tcp_available_congestion_control"), "it cannot be set");
            for outside in ["../kernel/hostname", "/proc/sys/kernel/hostname", "ipv4/nothing"] {
                write(outside, "x").expect_err(outside);
            }
        };
        std::thread::scope(|scope| scope.spawn(work).join().expect("the work succeeds"));
    }
}
