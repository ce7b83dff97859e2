// SPDX-License-Identifier: Apache-2.0
//! The table of `docs/differences-from-runc.md`.

use std::collections::BTreeSet;
use std::fmt;

const DOCUMENT: &str = include_str!("../../../docs/differences-from-runc.md");
const HEAD: &str = "| case | where | runc | migrate | why |";

/// A row of the table, without the reason.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Difference {
    /// The name of the case.
    pub(crate) case: String,
    /// `exit code`, `error`, `stdout`, or a path in JSON.
    pub(crate) place: String,
    pub(crate) runc: String,
    pub(crate) migrate: String,
}

impl Difference {
    /// Whether this row, of any case, is that difference.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let place = other.place.rsplit(": ").next().unwrap_or_default();
        (self.place.as_str(), &self.runc, &self.migrate) == (place, &other.runc, &other.migrate)
    }
}

impl fmt::Display for Difference {
    /// As a row, for whoever has to write the reason.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cell = |text: &str| match text {
            "" => "nothing".to_owned(),
            text => format!("`{}`", text.replace('|', "\\|").replace('\n', " / ")),
        };
        write!(
            f,
            "| {} | {} | {} | {} | why |",
            self.case,
            cell(&self.place),
            cell(&self.runc),
            cell(&self.migrate)
        )
    }
}

/// Every row.
///
/// # Panics
/// When a row has not its five columns, or no reason.
pub(crate) fn all() -> Vec<Difference> {
    let rows =
        DOCUMENT.lines().skip_while(|line| *line != HEAD).skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|line| {
        let cells: Vec<String> = line.replace("\\|", "\u{0}").split('|').map(cell).collect();
        let [_, case, place, runc, migrate, why, _] = cells.as_slice() else {
            panic!("not five columns: {line}")
        };
        assert!(why.len() > 3 && why != "why", "a difference without a reason: {line}");
        Difference { case: case.clone(), place: place.clone(), runc: runc.clone(), migrate: migrate.clone() }
    })
    .collect()
}

/// The rows of a case.
pub(crate) fn of(case: &str) -> BTreeSet<Difference> {
    all().into_iter().filter(|row| row.case == case).collect()
}

fn cell(text: &str) -> String {
    let text = text.trim();
    if text == "nothing" { String::new() } else { text.trim_matches('`').replace('\u{0}', "|") }
}
