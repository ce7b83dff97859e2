// SPDX-License-Identifier: Apache-2.0
//! `scribe`: a tree of files that it writes to in every way there is, all the time: in the middle, at the end, through a mapping that is
//! there for a moment and through one that stays, by another file of the same name; it moves, deletes, links and cuts them, changes their
//! modes, and renames their directories. It knows of each block what must be in it, and looks.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::lifecycle::{Checked, During as _, Workload, expect_eq};
use crate::options::Options;
use crate::report::Fields;
use crate::sys::MappedFile;

const BLOCK: usize = 4096;
const DIRECTORIES: usize = 8;
/// So many are looked at in each tick.
const LOOKS: usize = 4;

#[derive(Debug)]
pub(crate) struct Scribe {
    root: PathBuf,
    directories: Vec<String>,
    written: Vec<Written>,
    /// The first file is mapped all the time, and only ever written to so.
    mapping: MappedFile,
    /// How many names were given.
    names: u64,
    next: usize,
    passes: u64,
}

/// A file, and what is in it.
#[derive(Debug)]
struct Written {
    directory: usize,
    name: String,
    second: Option<String>,
    mode: u32,
    /// Of each block: what it was made of.
    blocks: Vec<u64>,
}

impl Scribe {
    pub(crate) fn new(options: &Options) -> Result<Self, String> {
        let root = options.dir()?.join("scribe");
        let files = usize::try_from(options.number("files", 300)?).during("--files")?.max(8);
        let length = usize::try_from(options.number("blocks", 54)?).during("--blocks")?.max(4);
        let directories: Vec<_> = (0..DIRECTORIES).map(|n| format!("d{n}")).collect();
        for directory in &directories {
            fs::create_dir_all(root.join(directory)).during("mkdir")?;
        }
        let mut written = Vec::new();
        for number in 0..files {
            let blocks = (0..length).map(|n| mixed((number * length + n) as u64)).collect();
            let file = Written {
                directory: number % DIRECTORIES,
                name: format!("f{number}"),
                second: None,
                mode: 0o644,
                blocks,
            };
            file.fill(&root.join(&directories[file.directory]).join(&file.name))?;
            written.push(file);
        }
        let first = root.join(&directories[0]).join("f0");
        let file = OpenOptions::new().read(true).write(true).open(first).during("open")?;
        let mapping = MappedFile::of(file.as_fd(), length * BLOCK).during("mmap")?;
        Ok(Self { root, directories, written, mapping, names: files as u64, next: 0, passes: 0 })
    }

    /// What is to be done in this tick, to one file.
    fn deed(&mut self, tick: u64) -> Checked {
        let content = mixed(tick ^ 0x5c71_be00);
        let chosen = 1 + (mixed(tick) % (self.written.len() as u64 - 1)) as usize;
        let position = (content % self.written[chosen].blocks.len() as u64) as usize;
        let path = self.path(chosen);
        let is_single = self.written[chosen].second.is_none();
        let open = || OpenOptions::new().read(true).write(true).open(&path).during("open");
        match tick % 10 {
            0 => {
                open()?.write_all_at(&block(content), (position * BLOCK) as u64).during("write")?;
                self.written[chosen].blocks[position] = content;
            }
            1 => {
                let mut file = OpenOptions::new().append(true).open(&path).during("open")?;
                file.write_all(&block(content)).during("append")?;
                self.written[chosen].blocks.push(content);
            }
            2 if is_single => {
                let blocks =
                    self.written[chosen].blocks.iter().map(|before| mixed(before ^ content)).collect();
                self.written[chosen].blocks = blocks;
                self.written[chosen].mode = 0o644;
                let temporary = self.root.join("temporary");
                self.written[chosen].fill(&temporary)?;
                fs::rename(temporary, path).during("replace")?;
            }
            3 if is_single => {
                fs::remove_file(path).during("unlink")?;
                let name = self.new_name();
                let file = &mut self.written[chosen];
                (file.name, file.directory, file.mode) = (name, (file.directory + 3) % DIRECTORIES, 0o644);
                self.written[chosen].fill(&self.path(chosen))?;
            }
            4 if is_single => {
                let name = self.new_name();
                let file = &mut self.written[chosen];
                (file.name, file.directory) = (name, (file.directory + 1) % DIRECTORIES);
                fs::rename(path, self.path(chosen)).during("rename")?;
            }
            2..=5 => match self.written[chosen].second.take() {
                Some(second) => fs::remove_file(self.root.join(second)).during("unlink a second name")?,
                None => {
                    let name = self.new_name();
                    fs::hard_link(path, self.root.join(&name)).during("link")?;
                    self.written[chosen].second = Some(name);
                }
            },
            6 => {
                let mode = 0o600 | (content as u32 & 0o177);
                fs::set_permissions(path, Permissions::from_mode(mode)).during("chmod")?;
                self.written[chosen].mode = mode;
            }
            7 => {
                let file = open()?;
                let mut mapping = MappedFile::of(file.as_fd(), (position + 1) * BLOCK).during("mmap")?;
                drop(file);
                mapping.store(position * BLOCK, &block(content));
                self.written[chosen].blocks[position] = content;
            }
            8 if position > 0 => {
                open()?.set_len((position * BLOCK) as u64).during("cut")?;
                self.written[chosen].blocks.truncate(position);
            }
            _ => {
                let (number, name) = (chosen % DIRECTORIES, self.new_name());
                let from = self.root.join(&self.directories[number]);
                fs::rename(from, self.root.join(&name)).during("rename a directory")?;
                self.directories[number] = name;
            }
        }
        Ok(())
    }

    fn new_name(&mut self) -> String {
        self.names += 1;
        format!("n{}", self.names)
    }

    fn path(&self, number: usize) -> PathBuf {
        let file = &self.written[number];
        self.root.join(&self.directories[file.directory]).join(&file.name)
    }

    fn look_at(&self, number: usize) -> Checked {
        let (file, path) = (&self.written[number], self.path(number));
        let name = path.display();
        let metadata = fs::metadata(&path).during(&format!("stat {name}"))?;
        expect_eq(&format!("mode of {name}"), metadata.mode() & 0o7777, file.mode)?;
        expect_eq(&format!("names of {name}"), metadata.nlink(), 1 + u64::from(file.second.is_some()))?;
        if let Some(second) = &file.second {
            let second = fs::metadata(self.root.join(second)).during(second)?;
            expect_eq(&format!("file behind {name}"), second.ino(), metadata.ino())?;
        }
        let content = fs::read(&path).during(&format!("read {name}"))?;
        expect_eq(&format!("length of {name}"), content.len(), file.blocks.len() * BLOCK)?;
        for (n, (found, made_of)) in content.chunks(BLOCK).zip(&file.blocks).enumerate() {
            if found != block(*made_of) {
                return Err(format!("block {n} of {name} is another"));
            }
        }
        Ok(())
    }

    /// That there is nothing else.
    fn count(&self) -> Checked {
        let seconds = self.written.iter().filter(|file| file.second.is_some()).count();
        let top = fs::read_dir(&self.root).during("list")?.count();
        expect_eq("names at the top", top, DIRECTORIES + seconds)?;
        let mut all = 0;
        for directory in &self.directories {
            all += fs::read_dir(self.root.join(directory)).during("list")?.count();
        }
        expect_eq("names in directories", all, self.written.len())
    }
}

impl Workload for Scribe {
    fn tick(&mut self, tick: u64) -> Checked {
        let content = mixed(tick ^ 0x3a99_ed00);
        let position = (content % self.written[0].blocks.len() as u64) as usize;
        self.mapping.store(position * BLOCK, &block(content));
        self.written[0].blocks[position] = content;
        self.deed(tick)?;
        self.look_at(0)?;
        for _ in 0..LOOKS {
            self.look_at(self.next)?;
            self.next += 1;
            if self.next == self.written.len() {
                self.count()?;
                (self.next, self.passes) = (0, self.passes + 1);
            }
        }
        Ok(())
    }

    fn fields(&self, fields: &mut Fields) {
        fields.put("passes", self.passes);
    }
}

impl Written {
    fn fill(&self, path: &Path) -> Checked {
        let mut file = File::create(path).during("create")?;
        let content: Vec<u8> = self.blocks.iter().flat_map(|made_of| block(*made_of)).collect();
        file.write_all(&content).during("fill")?;
        file.set_permissions(Permissions::from_mode(self.mode)).during("chmod")
    }
}

fn block(made_of: u64) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    for (n, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&mixed(made_of.wrapping_add(n as u64)).to_le_bytes());
    }
    bytes
}

/// A bijection after which no two numbers look alike (the finaliser of SplitMix64).
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
