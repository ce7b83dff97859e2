// SPDX-License-Identifier: Apache-2.0
//! Owns the comparison of a root filesystem with a base: which entries go into the difference, and which paths are gone.
//!
//! A file is left out if everything that an archive keeps of it is in the base. Its content is not read if inode and
//! time of the last change are the base's too: so it is with what an overlay has not copied up. Must not know the archive
//! around the nested tar.

use std::collections::{HashMap, HashSet};
use std::os::fd::BorrowedFd;

use super::base::{BaseTree, Known, content, facts, identity, plain};
use super::pack::{Plan, measure};
use crate::archive::entry::{Entry, Kind};
use crate::archive::printable;
use crate::{Error, ErrorKind, Result};

/// How much of a file is read at once.
const READ: usize = 256 << 10;

/// What the comparison found.
#[derive(Debug)]
pub(in crate::archive) struct Difference {
    /// What is to be written.
    pub(in crate::archive) plan: Plan,
    /// What the base has and the root filesystem has not: paths from the root, beginning with a slash.
    pub(in crate::archive) deleted: Vec<String>,
}

/// Compares the tree beneath `root` with the base.
///
/// # Errors
/// As planning all of it; `Unsupported` if a name that is gone is not UTF-8, for `deleted.files` cannot hold it.
pub(in crate::archive) fn difference(root: BorrowedFd<'_>, base: &BaseTree) -> Result<Difference> {
    let mut seen = vec![false; base.files.len()];
    // Of each directory here, its place in the plan and the length of its header.
    let mut directories: HashMap<Vec<u8>, (usize, u64)> = HashMap::new();
    let mut written: HashSet<Vec<u8>> = HashSet::new();
    // Laying something into a directory changes its time, which only its own entry sets again.
    let mut touched: HashSet<Vec<u8>> = HashSet::new();
    let mut buffer = vec![0; READ];
    let mut plan = measure(root, &mut |entry, dir, name, at| {
        let path = plain(&entry.path);
        if entry.kind == Kind::Directory {
            directories.insert(path.to_vec(), at);
        }
        let known = base.files.get(path);
        let same = known.is_some_and(|known| known.facts == facts(entry))
            // A further name of what is written is one of what is there instead.
            && !(entry.kind == Kind::HardLink && written.contains(&entry.link))
            && known.map_or(Ok(false), |known| is_same(known, entry, (dir, name), &mut buffer))?;
        if let Some(seen) = known.and_then(|known| seen.get_mut(known.order)) {
            *seen = true;
        }
        if !same {
            written.insert(path.to_vec());
            touched.insert(parent(path).to_vec());
        }
        Ok(!same)
    })?;
    let mut deleted = Vec::new();
    let gone = base.files.iter().filter(|(_, known)| seen.get(known.order) == Some(&false));
    for (path, _) in gone {
        let above = parent(path);
        // What was beneath something that is gone itself, or is no directory any more, went with it.
        if directories.contains_key(above) {
            let text = std::str::from_utf8(path).map_err(|_| not_listed(path))?;
            deleted.push(format!("/{text}"));
            touched.insert(above.to_vec());
        }
    }
    for (index, header) in touched.iter().filter_map(|path| directories.get(path)) {
        plan.add(*index, *header);
    }
    Ok(Difference { plan, deleted })
}

type Place<'a> = (BorrowedFd<'a>, &'a std::ffi::CStr);

/// Whether the content is the base's, when all else is.
fn is_same(known: &Known, entry: &Entry, (dir, name): Place<'_>, buffer: &mut [u8]) -> Result<bool> {
    let Some((sha, before)) = &known.content else { return Ok(known.kind == entry.kind) };
    Ok(identity(entry, dir, name)? == *before || content(entry, dir, name, buffer)? == *sha)
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(b".", |slash| &path[..slash])
}

fn not_listed(path: &[u8]) -> Error {
    let message = format!(
        "{} is gone, and its name is not UTF-8: a list of what is gone cannot hold it",
        printable(path)
    );
    Error::new(ErrorKind::Unsupported, message)
        .with_hint("take all of the root filesystem along: --rootfs full")
}
