// SPDX-License-Identifier: Apache-2.0
//! What is in a directory of images, to be compared with what is there later.

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
