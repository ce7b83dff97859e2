// SPDX-License-Identifier: Apache-2.0
//! The tokens that a container takes ([`Tokens::OPTION`] of the workload `counter`), seen from outside of every host. Each is taken once:
//! a second copy, or one that goes back to what it was before, takes one again.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::stage::Stage;

/// A file that several hosts have.
#[derive(Debug)]
pub struct Tokens {
    directory: String,
}

impl Tokens {
    /// The workload's option.
    pub const OPTION: [&str; 2] = ["--tokens", "/tokens/taken"];

    /// None is taken yet.
    ///
    /// # Panics
    /// When the file cannot be made.
    pub fn new(stage: &Stage) -> Self {
        let new = Self { directory: stage.path("tokens") };
        fs::create_dir(&new.directory).and_then(|()| fs::write(new.file(), "")).expect("make a file");
        new
    }

    /// What gives a container the file.
    pub fn mount(&self) -> Value {
        json!({"destination": "/tokens", "type": "bind", "source": self.directory, "options": ["bind", "rw"]})
    }

    /// The argument of `--map-mount` with which it has it at the destination as well.
    pub fn mapped(&self) -> String {
        format!("/tokens={}", self.directory)
    }

    /// How many have been taken.
    ///
    /// # Panics
    /// When one was taken twice, or not at all.
    #[track_caller]
    pub fn taken(&self) -> usize {
        let tokens = self.read();
        if let Some(pair) = tokens.windows(2).find(|pair| pair[1].0 != pair[0].0 + 1) {
            panic!("not one copy: after token {} came {}, {:?} later", pair[0].0, pair[1].0, gap(pair));
        }
        tokens.len()
    }

    /// The longest time without a token.
    pub fn longest_gap(&self) -> Duration {
        self.read().windows(2).map(gap).max().unwrap_or_default()
    }

    fn read(&self) -> Vec<(u64, u64)> {
        let text = fs::read_to_string(self.file()).expect("read the tokens");
        // What is behind the last newline is being written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let number = |text: &str| text.parse().unwrap_or_else(|e| panic!("{text:?} in {}: {e}", self.file()));
        whole
            .lines()
            .map(|line| line.split_once(' ').unwrap_or((line, "")))
            .map(|(token, time)| (number(token), number(time)))
            .collect()
    }

    fn file(&self) -> String {
        format!("{}/taken", self.directory)
    }
}

fn gap(pair: &[(u64, u64)]) -> Duration {
    Duration::from_nanos(pair[1].1.saturating_sub(pair[0].1))
}
