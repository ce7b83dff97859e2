// SPDX-License-Identifier: Apache-2.0
//! From a failure of CRIU's to its cause, the evidence and the remedy. Pure: it reads the log and the [`Context`] that it
//! is given, asks nobody and changes nothing; it does not know how a container is checkpointed.
//!
//! ```text
//!  criu::Failure{log, end} ─▶ lines ─▶ errors, the likeliest first ─▶ the first rule that fits one ─▶ Diagnosis
//!                                             Context ──────────────────────┘
//! ```
//!
//! The rules ([`RULES`]) are data, a file for each concern beneath `rules/`; `docs/diagnoses.md` shows all of them. A
//! rule names a line of CRIU's by the words of its format string, so that what varies in it (a path, a number) is taken
//! from the line and stands in our sentence. CRIU reports a failure again on each level that it passes: only what was
//! said first is the cause, in a restore what the restored process said first.

mod context;
mod evidence;
mod pattern;
mod render;
mod rules;
#[cfg(test)]
mod tests;

pub use context::{Context, OpenFile, Process};
pub use evidence::Evidence;
pub use rules::{If, Jobs, RULES, Rule, remedy};

use crate::criu::{Failure, Job};
use crate::{Error, ErrorKind};
use evidence::Candidate;
use pattern::Captures;

/// Errors of one log that are looked at; the rest are echoes.
const LOOKED_AT: usize = 64;
/// Lines before an error in which the reason for it may stand.
const BEFORE: usize = 100;

/// What a failure comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The rule that fits.
    pub rule: &'static str,
    /// One sentence, in our words.
    pub cause: String,
    /// What it is seen in.
    pub evidence: Evidence,
    /// What helps: a flag, a command, a change.
    pub remedy: String,
}

/// The cause of a failed job, from what CRIU logged; `None` if no rule knows it.
pub fn explain(job: Job, log: &[u8], context: &Context) -> Option<Diagnosis> {
    let lines = evidence::read(log);
    let candidates = evidence::candidates(&lines, job);
    let certain = candidates.iter().take(LOOKED_AT).find_map(|candidate| {
        let rules = RULES.iter().flat_map(|list| list.iter()).filter(|rule| !rule.last_resort);
        first_that_fits(rules, job, candidate, &lines, context)
    });
    certain.or_else(|| {
        let rules = RULES.iter().flat_map(|list| list.iter()).filter(|rule| rule.last_resort);
        first_that_fits(rules, job, candidates.first()?, &lines, context)
    })
}

fn first_that_fits(
    mut rules: impl Iterator<Item = &'static Rule>,
    job: Job,
    candidate: &Candidate<'_>,
    lines: &[evidence::Line<'_>],
    context: &Context,
) -> Option<Diagnosis> {
    rules.find_map(|rule| {
        let captures = fits(rule, job, candidate, lines, context)?;
        Some(render::diagnosis(rule, candidate, &captures, context))
    })
}

fn fits<'a>(
    rule: &Rule,
    job: Job,
    candidate: &Candidate<'a>,
    lines: &[evidence::Line<'a>],
    context: &Context,
) -> Option<Captures<'a>> {
    if !rule.jobs.include(job) || !rule.only.holds(context) {
        return None;
    }
    let mut captures = rule.seen.iter().find_map(|seen| pattern::matches(seen, candidate.text))?;
    if let Some(before) = rule.after {
        let start = candidate.index.saturating_sub(BEFORE);
        let earlier = lines.get(start..candidate.index).unwrap_or_default().iter().rev();
        let found = earlier.map(|line| line.text).find_map(|text| pattern::matches(before, text))?;
        captures.extend(found);
    }
    Some(captures)
}

/// The same failure with its cause, its evidence and its remedy, if `error` is one of CRIU's and a rule knows it; other
/// errors as they are. `context` is asked only then.
#[must_use]
pub fn explained(error: Error, context: impl FnOnce() -> Context) -> Error {
    let source = std::error::Error::source(&error);
    let Some(failure) = source.and_then(|source| source.downcast_ref::<Failure>()) else { return error };
    let context = context();
    let Some(diagnosis) = explain(failure.job(), &failure.words(), &context) else { return error };
    tracing::debug!(rule = diagnosis.rule, evidence = ?diagnosis.evidence, "the failure is known");
    let log = failure.log_path().map(|path| format!(" (criu's log: {})", path.display()));
    let hint = format!("{}{}", diagnosis.remedy, log.unwrap_or_default());
    let kind = if error.kind() == ErrorKind::Storage { ErrorKind::Storage } else { ErrorKind::CriuFailed };
    let quoted = failure.quoted(&diagnosis.evidence.sentence);
    Error::new(kind, diagnosis.cause).with_source(quoted).with_hint(hint)
}
