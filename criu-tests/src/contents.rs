// SPDX-License-Identifier: Apache-2.0
//! What is in a directory, to be compared with what is there later, or put back.

use std::fs;

/// Names and contents of all files, in the order of their names.
///
/// # Panics
/// When one cannot be read.
#[track_caller]
pub fn contents(directory: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(directory).expect("list the images");
    let read = |entry: fs::DirEntry| {
        (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("read an image"))
    };
    let mut files: Vec<_> = entries.map(|entry| read(entry.expect("list the images"))).collect();
    files.sort();
    files
}

/// Makes the files of a directory what [`contents`] has found there: processes that a dying CRIU let go have run for a moment,
/// and images want the files that their processes had open as they were.
///
/// # Panics
/// When one cannot be written or removed.
#[track_caller]
pub fn put_back(directory: &str, files: &[(String, Vec<u8>)]) {
    for (name, _) in contents(directory).iter().filter(|(name, _)| files.iter().all(|(then, _)| then != name))
    {
        fs::remove_file(format!("{directory}/{name}")).expect("remove a file of later");
    }
    for (name, bytes) in files {
        fs::write(format!("{directory}/{name}"), bytes).expect("put a file back");
    }
}
