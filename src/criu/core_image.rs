// SPDX-License-Identifier: Apache-2.0
//! The names of the processes in a directory of images, for sentences. Whoever made the images may have made them up:
//! sizes are bounded, and what is not as CRIU writes it is left out.
//!
//! ```text
//!  core-PID.img:  magic u32 · magic u32 · length u32 · core_entry
//!    core_entry.tc = 3 (only of a process's main thread) ─▶ task_core_entry.comm = 6
//! ```

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;

use nix::dir::Dir;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

/// The first bytes of an image of this kind (`core`), after those of all images.
const MAGIC: [u32; 2] = [0x5456_4319, 0x5505_3847];
/// How much of an image is read, and of how many.
const SIZE: u64 = 64 << 10;
const IMAGES: usize = 1000;
/// Fields by number.
const TASK_CORE: u64 = 3;
const COMMAND: u64 = 6;

/// Process ids in the container, and names.
pub fn process_names(images: BorrowedFd<'_>) -> Vec<(i32, String)> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let Ok(directory) = Dir::openat(images, ".", flags, Mode::empty()) else { return Vec::new() };
    let names = directory.into_iter().flatten().filter_map(|entry| {
        let name = entry.file_name().to_str().ok()?.to_owned();
        let pid = name.strip_prefix("core-")?.strip_suffix(".img")?.parse().ok()?;
        Some((pid, name))
    });
    names.take(IMAGES).filter_map(|(pid, name)| Some((pid, command(&read(images, &name)?)?))).collect()
}

fn read(images: BorrowedFd<'_>, name: &str) -> Option<Vec<u8>> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = File::from(openat(images, name, flags, Mode::empty()).ok()?);
    let mut bytes = Vec::new();
    file.take(SIZE).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn command(image: &[u8]) -> Option<String> {
    let (head, rest) = image.split_at_checked(12)?;
    let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
    if word(0)? != MAGIC[0] || word(4)? != MAGIC[1] {
        return None;
    }
    let entry = rest.get(..usize::try_from(word(8)?).ok()?)?;
    let name = field(field(entry, TASK_CORE)?, COMMAND)?;
    Some(String::from_utf8_lossy(name).into_owned())
}

/// The first field of bytes with this number.
fn field(mut message: &[u8], wanted: u64) -> Option<&[u8]> {
    while !message.is_empty() {
        let key = number(&mut message)?;
        let size = match key & 7 {
            0 => {
                number(&mut message)?;
                continue;
            }
            1 => 8,
            2 => usize::try_from(number(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (value, rest) = message.split_at_checked(size)?;
        if key >> 3 == wanted && key & 7 == 2 {
            return Some(value);
        }
        message = rest;
    }
    None
}

/// A number of seven bits a byte, the lowest first.
fn number(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;

    use super::*;

    fn image(command: &str) -> Vec<u8> {
        let length = |n: usize| u8::try_from(n).expect("short");
        let task = [&[8, 1, 0x32, length(command.len())][..], command.as_bytes()].concat();
        // Before it a number, a fixed number of each size, and bytes of another field.
        let entry = [&[8, 1, 0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0x25, 0, 0, 0, 0, 0x12, 2, 9, 9][..]].concat();
        let entry = [&entry, &[0x1a, length(task.len())][..], &task].concat();
        let head = [MAGIC[0], MAGIC[1], u32::from(length(entry.len()))];
        [&head.map(u32::to_le_bytes).concat()[..], &entry].concat()
    }

    #[test]
    fn names_of_main_threads() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).expect("write");
        write("core-1.img", &image("init"));
        write("core-17.img", &image("nginx"));
        // A thread's has no field 3; others are no images.
        write("core-18.img", &[&image("x")[..12], &[8, 1]].concat());
        write("core-x.img", &image("x"));
        write("mm-1.img", &image("x"));
        write("core-19.img", b"short");
        write("core-20.img", &image("x")[..20]);
        let fd = File::open(dir.path()).expect("open it");
        let mut names = process_names(fd.as_fd());
        names.sort();
        assert_eq!(names, [(1, "init".to_owned()), (17, "nginx".to_owned())]);
    }

    #[test]
    fn no_bytes_make_it_fail() {
        let whole = image("init");
        for end in 0..whole.len() {
            assert_eq!(command(&whole[..end]), None);
        }
        let mut damaged = whole;
        for at in 12..damaged.len() {
            damaged[at] ^= 0xff;
            command(&damaged);
        }
    }
}
