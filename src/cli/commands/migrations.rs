// SPDX-License-Identifier: Apache-2.0
//! `migrate migrations`.

use serde::Serialize;

use crate::Result;
use crate::cli::{Global, output};
use crate::migration::handoff::{Record, Recorded, Side};
use crate::migration::journal::{self, History};
use crate::migration::{Epoch, MigrationId};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
    /// Only this migration, with all that was written down; the beginning of its id is enough
    #[arg(value_name = "ID")]
    id: Option<String>,
}

/// A migration as it is printed.
#[derive(Debug, Serialize)]
struct Report {
    id: MigrationId,
    side: Side,
    /// Of several containers all, with commas between them.
    container: String,
    peer: String,
    /// The last thing that was written down; nothing before the handoff.
    phase: Option<Recorded>,
    epoch: Option<Epoch>,
    /// Since when it is in that phase.
    since: String,
    /// Whether it is decided where the container runs, and carried out here.
    over: bool,
    history: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    at: String,
    #[serde(flatten)]
    record: Record,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Report {
    fn of(history: &History) -> Self {
        let opened = history.opened();
        let last = history.last();
        Self {
            id: opened.migration,
            side: opened.side,
            container: opened.container.clone(),
            peer: opened.peer.clone(),
            phase: last.map(|(_, record, _)| record.what),
            epoch: last.map(|(_, record, _)| record.epoch),
            since: last.map_or(opened.at.as_str(), |(at, _, _)| at).to_owned(),
            over: history.is_over(),
            history: history
                .recorded()
                .into_iter()
                .map(|(at, record, reason)| Line {
                    at: at.to_owned(),
                    record,
                    reason: reason.map(str::to_owned),
                })
                .collect(),
        }
    }

    fn row(&self) -> Vec<String> {
        let phase = self.phase.map_or_else(|| "copying".to_owned(), |phase| phase.to_string());
        let cells =
            [&self.id.to_string(), &self.side.to_string(), &self.container, &self.peer, &phase, &self.since];
        cells.map(|cell| harmless(cell)).to_vec()
    }
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<()> {
        let root = global.state_root()?;
        let Some(wanted) = &self.id else {
            let mut reports = Vec::new();
            for id in journal::migrations(&root)? {
                match History::read(&root, id) {
                    Ok(history) => reports.push(Report::of(&history)),
                    // The others are listed all the same.
                    Err(error) => output::left_out(&error),
                }
            }
            return if self.json { output::json_line(&reports) } else { table(&reports) };
        };
        let report = Report::of(&History::read(&root, journal::find(&root, wanted)?)?);
        if self.json {
            return output::json(&report);
        }
        table(std::slice::from_ref(&report))?;
        let mut rows = vec![["AT", "ATTEMPT", "RECORD", "REASON"].map(str::to_owned).to_vec()];
        rows.extend(report.history.iter().map(|line| {
            let reason = line.reason.as_deref().map(harmless).unwrap_or_default();
            vec![harmless(&line.at), line.record.epoch.to_string(), line.record.what.to_string(), reason]
        }));
        output::text("\n").and_then(|()| output::table(&rows))
    }
}

fn table(reports: &[Report]) -> Result<()> {
    let mut rows = vec![["ID", "SIDE", "CONTAINER", "PEER", "PHASE", "SINCE"].map(str::to_owned).to_vec()];
    rows.extend(reports.iter().map(Report::row));
    output::table(&rows)
}

/// What another host has said of itself does nothing to a terminal.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
