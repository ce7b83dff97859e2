// SPDX-License-Identifier: Apache-2.0
//! What slows a container down that writes more than can be sent: less processor time, by steps, until it stands still or goes on here.
//! Must not know what is sent.

use std::time::Instant;

use super::predictor::{Measured, share};
use crate::Result;
use crate::cgroup::CpuBandwidth;
use crate::engine::Container;

/// In microseconds: so long does nobody stand still between two turns.
const PERIOD: u64 = 100_000;

/// The least quota that the kernel takes, in microseconds.
const LEAST: u64 = 1_000;

/// So often it is slowed down further.
const STEPS: u32 = 4;

/// The brake. Dropped, it lets go; after a death of this process the next command does.
#[derive(Debug)]
pub(super) struct Brake {
    container: Container,
    steps: u32,
    quota: Option<u64>,
    /// When, and how much processor time it had used by then, in nanoseconds.
    seen: Option<(Instant, u64)>,
    /// How many processors it kept busy between the last two looks.
    busy: f64,
}

impl Brake {
    /// One that is not applied.
    pub(super) fn of(container: Container) -> Self {
        Self { container, steps: 0, quota: None, seen: None, busy: 0.0 }
    }

    pub(super) fn container(&self) -> &Container {
        &self.container
    }

    /// Looks how much the container does; to be called between rounds.
    pub(super) fn look(&mut self) {
        let Ok(stats) = self.container.stats() else { return };
        let now = (Instant::now(), stats.cpu.usage.total);
        if let Some((when, used)) = self.seen.replace(now) {
            let time = now.0.duration_since(when).as_nanos() as f64;
            self.busy = now.1.saturating_sub(used) as f64 / time.max(1.0);
        }
    }

    /// Slows it down, as far as these rounds ask for; whether that was possible.
    pub(super) fn slow_down(&mut self, rounds: &[Measured]) -> bool {
        self.look();
        let quota = ((self.busy * share(rounds) * PERIOD as f64) as u64).max(LEAST);
        if self.steps >= STEPS || self.quota.is_some_and(|before| quota >= before) {
            return false;
        }
        match self.apply(quota) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(error = error.chain(), "the container cannot be slowed down");
                false
            }
        }
    }

    fn apply(&mut self, quota: u64) -> Result<()> {
        self.container.throttle(CpuBandwidth { quota: Some(quota), period: PERIOD })?;
        (self.steps, self.quota) = (self.steps + 1, Some(quota));
        tracing::info!(id = %self.container.id(), processors = self.processors(), "the container is slowed down");
        Ok(())
    }

    /// To how many processors' time it is limited.
    pub(super) fn processors(&self) -> Option<f64> {
        self.quota.map(|quota| quota as f64 / PERIOD as f64)
    }
}

impl Drop for Brake {
    fn drop(&mut self) {
        if self.quota.is_none() {
            return;
        }
        if let Err(error) = self.container.unthrottle() {
            tracing::warn!(error = error.chain(), "the container stays slowed down until the next command");
        }
    }
}
