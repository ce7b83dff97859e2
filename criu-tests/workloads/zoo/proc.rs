// SPDX-License-Identifier: Apache-2.0
//! What `/proc` says of a process, and numbers that stay what they were set to.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;

use nix::unistd::Pid;

use super::{Child, Made, made};
use crate::lifecycle::{Checked, During as _, expect_eq};

/// A file in `/proc` that is held open. A restore opens it anew, and then it has another number.
pub(super) struct Witness {
    file: File,
    number: (u64, u64),
}

impl Witness {
    pub(super) fn new(at: &str) -> Result<Self, String> {
        let file = File::open(at).during(at)?;
        Ok(Self { number: number(&file)?, file })
    }

    /// Whether there has been a restore since.
    pub(super) fn was_restored(&self) -> Result<bool, String> {
        Ok(number(&self.file)? != self.number)
    }
}

fn number(file: &File) -> Result<(u64, u64), String> {
    file.metadata().map(|of| (of.dev(), of.ino())).during("fstat")
}

/// What a file in `/proc` says. The kernel writes it anew for each of several reads: when there was a restore between two
/// of them, the halves do not fit together, and the file is read again.
pub(super) fn text(at: &str) -> Result<String, String> {
    loop {
        let mut text = String::new();
        let mut witness = Witness::new(at)?;
        let read = witness.file.read_to_string(&mut text).during(at);
        if !witness.was_restored()? {
            return read.map(|_| text);
        }
    }
}

/// A file of a process or thread: `read(pid, "status")`.
pub(super) fn read(pid: Pid, name: &str) -> Result<String, String> {
    text(&format!("/proc/{pid}/{name}"))
}

/// A line of `status`, its words with one blank between them.
pub(super) fn status(pid: Pid, key: &str) -> Result<String, String> {
    let text = read(pid, "status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let line = line.ok_or_else(|| format!("/proc/{pid}/status has no {key}"))?;
    Ok(line.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The fields of `stat` from the state (the third of proc_pid_stat(5)) on.
pub(super) fn stat(pid: Pid) -> Result<Vec<String>, String> {
    let text = read(pid, "stat")?;
    let (_, fields) = text.rsplit_once(')').ok_or("a stat without a name")?;
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}

/// Parent, process group and session.
pub(super) fn relations(pid: Pid) -> Result<[Pid; 3], String> {
    let fields = stat(pid)?;
    let number = |at: usize| fields[at].parse().map(Pid::from_raw).during("stat");
    Ok([number(1)?, number(2)?, number(3)?])
}

/// An exhibit that is no more than something that is read and must stay what it is.
pub(super) fn stays<T: PartialEq + std::fmt::Debug + Clone + 'static>(
    what: &'static str,
    must_be: T,
    mut read: impl FnMut() -> Result<T, String> + 'static,
) -> Made {
    let first = read()?;
    expect_eq(what, first, must_be.clone())?;
    made(move || expect_eq(what, read()?, must_be.clone()))
}

/// An exhibit that a child has and its parent has not: the child's stays `must_be`, the parent's what it was.
pub(super) fn of_a_child(
    set: impl FnOnce() -> Checked,
    read: impl Fn() -> Result<String, String> + Copy + 'static,
    must_be: &'static str,
) -> Made {
    let own = read()?;
    if own == must_be {
        return Err(format!("the parent has {own} too"));
    }
    let mut child = Child::start(move || {
        set()?;
        Ok(move |_: &str| read())
    })?;
    made(move || {
        child.expect("the child's", must_be)?;
        expect_eq("the parent's", read()?, own.clone())
    })
}
