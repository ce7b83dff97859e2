// SPDX-License-Identifier: Apache-2.0
//! What CRIU leaves out of a container's threads, written down beside its images (`threads.json`) and set again before they
//! run: processors, I/O priority, timer slack, and what goes into a process's core dump. What is as in any new thread is not
//! in the file.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

use super::image_files;
use crate::cgroup::Cgroup;
use crate::sys::proc::{innermost_id, threads};
use crate::sys::scheduling::{self, Affinity};
use crate::{Context, Error, ErrorKind, Result, spec, sys};

const FILE: &str = "threads.json";

/// The version of the file that this program writes.
const SCHEMA: u32 = 1;

/// A longer file is none.
const LIMIT: u64 = 64 << 20;

/// No kernel is built for more processors.
const MOST_PROCESSORS: u32 = 8192;

/// Of a new thread, in nanoseconds. Real-time threads have none.
const USUAL_TIMER_SLACK: [u64; 2] = [0, 50_000];

/// Of a new process (core(5)).
const USUAL_CORE_DUMP_FILTER: u32 = 0x33;

/// The settings of a container's threads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedThreads {
    schema: u32,
    threads: Vec<SavedThread>,
}

/// Those of one thread.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct SavedThread {
    /// As its pid namespace numbers it.
    id: i32,
    /// Those that it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    processors: Option<Vec<u32>>,
    /// Class and level as of ioprio_set(2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    io_priority: Option<u16>,
    /// In nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timer_slack: Option<u64>,
    /// Of its process, for a process's first thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    core_dump_filter: Option<u32>,
}

impl SavedThread {
    fn is_as_usual(&self) -> bool {
        *self == Self { id: self.id, ..Self::default() }
    }
}

impl SavedThreads {
    /// The settings of all threads in a cgroup, of which none may run.
    ///
    /// # Errors
    /// The cgroup or its threads cannot be listed.
    pub fn of(cgroup: &Cgroup) -> Result<Self> {
        let allowed = match cgroup.processors()? {
            Some(list) => list,
            None => sys::proc::online_processors().context(|| "read which processors are online")?,
        };
        // A list that is not understood is none that a thread could be compared with.
        let allowed = spec::parse_list(&allowed).ok();
        let mut saved = Self { schema: SCHEMA, threads: Vec::new() };
        for pid in cgroup.all_pids()? {
            let context = || format!("look at the threads of process {pid}");
            for thread in threads(pid).context(context)? {
                let mut found = settings(thread, allowed.as_deref());
                if thread == pid {
                    let filter = sys::proc::core_dump_filter(pid).ok();
                    found.core_dump_filter = filter.filter(|filter| *filter != USUAL_CORE_DUMP_FILTER);
                }
                if !found.is_as_usual()
                    && let Some(id) = innermost_id(thread).context(context)?
                {
                    saved.threads.push(SavedThread { id, ..found });
                }
            }
        }
        Ok(saved)
    }

    /// Writes them into an image directory, where there are any.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, images: BorrowedFd<'_>) -> Result<()> {
        if self.threads.is_empty() {
            // That of an earlier checkpoint in the same directory must not be taken for this one's.
            return image_files::remove(images, FILE);
        }
        let bytes =
            serde_json::to_vec(self).context(|| "serialise the settings of the container's threads")?;
        image_files::write(images, FILE, &bytes)
    }

    /// Reads them from an image directory; `None` if there are none.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] for what no checkpoint of ours has written.
    pub fn read(images: BorrowedFd<'_>) -> Result<Option<Self>> {
        image_files::read(images, FILE, LIMIT)?.map(|bytes| Self::parse(&bytes)).transpose()
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let saved: Self = serde_json::from_slice(bytes).context_kind(ErrorKind::InvalidArchive, || {
            format!("understand the settings of the checkpoint's threads, {FILE}")
        })?;
        let refused = |why: String| {
            let message = format!("{FILE}: the settings of the checkpoint's threads {why}");
            Err(Error::new(ErrorKind::InvalidArchive, message))
        };
        if saved.schema != SCHEMA {
            return refused(format!("have schema {}, this program knows {SCHEMA}", saved.schema));
        }
        let numbers = |thread: &SavedThread| thread.processors.clone().unwrap_or_default();
        match saved.threads.iter().flat_map(numbers).find(|number| *number >= MOST_PROCESSORS) {
            Some(number) => refused(format!("name processor {number}")),
            None => Ok(saved),
        }
    }

    /// Sets them for the threads in a cgroup, which do not run yet. `helper` is a process in it that is not one of them. What
    /// this host does not take is a warning.
    ///
    /// # Errors
    /// The cgroup or its threads cannot be listed.
    pub fn set(&self, cgroup: &Cgroup, helper: i32) -> Result<()> {
        let here: HashMap<i32, i32> = cgroup.tasks_by_innermost_id(helper)?;
        for saved in &self.threads {
            let Some(thread) = here.get(&saved.id).copied() else { continue };
            let processors = saved.processors.as_deref().map(Affinity::of);
            let told = |setting: &str, result: Option<io::Result<()>>| {
                if let Some(Err(error)) = result {
                    tracing::warn!(thread = saved.id, %error, "{setting} of a thread not restored");
                }
            };
            told("the processors", processors.map(|processors| processors.set_of(thread)));
            told(
                "the I/O priority",
                saved.io_priority.map(|value| scheduling::set_io_priority_of(thread, value)),
            );
            told("the timer slack", saved.timer_slack.map(|value| sys::proc::set_timer_slack(thread, value)));
            let filter = saved.core_dump_filter;
            told("the core dump filter", filter.map(|value| sys::proc::set_core_dump_filter(thread, value)));
        }
        Ok(())
    }
}

/// What is not as usual. What cannot be asked is nothing to keep: a thread that has ended has no settings.
fn settings(thread: i32, allowed: Option<&[u32]>) -> SavedThread {
    let processors = Affinity::of_thread(thread).ok().map(|affinity| affinity.numbers());
    let io_priority = scheduling::io_priority_of(thread).ok();
    let timer_slack = sys::proc::timer_slack(thread).ok();
    SavedThread {
        processors: processors.filter(|numbers| allowed.is_some_and(|allowed| allowed != numbers)),
        // Without a class it follows the nice value, which CRIU restores.
        io_priority: io_priority.filter(|value| scheduling::has_io_class(*value)),
        timer_slack: timer_slack.filter(|slack| !USUAL_TIMER_SLACK.contains(slack)),
        ..SavedThread::default()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_was_written_reads_back() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fd = std::fs::File::open(dir.path()).expect("open");
        let bound = SavedThread { id: 7, processors: Some(vec![0, 3]), ..SavedThread::default() };
        let saved = SavedThreads { schema: SCHEMA, threads: vec![bound] };
        saved.write(fd.as_fd()).expect("write");
        let text = std::fs::read_to_string(dir.path().join(FILE)).expect("read");
        assert_eq!(text, r#"{"schema":1,"threads":[{"id":7,"processors":[0,3]}]}"#);
        assert_eq!(SavedThreads::read(fd.as_fd()).expect("read"), Some(saved));
        let none = SavedThreads { schema: SCHEMA, threads: Vec::new() };
        none.write(fd.as_fd()).expect("the old file goes");
        assert_eq!(SavedThreads::read(fd.as_fd()).expect("read"), None);
    }

    #[test]
    fn hostile_settings_are_refused() {
        for text in [
            "",
            "{}",
            r#"{"schema": 2, "threads": []}"#,
            r#"{"schema": 1, "threads": [{"processors": [1]}]}"#,
            r#"{"schema": 1, "threads": [{"id": 1, "processors": [8192]}]}"#,
            r#"{"schema": 1, "threads": [{"id": 1, "processors": [-1]}]}"#,
            r#"{"schema": 1, "threads": [{"id": 1, "io_priority": 65536}]}"#,
        ] {
            let error = SavedThreads::parse(text.as_bytes()).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidArchive, "{text}");
        }
    }

    #[test]
    fn a_thread_is_compared_with_what_it_may_have() {
        let own = std::thread::spawn(|| {
            let own = nix::unistd::gettid().as_raw();
            let numbers = Affinity::of_thread(own).expect("its processors").numbers();
            assert_eq!(settings(own, Some(&numbers)).processors, None);
            assert_eq!(settings(own, None).processors, None);
            scheduling::set_io_priority_of(own, 3 << 13).expect("idle");
            (settings(own, Some(&[])), numbers)
        });
        let (found, numbers) = own.join().expect("the thread");
        assert_eq!((found.processors, found.io_priority), (Some(numbers), Some(3 << 13)));
    }
}
