// SPDX-License-Identifier: Apache-2.0
//! `obstacle`: holds one thing (`--kind NAME`) that a checkpoint or a restore stumbles over, and ticks. What the failure
//! is explained as is the test's to see; here it only has to be in the way.

mod files;
mod processes;
mod sockets;

use std::any::Any;
use std::path::PathBuf;

use nix::unistd::Pid;

use crate::lifecycle::{Checked, Workload};
use crate::options::Options;

/// What an obstacle is made of, kept until the end.
type Held = Result<Box<dyn Any>, String>;

/// What an obstacle may want to know.
struct Place {
    /// A directory of its own.
    dir: PathBuf,
    /// `--at`: a path or a number that the test chose.
    at: Option<String>,
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn at(&self) -> Result<&str, String> {
        self.at.as_deref().ok_or_else(|| "--at is missing".to_owned())
    }
}

type Make = fn(&Place) -> Held;

const KINDS: &[&[(&str, Make)]] = &[files::KINDS, processes::KINDS, sockets::KINDS];

/// The workload.
pub(crate) struct Obstacle(Box<dyn Any>);

impl Obstacle {
    pub(crate) fn new(options: &Options) -> Result<Self, String> {
        let kind = options.value("kind").ok_or("--kind NAME is missing")?;
        let mut all = KINDS.iter().flat_map(|list| list.iter());
        let (_, make) = all.find(|(name, _)| *name == kind).ok_or_else(|| format!("no kind {kind}"))?;
        let place = Place { dir: options.dir()?, at: options.value("at").map(str::to_owned) };
        make(&place).map(Self).map_err(|why| format!("{kind}: {why}"))
    }
}

impl Workload for Obstacle {
    fn tick(&mut self, _tick: u64) -> Checked {
        Ok(())
    }

    fn children(&self) -> Vec<Pid> {
        self.0.downcast_ref::<Vec<Pid>>().cloned().unwrap_or_default()
    }
}
