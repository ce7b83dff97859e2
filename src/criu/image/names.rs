// SPDX-License-Identifier: Apache-2.0
//! The names of the processes in a directory of images, for sentences: what is not as CRIU writes it is left out.

use std::os::fd::BorrowedFd;

use super::proto::criu_images::CoreEntry;
use super::{ImageFile, Kind, list};

/// Of how many images names are read.
const IMAGES: usize = 1000;

/// Process ids in the container, and names.
pub fn process_names(images: BorrowedFd<'_>) -> Vec<(i32, String)> {
    let ids = list(images, "core-", ".img").unwrap_or_default();
    let pids = ids.iter().filter_map(|id| id.parse().ok()).take(IMAGES);
    pids.filter_map(|pid| Some((pid, name(images, pid)?))).collect()
}

/// `None` of a thread, which is no process's first.
fn name(images: BorrowedFd<'_>, pid: i32) -> Option<String> {
    let mut image = ImageFile::open(images, &format!("core-{pid}.img"), Kind::Core).ok()??;
    let core = image.next::<CoreEntry>().ok()??;
    Some(String::from_utf8_lossy(core.tc.into_option()?.comm.as_deref()?).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;

    use super::super::written;
    use super::*;

    #[test]
    fn names_of_main_threads() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).expect("write");
        let core = |command: &str| {
            let length = |n: usize| u8::try_from(n).expect("short");
            let task = [&[8, 1, 0x32, length(command.len())][..], command.as_bytes()].concat();
            written(Kind::Core, &[&[&[8, 1, 0x1a, length(task.len())][..], &task].concat()])
        };
        write("core-1.img", &core("init"));
        write("core-17.img", &core("nginx"));
        // A thread's has no field 3; others are no images.
        write("core-18.img", &written(Kind::Core, &[&[8, 1]]));
        write("core-x.img", &core("x"));
        write("mm-1.img", &core("x"));
        write("core-19.img", b"short");
        write("core-20.img", &core("x")[..16]);
        let fd = File::open(dir.path()).expect("open it");
        let mut names = process_names(fd.as_fd());
        names.sort();
        assert_eq!(names, [(1, "init".to_owned()), (17, "nginx".to_owned())]);
    }
}
