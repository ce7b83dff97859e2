// SPDX-License-Identifier: Apache-2.0
//! That a container runs before its memory is there, and who brings it: a file in its directory, which goes when all of it is
//! there. Knows processes; must not know where memory comes from.

use std::path::Path;

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::container::Container;
use super::state::{Creator, InitProcess, read_record, remove_record, replace_file};
use crate::{Context, Error, ErrorKind, Result};

const FILE: &str = "memory.json";

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutstandingMemory {
    /// Where the memory comes from, for messages.
    pub source: String,
    /// The processes that provide it: the first one works, the other one keeps the descriptors if it dies.
    pub providers: Vec<Creator>,
    /// Why it will never be whole.
    pub failed: Option<String>,
}

impl OutstandingMemory {
    /// Writes it into a container's directory, or the newer one over the older.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(self).context(|| "serialise the record of outstanding memory")?;
        replace_file(&dir.join(FILE), &bytes)
    }

    /// All memory is there.
    ///
    /// # Errors
    /// When the record cannot be removed.
    pub fn remove(dir: &Path) -> Result<()> {
        remove_record(&dir.join(FILE))
    }

    /// A process that provides memory, as it is written down: this one.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn this_process() -> Result<Creator> {
        Creator::this()
    }

    /// Another one.
    ///
    /// # Errors
    /// When there is none.
    pub fn process(pid: i32) -> Result<Creator> {
        InitProcess::of(Pid::from_raw(pid)).map(|InitProcess { pid, start_time }| Creator { pid, start_time })
    }

    fn read(dir: &Path) -> Result<Option<Self>> {
        read_record(&dir.join(FILE))
    }
}

impl Container {
    /// What is known of memory that is not there; `None` when all of it is.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn outstanding_memory(&self) -> Result<Option<OutstandingMemory>> {
        OutstandingMemory::read(self.dir())
    }

    /// Makes sure that all its memory is there. What reads the memory of its processes would find zeros else.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`] when it is not yet, or never will be.
    pub(super) fn require_whole_memory(&self) -> Result<()> {
        let (message, hint) = if let Some(why) = self.lost_memory()? {
            (why, "remove the container with `migrate delete --force` and restore it again")
        } else if let Some(memory) = self.outstanding_memory()? {
            (format!("its memory is still being read from {}", memory.source), "try again in a moment")
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::WrongStatus, message).with_hint(hint))
    }

    /// Why its memory will never be whole; `None` when it is or will be.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn lost_memory(&self) -> Result<Option<String>> {
        let Some(OutstandingMemory { source, providers, failed }) = self.outstanding_memory()? else {
            return Ok(None);
        };
        if let Some(reason) = failed {
            return Ok(Some(format!("its memory from {source} is not complete: {reason}")));
        }
        // The other one is there to end the container, which it may not have come to. They may have ended between the two looks,
        // having done their work.
        if providers.first().is_some_and(|process| process.is_alive()) || self.outstanding_memory()?.is_none()
        {
            return Ok(None);
        }
        Ok(Some(format!("what read its memory from {source} was killed: parts of it are lost")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_there_until_it_is_removed() {
        let dir = tempfile::tempdir().expect("tempdir");
        assert_eq!(OutstandingMemory::read(dir.path()).expect("none"), None);
        let providers = vec![OutstandingMemory::this_process().expect("this one")];
        let memory = OutstandingMemory { source: "a.tar".into(), providers, failed: None };
        memory.write(dir.path()).expect("write");
        assert_eq!(OutstandingMemory::read(dir.path()).expect("one"), Some(memory));
        OutstandingMemory::remove(dir.path()).expect("remove");
        OutstandingMemory::remove(dir.path()).expect("it is gone already");
        assert_eq!(OutstandingMemory::read(dir.path()).expect("none"), None);
    }
}
