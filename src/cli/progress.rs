// SPDX-License-Identifier: Apache-2.0
//! The bar on a terminal. Where stderr is none, nothing is drawn.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::archive::Progress;

/// Bytes done of bytes to do.
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// A bar with a word before it.
    pub(super) fn new(what: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let style =
            ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} eta {eta}")
                .expect("the template is a constant");
        bar.set_style(style);
        bar.set_message(what);
        Self(bar)
    }
}

impl Progress for Bar {
    fn total(&mut self, bytes: u64) {
        self.0.set_length(bytes);
        if self.0.is_hidden() {
            // There is something to show. indicatif draws nothing when stderr is no terminal.
            self.0.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    fn advance(&mut self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
