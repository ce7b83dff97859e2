// SPDX-License-Identifier: Apache-2.0
//! This program under the name `tar`, as CRIU finds it while it writes down a tmpfs, once for each of them, with the processes
//! standing still. The system's tar takes three processes for that, and most tmpfs are all but empty.
//!
//! What is not the one command line that CRIU uses, or not small, is for the system's tar, which takes this process over.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use super::output;
use crate::archive::small_tree;
use crate::criu::PROGRAMS;
use crate::{Context, Result};

/// What GNU tar ends with after an error.
const FATAL: u8 = 2;

/// How CRIU asks for a tmpfs (criu/filesystems.c, `tmpfs_dump`); then come the directory and a dot.
const CREATE: [&str; 10] = [
    "--create",
    "--gzip",
    "--no-unquote",
    "--no-wildcards",
    "--one-file-system",
    "--check-links",
    "--preserve-permissions",
    "--sparse",
    "--numeric-owner",
    "--directory",
];

/// Does the work of `tar` if CRIU has started this process as that.
pub(super) fn if_requested() -> Option<ExitCode> {
    let programs = std::env::var_os(PROGRAMS)?;
    let mut args = std::env::args_os();
    if Path::new(&args.next()?).file_name() != Some(OsStr::new("tar")) {
        return None;
    }
    let args: Vec<OsString> = args.collect();
    let Some(bytes) = directory(&args).and_then(|directory| packed(directory).ok()) else {
        return Some(failed(&systems(&programs, &args)));
    };
    match written(&bytes) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => Some(failed(&error)),
    }
}

/// The directory that is to be written, if this is how CRIU asks for it.
fn directory(args: &[OsString]) -> Option<&OsStr> {
    let (flags, rest) = args.split_at_checked(CREATE.len())?;
    match rest {
        [directory, dot] if dot == "." && flags.iter().zip(CREATE).all(|(a, b)| a == b) => Some(directory),
        _ => None,
    }
}

/// Nothing is written before all of it is there: until then the system's tar can begin anew.
fn packed(directory: &OsStr) -> Result<Vec<u8>> {
    let directory = File::open(directory).context(|| "open the directory")?;
    small_tree(directory.as_fd())
}

fn written(bytes: &[u8]) -> Result<()> {
    let stdout = std::io::stdout().as_fd().try_clone_to_owned().context(|| "duplicate stdout")?;
    File::from(stdout).write_all(bytes).context(|| "write to stdout")
}

/// Becomes the next `tar` in `PATH`; returns only if that fails.
fn systems(programs: &OsStr, args: &[OsString]) -> crate::Error {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let others = std::env::split_paths(&path).filter(|directory| directory != Path::new(programs));
    // No name in it has a colon: they have just been split there.
    let path = std::env::join_paths(others).unwrap_or_default();
    let error = Command::new("tar").args(args).env("PATH", path).env_remove(PROGRAMS).exec();
    crate::Error::new(crate::ErrorKind::System, "start the system's tar").with_source(error)
}

fn failed(error: &crate::Error) -> ExitCode {
    output::error(error);
    FATAL.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_command_line_of_criu_is_ours() {
        let line = |flags: &[&str], rest: &[&str]| -> Vec<OsString> {
            flags.iter().chain(rest).map(OsString::from).collect()
        };
        let ours = line(&CREATE, &["/proc/self/fd/0", "."]);
        assert_eq!(directory(&ours), Some(OsStr::new("/proc/self/fd/0")));
        for other in [
            line(&CREATE, &["/proc/self/fd/0"]),
            line(&CREATE, &["/proc/self/fd/0", ".", "."]),
            line(&CREATE, &["/proc/self/fd/0", "file"]),
            line(&CREATE[1..], &["/proc/self/fd/0", "."]),
            line(&["--extract", "--gzip", "--no-unquote", "--no-wildcards", "--directory", "/"], &[]),
            Vec::new(),
        ] {
            assert_eq!(directory(&other), None, "{other:?}");
        }
    }
}
