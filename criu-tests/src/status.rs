// SPDX-License-Identifier: Apache-2.0
//! A workload's report, read.

use std::collections::BTreeMap;
use std::fs;

/// One reading of a workload's status file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status(BTreeMap<String, String>);

impl Status {
    /// Reads the file, if it is there. It is always replaced as a whole.
    pub fn read(path: &str) -> Option<Self> {
        Some(Self::parse(&fs::read_to_string(path).ok()?))
    }

    /// Reads the file's text.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once('='));
        Self(lines.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    /// The value of a field that the workload reports.
    ///
    /// # Panics
    /// When it does not report it.
    #[track_caller]
    pub fn field(&self, key: &str) -> &str {
        self.0.get(key).unwrap_or_else(|| panic!("no {key} in {self:?}"))
    }

    /// Whether the workload reports this field.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// A field that is a number.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn number(&self, key: &str) -> u64 {
        let value = self.field(key);
        value.parse().unwrap_or_else(|e| panic!("{key} is {value:?}: {e}"))
    }

    /// How often the workload has ticked.
    #[track_caller]
    pub fn counter(&self) -> u64 {
        self.number("counter")
    }

    /// Asserts that everything the workload has checked was as it must be.
    ///
    /// # Panics
    /// When it was not; the workload's reason is told.
    #[track_caller]
    pub fn assert_ok(&self) {
        assert!(self.field("ok") == "yes", "the workload found a fault: {self:?}");
    }

    /// Asserts that this is a later report of the same process as `before`.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn assert_continues(&self, before: &Self) {
        for key in ["workload", "boot", "pid"] {
            assert!(self.field(key) == before.field(key), "{key} is another: {before:?} then {self:?}");
        }
        assert!(self.counter() > before.counter(), "the counter does not grow: {before:?} then {self:?}");
        self.assert_ok();
    }
}
