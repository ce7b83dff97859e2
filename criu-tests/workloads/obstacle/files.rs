// SPDX-License-Identifier: Apache-2.0
//! Open files and descriptors that are in the way.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};

use super::{Held, Make, Place};
use crate::lifecycle::During as _;
use crate::sys;

pub(super) const KINDS: &[(&str, Make)] = &[
    ("big-deleted-file", big_deleted_file),
    ("deleted-name", deleted_name),
    ("device", device),
    ("file", file),
    ("userfaultfd", userfaultfd),
    ("io-uring", io_uring),
    ("perf-event", perf_event),
    ("secret-memory", secret_memory),
    ("packet-pipe", packet_pipe),
    ("deleted-watch", deleted_watch),
    ("overmounted-file", overmounted_file),
    ("mounted", mounted),
    ("tmpfs-content", tmpfs_content),
];

/// Larger than what CRIU takes into its images.
fn big_deleted_file(place: &Place) -> Held {
    let path = place.path("deleted");
    let mut file = File::create(&path).during("create")?;
    file.write_all(&vec![1; 3 << 20]).during("write")?;
    fs::remove_file(&path).during("remove")?;
    Ok(Box::new(file))
}

/// Open under a name that is gone, while another name of the same file is there.
fn deleted_name(place: &Place) -> Held {
    let (path, other) = (place.path("one"), place.path("two"));
    let file = File::create(&path).during("create")?;
    fs::hard_link(&path, other).during("link")?;
    fs::remove_file(&path).during("remove")?;
    Ok(Box::new(file))
}

/// A device that is there on the host, made here by its number `--at MAJOR:MINOR`.
fn device(place: &Place) -> Held {
    let device = File::options().read(true).write(true).open(place.at()?).during("open the device")?;
    Ok(Box::new(device))
}

/// The file `--at`, with something in it.
fn file(place: &Place) -> Held {
    let mut file = File::create(place.at()?).during("create")?;
    file.write_all(b"something").during("write")?;
    Ok(Box::new(file))
}

fn descriptor(call: [i64; 7], name: &str) -> Held {
    let number = i32::try_from(sys::call(call).during(name)?).during(name)?;
    let fd: OwnedFd = sys::inherited(number).during(name)?;
    Ok(Box::new(fd))
}

fn userfaultfd(_: &Place) -> Held {
    const USER_MODE_ONLY: i64 = 1;
    descriptor([libc::SYS_userfaultfd, USER_MODE_ONLY, 0, 0, 0, 0, 0], "userfaultfd")
}

fn io_uring(_: &Place) -> Held {
    let mut parameters = [0u32; 30];
    let address = parameters.as_mut_ptr().expose_provenance().cast_signed() as i64;
    descriptor([libc::SYS_io_uring_setup, 8, address, 0, 0, 0, 0], "io_uring_setup")
}

/// A counter of page faults.
fn perf_event(_: &Place) -> Held {
    // `struct perf_event_attr`: type (software), size, config (page faults), and all else zero but `exclude_kernel`.
    let mut attributes = [0u32; 32];
    (attributes[0], attributes[1], attributes[2]) = (1, 128, 2);
    attributes[10] = 1 << 5;
    let address = attributes.as_mut_ptr().expose_provenance().cast_signed() as i64;
    descriptor([libc::SYS_perf_event_open, address, 0, -1, -1, 0, 0], "perf_event_open")
}

fn secret_memory(_: &Place) -> Held {
    descriptor([libc::SYS_memfd_secret, 0, 0, 0, 0, 0, 0], "memfd_secret")
}

/// A pipe that keeps packets apart.
fn packet_pipe(_: &Place) -> Held {
    Ok(Box::new(nix::unistd::pipe2(OFlag::O_DIRECT).during("pipe2")?))
}

/// A watch on a directory that is gone, though a process still works in it.
fn deleted_watch(place: &Place) -> Held {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    let path = place.path("watched");
    fs::create_dir(&path).during("mkdir")?;
    let open = File::open(&path).during("open")?;
    let watch = Inotify::init(InitFlags::IN_NONBLOCK).during("inotify")?;
    watch.add_watch(&path, AddWatchFlags::IN_CREATE).during("watch")?;
    fs::remove_dir(&path).during("rmdir")?;
    Ok(Box::new((open, watch)))
}

/// A file beneath a mount that came later. Needs the capability to mount.
fn overmounted_file(place: &Place) -> Held {
    let path = place.path("covered");
    fs::create_dir(&path).during("mkdir")?;
    let none = None::<&str>;
    mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), none).during("mount")?;
    let file = File::create(path.join("file")).during("create")?;
    mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), none).during("mount")?;
    Ok(Box::new(file))
}

/// A file system of the type `--at`, mounted from inside. Needs the capability to mount.
fn mounted(place: &Place) -> Held {
    let path = place.path("mounted");
    fs::create_dir(&path).during("mkdir")?;
    mount(Some("none"), &path, Some(place.at()?), MsFlags::empty(), None::<&str>).during("mount")?;
    Ok(Box::new(()))
}

/// A file in a tmpfs of the container's.
fn tmpfs_content(_: &Place) -> Held {
    fs::write("/dev/shm/content", "content").during("write")?;
    Ok(Box::new(()))
}
