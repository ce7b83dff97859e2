// SPDX-License-Identifier: Apache-2.0
//! The kernel parameters of a network namespace: the files of `/proc/sys/net` (proc(5)), which are those of whatever
//! namespace the thread is in that opens them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::beneath::open_beneath;

const ROOT: &str = "/proc/sys/net";

/// No value is longer, in bytes. For the kernel it is a page with the zero that ends it.
const LONGEST: usize = 4095;

/// The parameters that can be set and have a value, by their path beneath `/proc/sys/net`, for the network namespace of
/// the calling thread.
///
/// There are hundreds, so each takes no more system calls than it must: the kernel lets only those be opened for writing that
/// can be set, and gives a value whole to the first read.
///
/// # Errors
/// A directory cannot be listed.
pub fn read() -> io::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    read_directory(Path::new(ROOT), "", &mut found)?;
    Ok(found)
}

/// Those of these names that there are, as [`read`] gives them.
///
/// # Errors
/// `/proc/sys/net` cannot be opened.
pub fn read_named<'a>(names: impl Iterator<Item = &'a String>) -> io::Result<BTreeMap<String, String>> {
    let root = File::open(ROOT)?;
    let mut found = BTreeMap::new();
    let mut directory: Option<(&str, Option<File>)> = None;
    for name in names {
        let (path, file_name) = name.rsplit_once('/').unwrap_or((".", name));
        if directory.as_ref().is_none_or(|(open, _)| *open != path) {
            let opened = open_beneath(root.as_fd(), path, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty());
            directory = Some((path, opened.ok().map(File::from)));
        }
        if let Some((_, Some(directory))) = &directory
            && let Some(value) = read_one(directory, file_name)
        {
            found.insert(name.clone(), value);
        }
    }
    Ok(found)
}

fn read_directory(path: &Path, prefix: &str, found: &mut BTreeMap<String, String>) -> io::Result<()> {
    let directory = File::open(path)?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let Ok(file_name) = entry.file_name().into_string() else { continue };
        let name = format!("{prefix}{file_name}");
        if entry.file_type()?.is_dir() {
            match read_directory(&entry.path(), &format!("{name}/"), found) {
                // That of an interface which has just gone.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        } else if let Some(value) = read_one(&directory, &file_name) {
            found.insert(name, value);
        }
    }
    Ok(())
}

/// Some cannot be read, or not before they are set; some cannot be set.
fn read_one(directory: &File, name: &str) -> Option<String> {
    let open = |flags| openat(directory, name, flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty());
    let file = match open(OFlag::O_RDWR) {
        // Where nobody can set any, the mode tells which could be.
        Err(Errno::EROFS) => {
            let file = File::from(open(OFlag::O_RDONLY).ok()?);
            (file.metadata().ok()?.mode() & 0o200 != 0).then_some(file)?.into()
        }
        opened => opened.ok()?,
    };
    let mut value = [0; LONGEST];
    let length = nix::unistd::read(&file, &mut value).ok()?;
    std::str::from_utf8(&value[..length]).ok().map(|value| value.trim_end().to_owned())
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
    use nix::mount::{MsFlags, mount};
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
            assert_eq!(read_named(now.keys()).expect("read"), now);
            let names = [name, "ipv4/nothing", "nowhere/at_all", "nothing"].map(str::to_owned);
            let named = read_named(names.iter()).expect("read");
            assert_eq!(named.into_iter().collect::<Vec<_>>(), [(name.to_owned(), "1234".to_owned())]);
            for outside in ["../kernel/hostname", "/proc/sys/kernel/hostname", "ipv4/nothing"] {
                write(outside, "x").expect_err(outside);
            }
        };
        std::thread::scope(|scope| scope.spawn(work).join().expect("the work succeeds"));
    }

    #[test]
    fn a_read_only_tree_says_the_same() {
        let work = || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS)
                .expect("unshare needs root");
            // A value of many words.
            let ports: Vec<String> = (1..400).map(|n| (n * 100).to_string()).collect();
            write("ipv4/ip_local_reserved_ports", &ports.join(",")).expect("write");
            let writable = read().expect("read");
            assert_eq!(writable["ipv4/ip_local_reserved_ports"], ports.join(","), "whole");
            let flags = |flags| mount(Some(ROOT), ROOT, None::<&str>, MsFlags::MS_BIND | flags, None::<&str>);
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
                .expect("private");
            flags(MsFlags::empty()).expect("bind");
            flags(MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY).expect("read-only");
            write("ipv4/tcp_keepalive_time", "1").expect_err("read-only");
            // The kernel counts on; only the names are sure to be the same.
            let names = |found: BTreeMap<String, String>| found.into_keys().collect::<Vec<_>>();
            assert_eq!(names(read().expect("read")), names(writable));
        };
        std::thread::scope(|scope| scope.spawn(work).join().expect("the work succeeds"));
    }
}
