// SPDX-License-Identifier: Apache-2.0
//! Processes that share what processes seldom share.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, IntoRawFd as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, chdir, getpid};

use super::{Made, child, made, path, sys};
use crate::lifecycle::{Checked, During as _, PATIENCE, expect_alive, expect_eq};

super::exhibits![shared_descriptors, shared_file_system_information];

/// `KCMP_FILES`, `KCMP_FS`.
const FILES: i32 = 2;
const FS: i32 = 3;

/// A process that does something whenever it is asked to, without pipes, since its descriptors are those of others.
struct Partner {
    pid: Pid,
    words: &'static [AtomicU64],
}

impl Partner {
    fn start(flags: i32, mut step: impl FnMut(u64) -> Result<u64, String>) -> Result<Self, String> {
        let words = crate::sys::shared_words(2).during("mmap")?;
        let pid = sys::process::fork_with(flags, || {
            let mut done = 0;
            loop {
                let asked = words[0].load(Ordering::SeqCst);
                if asked != done {
                    done = asked;
                    match step(asked) {
                        Ok(answer) => words[1].store(answer, Ordering::SeqCst),
                        Err(why) => {
                            crate::complain(&format!("zoo: {why}"));
                            return 1;
                        }
                    }
                }
                std::thread::sleep(Duration::from_micros(500));
            }
        })
        .during("clone")?;
        child::keep(pid);
        Ok(Self { pid, words })
    }

    /// Asks for step `round`, which the answer may not be equal to.
    fn ask(&self, round: u64) -> Result<u64, String> {
        let (before, begun) = (self.words[1].load(Ordering::SeqCst), Instant::now());
        self.words[0].store(round, Ordering::SeqCst);
        loop {
            let answer = self.words[1].load(Ordering::SeqCst);
            if answer != before {
                return Ok(answer);
            }
            expect_alive(self.pid)?;
            if begun.elapsed() > PATIENCE {
                return Err("the other process does not answer".to_owned());
            }
            std::thread::yield_now();
        }
    }

    fn shares(&self, kind: i32) -> Checked {
        expect_eq("whether they share it", sys::process::same(getpid(), self.pid, kind).during("kcmp")?, true)
    }
}

/// A descriptor that one process opens the other has, too (`CLONE_FILES`).
fn shared_descriptors() -> Made {
    let at = path("opened");
    fs::write(&at, "content").during("write")?;
    // Each answer is the descriptor and, above, the round.
    let partner = Partner::start(libc::CLONE_FILES, move |round| {
        let fd = File::open(&at).during("open")?.into_raw_fd();
        Ok(round << 32 | u64::from(fd.cast_unsigned()))
    })?;
    let mut round = 0;
    made(move || {
        round += 1;
        partner.shares(FILES)?;
        let fd = i32::try_from(partner.ask(round)? & 0xffff_ffff).during("number")?;
        let mut text = String::new();
        let mut file = File::from(crate::sys::inherited(fd).during("the other's descriptor")?);
        expect_eq("descriptor", file.as_raw_fd(), fd)?;
        file.read_to_string(&mut text).during("read")?;
        // It is closed for both.
        drop(file);
        expect_eq("content", text.as_str(), "content")?;
        let gone = fs::exists(format!("/proc/{}/fd/{fd}", partner.pid)).during("look")?;
        expect_eq("whether the other still has it", gone, false)
    })
}

/// Where one process goes the other is, too, and the umask is of both (`CLONE_FS`).
fn shared_file_system_information() -> Made {
    let (here, there) = (path("here"), path("there"));
    fs::create_dir_all(&here).during("mkdir")?;
    fs::create_dir_all(&there).during("mkdir")?;
    let places = [here, there];
    let place = |round: u64| usize::from(round % 2 == 1);
    let goes = places.clone();
    let partner = Partner::start(libc::CLONE_FS, move |round| {
        chdir(&goes[place(round)]).during("chdir")?;
        umask(Mode::from_bits_retain(if place(round) == 0 { 0o027 } else { 0o072 }));
        Ok(round)
    })?;
    let mut round = 0;
    made(move || {
        round += 1;
        partner.shares(FS)?;
        partner.ask(round)?;
        let wanted = if place(round) == 0 { "0027" } else { "0072" };
        expect_eq("directory", std::env::current_dir().during("getcwd")?, places[place(round)].clone())?;
        expect_eq("umask", super::proc::status(getpid(), "Umask")?.as_str(), wanted)
    })
}
