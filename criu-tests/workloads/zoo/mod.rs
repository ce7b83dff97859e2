// SPDX-License-Identifier: Apache-2.0
//! `zoo`: one kernel object, held and verified (`--exhibit NAME`). `--list` prints the names of all;
//! `--make NAME` tells whether this kernel lets it be made, where no file is needed for that.
//!
//! ```text
//!   Exhibit{ name, make } ── make() ──▶ Box<dyn Check> ── check() on every tick ──▶ report
//! ```
//! An exhibit makes its object once and then looks at it on every tick: what the kernel says about it (content, offset,
//! flags, owner) and that it still does what it is for (a lock excludes, a timer fires). It must not repair what it
//! finds. A closure is a [`Check`]; a second process is a [`Child`]; files lie at [`path`]; [`held`] makes and
//! compares files.
//!
//! Each exhibit has a row in `tests/zoo`. Unsafe code is in [`sys`] only.

mod advice;
mod attributes;
mod child;
mod clan;
mod credentials;
mod events;
mod files;
mod futexes;
mod held;
mod inet_sockets;
mod ipc;
mod limits;
mod limits_processes;
mod locks;
mod memfds;
mod memory;
mod names;
mod namespaces;
mod pipes;
mod proc;
mod processes;
mod registers;
mod scheduling;
mod seccomp;
mod sharing;
mod signals;
mod sys;
mod terminals;
mod threads;
mod timers;
mod unix_sockets;
mod waits;

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::OnceLock;

use nix::unistd::Pid;

use child::Child;

use crate::lifecycle::{Checked, During as _, Workload};
use crate::options::Options;

/// Something that can be verified, again and again.
pub(crate) trait Check {
    /// Verifies all of it; the text says what is not as it must be.
    fn check(&mut self) -> Checked;
}

impl<F: FnMut() -> Checked> Check for F {
    fn check(&mut self) -> Checked {
        self()
    }
}

/// What the making of an exhibit gives.
pub(crate) type Made = Result<Box<dyn Check>, String>;

/// The check of an exhibit that was made.
#[expect(clippy::unnecessary_wraps, reason = "the last line of each `make`")]
fn made(check: impl Check + 'static) -> Made {
    Ok(Box::new(check))
}

/// A kernel object that can be shown.
pub(crate) struct Exhibit {
    pub(crate) name: &'static str,
    pub(crate) make: fn() -> Made,
}

/// `exhibits![a, b]`: those that the functions `a` and `b` make.
macro_rules! exhibits {
    ($($make:ident),* $(,)?) => {
        pub(super) const EXHIBITS: &[super::Exhibit] =
            &[$(super::Exhibit { name: stringify!($make), make: $make }),*];
    };
}
use exhibits;

/// All of them, by file.
const HOUSES: &[&[Exhibit]] = &[
    advice::EXHIBITS,
    attributes::EXHIBITS,
    credentials::EXHIBITS,
    events::EXHIBITS,
    files::EXHIBITS,
    futexes::EXHIBITS,
    inet_sockets::EXHIBITS,
    ipc::EXHIBITS,
    limits::EXHIBITS,
    limits_processes::EXHIBITS,
    locks::EXHIBITS,
    memfds::EXHIBITS,
    memory::EXHIBITS,
    names::EXHIBITS,
    namespaces::EXHIBITS,
    pipes::EXHIBITS,
    processes::EXHIBITS,
    registers::EXHIBITS,
    scheduling::EXHIBITS,
    seccomp::EXHIBITS,
    sharing::EXHIBITS,
    signals::EXHIBITS,
    terminals::EXHIBITS,
    threads::EXHIBITS,
    timers::EXHIBITS,
    unix_sockets::EXHIBITS,
    waits::EXHIBITS,
];

static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();

/// The path of a file of the exhibit's own.
fn path(name: &str) -> PathBuf {
    DIRECTORY.get().map_or_else(|| PathBuf::from("/"), PathBuf::clone).join(name)
}

/// The exhibit that is shown.
pub(crate) struct Zoo(Box<dyn Check>);

impl Zoo {
    pub(crate) fn new(options: &Options) -> Result<Self, String> {
        let name = options.value("exhibit").ok_or("--exhibit NAME is missing")?;
        DIRECTORY.get_or_init(|| options.dir().unwrap_or_default());
        make(name).map(Self)
    }
}

/// Makes an exhibit, and looks at it once.
pub(crate) fn try_to_make(name: &str) -> Checked {
    make(name)?.check()
}

fn make(name: &str) -> Made {
    let exhibit = HOUSES.iter().flat_map(|house| house.iter()).find(|exhibit| exhibit.name == name);
    let exhibit = exhibit.ok_or_else(|| format!("there is no exhibit {name}"))?;
    (exhibit.make)().map_err(|why| format!("{name}: {why}"))
}

impl Workload for Zoo {
    fn tick(&mut self, _tick: u64) -> Checked {
        self.0.check()
    }

    fn children(&self) -> Vec<Pid> {
        child::all()
    }
}

/// Prints the names of all exhibits, one a line.
pub(crate) fn list() -> Checked {
    let names: Vec<_> = HOUSES.iter().flat_map(|house| house.iter()).map(|exhibit| exhibit.name).collect();
    writeln!(std::io::stdout(), "{}", names.join("\n")).during("write to stdout")
}
