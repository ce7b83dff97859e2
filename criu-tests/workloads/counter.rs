// SPDX-License-Identifier: Apache-2.0
//! `counter`: holds memory, checks all of it in slices, dirties a part of it, and appends to a log through one
//! descriptor that it keeps open.
//!
//! The first fifteen sixteenths of the memory never change: `memory_checksum` is theirs, and a reader may compare it
//! before and after a move. The last sixteenth is rewritten page by page, each word telling its own generation.
//!
//! With `--tokens FILE` each tick takes the next token of a sequence: a line with its number and the time of day, in nanoseconds, is
//! added to the file, which others may add to as well.

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::lifecycle::{Checked, During as _, Workload, expect_eq};
use crate::options::Options;
use crate::report::Fields;

const PAGE_WORDS: usize = 4096 / size_of::<u64>();
const SLICES: usize = 32;
const SEED: u64 = 0x6d69_6772_6174_6531;

#[derive(Debug)]
pub(crate) struct Counter {
    memory: Memory,
    log: Log,
    tokens: Option<PathBuf>,
}

impl Counter {
    pub(crate) fn new(options: &Options) -> Result<Self, String> {
        let bytes = options.number("memory", 16 << 20)?;
        let bytes = usize::try_from(bytes).during("--memory")?;
        let path = options.dir()?.join("counter.log");
        let tokens = options.value("tokens").map(PathBuf::from);
        Ok(Self { memory: Memory::new(bytes), log: Log::create(&path)?, tokens })
    }
}

impl Workload for Counter {
    fn tick(&mut self, tick: u64) -> Checked {
        self.memory.dirty_a_page();
        let memory = self.memory.check_a_slice();
        self.log.append(tick)?;
        self.tokens.as_deref().map_or(Ok(()), |tokens| take_token(tokens, tick))?;
        memory
    }

    fn fields(&self, fields: &mut Fields) {
        fields.put("memory_bytes", self.memory.words.len() * size_of::<u64>());
        fields.put("memory_checksum", format_args!("{:016x}", self.memory.checksum));
        fields.put("memory_ok", if self.memory.damaged { "no" } else { "yes" });
        fields.put("memory_passes", self.memory.passes);
        fields.put("file_offset", self.log.offset);
        fields.put("file_size", self.log.size);
    }
}

/// The file is open no longer than that takes: who looks at the container sees another's additions as well.
fn take_token(tokens: &Path, tick: u64) -> Checked {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).during("the time of day")?;
    let mut file = OpenOptions::new().append(true).open(tokens).during("tokens: open")?;
    file.write_all(format!("{tick} {}\n", now.as_nanos()).as_bytes()).during("tokens: write")
}

#[derive(Debug)]
struct Memory {
    words: Vec<u64>,
    constant: usize,
    /// The generation of each page behind the constant part.
    generations: Vec<u64>,
    written: u64,
    checksum: u64,
    next_word: usize,
    running: u64,
    passes: u64,
    damaged: bool,
}

impl Memory {
    fn new(bytes: usize) -> Self {
        let pages = (bytes / 4096).max(SLICES);
        let changing = (pages / 16).max(1);
        let constant = (pages - changing) * PAGE_WORDS;
        let words: Vec<u64> =
            (0..pages * PAGE_WORDS).map(|i| pattern(if i < constant { SEED } else { 0 }, i)).collect();
        let checksum = words[..constant].iter().fold(0, |sum, word| fold(sum, *word));
        Self {
            words,
            constant,
            generations: vec![0; changing],
            written: 0,
            checksum,
            next_word: 0,
            running: 0,
            passes: 0,
            damaged: false,
        }
    }

    fn dirty_a_page(&mut self) {
        self.written += 1;
        let pages = self.generations.len();
        let page = usize::try_from(self.written).unwrap_or(0) % pages;
        self.generations[page] = self.written;
        let first = self.constant + page * PAGE_WORDS;
        for (i, word) in self.words[first..first + PAGE_WORDS].iter_mut().enumerate() {
            *word = pattern(self.written, first + i);
        }
    }

    fn check_a_slice(&mut self) -> Checked {
        let first = self.next_word;
        let end = (first + self.words.len().div_ceil(SLICES)).min(self.words.len());
        let mut wrong = None;
        for (i, word) in self.words[first..end].iter().enumerate().map(|(i, word)| (first + i, *word)) {
            let seed = match i.checked_sub(self.constant) {
                None => {
                    self.running = fold(self.running, word);
                    SEED
                }
                Some(offset) => self.generations[offset / PAGE_WORDS],
            };
            if word != pattern(seed, i) {
                wrong.get_or_insert((i, word));
            }
        }
        self.next_word = end;
        let mut checksum = self.checksum;
        if end == self.words.len() {
            checksum = self.running;
            (self.next_word, self.running, self.passes) = (0, 0, self.passes + 1);
        }
        let result = match wrong {
            Some((i, word)) => Err(format!("memory word {i} is {word:016x}")),
            None => expect_eq("memory checksum", checksum, self.checksum),
        };
        self.damaged |= result.is_err();
        result
    }
}

/// The word that belongs at an index: a bijective mix (the finaliser of SplitMix64), so no two places look alike.
fn pattern(seed: u64, index: usize) -> u64 {
    let mut z = seed.wrapping_add((index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn fold(sum: u64, word: u64) -> u64 {
    (sum.rotate_left(5) ^ word).wrapping_mul(0x2127_599b_f432_5c37)
}

/// The log: written through one descriptor, at the descriptor's own offset.
#[derive(Debug)]
struct Log {
    file: File,
    offset: u64,
    size: u64,
    last: String,
}

impl Log {
    fn create(path: &std::path::Path) -> Result<Self, String> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .during(&path.display().to_string())?;
        Ok(Self { file, offset: 0, size: 0, last: String::new() })
    }

    fn append(&mut self, tick: u64) -> Checked {
        let at = self.file.stream_position().during("log: lseek")?;
        expect_eq("log offset", at, self.offset)?;
        let size = self.file.metadata().during("log: fstat")?.len();
        expect_eq("log size", size, self.size)?;
        let mut last = vec![0; self.last.len()];
        self.file.read_exact_at(&mut last, at - self.last.len() as u64).during("log: pread")?;
        expect_eq("last log line", last.as_slice(), self.last.as_bytes())?;

        let line = format!("tick {tick}\n");
        self.file.write_all(line.as_bytes()).during("log: write")?;
        self.offset += line.len() as u64;
        self.size = self.offset;
        self.last = line;
        Ok(())
    }
}
