// SPDX-License-Identifier: Apache-2.0
//! One memory that is tracked: how it comes to be, and what of it was written to. Knows nothing of other processes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::maps::{Area, Maps};
use super::threads;
use crate::sys::arch;
use crate::sys::pagemap::{Backing, Pagemap, Pages};
use crate::sys::remote_memory;
use crate::sys::tracee::{Failure, Step, Tracee, take_userfaultfd};
use crate::sys::write_tracking::WriteTracking;
use crate::{Context, Error, ErrorKind, Result};

/// How often a memory is looked at again that changes while it is looked at.
const LOOKS: usize = 8;

/// A memory, by descriptors that stay its own when the process executes another program, and who has it.
#[derive(Debug)]
pub(super) struct Tracked {
    /// The process that was asked.
    pub(super) process: i32,
    /// A thread of it.
    pub(super) thread: i32,
    /// Other processes that were seen to have the same memory.
    pub(super) sharers: Vec<i32>,
    /// How long a thread stood still for it; taken by the first round.
    pub(super) adopted: Option<Duration>,
    tracking: WriteTracking,
    maps: File,
    pagemap: Pagemap,
}

/// What one look has found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) written: Vec<Range<u64>>,
    pub(super) untracked: Vec<Range<u64>>,
}

impl Tracked {
    /// Begins to track the memory of a process; `None` if it has none any more. It runs on, whatever happens.
    pub(super) fn adopt(process: i32, patience: Duration) -> Result<Option<Self>> {
        let doing = || format!("track the memory of process {process}");
        let begin = Instant::now();
        let candidates = threads::ranked(process).context(doing)?;
        let mut failed = None;
        for thread in candidates.into_iter().take(threads::TRIED) {
            let left = patience.saturating_sub(begin.elapsed());
            let share = (patience / 2).min(left);
            if share.is_zero() {
                break;
            }
            let mut asked = Self::ask(process, thread, share);
            while matches!(&asked, Err(Refused::Traced(failure)) if failure.step == Step::Section)
                && begin.elapsed() < patience
            {
                asked = Self::ask(process, thread, share);
            }
            match asked {
                Ok(tracked) => return Ok(tracked),
                // It has ended; another may live.
                Err(Refused::Traced(failure)) if failure.step == Step::Gone => {}
                Err(Refused::Traced(failure)) => failed = Some(explain(process, failure)),
                Err(Refused::Other(error)) => return Err(error),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    fn ask(process: i32, thread: i32, limit: Duration) -> std::result::Result<Option<Self>, Refused> {
        let opened = || -> io::Result<_> {
            let maps = File::open(format!("/proc/{thread}/maps"))?;
            Ok((Pagemap::open(thread)?, Maps::read(&maps)?, maps))
        };
        let (pagemap, now, maps) = match opened() {
            Err(e) if is_gone(&e) => return Ok(None),
            other => other.context(|| format!("read the mappings of process {process}"))?,
        };
        if now.is_empty() {
            return Ok(None);
        }
        let instruction = now.vdso.and_then(|vdso| instruction(thread, &vdso)).ok_or_else(|| {
            let message = format!(
                "process {process} has no vDSO with a system call, through which its memory is tracked"
            );
            Error::new(ErrorKind::Unsupported, message)
        })?;
        let taken = take_userfaultfd(Tracee { thread, process, instruction }, limit)?;
        let tracking =
            WriteTracking::begin(taken.userfaultfd).map_err(|error| too_old().with_source(error))?;
        // Had it executed another program between, the descriptors were of two memories; then the first look finds one of them gone.
        let adopted = Some(taken.stood);
        Ok(Some(Self { process, thread, sharers: Vec::new(), adopted, tracking, maps, pagemap }))
    }

    /// Whether it is still there: it goes when the process ends, or executes another program.
    pub(super) fn is_there(&self) -> bool {
        self.maps.read_at(&mut [0], 0).is_ok_and(|read| read > 0)
    }

    /// Whether it is the memory that its process has now. It is asked of processes that stand still: one that has executed another program
    /// while a stranger had its old memory, too, has other mappings.
    pub(super) fn is_of_its_process(&self) -> io::Result<bool> {
        let now = File::open(format!("/proc/{}/maps", self.process))?;
        let (mine, its) = (Maps::read(&self.maps)?, Maps::read(&now)?);
        Ok(!mine.is_empty() && mine == its)
    }

    /// What was written to since the last look, and since then tracked anew; `None` when the memory is gone.
    ///
    /// After an error it is not known what was written to.
    pub(super) fn look(&self) -> io::Result<Option<Found>> {
        let mut found = Found::default();
        'again: for _ in 0..LOOKS {
            let maps = Maps::read(&self.maps)?;
            if maps.is_empty() {
                return Ok(None);
            }
            found.untracked = maps.shared;
            for area in &maps.private {
                match self.take(area) {
                    Ok(written) => found.written.extend(written),
                    // A userfaultfd of the process's own has it, or it is of a kind that cannot be tracked; or is gone by now.
                    Err(e) if matches!(e.raw_os_error(), Some(libc::EBUSY | libc::EINVAL)) => {
                        found.untracked.push(area.range.clone());
                    }
                    // The memory is gone, which the mappings then say.
                    Err(e) if matches!(e.raw_os_error(), Some(libc::ENOMEM | libc::ESRCH)) => continue 'again,
                    Err(e) => return Err(e),
                }
            }
            found.written = merged(found.written);
            return Ok(Some(found));
        }
        Err(io::Error::other("its mappings and its memory do not fit together"))
    }

    /// Where it has pages: its own in private mappings, any in shared ones. Nothing changes.
    pub(super) fn populated(&self) -> io::Result<Vec<Range<u64>>> {
        let maps = Maps::read(&self.maps)?;
        let mut found = Vec::new();
        for area in &maps.private {
            self.pagemap.scan(&area.range, area.backing, Pages::Own, &mut found)?;
        }
        for range in &maps.shared {
            self.pagemap.scan(range, Backing::File, Pages::Any, &mut found)?;
        }
        Ok(merged(found))
    }

    /// Takes what was written to in a mapping; all of it, if some of it is new.
    fn take(&self, area: &Area) -> io::Result<Vec<Range<u64>>> {
        let is_new = |e: &io::Error| e.raw_os_error() == Some(libc::EPERM);
        let mut written = Vec::new();
        let mut taken = self.pagemap.scan(&area.range, area.backing, Pages::Written, &mut written);
        for _ in 0..LOOKS {
            match taken {
                // What was taken before the kernel came to the new part was not told: it is all told again.
                Err(e) if is_new(&e) => {
                    written.clear();
                    self.tracking.register(&area.range)?;
                    taken = self.pagemap.scan(&area.range, area.backing, Pages::All, &mut written);
                }
                _ => break,
            }
        }
        taken.map(|()| written)
    }
}

/// In order, without what is there twice; what adjoins is one.
fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// Why a thread could not be asked.
enum Refused {
    Traced(Failure),
    Other(Error),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Traced(failure)
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// The address of an instruction for a system call in the vDSO.
fn instruction(thread: i32, vdso: &Range<u64>) -> Option<u64> {
    const MOST: u64 = 64 << 10;
    let length = usize::try_from((vdso.end - vdso.start).min(MOST)).ok()?;
    let mut code = vec![0; length];
    let read = remote_memory::read(thread, std::slice::from_ref(vdso), &mut code).ok()?;
    let code = code.get(..read)?;
    let at = code.windows(arch::CALL.len()).position(|window| window == arch::CALL)?;
    Some(vdso.start + at as u64)
}

pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// What a kernel lacks that cannot do this.
pub(super) fn too_old() -> Error {
    let message =
        "the kernel does not note which pages are written to (userfaultfd with WP_ASYNC, PAGEMAP_SCAN)";
    Error::new(ErrorKind::Unsupported, message)
        .with_hint("use Linux 6.7 or newer, with CONFIG_USERFAULTFD and CONFIG_PROC_PAGE_MONITOR")
}

fn explain(process: i32, failure: Failure) -> Error {
    let (kind, hint) = match (failure.step, failure.errno) {
        (Step::Attach, libc::EPERM) => {
            let hint = "a process that another program traces (strace, gdb, a checkpoint) cannot be tracked: see TracerPid in \
                        /proc/PID/status; else CAP_SYS_PTRACE and CAP_SYS_ADMIN are needed";
            (ErrorKind::PermissionDenied, hint)
        }
        (Step::Stop, _) => {
            let hint =
                "it waits in the kernel (state D in /proc/PID/status) or is frozen: try again when it runs";
            (ErrorKind::WrongStatus, hint)
        }
        (Step::Foreign | Step::Dispatch, _) => (
            ErrorKind::Unsupported,
            "programs of 32 bits and those that emulate system calls cannot be tracked",
        ),
        (Step::Call, libc::ENOSYS) => (ErrorKind::Unsupported, "use a kernel with CONFIG_USERFAULTFD"),
        (Step::Call, libc::EMFILE) => {
            (ErrorKind::System, "it has as many descriptors as it may have: raise its limit with prlimit(1)")
        }
        _ => (ErrorKind::System, "it runs on as before: try again"),
    };
    Error::new(kind, format!("cannot track the memory of process {process}"))
        .with_source(failure)
        .with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_put_in_order() {
        assert_eq!(merged(vec![5..7, 1..3, 2..4, 4..5, 9..10]), [1..7, 9..10]);
        assert!(merged(Vec::new()).is_empty());
    }
}
