// SPDX-License-Identifier: Apache-2.0
//! What is printed: results to stdout, the error chain once to stderr.

use std::io::{self, Write};

use serde::Serialize;

use crate::{Context, Error, Result};

/// Prints text to stdout.
pub(super) fn text(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context(|| "write to stdout")
}

/// Prints a value as indented JSON.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    let mut bytes = serde_json::to_string_pretty(value).context(|| "serialise the answer")?;
    bytes.push('\n');
    text(&bytes)
}

/// Prints a value as JSON on one line.
pub(super) fn json_line(value: &impl Serialize) -> Result<()> {
    let mut bytes = serde_json::to_string(value).context(|| "serialise the answer")?;
    bytes.push('\n');
    text(&bytes)
}

/// Prints lines of cells as columns.
pub(super) fn table(rows: &[Vec<String>]) -> Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    // As wide as runc's: scripts cut them at fixed places.
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count() + 3);
        cells.max().unwrap_or(0).max(12)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}"));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    text(&out)
}

/// Tells on stderr of something that was left out of the answer.
pub(super) fn left_out(error: &Error) {
    // Without stderr there is nobody to tell.
    drop(io::stderr().write_all(format!("{}\n", error.chain()).as_bytes()));
}

/// Prints an error: the chain on one line, what could not be cleaned up, the remedy, and where it began for those who have
/// asked for backtraces.
pub(super) fn error(error: &Error) {
    let mut out = format!("error: {}\n", error.chain());
    for failed in error.cleanup_failures() {
        out.push_str(&format!("also: {}\n", failed.chain()));
    }
    if let Some(hint) = error.hint() {
        out.push_str(&format!("hint: {hint}\n"));
    }
    if let Some(backtrace) = error.backtrace() {
        out.push_str(&format!("backtrace:\n{backtrace}"));
    }
    // Without stderr there is nobody to tell.
    drop(io::stderr().write_all(out.as_bytes()));
}
