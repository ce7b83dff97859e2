// SPDX-License-Identifier: Apache-2.0
//! Which thread of a process is stopped for a moment: the one that notices least.

use std::io;

use nix::unistd::Pid;

use crate::sys::proc;

/// Threads that are looked at: a process may have thousands, and one is as good as another.
const LOOKED_AT: usize = 64;
/// Threads that are tried.
pub(super) const TRIED: usize = 4;

/// System calls that the kernel makes again by itself, with the rest of their time: nobody notices. futex, nanosleep, clock_nanosleep, by
/// their names here.
const UNNOTICED: [libc::c_long; 3] = [libc::SYS_futex, libc::SYS_nanosleep, libc::SYS_clock_nanosleep];

/// How much a thread would notice, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It waits where it goes on waiting.
    Unnoticed,
    /// It runs.
    Runs,
    /// It waits in another call, which is made again.
    Waits,
    /// It, or its process, is stopped already.
    Stopped,
    /// It waits where it may not be woken. Perhaps not for long.
    Busy,
}

/// The living threads of a process, those that are best to stop first.
pub(super) fn ranked(process: i32) -> io::Result<Vec<i32>> {
    let threads = proc::threads(process)?;
    let mut ranked: Vec<(Rank, i32)> =
        threads.into_iter().take(LOOKED_AT).filter_map(|thread| Some((rank(thread)?, thread))).collect();
    ranked.sort_unstable();
    Ok(ranked.into_iter().map(|(_, thread)| thread).collect())
}

fn rank(thread: i32) -> Option<Rank> {
    let stat = proc::Stat::of(Pid::from_raw(thread)).ok()?;
    if stat.ended() || stat.exiting() {
        return None;
    }
    let call = || proc::waits_in(thread).ok().flatten();
    Some(of(stat.state, call))
}

fn of(state: u8, call: impl Fn() -> Option<i64>) -> Rank {
    match state {
        b'R' => Rank::Runs,
        b'T' | b't' => Rank::Stopped,
        b'S' if call().is_some_and(|call| UNNOTICED.contains(&call)) => Rank::Unnoticed,
        b'S' => Rank::Waits,
        _ => Rank::Busy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_futex_is_first() {
        let futex = of(b'S', || Some(libc::SYS_futex));
        let read = of(b'S', || Some(libc::SYS_read));
        let (runs, busy) = (of(b'R', || None), of(b'D', || None));
        assert!(futex < runs && runs < read && read < of(b'T', || None) && read < busy);
    }

    #[test]
    fn our_own_are_found_and_nobody_has_none() {
        let own = nix::unistd::getpid().as_raw();
        assert!(ranked(own).expect("ours").contains(&nix::unistd::gettid().as_raw()));
        assert!(ranked(i32::MAX).expect("nobody").is_empty());
    }
}
