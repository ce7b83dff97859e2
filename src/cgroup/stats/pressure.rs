// SPDX-License-Identifier: Apache-2.0
//! Pressure: how long tasks stood still for want of something. Source: kernel accounting/psi.rst.

use serde::{Deserialize, Serialize};

use super::super::directory::Directory;
use super::text;
use crate::Result;

/// Shares of time in which tasks stood still.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PressureStats {
    /// At least one did.
    pub some: Pressure,
    /// All of them did.
    pub full: Pressure,
}

/// A share of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pressure {
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last minute.
    pub avg60: f64,
    /// Percent of the last five minutes.
    pub avg300: f64,
    /// Microseconds since the cgroup was made.
    pub total: u64,
}

/// `None` where the kernel does not account it.
pub(super) fn read(directory: &Directory, file: &str) -> Result<Option<PressureStats>> {
    Ok(text(directory, file)?.filter(|text| !text.is_empty()).map(|text| parse(&text)))
}

fn parse(text: &str) -> PressureStats {
    let mut stats = PressureStats::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let pressure = match words.next() {
            Some("some") => &mut stats.some,
            Some("full") => &mut stats.full,
            _ => continue,
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let share = || value.parse().unwrap_or_default();
            match key {
                "avg10" => pressure.avg10 = share(),
                "avg60" => pressure.avg60 = share(),
                "avg300" => pressure.avg300 = share(),
                "total" => pressure.total = value.parse().unwrap_or_default(),
                _ => {}
            }
        }
    }
    stats
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines() {
        let stats = parse(
            "some avg10=1.71 avg60=2.36 avg300=2.57 total=230548833\nfull avg10=0.00 avg60=0.10 avg300=0.00 total=7\n",
        );
        assert_eq!(stats.some, Pressure { avg10: 1.71, avg60: 2.36, avg300: 2.57, total: 230_548_833 });
        assert_eq!(stats.full, Pressure { avg10: 0.0, avg60: 0.1, avg300: 0.0, total: 7 });
    }
}
