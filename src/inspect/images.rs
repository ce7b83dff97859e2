// SPDX-License-Identifier: Apache-2.0
//! The images of a checkpoint as far as they are looked at: the small ones whole, of the pages those that hold command lines
//! and, if asked for, environments. Bounded in number and size, wherever they come from.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

use super::report::Environment;
use crate::archive::{Selection, Wanted};
use crate::criu::image::{Kept, Memory, PAGE, PageTable, memory, page_table};
use crate::{Error, Result};

/// Bytes of one image, and of all, that are kept.
const LARGEST: u64 = 64 << 20;
const ALL: u64 = 256 << 20;
/// Bytes of all pages that are kept.
const PAGES: u64 = 64 << 20;
/// Bytes of a command line, and of an environment, that are shown.
const COMMAND_LINE: u64 = 32 << 10;
const ENVIRONMENT: u64 = 256 << 10;
/// Sentences about what cannot be read.
const PROBLEMS: usize = 100;

/// Where archives have the images.
const DIRECTORY: &str = "checkpoint/";
/// Facts beside the images that are looked at.
const FACTS: [&str; 7] = [
    "migrate.json",
    "config.dump",
    "spec.dump",
    "network.status",
    "stats-dump",
    "status.dump",
    "bind.mounts",
];

/// The images of one checkpoint.
#[derive(Debug)]
pub(super) struct Images {
    environment: Environment,
    kept: BTreeMap<String, Vec<u8>>,
    bytes: u64,
    /// Beginning and bytes of pieces of the files of pages.
    pages: BTreeMap<u32, BTreeMap<u64, Vec<u8>>>,
    page_bytes: u64,
    /// Files of pages that were passed, and what was wanted of them then.
    passed: BTreeMap<u32, Vec<Range<u64>>>,
    spaces: RefCell<BTreeMap<u32, Rc<Space>>>,
    problems: RefCell<BTreeSet<String>>,
}

/// The address space of a process, and where its pages are.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) memory: Memory,
    pub(super) table: Option<PageTable>,
}

impl Images {
    pub(super) fn new(environment: Environment) -> Self {
        Self {
            environment,
            kept: BTreeMap::new(),
            bytes: 0,
            pages: BTreeMap::new(),
            page_bytes: 0,
            passed: BTreeMap::new(),
            spaces: RefCell::default(),
            problems: RefCell::default(),
        }
    }

    /// Whether an image, or a fact beside it, is looked at.
    pub(super) fn is_looked_at(name: &str) -> bool {
        const ONE: [&str; 4] = ["inventory.img", "pstree.img", "files.img", "memfd.img"];
        const MANY: [&str; 7] = ["core-", "ids-", "fs-", "mm-", "pagemap-", "fdinfo-", "mountpoints-"];
        let many = |prefix: &&str| name.starts_with(*prefix) && name.ends_with(".img");
        FACTS.contains(&name) || ONE.contains(&name) || MANY.iter().any(many)
    }

    /// The number of a file of pages.
    pub(super) fn pages_id(name: &str) -> Option<u32> {
        name.strip_prefix("pages-")?.strip_suffix(".img")?.parse().ok()
    }

    /// Whether there is room for an image of this size; tells if not.
    pub(super) fn admit(&self, name: &str, size: u64) -> bool {
        let fits = size <= LARGEST && self.bytes.saturating_add(size) <= ALL;
        if !fits {
            self.tell(format!("{name}: {size} bytes are more than are looked at"));
        }
        fits
    }

    pub(super) fn insert(&mut self, name: &str, bytes: Vec<u8>) {
        self.bytes += bytes.len() as u64;
        self.kept.insert(name.to_owned(), bytes);
    }

    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        self.kept.get(name).map(Vec::as_slice)
    }

    /// The middle parts of the names `PREFIX…SUFFIX`.
    pub(super) fn numbers(&self, prefix: &str) -> Vec<u32> {
        let middle = |name: &String| name.strip_prefix(prefix)?.strip_suffix(".img")?.parse().ok();
        self.kept.keys().filter_map(middle).collect()
    }

    /// An image, decoded; `None` if it is not there or cannot be, which is told.
    pub(super) fn decode<T>(&self, name: &str, decode: impl FnOnce(&[u8]) -> Result<T>) -> Option<T> {
        match decode(self.get(name)?) {
            Ok(decoded) => Some(decoded),
            Err(error) => {
                self.problem(name, &error);
                None
            }
        }
    }

    pub(super) fn problem(&self, name: &str, error: &Error) {
        self.tell(format!("{name}: {}", error.chain()));
    }

    pub(super) fn tell(&self, problem: String) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() < PROBLEMS {
            problems.insert(problem);
        }
    }

    pub(super) fn problems(&self) -> Vec<String> {
        self.problems.borrow().iter().cloned().collect()
    }

    /// The processor's features of the source, as the manifest tells them.
    pub(super) fn cpu_features(&self) -> Vec<String> {
        let manifest: Option<serde_json::Value> =
            self.get("migrate.json").and_then(|bytes| serde_json::from_slice(bytes).ok());
        let features = manifest.and_then(|m| serde_json::from_value(m.get("cpu_features")?.clone()).ok());
        features.unwrap_or_default()
    }

    /// The address space of a process.
    pub(super) fn space(&self, pid: u32) -> Option<Rc<Space>> {
        if let Some(known) = self.spaces.borrow().get(&pid) {
            return Some(Rc::clone(known));
        }
        let memory = self.decode(&format!("mm-{pid}.img"), memory)?;
        let table = self.decode(&format!("pagemap-{pid}.img"), page_table);
        let space = Rc::new(Space { memory, table });
        // A table that is not there may come later.
        if space.table.is_some() {
            self.spaces.borrow_mut().insert(pid, Rc::clone(&space));
        }
        Some(space)
    }

    /// The numbers of the files of pages that processes have.
    pub(super) fn page_files(&self) -> BTreeSet<u32> {
        let spaces = self.numbers("mm-").into_iter().filter_map(|pid| self.space(pid));
        spaces.filter_map(|space| space.table.as_ref().map(|table| table.file)).collect()
    }

    /// What is wanted of a file of pages: the pages of command lines, and of environments.
    pub(super) fn pieces(&self, file: u32) -> Vec<Range<u64>> {
        let mut pages = BTreeSet::new();
        for pid in self.numbers("mm-") {
            let Some(space) = self.space(pid) else { continue };
            let Some(table) = space.table.as_ref().filter(|table| table.file == file) else { continue };
            let memory = &space.memory;
            let mut wanted = vec![shown(memory.arguments, COMMAND_LINE)];
            if self.environment == Environment::Shown {
                wanted.push(shown(memory.environment, ENVIRONMENT));
            }
            for range in wanted.into_iter().filter(|range| !range.is_empty()) {
                let addresses = (range.start / PAGE..=(range.end - 1) / PAGE).map(|page| page * PAGE);
                pages.extend(addresses.filter_map(|address| offset_of(table, address)));
            }
        }
        let left = PAGES.saturating_sub(self.page_bytes) / PAGE;
        let pages = pages.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX));
        pages.filter_map(|at| Some(at..at.checked_add(PAGE)?)).collect()
    }

    pub(super) fn insert_piece(&mut self, file: u32, offset: u64, bytes: Vec<u8>) {
        self.page_bytes += bytes.len() as u64;
        self.pages.entry(file).or_default().insert(offset, bytes);
    }

    /// Whether a file of pages was passed before it was known what is wanted of it.
    pub(super) fn wants_pages_again(&self) -> bool {
        self.passed
            .iter()
            .any(|(file, wanted)| self.pieces(*file) != *wanted && !self.pieces(*file).is_empty())
    }

    /// The arguments of a process; `None` if its pages are not here.
    pub(super) fn arguments(&self, space: &Space) -> Option<Vec<String>> {
        self.strings(space, shown(space.memory.arguments, COMMAND_LINE))
    }

    /// The environment of a process.
    pub(super) fn environment(&self, space: &Space) -> Option<Vec<String>> {
        self.strings(space, shown(space.memory.environment, ENVIRONMENT))
    }

    /// What is in memory there, cut at its zero bytes.
    fn strings(&self, space: &Space, range: Range<u64>) -> Option<Vec<String>> {
        let table = space.table.as_ref()?;
        let mut text = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let page = at / PAGE * PAGE;
            let end = range.end.min(page.saturating_add(PAGE));
            let bytes = self.pages.get(&table.file)?.get(&offset_of(table, page)?)?;
            let piece = usize::try_from(at - page).ok()?..usize::try_from(end - page).ok()?;
            text.extend_from_slice(bytes.get(piece)?);
            at = end;
        }
        let text = text.strip_suffix(b"\0").unwrap_or(&text);
        let words = text.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        Some(if text.is_empty() { Vec::new() } else { words.collect() })
    }
}

/// The beginning of a range of addresses.
fn shown((start, end): (u64, u64), most: u64) -> Range<u64> {
    start..end.min(start.saturating_add(most)).max(start)
}

/// Where a page is in its file.
fn offset_of(table: &PageTable, address: u64) -> Option<u64> {
    let within =
        |start: u64, pages: u64| (address.checked_sub(start)? / PAGE < pages).then_some(address - start);
    table
        .runs
        .iter()
        .filter(|run| run.kept == Kept::Here)
        .find_map(|run| run.offset.checked_add(within(run.address, run.pages)?))
}

impl Selection for Images {
    fn wanted(&mut self, name: &str, size: u64) -> Wanted {
        let image = name.strip_prefix(DIRECTORY).unwrap_or(name);
        let is_image = name.starts_with(DIRECTORY);
        if let Some(file) = Self::pages_id(image).filter(|_| is_image) {
            let pieces = self.pieces(file);
            self.passed.insert(file, pieces.clone());
            return Wanted::Pieces(pieces);
        }
        let is_wanted = Self::is_looked_at(image) && is_image != FACTS.contains(&name);
        if is_wanted && !self.kept.contains_key(image) && self.admit(name, size) {
            Wanted::All
        } else {
            Wanted::Nothing
        }
    }

    fn missing(&mut self, name: &str, error: Error) -> Result<()> {
        self.problem(name, &error);
        Ok(())
    }

    fn take(&mut self, name: &str, offset: u64, bytes: Vec<u8>) -> Result<()> {
        let image = name.strip_prefix(DIRECTORY).unwrap_or(name);
        match Self::pages_id(image) {
            Some(file) => self.insert_piece(file, offset, bytes),
            None => self.insert(image, bytes),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_looked_at_is_kept() {
        for name in ["pstree.img", "core-1.img", "pagemap-shmem-4.img", "spec.dump", "mountpoints-13.img"] {
            assert!(Images::is_looked_at(name), "{name}");
        }
        for name in ["pages-1.img", "tmpfs-dev-45.tar.gz.img", "core-1", "ghost-file-1.img", "rootfs.tar"] {
            assert!(!Images::is_looked_at(name), "{name}");
        }
        assert_eq!((Images::pages_id("pages-3.img"), Images::pages_id("pages-shmem-3.img")), (Some(3), None));
        let mut images = Images::new(Environment::Hidden);
        assert_eq!(images.wanted("checkpoint/files.img", ALL), Wanted::Nothing);
        assert_eq!(images.wanted("checkpoint/files.img", 9), Wanted::All);
        assert_eq!(images.wanted("files.img", 9), Wanted::Nothing, "it is beside the images");
        assert_eq!(images.wanted("spec.dump", 9), Wanted::All);
        assert_eq!(images.problems().len(), 1);
    }

    #[test]
    fn hostile_tables_lead_nowhere() {
        use crate::criu::image::Run;
        let run = |address, pages, offset| Run { address, pages, kept: Kept::Here, offset, on_demand: false };
        let table =
            PageTable { file: 1, runs: vec![run(u64::MAX - PAGE, u64::MAX, u64::MAX), run(PAGE, 2, 0)] };
        assert_eq!(offset_of(&table, 2 * PAGE), Some(PAGE));
        assert_eq!(offset_of(&table, 3 * PAGE), None);
        assert_eq!(offset_of(&table, u64::MAX), None);
        assert_eq!(shown((9, 3), 100), 9..9);
        assert_eq!(shown((u64::MAX, u64::MAX), 100), u64::MAX..u64::MAX);
    }
}
