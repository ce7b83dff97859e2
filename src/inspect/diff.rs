// SPDX-License-Identifier: Apache-2.0
//! What has changed between two checkpoints: processes, descriptors, sockets, and the contents of memory page by page. A
//! process is the same if its number and its parent's are.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::hash::RandomState;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::images::Images;
use super::pages::PageHashes;
use super::report::{Environment, OpenDescriptor, ProcessReport};
use super::text::{command, descriptor, shown};
use super::{bases_of, load, processes};
use crate::Result;
use crate::criu::image::Area;

/// What has changed.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Difference {
    /// Version of this form: 1.
    pub schema: u32,
    /// Processes that only the second has.
    pub added: Vec<Named>,
    /// Processes that only the first has.
    pub gone: Vec<Named>,
    /// Processes of both, with what has changed of them; those of which nothing has are not listed.
    pub changed: Vec<Changed>,
    /// What could not be read.
    pub problems: Vec<String>,
}

/// A process of one of them.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Named {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Its command line.
    pub command_line: Option<Vec<String>>,
}

/// A process of both.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Changed {
    /// What it is now.
    #[serde(flatten)]
    pub process: Named,
    /// What it was, if it has another name or command line.
    pub was: Option<Named>,
    /// Descriptors that it has opened, sockets among them.
    pub opened: Vec<OpenDescriptor>,
    /// Descriptors that it has closed.
    pub closed: Vec<OpenDescriptor>,
    /// Its pages.
    pub pages: PageChanges,
    /// Changed, added and gone pages by what is mapped there.
    pub areas: BTreeMap<String, u64>,
}

/// Pages of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct PageChanges {
    /// That both have, with the same content.
    pub same: u64,
    /// That both have, with another content.
    pub changed: u64,
    /// That only the second has.
    pub added: u64,
    /// That only the first has.
    pub gone: u64,
}

impl Named {
    fn of(process: &ProcessReport) -> Self {
        let command_line = process.command_line.clone();
        Self { pid: process.pid, name: process.name.clone(), command_line }
    }

    fn about(&self) -> String {
        let line = self.command_line.as_deref().map(command).unwrap_or_default();
        format!("{} {}  {line}", self.pid, shown(&self.name)).trim_end().to_owned()
    }
}

/// Compares two archives or directories of images. Archives that they need are looked for in `bases`, or beside them if it is empty.
///
/// # Errors
/// As [`super::inspect`]; `NotFound` if an archive that is needed is not there; `Unsupported` if there are more pages than are
/// compared.
pub fn diff(first: &Path, second: &Path, bases: &[PathBuf]) -> Result<Difference> {
    let state = RandomState::new();
    let [one, other] = [first, second].map(|path| {
        let mut images = Images::new(Environment::Hidden);
        let bases = bases_of(path, bases);
        load(path, &bases, &mut images)?;
        let hashes = PageHashes::read(path, &images, &bases, &state)?;
        let processes = processes::read(&images, Environment::Hidden);
        Ok::<_, crate::Error>((images, hashes, processes))
    });
    let ((images, hashes, before), (other_images, other_hashes, after)) = (one?, other?);
    let known: HashMap<(u32, u32), &ProcessReport> =
        before.iter().map(|process| ((process.pid, process.parent), process)).collect();
    let remaining: HashMap<(u32, u32), ()> = after.iter().map(|p| ((p.pid, p.parent), ())).collect();
    let mut difference = Difference {
        schema: 1,
        added: Vec::new(),
        gone: before
            .iter()
            .filter(|process| !remaining.contains_key(&(process.pid, process.parent)))
            .map(Named::of)
            .collect(),
        changed: Vec::new(),
        problems: Vec::new(),
    };
    for process in &after {
        let Some(was) = known.get(&(process.pid, process.parent)) else {
            difference.added.push(Named::of(process));
            continue;
        };
        let pages = |images: &Images, hashes: &PageHashes<'_>| {
            images.space(process.pid).map(|space| hashes.of_process(&space)).unwrap_or_default()
        };
        let (old, new) = (pages(&images, &hashes), pages(&other_images, &other_hashes));
        let areas =
            other_images.space(process.pid).map(|space| space.memory.areas.clone()).unwrap_or_default();
        difference.changed.extend(changed(was, process, &old, &new, &areas));
    }
    difference.problems = images.problems();
    difference.problems.extend(other_images.problems());
    Ok(difference)
}

/// What has changed of a process; `None` if nothing has.
fn changed(
    was: &ProcessReport,
    is: &ProcessReport,
    old: &HashMap<u64, u64>,
    new: &HashMap<u64, u64>,
    areas: &[Area],
) -> Option<Changed> {
    let mut pages = PageChanges::default();
    let mut by_area: BTreeMap<String, u64> = BTreeMap::new();
    let mut count = |address: u64| *by_area.entry(kind_at(areas, address).to_owned()).or_default() += 1;
    for (address, content) in new {
        match old.get(address) {
            Some(before) if before == content => pages.same += 1,
            Some(_) => pages.changed += 1,
            None => pages.added += 1,
        }
        if old.get(address) != Some(content) {
            count(*address);
        }
    }
    for address in old.keys().filter(|address| !new.contains_key(address)) {
        pages.gone += 1;
        count(*address);
    }
    let missing = |from: &ProcessReport, of: &ProcessReport| -> Vec<OpenDescriptor> {
        let there: Vec<_> = of.descriptors.iter().map(identity).collect();
        from.descriptors.iter().filter(|open| !there.contains(&identity(open))).cloned().collect()
    };
    let renamed = (&was.name, &was.command_line) != (&is.name, &is.command_line);
    let (opened, closed) = (missing(is, was), missing(was, is));
    let nothing = by_area.is_empty() && opened.is_empty() && closed.is_empty() && !renamed;
    (!nothing).then(|| Changed {
        process: Named::of(is),
        was: renamed.then(|| Named::of(was)),
        opened,
        closed,
        pages,
        areas: by_area,
    })
}

/// What makes a descriptor the same.
fn identity(open: &OpenDescriptor) -> impl PartialEq + '_ {
    let socket = open.socket.as_ref().map(|socket| (socket.state, &socket.local, &socket.remote));
    (open.fd, open.kind, &open.path, socket)
}

fn kind_at(areas: &[Area], address: u64) -> &'static str {
    // They are in ascending order, or hostile: then the answer is as good as the question.
    let at = areas.partition_point(|area| area.end <= address);
    areas.get(at).filter(|area| area.start <= address).map_or("unmapped", |area| area.kind)
}

impl Difference {
    /// The same for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| {
            // Writing to a String does not fail.
            let _ = writeln!(out, "{text}");
        };
        for (sign, list) in [('-', &self.gone), ('+', &self.added)] {
            list.iter().for_each(|process| line(format!("{sign} {}", process.about())));
        }
        for changed in &self.changed {
            if let Some(was) = &changed.was {
                line(format!("~ {} (was {})", changed.process.about(), was.about()));
            } else {
                line(format!("~ {}", changed.process.about()));
            }
            for (sign, list) in [('-', &changed.closed), ('+', &changed.opened)] {
                list.iter().for_each(|open| line(format!("    {sign} {:>4}  {}", open.fd, descriptor(open))));
            }
            let PageChanges { same, changed: other, added, gone } = changed.pages;
            let areas: Vec<_> = changed.areas.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            let areas = if areas.is_empty() { String::new() } else { format!(" ({})", areas.join(", ")) };
            line(format!("    pages: {other} changed, {added} added, {gone} gone, {same} the same{areas}"));
        }
        self.problems.iter().for_each(|problem| line(format!("not read: {}", shown(problem))));
        if out.is_empty() { "nothing has changed\n".to_owned() } else { out }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::inspect::tests::{directory, good, tar_of};

    #[test]
    fn what_has_changed_is_told_and_nothing_else() {
        let mut images = good();
        images.sort();
        let first = directory(&images);
        assert_eq!(diff(first.path(), first.path(), &[]).expect("good").text(), "nothing has changed\n");
        // A page is written to, the descriptor is closed, the zombie is gone, and another process is there.
        for (name, bytes) in &mut images {
            match *name {
                "pages-3.img" => bytes[5] ^= 1,
                "fdinfo-5.img" => bytes.truncate(8),
                "pstree.img" => *bytes.iter_mut().find(|byte| **byte == 7).expect("its number") = 8,
                _ => {}
            }
        }
        let second = tempfile::NamedTempFile::new().expect("temporary file");
        fs::write(second.path(), tar_of(&images)).expect("write");
        let found = diff(first.path(), second.path(), &[]).expect("good");
        let pids = |list: &[Named]| list.iter().map(|named| named.pid).collect::<Vec<_>>();
        assert_eq!((pids(&found.gone), pids(&found.added)), (vec![7], vec![8]));
        let [changed] = &found.changed[..] else { panic!("{found:?}") };
        assert_eq!(changed.pages, PageChanges { same: 2, changed: 1, added: 0, gone: 0 });
        assert_eq!(changed.areas, BTreeMap::from([("heap".to_owned(), 1)]));
        assert_eq!((changed.opened.len(), changed.closed.len(), changed.was.is_none()), (0, 1, true));
        let text = found.text();
        for line in [
            "- 7 x\n",
            "+ 8\n",
            "~ 1 sh  /bin/sh -c",
            "    -    3  file",
            "pages: 1 changed, 0 added, 0 gone, 2 the same (1 heap)\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
