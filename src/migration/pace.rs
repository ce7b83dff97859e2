// SPDX-License-Identifier: Apache-2.0
//! A limit to what is sent in a second: who has sent more waits. Must not know what is sent.

use std::time::{Duration, Instant};

/// What nobody has sent meanwhile may be sent later, but not more than that of so long.
const SAVED: Duration = Duration::from_millis(100);

/// The pace that is kept.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes a second; `None`: as fast as it goes.
    limit: Option<u64>,
    /// When all that was sent should have been sent.
    due: Instant,
}

impl Pace {
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self { limit: limit.filter(|limit| *limit > 0), due: Instant::now() }
    }

    /// So many bytes were sent: waits until they may have been.
    pub(super) fn keep(&mut self, bytes: usize) {
        if let Some(wait) = self.wait(bytes, Instant::now()) {
            std::thread::sleep(wait);
        }
    }

    fn wait(&mut self, bytes: usize, now: Instant) -> Option<Duration> {
        let limit = self.limit?;
        let earliest = now.checked_sub(SAVED).unwrap_or(now);
        self.due = self.due.max(earliest) + Duration::from_secs_f64(bytes as f64 / limit as f64);
        Some(self.due.saturating_duration_since(now)).filter(|wait| !wait.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_too_fast_waits_and_who_was_slow_does_not_make_up_for_all_of_it() {
        let mut pace = Pace::new(Some(1000));
        let begin = pace.due;
        assert_eq!(pace.wait(500, begin), Some(Duration::from_millis(500)));
        assert_eq!(pace.wait(100, begin + Duration::from_millis(550)), Some(Duration::from_millis(50)));
        let later = begin + Duration::from_secs(60);
        assert_eq!(pace.wait(50, later), None, "some was saved");
        assert_eq!(pace.wait(100, later), Some(Duration::from_millis(50)));
        assert_eq!(Pace::new(None).wait(usize::MAX, later), None);
        assert_eq!(Pace::new(Some(0)).wait(usize::MAX, later), None);
    }
}
