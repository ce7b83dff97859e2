// SPDX-License-Identifier: Apache-2.0
//! What a container's stdio was given as, by the names of `/proc/PID/fd`: a restore matches pipes by them. They
//! travel with the images as `descriptors.json`, a file that runc and crun read and write too.

use std::os::fd::BorrowedFd;

use nix::unistd::Pid;

use super::image_files;
use crate::{Context, Error, ErrorKind, Result, sys};

const FILE: &str = "descriptors.json";

/// A longer file is not three names.
const LIMIT: u64 = 64 << 10;

/// What `/proc/self/fd` calls each of the three: a path, or `pipe:[7]`.
///
/// # Errors
/// When one of them cannot be read.
pub fn names(stdio: [BorrowedFd<'_>; 3]) -> Result<[String; 3]> {
    let name = |fd: BorrowedFd<'_>| {
        std::fs::read_link(sys::fd::proc_path(fd))
            .map(|target| target.to_string_lossy().into_owned())
            .context(|| "read where the container's stdio leads")
    };
    let [stdin, stdout, stderr] = stdio;
    Ok([name(stdin)?, name(stdout)?, name(stderr)?])
}

/// [`names`] of a process that has put its stdio in place by itself.
///
/// # Errors
/// When one of them cannot be read.
pub fn names_in(pid: Pid) -> Result<[String; 3]> {
    let name = |fd: i32| {
        sys::proc::fd_target(pid, fd)
            .map(|target| target.to_string_lossy().into_owned())
            .context(|| format!("read /proc/{pid}/fd/{fd}"))
    };
    Ok([name(0)?, name(1)?, name(2)?])
}

/// Writes the names into an image directory.
///
/// # Errors
/// When the file cannot be written.
pub fn write(images: BorrowedFd<'_>, names: &[String; 3]) -> Result<()> {
    let bytes = serde_json::to_vec(names).context(|| "serialise the container's descriptors")?;
    image_files::write(images, FILE, &bytes)
}

/// Reads the names from an image directory.
///
/// # Errors
/// [`ErrorKind::InvalidArchive`] when the file is missing or is not three names.
pub fn read(images: BorrowedFd<'_>) -> Result<[String; 3]> {
    let bytes = image_files::read(images, FILE, LIMIT)?.ok_or_else(|| {
        Error::new(ErrorKind::InvalidArchive, format!("{FILE} is missing in the image directory"))
            .with_hint("every checkpoint of a container has this file: is this its image directory?")
    })?;
    serde_json::from_slice(&bytes).context_kind(ErrorKind::InvalidArchive, || format!("understand {FILE}"))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn names_of_pipes_are_what_proc_calls_them() {
        let (read, write) = nix::unistd::pipe().expect("pipe");
        let null = File::open("/dev/null").expect("null");
        let names = names([null.as_fd(), read.as_fd(), write.as_fd()]).expect("names");
        assert_eq!(names[0], "/dev/null");
        assert!(names[1].starts_with("pipe:[") && names[1] == names[2]);
    }

    #[test]
    fn the_file_reads_back_and_a_bad_one_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fd = File::open(dir.path()).expect("open");
        assert_eq!(read(fd.as_fd()).expect_err("missing").kind(), ErrorKind::InvalidArchive);
        let names = ["/dev/null", "pipe:[1]", "pipe:[2]"].map(str::to_owned);
        write(fd.as_fd(), &names).expect("write");
        assert_eq!(read(fd.as_fd()).expect("read"), names);
        std::fs::write(dir.path().join(FILE), "[1,2]").expect("write");
        assert_eq!(read(fd.as_fd()).expect_err("not names").kind(), ErrorKind::InvalidArchive);
    }
}
