// SPDX-License-Identifier: Apache-2.0
//! When it is time to stop the processes: one pure function of what the rounds before have found. Must not know how memory is sent.

use std::time::Duration;

/// What a migration takes, whatever the memory: CRIU's work on both sides, about, and what is said between them.
const FIXED: Duration = Duration::from_millis(100);

/// A round that does not at least halve what was written does little: after so many of those it is enough.
const IDLE: usize = 2;

/// Nobody is slowed down to less than this part at once, nor to more.
const SHARES: std::ops::RangeInclusive<f64> = 0.05..=0.5;

/// Who writes to all that it uses in each round writes more than is seen: it is slowed down to this part at most.
const UNSEEN: f64 = 0.2;

/// What the caller wants of the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundLimits {
    /// At most so many; with 0 memory is only sent while the processes stand still.
    pub most: u32,
    /// How long the processes may stand still, if that can be had.
    pub downtime: Duration,
    /// Whether they are slowed down if it cannot.
    pub auto_converge: bool,
    /// Bytes that may be sent in a second while they run.
    pub bandwidth: Option<u64>,
    /// At most so many of files, besides one at the end; with 0 the root filesystem is only sent while the processes stand still.
    pub files: u32,
}

impl Default for RoundLimits {
    fn default() -> Self {
        Self {
            most: 30,
            downtime: Duration::from_millis(300),
            auto_converge: false,
            bandwidth: None,
            files: 5,
        }
    }
}

/// A round as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Measured {
    /// Bytes that were found written to.
    pub(super) dirty: u64,
    /// Bytes that were sent, without zeros.
    pub(super) sent: u64,
    /// How long it took to send them.
    pub(super) took: Duration,
}

/// What to do when a round has been made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Advice {
    /// Another round.
    Again,
    /// Stop the processes: what will be left is sent in time.
    Stop,
    /// Stop them: more rounds bring nothing.
    StopLate,
}

/// What to do after these rounds, of which the first has found all memory.
pub(super) fn advice(rounds: &[Measured], limits: RoundLimits) -> Advice {
    let Some(last) = rounds.last() else { return Advice::Again };
    if rounds.len() as u64 >= limits.most.into() {
        return if left(rounds).is_some_and(|left| predicted(left, rounds) <= limits.downtime) {
            Advice::Stop
        } else {
            Advice::StopLate
        };
    }
    // What was written while all was sent is not known before the second.
    let Some(left) = left(rounds) else { return Advice::Again };
    if left == 0 || predicted(left, rounds) <= limits.downtime {
        return Advice::Stop;
    }
    let idle = rounds.windows(2).skip(1).rev();
    let idle = idle
        .take_while(|pair| matches!(pair, [before, after] if after.dirty.saturating_mul(2) > before.dirty));
    let grows = matches!(rounds, [_, .., before, _] if rounds.len() > 2 && last.dirty > before.dirty);
    if grows || idle.count() >= IDLE { Advice::StopLate } else { Advice::Again }
}

/// To which part of its processor time a container is to be slowed down that writes more than can be sent: so that a round leaves
/// less than half of the one before.
pub(super) fn share(rounds: &[Measured]) -> f64 {
    let [.., before, last] = rounds else { return *SHARES.start() };
    let (wrote_in, sent_in) = (before.took.as_secs_f64(), last.took.as_secs_f64());
    let (written, sent) = (last.dirty as f64 / wrote_in, last.sent as f64 / sent_in);
    let share = 0.4 * sent / written;
    // Without a number there is nothing to go by.
    let share = if share.is_nan() { *SHARES.end() } else { share };
    let seen = last.dirty < before.dirty / 10 * 9;
    if seen { share } else { share.min(UNSEEN) }.clamp(*SHARES.start(), *SHARES.end())
}

/// What will have been written to when the processes are stopped: as much as in the last round for each second, but not more than
/// that in all.
fn left(rounds: &[Measured]) -> Option<u64> {
    let [.., before, last] = rounds else { return None };
    let (wrote_in, sent_in) = (before.took.as_secs_f64(), last.took.as_secs_f64());
    if wrote_in <= 0.0 {
        return Some(last.dirty);
    }
    Some(((last.dirty as f64 * sent_in / wrote_in) as u64).min(last.dirty))
}

/// How long the processes will stand still with so many bytes to be sent.
fn predicted(left: u64, rounds: &[Measured]) -> Duration {
    let sent: u64 = rounds.iter().map(|round| round.sent).sum();
    let took: Duration = rounds.iter().map(|round| round.took).sum();
    if left == 0 || took.is_zero() {
        return FIXED;
    }
    let bandwidth = (sent as f64 / took.as_secs_f64()).max(1.0);
    Duration::try_from_secs_f64(left as f64 / bandwidth)
        .map_or(Duration::MAX, |time| time.saturating_add(FIXED))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Rounds of so many MiB each over a link of so many MiB a second.
    fn rounds(link: u64, dirty: &[u64]) -> Vec<Measured> {
        let round = |mib: &u64| Measured {
            dirty: mib * MIB,
            sent: mib * MIB,
            took: Duration::from_secs_f64(*mib as f64 / link as f64),
        };
        dirty.iter().map(round).collect()
    }

    fn of(link: u64, dirty: &[u64]) -> Advice {
        advice(&rounds(link, dirty), RoundLimits::default())
    }

    #[test]
    fn it_stops_as_soon_as_the_rest_is_sent_in_time() {
        assert_eq!(of(1000, &[]), Advice::Again);
        assert_eq!(of(1000, &[1024]), Advice::Again);
        // 10 MiB in a second; 0.1 MiB in the hundredth that those take.
        assert_eq!(of(1000, &[1024, 10]), Advice::Stop);
        // 10 MiB a second link: 100 s, then 10 s, and 10 MiB would still be written.
        assert_eq!(of(10, &[1000, 100]), Advice::Again);
        assert_eq!(of(10, &[1000, 100, 10]), Advice::Stop);
        assert_eq!(of(10, &[1000, 0]), Advice::Stop);
        assert_eq!(of(10, &[0, 0]), Advice::Stop);
    }

    #[test]
    fn it_stops_when_what_is_written_does_not_shrink() {
        assert_eq!(of(10, &[1000, 500, 600]), Advice::StopLate);
        assert_eq!(of(10, &[1000, 500, 400]), Advice::Again);
        assert_eq!(of(10, &[1000, 500, 400, 300]), Advice::StopLate);
        assert_eq!(of(10, &[1000, 500, 400, 190]), Advice::Again);
        // The first has found all memory: the second cannot have found more, but for new processes.
        assert_eq!(of(10, &[1000, 1000]), Advice::Again);
    }

    #[test]
    fn who_writes_too_much_is_slowed_down_as_far_as_it_takes() {
        // Two fifths of what is sent shall be written then. What grows or stays is at its limit.
        for (before, last, expected) in
            [(100, 80, 0.5), (100, 100, 0.2), (100, 400, 0.1), (10, 100, 0.05), (100, 10, 0.5)]
        {
            let share = share(&rounds(10, &[before, last]));
            assert!((share - expected).abs() < 0.001, "{before}, {last}: {share}");
        }
        let stuck = Measured { dirty: 0, sent: 0, took: Duration::ZERO };
        assert!((share(&[stuck; 2]) - UNSEEN).abs() < 0.001 && (share(&[]) - 0.05).abs() < 0.001);
    }

    #[test]
    fn there_is_an_end() {
        let limits = RoundLimits { most: 3, ..RoundLimits::default() };
        assert_eq!(advice(&rounds(10, &[1000, 400, 150]), limits), Advice::StopLate);
        assert_eq!(advice(&rounds(10, &[1000, 400]), limits), Advice::Again);
        let limits = RoundLimits { most: 1, ..limits };
        assert_eq!(advice(&rounds(10, &[1000]), limits), Advice::StopLate);
        let none = RoundLimits { downtime: Duration::ZERO, ..RoundLimits::default() };
        assert_eq!(advice(&rounds(1000, &[1024, 10, 1]), none), Advice::Again);
        assert_eq!(advice(&rounds(1000, &[1024, 10, 0]), none), Advice::Stop);
    }

    #[test]
    fn a_link_that_sends_nothing_is_no_reason_to_wait_for_ever() {
        let stuck = Measured { dirty: MIB, sent: 0, took: Duration::from_secs(1) };
        assert_eq!(advice(&[stuck, stuck], RoundLimits::default()), Advice::Again);
        assert_eq!(advice(&[stuck; 4], RoundLimits::default()), Advice::StopLate);
    }
}
