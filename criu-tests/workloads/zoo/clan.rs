// SPDX-License-Identifier: Apache-2.0
//! Processes that tell, over and over, in memory that all share, who they are: their own view is compared with what it
//! was and with what `/proc` says.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::unistd::{Pid, getpgrp, getpid, getppid, getsid};

use super::{child, proc};
use crate::lifecycle::{Checked, During as _, PATIENCE, expect_eq};
use crate::sys;

const WORDS: usize = 5;
const STEP: Duration = Duration::from_millis(2);

/// The shared words of all members.
#[derive(Clone, Copy)]
pub(super) struct Clan(&'static [AtomicU64]);

/// Who a member is: its process id, parent, process group and session.
pub(super) type Member = [Pid; 4];

impl Clan {
    /// Places for `size` members.
    pub(super) fn new(size: usize) -> Result<Self, String> {
        sys::shared_words(size * WORDS).map(Self).during("mmap")
    }

    /// Forks a process that prepares itself and takes a place, from which it does not come back.
    pub(super) fn fork(self, place: usize, prepare: impl FnOnce() -> Checked) -> Result<Pid, String> {
        let pid = sys::fork(|| match prepare() {
            Ok(()) => self.live(place),
            Err(why) => {
                crate::complain(&format!("zoo: member {place}: {why}"));
                1
            }
        })
        .during("fork")?;
        child::keep(pid);
        Ok(pid)
    }

    /// The life of a member.
    pub(super) fn live(self, place: usize) -> i32 {
        loop {
            let Ok(session) = getsid(None) else { return 1 };
            let ids = [getpid(), getppid(), getpgrp(), session];
            for (word, id) in self.words(place)[1..].iter().zip(ids) {
                word.store(u64::from(id.as_raw().cast_unsigned()), Ordering::SeqCst);
            }
            self.words(place)[0].fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(STEP);
        }
    }

    fn words(self, place: usize) -> &'static [AtomicU64] {
        &self.0[place * WORDS..][..WORDS]
    }

    fn beats(self, place: usize) -> u64 {
        self.words(place)[0].load(Ordering::SeqCst)
    }

    fn size(self) -> usize {
        self.0.len() / WORDS
    }

    /// Waits until each member has told twice more: once may have been under way.
    pub(super) fn goes_on(self) -> Checked {
        let begun = Instant::now();
        for (place, before) in (0..self.size()).map(|place| self.beats(place)).enumerate().collect::<Vec<_>>()
        {
            while self.beats(place) < before + 2 {
                if begun.elapsed() > PATIENCE {
                    return Err(format!("member {place} does not go on"));
                }
                std::thread::sleep(STEP / 4);
            }
        }
        Ok(())
    }

    /// What the member at a place tells.
    pub(super) fn member(self, place: usize) -> Member {
        let id = |at: usize| {
            let id = self.words(place)[at].load(Ordering::SeqCst);
            Pid::from_raw(i32::try_from(id).unwrap_or(-1))
        };
        [id(1), id(2), id(3), id(4)]
    }

    /// What all tell, when they have told.
    pub(super) fn members(self) -> Result<Vec<Member>, String> {
        self.goes_on()?;
        Ok((0..self.size()).map(|place| self.member(place)).collect())
    }

    /// All go on, and each is who it was, by its own word and by `/proc`.
    pub(super) fn same(self, known: &[Member]) -> Checked {
        expect_eq("who the members are", self.members()?.as_slice(), known)?;
        for [pid, parent, group, session] in known {
            expect_eq("relations in /proc", proc::relations(*pid)?, [*parent, *group, *session])?;
        }
        Ok(())
    }
}
