// SPDX-License-Identifier: Apache-2.0
//! Waiting for facts. The one place that sleeps, between two looks.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// How long a fact may take to come true on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

const BETWEEN_LOOKS: Duration = Duration::from_millis(3);

/// Looks until `look` gives `Ok`, which is returned.
///
/// # Panics
/// When that does not happen within `deadline`; tells `what` was awaited and what was seen last.
pub fn wait_until<T, S: Debug>(deadline: Duration, what: &str, mut look: impl FnMut() -> Result<T, S>) -> T {
    let begin = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if begin.elapsed() > deadline => {
                panic!("{what}: not within {deadline:?}; last seen: {seen:?}")
            }
            Err(_) => std::thread::sleep(BETWEEN_LOOKS),
        }
    }
}
