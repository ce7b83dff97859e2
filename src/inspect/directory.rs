// SPDX-License-Identifier: Apache-2.0
//! A directory of CRIU's images, as `--image-path` names it.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::images::Images;
use super::report::Sizes;
use crate::sys::beneath::open_beneath;
use crate::{Context, Error, ErrorKind, Result};

/// Files that are listed.
const MOST: usize = 1 << 18;

/// Reads what is looked at; returns what all of it takes.
///
/// # Errors
/// `InvalidArchive` if there are no images in it; else when it cannot be listed.
pub(super) fn read(directory: &File, images: &mut Images) -> Result<Sizes> {
    let mut names = names(directory)?;
    if names.iter().any(|name| name == "checkpoint") && !names.iter().any(|name| name == "pstree.img") {
        let hint = "name the directory `checkpoint` in it";
        return Err(no_images().with_hint(hint));
    }
    names.sort();
    let mut size = Sizes::default();
    let mut pages = Vec::new();
    for name in names.iter().filter(|name| name.ends_with(".img") || Images::is_looked_at(name)) {
        let Some(file) = open(directory, name, images) else { continue };
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        size.add_image(name, length);
        if let Some(number) = Images::pages_id(name) {
            pages.push((number, file));
        } else if Images::is_looked_at(name) && images.admit(name, length) {
            let mut bytes = Vec::new();
            // A file that grows meanwhile is read no further.
            let read = file.take(length).read_to_end(&mut bytes);
            read.context(|| format!("read {name}"))?;
            images.insert(name, bytes);
        }
    }
    if images.get("pstree.img").is_none() {
        return Err(no_images());
    }
    size.file = size.images;
    size.unpacked = size.images;
    for (number, file) in pages {
        for piece in images.pieces(number) {
            let mut bytes = vec![0; usize::try_from(piece.end - piece.start).unwrap_or(0)];
            match file.read_exact_at(&mut bytes, piece.start) {
                Ok(()) => images.insert_piece(number, piece.start, bytes),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    images.tell(format!("pages-{number}.img: it is cut off before byte {}", piece.end));
                }
                Err(error) => return Err(error).context(|| format!("read pages-{number}.img")),
            }
        }
    }
    Ok(size)
}

fn no_images() -> Error {
    Error::new(ErrorKind::InvalidArchive, "not a directory of CRIU's images: it has no pstree.img")
}

fn names(directory: &File) -> Result<Vec<String>> {
    let context = || "list the image directory";
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut listed = Dir::openat(directory.as_fd(), ".", flags, Mode::empty()).context(context)?;
    let mut names = Vec::new();
    for entry in listed.iter().take(MOST) {
        // CRIU's names are ASCII.
        names.extend(entry.context(context)?.file_name().to_str().ok().map(str::to_owned));
    }
    Ok(names)
}

/// Opens a regular file in it; what else has such a name is told.
fn open(directory: &File, name: &str, images: &Images) -> Option<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = match open_beneath(directory.as_fd(), name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(errno) => {
            images.tell(format!("{name}: cannot be opened: {}", errno.desc()));
            return None;
        }
    };
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    if !is_file {
        images.tell(format!("{name}: not a regular file"));
    }
    is_file.then_some(file)
}
