// SPDX-License-Identifier: Apache-2.0
//! All that was found, the verdict that follows, and both as text for people and as JSON.

use std::collections::BTreeSet;

use serde::Serialize;

use super::finding::gathered;
use super::{Finding, Given, HostRow, Severity, Standing};
use crate::{Error, ErrorKind, Result};

/// The version of the JSON form: fields may be added to it without another number.
const SCHEMA: u32 = 1;
/// Width of the first two columns of the text, in characters.
const COLUMNS: (usize, usize) = (12, 20);

/// Whether a checkpoint can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it is.
    Ready,
    /// With the flags that the report names.
    ReadyWithFlags,
    /// Not before something is changed.
    NotPossible,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Report {
    schema: u32,
    /// What follows from the rest.
    pub verdict: Verdict,
    /// The flags that `checkpoint` needs, each once.
    pub flags: Vec<String>,
    /// The host, one row a fact.
    pub host: Vec<HostRow>,
    /// What was found in the configuration and the container, the worst first.
    pub findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(host: Vec<HostRow>, findings: Vec<Finding>) -> Self {
        let findings = gathered(findings);
        let flags: BTreeSet<_> = findings.iter().filter_map(|finding| finding.flag).collect();
        let blocked = host.iter().any(|row| row.standing == Standing::Blocker)
            || findings.iter().any(|finding| finding.severity == Severity::Blocker);
        let verdict = match (blocked, flags.is_empty()) {
            (true, _) => Verdict::NotPossible,
            (false, false) => Verdict::ReadyWithFlags,
            (false, true) => Verdict::Ready,
        };
        let flags = flags.into_iter().map(|flag| flag.to_string()).collect();
        Self { schema: SCHEMA, verdict, flags, host, findings }
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |first: &str, second: &str, rest: &str| {
            let (one, two) = COLUMNS;
            text.push_str(format!("{first:<one$}{second:<two$}{rest}").trim_end());
            text.push('\n');
        };
        for row in &self.host {
            line(row.standing.word(), row.name, &row.value);
            for more in [&row.cause, &row.remedy].into_iter().filter(|more| !more.is_empty()) {
                line("", "", more);
            }
        }
        for finding in &self.findings {
            let word = match finding.severity {
                Severity::Blocker => "BLOCKER",
                Severity::NeedsFlag => "needs flag",
                Severity::Note => "note",
            };
            line(word, finding.rule, &finding.subject());
            for more in [&finding.cause, &finding.remedy].into_iter().filter(|more| !more.is_empty()) {
                line("", "", more);
            }
        }
        let verdict = match self.verdict {
            Verdict::Ready => "ready".to_owned(),
            Verdict::ReadyWithFlags => format!("ready with {}", self.flags.join(" ")),
            Verdict::NotPossible => "not possible".to_owned(),
        };
        line("RESULT", "checkpoint", &verdict);
        text
    }
}

/// Refuses a checkpoint with these flags because of what was found, all of it.
///
/// # Errors
/// [`ErrorKind::Undumpable`], naming each finding that is in the way.
pub fn refuse(found: Vec<Finding>, given: &Given) -> Result<()> {
    let in_the_way: Vec<Finding> =
        gathered(found).into_iter().filter(|finding| finding.is_in_the_way_of(given)).collect();
    if in_the_way.is_empty() {
        return Ok(());
    }
    let told: Vec<String> =
        in_the_way.iter().map(|finding| format!("{}: {}", finding.subject(), finding.cause)).collect();
    let remedies: BTreeSet<&str> = in_the_way.iter().map(|finding| finding.remedy.as_str()).collect();
    let remedies: Vec<&str> = remedies.into_iter().filter(|remedy| !remedy.is_empty()).collect();
    let error = Error::new(ErrorKind::Undumpable, told.join("; "));
    Err(if remedies.is_empty() { error } else { error.with_hint(remedies.join("; ")) })
}
