// SPDX-License-Identifier: Apache-2.0
//! How often a step that may be repeated is repeated: a few times without progress, with longer and longer pauses.

use std::time::Duration;

use crate::Error;

/// Failures in a row without progress, and failures in all, however much progress is between them.
const IN_A_ROW: u32 = 5;
const IN_ALL: u32 = 1000;

/// The first pause. Each further one is twice as long. Tests of failures see all of them.
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 100 });

/// Why a step did not come to its end.
pub(super) enum Failure {
    /// The connection, or the registry, broke down: it may work another time.
    Broken(Error),
    /// It will not work another time.
    Final(Error),
}

/// What is left of the attempts.
#[derive(Debug, Default)]
pub(super) struct Retries {
    in_a_row: u32,
    in_all: u32,
}

impl Retries {
    /// There was progress.
    pub(super) fn progress(&mut self) {
        self.in_a_row = 0;
    }

    /// Waits until it is time for another attempt; gives the error back when there have been enough.
    pub(super) fn another(&mut self, failure: Failure) -> crate::Result<()> {
        let error = match failure {
            Failure::Broken(error) => error,
            Failure::Final(error) => return Err(error),
        };
        if self.in_a_row == IN_A_ROW || self.in_all == IN_ALL {
            return Err(error);
        }
        tracing::debug!(error = %error.chain(), "one more attempt");
        std::thread::sleep(PAUSE * 2_u32.pow(self.in_a_row));
        self.in_a_row += 1;
        self.in_all += 1;
        Ok(())
    }
}
