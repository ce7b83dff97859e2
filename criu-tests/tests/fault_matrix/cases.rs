// SPDX-License-Identifier: Apache-2.0
//! What can happen, and when: the columns and rows of the matrix, and those of them that a run takes.

use std::fmt;

use criu_tests::{End, in_full};
use migrate::pages::track;

/// When it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// This is on its way.
    Said(End, &'static str),
    /// The source has written this down.
    Source(&'static str),
    /// The destination has written this down.
    Destination(&'static str),
    /// The destination has begun to restore.
    Restoring,
}

use Step::{Destination as There, Restoring, Said, Source as Here};

pub(crate) const STEPS: [Step; 18] = [
    Said(End::Source, "hello"),
    Said(End::Destination, "hello"),
    Said(End::Source, "offer"),
    Said(End::Destination, "answer"),
    Said(End::Source, "begin"),
    Said(End::Source, "pages"),
    Here("begun"),
    Said(End::Source, "memories"),
    Said(End::Source, "archive"),
    Said(End::Source, "archive end"),
    Said(End::Source, "FINAL"),
    Restoring,
    Said(End::Destination, "READY"),
    Said(End::Source, "COMMIT"),
    There("committed"),
    There("live"),
    Said(End::Destination, "DONE"),
    Said(End::Source, "settled"),
];

impl Step {
    fn number(self) -> usize {
        STEPS.iter().position(|step| *step == self).expect("one of them")
    }

    pub(crate) fn is_before(self, other: Step) -> bool {
        self.number() < other.number()
    }

    fn is_said(self) -> bool {
        matches!(self, Said(..))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Said(End::Source, what) => write!(f, "source says {what}"),
            Said(End::Destination, what) => write!(f, "destination says {what}"),
            Here(what) => write!(f, "source has written {what}"),
            There(what) => write!(f, "destination has written {what}"),
            Restoring => f.write_str("destination restores"),
        }
    }
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Sender,
    Receiver,
    Both,
    SourceCriu,
    DestinationCriu,
    Provider,
    Cut,
    Lose,
    LoseAnswers,
    Delay,
    Late,
    Full,
    Refuse,
}

pub(crate) const FAULTS: [Fault; 13] = [
    Fault::Sender,
    Fault::Receiver,
    Fault::Both,
    Fault::SourceCriu,
    Fault::DestinationCriu,
    Fault::Provider,
    Fault::Cut,
    Fault::Lose,
    Fault::LoseAnswers,
    Fault::Delay,
    Fault::Late,
    Fault::Full,
    Fault::Refuse,
];

impl Fault {
    fn number(self) -> usize {
        FAULTS.iter().position(|fault| *fault == self).expect("one of them")
    }

    /// Whether it can happen then.
    fn happens_at(self, step: Step) -> bool {
        if matches!(step, Said(_, "pages" | "memories")) && track::supported().is_err() {
            return false;
        }
        let from = |first| !step.is_before(first);
        match self {
            Self::Sender | Self::Receiver | Self::Both => true,
            // Before, and after, there is none.
            Self::SourceCriu => from(Here("begun")) && step != Said(End::Source, "settled"),
            Self::DestinationCriu => step == Restoring,
            Self::Provider => from(Restoring),
            Self::Cut | Self::Lose | Self::LoseAnswers | Self::Delay | Self::Late => step.is_said(),
            Self::Full => from(Said(End::Source, "begin")),
            Self::Refuse => !from(There("committed")),
        }
    }

    /// Whether who receives cannot remove what has come.
    pub(crate) fn kills_the_receiver(self) -> bool {
        matches!(self, Self::Receiver | Self::Both)
    }

    /// Whether whoever decides is killed with it, so that an operator has to go on.
    pub(crate) fn needs_an_operator(self, step: Step) -> bool {
        match self {
            Self::Sender | Self::Both => !step.is_before(Here("begun")),
            // What is decided cannot be written down there.
            Self::Full => !step.is_before(Said(End::Destination, "READY")),
            _ => false,
        }
    }

    /// Whether the container may be lost with it: by CRIU, as it takes hold of the processes, or since its memory has not come, as with
    /// `restore --lazy-pages`.
    pub(crate) fn may_lose(self, step: Step) -> Option<&'static str> {
        match self {
            Self::SourceCriu if step.is_before(Said(End::Source, "archive")) => {
                Some("lost with criu, as it took hold of it")
            }
            Self::Provider if !step.is_before(Said(End::Source, "COMMIT")) => {
                Some("ended: its memory had not come when who brings it was killed")
            }
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sender => "kill -9 `migrate to`",
            Self::Receiver => "kill -9 `migrate receive`",
            Self::Both => "kill -9 both",
            Self::SourceCriu => "kill -9 criu at the source",
            Self::DestinationCriu => "kill -9 criu at the destination",
            Self::Provider => "kill -9 who brings memory",
            Self::Cut => "connection cut",
            Self::Lose => "half cut, what is said is lost",
            Self::LoseAnswers => "half cut, answers are lost",
            Self::Delay => "delayed by half a second",
            Self::Late => "comes after a new connection",
            Self::Full => "destination's disk is full",
            Self::Refuse => "destination cannot restore it any more",
        })
    }
}

/// The steps at which this run has it happen: all, or so many that each fault and each step is there once, the same in each run.
pub(crate) fn chosen(fault: Fault) -> Vec<Step> {
    let possible = |fault: Fault| STEPS.into_iter().filter(move |step| fault.happens_at(*step));
    if in_full() {
        return possible(fault).collect();
    }
    let mut taken: [Vec<Step>; FAULTS.len()] = Default::default();
    let mut random = Random(0x6d69_6772);
    for step in STEPS.into_iter().filter(|step| FAULTS[0].happens_at(*step)) {
        // Of those that have the fewest.
        let able = FAULTS.into_iter().filter(|fault| fault.happens_at(step));
        let least = able.min_by_key(|fault| (taken[fault.number()].len(), random.next()));
        taken[least.expect("something can always happen").number()].push(step);
    }
    for fault in FAULTS {
        let steps = &mut taken[fault.number()];
        if steps.is_empty() {
            let possible: Vec<_> = possible(fault).collect();
            steps.push(possible[usize::try_from(random.next()).unwrap_or(0) % possible.len()]);
        }
    }
    std::mem::take(&mut taken[fault.number()])
}

/// The same numbers in each run.
struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }
}
