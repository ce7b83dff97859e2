// SPDX-License-Identifier: Apache-2.0
//! A real migration against the model: the trace of both hosts is carried out once more by the pure functions of the handoff. What a side
//! did must be what they say, and what it was told must be what the model allows to happen: a message that the other side has sent, records
//! that it has written down, the answer to what it was doing. At no moment may both copies run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use migrate::migration::MigrationId;
use migrate::migration::handoff::{
    Destination, Effect, Event, Message, Record, Recorded, Side, Source, Traced, Tree, What,
};
use serde_json::Value;

/// What is read of a log; other lines are none of a handoff.
///
/// # Panics
/// When it cannot be read, or is not what `migrate` writes.
pub fn read_trace(log: &str) -> Vec<Traced> {
    let text = fs::read_to_string(log).expect("read the trace");
    let messages = text.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        line["msg"].as_str().unwrap_or_default().to_owned()
    });
    messages
        .filter_map(|message| Traced::of(&message).unwrap_or_else(|e| panic!("{message}: {e:?}")))
        .collect()
}

/// Carries a trace out once more; tells how many events there were.
///
/// # Errors
/// What differs, and where.
pub fn replay(trace: &[Traced]) -> Result<usize, String> {
    let mut pairs: BTreeMap<MigrationId, Pair> = BTreeMap::new();
    for (line, traced) in trace.iter().enumerate() {
        let pair = pairs.entry(traced.migration).or_insert_with(|| Pair::new(traced.migration));
        pair.see(traced).map_err(|why| format!("line {line} of the trace, {traced:?}: {why}"))?;
    }
    Ok(trace.iter().filter(|traced| matches!(traced.what, What::Event(_))).count())
}

/// Both sides of a migration, and what is between them.
struct Pair {
    sides: BTreeMap<bool, Half>,
    /// What each side has ever said: it may come at any time and any number of times.
    said: BTreeSet<(bool, Message)>,
    /// Whether the copy of a side may run.
    runs: BTreeMap<bool, bool>,
}

/// One side.
struct Half {
    new: State,
    /// By process: a new one begins anew.
    processes: BTreeMap<u32, Process>,
    records: Vec<Record>,
    /// Whether the last of them may not be there: who wrote it may have been killed.
    doubtful: bool,
}

/// A process of a side.
struct Process {
    state: State,
    /// What it has yet to do.
    due: Vec<Effect>,
    /// Whether the next event answers the last effect.
    asked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Source(Source),
    Destination(Destination),
}

impl State {
    fn step(self, event: Event) -> (Self, Vec<Effect>) {
        match self {
            Self::Source(state) => {
                let (next, effects) = state.step(event);
                (Self::Source(next), effects)
            }
            Self::Destination(state) => {
                let (next, effects) = state.step(event);
                (Self::Destination(next), effects)
            }
        }
    }
}

fn is_source(side: Side) -> bool {
    side == Side::Source
}

impl Pair {
    fn new(migration: MigrationId) -> Self {
        let half = |new| Half { new, processes: BTreeMap::new(), records: Vec::new(), doubtful: false };
        let source = half(State::Source(Source::new(migration)));
        let destination = half(State::Destination(Destination::new(migration)));
        Self {
            sides: [(true, source), (false, destination)].into(),
            said: BTreeSet::new(),
            runs: [(true, true), (false, false)].into(),
        }
    }

    fn see(&mut self, traced: &Traced) -> Result<(), String> {
        let source = is_source(traced.side);
        if let What::Event(Event::Message(message)) = &traced.what
            && !self.said.contains(&(!source, *message))
        {
            return Err("the other side has never said so".to_owned());
        }
        let half = self.sides.get_mut(&source).expect("both are there");
        match &traced.what {
            What::Event(event) => half.told(traced.process, event)?,
            What::Effect(effect) => {
                half.does(traced.process, *effect)?;
                self.follows(source, *effect)?;
            }
        }
        let frozen =
            matches!(traced.what, What::Event(Event::Tree(Tree::Frozen | Tree::Broken | Tree::Absent)));
        if frozen {
            self.runs.insert(source, false);
        }
        Ok(())
    }

    /// What an effect means to the other side.
    fn follows(&mut self, source: bool, effect: Effect) -> Result<(), String> {
        let other = self.sides.get(&!source).expect("both are there");
        match effect {
            Effect::Send(message) => drop(self.said.insert((source, message))),
            Effect::Thaw if self.runs[&!source] => return Err("the other copy runs".to_owned()),
            Effect::Thaw => drop(self.runs.insert(source, true)),
            Effect::KillTree => drop(self.runs.insert(source, false)),
            Effect::Journal(Record { epoch, what }) => {
                let (needs, of_other) = match (source, what) {
                    (true, Recorded::Committed) => (Recorded::Ready, true),
                    (false, Recorded::Live) => (Recorded::Committed, true),
                    (true, Recorded::Done) => (Recorded::Live, true),
                    _ => (what, false),
                };
                if of_other && !other.records.contains(&Record { epoch, what: needs }) {
                    return Err(format!("the other side has not written {needs} down"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Half {
    fn told(&mut self, number: u32, event: &Event) -> Result<(), String> {
        if let Event::Restart { records, .. } = event {
            self.begins_anew(number, records)?;
        }
        let new = self.new;
        let process =
            self.processes.entry(number).or_insert(Process { state: new, due: Vec::new(), asked: false });
        let answer = matches!(event, Event::Tree(_) | Event::Failed);
        if process.due.is_empty() && process.asked && !answer {
            return Err(format!("no answer to what {:?} has asked for", process.state));
        }
        let (state, due) = process.state.step(event.clone());
        process.asked = due.last().is_some_and(|last| {
            matches!(last, Effect::Freeze | Effect::RestoreFrozen(_) | Effect::LookAtTree | Effect::Thaw)
        });
        (process.state, process.due) = (state, due);
        Ok(())
    }

    /// A new process has what was written down; what was about to be may be there or not.
    fn begins_anew(&mut self, number: u32, found: &[Record]) -> Result<(), String> {
        let certain = &self.records[..self.records.len() - usize::from(self.doubtful)];
        let over = self
            .records
            .last()
            .is_some_and(|last| matches!(last.what, Recorded::Aborted | Recorded::Live | Recorded::Done));
        // One that is over is forgotten when the other side knows.
        if found != certain && found != self.records && !(over && found.is_empty()) {
            return Err(format!("it was written down: {:?}", self.records));
        }
        self.records = found.to_vec();
        self.doubtful = false;
        self.processes.remove(&number);
        Ok(())
    }

    fn does(&mut self, number: u32, effect: Effect) -> Result<(), String> {
        let process = self.processes.get_mut(&number).ok_or("nothing has happened to this process")?;
        let next = (!process.due.is_empty()).then(|| process.due.remove(0));
        if next != Some(effect) {
            return Err(format!("{:?} does {next:?}", process.state));
        }
        if let Effect::Journal(record) = effect {
            self.records.push(record);
            self.doubtful = true;
        }
        Ok(())
    }
}
