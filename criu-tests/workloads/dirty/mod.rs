// SPDX-License-Identifier: Apache-2.0
//! `dirty`: memory of a `--kind` that changes by one step with each SIGUSR1, and at no other time. Each step tells which pages it has written
//! to (`written`, addresses with commas between); all that it holds is checked on every tick.
//!
//! `steps` does in turn what a program does with its memory; `sparse` touches 16 pages of 64 GiB; `thp` and `hugetlb` write to a page of
//! memory of huge pages; `fork` has a child with a copy, that writes to it; `clan` one with
//! the same memory; `large` has `--memory` bytes and writes to 5000 pages of them.

mod sys;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pause};

use crate::lifecycle::{Checked, During as _, Workload, expect_alive, expect_eq};
use crate::options::Options;
use crate::report::Fields;
use sys::{Kind, Mapping, PAGE};

/// Pages of the memory that steps are made in.
const PAGES: usize = 256;
/// Pages that one step of `large` writes to.
const MANY: usize = 5000;
const HUGE: usize = 2 << 20;
const SPARSE: usize = 64 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Steps {
    All,
    OneWrite,
    Fork,
    Many,
}

#[derive(Debug)]
pub(crate) struct Dirty {
    steps: Steps,
    /// Present until a step takes it to put another in its place.
    memory: Option<Mapping>,
    /// What is in which page, where it is not zero.
    words: BTreeMap<usize, u64>,
    step: u64,
    written: Vec<usize>,
    closed: Option<usize>,
    children: Vec<Pid>,
}

impl Dirty {
    pub(crate) fn new(options: &Options) -> Result<Self, String> {
        let kind = options.value("kind").unwrap_or("steps");
        let (memory, steps, filled) = match kind {
            "steps" => (Mapping::new(PAGES * PAGE, Kind::PLAIN), Steps::All, 64),
            "sparse" => (Mapping::new(SPARSE, Kind::SPARSE), Steps::OneWrite, 0),
            "thp" => (Mapping::new(16 * HUGE, Kind::PLAIN), Steps::OneWrite, 0),
            "hugetlb" => (Mapping::new(2 * HUGE, Kind::HUGE), Steps::OneWrite, 2 * HUGE / PAGE),
            "clan" => (Mapping::new(PAGES * PAGE, Kind::PLAIN), Steps::OneWrite, PAGES),
            "fork" => (Mapping::new(PAGES * PAGE, Kind::PLAIN), Steps::Fork, PAGES),
            "large" => {
                let bytes = usize::try_from(options.number("memory", 64 << 20)?).during("--memory")?;
                (Mapping::new(bytes, Kind::PLAIN), Steps::Many, bytes / PAGE)
            }
            other => return Err(format!("--kind {other}")),
        };
        let mut new = Self {
            steps,
            memory: Some(memory.during("mmap")?),
            words: BTreeMap::new(),
            step: 0,
            written: Vec::new(),
            closed: None,
            children: Vec::new(),
        };
        let pages = new.memory()?.pages();
        let first: Vec<usize> = match kind {
            "sparse" => (0..16).map(|index| index * (pages / 16) + index).collect(),
            "thp" => {
                new.memory()?.want_huge_pages().during("madvise")?;
                (0..pages).collect()
            }
            _ => (0..filled).collect(),
        };
        first.into_iter().try_for_each(|page| new.write(page))?;
        if kind == "clan" {
            new.children.push(sys::sharer().during("clone")?);
        }
        Ok(new)
    }

    fn memory(&self) -> Result<&Mapping, String> {
        self.memory.as_ref().ok_or_else(|| "a step has lost its memory".to_owned())
    }

    fn write(&mut self, page: usize) -> Checked {
        let word = (self.step << 32) + page as u64 + 1;
        self.memory()?.write(page, word);
        self.words.insert(page, word);
        self.written.push(page);
        Ok(())
    }

    fn take_a_step(&mut self) -> Checked {
        let pages = self.memory()?.pages();
        let spread = |count: usize, step: u64| (0..count).map(move |i| (i * 37 + step as usize * 11) % pages);
        match (self.steps, self.step % 6) {
            (Steps::OneWrite, _) => {
                let touched: Vec<usize> = self.words.keys().copied().collect();
                let page = touched.get(self.step as usize * 7 % touched.len()).copied();
                page.map_or(Ok(()), |page| self.write(page))
            }
            (Steps::Many, _) => {
                let apart = (pages / MANY).max(1);
                (0..MANY.min(pages)).try_for_each(|index| self.write(index * apart))
            }
            (Steps::Fork, 1) => self.fork(),
            (Steps::Fork, _) | (Steps::All, 1) => spread(24, self.step).try_for_each(|page| self.write(page)),
            (Steps::All, 2) => {
                self.memory = self.memory.take().map(Mapping::moved).transpose().during("mremap")?;
                self.write(3)
            }
            (Steps::All, 3) => {
                self.memory = self.memory.take().map(Mapping::anew).transpose().during("mmap")?;
                self.words.clear();
                (5..12).try_for_each(|page| self.write(page))
            }
            (Steps::All, 4) => {
                self.memory()?.give_up(6..9).during("madvise")?;
                self.words.retain(|page, _| !(6..9).contains(page));
                // It is a page of zeros by now.
                expect_eq("a page that was given up", self.memory()?.read(7), 0)?;
                self.write(8)
            }
            (Steps::All, 5) => {
                self.write(20)?;
                self.memory()?.protect(20, false).during("mprotect")?;
                self.closed = Some(20);
                Ok(())
            }
            (Steps::All, _) => {
                self.memory()?.protect(20, true).during("mprotect")?;
                self.closed = None;
                spread(64, self.step).try_for_each(|page| self.write(page))
            }
        }
    }

    /// A child that writes to its copy and waits.
    fn fork(&mut self) -> Checked {
        let memory = self.memory()?;
        let child = crate::sys::fork(|| {
            memory.write(40, 7);
            memory.write(41, 7);
            loop {
                pause();
            }
        });
        self.children.push(child.during("fork")?);
        Ok(())
    }
}

impl Workload for Dirty {
    fn tick(&mut self, _: u64) -> Checked {
        for (page, word) in &self.words {
            if self.closed != Some(*page) {
                expect_eq("a word of the memory", self.memory()?.read(*page), *word)?;
            }
        }
        self.children.iter().try_for_each(|child| expect_alive(*child))
    }

    fn poke(&mut self) -> Checked {
        self.step += 1;
        self.written.clear();
        self.take_a_step()
    }

    fn children(&self) -> Vec<Pid> {
        self.children.clone()
    }

    fn finish(&mut self) -> Checked {
        for child in &self.children {
            kill(*child, Signal::SIGKILL).during("kill")?;
            waitpid(*child, None).during("waitpid")?;
        }
        Ok(())
    }

    fn fields(&self, fields: &mut Fields) {
        let (start, pages) = self.memory.as_ref().map_or((0, 0), |memory| (memory.start(), memory.pages()));
        let mut written = String::new();
        for page in self.written.iter().take(PAGES) {
            // Writing into a String cannot fail.
            let _ = write!(written, "{},", start + page * PAGE);
        }
        fields.put("start", start);
        fields.put("end", start + pages * PAGE);
        fields.put("step", self.step);
        fields.put("written", written.trim_end_matches(','));
    }
}
