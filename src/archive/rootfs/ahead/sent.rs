// SPDX-License-Identifier: Apache-2.0
//! Owns what another host has of a tree, and the walks that find out what it has not. Must not know how it is written there.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::fs::File;
use std::io::{ErrorKind as IoErrorKind, Read as _, Write};
use std::os::fd::BorrowedFd;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use super::super::base::{Identity, facts, plain};
use super::super::pack::open_file;
use super::super::walk::{Tree, not_read, vanished, walk_tree};
use super::PIECE;
use super::settled::{Rule, identity};
use super::stream::Stream;
use crate::archive::entry::{Entry, Kind};
use crate::archive::printable;
use crate::archive::sink::changed;
use crate::sys::metadata::Metadata;
use crate::{Context, Result};

/// The beginning of the digest of a piece: enough, for only the container itself could gain by two that are the same.
type Mark = [u8; 16];

/// What another host has of a tree.
#[derive(Debug)]
pub struct SentTree {
    files: HashMap<Vec<u8>, Known>,
    /// The paths of files by their inode numbers, some of which have others by now.
    inodes: HashMap<u64, Vec<u8>>,
    /// Whether the file system tells of writes.
    told: bool,
    /// How many rounds were made.
    rounds: u32,
}

/// What it has under one path.
#[derive(Debug)]
struct Known {
    kind: Kind,
    /// Of everything but the content.
    facts: [u8; 32],
    /// Of a file that is not empty.
    content: Option<Content>,
    /// The last round that has found it.
    seen: u32,
}

#[derive(Debug)]
struct Content {
    inode: u64,
    marks: Vec<Mark>,
    /// As long as the file is this one, there is nothing else in it.
    settled: Option<Identity>,
}

/// What one round was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SentRound {
    /// Files of all kinds that were sent, wholly or in part.
    pub files: u64,
    /// Files that were told to be gone; what was in a directory does not count.
    pub removed: u64,
    /// Bytes of their contents that were sent, before compression.
    pub bytes: u64,
}

/// Asks, now and then, whether to go on.
pub(super) type GoOn<'a> = dyn Fn() -> Result<()> + 'a;

impl SentTree {
    /// Nothing yet. `told` as [`tells_of_writes`](super::tells_of_writes) says: whether what is written to a file is seen by its times. Otherwise
    /// each file is read in each round.
    pub fn new(told: bool) -> Self {
        Self { files: HashMap::new(), inodes: HashMap::new(), told, rounds: 0 }
    }

    /// Writes what the tree beneath `root` has by now, and the other host has not, to `to`.
    ///
    /// # Errors
    /// As archiving a root filesystem; those of `go_on`. It is not known then what the other host has: there can be no further round.
    pub fn round<W: Write>(
        &mut self,
        root: BorrowedFd<'_>,
        tree: Tree,
        to: W,
        go_on: &GoOn<'_>,
    ) -> Result<SentRound> {
        self.rounds += 1;
        let mut round = Round {
            rule: Rule::from(SystemTime::now(), self.told),
            sent: self,
            stream: Stream::new(to)?,
            tree,
            go_on,
            directories: Vec::new(),
            made: Vec::new(),
            renamed_into: HashSet::new(),
            touched: HashSet::new(),
            anew: HashSet::new(),
            buffer: vec![0; PIECE],
            totals: SentRound::default(),
        };
        walk_tree(root, tree, &mut |entry, metadata, dir, name| {
            (round.go_on)()?;
            round.entry(&entry, metadata, (dir, name))
        })?;
        round.finish()
    }
}

struct Round<'a, W: Write> {
    sent: &'a mut SentTree,
    stream: Stream<W>,
    tree: Tree,
    rule: Rule,
    go_on: &'a GoOn<'a>,
    /// Those that are there, and whether they are other now. Their entries come last: what is laid into them changes their times.
    directories: Vec<(Entry, bool)>,
    /// Those that are made; their entries come again if files are renamed into them, for that is after they were complete.
    made: Vec<Entry>,
    renamed_into: HashSet<Vec<u8>>,
    /// Directories that something is laid into, or taken out of.
    touched: HashSet<Vec<u8>>,
    /// What has got a new inode there.
    anew: HashSet<Vec<u8>>,
    buffer: Vec<u8>,
    totals: SentRound,
}

type At<'a> = (BorrowedFd<'a>, &'a CStr);

/// A file that is being read.
struct Reading<'a> {
    file: File,
    entry: &'a Entry,
    left: u64,
    /// Whether it had as many bytes as were listed.
    exact: bool,
    may_settle: bool,
}

impl<W: Write> Round<'_, W> {
    fn entry(&mut self, entry: &Entry, metadata: &Metadata, at: At<'_>) -> Result<()> {
        let facts = facts(entry);
        let path = plain(&entry.path);
        let known = self.sent.files.get(path);
        let same = known.is_some_and(|known| known.facts == facts);
        let kind = known.map(|known| known.kind);
        match entry.kind {
            Kind::Directory if kind == Some(Kind::Directory) => {
                self.directories.push((entry.clone(), !same));
                self.has(entry, facts, None);
            }
            Kind::HardLink if !self.has_target(entry) => {
                // Its first name vanished before it could be read.
                if self.tree == Tree::StandsStill {
                    return Err(changed(&printable(&entry.link), "vanished"));
                }
            }
            Kind::HardLink if same && !self.anew.contains(&entry.link) => self.has(entry, facts, None),
            Kind::File if entry.size > 0 => return self.file(entry, facts, metadata, at),
            Kind::HardLink => self.send(entry, facts)?,
            Kind::Directory => {
                self.send(entry, facts)?;
                self.made.push(entry.clone());
            }
            _ if same => self.has(entry, facts, None),
            _ => self.send(entry, facts)?,
        }
        Ok(())
    }

    /// Sends an entry without data.
    fn send(&mut self, entry: &Entry, facts: [u8; 32]) -> Result<()> {
        self.stream.entry(entry)?;
        self.is_new(entry);
        self.has(entry, facts, None);
        Ok(())
    }

    /// Takes note that the other host makes this anew.
    fn is_new(&mut self, entry: &Entry) {
        let path = plain(&entry.path);
        if self.sent.files.get(path).is_some_and(|known| known.kind == Kind::Directory) {
            // What was beneath it went with it.
            let beneath = [path, b"/"].concat();
            self.sent.files.retain(|other, _| !other.starts_with(&beneath));
        }
        self.totals.files += 1;
        self.touched.insert(parent(path).to_vec());
        self.anew.insert(path.to_vec());
    }

    /// Takes note of what the other host has then.
    fn has(&mut self, entry: &Entry, facts: [u8; 32], content: Option<Content>) {
        let known = Known { kind: entry.kind, facts, content, seen: self.sent.rounds };
        self.sent.files.insert(plain(&entry.path).to_vec(), known);
    }

    fn has_target(&self, entry: &Entry) -> bool {
        let target = self.sent.files.get(&entry.link);
        target.is_some_and(|known| {
            known.seen == self.sent.rounds && !matches!(known.kind, Kind::Directory | Kind::HardLink)
        })
    }

    /// A file with something in it.
    fn file(&mut self, entry: &Entry, facts: [u8; 32], metadata: &Metadata, at: At<'_>) -> Result<()> {
        let path = plain(&entry.path);
        if !self.sent.files.contains_key(path) {
            self.was_moved(path, facts, metadata)?;
        }
        let known = self.sent.files.get_mut(path).filter(|known| known.kind == Kind::File);
        let mut same = false;
        if let Some(known) = known {
            same = known.facts == facts;
            let settled = known.content.as_ref().and_then(|content| content.settled);
            if same && settled == Some(identity(metadata)) {
                known.seen = self.sent.rounds;
                return Ok(());
            }
        }
        let Some(mut reading) = self.open(entry, metadata, at)? else { return Ok(()) };
        let before = self.sent.files.get_mut(path).and_then(|known| known.content.take());
        let marks = match before {
            Some(content) => self.patch(&mut reading, same, &content.marks)?,
            None => self.whole(&mut reading)?,
        };
        let is_settled = reading.may_settle && reading.exact && Rule::still(&reading.file, metadata);
        let settled = is_settled.then(|| identity(metadata));
        self.sent.inodes.insert(metadata.inode, path.to_vec());
        self.has(entry, facts, Some(Content { inode: metadata.inode, marks, settled }));
        Ok(())
    }

    /// Has the other host rename what it has of a file under a path that this one had before.
    fn was_moved(&mut self, path: &[u8], facts: [u8; 32], metadata: &Metadata) -> Result<()> {
        let Some(before) = self.sent.inodes.get(&metadata.inode).cloned() else { return Ok(()) };
        let is_it =
            |known: &Known| known.content.as_ref().is_some_and(|content| content.inode == metadata.inode);
        if !self.sent.files.get(&before).is_some_and(is_it) {
            return Ok(());
        }
        let Some(mut known) = self.sent.files.remove(&before) else { return Ok(()) };
        self.stream.moved(&before, path)?;
        // Nothing was set on it since it was looked at.
        if known.content.as_ref().is_some_and(|content| content.settled == Some(identity(metadata))) {
            known.facts = facts;
        }
        self.totals.files += 1;
        self.touched.extend([parent(&before).to_vec(), parent(path).to_vec()]);
        self.renamed_into.insert(parent(path).to_vec());
        self.anew.insert(path.to_vec());
        self.sent.inodes.insert(metadata.inode, path.to_vec());
        self.sent.files.insert(path.to_vec(), known);
        Ok(())
    }

    /// Opens a file for reading; `None` if it has vanished.
    fn open<'e>(
        &self,
        entry: &'e Entry,
        metadata: &Metadata,
        (dir, name): At<'_>,
    ) -> Result<Option<Reading<'e>>> {
        let file = match open_file(dir, name) {
            Err(errno) if self.tree == Tree::Lives && vanished(errno) => return Ok(None),
            file => file.map_err(|errno| not_read(errno, &entry.path, "open"))?,
        };
        let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
        if !is_file {
            if self.tree == Tree::Lives {
                return Ok(None);
            }
            return Err(changed(&printable(&entry.path), "became something else"));
        }
        let may_settle = self.rule.may_be(&file, metadata);
        Ok(Some(Reading { file, entry, left: entry.size, exact: true, may_settle }))
    }

    /// Sends all of a file.
    fn whole(&mut self, reading: &mut Reading<'_>) -> Result<Vec<Mark>> {
        self.stream.entry(reading.entry)?;
        let mut marks = Vec::new();
        while let Some(length) = self.piece(reading)? {
            let piece = self.buffer.get(..length).unwrap_or_default();
            self.stream.data(piece)?;
            self.totals.bytes += length as u64;
            marks.push(mark(piece));
        }
        self.stream.end_data(reading.entry)?;
        self.is_new(reading.entry);
        Ok(marks)
    }

    /// Sends what is other in a file, if anything is.
    fn patch(&mut self, reading: &mut Reading<'_>, same: bool, before: &[Mark]) -> Result<Vec<Mark>> {
        let mut begun = false;
        let mut marks = Vec::new();
        if !same {
            self.stream.patch(reading.entry)?;
            begun = true;
        }
        loop {
            let offset = reading.entry.size - reading.left;
            let Some(length) = self.piece(reading)? else { break };
            let piece = self.buffer.get(..length).unwrap_or_default();
            let mark = mark(piece);
            if before.get(marks.len()) != Some(&mark) {
                if !begun {
                    self.stream.patch(reading.entry)?;
                    begun = true;
                }
                self.stream.piece(offset, piece)?;
                self.totals.bytes += length as u64;
            }
            marks.push(mark);
        }
        if begun {
            self.stream.end_patch()?;
            self.totals.files += 1;
        }
        Ok(marks)
    }

    /// Reads the next piece into the buffer. What a file has lost meanwhile is zeros.
    fn piece(&mut self, reading: &mut Reading<'_>) -> Result<Option<usize>> {
        let name = || printable(&reading.entry.path);
        let frozen = self.tree == Tree::StandsStill;
        if reading.left == 0 {
            if frozen && reading.file.metadata().is_ok_and(|metadata| metadata.len() != reading.entry.size) {
                return Err(changed(&name(), "grew"));
            }
            return Ok(None);
        }
        (self.go_on)()?;
        let length = usize::try_from(reading.left).unwrap_or(PIECE).min(PIECE);
        let buffer = self.buffer.get_mut(..length).unwrap_or_default();
        let mut filled = 0;
        while let Some(rest @ [_, ..]) = buffer.get_mut(filled..) {
            match reading.file.read(rest) {
                Ok(0) if frozen => return Err(changed(&name(), "shrank")),
                Ok(0) => {
                    reading.exact = false;
                    rest.fill(0);
                    break;
                }
                Ok(read) => filled += read,
                Err(error) if error.kind() == IoErrorKind::Interrupted => {}
                Err(error) => return Err(error).context(|| format!("read {}", name())),
            }
        }
        reading.left -= length as u64;
        Ok(Some(length))
    }

    /// What is gone, directories, and the end.
    fn finish(mut self) -> Result<SentRound> {
        let now = self.sent.rounds;
        let gone: Vec<Vec<u8>> = self
            .sent
            .files
            .iter()
            .filter(|(_, known)| known.seen != now)
            .map(|(path, _)| path.clone())
            .collect();
        self.sent.files.retain(|_, known| known.seen == now);
        if !gone.is_empty() {
            let files = &self.sent.files;
            self.sent.inodes.retain(|_, path| files.contains_key(path));
        }
        let is_directory =
            |path: &[u8]| self.sent.files.get(path).is_some_and(|known| known.kind == Kind::Directory);
        // What was beneath something that is gone itself, or is no directory any more, went with it.
        let named: Vec<&[u8]> =
            gone.iter().map(Vec::as_slice).filter(|path| is_directory(parent(path))).collect();
        if !named.is_empty() {
            self.stream.removed(named.iter().copied())?;
            self.totals.removed = named.len() as u64;
            self.touched.extend(named.iter().map(|path| parent(path).to_vec()));
        }
        for (entry, other) in &self.directories {
            if *other || self.touched.contains(plain(&entry.path)) {
                self.stream.entry(entry)?;
                self.totals.files += u64::from(*other);
            }
        }
        for entry in &self.made {
            if self.renamed_into.contains(plain(&entry.path)) {
                self.stream.entry(entry)?;
            }
        }
        self.stream.finish()?;
        Ok(self.totals)
    }
}

fn mark(piece: &[u8]) -> Mark {
    let digest: [u8; 32] = Sha256::digest(piece).into();
    let [mark @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = digest;
    mark
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(b".", |slash| &path[..slash])
}
